"""From the tags as a file writes them to the tags that are used: scheme found, labels mapped, faults repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from ebmstruct.errors import DataError
from ebmstruct_nlp.schemes import BILOU, BIO, BIOES, BMES, IOB1, OUTSIDE, PLAIN, Scheme, SpanScheme, Tag, scheme_named

STRAY_OUTSIDE: Mapping[str, str | None] = {OUTSIDE: OUTSIDE}
"""``B-O`` becomes ``O``: annotation tools leave it behind where a span was taken back."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """Tags of all sentences in their final form: BIO where the scheme has spans, as they are where it has none."""

    tags: list[tuple[Tag, ...]]
    scheme: Scheme
    labels: dict[str, int]
    mapped: dict[str, int]
    unannotated: int
    repaired: int


def settle(
    raw: Sequence[Sequence[Tag]],
    *,
    scheme: str,
    labels: Mapping[str, str | None],
    unannotated: str | None,
    place: Callable[[int, int], str],
) -> Tagged:
    """Map, check, repair and count the raw tags of all sentences.

    unannotated: the tag that stands for None. place: ``file:line`` of (sentence, site), called on a fault only.
    O(tokens), with the costly work once per distinct tag.
    """
    counts = Counter(chain.from_iterable(raw))
    found = _detect(raw, counts) if scheme == "auto" else scheme_named(scheme)
    final: dict[Tag, Tag] = {}
    mapped: Counter[str] = Counter()
    for tag, count in counts.items():
        if tag is None or tag == unannotated:
            final[tag] = None
            continue
        try:
            final[tag] = _mapped(tag, found, labels)
        except DataError as fault:
            raise DataError(f"{place(*_first(raw, tag))}: {fault}") from None
        if final[tag] != tag:
            mapped[f"{tag} -> {final[tag] or 'unannotated'}"] += count
    tags = [tuple([final[tag] for tag in sentence]) for sentence in raw]
    missing = sum(count for tag, count in counts.items() if final[tag] is None)
    if not isinstance(found, SpanScheme):
        totals = Counter({tag: count for tag, count in Counter(chain.from_iterable(tags)).items() if tag is not None})
        return Tagged(tags, found, _ordered(totals), dict(mapped), missing, 0)
    tags, totals, repaired = _as_bio(tags, found)
    return Tagged(tags, found, _ordered(totals), dict(mapped), missing, repaired)


def _as_bio(tags: list[tuple[Tag, ...]], scheme: SpanScheme) -> tuple[list[tuple[Tag, ...]], Counter[str], int]:
    """Tags of any span scheme repaired and spelt in BIO, with the count of entities per type."""
    totals: Counter[str] = Counter()
    repaired = 0
    all_outside = {OUTSIDE}
    for index, sentence in enumerate(tags):
        if all_outside.issuperset(sentence):
            continue
        spans = scheme.spans(sentence)
        totals.update([label for _, _, label in spans])
        if scheme is not BIO or scheme.tags(spans, len(sentence)) != sentence:
            mended = scheme.repair(sentence)
            repaired += mended.changed
            tags[index] = mended.tags if scheme is BIO else _spelt(mended.tags, scheme)
    return tags, totals, repaired


def _spelt(tags: tuple[Tag, ...], scheme: SpanScheme) -> tuple[Tag, ...]:
    """Valid tags of a span scheme in BIO; what may continue a span from an unannotated site stays open."""
    out: list[Tag] = list(BIO.tags(scheme.spans(tags), len(tags)))
    for site, tag in enumerate(tags):
        if tag is None:
            out[site] = None
        elif site and tags[site - 1] is None and scheme.first_always and tag[0] in (scheme.inner, scheme.last):
            out[site] = f"{BIO.inner}-{tag[2:]}"
    return tuple(out)


def _mapped(tag: str, scheme: Scheme, labels: Mapping[str, str | None]) -> Tag:
    """The tag after the label mapping; a DataError when it is outside the scheme."""
    if tag in labels and (tag != OUTSIDE or not isinstance(scheme, SpanScheme)):
        target = labels[tag]
        if target is not None and (fault := scheme.check(target)):
            raise DataError(f"labels maps {tag!r} to {target!r}, which is outside the scheme {scheme.name}: {fault}")
        return target
    if isinstance(scheme, SpanScheme):
        prefix, hyphen, label = tag.partition("-")
        if hyphen and label in labels and prefix in scheme.prefixes:
            target = labels[label]
            return target if target is None or target == OUTSIDE else f"{prefix}-{target}"
    if fault := scheme.check(tag):
        raise DataError(
            f"tag {tag!r} is outside the scheme {scheme.name}: {fault}; correct it, map it with labels, "
            "or name another scheme or tag_column"
        )
    return tag


def _detect(raw: Sequence[Sequence[Tag]], counts: Iterable[Tag]) -> Scheme:
    """The scheme that the tags of a whole file show.

    Span schemes are known by ``O`` and prefixes with a hyphen, among themselves by their letters; IOB1 is
    BIO's letters with more spans opened by I than by B.
    """
    distinct = {tag for tag in counts if tag is not None}
    letters = {tag[0] for tag in distinct if len(tag) > 2 and tag[1] == "-"}
    prefixed = sum(len(tag) > 2 and tag[1] == "-" for tag in distinct)
    if not (distinct == {OUTSIDE} or (prefixed and (OUTSIDE in distinct or prefixed == len(distinct)))):
        return PLAIN
    for scheme, telling in ((BIOES, "ES"), (BILOU, "LU"), (BMES, "M")):
        if letters & set(telling) and letters <= set(scheme.prefixes):
            return scheme
    lone = opened = 0
    for sentence in raw:
        if all(tag == OUTSIDE for tag in sentence):
            continue
        before: Tag = OUTSIDE
        for tag in sentence:
            if tag is not None and tag[:2] == "B-":
                opened += 1
            elif tag is not None and tag[:2] == "I-" and before is not None and before[2:] != tag[2:]:
                lone += 1
            before = tag
    return IOB1 if lone > opened else BIO


def _first(raw: Sequence[Sequence[Tag]], tag: str) -> tuple[int, int]:
    """The sentence and site where a tag occurs first."""
    for index, sentence in enumerate(raw):
        if tag in sentence:
            return index, list(sentence).index(tag)
    raise KeyError(tag)


def _ordered(counts: Counter[str]) -> dict[str, int]:
    """Counts with the most frequent first, equal ones by name, so that a report never depends on order."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

"""Tag schemes: how a list of tags spells a list of spans, and which tag may follow which.

A span is ``(start, end, label)`` over sites, end exclusive. ``None`` in place of a tag is a site without
annotation: it ends no span and starts none, and what touches it is never called wrong.
Names: bio (iob2), iob1, bioes, bilou, bmes, plain; `ExplicitScheme` holds any other by its allowed pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebmstruct.errors import DataError

Span = tuple[int, int, str]
Tag = str | None
OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which of K tags may open a sentence, follow each other, and close it.

    start: (K,) bool; transition: (K, K) bool, row before, column after; end: (K,) bool.
    """

    start: NDArray[np.bool_]
    transition: NDArray[np.bool_]
    end: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Repair:
    """Tags that obey the scheme, and at how many sites they differ from what was given."""

    tags: tuple[Tag, ...]
    changed: int


class Scheme(ABC):
    """What a tag sequence means. Subclasses are final and frozen."""

    name: str

    @abstractmethod
    def tagset(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Every tag that these labels need, the outside tag first."""

    @abstractmethod
    def starts(self, tag: str) -> bool:
        """Whether the tag may be the first of a sentence."""

    @abstractmethod
    def follows(self, before: str, after: str) -> bool:
        """Whether the tag `after` may stand right behind the tag `before`."""

    @abstractmethod
    def ends(self, tag: str) -> bool:
        """Whether the tag may be the last of a sentence."""

    @abstractmethod
    def spans(self, tags: Sequence[Tag]) -> list[Span]:
        """The spans that the tags spell, in order; an invalid sequence is read as `repair` would mend it."""

    @abstractmethod
    def tags(self, spans: Iterable[Span], n: int) -> tuple[str, ...]:
        """The tags of n sites that spell these spans, which must not overlap."""

    @abstractmethod
    def repair(self, tags: Sequence[Tag]) -> Repair:
        """The nearest sequence that obeys the scheme; O(n)."""

    def check(self, tag: str) -> str | None:
        """One clause that says why the tag does not belong to the scheme, or None when it does."""
        return None

    def allowed(self, tags: Sequence[str]) -> Allowed:
        """The scheme's hard constraints over a list of K tags; O(K^2)."""
        for tag in tags:
            if fault := self.check(tag):
                raise DataError(f"tag {tag!r} is outside the scheme {self.name}: {fault}")
        return Allowed(
            np.array([self.starts(tag) for tag in tags], dtype=bool),
            np.array([[self.follows(before, after) for after in tags] for before in tags], dtype=bool).reshape(
                len(tags), len(tags)
            ),
            np.array([self.ends(tag) for tag in tags], dtype=bool),
        )

    def violations(self, tags: Sequence[Tag]) -> list[int]:
        """Sites whose tag cannot stand behind the one before; n when the last tag cannot end the sentence."""
        sites = []
        for site, tag in enumerate(tags):
            if tag is None:
                continue
            if site == 0:
                legal = self.starts(tag)
            else:
                before = tags[site - 1]
                legal = before is None or self.follows(before, tag)
            if not legal:
                sites.append(site)
        if tags and tags[-1] is not None and not self.ends(tags[-1]):
            sites.append(len(tags))
        return sites


@dataclass(frozen=True, slots=True)
class SpanScheme(Scheme):
    """Spans by prefixed tags ``B-PER``: first, inner, last and single sites may have letters of their own.

    last, single: None when the scheme does not mark them (BIO). first_always: False for IOB1, where a span
    opens with the inner letter unless it touches a span of its own label on the left.
    """

    name: str
    first: str = "B"
    inner: str = "I"
    last: str | None = None
    single: str | None = None
    first_always: bool = True

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The letters that may stand before the hyphen."""
        return tuple(letter for letter in (self.first, self.inner, self.last, self.single) if letter)

    def check(self, tag: str) -> str | None:
        prefix, hyphen, label = tag.partition("-")
        if tag == OUTSIDE or (prefix in self.prefixes and hyphen and label and label != OUTSIDE):
            return None
        forms = ", ".join(f"{prefix}-LABEL" for prefix in self.prefixes)
        return f"legal are {OUTSIDE}, {forms}" + (f" with a label other than {OUTSIDE}" if label == OUTSIDE else "")

    def tagset(self, labels: Iterable[str]) -> tuple[str, ...]:
        return (OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in self.prefixes))

    def starts(self, tag: str) -> bool:
        return self.follows(OUTSIDE, tag)

    def ends(self, tag: str) -> bool:
        return self.follows(tag, OUTSIDE)

    def follows(self, before: str, after: str) -> bool:
        old, _, old_label = before.partition("-")
        new, _, new_label = after.partition("-")
        same = old_label == new_label
        if not self.first_always:
            return new != self.first or (old != OUTSIDE and same)
        inside = old in (self.first, self.inner)
        continues = new in (self.inner, self.last)
        if self.last is None:
            return not continues or (inside and same)
        return continues and same if inside else not continues

    def spans(self, tags: Sequence[Tag]) -> list[Span]:
        found: list[Span] = []
        start, label = 0, ""  # an empty label: no span is open
        for site, tag in enumerate(tags):
            if tag is None or tag == OUTSIDE:
                if label:
                    found.append((start, site, label))
                    label = ""
                continue
            prefix, _, new = tag.partition("-")
            if label and (label != new or prefix in (self.first, self.single)):
                found.append((start, site, label))
                label = ""
            if not label:
                start, label = site, new
            if prefix in (self.last, self.single):
                found.append((start, site + 1, label))
                label = ""
        if label:
            found.append((start, len(tags), label))
        return found

    def tags(self, spans: Iterable[Span], n: int) -> tuple[str, ...]:
        out = [OUTSIDE] * n
        stop, previous = 0, ""
        for start, end, label in sorted(spans):
            if not stop <= start < end <= n:
                raise DataError(
                    f"span ({start}, {end}, {label!r}) is empty, overlaps another or leaves its sentence of {n} sites"
                )
            first = self.first
            if not self.first_always and not (start == stop and start and label == previous):
                first = self.inner
            length = end - start
            out[start:end] = [f"{self.inner}-{label}"] * length
            out[start] = f"{first}-{label}"
            if self.last:
                out[end - 1] = f"{self.last if length > 1 else self.single}-{label}"
            stop, previous = end, label
        return tuple(out)

    def repair(self, tags: Sequence[Tag]) -> Repair:
        """Reads the spans and spells them again: in BIO a lone ``I-X`` becomes ``B-X``. Sites without
        annotation stay so, and a span that may reach into one keeps its open end."""
        closed = self.tags(self.spans(tags), len(tags))
        mended: list[Tag] = list(closed)
        for site, tag in enumerate(tags):
            if tag is None:
                mended[site] = None
            elif closed[site] != tag:
                left = site > 0 and tags[site - 1] is None
                right = site + 1 < len(tags) and tags[site + 1] is None
                first = tag if left else closed[site]
                last = tag if right else closed[site]
                prefix = self._prefix(
                    begins=first[0] in (self.first, self.single), stops=last[0] in (self.last, self.single)
                )
                mended[site] = f"{prefix}{tag[1:]}"
        changed = sum(old != new for old, new in zip(tags, mended, strict=True))
        return Repair(tuple(mended), changed)

    def _prefix(self, *, begins: bool, stops: bool) -> str:
        """The letter of a site at which its span begins, stops, both or neither."""
        if stops and self.last and self.single:
            return self.single if begins else self.last
        return self.first if begins else self.inner


@dataclass(frozen=True, slots=True)
class PlainScheme(Scheme):
    """One label a site, as in part-of-speech tagging: every tag may follow every other."""

    name: str = "plain"

    def tagset(self, labels: Iterable[str]) -> tuple[str, ...]:
        return tuple(labels)

    def starts(self, tag: str) -> bool:
        return True

    def ends(self, tag: str) -> bool:
        return True

    def follows(self, before: str, after: str) -> bool:
        return True

    def spans(self, tags: Sequence[Tag]) -> list[Span]:
        return [(site, site + 1, tag) for site, tag in enumerate(tags) if tag is not None]

    def tags(self, spans: Iterable[Span], n: int) -> tuple[str, ...]:
        return _one_site_each(spans, n)

    def repair(self, tags: Sequence[Tag]) -> Repair:
        return Repair(tuple(tags), 0)


@dataclass(frozen=True, slots=True)
class ExplicitScheme(Scheme):
    """Any scheme, given by what it allows: tags that open and close a sentence, and (before, after) pairs."""

    start: frozenset[str]
    transitions: frozenset[tuple[str, str]]
    end: frozenset[str]
    name: str = "explicit"

    def check(self, tag: str) -> str | None:
        known = sorted(self.start | self.end | {tag for pair in self.transitions for tag in pair})
        return None if tag in known else f"legal are {', '.join(known)}"

    def tagset(self, labels: Iterable[str]) -> tuple[str, ...]:
        return tuple(labels)

    def starts(self, tag: str) -> bool:
        return tag in self.start

    def ends(self, tag: str) -> bool:
        return tag in self.end

    def follows(self, before: str, after: str) -> bool:
        return (before, after) in self.transitions

    def spans(self, tags: Sequence[Tag]) -> list[Span]:
        return [(site, site + 1, tag) for site, tag in enumerate(tags) if tag is not None]

    def tags(self, spans: Iterable[Span], n: int) -> tuple[str, ...]:
        return _one_site_each(spans, n)

    def repair(self, tags: Sequence[Tag]) -> Repair:
        """Refuses what breaks the scheme: among explicit pairs no mending is the obvious one."""
        if sites := self.violations(tags):
            site = sites[0]
            what = f"tag {tags[site]!r} at site {site}" if site < len(tags) else f"ending in {tags[-1]!r}"
            raise DataError(f"{what} breaks the explicit scheme; mend the data or allow the transition")
        return Repair(tuple(tags), 0)


BIO = SpanScheme("bio")
IOB1 = SpanScheme("iob1", first_always=False)
BIOES = SpanScheme("bioes", last="E", single="S")
BILOU = SpanScheme("bilou", last="L", single="U")
BMES = SpanScheme("bmes", inner="M", last="E", single="S")
PLAIN = PlainScheme()
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (BIO, IOB1, BIOES, BILOU, BMES, PLAIN)}
ALIASES = {"iob2": "bio", "iob": "bio", "bilo": "bilou", "biluo": "bilou", "iobes": "bioes", "pos": "plain"}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name or alias, in any case; unknown names are refused with the legal ones."""
    key = ALIASES.get(name.lower(), name.lower())
    if key not in SCHEMES:
        raise DataError(f"scheme {name!r} is unknown; legal are {', '.join([*SCHEMES, *ALIASES])}")
    return SCHEMES[key]


def convert(tags: Sequence[Tag], source: Scheme, target: Scheme) -> tuple[Tag, ...]:
    """The same spans spelt in another scheme; sites without annotation stay without."""
    spelt = target.tags(source.spans(tags), len(tags))
    if None not in tags:
        return spelt
    return tuple(None if old is None else new for old, new in zip(tags, spelt, strict=True))


def _one_site_each(spans: Iterable[Span], n: int) -> tuple[str, ...]:
    """Tags of n sites from spans of one site each, which together must cover all."""
    by_site = {start: label for start, end, label in spans if end == start + 1}
    if sorted(by_site) != list(range(n)):
        raise DataError(f"a scheme without spans needs one label for each of the {n} sites; got {len(by_site)}")
    return tuple(by_site[site] for site in range(n))

"""Tag schemes: constraints, spans, repair and conversion."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmstruct.errors import DataError
from ebmstruct_nlp.schemes import (
    BILOU,
    BIO,
    BIOES,
    BMES,
    IOB1,
    PLAIN,
    ExplicitScheme,
    Scheme,
    SpanScheme,
    convert,
    scheme_named,
)

SPAN_SCHEMES = [BIO, IOB1, BIOES, BILOU, BMES]


@st.composite
def spans_of(draw: st.DrawFn) -> tuple[list[tuple[int, int, str]], int]:
    """Disjoint labelled spans in order, and the number of sites."""
    pieces = draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["PER", "LOC", "x-y"])), max_size=8)
    )
    spans, place = [], 0
    for gap, length, label in pieces:
        spans.append((place + gap, place + gap + length, label))
        place += gap + length
    return spans, place + draw(st.integers(0, 2))


@pytest.mark.parametrize("scheme", SPAN_SCHEMES, ids=lambda scheme: scheme.name)
@given(case=spans_of())
@settings(max_examples=150, deadline=None)
def test_spans_survive_every_scheme(scheme: Scheme, case: tuple[list[tuple[int, int, str]], int]) -> None:
    """Spans to tags to spans is the identity, the tags break no rule, and repair leaves them alone."""
    spans, n = case
    tags = scheme.tags(spans, n)
    assert scheme.spans(tags) == spans
    assert scheme.violations(tags) == []
    assert scheme.repair(tags) == type(scheme.repair(tags))(tags, 0)
    for other in SPAN_SCHEMES:
        assert convert(convert(tags, scheme, other), other, scheme) == tags


@pytest.mark.parametrize("scheme", SPAN_SCHEMES, ids=lambda scheme: scheme.name)
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_repair_obeys_the_scheme(scheme: SpanScheme, data: st.DataObject) -> None:
    """Whatever the tags, with sites missing or not, the repaired ones break no rule, a second repair changes
    nothing, the spans stay, and no site loses or changes its label."""
    tags = data.draw(st.lists(st.sampled_from([None, *scheme.tagset(["A", "B"])]), max_size=8))
    mended = scheme.repair(tags)
    assert scheme.violations(mended.tags) == []
    assert scheme.repair(mended.tags).changed == 0
    assert scheme.spans(mended.tags) == scheme.spans(tags)
    assert [tag and tag[1:] for tag in mended.tags] == [tag and tag[1:] for tag in tags]
    assert mended.changed == sum(old != new for old, new in zip(tags, mended.tags, strict=True))
    assert (mended.changed == 0) == (scheme.violations(tags) == [])


@pytest.mark.parametrize("scheme", SPAN_SCHEMES, ids=lambda scheme: scheme.name)
def test_allowed_is_exactly_what_spans_can_spell(scheme: SpanScheme) -> None:
    """By enumeration of all sequences of four tags: the arrays allow a sequence exactly when spans spell it."""
    tags = scheme.tagset(["A", "B"])
    allowed = scheme.allowed(tags)
    assert allowed.start.shape == (len(tags),) and allowed.transition.shape == (len(tags), len(tags))
    assert allowed.start.dtype == allowed.transition.dtype == allowed.end.dtype == np.bool_
    for path in itertools.product(range(len(tags)), repeat=4):
        legal = allowed.start[path[0]] and allowed.end[path[-1]]
        legal = legal and all(allowed.transition[a, b] for a, b in itertools.pairwise(path))
        names = tuple(tags[k] for k in path)
        assert bool(legal) == (scheme.tags(scheme.spans(names), 4) == names), names


def test_lone_inside_tag_becomes_first() -> None:
    """O I-PER I-PER I-LOC has two tags to mend in BIO: each I that opens a span."""
    mended = BIO.repair(["O", "I-PER", "I-PER", "I-LOC"])
    assert mended.tags == ("O", "B-PER", "I-PER", "B-LOC") and mended.changed == 2


def test_missing_annotation_is_no_fault() -> None:
    """An I-PER behind an unannotated site may continue a span from there, so nothing is repaired."""
    assert BIO.repair([None, "I-PER", "O"]).changed == 0
    assert BIOES.repair([None, "I-PER", "I-PER", None]).changed == 0
    assert BIOES.repair(["O", "I-PER", None]).tags == ("O", "B-PER", None)


def test_iob1_marks_first_only_between_neighbours() -> None:
    """Two neighbouring PER spans need B on the second alone."""
    assert IOB1.tags([(0, 1, "PER"), (1, 2, "PER"), (2, 3, "LOC")], 4) == ("I-PER", "B-PER", "I-LOC", "O")
    assert convert(["I-PER", "B-PER", "I-LOC", "O"], IOB1, BIO) == ("B-PER", "B-PER", "B-LOC", "O")


def test_plain_scheme_has_no_constraint() -> None:
    """Parts of speech: everything may follow everything, each site is a span of its own."""
    allowed = PLAIN.allowed(["NOUN", "VERB"])
    assert allowed.start.all() and allowed.transition.all() and allowed.end.all()
    assert PLAIN.spans(["NOUN", None]) == [(0, 1, "NOUN")]
    assert PLAIN.tags([(1, 2, "B"), (0, 1, "A")], 2) == ("A", "B")
    with pytest.raises(DataError, match="one label for each of the 3 sites"):
        PLAIN.tags([(0, 1, "A")], 3)


def test_explicit_scheme_allows_its_pairs_only() -> None:
    """Any scheme by its pairs: a then b, nothing else."""
    scheme = ExplicitScheme(frozenset("a"), frozenset({("a", "b")}), frozenset("b"))
    allowed = scheme.allowed(["a", "b"])
    assert allowed.start.tolist() == [True, False] and allowed.end.tolist() == [False, True]
    assert allowed.transition.tolist() == [[False, True], [False, False]]
    assert scheme.repair(["a", "b"]).changed == 0
    with pytest.raises(DataError, match="'a' at site 1 breaks the explicit scheme"):
        scheme.repair(["a", "a"])
    with pytest.raises(DataError, match="tag 'c' is outside the scheme explicit: legal are a, b"):
        scheme.allowed(["a", "c"])


@pytest.mark.parametrize("tag", ["X-PER", "B-", "PER", "B-O", "b-PER", "BPER"])
def test_tags_outside_the_scheme_are_named(tag: str) -> None:
    """A tag that BIO does not know is named with the legal forms."""
    with pytest.raises(DataError, match=f"tag '{tag}' is outside the scheme bio: legal are O, B-LABEL, I-LABEL"):
        BIO.allowed(["O", tag])


@pytest.mark.parametrize("spans", [[(0, 2, "A"), (1, 3, "B")], [(2, 2, "A")], [(3, 5, "A")], [(-1, 1, "A")]])
def test_spans_that_do_not_fit_are_refused(spans: list[tuple[int, int, str]]) -> None:
    """Overlapping, empty and overhanging spans cannot be spelt."""
    with pytest.raises(DataError, match="empty, overlaps another or leaves"):
        BIO.tags(spans, 4)


def test_names_and_aliases() -> None:
    """Names are found in any case, unknown ones are refused with the legal ones."""
    assert scheme_named("IOB2") is BIO and scheme_named("bioes") is BIOES and scheme_named("BILOU") is BILOU
    with pytest.raises(DataError, match="scheme 'bloes' is unknown; legal are bio, iob1, bioes, bilou, bmes, plain"):
        scheme_named("bloes")

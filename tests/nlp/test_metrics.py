"""Scores against hand-made answers and against seqeval."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmstruct.errors import DataError
from ebmstruct_nlp.metrics import calibration, errors, span_confusion, span_scores, tag_confusion, tag_scores
from ebmstruct_nlp.schemes import BIO, BIOES, PLAIN, convert

GOLD = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG", "O", "O"], ["B-LOC", "O", "O", "O"]]
PREDICTED = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG", "O", "O"], ["O", "O", "I-PER", "O"]]


def test_span_scores_by_hand() -> None:
    """One span of four is right (PER); four are predicted: precision, recall and F1 are one quarter."""
    scores = span_scores(GOLD, PREDICTED)
    assert scores["micro"] == {"precision": 0.25, "recall": 0.25, "f1": 0.25, "correct": 1, "predicted": 4, "gold": 4}
    assert scores["types"]["PER"]["precision"] == 0.5 and scores["types"]["PER"]["recall"] == 1.0
    assert scores["macro"]["f1"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert json.loads(json.dumps(scores)) == scores


@given(
    data=st.lists(
        st.lists(st.tuples(*[st.sampled_from(BIO.tagset(["A", "B", "C"]))] * 2), min_size=1, max_size=7),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_span_scores_equal_seqeval(data: list[list[tuple[str, str]]]) -> None:
    """After repair of both sides, every figure equals seqeval's in strict mode with IOB2."""
    seqeval = pytest.importorskip("seqeval.metrics")
    from seqeval.scheme import IOB2

    gold = [[pair[0] for pair in sentence] for sentence in data]
    predicted = [[pair[1] for pair in sentence] for sentence in data]
    scores = span_scores(gold, predicted)
    mended = [[list(BIO.repair(tags).tags) for tags in side] for side in (gold, predicted)]
    if not scores["types"]:
        assert scores["micro"]["f1"] == 0.0
        return
    peer = seqeval.classification_report(*mended, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    for name, ours in [("micro avg", scores["micro"]), ("macro avg", scores["macro"]), *scores["types"].items()]:
        for key, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert ours[key] == pytest.approx(peer[name][theirs]), (name, key)


def test_scheme_does_not_matter() -> None:
    """The same spans spelt in BIOES score the same."""
    spelt = [[convert(BIO.repair(tags).tags, BIO, BIOES) for tags in side] for side in (GOLD, PREDICTED)]
    assert span_scores(*spelt, scheme=BIOES) == span_scores(GOLD, PREDICTED)


def test_unannotated_sites_are_not_judged() -> None:
    """Spans that touch an unannotated site, or a correct span beside one (who knows where it ends?), are left out."""
    gold = [["B-PER", None, "O", "B-LOC"]]
    scores = span_scores(gold, [["B-PER", "B-LOC", "O", "B-LOC"]])
    assert scores["unjudged"] == 2
    assert scores["micro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "correct": 1, "predicted": 1, "gold": 1}
    gold = [["B-PER", None, "O"]]
    assert tag_scores(gold, [["B-PER", "B-LOC", "O"]])["tokens"] == 2
    assert errors(gold, [["B-PER", "B-LOC", "O"]]) == []


def test_tag_scores_by_hand() -> None:
    """Three of four tags are right, one of two sentences entirely."""
    scores = tag_scores([["N", "V"], ["N", "N"]], [["N", "V"], ["N", "V"]])
    assert scores["accuracy"] == 0.75 and scores["sentence_accuracy"] == 0.5
    assert scores["tags"]["V"]["precision"] == 0.5 and scores["tags"]["N"]["recall"] == pytest.approx(2 / 3)
    table = tag_confusion([["N", "V"], ["N", "N"]], [["N", "V"], ["N", "V"]])
    assert table == {"rows": ["N", "V"], "columns": ["N", "V"], "counts": [[2, 1], [0, 1]]}


def test_span_confusion_by_hand() -> None:
    """LOC taken for ORG; ORG with wrong ends counts as missed and spurious, and as a boundary error."""
    table = span_confusion(GOLD, PREDICTED)
    assert table["rows"] == ["LOC", "ORG", "PER", "spurious"] and table["columns"] == ["LOC", "ORG", "PER", "missed"]
    assert table["counts"] == [[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 1, 0]]
    assert table["boundary"] == 1


def test_errors_by_hand() -> None:
    """Each wrong span once, with its kind."""
    assert errors(GOLD, PREDICTED) == [
        {"sentence": 0, "kind": "type", "gold": [3, 4, "LOC"], "predicted": [3, 4, "ORG"]},
        {"sentence": 1, "kind": "boundary", "gold": [1, 2, "ORG"], "predicted": [0, 2, "ORG"]},
        {"sentence": 2, "kind": "missed", "gold": [0, 1, "LOC"], "predicted": None},
        {"sentence": 2, "kind": "spurious", "gold": None, "predicted": [2, 3, "PER"]},
    ]
    (wrong,) = errors([["N", "V"]], [["N", "N"]], scheme=PLAIN)
    assert wrong["kind"] == "type" and wrong["gold"] == [1, 2, "V"]


def test_calibration_by_hand() -> None:
    """Two bins: 0.9 twice, one right (off by 0.4); 0.2 once, wrong (off by 0.2): error (2 * 0.4 + 0.2) / 3."""
    scores = calibration([0.9, 0.9, 0.2], [True, False, False], bins=5)
    assert scores["error"] == pytest.approx((2 * 0.4 + 0.2) / 3)
    assert scores["brier"] == pytest.approx((0.01 + 0.81 + 0.04) / 3)
    assert [item["count"] for item in scores["bins"]] == [1, 0, 0, 0, 2]
    assert json.loads(json.dumps(scores)) == scores


def test_calibration_of_calibrated_answers_is_small() -> None:
    """Answers right exactly as often as they claim have an error that shrinks like 1 / sqrt(n)."""
    generator = np.random.default_rng(7)
    sure = generator.random(200_000)
    scores = calibration(sure, generator.random(200_000) < sure)
    assert scores["error"] < 0.01 and scores["brier"] == pytest.approx(1 / 6, abs=0.003)


def test_calibration_edges() -> None:
    """Nothing gives None; 0 and 1 lie in the outer bins; rounding above 1 is taken, more is a fault."""
    assert calibration([], [])["error"] is None
    assert [item["count"] for item in calibration([0.0, 1.0, 1.00001], [0, 1, 1])["bins"]][::9] == [1, 2]
    for wrong in (1.5, -0.5, math.nan):
        with pytest.raises(DataError, match="outside \\[0, 1\\]"):
            calibration([wrong], [True])


def test_sides_must_fit() -> None:
    """Sentences and tokens must pair up."""
    with pytest.raises(DataError, match="1 sentences with correct tags and 2 predicted"):
        span_scores([["O"]], [["O"], ["O"]])
    with pytest.raises(DataError, match="sentence 0: 1 correct tags and 2 predicted"):
        tag_scores([["O"]], [["O", "O"]])

"""Scores of predicted tags and spans: span F1, accuracy, confusion, calibration, and the list of errors.

Spans count as correct only with the same sentence, both ends and the label (strict matching, as in CoNLL-2003).
Every function returns plain dictionaries that JSON can hold. A site whose correct tag is None was not
annotated: it is not judged, and neither is a predicted span that touches it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebmstruct.errors import DataError
from ebmstruct_nlp.schemes import BIO, Scheme, Span, Tag

MISSED = "missed"
SPURIOUS = "spurious"


def span_scores(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[Tag]], *, scheme: Scheme = BIO
) -> dict[str, Any]:
    """Precision, recall and F1 of spans: micro, macro (mean over types), and per type; O(tokens).

    Tags that break the scheme are read as its repair reads them (a lone ``I-X`` is ``B-X``). types: all that
    either side holds. A precision or recall without a denominator is 0. unjudged: predicted spans left out.
    """
    right: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    given: Counter[str] = Counter()
    unjudged = 0
    for correct, answer in _pairs(gold, predicted):
        expected = set(scheme.spans(correct))
        found = set(scheme.spans(answer))
        if None in correct:
            doubtful = _doubtful(correct, expected)
            expected = {span for span in expected if not doubtful[span[0] : span[1]].any()}
            judged = {span for span in found if not doubtful[span[0] : span[1]].any()}
            unjudged += len(found) - len(judged)
            found = judged
        wanted.update([label for _, _, label in expected])
        given.update([label for _, _, label in found])
        right.update([label for _, _, label in expected & found])
    types = sorted(wanted.keys() | given.keys())
    per_type = {label: _ratios(right[label], given[label], wanted[label]) for label in types}
    means = {
        key: sum(scores[key] for scores in per_type.values()) / len(types) if types else 0.0
        for key in ("precision", "recall", "f1")
    }
    return {
        "micro": _ratios(right.total(), given.total(), wanted.total()),
        "macro": means,
        "types": per_type,
        "unjudged": unjudged,
    }


def _doubtful(correct: Sequence[Tag], spans: Iterable[Span]) -> NDArray[np.bool_]:
    """Sites nobody annotated, and those of spans beside one, since nobody says where such a span ends."""
    doubtful = np.array([tag is None for tag in correct])
    unknown = doubtful.copy()
    for start, end, _ in spans:
        if unknown[max(start - 1, 0)] or unknown[min(end, len(correct) - 1)]:
            doubtful[start:end] = True
    return doubtful


def _ratios(right: int, given: int, wanted: int) -> dict[str, Any]:
    precision = right / given if given else 0.0
    recall = right / wanted if wanted else 0.0
    f1 = 2 * right / (given + wanted) if right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "correct": right, "predicted": given, "gold": wanted}


def tag_scores(gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[Tag]]) -> dict[str, Any]:
    """Accuracy over annotated sites, whole sentences correct, and precision, recall and F1 per tag; O(tokens)."""
    cells = _tag_pairs(gold, predicted)
    right = Counter({tag: count for (tag, answer), count in cells.items() if tag == answer})
    wanted: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for (tag, answer), count in cells.items():
        wanted[tag] += count
        given[answer] += count
    total = cells.total()
    whole = sum(
        all(tag is None or tag == answer for tag, answer in zip(correct, answers, strict=True))
        for correct, answers in _pairs(gold, predicted)
    )
    return {
        "accuracy": right.total() / total if total else 0.0,
        "correct": right.total(),
        "tokens": total,
        "sentence_accuracy": whole / len(gold) if gold else 0.0,
        "tags": {tag: _ratios(right[tag], given[tag], wanted[tag]) for tag in sorted(wanted.keys() | given.keys())},
    }


def tag_confusion(gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[Tag]]) -> dict[str, Any]:
    """Counts of correct tag (rows) against predicted tag (columns), with the same names on both sides."""
    return _table(_tag_pairs(gold, predicted), extra_row=(), extra_column=())


def span_confusion(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[Tag]], *, scheme: Scheme = BIO
) -> dict[str, Any]:
    """Counts of correct type (rows) against predicted type (columns) of spans with the same ends.

    A span with no partner of the same ends counts in the column ``missed`` or the row ``spurious``. boundary:
    how many missed spans overlap a predicted span of their own type, that is, only the ends are wrong.
    """
    cells: Counter[tuple[str, str]] = Counter()
    boundary = 0
    for correct, answer in _pairs(gold, predicted):
        for kind, span, other in _matched(correct, answer, scheme):
            if kind == "spurious":
                cells[SPURIOUS, span[2]] += 1
            elif other is not None and other[:2] == span[:2]:
                cells[span[2], other[2]] += 1
            else:
                cells[span[2], MISSED] += 1
                boundary += kind == "boundary"
    return {**_table(cells, extra_row=(SPURIOUS,), extra_column=(MISSED,)), "boundary": boundary}


def _table(cells: Counter[tuple[str, str]], *, extra_row: Sequence[str], extra_column: Sequence[str]) -> dict[str, Any]:
    """Counts as a matrix with the names of its rows and columns."""
    names = sorted({name for row, column in cells for name in (row, column)} - {*extra_row, *extra_column})
    rows, columns = [*names, *extra_row], [*names, *extra_column]
    return {"rows": rows, "columns": columns, "counts": [[cells[row, column] for column in columns] for row in rows]}


def calibration(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 10) -> dict[str, Any]:
    """How well confidences of n answers match how often they are right.

    confidence: (n,) in [0, 1]; correct: (n,) bool. error: the expected calibration error, the mean over answers of
    |confidence - accuracy| of their bin (Guo et al. 2017, equation 3), with bins of equal width, closed above; brier:
    mean squared difference of confidence and correctness (Brier 1950). All None for n = 0.
    """
    sure = np.asarray(confidence, dtype=np.float64).reshape(-1)
    right = np.asarray(correct, dtype=np.float64).reshape(-1)
    if sure.shape != right.shape:
        raise DataError(f"{sure.size} confidences for {right.size} answers; there must be one for each")
    # Sums of probabilities leave [0, 1] by rounding; anything more, and NaN, is a fault of the caller.
    if not np.all((sure >= -1e-4) & (sure <= 1 + 1e-4)):
        raise DataError("a confidence is outside [0, 1] or not a number; give probabilities")
    sure = np.clip(sure, 0.0, 1.0)
    n = sure.size
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    confidence_sum = np.bincount(place, weights=sure, minlength=bins)
    right_sum = np.bincount(place, weights=right, minlength=bins)
    listed = [
        {
            "low": index / bins,
            "high": (index + 1) / bins,
            "count": int(count[index]),
            "confidence": float(confidence_sum[index] / count[index]) if count[index] else None,
            "accuracy": float(right_sum[index] / count[index]) if count[index] else None,
        }
        for index in range(bins)
    ]
    return {
        "count": n,
        "confidence": float(sure.mean()) if n else None,
        "accuracy": float(right.mean()) if n else None,
        "error": float(np.abs(confidence_sum - right_sum).sum() / n) if n else None,
        "brier": float(np.mean((sure - right) ** 2)) if n else None,
        "bins": listed,
    }


def errors(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[Tag]], *, scheme: Scheme = BIO
) -> list[dict[str, Any]]:
    """Every wrong span, in order: sentence, kind, gold and predicted as [start, end, label] or None.

    kind: type (same ends, other label), boundary (other ends, same label, overlapping), missed, spurious. A predicted
    span that explains a gold one is not listed again as spurious. For plain schemes spans are sites.
    """
    out: list[dict[str, Any]] = []
    for sentence, (correct, answer) in enumerate(_pairs(gold, predicted)):
        listed: list[tuple[Span, str, Span | None, Span | None]] = []
        explained: set[Span | None] = set()
        matched = _matched(correct, answer, scheme)
        for kind, span, other in matched:
            if kind in ("type", "boundary", "missed"):
                listed.append((span, kind, span, other))
                explained.add(other)
        for kind, span, _ in matched:
            if kind == "spurious" and span not in explained:
                listed.append((span, kind, None, span))
        for _, kind, expected, found in sorted(listed, key=lambda item: item[0]):
            out.append(
                {
                    "sentence": sentence,
                    "kind": kind,
                    "gold": list(expected) if expected else None,
                    "predicted": list(found) if found else None,
                }
            )
    return out


def _matched(correct: Sequence[Tag], answer: Sequence[Tag], scheme: Scheme) -> list[tuple[str, Span, Span | None]]:
    """(kind, span, partner): each gold span as correct, type, boundary or missed, then each unmatched predicted one.

    A partner with the same ends is a match; one that overlaps with the same label makes a boundary error, and its
    predicted span still comes up as spurious, since in strict matching both are wrong. O(spans log spans).
    """
    expected = scheme.spans(correct)
    found = [span for span in scheme.spans(answer) if None not in correct[span[0] : span[1]]]
    by_ends = {span[:2]: span for span in found}
    used = set()
    out: list[tuple[str, Span, Span | None]] = []
    first = 0
    for span in expected:
        start, end, label = span
        partner = by_ends.get((start, end))
        if partner is not None:
            used.add(partner)
            out.append(("correct" if partner == span else "type", span, partner))
            continue
        while first < len(found) and found[first][1] <= start:
            first += 1
        near = first
        while near < len(found) and found[near][0] < end and (found[near][2] != label):
            near += 1
        overlaps = near < len(found) and found[near][0] < end
        out.append(("boundary", span, found[near]) if overlaps else ("missed", span, None))
    return out + [("spurious", span, None) for span in found if span not in used]


def _tag_pairs(gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[Tag]]) -> Counter[tuple[str, str]]:
    """Counts of (correct tag, predicted tag) over annotated sites."""
    cells: Counter[tuple[Tag, Tag]] = Counter()
    for correct, answer in _pairs(gold, predicted):
        cells.update(zip(correct, answer, strict=True))
    return Counter({(tag, str(answer)): count for (tag, answer), count in cells.items() if tag is not None})


def _pairs(
    gold: Sequence[Sequence[Tag]], predicted: Sequence[Sequence[Tag]]
) -> Iterable[tuple[Sequence[Tag], Sequence[Tag]]]:
    """Sentences side by side, after checking that they fit."""
    if len(gold) != len(predicted):
        raise DataError(
            f"{len(gold)} sentences with correct tags and {len(predicted)} predicted; there must be as many"
        )
    for index, (correct, answer) in enumerate(zip(gold, predicted, strict=True)):
        if len(correct) != len(answer):
            raise DataError(
                f"sentence {index}: {len(correct)} correct tags and {len(answer)} predicted; one a token is needed"
            )
    return zip(gold, predicted, strict=True)

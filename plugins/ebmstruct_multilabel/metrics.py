"""How good sets of labels are: by example, by label, over all decisions; calibration; the best single threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10


def f1(gold: Sequence[str], guess: Sequence[str]) -> float:
    """2 |both| / (|gold| + |guess|); 1 where both are empty."""
    size = len(set(gold)) + len(set(guess))
    return 2 * len(set(gold) & set(guess)) / size if size else 1.0


def set_scores(gold: Sequence[Sequence[str]], guess: Sequence[Sequence[str]], labels: int) -> dict[str, Any]:
    """Scores of predicted sets, as fractions.

    labels: how many labels the model knows (or, where there are more, how many occur), for the
    Hamming accuracy: the share of decisions, one a label and example, that are right.
    example_f1, precision, recall: means over examples (an empty guess has precision 1 where the set is empty,
    else 0; the same for recall). micro_f1 counts decisions over all labels together, macro_f1 is the mean over labels
    that some example has or is given. per_label: a row of counts and scores a label.
    """
    right, predicted, correct = Counter[str](), Counter[str](), Counter[str]()
    sums = dict.fromkeys(("example_f1", "precision", "recall", "subset_accuracy"), 0.0)
    wrong = 0
    for own, found in zip(gold, guess, strict=True):
        a, b = set(own), set(found)
        both = a & b
        right.update(both)
        predicted.update(b)
        correct.update(a)
        wrong += len(a ^ b)
        sums["example_f1"] += f1(own, found)
        sums["precision"] += len(both) / len(b) if b else float(not a)
        sums["recall"] += len(both) / len(a) if a else float(not b)
        sums["subset_accuracy"] += a == b
    count = max(1, len(gold))
    rows = {label: _row(right[label], predicted[label], correct[label]) for label in sorted(correct | predicted)}
    total = _row(right.total(), predicted.total(), correct.total())
    return {
        **{name: float(value) / count for name, value in sums.items()},
        "micro_f1": total["f1"],
        "macro_f1": sum(row["f1"] for row in rows.values()) / len(rows) if rows else 1.0,
        "hamming_accuracy": 1 - wrong / max(1, len(gold) * max(labels, len(rows))),
        "mean_size": predicted.total() / count,
        "mean_size_correct": correct.total() / count,
        "per_label": rows,
    }


def _row(right: int, predicted: int, correct: int) -> dict[str, Any]:
    size = predicted + correct
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / correct if correct else 0.0,
        "f1": 2 * right / size if size else 1.0,
        "right": right,
        "predicted": predicted,
        "correct": correct,
    }


def calibration(probability: NDArray[np.float64], inside: NDArray[np.bool_]) -> dict[str, Any]:
    """How probabilities of labels (flat, one a decision) agree with how often the label is in the set.

    Expected calibration error over ten bins of equal width, Brier score, and the bins.
    """
    place = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sure = np.bincount(place, weights=probability, minlength=BINS) / np.maximum(counts, 1)
    often = np.bincount(place, weights=inside, minlength=BINS) / np.maximum(counts, 1)
    total = max(1, probability.size)
    return {
        "count": int(probability.size),
        "error": float((counts * np.abs(sure - often)).sum() / total),
        "brier": float(((probability - inside) ** 2).sum() / total),
        "bins": [
            {
                "low": b / BINS,
                "high": (b + 1) / BINS,
                "probability": float(sure[b]),
                "share": float(often[b]),
                "count": int(counts[b]),
            }
            for b in range(BINS)
        ],
    }


def best_threshold(
    probability: NDArray[np.float64], inside: NDArray[np.bool_], at_least: int = 0
) -> tuple[float, float]:
    """The threshold at which sets have the greatest mean example-F1, and that F1.

    probability, inside: (B, L).  at_least: labels that every set has, the most probable ones. Every threshold that tells
    two sets apart is tried: as it falls labels come in one by one, and each changes one example's F1. Of equally good
    ones the middle of the widest range. O(B L log(B L)).
    """
    instances, labels = probability.shape
    rank = np.argsort(np.argsort(-probability, axis=1, kind="stable"), axis=1, kind="stable")
    always = rank < min(at_least, labels)
    gold = inside.sum(1)
    size, both = always.sum(1), (always & inside).sum(1)
    score = _f1s(both, size, gold)
    row, column = np.nonzero(~always)
    order = np.argsort(-probability[row, column], kind="stable")
    row, column = row[order], column[order]
    falling = probability[row, column]
    now = float(score.sum())
    means = np.empty(len(row) + 1)
    means[0] = now
    for at, (i, j) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        size[i] += 1
        both[i] += inside[i, j]
        new = 2.0 * both[i] / (size[i] + gold[i])
        now += new - score[i]
        score[i] = new
        means[at + 1] = now
    upper = np.concatenate([[1.0], falling])
    lower = np.concatenate([falling, [0.0]])
    possible = np.where(upper > lower, means, -np.inf)
    best = np.flatnonzero(possible >= possible.max() - 1e-9)
    widest = best[np.argmax((upper - lower)[best])]
    return float((upper[widest] + lower[widest]) / 2), float(means[widest] / max(1, instances))


def _f1s(both: NDArray[Any], size: NDArray[Any], gold: NDArray[Any]) -> NDArray[np.float64]:
    total = size + gold
    out: NDArray[np.float64] = np.where(total > 0, 2.0 * both / np.maximum(total, 1), 1.0)
    return out


def together(gold: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]) -> list[tuple[str, str, int, int]]:
    """Pairs of labels by how wrongly they are predicted together: (a, b, correct, predicted), the worst first."""
    correct, predicted = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for counter, sets in ((correct, gold), (predicted, guess)):
        for own in sets:
            names = sorted(set(own))
            counter.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    pairs = [(a, b, correct[a, b], predicted[a, b]) for a, b in correct | predicted]
    return sorted(pairs, key=lambda p: (-abs(p[2] - p[3]), p[0], p[1]))

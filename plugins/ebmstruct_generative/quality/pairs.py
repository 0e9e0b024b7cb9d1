"""Measures of pairs of columns: whether the generated table has the real one's trends.

Two columns of numbers are compared by their correlation, all other pairs by the shares of their cells: a column of
numbers is cut into ten bins of equal width from its own table's least to its greatest number (the greatest number and
missing ones have a bin to themselves, the eleventh). Trends that the real table has not are left out, since any
generator that draws each column by itself has those: a pair counts where the correlation of the real columns is above
0.5 in size, or Cramér's V of their cells above 0.3. These are the rules of the quality report of sdmetrics 0.32, and the
scores agree with its.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ebmstruct_generative.quality.columns import NUMBER, Columns, aligned
from ebmstruct_generative.quality.samples import subset

CORRELATION, CELLS = "correlation", "cells"
"""How a pair is compared."""
LEAST_CORRELATION = 0.5
LEAST_ASSOCIATION = 0.3
BINS = 10


@dataclass(frozen=True)
class Pair:
    """The trend between two columns.

    measure: CORRELATION or CELLS.
    real, generated: the correlation, or Cramér's V, in each table; NaN where it is not defined.
    score: from 0 to 1, 1 is good; NaN where it is not defined.
    counts: whether the real columns hang together enough for the pair to count.
    """

    first: str
    second: str
    measure: str
    real: float
    generated: float
    score: float
    counts: bool


def column_pairs(
    real: Columns, generated: Columns, *, most: int = 2000, rows: int = 100_000, seed: int = 0
) -> list[Pair]:
    """Each pair of columns, or ``most`` pairs drawn at random where there are more; of each table ``rows`` rows at most.

    Score of correlations: 1 less half their difference, over rows that have both numbers. Score of cells: 1 less the total
    variation between the shares of the two tables. Cost O(rows log rows) a pair.
    Source: the quality report of sdmetrics 0.32 (DataCebo 2026); Cramér 1946.
    """
    real, generated = (t.take(subset(np.arange(len(t)), rows, seed)) for t in aligned(real, generated))
    pairs = list(combinations(real.names, 2))
    if len(pairs) > most:
        chosen = np.random.default_rng(seed).permutation(len(pairs))[:most]
        pairs = [pairs[i] for i in np.sort(chosen)]
    return [_pair(real, generated, first, second) for first, second in pairs]


def pair_trends(pairs: list[Pair]) -> float:
    """The mean score of the pairs that count; NaN where none does."""
    scores = [pair.score for pair in pairs if pair.counts and not np.isnan(pair.score)]
    return float(np.mean(scores)) if scores else float("nan")


def _pair(real: Columns, generated: Columns, first: str, second: str) -> Pair:
    if real.kind(first) == real.kind(second) == NUMBER:
        ours, theirs = (_correlation(t.array(first), t.array(second)) for t in (real, generated))
        score = 1 - abs(ours - theirs) / 2
        counts = abs(ours) > LEAST_CORRELATION and not np.isnan(theirs)
        return Pair(first, second, CORRELATION, ours, theirs, score, counts)
    cells = [[_states(t, name) for name in (first, second)] for t in (real, generated)]
    ours, theirs = (_association(*some) for some in cells)
    return Pair(first, second, CELLS, ours, theirs, _agreement(*cells), ours > LEAST_ASSOCIATION)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation over the rows that have both; NaN where one of them is constant."""
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    if len(first) < 2 or first.min() == first.max() or second.min() == second.max():
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    size = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.clip(first @ second / size, -1, 1)) if size > 0 else float("nan")


def _states(table: Columns, name: str) -> np.ndarray:
    """A column as whole numbers from 0: categories with missing as the first, numbers as bins."""
    array = table.array(name)
    if table.kind(name) != NUMBER:
        return array.astype(np.int64) + 1
    present = array[~np.isnan(array)]
    if not len(present):
        return np.full(len(array), BINS + 1)
    return np.digitize(array, np.histogram_bin_edges(present, BINS))


def _association(first: np.ndarray, second: np.ndarray) -> float:
    """Cramér's V of the cells, without correction; NaN where one column has a single state.

    From the observed cells alone, so that columns of many categories make no large table:
    chi^2 / n = sum of O^2 / (row total x column total) - 1.
    """
    _, first, rows = np.unique(first, return_inverse=True, return_counts=True)
    _, second, columns = np.unique(second, return_inverse=True, return_counts=True)
    least = min(len(rows), len(columns))
    if least < 2:
        return float("nan")
    cells, counts = np.unique(first * len(columns) + second, return_counts=True)
    expected = rows[cells // len(columns)].astype(float) * columns[cells % len(columns)]
    excess = float((counts.astype(float) ** 2 / expected).sum()) - 1
    return float(np.sqrt(max(excess, 0.0) / (least - 1)))


def _agreement(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """1 less the total variation between the shares of cells."""
    if not len(ours[0]) or not len(theirs[0]):
        return float("nan")
    width = 1 + max(int(side[1].max()) for side in (ours, theirs))
    codes = [side[0] * width + side[1] for side in (ours, theirs)]
    _, places = np.unique(np.concatenate(codes), return_inverse=True)
    count = int(places.max()) + 1
    parts = places[: len(codes[0])], places[len(codes[0]) :]
    shares = [np.bincount(part, minlength=count) / len(part) for part in parts]
    return float(1 - np.abs(shares[0] - shares[1]).sum() / 2)

"""Two-sample measures on arrays: how far the generated rows' distribution lies from that of the real ones.

Every function takes real rows (n, d) and generated rows (m, d), finite, on a scale on which distances mean something
(see ``columns.vectors``). More rows than ``rows`` are a random subset of that size, drawn from ``seed``, so that the cost
does not grow with the data; the answer is the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from ebmstruct.errors import DataError

WIDTHS = (0.5, 1.0, 2.0)
"""The kernels' widths, as multiples of the median distance between two real rows."""
_NARROW = 100
"""The most dimensions in which distances are taken from the differences."""
_CELLS = 4_000_000
"""The most numbers of one array that is made on the way, where it can be made piece by piece."""


def subset(array: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """The rows of an array as they are, or ``rows`` of them drawn without replacement."""
    if len(array) <= rows:
        return array
    return array[np.random.default_rng(seed).permutation(len(array))[:rows]]


def check(real: np.ndarray, generated: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays. Errors: DataError where they are no two tables of finite rows of one width."""
    real, generated = np.asarray(real, float), np.asarray(generated, float)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise DataError(f"real and generated rows are (n, d) and (m, d); found {real.shape} and {generated.shape}")
    if min(len(real), len(generated)) < least:
        raise DataError(f"at least {least} real and generated rows are needed; found {len(real)} and {len(generated)}")
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise DataError("the rows to compare hold NaN or infinite numbers; leave such rows out and tell their share")
    return real, generated


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) Euclidean distances; in many dimensions by matrix products, which are faster and exact to about 1e-7."""
    if x.shape[1] <= _NARROW:
        return cdist(x, y)
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0.0))


def mmd2(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    widths: Sequence[float] = WIDTHS,
    rows: int = 2000,
    seed: int = 0,
) -> float:
    """The squared maximum mean discrepancy, unbiased, summed over Gaussian kernels of several widths.

    0 in the mean where the distributions agree (single values then fall on both sides of it); larger is worse. The kernels
    are exp(-distance^2 / (2 (width median)^2)) with the median distance between two real rows; where half of the pairs
    of real rows are equal, the mean distance takes its place. Cost O(rows^2 d).
    Source: Gretton et al. 2012, lemma 6.
    """
    real, generated = check(real, generated)
    x, y = subset(real, rows, seed), subset(generated, rows, seed + 1)
    xx, yy, xy = distances(x, x), distances(y, y), distances(x, y)
    pairs = xx[np.triu_indices(len(x), 1)]
    unit = float(np.median(pairs)) or float(pairs.mean()) or 1.0
    n, m, total = len(x), len(y), 0.0
    for width in widths:
        scale = 2 * (width * unit) ** 2
        within_x, within_y, between = (np.exp(-(d**2) / scale) for d in (xx, yy, xy))
        total += (within_x.sum() - n) / (n * (n - 1)) + (within_y.sum() - m) / (m * (m - 1)) - 2 * between.mean()
    return float(total)


def sliced_wasserstein(
    real: np.ndarray, generated: np.ndarray, *, projections: int = 200, rows: int = 100_000, seed: int = 0
) -> float:
    """The Wasserstein-1 distance between the rows' projections on a random direction, in the mean over directions.

    In the units of the rows; 0 where the distributions agree. Each distance is a mean over 200 quantiles from 0.5 % to
    99.5 %, so that a single far row does not decide. Cost O(projections rows log rows).
    Source: Bonneel et al. 2015.
    """
    real, generated = check(real, generated, least=1)
    x, y = subset(real, rows, seed), subset(generated, rows, seed + 1)
    directions = np.random.default_rng(seed).normal(size=(x.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    levels = np.linspace(0.005, 0.995, 200)
    step = max(1, _CELLS // max(len(x), len(y)))
    total = 0.0
    for start in range(0, projections, step):
        some = directions[:, start : start + step]
        total += np.abs(np.quantile(x @ some, levels, axis=0) - np.quantile(y @ some, levels, axis=0)).sum()
    return float(total / (len(levels) * projections))


def density_coverage(
    real: np.ndarray, generated: np.ndarray, *, k: int = 5, rows: int = 5000, seed: int = 0
) -> tuple[float, float]:
    """Density and coverage. Each real row has a ball that reaches to its k-th nearest other real row.

    Density: in how many balls a generated row lies, in the mean, over k; about 1 where the distributions agree, near 0
    for rows that lie off the data, above 1 for rows that crowd where the data are densest.
    Coverage: the share of balls with a generated row inside; 1 - 1 / 2^k at best in the mean where as many rows are
    generated as there are real ones, lower where modes are missing. Compare with the same figure of other real rows.
    Where a real row stands more than k times in the data its ball is a point, inside of which are rows equal to it.
    Cost O(rows^2 d), memory O(rows). Source: Naeem et al. 2020, equations 3 and 4.
    """
    real, generated = check(real, generated, least=1)
    x, y = subset(real, rows, seed), subset(generated, rows, seed + 1)
    if len(x) <= k:
        raise DataError(f"density and coverage look at the {k} nearest of the other real rows; there are {len(x)} rows")
    reach = np.empty(len(x))
    hits, covered = 0, np.empty(len(x), bool)
    step = max(1, _CELLS // max(len(x), len(y)))
    for start in range(0, len(x), step):
        some = slice(start, start + step)
        reach[some] = np.partition(distances(x[some], x), k, axis=1)[:, k]
        far = distances(x[some], y)
        inside = (far < reach[some, None]) | (far == 0)
        hits += int(inside.sum())
        covered[some] = inside.any(1)
    return float(hits / len(y) / k), float(covered.mean())

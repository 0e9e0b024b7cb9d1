"""Measures of single columns: shape, missing values, categories and ranges. Each is from 0 to 1, and 1 is good."""

from __future__ import annotations

import numpy as np

from ebmstruct_generative.quality.columns import NUMBER, Columns, aligned

_DECIMALS = 14
"""Numbers that agree to so many decimals are the same number to the measures of shape."""


def column_shapes(real: Columns, generated: Columns) -> dict[str, float]:
    """How alike each column's distribution is, missing values left out; NaN where a column has none but those.

    Numbers: 1 less the Kolmogorov-Smirnov statistic, the largest distance between the two distribution functions.
    Categories: 1 less the total variation, half the sum of the differences of their shares. What two samples of one
    distribution reach depends on their sizes: compare with other real rows.
    """
    real, generated = aligned(real, generated)
    return {name: _shape(real, generated, name) for name in real.names}


def missing_similarity(real: Columns, generated: Columns) -> dict[str, float]:
    """1 less the difference of the shares of missing values, for each column."""
    real, generated = aligned(real, generated)
    if not len(real) or not len(generated):
        return dict.fromkeys(real.names, float("nan"))
    both = {name: (real.missing(name), generated.missing(name)) for name in real.names}
    return {name: float(1 - abs(ours.mean() - theirs.mean())) for name, (ours, theirs) in both.items()}


def coverage(real: Columns, generated: Columns) -> dict[str, float]:
    """How much of each column of the real table the generated one has: the share of its categories, or of its range.

    A range: 1 less the parts at either end, as shares of it, that lie beyond the generated numbers. NaN where the real
    column has no value, or one number alone.
    """
    real, generated = aligned(real, generated)
    out = {}
    for name in real.names:
        ours, theirs = _present(real, name), _present(generated, name)
        if real.kind(name) == NUMBER:
            out[name] = _range_covered(ours, theirs)
        else:
            wanted = np.unique(ours)
            out[name] = float(np.isin(wanted, theirs).mean()) if len(wanted) else float("nan")
    return out


def adherence(real: Columns, generated: Columns) -> dict[str, float]:
    """The share of each column's generated values that keep to what the real table has: its categories, or its range.

    NaN where either column has no value.
    """
    real, generated = aligned(real, generated)
    out = {}
    for name in real.names:
        ours, theirs = _present(real, name), _present(generated, name)
        if not len(ours) or not len(theirs):
            out[name] = float("nan")
        elif real.kind(name) == NUMBER:
            out[name] = float(((theirs >= ours.min()) & (theirs <= ours.max())).mean())
        else:
            out[name] = float(np.isin(theirs, np.unique(ours)).mean())
    return out


def mean(scores: dict[str, float]) -> float:
    """The mean of those scores that are numbers; NaN where none is."""
    found = [value for value in scores.values() if not np.isnan(value)]
    return float(np.mean(found)) if found else float("nan")


def _present(table: Columns, name: str) -> np.ndarray:
    return table.array(name)[~table.missing(name)]


def _shape(real: Columns, generated: Columns, name: str) -> float:
    ours, theirs = _present(real, name), _present(generated, name)
    if not len(ours) or not len(theirs):
        return float("nan")
    if real.kind(name) == NUMBER:
        ours, theirs = np.sort(np.round(ours, _DECIMALS)), np.sort(np.round(theirs, _DECIMALS))
        every = np.concatenate([ours, theirs])
        low, high = (np.searchsorted(side, every, side="right") / len(side) for side in (ours, theirs))
        return float(1 - np.abs(low - high).max())
    states = len(real.categories[name])
    shares = [np.bincount(side, minlength=states) / len(side) for side in (ours, theirs)]
    return float(1 - np.abs(shares[0] - shares[1]).sum() / 2)


def _range_covered(ours: np.ndarray, theirs: np.ndarray) -> float:
    if not len(ours) or ours.min() == ours.max():
        return float("nan")
    if not len(theirs):
        return 0.0
    width = ours.max() - ours.min()
    below = max((theirs.min() - ours.min()) / width, 0)
    above = max((ours.max() - theirs.max()) / width, 0)
    return float(max(1 - below - above, 0))

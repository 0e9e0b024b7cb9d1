"""Numbers of a column as normal scores, and the way back: a quantile transform with ties and mass points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MOST_TIED = 4000
"""A column with at most so many different values takes these again; one with more takes what lies between them too."""
KNOTS = 2000
"""Quantiles that are kept of a column with more values."""
SPIKE_SHARE = 0.1
"""A mass point has at least this share of a column's values ..."""
SPIKE_RATIO = 4.0
"""... and so many times that of the most frequent value that is none ..."""
SPIKE_VALUES = 10
"""... in a column of at least so many different values."""
MOST_SPIKES = 3


@dataclass(frozen=True, eq=False)
class Quantiles:
    """The distribution of a column, mass points apart.

    values: (m,) ascending.  middle: (m,) the mid-distribution function at each, in (0, 1).  upper: (m,) the distribution
    function at each.  tied: whether these values are all that the column takes.
    """

    values: Array
    middle: Array
    upper: Array
    tied: bool

    @classmethod
    def of(cls, values: Array) -> Quantiles:
        """The quantiles of finite numbers (n,), n at least 1. Cost: a sort."""
        found, counts = np.unique(values.astype(np.float64), return_counts=True)
        upper = np.cumsum(counts) / counts.sum()
        middle = upper - 0.5 * counts / counts.sum()
        tied = len(found) <= MOST_TIED
        if not tied:
            kept = np.unique(np.searchsorted(middle, np.linspace(0, 1, KNOTS)).clip(0, len(found) - 1))
            found, middle, upper = found[kept], middle[kept], upper[kept]
        return cls(found, middle, upper, tied)

    def scores(self, values: Array) -> Array:
        """Normal scores of numbers: the standard normal quantile of the mid-distribution function, straight between values
        that were seen, and that of the nearest beyond them.
        """
        return normal_quantile(np.interp(values, self.values, self.middle))

    def numbers(self, scores: Array) -> Array:
        """The number of each score; within the values that were seen."""
        share = normal_share(scores)
        if self.tied:
            return self.values[np.searchsorted(self.upper, share).clip(0, len(self.values) - 1)]
        return np.interp(share, self.middle, self.values)

    def blur(self) -> float:
        """The mean variance of the normal scores that would have been rounded to one value: what ties hide.

        A component of a mixture cannot be told to be narrower. By 9 points of each interval of the distribution.
        """
        if not self.tied:
            return 1e-6
        lower = np.concatenate([[0.0], self.upper[:-1]])
        inside = lower[:, None] + (self.upper - lower)[:, None] * (np.arange(9) + 0.5) / 9
        return max(float(((self.upper - lower) * normal_quantile(inside).var(axis=1)).sum()), 1e-6)


def normal_quantile(share: Array) -> Array:
    """The inverse of the standard normal distribution function, held within 5 standard deviations."""
    import torch

    found = torch.special.ndtri(torch.from_numpy(np.asarray(share, np.float64)))
    return np.asarray(found.clamp(-5.0, 5.0).numpy())


def normal_share(scores: Array) -> Array:
    """The standard normal distribution function."""
    import torch

    return np.asarray(torch.special.ndtr(torch.from_numpy(np.asarray(scores, np.float64))).numpy())


def mass_points(values: Array) -> Array:
    """The values of a column that are states of their own: those far more frequent than others, and infinities.

    values: (n,), none missing. A zero-inflated column has one at 0.
    """
    infinite = np.unique(values[np.isinf(values)])
    finite = values[np.isfinite(values)]
    if not finite.size:
        return infinite
    found, counts = np.unique(finite, return_counts=True)
    if len(found) < SPIKE_VALUES:
        return infinite
    order = np.argsort(-counts, kind="stable")
    shares = counts[order] / finite.size
    spikes = 0
    for place in range(min(MOST_SPIKES, len(found) - 1)):
        if shares[place] >= SPIKE_SHARE and shares[place] >= SPIKE_RATIO * shares[place + 1]:
            spikes = place + 1
    return np.concatenate([infinite, np.sort(found[order[:spikes]])])

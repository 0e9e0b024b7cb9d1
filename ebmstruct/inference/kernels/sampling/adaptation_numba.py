"""What chains learn while they warm up, draw by draw, as ``ebmstruct.inference.sampling.adaptation`` does it for tensors.

Each chain averages its own step size, for it alone knows which acceptance belongs to which step; the chains of a group
share the inverse mass, and keep the mean of their step sizes.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel
from ebmstruct.inference.sampling.adaptation import DELAY, FORGETTING

LOG_STEP, LOG_AVERAGE, ERROR, PULL, COUNT, SHIFT = 0, 1, 2, 3, 4, 5
"""Numbers of a chain: the state of dual averaging, and the group's shift that it has followed."""
LEARNT = 6

DRAWS, WINDOW, IN_WINDOW, DENSE = 0, 1, 2, 3
"""Whole numbers of a group: draws of all its chains, windows that have ended, draws in the present one, and whether its
inverse mass is a full matrix."""

MEAN, SQUARES, INVERSE_MASS = 0, 1, 2
"""Rows of a group's spread."""


@inlined
def average(learnt, acceptance, target, gain):
    """Dual averaging (Hoffman and Gelman 2014, equation 6): the step size follows an acceptance probability."""
    learnt[COUNT] += 1.0
    count = learnt[COUNT]
    weight = 1.0 / (count + DELAY)
    learnt[ERROR] = (1.0 - weight) * learnt[ERROR] + weight * (target - acceptance)
    learnt[LOG_STEP] = learnt[PULL] - np.sqrt(count) / gain * learnt[ERROR]
    share = count**-FORGETTING
    learnt[LOG_AVERAGE] = share * learnt[LOG_STEP] + (1.0 - share) * learnt[LOG_AVERAGE]


@inlined
def step_to_use(learnt, shift):
    """The step size of the next trajectory; the search begins anew where the group's inverse mass has changed."""
    if shift != learnt[SHIFT]:
        learnt[LOG_STEP] = learnt[LOG_AVERAGE] + shift - learnt[SHIFT]
        learnt[LOG_AVERAGE] = learnt[LOG_STEP]
        learnt[PULL] = learnt[LOG_STEP]
        learnt[ERROR] = 0.0
        learnt[COUNT] = 0.0
        learnt[SHIFT] = shift
    return np.exp(learnt[LOG_STEP])


@inlined
def step_to_keep(learnt, group, own, shift):
    """The step size once a chain's warm-up is over: the mean, by logarithm, of its group's."""
    total, count = 0.0, 0
    for r in range(group.size):
        if group[r] == own:
            total += learnt[r, LOG_AVERAGE] + shift - learnt[r, SHIFT]
            count += 1
    return np.exp(total / count)


@inlined
def spread_out(window, ends, spread, products, factors, shift, draw):
    """One more draw of a group, which its inverse mass is learnt from; ``shift`` (1,) follows when that changes.

    ends: the draws of the group at which the first window begins and at which windows end.
    products: (d, d) sums of products in this window; factors: (V, d, d), one a window that has ended; both are of a
    group whose inverse mass is full, and empty otherwise.
    """
    window[DRAWS] += 1
    if window[WINDOW] + 1 >= ends.size or window[DRAWS] <= ends[0]:
        return
    window[IN_WINDOW] += 1
    count = window[IN_WINDOW]
    mean, squares = spread[MEAN], spread[SQUARES]
    for i in range(draw.size):
        apart = draw[i] - mean[i]
        mean[i] += apart / count
        squares[i] += apart * (draw[i] - mean[i])
        if window[DENSE]:
            for j in range(i):
                products[i, j] += apart * (draw[j] - mean[j])
    if window[DRAWS] >= ends[window[WINDOW] + 1]:
        if window[DENSE]:
            shift[0] += _close_full(spread, products, factors, window[WINDOW], count)
        else:
            shift[0] += _close(spread, count)
        window[WINDOW] += 1
        window[IN_WINDOW] = 0


@inlined
def _close(spread, count):
    """The inverse mass from a window's draws; returns by what the log of the step size should change with it.

    That is half the mean log ratio of old to new variances, so that steps stay as long as they were, on average.
    """
    mean, squares, variance = spread[MEAN], spread[SQUARES], spread[INVERSE_MASS]
    change = 0.0
    for i in range(mean.size):
        new = _variance(squares[i], count)
        change += np.log(variance[i] / new)
        variance[i] = new
        mean[i] = 0.0
        squares[i] = 0.0
    return 0.5 * change / max(1, mean.size)


@inlined
def _variance(squares, count):
    """A variance drawn a little towards 0.001, as Stan does."""
    return (count * (squares / max(1.0, count - 1.0)) + 5e-3) / (count + 5.0)


@kernel
def _close_full(spread, products, factors, version, count):
    """The same of a full matrix: its lower Cholesky factor becomes ``factors[version]``.

    Correlations are drawn towards none the more, the fewer draws there are for each coordinate.
    """
    mean, squares = spread[MEAN], spread[SQUARES]
    size = mean.size
    share = count / (count + 0.5 * size)
    factor = factors[version]
    change = 0.0
    for i in range(size):
        for j in range(i):
            total = share * products[i, j] / (count - 1.0)
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            factor[i, j] = total / factor[j, j]
            products[i, j] = 0.0
        own = _variance(squares[i], count)
        for k in range(i):
            own -= factor[i, k] * factor[i, k]
        factor[i, i] = np.sqrt(max(own, 1e-3 * _variance(squares[i], count)))
        change -= np.log(factor[i, i])
    if version > 0:
        for i in range(size):
            change += np.log(factors[version - 1, i, i])
    mean[:] = 0.0
    squares[:] = 0.0
    return change / max(1, size)

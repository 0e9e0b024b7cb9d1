"""Vectors of one chain: momenta, kicks, drifts between walls, and whether a trajectory has turned back."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel
from ebmstruct.inference.kernels.search.sweeps_numba import uniform


def summing(function):
    """As ``inlined``, with sums in whatever order is quickest; infinity and NaN keep their meaning."""
    return kernel(function, fastmath={"contract", "reassoc", "nsz"}, _nrt=False, forceinline=True)


@summing
def copy(target, source):
    """``source`` to ``target``."""
    for i in range(target.size):
        target[i] = source[i]


@summing
def add(target, more):
    """``more`` onto ``target``."""
    for i in range(target.size):
        target[i] += more[i]


@summing
def draw_momentum(momentum, variance, random):
    """Momenta of a kinetic energy sum(p^2 v) / 2, by the polar method (Marsaglia and Bray 1964); returns that energy."""
    size = momentum.size
    twice = 0.0
    for i in range(0, size, 2):
        a = 2.0 * uniform(random) - 1.0
        b = 2.0 * uniform(random) - 1.0
        length = a * a + b * b
        while length >= 1.0 or length == 0.0:
            a = 2.0 * uniform(random) - 1.0
            b = 2.0 * uniform(random) - 1.0
            length = a * a + b * b
        factor = np.sqrt(-2.0 * np.log(length) / length)
        momentum[i] = a * factor / np.sqrt(variance[i])
        twice += a * factor * (a * factor)
        if i + 1 < size:
            momentum[i + 1] = b * factor / np.sqrt(variance[i + 1])
            twice += b * factor * (b * factor)
    return 0.5 * twice


@summing
def finish_step(momentum, gradient, variance, total, time):
    """The second half of a kick; momenta are added to ``total``. Returns the kinetic energy."""
    half = momentum.dtype.type(time)
    twice = momentum.dtype.type(0.0)
    for i in range(momentum.size):
        p = momentum[i] - half * gradient[i]
        momentum[i] = p
        total[i] += p
        twice += p * p * variance[i]
    return 0.5 * float(twice)


@summing
def begin_step(position, momentum, gradient, variance, time, step):
    """The first half of a kick, and the drift."""
    half = momentum.dtype.type(time)
    length = momentum.dtype.type(step)
    for i in range(momentum.size):
        p = momentum[i] - half * gradient[i]
        momentum[i] = p
        position[i] += length * variance[i] * p


@summing
def begin_step_between(position, momentum, gradient, variance, time, step, lower, upper):
    """The same between walls: where a coordinate meets one it is reflected and its momentum turned round."""
    for i in range(momentum.size):
        p = momentum[i] - time * gradient[i]
        x = position[i] + step * variance[i] * p
        low, high = lower[i], upper[i]
        if x < low or x > high:
            if high - low < np.inf:
                width = high - low
                if width > 0.0:
                    beyond = (x - low) % (2.0 * width)
                    if beyond > width:
                        beyond = 2.0 * width - beyond
                        p = -p
                    x = low + beyond
                else:
                    x = low
            else:
                x = 2.0 * low - x if x < low else 2.0 * high - x
                p = -p
            x = min(max(x, low), high)
        position[i] = x
        momentum[i] = p


@summing
def turning(left, right, total, variance):
    """Whether a path with these momenta at its ends, and this sum of all of them, goes back on itself at either end.

    The generalised criterion (Betancourt 2017, appendix A.4.2), on the sum by the trapezoid rule, so that in a Gaussian
    of unit mass it is that of Hoffman and Gelman (2014).
    """
    half = left.dtype.type(0.5)
    at_left = left.dtype.type(0.0)
    at_right = left.dtype.type(0.0)
    for i in range(left.size):
        along = variance[i] * (total[i] - half * (left[i] + right[i]))
        at_left += left[i] * along
        at_right += right[i] * along
    return at_left <= 0.0 or at_right <= 0.0


@summing
def turning_since(first, sum_then, last, sum_now, variance):
    """The same of a path from the leaf with momenta ``first`` to the present one; sums run up to and with each."""
    half = first.dtype.type(0.5)
    at_first = first.dtype.type(0.0)
    at_last = first.dtype.type(0.0)
    for i in range(first.size):
        along = variance[i] * (sum_now[i] - sum_then[i] + half * (first[i] - last[i]))
        at_first += first[i] * along
        at_last += last[i] * along
    return at_first <= 0.0 or at_last <= 0.0


@summing
def whiten(target, factor, gradient):
    """The gradient by coordinates in which the covariance factor @ factor.T is the identity: factor.T @ gradient.

    Four rows of the lower triangle at a time: the loads and stores of ``target`` are what costs.
    """
    size = gradient.size
    whole = size - size % 4
    for i in range(size):
        target[i] = 0.0
    for i in range(0, whole, 4):
        a, b, c, d = factor[i], factor[i + 1], factor[i + 2], factor[i + 3]
        p, q, r, s = gradient[i], gradient[i + 1], gradient[i + 2], gradient[i + 3]
        for j in range(i + 4):  # above the diagonal there are zeros
            target[j] += a[j] * p + b[j] * q + c[j] * r + d[j] * s
    for i in range(whole, size):
        row, slope = factor[i], gradient[i]
        for j in range(i + 1):
            target[j] += row[j] * slope


@summing
def begin_step_full(position, momentum, gradient, factor, time, step):
    """As ``begin_step`` where momentum and gradient are in those coordinates."""
    half = momentum.dtype.type(time)
    length = momentum.dtype.type(step)
    zero = momentum.dtype.type(0.0)
    size = momentum.size
    whole = size - size % 4
    for i in range(size):
        momentum[i] -= half * gradient[i]
    for i in range(0, whole, 4):
        a, b, c, d = factor[i], factor[i + 1], factor[i + 2], factor[i + 3]
        p, q, r, s = zero, zero, zero, zero
        for j in range(i + 4):
            along = momentum[j]
            p += a[j] * along
            q += b[j] * along
            r += c[j] * along
            s += d[j] * along
        position[i] += length * p
        position[i + 1] += length * q
        position[i + 2] += length * r
        position[i + 3] += length * s
    for i in range(whole, size):
        row, total = factor[i], zero
        for j in range(i + 1):
            total += row[j] * momentum[j]
        position[i] += length * total

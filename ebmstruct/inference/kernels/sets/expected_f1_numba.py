"""The set of labels with the greatest expected F1, from independent marginals or from draws; compiled loops."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel

NEGLIGIBLE = 1e-17
"""Sizes of the true set that are less probable than this, all larger ones together, change no digit of an answer."""


@kernel
def from_marginals(probability, offsets, at_least, states, value):
    """For each instance the set of greatest expected F1 where labels are independent, in ``states`` and ``value``.

    probability: (n,) float64.  offsets: (B + 1,).  at_least: the least size of a set.  states: (n,) int64, written.
    value: (B,) float64, written: the expected F1.

    The best set of k labels holds the k most probable ones (Lewis 1995). With C of them and R of the others in the true
    set its F1 is 2 C / (k + C + R), so that its mean is sum_c P(C = c) 2 c s(k, k + c) with s(k, x) = E[1 / (x + R)];
    s(k - 1, x) = p_k s(k, x + 1) + (1 - p_k) s(k, x) (Ye, Chai, Lee and Chieu 2012). Every term is positive, so nothing
    cancels. O(n^2) time, O(n c) memory for the largest size c that matters.
    """
    for b in range(offsets.size - 1):
        first, n = offsets[b], offsets[b + 1] - offsets[b]
        own = probability[first : first + n]
        order = np.argsort(-own, kind="mergesort")
        sizes = _sizes(own)
        most = sizes.size - 1
        chance = np.zeros((n + 1, most + 1))
        chance[0, 0] = 1.0
        for k in range(1, n + 1):
            p = own[order[k - 1]]
            chance[k, 0] = chance[k - 1, 0] * (1.0 - p)
            for c in range(1, min(k, most) + 1):
                chance[k, c] = chance[k - 1, c] * (1.0 - p) + chance[k - 1, c - 1] * p
        inverse = np.zeros(n + most + 2)
        for x in range(1, n + most + 1):
            inverse[x] = 1.0 / x
        least = min(at_least, n)
        best, best_size = -1.0, least
        for k in range(n, 0, -1):
            if k >= least:
                mean = 0.0
                for c in range(1, min(k, most) + 1):
                    mean += 2.0 * c * chance[k, c] * inverse[k + c]
                if mean >= best:  # of equals the smaller set
                    best, best_size = mean, k
            p = own[order[k - 1]]
            for x in range(1, k + most):
                inverse[x] = p * inverse[x + 1] + (1.0 - p) * inverse[x]
        if least == 0 and sizes[0] >= best:
            best, best_size = sizes[0], 0
        for i in range(n):
            states[first + order[i]] = 1 if i < best_size else 0
        value[b] = best


@kernel
def _sizes(own):
    """P(size of the true set = c) for c from 0 to the largest size that matters."""
    n = own.size
    chance = np.zeros(n + 1)
    chance[0] = 1.0
    for i in range(n):
        for c in range(i + 1, 0, -1):
            chance[c] = chance[c] * (1.0 - own[i]) + chance[c - 1] * own[i]
        chance[0] *= 1.0 - own[i]
    most, tail = n, 0.0
    while most > 1 and tail + chance[most] < NEGLIGIBLE:
        tail += chance[most]
        most -= 1
    return chance[: most + 1].copy()


@kernel
def from_draws(draws, offsets, at_least, states, value):
    """The same from draws (S, n) uint8 of the true sets, whatever their dependence.

    With P(j, s) the share of draws of size s that hold label j, a set of size k has expected F1 equal to the sum over its
    labels of sum_s P(j, s) 2 / (s + k): the best one holds the k labels for which that is largest (Dembczynski,
    Waegeman, Cheng and Huellermeier 2011). O(S n) and O(a^2 c) an instance, a labels being drawn at all, c the largest
    size.
    """
    count = draws.shape[0]
    for b in range(offsets.size - 1):
        first, n = offsets[b], offsets[b + 1] - offsets[b]
        size = np.zeros(count, np.int64)
        for d in range(count):
            for i in range(n):
                size[d] += draws[d, first + i]
        most = size.max()
        share = np.zeros((n, most + 1))
        empty = 0.0
        for d in range(count):
            if size[d] == 0:
                empty += 1.0 / count
            for i in range(n):
                if draws[d, first + i]:
                    share[i, size[d]] += 1.0 / count
        drawn = 0
        for i in range(n):
            drawn += share[i].sum() > 0.0
        least = min(at_least, n)
        best, best_size = -1.0, 0
        if least == 0:
            best = empty
        gain = np.zeros(n)
        for k in range(max(1, least), max(drawn, least) + 1):
            for i in range(n):
                gain[i] = 0.0
                for s in range(1, most + 1):
                    gain[i] += share[i, s] * 2.0 / (s + k)
            order = np.argsort(-gain, kind="mergesort")
            mean = 0.0
            for i in range(k):
                mean += gain[order[i]]
            if mean > best + 1e-12:  # of equals, up to rounding, the smaller set
                best, best_size = mean, k
                for i in range(n):
                    states[first + order[i]] = 1 if i < k else 0
        if best_size == 0:
            states[first : first + n] = 0
        value[b] = best

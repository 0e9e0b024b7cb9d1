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
        value[b] = _choose(share, empty, min(at_least, n), drawn, states[first : first + n])


@kernel
def _choose(share, empty, least, useful, states):
    """The best set of at least ``least`` labels, in ``states``, and its expected F1.

    share: (n, c + 1) chances of "label i is in and the set has s".  empty: chance of the empty set.  useful: larger sets
    than this gain nothing.
    """
    n, most = share.shape[0], share.shape[1] - 1
    states[:] = 0
    best = empty if least == 0 else -1.0
    gain = np.zeros(n)
    size = np.zeros(most + 1)
    for s in range(1, most + 1):
        size[s] = share[:, s].sum() / s
    for k in range(max(1, least), max(useful, least) + 1):
        above = 0.0  # what no set of k labels or more exceeds
        for s in range(1, most + 1):
            above += size[s] * (2.0 * s / (k + s) if s < k else 1.0)
        if k > least and above < best:
            break
        for i in range(n):
            gain[i] = 0.0
            for s in range(1, most + 1):
                gain[i] += share[i, s] * 2.0 / (s + k)
        order = np.argsort(-gain, kind="mergesort")
        mean = 0.0
        for i in range(k):
            mean += gain[order[i]]
        if mean > best + 1e-12:  # of equals, up to rounding, the smaller set
            best = mean
            for i in range(n):
                states[order[i]] = 1 if i < k else 0
    return max(best, 0.0)


@kernel
def from_counts(probability, weight, offsets, at_least, states, value):
    """The same where labels are independent but for a weight of how many are in the set.

    probability: (n,) of each label before the weights.  weight: (B, K) of sizes, the last for K - 1 and more.

    P(label j is in, size s) is p_j times the chance that the others are s - 1, times the weight: the chances of the others
    are those of the labels before times those of the labels after, so that nothing is subtracted. The set is then chosen as
    in ``from_draws``. O(n c^2 + n^2 c) an instance, c the largest size that matters.
    """
    for b in range(offsets.size - 1):
        first, n = offsets[b], offsets[b + 1] - offsets[b]
        own = probability[first : first + n]
        last = weight.shape[1] - 1
        sizes = _sizes(own)
        most = min(n, max(sizes.size - 1, last))
        before, after = np.zeros((n + 1, most + 1)), np.zeros((n + 1, most + 1))
        before[0, 0] = 1.0
        after[n, 0] = 1.0
        for i in range(n):
            _join(before[i], own[i], before[i + 1])
        for i in range(n, 0, -1):
            _join(after[i], own[i - 1], after[i - 1])
        total = 0.0
        for s in range(most + 1):
            total += before[n, s] * weight[b, min(s, last)]
        share = np.zeros((n, most + 1))
        for i in range(n):
            for s in range(1, most + 1):
                others = 0.0
                for k in range(s):
                    others += before[i, k] * after[i + 1, s - 1 - k]
                share[i, s] = own[i] * others * weight[b, min(s, last)] / total if total > 0.0 else 0.0
        empty = before[n, 0] * weight[b, 0] / total if total > 0.0 else 0.0
        value[b] = _choose(share, empty, min(at_least, n), n, states[first : first + n])


@kernel
def _join(chances, p, out):
    """Chances of counts with one more label, of chance p; larger counts than ``out`` has are lost."""
    out[0] = chances[0] * (1.0 - p)
    for s in range(1, out.size):
        out[s] = chances[s] * (1.0 - p) + chances[s - 1] * p

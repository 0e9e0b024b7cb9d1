"""Samples of chains by forward filtering and backward sampling, from uniform numbers drawn outside: the loops."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.chains.chain_log_numba import log_partition_of
from ebmstruct.inference.kernels.compiler import kernel


@kernel
def choose(weights, width, uniform):
    """The state at which the running sum of the weights passes uniform times their sum."""
    summed = 0.0
    for i in range(width):
        summed += weights[i]
    target = uniform * summed
    summed = 0.0
    pick = 0
    for i in range(width):
        if weights[i] > 0:
            pick = i
            summed += weights[i]
            if summed > target:
                break
    return pick


@kernel
def sample(
    emission, transition, start, end, offsets, width, padded, per_edge, alpha, doubts, log_partition, uniforms, states
):
    """Draw states (S * n) from uniforms (S * n), given what ``forward`` kept; zeros without a configuration.

    The last site is drawn from its forward weights, which already hold the end energies, then each site from its
    forward weights times those of the transition to the state drawn after it.
    """
    sites = emission.size // width
    samples = states.size // max(sites, 1)
    stride = width * width if per_edge else 0
    weights = np.empty(width)
    for b in range(offsets.size - 1):
        first = offsets[b]
        length = offsets[b + 1] - first
        if length == 0 or not (log_partition[b] > -np.inf):
            continue
        good = doubts[b] == 0
        ahead = np.empty(0 if good else length * padded)
        if not good:
            unary = np.empty(length * padded)
            log_partition_of(emission, transition, start, end, first, length, width, padded, stride, unary, ahead)
        for s in range(samples):
            for t in range(length - 1, -1, -1):
                peak = -1e308
                for i in range(width):
                    energy = 0.0
                    if t < length - 1:
                        after = states[s * sites + first + t + 1]
                        energy = np.float64(transition[(first + t + 1) * stride + i * width + after])
                    if good:
                        weights[i] = -energy if alpha[(first + t) * padded + i] > 0 else -np.inf
                    else:
                        weights[i] = ahead[t * padded + i] - energy
                    peak = max(peak, weights[i])
                for i in range(width):
                    weights[i] = np.exp(weights[i] - peak)
                    if good:
                        weights[i] *= alpha[(first + t) * padded + i]
                states[s * sites + first + t] = choose(weights, width, uniforms[s * sites + first + t])

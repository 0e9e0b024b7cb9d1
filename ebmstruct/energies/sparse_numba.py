"""Compiled loops of the sparse linear energy: gather-sum of weight rows, and the scatter of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def compiled(function: Callable[..., Any]) -> Any:
    """The loop compiled, and cached on disk unless no cache folder can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


@compiled
def gather_sum(ids, weight, out):
    """out[i] = sum of weight[ids[i, f]] over the features f with ids[i, f] > 0."""
    for i in range(ids.shape[0]):
        row = out[i]
        row[:] = 0
        for f in range(ids.shape[1]):
            r = ids[i, f]
            if r > 0:
                w = weight[r]
                for k in range(row.size):
                    row[k] += w[k]


@compiled
def ones(x):
    """How many bits of x are set."""
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def mark(ids, bits, before):
    """Set the bits (H / 64 + 1,) of the distinct ids > 0; before: how many bits are set in the words before each.

    Returns how many ids are distinct. With `before`, the rank of an id among them is a look-up in arrays that stay
    in the cache, unlike a table of H places.
    """
    one = np.uint64(1)
    for i in range(ids.shape[0]):
        for f in range(ids.shape[1]):
            r = ids[i, f]
            if r > 0:
                bits[r >> 6] |= one << np.uint64(r & 63)
    count = 0
    for j in range(bits.size):
        before[j] = count
        if bits[j]:
            count += ones(bits[j])
    return count


@compiled
def scatter_rows(ids, gradient, bits, before, rows, values):
    """rows (t,): the distinct ids > 0, ascending; values (t, K) zero, becomes their sums of gradient rows."""
    one = np.uint64(1)
    for i in range(ids.shape[0]):
        g = gradient[i]
        for f in range(ids.shape[1]):
            r = ids[i, f]
            if r > 0:
                j = r >> 6
                rank = before[j] + ones(bits[j] & ((one << np.uint64(r & 63)) - one))
                rows[rank] = r
                v = values[rank]
                for k in range(g.size):
                    v[k] += g[k]


@compiled
def scatter_all(ids, gradient, values):
    """values[id] += gradient[i] for every feature id > 0 of every token i; values (H, K) zero."""
    for i in range(ids.shape[0]):
        g = gradient[i]
        for f in range(ids.shape[1]):
            r = ids[i, f]
            if r > 0:
                v = values[r]
                for k in range(g.size):
                    v[k] += g[k]


@compiled
def drop(ids, thresholds, seed, out):
    """Copy ids with feature f of token i set to 0 where a hash of (seed, i, f) lies below thresholds[f] (F,) uint64."""
    n, width = ids.shape
    for i in range(n):
        for f in range(width):
            x = (seed + np.uint64(i * width + f + 1)) * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x ^= x >> np.uint64(31)
            out[i, f] = 0 if x < thresholds[f] else ids[i, f]

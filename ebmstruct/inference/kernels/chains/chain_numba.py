"""Log partition, marginals and gradients of chains: the loops over instances.

Each instance is done in scaled probability space, and again in log space if that leaves a doubt. Arrays are flat and
contiguous; ``emission`` n * K, ``transition`` K * K or n * K * K, ``start`` and ``end`` K or empty. Rows of weights
are padded to whole vectors of 16. Every function takes a range of instances, so that threads can share a batch;
what it writes for an instance does not depend on the others.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.chains.chain_log_numba import log_partition_of, log_posterior
from ebmstruct.inference.kernels.chains.chain_scaled_numba import advance, room, sweep, weigh_row, weigh_table
from ebmstruct.inference.kernels.compiler import inlined, kernel, plain
from ebmstruct.inference.kernels.simd_exp_numba import inverse_power, larger
from ebmstruct.inference.kernels.simd_numba import (
    LANES,
    add,
    fma,
    load,
    multiply,
    splat,
    splat_at,
    store,
    store_some,
    total,
    widen,
)

BLOCK = 64  # sites per block of the gradient: short enough for float32 sums, and its rows stay in the cache


@plain
def transpose(table, width, padded, out):
    """out = table.T for a table of width rows, padded with zeros as weigh_table pads."""
    out[:] = 0
    for i in range(width):
        for j in range(width):
            out[j * padded + i] = table[i * padded + j]


@kernel
def explained(weights, length, width, padded, table, turned, tiny):
    """Whether every small weight of both recursions is zero because no configuration leads there.

    Runs each recursion again beside one that only asks what is possible. Needs the shared table.
    """
    rows = (width + 3) // 4 * 4
    one = weights.dtype.type(1)
    zero = weights.dtype.type(0)
    possible = np.empty_like(table)
    x = np.empty(padded, weights.dtype)
    reach = np.empty(padded, weights.dtype)
    can = np.empty(padded, weights.dtype)
    scratch = np.empty(padded, weights.dtype)
    low = splat(zero)
    scale = low
    for backward in range(2):
        moves = turned if backward else table
        for k in range(rows * padded):
            possible[k] = one if moves[k] > zero else zero
        for step in range(length):
            row = (length - 1 - step if backward else step) * padded
            if step == 0:
                high = low
                for j in range(padded):
                    x[j] = weights[row + j]
                    can[j] = one if x[j] > zero else zero
                for j in range(0, padded, LANES):
                    high = larger(load(x, j), high)
                scale = inverse_power(high)
                continue
            for j in range(padded):
                scratch[j] = can[j]
            advance(possible, 0, scratch, 0, rows, padded, weights, row, splat(one), low, can, 0, reach, 0)
            for j in range(padded):
                can[j] = one if can[j] > zero and weights[row + j] > zero else zero
                scratch[j] = x[j]
            scale, low = advance(moves, 0, scratch, 0, rows, padded, weights, row, scale, low, reach, 0, x, 0)
            for j in range(width):
                if can[j] > zero and not (x[j] >= tiny and reach[j] >= tiny):
                    return False
    return True


@kernel
def parts_of(kept, sites, padded, stride):
    """alpha, beta, onward (n * padded each), tables of the edges (n * stride) and doubts (B) within what was kept."""
    size = sites * padded
    tables = 3 * size + sites * stride
    return kept[:size], kept[size : 2 * size], kept[2 * size : 3 * size], kept[3 * size : tables], kept[tables:]


@kernel
def forward(emission, transition, start, end, offsets, width, padded, per_edge, kept, log_partition, first, stop):
    """Log partition of instances first to stop.

    kept, unless it is empty, is filled for ``backward``; its size is kept_size.
    """
    kind = emission.dtype
    tiny = kind.type(1e-30 if emission.itemsize == 4 else 1e-290)
    square = width * width
    stride = (width + 3) // 4 * 4 * padded if per_edge else 0
    keep = kept.size > 0
    longest = 0
    for b in range(first, stop):
        longest = max(longest, offsets[b + 1] - offsets[b])
    weights = room(longest * padded, emission)
    scratch = room(padded, emission)
    table = room(0 if per_edge else padded * padded, emission)
    turned = room(table.size, emission)
    base, mild, flushed = 0.0, True, False
    if not per_edge:
        base, mild, flushed = weigh_table(transition, 0, width, table, 0, padded)
        transpose(table, width, padded, turned)
    space = kept if keep else room(6 * padded + longest * stride, emission)
    alpha, beta, onward, edges, doubts = parts_of(kept, offsets[offsets.size - 1], padded, stride)
    if not keep:
        alpha = space[: 2 * padded]
        beta = space[2 * padded : 4 * padded]
        onward = space[4 * padded : 6 * padded]
        edges = space[6 * padded :]
    for b in range(first, stop):
        begin = offsets[b]
        length = offsets[b + 1] - begin
        if keep:
            doubts[b] = 0
        if length == 0:
            log_partition[b] = 0.0
            continue
        at = begin if keep else 0
        lifted = 0.0
        lost = flushed and length > 1
        soft = mild
        for t in range(length):
            least, gone = weigh_row(
                emission, (begin + t) * width, width, start, t == 0 and start.size > 0,
                end, t == length - 1 and end.size > 0, weights, t * padded, padded,
            )  # fmt: skip
            lifted += least
            lost |= gone
            if t > 0 and not per_edge:
                lifted += base
        tables = table
        if per_edge:
            tables = edges[at * stride : (at + length) * stride]
            for t in range(1, length):
                least, tame, gone = weigh_table(transition, (begin + t) * square, width, tables, t * stride, padded)
                soft &= tame
                lost |= gone
                lifted += least
        value, low = sweep(
            weights, length, width, padded, tables, stride, turned, alpha, beta, onward, at * padded, keep, scratch
        )
        good = value > -np.inf and value < np.inf
        if good and not soft:
            good = not lost
            if good and not (low >= tiny):
                good = not per_edge and explained(weights, length, width, padded, table, turned, tiny)
        if good:
            log_partition[b] = value - lifted
            continue
        if keep:
            doubts[b] = 1
        unary = np.empty(length * padded)
        ahead = np.empty(length * padded)
        log_partition[b] = log_partition_of(
            emission, transition, start, end, begin, length, width, padded, square if per_edge else 0, unary, ahead
        )


@inlined
def add_rows(sums, at, padded, s0, s1, s2, s3):
    """Add four vectors to one column of vectors of sums (float64)."""
    store(sums, at, add(load(sums, at), widen(s0)))
    store(sums, at + padded, add(load(sums, at + padded), widen(s1)))
    store(sums, at + 2 * padded, add(load(sums, at + 2 * padded), widen(s2)))
    store(sums, at + 3 * padded, add(load(sums, at + 3 * padded), widen(s3)))


@plain
def add_outer(x, onward, at, count, width, padded, sums):
    """sums[i, j] += sum over t < count of x[t, i] * onward[at + t + 1, j], a tile of eight vectors at a time."""
    j = 0
    while padded - j >= 2 * LANES:
        for i in range(0, width, 4):
            s0 = splat(x.dtype.type(0))
            s1, s2, s3, t0, t1, t2, t3 = s0, s0, s0, s0, s0, s0, s0
            for t in range(count):
                row = load(onward, (at + t + 1) * padded + j)
                more = load(onward, (at + t + 1) * padded + j + LANES)
                k = t * padded + i
                x0, x1, x2, x3 = splat_at(x, k), splat_at(x, k + 1), splat_at(x, k + 2), splat_at(x, k + 3)
                s0, t0 = fma(x0, row, s0), fma(x0, more, t0)
                s1, t1 = fma(x1, row, s1), fma(x1, more, t1)
                s2, t2 = fma(x2, row, s2), fma(x2, more, t2)
                s3, t3 = fma(x3, row, s3), fma(x3, more, t3)
            add_rows(sums, i * padded + j, padded, s0, s1, s2, s3)
            add_rows(sums, i * padded + j + LANES, padded, t0, t1, t2, t3)
        j += 2 * LANES
    if j == padded:
        return
    for i in range(0, width, 8):
        s0 = splat(x.dtype.type(0))
        s1, s2, s3, t0, t1, t2, t3 = s0, s0, s0, s0, s0, s0, s0
        for t in range(count):
            row = load(onward, (at + t + 1) * padded + j)
            k = t * padded + i
            s0 = fma(splat_at(x, k), row, s0)
            s1 = fma(splat_at(x, k + 1), row, s1)
            s2 = fma(splat_at(x, k + 2), row, s2)
            s3 = fma(splat_at(x, k + 3), row, s3)
            t0 = fma(splat_at(x, k + 4), row, t0)
            t1 = fma(splat_at(x, k + 5), row, t1)
            t2 = fma(splat_at(x, k + 6), row, t2)
            t3 = fma(splat_at(x, k + 7), row, t3)
        add_rows(sums, i * padded + j, padded, s0, s1, s2, s3)
        add_rows(sums, (i + 4) * padded + j, padded, t0, t1, t2, t3)


@plain
def share_out(alpha, beta, at, count, width, padded, weight, x, unary_out):
    """For count sites from ``at``: unary_out = weight * the site's marginals, x = that without its beta."""
    for k in range(count):
        row = (at + k) * padded
        norm = multiply(load(alpha, row), load(beta, row))
        for j in range(LANES, padded, LANES):
            norm = fma(load(alpha, row + j), load(beta, row + j), norm)
        share = splat(weight / total(norm))
        for j in range(0, padded, LANES):
            scaled = multiply(load(alpha, row + j), share)
            store(x, k * padded + j, scaled)
            store_some(unary_out, (at + k) * width + j, width - j, multiply(scaled, load(beta, row + j)))


@plain
def write_pairs(x, onward, tables, stride, at, count, width, padded, pair_out):
    """pair_out of the edges into the sites at + 1 to at + count, whose x is that of the sites before."""
    for k in range(count):
        site = at + k + 1
        for i in range(width):
            factor = splat_at(x, k * padded + i)
            for j in range(0, padded, LANES):
                move = load(tables, site * stride + i * padded + j)
                move = multiply(move, multiply(factor, load(onward, site * padded + j)))
                store_some(pair_out, (site * width + i) * width + j, width - j, move)


@kernel
def backward(
    emission, transition, start, end, offsets, width, padded, per_edge, pairs,
    kept, weight, sign, unary_out, pair_out, first_out, last_out, first, stop,
):  # fmt: skip
    """sign * weight[b] times the marginals of instances first to stop, from what ``forward`` kept.

    unary_out (n * K) gets those of the sites, first_out and last_out (K) their sums over first and last sites. pairs
    0: no more; 1: pair_out (K * K) gets the sum of those of the edges; 2: pair_out (n * K * K) gets each, zeros at
    first sites. An instance of weight 0 contributes zeros even if its marginals are undefined.
    """
    kind = emission.dtype
    square = width * width
    stride = (width + 3) // 4 * 4 * padded if per_edge else 0
    alpha, beta, onward, edges, doubts = parts_of(kept, offsets[offsets.size - 1], padded, stride)
    table = room(padded * padded if pairs and not per_edge else 0, emission)
    if table.size:
        weigh_table(transition, 0, width, table, 0, padded)
    ends = np.zeros(2 * width)
    x = room(BLOCK * padded, emission)
    outer = room(padded * padded if pairs == 1 else 0, ends)
    outer[:] = 0
    sums = np.zeros(square if pairs == 1 else 0)
    for b in range(first, stop):
        begin = offsets[b]
        length = offsets[b + 1] - begin
        if length == 0:
            continue
        if weight[b] == 0:
            unary_out[begin * width : (begin + length) * width] = 0
            if pairs == 2:
                pair_out[begin * square : (begin + length) * square] = 0
            continue
        if doubts[b] != 0:
            log_posterior(
                emission, transition, start, end, begin, length, width, padded, square if per_edge else 0,
                sign * weight[b], pairs, unary_out, pair_out, sums,
            )  # fmt: skip
        else:
            for block in range(0, length, BLOCK):
                count = min(BLOCK, length - block)
                share_out(alpha, beta, begin + block, count, width, padded, kind.type(sign * weight[b]), x, unary_out)
                if block + count == length:
                    count -= 1
                if pairs == 1:
                    add_outer(x, onward, begin + block, count, width, padded, outer)
                if pairs == 2:
                    write_pairs(
                        x, onward, edges if per_edge else table, stride, begin + block, count, width, padded, pair_out
                    )
            if pairs == 2:
                pair_out[begin * square : (begin + 1) * square] = 0
        for j in range(width):
            ends[j] += unary_out[begin * width + j]
            ends[width + j] += unary_out[(begin + length - 1) * width + j]
    for j in range(width):
        first_out[j] = ends[j]
        last_out[j] = ends[width + j]
    if pairs == 1:
        for i in range(width):
            for j in range(width):
                pair_out[i * width + j] = sums[i * width + j] + outer[i * padded + j] * table[i * padded + j]

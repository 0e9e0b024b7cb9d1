"""Chains in scaled probability space: weights exp(least - energy), one power of two per site, no logarithms.

The forward weights ``alpha`` of a site hold everything up to and including it, the backward weights ``beta``
everything after it; ``onward`` is beta times the site's own weights, which is what the site before it needs.
Both recursions run in one loop: each is bound by the latency of its own additions, and the processor overlaps
the two.

A scale costs no accuracy (a power of two is exact), but a weight can fall below the least number. That is
harmless while the transitions are MILD: finite, and within 20 nats of each other. Then every state can be left
for every other at so little cost that a weight that vanished beside its neighbours counts for less than rounding.
Otherwise each weight must be either well above the least number, or zero because no configuration leads there.
An instance of which that cannot be shown is DOUBTFUL and is done again in log space, and so is one with an undefined
weight or without a configuration.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel, plain
from ebmstruct.inference.kernels.simd_exp_numba import exp, inverse_power, larger, power_undone
from ebmstruct.inference.kernels.simd_numba import (
    LANES,
    add,
    any_between,
    any_not_above,
    fma,
    least,
    load,
    load_some,
    minimum,
    multiply,
    splat,
    splat_at,
    store,
    subtract,
    total,
    where_positive,
)

MILD = 20.0
LN2 = float(np.log(2.0))


@kernel
def room(size, like):
    """A new array of like's dtype that begins at a cache line: a vector that lies across two is loaded twice."""
    space = np.empty(size + 64 // like.itemsize, like.dtype)
    skip = -space.ctypes.data % 64 // like.itemsize
    return space[skip : skip + size]


@inlined
def weigh_row(energies, at, width, start, first, end, last, out, to, padded):
    """out[to:] = exp(least - energies), zero in the padding; returns (least, was a finite energy flushed).

    start and end are rows of energies to add if first, or last, says so.
    """
    infinity = energies.dtype.type(np.inf)
    lowest = splat(infinity)
    for j in range(0, padded, LANES):
        row = load_some(energies, at + j, width - j, infinity)
        if first:
            row = add(row, load_some(start, j, width - j, infinity))
        if last:
            row = add(row, load_some(end, j, width - j, infinity))
        store(out, to + j, row)
        lowest = minimum(row, lowest)
    base = least(lowest)
    limit = energies.dtype.type(-80.0 if energies.itemsize == 4 else -690.0)
    flushed = False
    for j in range(0, padded, LANES):
        difference = subtract(splat(base), load(out, to + j))
        store(out, to + j, exp(difference))
        flushed |= any_between(difference, -infinity, limit)
    return np.float64(base), flushed


@plain
def weigh_table(table, at, width, out, to, padded):
    """The weights of one (K, K) table, padded with zeros to whole vectors and to a multiple of four rows.

    Returns (least, mild, was a finite energy flushed).
    """
    infinity = table.dtype.type(np.inf)
    lowest = splat(infinity)
    for k in range(0, width * width, LANES):
        lowest = minimum(load_some(table, at + k, width * width - k, infinity), lowest)
    base = least(lowest)
    limit = table.dtype.type(-80.0 if table.itemsize == 4 else -690.0)
    flushed = False
    mild = True
    for i in range(width):
        for j in range(0, padded, LANES):
            row = at + i * width + j
            difference = subtract(splat(base), load_some(table, row, width - j, infinity))
            store(out, to + i * padded + j, exp(difference))
            flushed |= any_between(difference, -infinity, limit)
            difference = subtract(splat(base), load_some(table, row, width - j, base))
            mild &= not any_not_above(difference, table.dtype.type(-MILD))
    for i in range(width, (width + 3) // 4 * 4):
        for j in range(0, padded, LANES):
            store(out, to + i * padded + j, splat(table.dtype.type(0)))
    return np.float64(base), mild, flushed


@inlined
def product(x, x_at, table, at, rows, padded):
    """One vector of x @ table, at the columns from ``at``; four sums side by side, for their latency."""
    s0 = multiply(splat_at(x, x_at), load(table, at))
    s1 = multiply(splat_at(x, x_at + 1), load(table, at + padded))
    s2 = multiply(splat_at(x, x_at + 2), load(table, at + 2 * padded))
    s3 = multiply(splat_at(x, x_at + 3), load(table, at + 3 * padded))
    for i in range(x_at + 4, x_at + rows, 4):
        at += 4 * padded
        s0 = fma(splat_at(x, i), load(table, at), s0)
        s1 = fma(splat_at(x, i + 1), load(table, at + padded), s1)
        s2 = fma(splat_at(x, i + 2), load(table, at + 2 * padded), s2)
        s3 = fma(splat_at(x, i + 3), load(table, at + 3 * padded), s3)
    return add(add(s0, s1), add(s2, s3))


@inlined
def product_pair(x, x_at, table, at, rows, padded):
    """Two neighbouring vectors of x @ table: each number of x is loaded once for both, as loads are the limit."""
    next_at = at + LANES
    s0 = splat(x.dtype.type(0))
    s1, s2, s3, t0, t1, t2, t3 = s0, s0, s0, s0, s0, s0, s0
    for i in range(x_at, x_at + rows, 4):
        x0, x1, x2, x3 = splat_at(x, i), splat_at(x, i + 1), splat_at(x, i + 2), splat_at(x, i + 3)
        s0 = fma(x0, load(table, at), s0)
        t0 = fma(x0, load(table, next_at), t0)
        s1 = fma(x1, load(table, at + padded), s1)
        t1 = fma(x1, load(table, next_at + padded), t1)
        s2 = fma(x2, load(table, at + 2 * padded), s2)
        t2 = fma(x2, load(table, next_at + 2 * padded), t2)
        s3 = fma(x3, load(table, at + 3 * padded), s3)
        t3 = fma(x3, load(table, next_at + 3 * padded), t3)
        at += 4 * padded
        next_at += 4 * padded
    return add(add(s0, s1), add(s2, s3)), add(add(t0, t1), add(t2, t3))


@inlined
def depart(arrived, j, weights, w_at, scale, high, low, reach, r_at, out, o_at):
    """Store one vector of reach and of out = reach * weights * scale; returns the new high and low of ``advance``."""
    weight = load(weights, w_at + j)
    left = multiply(arrived, multiply(weight, scale))
    store(reach, r_at + j, arrived)
    store(out, o_at + j, left)
    return larger(left, high), minimum(where_positive(weight, minimum(arrived, left), low), low)


@inlined
def advance(table, at, x, x_at, rows, padded, weights, w_at, scale, low, reach, r_at, out, o_at):
    """reach = x @ table, out = reach * weights * scale.

    Returns (the scale that brings the largest of out near 1, the lesser, lane by lane, of low and of reach and out
    where the weight is positive). rows is the number of states, rounded up to four; the rows of the table and the
    entries of x beyond the states are zero.
    """
    high = splat(x.dtype.type(0))
    j = 0
    while padded - j >= 2 * LANES:
        arrived, also = product_pair(x, x_at, table, at + j, rows, padded)
        high, low = depart(arrived, j, weights, w_at, scale, high, low, reach, r_at, out, o_at)
        high, low = depart(also, j + LANES, weights, w_at, scale, high, low, reach, r_at, out, o_at)
        j += 2 * LANES
    if j < padded:
        arrived = product(x, x_at, table, at + j, rows, padded)
        high, low = depart(arrived, j, weights, w_at, scale, high, low, reach, r_at, out, o_at)
    return inverse_power(high), low


@inlined
def advance_rows(table, at, x, x_at, width, padded, weights, w_at, scale, low, reach, r_at, out, o_at):
    """As advance, for x @ table.T: a table of one edge is read once, so it is not worth transposing."""
    for i in range(width):
        part = multiply(load(table, at + i * padded), load(x, x_at))
        for j in range(LANES, padded, LANES):
            part = fma(load(table, at + i * padded + j), load(x, x_at + j), part)
        reach[r_at + i] = total(part)
    for i in range(width, padded):
        reach[r_at + i] = 0
    high = splat(x.dtype.type(0))
    for j in range(0, padded, LANES):
        arrived = load(reach, r_at + j)
        high, low = depart(arrived, j, weights, w_at, scale, high, low, reach, r_at, out, o_at)
    return inverse_power(high), low


@plain
def sweep(weights, length, width, padded, table, stride, turned, alpha, beta, onward, at, whole, scratch):
    """Both recursions over one instance, in rows from ``at`` of alpha, beta and onward.

    whole: every row of both is kept; otherwise alpha is run to the middle site and beta back to it, which is enough
    for the log partition, and two rows of each are used in turn. stride is the size of one edge's table (edge t at
    t * stride), or 0 for a shared table, of which turned is the transpose. Returns (log of the sum over
    configurations of their weights, the least weight that was met). The log partition is taken at the middle either
    way, so that it does not depend on ``whole``.
    """
    rows = (width + 3) // 4 * 4
    last = length - 1
    middle = length // 2
    mask = -1 if whole else 1
    one = weights.dtype.type(1)
    ahead = splat(weights.dtype.type(0))
    behind = ahead
    for j in range(0, padded, LANES):
        ahead = larger(load(weights, j), ahead)
        behind = larger(load(weights, last * padded + j), behind)
        store(alpha, at + j, load(weights, j))
        store(onward, at + (last & mask) * padded + j, load(weights, last * padded + j))
        store(beta, at + (last & mask) * padded + j, splat(one))
    ahead = inverse_power(ahead)
    behind = inverse_power(behind)
    power = 0
    low = splat(one)
    forward_end = last if whole else middle
    backward_end = 0 if whole else middle
    for step in range(1, max(forward_end, last - backward_end) + 1):
        if step <= forward_end:
            row = at + (step & mask) * padded
            before = at + (step - 1 & mask) * padded
            power += power_undone(ahead) if step <= middle else 0
            ahead, low = advance(
                table, step * stride, alpha, before, rows, padded, weights, step * padded, ahead, low,
                scratch, 0, alpha, row,
            )  # fmt: skip
        t = last - step
        if t >= backward_end:
            row = at + (t & mask) * padded
            after = at + (t + 1 & mask) * padded
            power += power_undone(behind) if t > middle else 0
            if stride == 0:
                behind, low = advance(
                    turned, 0, onward, after, rows, padded, weights, t * padded, behind, low, beta, row, onward, row
                )
            else:
                behind, low = advance_rows(
                    table, (t + 1) * stride, onward, after, width, padded, weights, t * padded, behind, low,
                    beta, row, onward, row,
                )  # fmt: skip
    joint = 0.0
    row = at + (middle & mask) * padded
    for j in range(row, row + width):
        joint += np.float64(alpha[j]) * np.float64(beta[j])
    return np.log(joint) + LN2 * power, least(low)

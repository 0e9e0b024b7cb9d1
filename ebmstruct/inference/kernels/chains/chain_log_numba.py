"""Chains in log space, float64: slower than the scaled form, and right for any energies that are not NaN or -inf.

It takes the instances that the scaled form doubts: energies hundreds of nats apart, forbidden transitions beside
nearly forbidden ones, instances without any configuration. ``ahead`` holds per site and state the log of the summed
weights of all beginnings up to and including that state, ``behind`` of all endings after it.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel
from ebmstruct.inference.kernels.simd_exp_numba import exp
from ebmstruct.inference.kernels.simd_numba import (
    LANES,
    add,
    greatest,
    load,
    load_some,
    maximum,
    splat,
    splat_at,
    store,
    subtract,
    total,
    widen,
)

LOWEST = -1e308  # a finite stand-in for a peak of -inf: everything below it is -inf too, and exp(-inf - LOWEST) = 0


@kernel
def all_energies(values, at, size):
    """Whether each value may be an energy: a number or +inf, not NaN and not -inf."""
    fine = True
    for k in range(at, at + size):
        fine &= values[k] > -np.inf
    return fine


@kernel
def unary_energies(emission, start, end, begin, length, width, padded, out):
    """One instance's site energies in float64, start and end added, +inf in the padding."""
    for t in range(length):
        for j in range(width):
            out[t * padded + j] = emission[(begin + t) * width + j]
        for j in range(width, padded):
            out[t * padded + j] = np.inf
    last = (length - 1) * padded
    for j in range(width):
        if start.size:
            out[j] += start[j]
        if end.size:
            out[last + j] += end[j]


@kernel
def log_step(x, x_at, transition, table, width, padded, out, o_at):
    """out[j] = log of the sum over i of exp(x[i] - transition[i, j])."""
    fill = transition.dtype.type(0)
    for j in range(0, padded, LANES):
        peak = splat(LOWEST)
        for i in range(width):
            row = widen(load_some(transition, table + i * width + j, width - j, fill))
            peak = maximum(subtract(splat_at(x, x_at + i), row), peak)
        summed = splat(0.0)
        for i in range(width):
            row = widen(load_some(transition, table + i * width + j, width - j, fill))
            summed = add(summed, exp(subtract(subtract(splat_at(x, x_at + i), row), peak)))
        store(out, o_at + j, summed)
        for k in range(o_at + j, o_at + j + LANES):
            out[k] = np.log(out[k])
        store(out, o_at + j, add(load(out, o_at + j), peak))


@kernel
def log_step_back(x, x_at, transition, table, width, padded, out, o_at):
    """out[i] = log of the sum over j of exp(x[j] - transition[i, j]); x is -inf in the padding."""
    fill = transition.dtype.type(0)
    for i in range(width):
        peak = splat(LOWEST)
        for j in range(0, padded, LANES):
            row = widen(load_some(transition, table + i * width + j, width - j, fill))
            peak = maximum(subtract(load(x, x_at + j), row), peak)
        top = greatest(peak)
        summed = splat(0.0)
        for j in range(0, padded, LANES):
            row = widen(load_some(transition, table + i * width + j, width - j, fill))
            summed = add(summed, exp(subtract(subtract(load(x, x_at + j), row), splat(top))))
        out[o_at + i] = np.log(total(summed)) + top
    for i in range(width, padded):
        out[o_at + i] = -np.inf


@kernel
def log_ahead(unary, transition, at, stride, length, width, padded, ahead):
    """Fill ahead (length * padded); edge t's table is transition[at + t * stride:]. Returns the log partition."""
    for t in range(length):
        here = t * padded
        if t == 0:
            for j in range(padded):
                ahead[j] = 0.0
        else:
            log_step(ahead, here - padded, transition, at + t * stride, width, padded, ahead, here)
        for j in range(padded):
            ahead[here + j] -= unary[here + j]
    last = (length - 1) * padded
    peak = LOWEST
    for j in range(last, last + width):
        peak = max(peak, ahead[j])
    summed = 0.0
    for j in range(last, last + width):
        summed += np.exp(ahead[j] - peak)
    return np.log(summed) + peak


@kernel
def log_behind(unary, transition, at, stride, length, width, padded, behind):
    """Fill behind (length * padded)."""
    onward = np.empty(padded)
    for t in range(length - 1, -1, -1):
        here = t * padded
        if t == length - 1:
            for j in range(padded):
                behind[here + j] = 0.0
        else:
            for j in range(padded):
                onward[j] = behind[here + padded + j] - unary[here + padded + j]
            log_step_back(onward, 0, transition, at + (t + 1) * stride, width, padded, behind, here)


@kernel
def log_partition_of(emission, transition, start, end, begin, length, width, padded, stride, unary, ahead):
    """Log partition of one instance, leaving unary and ahead filled; NaN if an energy is NaN or -inf."""
    unary_energies(emission, start, end, begin, length, width, padded, unary)
    fine = True
    for t in range(length):
        fine &= all_energies(unary, t * padded, width)
    at = begin * stride
    if length > 1:
        tables = (length - 1) * stride if stride else width * width
        fine &= all_energies(transition, at + stride, tables)
    if not fine:
        return np.nan
    return log_ahead(unary, transition, at, stride, length, width, padded, ahead)


@kernel
def log_posterior(
    emission, transition, start, end, begin, length, width, padded, stride, weight, pairs, unary_out, pair_out, sums
):
    """Write weight times the marginals of one instance.

    unary_out (n * K) gets those of its sites. pairs 0: nothing else; 1: those of its edges are added to sums (K * K);
    2: they are written to pair_out (n * K * K), zeros at the first site. No configuration: zeros; NaN: NaN.
    """
    unary = np.empty(length * padded)
    ahead = np.empty(length * padded)
    behind = np.empty(length * padded)
    log_z = log_partition_of(emission, transition, start, end, begin, length, width, padded, stride, unary, ahead)
    square = width * width
    if not (log_z > -np.inf):
        value = 0.0 if log_z == -np.inf else np.nan
        unary_out[begin * width : (begin + length) * width] = value
        if pairs == 1 and length > 1:
            for k in range(square):
                sums[k] += value
        if pairs == 2:
            pair_out[begin * square : (begin + length) * square] = value
        return
    log_behind(unary, transition, begin * stride, stride, length, width, padded, behind)
    for t in range(length):
        here = t * padded
        for j in range(width):
            unary_out[(begin + t) * width + j] = weight * np.exp(ahead[here + j] + behind[here + j] - log_z)
        if pairs == 0:
            continue
        for i in range(width):
            for j in range(width):
                share = 0.0
                if t > 0:
                    energy = transition[(begin + t) * stride + i * width + j] + unary[here + j]
                    share = weight * np.exp(ahead[here - padded + i] - energy + behind[here + j] - log_z)
                if pairs == 1:
                    sums[i * width + j] += share
                else:
                    pair_out[((begin + t) * width + i) * width + j] = share

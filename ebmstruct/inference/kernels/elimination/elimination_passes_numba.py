"""Passes of bucket elimination over ranges of buckets: least energies, log sums, and beliefs on the way back."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain
from ebmstruct.inference.kernels.elimination.elimination_lanes_numba import (
    evens,
    finite_or,
    high_pairs,
    less_bits,
    log_of_one_plus,
    low_pairs,
    odds,
)
from ebmstruct.inference.kernels.elimination.elimination_runs_numba import collect
from ebmstruct.inference.kernels.elimination.elimination_tables_numba import (
    advance,
    fill,
    fold_axes,
    lay_strides,
    moved_by,
    prepare,
)
from ebmstruct.inference.kernels.simd_exp_numba import exp
from ebmstruct.inference.kernels.simd_numba import (
    add,
    load,
    load_some,
    maximum,
    minimum,
    multiply,
    splat,
    store,
    subtract,
    total,
)
from ebmstruct.inference.kernels.simd_numba import least as lowest


@plain
def least_of_block(block, entries, card, memory, out, choice, at, first, record):
    """Minima over the innermost axis of a block, to memory[out + first :], and where they are, to ``choice``."""
    count = entries // card
    if card == 2:
        whole = count - count % 16 if first % 16 == 0 else 0
        for i in range(0, whole, 16):
            a, b = load(block, 2 * i), load(block, 2 * i + 16)
            low, high = evens(a, b), odds(a, b)
            store(memory, out + first + i, minimum(high, low))
            if record:
                bits = less_bits(high, low)
                byte = at + ((first + i) >> 3)
                choice[byte] = np.uint8(bits & np.uint64(255))
                choice[byte + 1] = np.uint8(bits >> np.uint64(8))
        for i in range(whole, count):
            second = block[2 * i + 1] < block[2 * i]
            memory[out + first + i] = block[2 * i + 1] if second else block[2 * i]
            if record and second:
                choice[at + ((first + i) >> 3)] |= np.uint8(1 << ((first + i) & 7))
        return
    for i in range(count):
        begin = i * card
        if card >= 8:
            lows = load_some(block, begin, card, np.inf)
            for x in range(16, card, 16):
                lows = minimum(lows, load_some(block, begin + x, card - x, np.inf))
            best, state = lowest(lows), 0
            while state < card - 1 and block[begin + state] != best:
                state += 1
        else:
            best, state = block[begin], 0
            for x in range(1, card):
                value = block[begin + x]
                state = x if value < best else state
                best = min(value, best)
        memory[out + first + i] = best
        if record:
            if card <= 256:
                choice[at + first + i] = np.uint8(state)
            else:
                choice[at + 2 * (first + i)] = np.uint8(state & 255)
                choice[at + 2 * (first + i) + 1] = np.uint8(state >> 8)


@kernel
def least(begin, end, plan, work, memory, choice, choice_place, record):
    """Min-sum messages of buckets begin ... end - 1; with ``record`` the states that make them, packed, by message entry.

    Two states take a bit each, up to 256 a byte, more two.
    """
    odometer = np.zeros(work.dims.size, np.int64)
    for i in range(begin, end):
        used, outer, entries, _ = prepare(i, plan, work, memory)
        card = plan.card[i]
        count = entries // card
        odometer[:outer] = 0
        for b in range(plan.size[i] // count):
            fill(used, memory, work)
            least_of_block(
                work.block, entries, card, memory, plan.message[i], choice, choice_place[i], b * count, record
            )
            advance(used, outer, work, odometer)


@plain
def exponentials(values, entries):
    """exp of entries that are at most 0, in place; there is room for 16 more."""
    for i in range(0, entries, 16):
        store(values, i, exp(load(values, i)))


@plain
def log_of_block(block, other, entries, card, memory, out):
    """-log sum exp(-block) over the innermost axis, to memory[out :]; +inf where all is."""
    count = entries // card
    if card == 2:
        whole = count - count % 16
        for i in range(0, whole, 16):
            a, b = load(block, 2 * i), load(block, 2 * i + 16)
            low, high = evens(a, b), odds(a, b)
            low, high = minimum(low, high), maximum(high, low)
            # inf - inf is NaN, which the larger of the two replaces at the end
            store(memory, out + i, finite_or(subtract(low, log_of_one_plus(exp(subtract(low, high)))), high))
        for i in range(whole, count):
            low, high = min(block[2 * i], block[2 * i + 1]), max(block[2 * i], block[2 * i + 1])
            memory[out + i] = low - np.log1p(np.exp(low - high)) if low < np.inf else np.inf
        return
    if card >= 8:
        for i in range(count):
            lows = load_some(block, i * card, card, np.inf)
            for x in range(16, card, 16):
                lows = minimum(lows, load_some(block, i * card + x, card - x, np.inf))
            best = lowest(lows)
            memory[out + i] = best
            if best < np.inf:
                sums, shift = splat(0.0), splat(best)
                for x in range(0, card, 16):
                    sums = add(sums, exp(subtract(shift, load_some(block, i * card + x, card - x, np.inf))))
                memory[out + i] = best - np.log(total(sums))
        return
    for i in range(count):
        begin = i * card
        best = block[begin]
        for x in range(1, card):
            best = min(best, block[begin + x])
        memory[out + i] = best
        shift = best if best < np.inf else 0.0
        for x in range(begin, begin + card):
            other[x] = shift - block[x]
    exponentials(other, entries)
    for i in range(count):
        summed = 0.0
        for x in range(i * card, (i + 1) * card):
            summed += other[x]
        if memory[out + i] < np.inf:
            memory[out + i] -= np.log(summed)


@kernel
def log_sums(begin, end, plan, work, memory):
    """Messages -log sum exp(-table) of buckets begin ... end - 1."""
    odometer = np.zeros(work.dims.size, np.int64)
    for i in range(begin, end):
        used, outer, entries, _ = prepare(i, plan, work, memory)
        count = entries // plan.card[i]
        odometer[:outer] = 0
        for b in range(plan.size[i] // count):
            fill(used, memory, work)
            log_of_block(work.block, work.other, entries, plan.card[i], memory, plan.message[i] + b * count)
            advance(used, outer, work, odometer)


@plain
def posterior(block, other, entries, card, memory, message, belief, own):
    """other = belief[own :] times exp(memory[message :] - block); 0 where the message is infinite."""
    count = entries // card
    nothing = splat(0.0)
    whole = 0
    if card == 2:
        whole = count - count % 16
        for y in range(0, whole, 16):
            tops = finite_or(load(memory, message + y), nothing)
            share = load(belief, own + y)
            low = exp(subtract(low_pairs(tops), load(block, 2 * y)))
            store(other, 2 * y, multiply(low_pairs(share), low))
            high = exp(subtract(high_pairs(tops), load(block, 2 * y + 16)))
            store(other, 2 * y + 16, multiply(high_pairs(share), high))
    elif card >= 8:
        for y in range(count):
            top = memory[message + y]
            tops, share = splat(top if top < np.inf else 0.0), splat(belief[own + y])
            for x in range(y * card, (y + 1) * card, 16):  # what runs over is overwritten by the next, or not read
                store(other, x, multiply(share, exp(subtract(tops, load(block, x)))))
        return
    for y in range(whole, count):
        top = memory[message + y]
        top = top if top < np.inf else 0.0
        for x in range(y * card, (y + 1) * card):
            other[x] = top - block[x]
    for x in range(whole * card, entries, 16):
        store(other, x, exp(load(other, x)))
    for y in range(whole, count):
        share = belief[own + y]
        for x in range(y * card, (y + 1) * card):
            other[x] *= share


@kernel
def beliefs(begin, end, plan, work, memory, belief, message_place):
    """Probabilities of all entries of all inputs of buckets end - 1 down to begin, added to ``belief``.

    memory holds all messages of ``log_sums``. belief has its layout but for the messages, which lie at message_place and
    are made when needed. It starts as zeros and, at the messages of roots, as 1: P(sep) there, times
    exp(message - table), which is P(site | sep), is the belief of a bucket. All are probabilities, so nothing can
    overflow, and what underflows does not count.
    """
    odometer = np.zeros(work.dims.size, np.int64)
    zero = np.int64(0)
    for i in range(end - 1, begin - 1, -1):
        used, outer, entries, groups = prepare(i, plan, work, memory)
        card = plan.card[i]
        count = entries // card
        odometer[:outer] = 0
        for g in range(groups):
            for entry in range(work.group_place[g], work.group_place[g] + work.group_size[g]):
                belief[entry] = 0.0
        for at in range(plan.child_ptr[i], plan.child_ptr[i + 1]):
            child = plan.children[at]
            for entry in range(message_place[child], message_place[child] + plan.size[child]):
                belief[entry] = 0.0
        for j in range(used):
            work.moved[j] = moved_by(i, work.moved[j], plan, message_place)
        for b in range(plan.size[i] // count):
            fill(used, memory, work)
            own = message_place[i] + b * count
            posterior(work.block, work.other, entries, card, memory, plan.message[i] + b * count, belief, own)
            for j in range(used):
                collect(belief, work.here[j] + work.moved[j], work.other, zero, j, work)
            advance(used, outer, work, odometer)
        axes = plan.sep_ptr[i + 1] - plan.sep_ptr[i] + 1
        inputs = 1 + plan.row_ptr[i + 1] - plan.row_ptr[i] + plan.child_ptr[i + 1] - plan.child_ptr[i]
        for q in range(inputs):
            g = work.group[q]
            if g >= 0:
                place, _ = lay_strides(i, q, used, plan, work)
                fold_axes(used, zero, axes, g, work)
                place += moved_by(i, q, plan, message_place)
                collect(belief, place, belief, work.group_place[g], used, work)

"""Bucket elimination's tables: which ones a bucket adds up, with which strides, a block of entries at a time.

Everything lies in one vector ``memory``: energies of single sites, tables of rows, room for merged tables, messages.
Sites are known by their position in the order. Bucket i eliminates position i: its table is over ``sep`` (the later
positions in its scope, last one first) and, innermost, over i itself, and its message is over ``sep``. So in each message
that bucket i receives the states of i are neighbours in memory, and all tables agree on the order of their axes.

A bucket's table is never held whole: blocks of up to BLOCK entries, the innermost axes, are filled by adding runs of
each input. Inputs that are small against the table are merged first (over the axes of a block as well, so that
their runs are long), so that a large message and one or two merged tables remain.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain
from ebmstruct.inference.kernels.elimination.elimination_runs_numba import spread

BLOCK = 2048
GROUPS = 6
MERGED = 1 << 16


class Plan(NamedTuple):
    """Structure, by position; places are positions in ``memory``, all int64.

    card (n,): state counts.  sep_ptr (n + 1,), sep.  size (n,): entries of each message.  message (n,): its place.
    unary (n,): place of each site's energies.  row_ptr (n + 1,), rows: the rows that each bucket adds up.
    scope_ptr (m + 1,), scope: each row's positions, as its table lies.  table (m,): its place.
    child_ptr (n + 1,), children: the buckets whose messages each bucket adds up.
    """

    card: np.ndarray
    sep_ptr: np.ndarray
    sep: np.ndarray
    size: np.ndarray
    message: np.ndarray
    unary: np.ndarray
    row_ptr: np.ndarray
    rows: np.ndarray
    scope_ptr: np.ndarray
    scope: np.ndarray
    table: np.ndarray
    child_ptr: np.ndarray
    children: np.ndarray


class Work(NamedTuple):
    """Room for one bucket at a time; J inputs, D axes.

    slot (n,): axis of a position.  dims, counter (D,).  place, here (J,): where inputs begin, and a block's part of them.
    moved (J,): which input it is, -1 for a merged table; then how far from it its beliefs lie.  stride (J, D).
    fold (J,), fold_card, fold_stride (J, D): the axes of a block, joined where they can be, innermost first.
    group (J,): the merged table that an input went to, -1 for none.  group_place, group_size (GROUPS,), inside (GROUPS, D).
    scratch (1,): place of merged tables.  block, other: entries.  period (256,): room for vectors.
    """

    slot: np.ndarray
    dims: np.ndarray
    counter: np.ndarray
    place: np.ndarray
    here: np.ndarray
    moved: np.ndarray
    stride: np.ndarray
    fold: np.ndarray
    fold_card: np.ndarray
    fold_stride: np.ndarray
    group: np.ndarray
    group_place: np.ndarray
    group_size: np.ndarray
    inside: np.ndarray
    scratch: np.ndarray
    block: np.ndarray
    other: np.ndarray
    period: np.ndarray


@plain
def lay_strides(i, q, j, plan, work):
    """Write the strides of input q of bucket i to row j; its place and its size. 0 is the unary, then rows, messages."""
    axes = plan.sep_ptr[i + 1] - plan.sep_ptr[i] + 1
    for a in range(axes):
        work.stride[j, a] = 0
    rows = plan.row_ptr[i + 1] - plan.row_ptr[i]
    step = 1
    if q == 0:
        work.stride[j, axes - 1] = 1
        return plan.unary[i], plan.card[i]
    if q <= rows:
        row = plan.rows[plan.row_ptr[i] + q - 1]
        for at in range(plan.scope_ptr[row + 1] - 1, plan.scope_ptr[row] - 1, -1):
            p = plan.scope[at]
            work.stride[j, work.slot[p]] = step
            step *= plan.card[p]
        return plan.table[row], step
    child = plan.children[plan.child_ptr[i] + q - rows - 1]
    for at in range(plan.sep_ptr[child + 1] - 1, plan.sep_ptr[child] - 1, -1):
        p = plan.sep[at]
        work.stride[j, work.slot[p]] = step
        step *= plan.card[p]
    return plan.message[child], step


@plain
def moved_by(i, q, plan, place):
    """How far from a message, if input q of bucket i is one, its beliefs lie, which begin at ``place``; else 0."""
    first = 1 + plan.row_ptr[i + 1] - plan.row_ptr[i]
    if q < first:
        return 0
    child = plan.children[plan.child_ptr[i] + q - first]
    return place[child] - plan.message[child]


@plain
def fold_axes(j, first, axes, mask, work):
    """Join the axes first ... axes - 1 of input j that lie without a gap; mask >= 0: only the axes of that group."""
    count = 0
    for a in range(axes - 1, first - 1, -1):
        if mask >= 0 and not work.inside[mask, a]:
            continue
        step, length = work.stride[j, a], work.dims[a]
        if count > 0 and step == work.fold_stride[j, count - 1] * work.fold_card[j, count - 1]:
            work.fold_card[j, count - 1] *= length
        else:
            work.fold_card[j, count] = length
            work.fold_stride[j, count] = step
            count += 1
    work.fold[j] = count


@kernel
def prepare(i, plan, work, memory):
    """Lay out bucket i: merge its small inputs, and fold the axes of a block.

    Returns the number of inputs left, of outer axes, of entries of a block, and of merged tables.
    """
    first = plan.sep_ptr[i]
    axes = plan.sep_ptr[i + 1] - first + 1
    card = plan.card[i]
    for a in range(axes - 1):
        p = plan.sep[first + a]
        work.slot[p] = a
        work.dims[a] = plan.card[p]
    work.slot[i] = axes - 1
    work.dims[axes - 1] = card
    whole = plan.size[i] * card
    outer, block = axes - 1, card
    while outer > 0 and block * work.dims[outer - 1] <= BLOCK:
        outer -= 1
        block *= work.dims[outer]
    inputs = 1 + plan.row_ptr[i + 1] - plan.row_ptr[i] + plan.child_ptr[i + 1] - plan.child_ptr[i]
    # a literal would make numba compile what it is passed to once more
    used, groups, zero, none, fresh = np.int64(0), np.int64(0), np.int64(0), np.int64(-1), np.bool_(False)
    cap = min(max(whole // 32, 64), MERGED)
    for q in range(inputs):
        place, size = lay_strides(i, q, used, plan, work)
        work.group[q] = -1
        if whole > block and size <= cap:
            for g in range(GROUPS):
                if g == groups:
                    seeded = g == 0 and block <= cap
                    work.group_size[g] = 1
                    for a in range(axes):
                        work.inside[g, a] = seeded and a >= outer
                        if work.inside[g, a]:
                            work.group_size[g] *= work.dims[a]
                    groups += 1
                grown = work.group_size[g]
                for a in range(axes):
                    if work.stride[used, a] != 0 and not work.inside[g, a]:
                        grown *= work.dims[a]
                if grown <= cap:
                    work.group_size[g] = grown
                    for a in range(axes):
                        if work.stride[used, a] != 0:
                            work.inside[g, a] = True
                    work.group[q] = g
                    break
        if work.group[q] < 0:
            work.place[used] = place
            work.moved[used] = q
            fold_axes(used, outer, axes, none, work)
            used += 1
    at = work.scratch[0]
    for g in range(groups):  # a group in which nothing found room was opened in vain
        filled = False
        for q in range(inputs):
            if work.group[q] == g:
                if not filled:
                    for entry in range(at, at + work.group_size[g]):
                        memory[entry] = 0.0
                    filled = True
                place, _ = lay_strides(i, q, used, plan, work)
                fold_axes(used, zero, axes, g, work)
                spread(memory, at, memory, place, used, fresh, work)
        if filled:
            work.group_place[g] = at
            step = 1
            for a in range(axes - 1, -1, -1):
                work.stride[used, a] = step if work.inside[g, a] else 0
                if work.inside[g, a]:
                    step *= work.dims[a]
            work.place[used] = at
            work.moved[used] = -1
            fold_axes(used, outer, axes, none, work)
            at += work.group_size[g]
            used += 1
        else:
            work.group_size[g] = 0
    for j in range(used):
        work.here[j] = work.place[j]
    for a in range(outer):
        work.counter[a] = 0
    return used, outer, block, groups


@plain
def advance(used, outer, work, odometer):
    """Move all inputs on to the next block."""
    for a in range(outer - 1, -1, -1):
        odometer[a] += 1
        if odometer[a] < work.dims[a]:
            for j in range(used):
                work.here[j] += work.stride[j, a]
            return
        odometer[a] = 0
        for j in range(used):
            work.here[j] -= work.stride[j, a] * (work.dims[a] - 1)


@plain
def fill(used, memory, work):
    """Fill ``work.block`` with the sum of all inputs."""
    start = np.int64(0)
    for j in range(used):
        spread(work.block, start, memory, work.here[j], j, j == 0, work)

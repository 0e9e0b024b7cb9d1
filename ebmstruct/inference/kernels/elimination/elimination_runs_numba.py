"""Adding an input to a block of a bucket's table, and sums of a block back to the input, run by run.

The axes of an input are those of ``elimination_tables_numba.Work``: folded, innermost first, with a stride of 0 where the
input does not depend on an axis.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import plain
from ebmstruct.inference.kernels.simd_numba import add, load, splat, store, total


@plain
def add_run(target, to, source, at, step, count, fresh):
    """target[to : to + count] = (or, unless ``fresh``, +=) entries of source, ``step`` apart."""
    if step == 1:
        whole = count - count % 16
        if fresh:
            for i in range(0, whole, 16):
                store(target, to + i, load(source, at + i))
            for i in range(whole, count):
                target[to + i] = source[at + i]
        else:
            for i in range(0, whole, 16):
                store(target, to + i, add(load(target, to + i), load(source, at + i)))
            for i in range(whole, count):
                target[to + i] += source[at + i]
    elif fresh:
        for i in range(count):
            target[to + i] = source[at + i * step]
    else:
        for i in range(count):
            target[to + i] += source[at + i * step]


@plain
def add_period(target, to, source, at, inner, times, fresh, room):
    """Lay ``inner`` (below 16) entries of source ``times`` times over target, by vectors."""
    period = 16 * inner
    for x in range(inner):
        for i in range(x, period, inner):
            room[i] = source[at + x]
    count = inner * times
    whole = count - count % 16
    phase = 0
    for i in range(0, whole, 16):
        value = load(room, phase)
        store(target, to + i, value if fresh else add(load(target, to + i), value))
        phase += 16
        if phase == period:
            phase = 0
    for i in range(whole, count):
        target[to + i] = room[phase] if fresh else target[to + i] + room[phase]
        phase += 1


@plain
def spread(target, to, source, at, j, fresh, work):
    """Add an input to ``target``, contiguous over the folded axes of j; axis 0 of the folded ones is the innermost."""
    count = work.fold[j]
    if count == 0:
        target[to] = source[at] + (0.0 if fresh else target[to])
        return
    inner, step = work.fold_card[j, 0], work.fold_stride[j, 0]
    if count == 1:
        add_run(target, to, source, at, step, inner, fresh)
        return
    second, second_step = work.fold_card[j, 1], work.fold_stride[j, 1]
    third, third_step = (work.fold_card[j, 2], work.fold_stride[j, 2]) if count > 2 else (1, 0)
    runs = 1
    for a in range(3, count):
        runs *= work.fold_card[j, a]
        work.counter[a] = 0
    for _ in range(runs):
        middle = at
        for _ in range(third):
            here = middle
            if inner >= 16:
                for _ in range(second):
                    add_run(target, to, source, here, step, inner, fresh)
                    to += inner
                    here += second_step
            elif second_step == 0 and step == 1 and second > 8:
                add_period(target, to, source, here, inner, second, fresh, work.period)
                to += inner * second
            else:
                for _ in range(second):
                    for x in range(inner):
                        value = source[here + x * step]
                        target[to + x] = value if fresh else target[to + x] + value
                    to += inner
                    here += second_step
            middle += third_step
        for a in range(3, count):
            work.counter[a] += 1
            at += work.fold_stride[j, a]
            if work.counter[a] < work.fold_card[j, a]:
                break
            at -= work.fold_stride[j, a] * work.fold_card[j, a]
            work.counter[a] = 0


@plain
def run_total(source, at, count):
    """The sum of a run."""
    whole = count - count % 16
    sums = splat(0.0)
    for i in range(0, whole, 16):
        sums = add(sums, load(source, at + i))
    out = total(sums) if whole else 0.0
    for i in range(whole, count):
        out += source[at + i]
    return out


@plain
def collect_period(target, at, source, to, inner, times, room):
    """Add ``times`` stretches of ``inner`` entries, one after the other in source, to the same entries of target."""
    count = inner * times
    if 16 % inner == 0:
        whole = count - count % 16
        sums = splat(0.0)
        for i in range(0, whole, 16):
            sums = add(sums, load(source, to + i))
        store(room, 0, sums)
        for i in range(16):
            target[at + i % inner] += room[i]
        for i in range(whole, count):
            target[at + i % inner] += source[to + i]
        return
    for x in range(inner):
        first, second = 0.0, 0.0
        for i in range(x, count - inner, 2 * inner):
            first += source[to + i]
            second += source[to + i + inner]
        if times % 2:
            first += source[to + count - inner + x]
        target[at + x] += first + second


@plain
def collect(target, at, source, to, j, work):
    """The reverse of ``spread``: add ``source``, contiguous over the folded axes of j, to the input at ``at``."""
    count = work.fold[j]
    fresh = np.bool_(False)
    if count == 0:
        target[at] += source[to]
        return
    inner, step = work.fold_card[j, 0], work.fold_stride[j, 0]
    second, second_step = (work.fold_card[j, 1], work.fold_stride[j, 1]) if count > 1 else (np.int64(1), np.int64(0))
    third, third_step = (work.fold_card[j, 2], work.fold_stride[j, 2]) if count > 2 else (1, 0)
    runs = 1
    for a in range(3, count):
        runs *= work.fold_card[j, a]
        work.counter[a] = 0
    for _ in range(runs):
        middle = at
        for _ in range(third):
            here = middle
            if step == 1 and second_step == 0 and inner < 16 and second > 1:
                collect_period(target, here, source, to, inner, second, work.period)
                to += inner * second
            else:
                for _ in range(second):
                    if step == 1 and inner >= 16:
                        add_run(target, here, source, to, step, inner, fresh)
                    elif step == 0:
                        target[here] += run_total(source, to, inner)
                    else:
                        for x in range(inner):
                            target[here + x * step] += source[to + x]
                    to += inner
                    here += second_step
            middle += third_step
        for a in range(3, count):
            work.counter[a] += 1
            at += work.fold_stride[j, a]
            if work.counter[a] < work.fold_card[j, a]:
                break
            at -= work.fold_stride[j, a] * work.fold_card[j, a]
            work.counter[a] = 0

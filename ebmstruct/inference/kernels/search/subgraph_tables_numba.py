"""Exact minimisation over a set of sites that has been grown: bucket elimination from the newest site to the oldest."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, plain
from ebmstruct.inference.kernels.search.sweeps_numba import integer, uniform


@plain
def add_term(out, axis, dims, values, at):
    """Add a table over some of the axes of ``out``, which lies in ``values`` from ``at`` on in the same order of axes.

    axis[0, :dims]: the sizes of all axes.  axis[1, :dims]: whether the term has the axis.  Other rows are scratch.
    """
    runs = 0  # neighbouring axes that the term has, or has not, are one
    for a in range(dims):
        has = axis[1, a]
        if runs > 0 and axis[3, runs - 1] == has:
            axis[2, runs - 1] *= axis[0, a]
        else:
            axis[2, runs] = axis[0, a]
            axis[3, runs] = has
            runs += 1
    step = 1
    for r in range(runs - 1, -1, -1):
        axis[4, r] = step if axis[3, r] else 0
        if axis[3, r]:
            step *= axis[2, r]
        axis[5, r] = 0
    inner = axis[2, runs - 1]
    inside = axis[3, runs - 1] == 1
    middle = axis[2, runs - 2] if runs > 1 else 1
    jump = axis[4, runs - 2] if runs > 1 else 0
    outer = 1
    for r in range(runs - 2):
        outer *= axis[2, r]
    t = 0
    block = middle * inner
    for _ in range(outer):
        table = out[t : t + block]  # a slice has no negative index to look out for, so its loop is wide
        if inside and inner == 2:
            one, two = values[at], values[at + 1]
            for m in range(middle):
                table[2 * m] += one
                table[2 * m + 1] += two
        elif inside:
            row = values[at : at + inner]
            for m in range(middle):
                part = table[m * inner : (m + 1) * inner]
                for j in range(inner):
                    part[j] += row[j]
        elif inner == 2 and jump == 1:
            row = values[at : at + middle]
            for m in range(middle):
                table[2 * m] += row[m]
                table[2 * m + 1] += row[m]
        else:
            for m in range(middle):
                part = table[m * inner : (m + 1) * inner]
                value = values[at + m * jump]
                for j in range(inner):
                    part[j] += value
        t += block
        r = runs - 3
        while r >= 0:
            axis[5, r] += 1
            at += axis[4, r]
            if axis[5, r] < axis[2, r]:
                break
            at -= axis[4, r] * axis[2, r]
            axis[5, r] = 0
            r -= 1


@inlined
def gather_row(problem, work, x, e, p):
    """Cut the row of entry ``e`` down to the set's free sites, if site p is the newest of them.

    Returns how many sites of the row are in the set (0: another is newest); the positions of the older ones are in
    work.axis[6], newest first, and the entries in work.gather. work.axis[7, 0]: the index of the entry at ``x``.
    """
    at = problem.inc_start[e]
    inside = 1
    for o in range(problem.oth_ptr[e], problem.oth_ptr[e + 1]):
        near = problem.oth_site[o]
        q = work.position[near]
        if q > p:
            return 0
        if q < 0:
            at += x[near] * problem.oth_stride[o]
        else:
            j = inside - 1
            while j > 0 and work.axis[6, j - 1] < q:
                work.axis[6, j] = work.axis[6, j - 1]
                j -= 1
            work.axis[6, j] = q
            inside += 1
    weight = problem.inc_weight[e]
    stride = problem.inc_stride[e]
    first = work.choice_start[p]
    states = work.others[p]
    work.axis[7, 0] = work.now[p]
    if inside == 1:
        for k in range(states):
            work.gather[k] = weight * problem.tables[at + work.choice[first + k] * stride]
        return 1
    if inside == 2:
        q = work.axis[6, 0]
        other_stride = 0
        for o in range(problem.oth_ptr[e], problem.oth_ptr[e + 1]):
            if work.position[problem.oth_site[o]] == q:
                other_stride = problem.oth_stride[o]
        begin, others = work.choice_start[q], work.others[q]
        to = 0
        for k in range(states):
            row = at + work.choice[first + k] * stride
            for j in range(others):
                work.gather[to] = weight * problem.tables[row + work.choice[begin + j] * other_stride]
                to += 1
        work.axis[7, 0] = work.now[p] * others + work.now[q]
        return 2
    total = states
    for j in range(inside - 1):
        q = work.axis[6, j]
        total *= work.others[q]
        work.axis[7, 0] = work.axis[7, 0] * work.others[q] + work.now[q]
    for entry in range(total):
        rest, place = entry, at
        for j in range(inside - 2, -1, -1):
            q = work.axis[6, j]
            digit = rest % work.others[q]
            rest //= work.others[q]
            for o in range(problem.oth_ptr[e], problem.oth_ptr[e + 1]):
                if work.position[problem.oth_site[o]] == q:
                    place += work.choice[work.choice_start[q] + digit] * problem.oth_stride[o]
        work.gather[entry] = weight * problem.tables[place + work.choice[first + rest] * stride]
    return inside


@plain
def minimise_first_axis(tables, messages, states_best, states, size, out, first):
    """The least over the first axis, to messages, and where it lies, to states_best; ties go to states from ``first``."""
    message = messages[out : out + size]
    best = states_best[out : out + size]
    k = first
    table = tables[k * size : (k + 1) * size]
    for j in range(size):
        message[j] = table[j]
        best[j] = k
    for _ in range(states - 1):
        k = k + 1 if k + 1 < states else 0
        table = tables[k * size : (k + 1) * size]
        for j in range(size):
            value, old = table[j], message[j]
            less = value < old
            message[j] = value if less else old
            best[j] = k if less else best[j]


@inlined
def eliminate(problem, work, x, taken, noise, random):
    """The fall in energy that the best states of the set's sites bring; they are written to ``x``.

    noise: Gumbel noise of this scale is added to every state's energy first (perturb and minimise, Papandreou and
    Yuille 2011), which makes the answer random; the fall then counts the noise.
    """
    for p in range(taken):
        work.child[p] = -1
    work.message_start[0] = 0
    for p in range(taken):
        work.message_start[p + 1] = work.message_start[p] + work.bag_size[p]
    before, after, size_of_terms = 0.0, 0.0, 0.0
    for p in range(taken - 1, -1, -1):
        site = work.order[p]
        states = work.others[p]
        size = work.bag_size[p]
        first = work.choice_start[p]
        dims = work.bag_len[p] + 1
        for k in range(states):
            work.local[k] = problem.unary[problem.starts[site] + work.choice[first + k]]
            if noise > 0.0:
                work.local[k] += noise * np.log(-np.log(uniform(random) + 1e-300) + 1e-300)
        work.axis[0, 0] = states
        for a in range(1, dims):
            work.axis[0, a] = work.others[work.bag[p, a - 1]]
        for step in range(2):
            for e in range(problem.inc_ptr[site], problem.inc_ptr[site + 1]):
                inside = gather_row(problem, work, x, e, p)
                if step == 0 and inside == 1:
                    for k in range(states):
                        work.local[k] += work.gather[k]
                elif step == 1 and inside > 1:
                    before += work.gather[work.axis[7, 0]]
                    size_of_terms += abs(work.gather[work.axis[7, 0]])
                    work.axis[1, 0] = 1
                    j = 0
                    for a in range(1, dims):
                        work.axis[1, a] = 0
                        if j < inside - 1 and work.axis[6, j] == work.bag[p, a - 1]:
                            work.axis[1, a] = 1
                            j += 1
                    add_term(work.table, work.axis, dims, work.gather, 0)
            if step == 0:
                before += work.local[work.now[p]]
                size_of_terms += abs(work.local[work.now[p]])
                for k in range(states):
                    value = work.local[k]
                    table = work.table[k * size : (k + 1) * size]
                    for j in range(size):
                        table[j] = value
        c = work.child[p]
        while c >= 0:
            work.axis[1, 0] = 1
            i = 1
            for a in range(1, dims):
                work.axis[1, a] = 0
                if i < work.bag_len[c] and work.bag[c, i] == work.bag[p, a - 1]:
                    work.axis[1, a] = 1
                    i += 1
            add_term(work.table, work.axis, dims, work.message, work.message_start[c])
            c = work.sibling[c]
        out = work.message_start[p]
        minimise_first_axis(work.table, work.message, work.best, states, size, out, integer(random, states))
        if dims == 1:
            after += work.message[out]
        else:
            parent = work.bag[p, 0]
            work.sibling[p] = work.child[parent]
            work.child[parent] = p
    for p in range(taken):
        at = 0
        for a in range(work.bag_len[p]):
            q = work.bag[p, a]
            at = at * work.others[q] + work.now[q]
        work.now[p] = work.best[work.message_start[p] + at]
        x[work.order[p]] = work.choice[work.choice_start[p] + work.now[p]]
    fall = before - after
    return fall if fall > 1e-9 + 1e-12 * size_of_terms else 0.0  # less is rounding, which would never end

"""Subgraph moves one after another, regions to work in, and the crossover of two labellings."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain
from ebmstruct.inference.kernels.search.subgraph_growth_numba import FUSE, grow, mark_band
from ebmstruct.inference.kernels.search.subgraph_tables_numba import eliminate
from ebmstruct.inference.kernels.search.sweeps_numba import integer, uniform


@plain
def pick(work, x, other, region, kind, random):
    """A site of the region to start from: the least tired of a few drawn at random; -1 if none can change."""
    chosen = -1
    for _ in range(3 if kind != FUSE else 200):
        site = region[integer(random, region.size)]
        if kind == FUSE:
            if x[site] != other[site]:
                return site
        elif chosen < 0 or work.tired[site] < work.tired[chosen]:
            chosen = site
    return chosen


@kernel
def descend(problem, work, x, other, region, moves, random, budget, idle):
    """Subgraph moves in place from sites of ``region``, for about ``budget`` nanoseconds or until it is tired.

    other: the labelling whose states FUSE may take.  idle: sites covered since the energy last fell; -1 for a start,
    where every site is fresh. Returns the fall in energy and ``idle``, negative once nothing is left to do.
    """
    n = problem.starts.size - 1
    spent, gain = 0.0, 0.0
    if idle < 0:
        work.tired[:] = 0
        idle = 0
    while spent < budget:
        start = pick(work, x, other, region, moves.kind, random)
        if start < 0 or idle > moves.rest * region.size + 50:
            return gain, -1
        limit = min(int(2.0 ** (moves.low + (moves.high - moves.low) * uniform(random))), work.table.size)
        largest = int(2.0 ** (moves.fewest + (moves.largest - moves.fewest) * uniform(random)))
        largest = min(largest, work.order.size)
        draw = uniform(random)
        policy = 0 if draw < 0.7 else (1 if draw < 0.8 else (2 if draw < 0.9 else 3))
        if policy == 3:
            thick = 1 + integer(random, int(np.log2(limit)))
            start = mark_band(problem, work, start, min(n, 16 * largest), thick, random)
            spent += 40.0 * min(n, 16 * largest)
            largest = work.order.size
        taken = grow(problem, work, x, other, moves, start, limit, largest, policy, random)
        fall = 0.0
        if taken > 0:
            fall = eliminate(problem, work, x, taken, moves.noise, random)
        better = fall > 0.0
        if better:
            gain += fall
            idle = 0
        idle += taken + 1
        spent += 400.0
        if taken == 0:
            work.tired[start] += 1
        for p in range(taken):
            site = work.order[p]
            work.position[site] = -1
            rows = problem.inc_ptr[site + 1] - problem.inc_ptr[site]
            spent += 400.0 + 60.0 * rows + 3.0 * work.bag_size[p] * work.others[p]
            if better:
                work.tired[site] = 0
                for i in range(problem.nb_ptr[site], problem.nb_ptr[site + 1]):
                    work.tired[problem.nb_site[i]] = 0
            else:
                work.tired[site] += 1
    return gain, idle


@kernel
def balls(problem, work, random, wanted, out):
    """Fill ``out`` with ``wanted`` sites or so: breadth-first balls around random sites; returns how many."""
    n = problem.starts.size - 1
    work.stamp[0] += 1
    stamp = work.stamp[0]
    head, tail, tries = 0, 0, 0
    while tail < wanted and tries < 20 * wanted:
        if head == tail:
            tries += 1
            root = integer(random, n)
            if work.seen[root] == stamp:
                continue
            work.seen[root] = stamp
            out[tail] = root
            tail += 1
        site = out[head]
        head += 1
        for i in range(problem.nb_ptr[site], problem.nb_ptr[site + 1]):
            near = problem.nb_site[i]
            if work.seen[near] != stamp and tail < wanted:
                work.seen[near] = stamp
                out[tail] = near
                tail += 1
    return tail


@plain
def row_delta(problem, x, other, e, site, mark, stamp):
    """What row ``e`` of ``site`` changes by when the sites marked ``stamp`` switch from ``x`` to ``other``.

    Counted by the first marked site of the row only: 0 for the others.
    """
    row = problem.inc_row[e]
    old = problem.table_start[row]
    new = old
    first = True
    for s in range(problem.row_ptr[row], problem.row_ptr[row + 1]):
        near = problem.row_sites[s]
        old += x[near] * problem.row_stride[s]
        if mark[near] == stamp:
            if first and near != site:
                return 0.0
            first = False
            new += other[near] * problem.row_stride[s]
        else:
            new += x[near] * problem.row_stride[s]
    return problem.weights[row] * (problem.tables[new] - problem.tables[old])


@kernel
def crossover(problem, work, x, other):
    """Switch in ``x`` each connected component of the sites where it differs from ``other`` that lowers the energy.

    Components share no row, so each switch counts for itself (the clusters of Houdayer 2001, taken greedily).
    Returns the fall in energy and the number of components.
    """
    n = problem.starts.size - 1
    gain, components = 0.0, 0
    work.stamp[0] += 1
    done = work.stamp[0]
    for start in range(n):
        if x[start] == other[start] or work.seen[start] >= done:
            continue
        work.stamp[0] += 1
        stamp = work.stamp[0]
        work.frontier[0] = start
        work.seen[start] = stamp
        head, tail = 0, 1
        while head < tail:
            site = work.frontier[head]
            head += 1
            for i in range(problem.nb_ptr[site], problem.nb_ptr[site + 1]):
                near = problem.nb_site[i]
                if work.seen[near] < done and x[near] != other[near]:
                    work.seen[near] = stamp
                    work.frontier[tail] = near
                    tail += 1
        delta = 0.0
        for i in range(tail):
            site = work.frontier[i]
            first = problem.starts[site]
            delta += problem.unary[first + other[site]] - problem.unary[first + x[site]]
            for e in range(problem.inc_ptr[site], problem.inc_ptr[site + 1]):
                delta += row_delta(problem, x, other, e, site, work.seen, stamp)
        components += 1
        if delta < 0.0:
            gain -= delta
            for i in range(tail):
                x[work.frontier[i]] = other[work.frontier[i]]
    return gain, components

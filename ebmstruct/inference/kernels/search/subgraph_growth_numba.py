"""Growing a connected set of sites over which energies can be minimised exactly, the other sites fixed.

Sites of a set are numbered in the order in which they were taken, and eliminated from the last to the first. The *bag*
of a site holds the earlier sites that its elimination joins; taking one more site changes the bags along one path
of the elimination tree (symbolic factorisation row by row), so a site that would make a table too large is known,
and left out, at once. All tables have the newest site's axis first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, plain
from ebmstruct.inference.kernels.search.sweeps_numba import integer

WIDTH = 24
"""The most sites of a bag."""

TAKEN = 20000
"""The most sites of a set."""

FULL, FUSE, SOME = 0, 1, 2
"""Which states a move may give a site: all; its own and another labelling's; its own and some others."""


class Work(NamedTuple):
    """Scratch of moves; only ``position`` (-1 everywhere) and ``seen`` (with ``stamp``) hold between moves."""

    position: np.ndarray
    seen: np.ndarray
    stamp: np.ndarray
    frontier: np.ndarray
    order: np.ndarray
    others: np.ndarray
    choice_start: np.ndarray
    choice: np.ndarray
    now: np.ndarray
    bag: np.ndarray
    bag_len: np.ndarray
    bag_size: np.ndarray
    log: np.ndarray
    log_site: np.ndarray
    log_len: np.ndarray
    log_size: np.ndarray
    child: np.ndarray
    sibling: np.ndarray
    message_start: np.ndarray
    message: np.ndarray
    best: np.ndarray
    table: np.ndarray
    gather: np.ndarray
    local: np.ndarray
    axis: np.ndarray
    tired: np.ndarray
    level: np.ndarray
    visited: np.ndarray


class Moves(NamedTuple):
    """How moves are drawn.

    kind, most: which states a site may take (FULL, FUSE, SOME), and how many of them (SOME).
    low, high: the range of the binary logarithm of the largest table.  fewest, largest: the same of the set's size.
    rest: moves stop once they have covered this many times the region without finding anything.
    noise: scale of the noise on the energies of states; 0 for exact descent.
    """

    kind: int
    most: int
    low: float
    high: float
    fewest: float
    largest: float
    rest: float
    noise: float


def make_work(sites: int, states: int, most_states: int, limit: int, cap: int) -> Work:
    """Scratch for moves over at most TAKEN sites, tables of ``limit`` entries, and ``cap`` entries of messages."""

    def whole(*shape, dtype=np.int64):
        return np.zeros(shape, dtype)

    taken = min(sites, TAKEN)

    return Work(
        position=np.full(sites, -1, np.int64),
        seen=whole(sites),
        stamp=whole(1),
        frontier=whole(sites),
        order=whole(taken),
        others=whole(taken),
        choice_start=whole(taken + 1),
        choice=whole(max(1, states)),
        now=whole(taken),
        bag=whole(taken, WIDTH),
        bag_len=whole(taken),
        bag_size=whole(taken),
        log=whole(taken, WIDTH),
        log_site=whole(taken),
        log_len=whole(taken),
        log_size=whole(taken),
        child=whole(taken),
        sibling=whole(taken),
        message_start=whole(taken + 1),
        message=np.zeros(cap),
        best=whole(cap, dtype=np.int16),
        table=np.zeros(limit),
        gather=np.zeros(limit),
        local=np.zeros(max(1, most_states)),
        axis=whole(8, WIDTH + 2),
        tired=whole(sites),
        level=whole(sites),
        visited=whole(sites),
    )


@inlined
def choose_states(problem, work, x, other, kind, most, site, at, random):
    """Write the states that a move may give ``site`` from ``at`` on, and return how many; ``x``'s is among them."""
    k = problem.starts[site + 1] - problem.starts[site]
    if kind == FUSE:
        work.choice[at] = x[site]
        if other[site] == x[site]:
            return 1
        work.choice[at + 1] = other[site]
        return 2
    if kind == SOME and k > most:
        work.choice[at] = x[site]
        count = 1
        while count < most:
            state = integer(random, k)
            fresh = True
            for i in range(count):
                if work.choice[at + i] == state:
                    fresh = False
            if fresh:
                work.choice[at + count] = state
                count += 1
        return count
    for i in range(k):
        work.choice[at + i] = i
    return k


@inlined
def insert(problem, work, site, p, states, limit, room):
    """Whether ``site`` can be taken as the set's p-th without a table beyond ``limit`` or more than ``room`` entries.

    Returns the entries that taking it adds, or -1. Its bag and those that it changes are written if it can.
    """
    length = 0
    for i in range(problem.nb_ptr[site], problem.nb_ptr[site + 1]):
        q = work.position[problem.nb_site[i]]
        if q >= 0:
            if length == WIDTH:
                return -1
            j = length
            while j > 0 and work.bag[p, j - 1] < q:
                work.bag[p, j] = work.bag[p, j - 1]
                j -= 1
            work.bag[p, j] = q
            length += 1
    size = 1
    for i in range(length):
        size *= work.others[work.bag[p, i]]
        if size * states > limit:
            return -1
    own = size
    added = size * states
    if added > room:
        return -1
    steps = 0
    source = p
    from_log = False
    here = length
    while here > 1:
        a = work.log[source, 0] if from_log else work.bag[source, 0]
        i, j, made, size = 1, 0, 0, 1
        old = work.bag_len[a]
        while i < here or j < old:
            left = -1
            if i < here:
                left = work.log[source, i] if from_log else work.bag[source, i]
            right = work.bag[a, j] if j < old else -1
            if made == WIDTH:
                return -1
            taken = max(left, right)
            if left == taken:
                i += 1
            if right == taken:
                j += 1
            work.log[steps, made] = taken
            made += 1
            size *= work.others[taken]
            if size * work.others[a] > limit:
                return -1
        if made == old:
            break
        added += (size - work.bag_size[a]) * work.others[a]
        if added > room:
            return -1
        work.log_site[steps] = a
        work.log_len[steps] = made
        work.log_size[steps] = size
        source = steps
        from_log = True
        here = made
        steps += 1
    for s in range(steps):
        a = work.log_site[s]
        for i in range(work.log_len[s]):
            work.bag[a, i] = work.log[s, i]
        work.bag_len[a] = work.log_len[s]
        work.bag_size[a] = work.log_size[s]
    work.bag_len[p] = length
    work.bag_size[p] = own
    return added


@inlined
def mark_band(problem, work, root, reach, thick, random):
    """Mark a band of ``thick`` levels of the breadth-first search from ``root``, at most ``reach`` sites around it.

    Sites of the band get seen = -stamp. Returns a site of the band to start from.
    """
    work.stamp[0] += 1
    stamp = work.stamp[0]
    work.visited[0] = root
    work.seen[root] = stamp
    work.level[root] = 0
    head, tail = 0, 1
    while head < tail and tail < reach:
        site = work.visited[head]
        head += 1
        for i in range(problem.nb_ptr[site], problem.nb_ptr[site + 1]):
            near = problem.nb_site[i]
            if work.seen[near] != stamp:
                work.seen[near] = stamp
                work.level[near] = work.level[site] + 1
                work.visited[tail] = near
                tail += 1
    inner = work.level[work.visited[integer(random, tail)]]
    chosen, found = root, 0
    for i in range(tail):
        site = work.visited[i]
        if inner <= work.level[site] < inner + thick:
            work.seen[site] = -stamp
            found += 1
            if integer(random, found) == 0:
                chosen = site
    return chosen


@plain
def joined(nb_ptr, nb_site, position, site):
    """How many sites of the set are neighbours of ``site``."""
    count = 0
    for i in range(nb_ptr[site], nb_ptr[site + 1]):
        if position[nb_site[i]] >= 0:
            count += 1
    return count


@inlined
def grow(problem, work, x, other, moves, start, limit, largest, policy, random):
    """Take sites from ``start`` on, neighbours of those taken, while tables stay small; returns how many.

    policy: 0 first come first served, 1 at random, 2 the better connected of two at random, 3 as 0 inside the band
    that ``mark_band`` has marked last.
    """
    cap = work.message.size
    banded = policy == 3
    within = -work.stamp[0]
    work.stamp[0] += 1
    stamp = work.stamp[0]
    work.frontier[0] = start
    work.seen[start] = stamp
    head, tail = 0, 1
    taken, entries = 0, 0
    work.choice_start[0] = 0
    while head < tail and taken < largest:
        place = head
        if policy == 1 or policy == 2:
            place = head + integer(random, tail - head)
        if policy == 2:
            rival = head + integer(random, tail - head)
            mine = joined(problem.nb_ptr, problem.nb_site, work.position, work.frontier[place])
            if joined(problem.nb_ptr, problem.nb_site, work.position, work.frontier[rival]) > mine:
                place = rival
        site = work.frontier[place]
        work.frontier[place] = work.frontier[head]
        head += 1
        at = work.choice_start[taken]
        states = choose_states(problem, work, x, other, moves.kind, moves.most, site, at, random)
        if states == 1:
            continue
        added = insert(problem, work, site, taken, states, limit, cap - entries)
        if added < 0:
            continue
        entries += added
        work.position[site] = taken
        work.order[taken] = site
        work.others[taken] = states
        for i in range(states):
            if work.choice[at + i] == x[site]:
                work.now[taken] = i
        taken += 1
        work.choice_start[taken] = at + states
        before = tail
        for i in range(problem.nb_ptr[site], problem.nb_ptr[site + 1]):
            near = problem.nb_site[i]
            if work.seen[near] != stamp and (not banded or work.seen[near] == within):
                work.seen[near] = stamp
                work.frontier[tail] = near
                tail += 1
        for i in range(tail - 1, before, -1):
            j = before + integer(random, i - before + 1)
            work.frontier[i], work.frontier[j] = work.frontier[j], work.frontier[i]
    return taken

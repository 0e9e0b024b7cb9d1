"""Maximum flow on any graph: the method of ``maxflow_grid_numba``, with arcs in lists.

Records of 32 bytes a node and 16 bytes an arc, seen both as int32 and as float64:
  node[8 * i + 2 ... 7]: first arc, arc to the parent (or TERMINAL, ORPHAN, FREE), time stamp, distance to the
    terminal, flags, end of the arcs;  room[4 * i], the first 8 bytes: what the source can still send to the node, less
    what the node can still send to the sink;
  arc[4 * a + 0, 1]: the node at its end, the arc that runs back;  cap[2 * a + 1]: what it can still carry.
Capacities hold whole multiples of a quantum, below 2**53, so that every sum is exact, pushes saturate arcs exactly and
the flow ends; int32 records were no faster. Boykov and Kolmogorov (2004).
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel

TERMINAL, ORPHAN, FREE = -1, -2, -3
SINK, QUEUED = 1, 2
FIRST, PARENT, STAMP, DISTANCE, FLAGS, END = 2, 3, 4, 5, 6, 7
FAR = 1 << 30
CHUNK = 1 << 14
"""Nodes looked at in one call, a few hundred microseconds; the rest is left for the next."""


@inlined
def _of(i, field):
    return np.uint64(8 * i + field)  # unsigned: numba then leaves out its check for indices that count from the end


@inlined
def _head(a):
    return np.uint64(4 * a)


@inlined
def _sister(a):
    return np.uint64(4 * a + 1)


@inlined
def _room(i):
    return np.uint64(4 * i)


@inlined
def _cap(a):
    return np.uint64(2 * a + 1)


@inlined
def _activate(i, node, queue, state):
    flags = node[_of(i, FLAGS)]
    if not flags & QUEUED:
        node[_of(i, FLAGS)] = flags | QUEUED
        tail = state[1]
        queue[tail] = i
        tail += 1
        state[1] = 0 if tail == queue.size else tail


@inlined
def _push_up(i, amount, side, room, node, arc, cap, orphans, count):
    """Send flow between a node and its terminal; nodes whose arc is full become orphans."""
    while True:
        a = node[_of(i, PARENT)]
        if a == TERMINAL:
            left = room[_room(i)] + (amount if side else -amount)
            room[_room(i)] = left
            if left == 0:
                node[_of(i, PARENT)] = ORPHAN
                orphans[count] = i
                count += 1
            return count
        toward, back = a, arc[_sister(a)]
        if not side:
            toward, back = back, toward
        cap[_cap(back)] += amount
        left = cap[_cap(toward)] - amount
        cap[_cap(toward)] = left
        if left == 0:
            node[_of(i, PARENT)] = ORPHAN
            orphans[count] = i
            count += 1
        i = arc[_head(a)]


@inlined
def _narrowest(i, bottleneck, side, room, node, arc, cap):
    """The least of ``bottleneck`` and what the path between a node and its terminal can carry."""
    while True:
        a = node[_of(i, PARENT)]
        if a == TERMINAL:
            last = room[_room(i)]
            return min(bottleneck, -last if side else last)
        bottleneck = min(bottleneck, cap[_cap(a if side else arc[_sister(a)])])
        i = arc[_head(a)]


@inlined
def _adopt(orphans, count, time, node, arc, cap, queue, state):
    """Find new parents for ``count`` orphans and for those that this makes; return the nodes looked at."""
    head, tail, first = 0, count, count - 1
    work = 0
    while head < tail:
        i = orphans[first - head] if head <= first else orphans[head]
        head += 1
        work += 1
        tree = node[_of(i, FLAGS)] & SINK
        best, least = -1, FAR
        begin, end = node[_of(i, FIRST)], node[_of(i, END)]
        for a in range(begin, end):
            if cap[_cap(a if tree else arc[_sister(a)])] <= 0:
                continue
            j = arc[_head(a)]
            if (node[_of(j, FLAGS)] & SINK) != tree or node[_of(j, PARENT)] == FREE:
                continue
            length = 0
            k = j
            while True:
                if node[_of(k, STAMP)] == time:
                    length += node[_of(k, DISTANCE)]
                    break
                up = node[_of(k, PARENT)]
                length += 1
                if up == TERMINAL:
                    node[_of(k, STAMP)] = time
                    node[_of(k, DISTANCE)] = 1
                    break
                if up == ORPHAN:
                    length = FAR
                    break
                k = arc[_head(up)]
            if length < FAR:
                if length < least:
                    best, least = a, length
                k = j
                while node[_of(k, STAMP)] != time:
                    node[_of(k, STAMP)] = time
                    node[_of(k, DISTANCE)] = length
                    length -= 1
                    k = arc[_head(node[_of(k, PARENT)])]
        if best >= 0:
            node[_of(i, STAMP)] = time
            node[_of(i, DISTANCE)] = least + 1
            node[_of(i, PARENT)] = best
            continue
        node[_of(i, PARENT)] = FREE
        for a in range(begin, end):
            j = arc[_head(a)]
            up = node[_of(j, PARENT)]
            if (node[_of(j, FLAGS)] & SINK) != tree or up == FREE:
                continue
            back = arc[_sister(a)]
            if cap[_cap(a if tree else back)] > 0:
                _activate(j, node, queue, state)
            if up == back:
                node[_of(j, PARENT)] = ORPHAN
                orphans[tail] = j
                tail += 1
    return work


@inlined
def _run(room, node, arc, cap, queue, orphans, state, chunk):
    """Grow, push and adopt until no path is left (True) or about ``chunk`` nodes have been looked at (False)."""
    work = 0
    time = state[2]
    current = state[3]
    while work < chunk:
        i = current
        current = -1
        if i < 0:
            head = state[0]
            if head == state[1]:
                state[2], state[3] = time, -1
                return True
            i = queue[head]
            head += 1
            state[0] = 0 if head == queue.size else head
            node[_of(i, FLAGS)] &= ~QUEUED
        if node[_of(i, PARENT)] == FREE:
            continue
        work += 1
        tree = node[_of(i, FLAGS)] & SINK
        met = -1
        stamp, distance = node[_of(i, STAMP)], node[_of(i, DISTANCE)]
        for a in range(node[_of(i, FIRST)], node[_of(i, END)]):
            if cap[_cap(arc[_sister(a)] if tree else a)] <= 0:
                continue
            j = arc[_head(a)]
            parent, flags = node[_of(j, PARENT)], node[_of(j, FLAGS)]
            if parent == FREE:
                node[_of(j, PARENT)] = arc[_sister(a)]
                node[_of(j, STAMP)] = stamp
                node[_of(j, DISTANCE)] = distance + 1
                node[_of(j, FLAGS)] = (flags & QUEUED) | tree
                _activate(j, node, queue, state)
            elif (flags & SINK) != tree:
                met = a
                break
            elif node[_of(j, STAMP)] <= stamp and node[_of(j, DISTANCE)] > distance and parent >= 0:
                node[_of(j, PARENT)] = arc[_sister(a)]
                node[_of(j, STAMP)] = stamp
                node[_of(j, DISTANCE)] = distance + 1
        time += 1
        if met < 0:
            continue
        current = i
        back = arc[_sister(met)]
        if tree:
            met, back = back, met
        start, goal = arc[_head(back)], arc[_head(met)]
        amount = _narrowest(start, cap[_cap(met)], 0, room, node, arc, cap)
        amount = _narrowest(goal, amount, 1, room, node, arc, cap)
        cap[_cap(met)] -= amount
        cap[_cap(back)] += amount
        count = _push_up(start, amount, 0, room, node, arc, cap, orphans, 0)
        count = _push_up(goal, amount, 1, room, node, arc, cap, orphans, count)
        work += _adopt(orphans, count, time, node, arc, cap, queue, state)
    state[2], state[3] = time, current
    return False


@inlined
def _start(room, node, arc, cap, queue, state):
    """Carry excess and deficit to later nodes, then set up the trees and queue the nodes that can grow.

    Carrying moves whatever a node has to the neighbours of higher number, as far as arcs allow: along a chain that is
    elimination, and elsewhere it cancels much of what the trees would have to find.
    """
    sites = node.size // 8
    for i in range(sites):
        for a in range(node[_of(i, FIRST)], node[_of(i, END)]):
            j = arc[_head(a)]
            if j > i:
                back = arc[_sister(a)]
                amount = min(max(room[_room(i)], -cap[_cap(back)]), cap[_cap(a)])
                room[_room(i)] -= amount
                room[_room(j)] += amount
                cap[_cap(a)] -= amount
                cap[_cap(back)] += amount
    for i in range(sites):
        excess = room[_room(i)]
        node[_of(i, STAMP)] = 0
        node[_of(i, DISTANCE)] = 1
        node[_of(i, PARENT)] = FREE if excess == 0 else TERMINAL
        node[_of(i, FLAGS)] = SINK if excess < 0 else 0
    count = 0
    for i in range(sites):
        excess = room[_room(i)]
        useful = False
        if excess != 0:
            for a in range(node[_of(i, FIRST)], node[_of(i, END)]):
                other = room[_room(arc[_head(a)])]
                if excess > 0:
                    useful |= (other <= 0) & (cap[_cap(a)] > 0)
                else:
                    useful |= (other >= 0) & (cap[_cap(arc[_sister(a)])] > 0)
        if useful:
            node[_of(i, FLAGS)] |= QUEUED
            queue[count] = i
            count += 1
    state[0], state[1], state[2], state[3] = 0, count, 1, -1


@kernel
def measure(first, second, forth, back, excess):
    """Four numbers: the greatest finite capacity around one node, the sum of all excess regardless of sign, how many
    capacities are infinite, and how many finite capacities and excesses are no integers."""
    around = np.abs(excess)
    total = 0.0
    broken, infinite = 0, 0
    for i in range(excess.size):
        total += around[i]
        broken += around[i] != np.floor(around[i])
    for e in range(first.size):
        for w in (forth[e], back[e]):
            if w == np.inf:
                infinite += 1
            else:
                broken += w != np.floor(w)
                around[first[e]] += w
                around[second[e]] += w
    high = 0.0
    for i in range(excess.size):
        high = max(high, around[i])
    return high, total, infinite, broken


@kernel
def build(first, second, forth, back, excess, scale, most, room, node, arc, cap):
    """Fill the records of a graph with n nodes and m edges; all capacities in multiples of 1 / scale.

    first, second (m,): the nodes of each edge, two different ones.  forth, back (m,): what it carries from the first to
    the second and back; more than ``most`` multiples count as that many, which must be more than can ever flow.
    excess (n,): capacity from the source, less capacity to the sink.  room, node: 32 n bytes; arc, cap: 32 m bytes.
    """
    sites, edges = excess.size, first.size
    for i in range(sites):
        node[_of(i, END)] = 0
        room[_room(i)] = np.rint(excess[i] * scale)
    for e in range(edges):
        node[_of(first[e], END)] += 1
        node[_of(second[e], END)] += 1
    total = 0
    for i in range(sites):
        node[_of(i, FIRST)] = total
        total += node[_of(i, END)]
        node[_of(i, END)] = node[_of(i, FIRST)]
    for e in range(edges):
        i, j = first[e], second[e]
        a, b = node[_of(i, END)], node[_of(j, END)]
        node[_of(i, END)] = a + 1
        node[_of(j, END)] = b + 1
        arc[_head(a)], arc[_sister(a)] = j, b
        arc[_head(b)], arc[_sister(b)] = i, a
        cap[_cap(a)] = min(np.rint(forth[e] * scale), most)
        cap[_cap(b)] = min(np.rint(back[e] * scale), most)


@kernel
def run(room, node, arc, cap, queue, orphans, state, chunk):
    """Work on a flow for about ``chunk`` nodes; whether it is at its maximum.

    state: (4,) int64, zeros to begin with.  queue, orphans: int32 of length n + 1.
    """
    if state[2] == 0:
        _start(room, node, arc, cap, queue, state)
    return _run(room, node, arc, cap, queue, orphans, state, chunk)


@kernel
def cut(node, out):
    """The side of each node: 0 in the source's tree, 1 in the sink's, 2 in neither (both sides are least cuts)."""
    for i in range(out.size):
        free = node[8 * i + PARENT] == FREE
        out[i] = 2 if free else node[8 * i + FLAGS] & SINK


@kernel
def flows(first, second, forth, scale, most, node, cap, flow, left):
    """flow (m,): what flows along each edge, from its first node to its second.

    left (2, m), or of no length: what each edge can still carry, from first to second and back, in whole quanta.
    """
    sites = node.size // 8
    at = np.empty(sites, np.int64)  # arcs were handed out in the order of the edges: each node's come in turn
    for i in range(sites):
        at[i] = node[_of(i, FIRST)]
    for e in range(first.size):
        i, j = first[e], second[e]
        a, b = at[i], at[j]
        at[i] += 1
        at[j] += 1
        flow[e] = (min(np.rint(forth[e] * scale), most) - cap[_cap(a)]) / scale
        if left.size:
            left[0, e], left[1, e] = cap[_cap(a)], cap[_cap(b)]

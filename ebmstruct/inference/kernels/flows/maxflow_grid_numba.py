"""Maximum flow on 4-connected grids: two search trees, neighbours without an index, one short record a node.

The method is that of Boykov and Kolmogorov (2004): trees grow from the source and the sink, meet, flow is pushed along
the path, and what hangs loose is adopted by other parents. Distances to the terminals, with the time at which they
were found, keep paths short (Kolmogorov 2004, section 2.2 of his thesis).

A node's record has 5 capacities and 3 counters of 32 bits. ``cap`` and ``node`` are two views of the same memory:
  cap[8 * i + d], d = 0 ... 3: what the arc to the right, left, lower and upper neighbour can still carry;
  cap[8 * i + 4]: what the source can still send to the node, less what the node can still send to the sink;
  node[S * i + T + 0, 1, 2]: time stamp, distance to the terminal, flags.
Capacities are int32 (S = 8, T = 5: 32 bytes a node) where all costs are integers that fit, else float64 holding
integers below 2**53 (S = 16, T = 10: 64 bytes a node): multiples of a quantum, so that every sum is exact, pushes
saturate arcs exactly and the flow ends. Infinite capacities are not for grids.
Flags: bits 0-2 the direction of the parent, or TERMINAL, ORPHAN, FREE; bit 3 set in the sink's tree; bit 4 queued.
A row's width of empty records lies before and after the pixels, and arcs that leave the grid have capacity 0, so
nothing looks at borders.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel

TERMINAL, ORPHAN, FREE, SINK, QUEUED = 4, 5, 6, 8, 16
FAR = 1 << 30
CHUNK = 1 << 14
"""Nodes looked at in one call, a few hundred microseconds; the rest is left for the next."""


@inlined
def _arc(i, d):
    return np.uint64(8 * i + d)  # unsigned: numba then leaves out its check for indices that count from the end


@inlined
def _at(i, S, T):
    return np.uint64(S * i + T)


@inlined
def _offset(d, width):
    step = 1 if d < 2 else width
    return step - 2 * step * (d & 1)


@inlined
def _activate(i, node, S, T, queue, state):
    flags = node[_at(i, S, T + 2)]
    if not flags & QUEUED:
        node[_at(i, S, T + 2)] = flags | QUEUED
        tail = state[1]
        queue[tail] = i
        tail += 1
        state[1] = 0 if tail == queue.size else tail


@inlined
def _push_up(i, amount, side, cap, node, S, T, width, orphans, count):
    """Send flow between a node and its terminal; nodes whose arc is full become orphans."""
    while True:
        flags = node[_at(i, S, T + 2)]
        d = flags & 7
        if d == TERMINAL:
            left = cap[_arc(i, 4)] + (amount if side else -amount)
            cap[_arc(i, 4)] = left
            if left == 0:
                node[_at(i, S, T + 2)] = (flags & ~7) | ORPHAN
                orphans[count] = i
                count += 1
            return count
        j = i + _offset(d, width)
        toward, back = _arc(i, d), _arc(j, d ^ 1)
        if not side:
            toward, back = back, toward
        cap[back] += amount
        left = cap[toward] - amount
        cap[toward] = left
        if left == 0:
            node[_at(i, S, T + 2)] = (flags & ~7) | ORPHAN
            orphans[count] = i
            count += 1
        i = j


@inlined
def _narrowest(i, bottleneck, side, cap, node, S, T, width):
    """The least of ``bottleneck`` and what the path between a node and its terminal can carry."""
    while True:
        d = node[_at(i, S, T + 2)] & 7
        if d == TERMINAL:
            last = cap[_arc(i, 4)]
            return min(bottleneck, -last if side else last)
        j = i + _offset(d, width)
        bottleneck = min(bottleneck, cap[_arc(i, d)] if side else cap[_arc(j, d ^ 1)])
        i = j


@inlined
def _adopt(orphans, count, time, cap, node, S, T, width, queue, state):
    """Find new parents for ``count`` orphans and for those that this makes; return the nodes looked at."""
    head, tail, first = 0, count, count - 1
    work = 0
    while head < tail:
        i = orphans[first - head] if head <= first else orphans[head]
        head += 1
        work += 1
        own = node[_at(i, S, T + 2)]
        tree = own & SINK
        best, least = -1, FAR
        for d in range(4):
            j = i + _offset(d, width)
            flags = node[_at(j, S, T + 2)]
            if (flags & SINK) != tree or (flags & 7) == FREE:
                continue
            if cap[_arc(i, d) if tree else _arc(j, d ^ 1)] <= 0:
                continue
            length = 0
            k = j
            while True:
                if node[_at(k, S, T)] == time:
                    length += node[_at(k, S, T + 1)]
                    break
                up = node[_at(k, S, T + 2)] & 7
                length += 1
                if up == TERMINAL:
                    node[_at(k, S, T)] = time
                    node[_at(k, S, T + 1)] = 1
                    break
                if up == ORPHAN:
                    length = FAR
                    break
                k += _offset(up, width)
            if length < FAR:
                if length < least:
                    best, least = d, length
                k = j
                while node[_at(k, S, T)] != time:
                    node[_at(k, S, T)] = time
                    node[_at(k, S, T + 1)] = length
                    length -= 1
                    k += _offset(node[_at(k, S, T + 2)] & 7, width)
        if best >= 0:
            node[_at(i, S, T)] = time
            node[_at(i, S, T + 1)] = least + 1
            node[_at(i, S, T + 2)] = (own & ~7) | best
            continue
        node[_at(i, S, T + 2)] = (own & ~7) | FREE
        for d in range(4):
            j = i + _offset(d, width)
            flags = node[_at(j, S, T + 2)]
            up = flags & 7
            if (flags & SINK) != tree or up == FREE:
                continue
            if cap[_arc(i, d) if tree else _arc(j, d ^ 1)] > 0:
                _activate(j, node, S, T, queue, state)
            if up == d ^ 1:
                node[_at(j, S, T + 2)] = (node[_at(j, S, T + 2)] & ~7) | ORPHAN
                orphans[tail] = j
                tail += 1
    return work


@inlined
def _run(cap, node, S, T, width, queue, orphans, state, chunk):
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
            node[_at(i, S, T + 2)] &= ~QUEUED
        flags = node[_at(i, S, T + 2)]
        if flags & 7 == FREE:
            continue
        work += 1
        tree = flags & SINK
        met, way = -1, 0
        stamp, distance = node[_at(i, S, T)], node[_at(i, S, T + 1)]
        for d in range(4):
            j = i + _offset(d, width)
            if cap[_arc(j, d ^ 1) if tree else _arc(i, d)] <= 0:
                continue
            other = node[_at(j, S, T + 2)]
            if other & 7 == FREE:
                node[_at(j, S, T)] = stamp
                node[_at(j, S, T + 1)] = distance + 1
                node[_at(j, S, T + 2)] = (other & QUEUED) | tree | (d ^ 1)
                _activate(j, node, S, T, queue, state)
            elif (other & SINK) != tree:
                met, way = j, d
                break
            elif node[_at(j, S, T)] <= stamp and node[_at(j, S, T + 1)] > distance and other & 7 < TERMINAL:
                node[_at(j, S, T)] = stamp
                node[_at(j, S, T + 1)] = distance + 1
                node[_at(j, S, T + 2)] = (other & ~7) | (d ^ 1)
        time += 1
        if met < 0:
            continue
        current = i
        a, b, arc, back = i, met, _arc(i, way), _arc(met, way ^ 1)
        if tree:
            a, b, arc, back = met, i, back, arc
        amount = _narrowest(a, cap[arc], 0, cap, node, S, T, width)
        amount = _narrowest(b, amount, 1, cap, node, S, T, width)
        cap[arc] -= amount
        cap[back] += amount
        count = _push_up(a, amount, 0, cap, node, S, T, width, orphans, 0)
        count = _push_up(b, amount, 1, cap, node, S, T, width, orphans, count)
        work += _adopt(orphans, count, time, cap, node, S, T, width, queue, state)
    state[2], state[3] = time, current
    return False


@inlined
def _carry(first, last, d, cap, width):
    """Move all that lies at each node over to its neighbour in direction d, as far as the arcs between them allow."""
    for i in range(first, last):
        j = i + _offset(d, width)
        amount = min(max(cap[_arc(i, 4)], -cap[_arc(j, d + 1)]), cap[_arc(i, d)])
        cap[_arc(i, 4)] -= amount
        cap[_arc(j, 4)] += amount
        cap[_arc(i, d)] -= amount
        cap[_arc(j, d + 1)] += amount


@inlined
def _plant(first, last, cap, node, S, T):
    """Hang every node with a terminal arc under its terminal."""
    for i in range(first, last):
        excess = cap[_arc(i, 4)]
        node[_at(i, S, T)] = 0
        node[_at(i, S, T + 1)] = 1
        node[_at(i, S, T + 2)] = FREE if excess == 0 else (TERMINAL | SINK if excess < 0 else TERMINAL)


@inlined
def _wake(first, last, cap, node, S, T, width, queue, count):
    """Queue the nodes from which a tree can grow or meet the other one; most cannot."""
    for i in range(first, last):
        excess = cap[_arc(i, 4)]
        useful = False
        for d in range(4):
            j = i + _offset(d, width)
            other = cap[_arc(j, 4)]
            useful |= (excess > 0) & (other <= 0) & (cap[_arc(i, d)] > 0)
            useful |= (excess < 0) & (other >= 0) & (cap[_arc(j, d ^ 1)] > 0)
        if useful:
            node[_at(i, S, T + 2)] |= QUEUED
            queue[count] = i
            count += 1
    return count


@inlined
def _start(cap, node, S, T, width, queue, state):
    """Solve the rows, then what that leaves of the columns, each as a chain on its own; set up the trees.

    Carrying everything along a chain is elimination: it cancels excess and deficit of the chain as far as its arcs
    allow. On a grid it does most of the work; the trees find what is left. Rows of pixels are taken in turn, so that
    they stay in the nearest cache for all four things that happen to them.
    """
    rows = cap.size // (8 * width) - 2
    _plant(0, width, cap, node, S, T)
    _plant((rows + 1) * width, (rows + 2) * width, cap, node, S, T)
    count = 0
    for r in range(1, rows + 3):
        at = r * width
        if r <= rows:
            _carry(at, at + width - 1, 0, cap, width)
            if r > 1:
                _carry(at - width, at, 2, cap, width)
        if 1 < r <= rows + 1:
            _plant(at - width, at, cap, node, S, T)
        if r > 2:
            count = _wake(at - 2 * width, at - width, cap, node, S, T, width, queue, count)
    state[0], state[1], state[2], state[3] = 0, count, 1, -1


@kernel
def run_int32(cap, node, width, queue, orphans, state, chunk):
    """Work on a flow of int32 records for about ``chunk`` nodes; whether it is at its maximum.

    state: (4,) int64, zeros to begin with.  queue, orphans: int32 of length n + 1, n pixels.
    """
    if state[2] == 0:
        _start(cap, node, 8, 5, width, queue, state)
    return _run(cap, node, 8, 5, width, queue, orphans, state, chunk)


@kernel
def run_float64(cap, node, width, queue, orphans, state, chunk):
    """As ``run_int32``, for float64 records."""
    if state[2] == 0:
        _start(cap, node, 16, 10, width, queue, state)
    return _run(cap, node, 16, 10, width, queue, orphans, state, chunk)

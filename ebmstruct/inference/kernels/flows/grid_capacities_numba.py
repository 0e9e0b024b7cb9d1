"""Binary grids as records of ``maxflow_grid_numba``: capacities out of energies, labellings and messages out of flows."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel
from ebmstruct.inference.kernels.flows.maxflow_grid_numba import FREE, SINK

LIMIT = 2.0**26
"""The greatest capacity of int32 records: what gathers at a node stays below 2**31."""


@inlined
def split(w, table, scale):
    """Unary shifts of both sites and capacities of both arcs for a pair of weight ``w``, whole multiples of 1 / scale.

    The pair's energy is constant + first * y + second * z + forth * (1 - y) z + back * y (1 - z). The last value is 0
    where nothing was rounded.
    """
    b, c, d = w * (table[1] - table[0]) * scale, w * (table[2] - table[0]) * scale, w * (table[3] - table[0]) * scale
    rb, rc, rd = np.rint(b), np.rint(c), np.rint(d)
    first = max(min(np.floor(0.5 * rd), rc), rd - rb)
    return first, rd - first, rb - rd + first, max(rc - first, 0.0), abs(rb - b) + abs(rc - c) + abs(rd - d)


@inlined
def _build(unary, right, down, table, width, scale, limit, cap):
    """Capacities of one grid, in multiples of 1 / scale; whether they are exact and none is above ``limit``."""
    cap[:] = 0
    sites = unary.shape[0]
    even = table[0] == table[3] and table[1] == table[2]
    lost = 0.0
    high = 0.0
    column = 0
    for p in range(sites):
        i = 8 * (p + width)
        excess = (np.float64(unary[p, 1]) - np.float64(unary[p, 0])) * scale
        whole = np.rint(excess)
        lost += abs(whole - excess)
        column += 1
        inside = column < width
        if not inside:
            column = 0
        below = p + width < sites
        if even:
            forth = np.float64(right[p]) * (table[1] - table[0]) * scale if inside else 0.0
            lower = np.float64(down[p]) * (table[1] - table[0]) * scale if below else 0.0
            w = np.rint(forth)
            lost += abs(w - forth)
            high = max(high, abs(w))
            cap[i] = w
            cap[i + 9] = w
            w = np.rint(lower)
            lost += abs(w - lower)
            high = max(high, abs(w))
            cap[i + 2] = w
            cap[i + 8 * width + 3] = w
            cap[i + 4] = whole
            high = max(high, abs(whole))
            continue
        whole += cap[i + 4]
        if inside:
            first, second, forth, back, off = split(np.float64(right[p]), table, scale)
            whole += first
            cap[i + 12] += second
            cap[i], cap[i + 9] = forth, back
            lost += off
            high = max(high, abs(first) + abs(second) + abs(forth) + abs(back))
        if below:
            first, second, forth, back, off = split(np.float64(down[p]), table, scale)
            whole += first
            cap[i + 8 * width + 4] += second
            cap[i + 2], cap[i + 8 * width + 3] = forth, back
            lost += off
            high = max(high, abs(first) + abs(second) + abs(forth) + abs(back))
        cap[i + 4] = whole
        high = max(high, abs(whole))
    return lost == 0.0 and high <= limit


@kernel
def build(unary, right, down, table, width, scale, limit, cap):
    """Fill the records of one grid with capacities in multiples of 1 / scale.

    unary (n, 2), right (n,), down (n,): as in a GridFactor; table (4,) float64.  cap: the records.
    Return whether nothing was rounded and no capacity is above ``limit``; else the records mean nothing in int32.
    """
    return _build(unary, right, down, table, width, scale, limit, cap)


@kernel
def largest(unary, right, down, table):
    """The greatest difference of unary energies, and of a pair's energies, in one grid."""
    high = 0.0
    for p in range(unary.shape[0]):
        high = max(high, abs(np.float64(unary[p, 1]) - np.float64(unary[p, 0])))
    wide = max(abs(table[0]), abs(table[1]), abs(table[2]), abs(table[3]))
    weight = 0.0
    for p in range(right.size):
        weight = max(weight, abs(np.float64(right[p])), abs(np.float64(down[p])))
    return high + 8 * weight * wide


@kernel
def violations(right, down, width, sign):
    """The number of pairs of one grid whose weight times ``sign`` is negative or no finite number."""
    count = 0
    column = 0
    for p in range(right.size):
        column += 1
        if column == width:
            column = 0
        elif not (0 <= sign * right[p] < np.inf):
            count += 1
        if p + width < right.size and not (0 <= sign * down[p] < np.inf):
            count += 1
    return count


@inlined
def _message(w, table, even, scale, left, out, r):
    """The message of one pair, of whose arc from the first site ``left`` is left."""
    if even:
        first, second, forth = 0.0, 0.0, np.rint(w * (table[1] - table[0]) * scale)
    else:
        first, second, forth, _, _ = split(w, table, scale)
    flow = forth - left
    out[r, 0] = 0.0
    out[r, 1] = (first - flow) / scale
    out[r, 2] = 0.0
    out[r, 3] = (second + flow) / scale


@kernel
def close(cap, node, stride, flags_at, unary, right, down, table, width, scale, states, across, along):
    """The labelling at the end of a flow, its energy, and the lower bound that the flow proves.

    states (n,): 1 in the sink's tree, 0 elsewhere.  across, along (pairs, 4): the flow as a reparametrisation, of the
    pairs to the right and of those down: energies moved to the states 0, 1 of the first site and 0, 1 of the second.
    """
    sites = right.size
    for p in range(sites):
        flags = node[stride * (p + width) + flags_at]
        states[p] = 1 if flags & SINK and flags & 7 != FREE else 0
    even = table[0] == table[3] and table[1] == table[2]
    energy, bound = 0.0, 0.0
    column, r, q = 0, 0, 0
    for p in range(sites):
        i = 8 * (p + width)
        y = states[p]
        energy += unary[p, y]
        bound += unary[p, 0] + min(0.0, cap[i + 4] / scale)
        column += 1
        if column == width:
            column = 0
        else:
            w = np.float64(right[p])
            energy += w * table[2 * y + states[p + 1]]
            bound += w * table[0]
            _message(w, table, even, scale, cap[i], across, r)
            r += 1
        if p + width < sites:
            w = np.float64(down[p])
            energy += w * table[2 * y + states[p + width]]
            bound += w * table[0]
            _message(w, table, even, scale, cap[i + 2], along, q)
            q += 1
    return energy, bound

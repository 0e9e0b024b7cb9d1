"""Moves between two labellings as least cuts: each site keeps its first label or takes its second.

An expansion has the current labels first and one label everywhere second; a swap has two labels at the sites that
have one of them, and the current label twice elsewhere (Boykov, Veksler and Zabih 2001). Pairs whose four entries
are not submodular: on grids the entry (second, first) is raised, so that a move may be missed (Rother, Kumar, Kolmogorov
and Blake 2005, section 4.1); elsewhere the second site is flipped, for roof duality to find a part of the best move.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel
from ebmstruct.inference.kernels.flows.maxflow_grid_numba import FREE, SINK
from ebmstruct.inference.kernels.flows.pairs_numba import shares, wrong_way


@inlined
def _capacities(a, b, c, d):
    """Shifts and capacities, as ``pairs_numba.shares``, of entries that are whole; c is raised where needed."""
    c = max(c, a + d - b)
    first = max(min(np.floor(0.5 * (d - a)), c - a), d - b)
    return first, d - a - first, b - d + first, c - a - first


@kernel
def grid_move(low, high, one, two, right, down, table, states, width, scale, cap):
    """Fill the records of ``maxflow_grid_numba`` with the move of a grid, in multiples of 1 / scale.

    low, high: (n,) energies of the first and second label of each site.  one, two: (n,) int32 the labels.
    right, down: (n,).  table: (K * K,) float64, ``states`` is K.  cap: the records.
    """
    cap[:] = 0
    sites = low.size
    column = 0
    for p in range(sites):
        i = 8 * (p + width)
        k, g = one[p], two[p]
        excess = np.rint((np.float64(high[p]) - np.float64(low[p])) * scale)
        column += 1
        if column == width:
            column = 0
        elif not (k == g and one[p + 1] == two[p + 1]):
            m, n = one[p + 1], two[p + 1]
            w = np.float64(right[p]) * scale
            a, b = np.rint(w * table[k * states + m]), np.rint(w * table[k * states + n])
            c, d = np.rint(w * table[g * states + m]), np.rint(w * table[g * states + n])
            first, second, forth, back = _capacities(a, b, c, d)
            excess += first
            cap[i + 12] += second
            cap[i], cap[i + 9] = forth, back
        if p + width < sites and not (k == g and one[p + width] == two[p + width]):
            m, n = one[p + width], two[p + width]
            w = np.float64(down[p]) * scale
            a, b = np.rint(w * table[k * states + m]), np.rint(w * table[k * states + n])
            c, d = np.rint(w * table[g * states + m]), np.rint(w * table[g * states + n])
            first, second, forth, back = _capacities(a, b, c, d)
            excess += first
            cap[i + 8 * width + 4] += second
            cap[i + 2], cap[i + 8 * width + 3] = forth, back
        cap[i + 4] += excess


@kernel
def grid_take(node, stride, flags_at, low, high, one, two, right, down, table, states, width, labels, own):
    """The labels (n,) and their own energies (n,) after the move that a flow has found; the energy of the grid."""
    sites = labels.size
    for p in range(sites):
        flags = node[stride * (p + width) + flags_at]
        moved = flags & SINK and flags & 7 != FREE
        labels[p] = two[p] if moved else one[p]
        own[p] = high[p] if moved else low[p]
    return _grid_energy(own, right, down, table, states, width, labels)


@inlined
def _grid_energy(own, right, down, table, states, width, labels):
    energy = 0.0
    sites = labels.size
    column = 0
    for p in range(sites):
        energy += own[p]
        column += 1
        if column == width:
            column = 0
        else:
            energy += np.float64(right[p]) * table[labels[p] * states + labels[p + 1]]
        if p + width < sites:
            energy += np.float64(down[p]) * table[labels[p] * states + labels[p + width]]
    return energy


@kernel
def grid_energy(own, right, down, table, states, width, labels):
    """The energy of a labelling of a grid, whose sites' own energies are ``own``."""
    return _grid_energy(own, right, down, table, states, width, labels)


@kernel
def swap_sides(labels, own, planes, a, b, low, high, one, two):
    """The two sides of a swap of labels a and b on a grid; the number of sites that have one of them."""
    count = 0
    for p in range(labels.size):
        mine = labels[p]
        if mine in (a, b):
            one[p], two[p] = a, b
            low[p], high[p] = planes[a, p], planes[b, p]
            count += 1
        else:
            one[p] = two[p] = mine
            low[p] = high[p] = own[p]
    return count


@kernel
def graph_move(
    unary,
    starts,
    num_states,
    row_sites,
    table_start,
    weights,
    tables,
    one,
    two,
    most,
    first,
    second,
    forth,
    back,
    excess,
    flipped,
):
    """The move of a pairwise table view as a network: the arguments of ``doubled_cut``; the number of flipped rows.

    one, two: (n,) the states of both labellings.  most: what an infinite entry counts as.
    """
    count = 0
    for i in range(one.size):
        excess[i] = unary[starts[i] + two[i]] - unary[starts[i] + one[i]]
    for r in range(table_start.size):
        i, j = row_sites[2 * r], row_sites[2 * r + 1]
        first[r], second[r] = i, j
        forth[r] = back[r] = 0.0
        flipped[r] = False
        if one[i] == two[i] and one[j] == two[j]:
            continue
        at, states, w = table_start[r], num_states[j], weights[r]
        a, b = w * tables[at + one[i] * states + one[j]], w * tables[at + one[i] * states + two[j]]
        c, d = w * tables[at + two[i] * states + one[j]], w * tables[at + two[i] * states + two[j]]
        a, b, c, d = min(a, most), min(b, most), min(c, most), min(d, most)
        if wrong_way(a, b, c, d):
            flipped[r] = True
            count += 1
            a, b, c, d = b, a, d, c
        shift, other, forth[r], back[r] = shares(a, b, c, d)
        excess[i] += shift
        excess[j] += -other if flipped[r] else other
    return count


@kernel
def graph_energies(unary, starts, num_states, row_sites, table_start, weights, tables, states, most, instance, out):
    """out (B,): the energy of each instance of a pairwise table view, an infinite entry counted as ``most``."""
    for i in range(states.size):
        out[instance[i]] += unary[starts[i] + states[i]]
    for r in range(table_start.size):
        i, j = row_sites[2 * r], row_sites[2 * r + 1]
        entry = weights[r] * tables[table_start[r] + states[i] * num_states[j] + states[j]]
        out[instance[i]] += min(entry, most)

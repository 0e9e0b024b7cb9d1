"""Pairs of binary sites as capacities: what a cut pays for them, and what a flow moves between them and the sites."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel

SLACK = 1e-12
"""A pair whose submodularity fails by less than this share of its largest entry is taken to be modular."""


@inlined
def _entries(r, table_start, weights, tables):
    w = weights[r]
    t = table_start[r]
    return w * tables[t], w * tables[t + 1], w * tables[t + 2], w * tables[t + 3]


@inlined
def _sound(r, table_start, weights, tables):
    """A row's entries, or zeros where a state of a site has none that is finite: the instance is infeasible then."""
    a, b, c, d = _entries(r, table_start, weights, tables)
    if (a == np.inf or d == np.inf) and (b == np.inf or c == np.inf):
        return 0.0, 0.0, 0.0, 0.0
    return a, b, c, d


@inlined
def wrong_way(a, b, c, d):
    """Whether a pair with entries 00, 01, 10, 11 rewards differing: a + d > b + c."""
    if b == np.inf or c == np.inf:
        return False
    if a == np.inf or d == np.inf:
        return True
    return a + d - b - c > SLACK * max(max(abs(a), abs(b)), max(abs(c), abs(d)))


@inlined
def shares(a, b, c, d):
    """Unary shifts of both sites and capacities of both arcs of a pair that does not reward differing.

    Its energy is a + first * y + second * z + forth * (1 - y) z + back * y (1 - z), with forth and back not negative.
    Any ``first`` between d - b and c - a does; integers stay integers. a and d are finite, b and c may be infinite.
    """
    first = 0.5 * (d - a)
    if np.floor(a) == a and np.floor(d) == d:
        first = np.floor(first)
    first = max(min(first, c - a), d - b)
    return first, d - a - first, max(b - d + first, 0.0), max(c - a - first, 0.0)


@kernel
def count_wrong(table_start, weights, tables):
    """The number of binary pairs that are not submodular."""
    count = 0
    for r in range(table_start.size):
        a, b, c, d = _sound(r, table_start, weights, tables)
        count += wrong_way(a, b, c, d)
    return count


@kernel
def split_rows(unary, table_start, weights, row_sites, tables, first, second, forth, back, shift, flipped, excess):
    """Capacities of the rows of a binary pairwise table view.

    A row that rewards differing has its second site flipped (``flipped``), so that it becomes submodular in y and
    1 - z. first, second (m,): sites.  forth, back (m,): capacities of the arcs between them.  shift (m, 2): the unary
    shifts of both sites, by state 1, of the flipped site by its state 0.  excess (n,): energy of state 1 less that of
    state 0, the shifts included.
    """
    for i in range(excess.size):
        excess[i] = unary[2 * i + 1] - unary[2 * i]
    for r in range(table_start.size):
        a, b, c, d = _sound(r, table_start, weights, tables)
        flip = wrong_way(a, b, c, d)
        if flip:
            a, b, c, d = b, a, d, c
        i, j = row_sites[2 * r], row_sites[2 * r + 1]
        first[r], second[r], flipped[r] = i, j, flip
        one, two, forth[r], back[r] = shares(a, b, c, d)
        shift[r, 0], shift[r, 1] = one, two
        excess[i] += one
        excess[j] += -two if flip else two


@kernel
def row_messages(shift, flipped, flow, out):
    """The reparametrisation that a flow is: out (m, 4), energies moved to the states 0, 1 of both sites of each row.

    flow (m,): from the first site to the second, or, where that is flipped, to its complement.
    """
    for r in range(flow.size):
        out[r, 0] = 0.0
        out[r, 1] = shift[r, 0] - flow[r]
        out[r, 2] = shift[r, 1] + flow[r] if flipped[r] else 0.0
        out[r, 3] = 0.0 if flipped[r] else shift[r, 1] + flow[r]


@kernel
def row_bounds(table_start, weights, tables, messages, out):
    """(m,) the least entry of each row's table after its messages (m, 4) are taken off."""
    for r in range(table_start.size):
        a, b, c, d = _entries(r, table_start, weights, tables)
        i, j, k, q = messages[r, 0], messages[r, 1], messages[r, 2], messages[r, 3]
        out[r] = min(min(a - i - k, b - i - q), min(c - j - k, d - j - q))

"""Sweeps and energies of many chains side by side: one lane a chain, so that a row is looked up once for all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel


class Rows(NamedTuple):
    """The rows over two sites or more, by site: entries inc_ptr[i] : inc_ptr[i + 1] are those that look at site i.

    starts: (n + 1,) where each site's states begin.  start, stride: of an entry, where its table begins and how far one
    state of the site moves in it.  row: which weight it has.  The row's other slots are oth_ptr[e] : oth_ptr[e + 1],
    with their sites and strides.
    """

    starts: np.ndarray
    inc_ptr: np.ndarray
    start: np.ndarray
    stride: np.ndarray
    row: np.ndarray
    oth_ptr: np.ndarray
    oth_site: np.ndarray
    oth_stride: np.ndarray


class Terms(NamedTuple):
    """The same rows by row: its sites and their strides at ptr[r] : ptr[r + 1], where its table begins, its instance.

    site_instance: of each site; instances are those within a lane.
    """

    ptr: np.ndarray
    sites: np.ndarray
    stride: np.ndarray
    start: np.ndarray
    instance: np.ndarray
    site_instance: np.ndarray


@inlined
def _difference(rows, unary, tables, weights, site, x, out):
    """The energy of state 1 less that of state 0 of a site with two states, in each lane; tables are finite."""
    lanes, wide = x.shape[1], unary.shape[1]
    first = rows.starts[site]
    for begin in range(0, lanes, wide):
        for b in range(wide):
            out[begin + b] = unary[first + 1, b] - unary[first, b]
    for e in range(rows.inc_ptr[site], rows.inc_ptr[site + 1]):
        at, stride, weight = rows.start[e], rows.stride[e], weights[rows.row[e]]
        low, high = rows.oth_ptr[e], rows.oth_ptr[e + 1]
        if high == low + 1:
            other, step = rows.oth_site[low], rows.oth_stride[low]
            if rows.starts[other + 1] - rows.starts[other] == 2:
                base = weight * (tables[at + stride] - tables[at])
                slope = weight * (tables[at + step + stride] - tables[at + step]) - base
                for lane in range(lanes):
                    out[lane] += base + slope * x[other, lane]
            else:
                for lane in range(lanes):
                    to = at + x[other, lane] * step
                    out[lane] += weight * (tables[to + stride] - tables[to])
        else:
            for lane in range(lanes):
                to = at
                for o in range(low, high):
                    to += x[rows.oth_site[o], lane] * rows.oth_stride[o]
                out[lane] += weight * (tables[to + stride] - tables[to])


@inlined
def _conditionals(rows, unary, tables, weights, site, count, x, out):
    """(count, lanes): the energy of each state of a site in each lane, all other sites as in ``x``."""
    lanes, wide = x.shape[1], unary.shape[1]
    first = rows.starts[site]
    for k in range(count):
        for begin in range(0, lanes, wide):
            for b in range(wide):
                out[k, begin + b] = unary[first + k, b]
    for e in range(rows.inc_ptr[site], rows.inc_ptr[site + 1]):
        start, stride, weight = rows.start[e], rows.stride[e], weights[rows.row[e]]
        for lane in range(lanes):
            at = start
            for o in range(rows.oth_ptr[e], rows.oth_ptr[e + 1]):
                at += x[rows.oth_site[o], lane] * rows.oth_stride[o]
            for k in range(count):
                out[k, lane] += weight * tables[at + k * stride]


@inlined
def _picked(energy, lane, count, temperature, draw):
    """The state that a uniform number picks; the first where every state is infinite."""
    least = energy[0, lane]
    for k in range(1, count):
        least = min(least, energy[k, lane])
    if least == np.inf:
        return 0
    total = 0.0
    for k in range(count):
        gap = (energy[k, lane] - least) / temperature
        share = np.exp(-gap) if gap < 700.0 else 0.0
        energy[k, lane] = share
        total += share
    left = draw * total
    last = 0
    for k in range(count):
        if energy[k, lane] > 0.0:
            last = k
            left -= energy[k, lane]
            if left < 0.0:
                return k
    return last


@kernel
def sweep(rows, unary, tables, weights, finite, order, x, draws, temperature, energy):
    """One sweep in place: every site of ``order`` is drawn given all others, in all lanes.

    x: (n, L) int32.  unary: (states, W), lane l has column l % W.  draws: (len(order), L) uniform numbers.
    finite: whether all tables are.  energy: scratch, (most states, L).
    """
    lanes = x.shape[1]
    for i in range(order.size):
        site = order[i]
        count = rows.starts[site + 1] - rows.starts[site]
        if finite and count == 2:
            gap = energy[0]
            _difference(rows, unary, tables, weights, site, x, gap)
            for lane in range(lanes):
                x[site, lane] = 1 if draws[i, lane] * (1.0 + np.exp(gap[lane] / temperature)) < 1.0 else 0
        else:
            _conditionals(rows, unary, tables, weights, site, count, x, energy)
            for lane in range(lanes):
                x[site, lane] = _picked(energy, lane, count, temperature, draws[i, lane])


@kernel
def energies(terms, starts, unary, tables, weights, x, out):
    """Add to ``out`` (instances, L) the energy of each instance of each lane at ``x`` (n, L); unary: (states, W)."""
    lanes, wide = x.shape[1], unary.shape[1]
    for site in range(x.shape[0]):
        first, own = starts[site], out[terms.site_instance[site]]
        for begin in range(0, lanes, wide):
            for b in range(wide):
                own[begin + b] += unary[first + x[site, begin + b], b]
    for row in range(terms.start.size):
        low, start, weight = terms.ptr[row], terms.start[row], weights[row]
        own = out[terms.instance[row]]
        if terms.ptr[row + 1] == low + 2:
            one, other = x[terms.sites[low]], x[terms.sites[low + 1]]
            step = terms.stride[low]
            for lane in range(lanes):
                own[lane] += weight * tables[start + one[lane] * step + other[lane]]
        else:
            for lane in range(lanes):
                at = start
                for slot in range(low, terms.ptr[row + 1]):
                    at += x[terms.sites[slot], lane] * terms.stride[slot]
                own[lane] += weight * tables[at]


@kernel
def energy_gradients(terms, starts, slope, tables, weights, x, by_unary, by_tables, by_weights):
    """Add to ``by_unary``, ``by_tables`` and, unless it is empty, ``by_weights`` the gradient of sum(slope * energies).

    slope: (instances, L).
    """
    lanes, wide = x.shape[1], by_unary.shape[1]
    for site in range(x.shape[0]):
        first, own = starts[site], slope[terms.site_instance[site]]
        for begin in range(0, lanes, wide):
            for b in range(wide):
                by_unary[first + x[site, begin + b], b] += own[begin + b]
    for row in range(terms.start.size):
        low, start, weight = terms.ptr[row], terms.start[row], weights[row]
        own = slope[terms.instance[row]]
        if terms.ptr[row + 1] == low + 2:
            one, other = x[terms.sites[low]], x[terms.sites[low + 1]]
            step = terms.stride[low]
            for lane in range(lanes):
                by_tables[start + one[lane] * step + other[lane]] += weight * own[lane]
        else:
            for lane in range(lanes):
                at = start
                for slot in range(low, terms.ptr[row + 1]):
                    at += x[terms.sites[slot], lane] * terms.stride[slot]
                by_tables[at] += weight * own[lane]
        if by_weights.size:
            for lane in range(lanes):
                at = start
                for slot in range(low, terms.ptr[row + 1]):
                    at += x[terms.sites[slot], lane] * terms.stride[slot]
                by_weights[row] += own[lane] * tables[at]

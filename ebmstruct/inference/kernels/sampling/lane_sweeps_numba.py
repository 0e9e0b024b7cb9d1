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


@inlined
def _two_by_two(terms, starts, row):
    """Whether a row is over two sites of two states each."""
    low = terms.ptr[row]
    if terms.ptr[row + 1] != low + 2:
        return False
    one, other = terms.sites[low], terms.sites[low + 1]
    return starts[one + 1] - starts[one] == 2 and starts[other + 1] - starts[other] == 2


@inlined
def _entry(terms, row, x, lane):
    """Where in the tables a row looks in a lane."""
    at = terms.start[row]
    for slot in range(terms.ptr[row], terms.ptr[row + 1]):
        at += x[terms.sites[slot], lane] * terms.stride[slot]
    return at


@kernel
def energies(terms, starts, unary, tables, weights, finite, x, out):
    """Add to ``out`` (instances, L) the energy of each instance of each lane at ``x`` (n, L); unary: (states, W).

    finite: whether all tables are; then a row over two sites of two states is a + b x + c y + d x y, of which the first
    three terms are gathered by site and only the last is left to be done row by row.
    """
    sites, lanes = x.shape
    wide = unary.shape[1]
    slope, base = np.zeros(sites), np.zeros(out.shape[0])
    for row in range(terms.start.size):
        if finite and _two_by_two(terms, starts, row):
            low, at, weight = terms.ptr[row], terms.start[row], weights[row]
            one, other = terms.sites[low], terms.sites[low + 1]
            step = terms.stride[low]
            base[terms.instance[row]] += weight * tables[at]
            slope[one] += weight * (tables[at + step] - tables[at])
            slope[other] += weight * (tables[at + 1] - tables[at])
            both = weight * (tables[at + step + 1] - tables[at + step] - tables[at + 1] + tables[at])
            own, first, second = out[terms.instance[row]], x[one], x[other]
            for lane in range(lanes):
                own[lane] += both * (first[lane] * second[lane])
        else:
            own = out[terms.instance[row]]
            for lane in range(lanes):
                own[lane] += weights[row] * tables[_entry(terms, row, x, lane)]
    for site in range(sites):
        own = out[terms.site_instance[site]]
        for begin in range(0, lanes, wide):
            for b in range(wide):
                state = x[site, begin + b]
                own[begin + b] += unary[starts[site] + state, b] + slope[site] * state
    for instance in range(out.shape[0]):
        for lane in range(lanes):
            out[instance, lane] += base[instance]


@kernel
def energy_gradients(terms, starts, slope, tables, weights, finite, x, by_unary, by_tables, by_weights):
    """Add to ``by_unary``, ``by_tables`` and, unless it is empty, ``by_weights`` the gradient of sum(slope * energies).

    slope: (instances, L).
    """
    sites, lanes = x.shape
    wide = by_unary.shape[1]
    weighed, state = np.empty((sites, lanes)), np.empty((sites, lanes))
    single, total = np.zeros(sites), np.zeros(slope.shape[0])
    for instance in range(slope.shape[0]):
        for lane in range(lanes):
            total[instance] += slope[instance, lane]
    for site in range(sites):
        own = slope[terms.site_instance[site]]
        for lane in range(lanes):
            state[site, lane] = x[site, lane]
            weighed[site, lane] = own[lane] * x[site, lane]
            single[site] += weighed[site, lane]
        for begin in range(0, lanes, wide):
            for b in range(wide):
                by_unary[starts[site] + x[site, begin + b], b] += own[begin + b]
    for row in range(terms.start.size):
        low, weight = terms.ptr[row], weights[row]
        if finite and _two_by_two(terms, starts, row):
            one, other = terms.sites[low], terms.sites[low + 1]
            both = _dot(weighed[one], state[other])
            at, step = terms.start[row], terms.stride[low]
            by_tables[at + step + 1] += weight * both
            by_tables[at + step] += weight * (single[one] - both)
            by_tables[at + 1] += weight * (single[other] - both)
            by_tables[at] += weight * (total[terms.instance[row]] - single[one] - single[other] + both)
        else:
            own = slope[terms.instance[row]]
            for lane in range(lanes):
                by_tables[_entry(terms, row, x, lane)] += weight * own[lane]
        if by_weights.size:
            own = slope[terms.instance[row]]
            for lane in range(lanes):
                by_weights[row] += own[lane] * tables[_entry(terms, row, x, lane)]


@inlined
def _dot(a, b):
    """The inner product, in eight sums side by side."""
    s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = a.size - a.size % 8
    for i in range(0, whole, 8):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
        s4 += a[i + 4] * b[i + 4]
        s5 += a[i + 5] * b[i + 5]
        s6 += a[i + 6] * b[i + 6]
        s7 += a[i + 7] * b[i + 7]
    total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    for i in range(whole, a.size):
        total += a[i] * b[i]
    return total

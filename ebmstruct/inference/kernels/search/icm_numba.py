"""Iterated conditional modes over a table view: each site in turn takes the state of least energy, given the others."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel

GAIN = 1e-12
"""A change must gain this share of the energies compared, so that rounding cannot lead around in circles."""


@kernel
def descend(
    unary,
    tables,
    weights,
    num_states,
    starts,
    row_ptr,
    row_sites,
    table_start,
    site_ptr,
    site_row,
    site_slot,
    states,
    dirty,
    begin,
    visits,
):
    """Lower the energy of ``states`` in place, by sweeps over the sites that are ``dirty``, in order.

    Arrays as in a TableView; dirty: (n,) bool, the sites to look at, which a change of a neighbour marks again.
    begin: the site to begin with; visits: how many to look at. A site first breaks as few hard constraints as it can,
    then lowers its energy; of equal states the lowest wins, and its own against any other.
    Return the site to go on with, or -1 where no site is dirty any more: no single change lowers the energy.
    """
    sites = num_states.size
    widest = 1
    for i in range(sites):
        widest = max(widest, num_states[i])
    energy, broken = np.empty(widest), np.empty(widest, np.int64)
    i, clean = begin, 0
    while clean < sites:
        if i >= sites:
            i = 0
        if not dirty[i]:
            i += 1
            clean += 1
            continue
        if visits == 0:
            return i
        visits -= 1
        dirty[i] = False
        count = num_states[i]
        for k in range(count):
            energy[k] = unary[starts[i] + k]
            broken[k] = 0
        for s in range(site_ptr[i], site_ptr[i + 1]):
            r = site_row[s]
            slot = row_ptr[r] + site_slot[s]
            at, stride, own = table_start[r], 1, 1
            for q in range(row_ptr[r + 1] - 1, row_ptr[r] - 1, -1):
                j = row_sites[q]
                if q == slot:
                    own = stride
                else:
                    at += stride * states[j]
                stride *= num_states[j]
            w = weights[r]
            for k in range(count):
                entry = tables[at + own * k]
                if entry == np.inf:
                    broken[k] += 1
                else:
                    energy[k] += w * entry
        now = states[i]
        best = now
        for k in range(count):
            if broken[k] < broken[best]:
                best = k
            elif broken[k] == broken[best]:
                gain = energy[best] - energy[k]
                if gain > GAIN * (abs(energy[best]) + abs(energy[k])):
                    best = k
        if best != now:
            states[i] = best
            clean = 0
            for s in range(site_ptr[i], site_ptr[i + 1]):
                r = site_row[s]
                for q in range(row_ptr[r], row_ptr[r + 1]):
                    dirty[row_sites[q]] = True
            dirty[i] = False
        i += 1
    return -1

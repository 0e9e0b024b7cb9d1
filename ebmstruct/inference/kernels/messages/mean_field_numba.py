"""Loops of mean field: coordinate updates, the free energy, and a descent that counts violated rows first."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain


@plain
def _expected(site, view, unary, site_rows, belief, penalty, state, cost, banned):
    """cost[k]: the expected energy at the site's state k under the other sites' beliefs.

    An infinite entry counts as ``penalty``; where that is infinite, its probability is left out of the cost, and
    banned[k] says that there was some.
    """
    starts, row_ptr, row_sites, table_start, weights, tables = view
    site_ptr, site_row, site_slot = site_rows
    own = starts[site + 1] - starts[site]
    for k in range(own):
        cost[k] = unary[starts[site] + k]
        banned[k] = False
    for at in range(site_ptr[site], site_ptr[site + 1]):
        row, mine = site_row[at], site_slot[at]
        first = row_ptr[row]
        arity = row_ptr[row + 1] - first
        size = 1
        for slot in range(arity):
            state[slot] = 0
            size *= starts[row_sites[first + slot] + 1] - starts[row_sites[first + slot]]
        for entry in range(size):
            mass = 1.0
            for slot in range(arity):
                if slot != mine:
                    mass *= belief[starts[row_sites[first + slot]] + state[slot]]
            if mass > 0:
                value = tables[table_start[row] + entry]
                if value != np.inf:
                    cost[state[mine]] += mass * weights[row] * value
                elif penalty != np.inf:
                    cost[state[mine]] += mass * penalty
                else:
                    banned[state[mine]] = True
            for slot in range(arity - 1, -1, -1):
                state[slot] += 1
                if state[slot] < starts[row_sites[first + slot] + 1] - starts[row_sites[first + slot]]:
                    break
                state[slot] = 0


@kernel
def sweep(order, active, instance, view, unary, site_rows, belief, temperature, penalty, keep):
    """Update the beliefs of the active instances' sites one after another; (B,) the largest change of a probability.

    belief: flat probabilities, changed in place.  temperature, penalty: (B,); an infinite penalty keeps the beliefs
    where no forbidden entry has any probability, if that is where they are.  keep: how much of the old one stays.
    """
    starts, row_ptr = view[0], view[1]
    widest, slots = 1, 1
    for site in range(starts.size - 1):
        widest = max(widest, starts[site + 1] - starts[site])
    for row in range(row_ptr.size - 1):
        slots = max(slots, row_ptr[row + 1] - row_ptr[row])
    cost, banned, state = np.empty(widest), np.zeros(widest, np.bool_), np.zeros(slots, np.int64)
    change = np.zeros(active.size)
    for site in order:
        b = instance[site]
        if not active[b]:
            continue
        _expected(site, view, unary, site_rows, belief, penalty[b], state, cost, banned)
        low, own = starts[site], starts[site + 1] - starts[site]
        least = np.inf
        for k in range(own):
            if not banned[k]:
                least = min(least, cost[k])
        if least == np.inf:
            continue
        total = 0.0
        for k in range(own):
            cost[k] = 0.0 if banned[k] else np.exp((least - cost[k]) / temperature[b])
            total += cost[k]
        for k in range(own):
            new = cost[k] / total
            if keep > 0 and not banned[k]:
                new = (1.0 - keep) * new + keep * belief[low + k]
            change[b] = max(change[b], abs(new - belief[low + k]))
            cost[k] = new
        total = 0.0
        for k in range(own):
            total += cost[k]
        for k in range(own):
            belief[low + k] = cost[k] / total
    return change


@kernel
def lower_bound(instance, view, unary, belief, temperature, constant):
    """(B,) the negative free energy, entropy - expected energy / T: never above log Z (Jordan et al. 1999).

    -inf where a forbidden entry has some probability.
    """
    starts, row_ptr, row_sites, table_start, weights, tables = view
    out = -constant / temperature
    slots = 1
    for row in range(row_ptr.size - 1):
        slots = max(slots, row_ptr[row + 1] - row_ptr[row])
    state = np.zeros(slots, np.int64)
    for site in range(starts.size - 1):
        for k in range(starts[site], starts[site + 1]):
            if belief[k] > 0:
                out[instance[site]] -= belief[k] * (unary[k] / temperature + np.log(belief[k]))
    for row in range(row_ptr.size - 1):
        first = row_ptr[row]
        arity = row_ptr[row + 1] - first
        size = 1
        for slot in range(arity):
            state[slot] = 0
            size *= starts[row_sites[first + slot] + 1] - starts[row_sites[first + slot]]
        expected = 0.0
        for entry in range(size):
            mass = 1.0
            for slot in range(arity):
                mass *= belief[starts[row_sites[first + slot]] + state[slot]]
            if mass > 0:
                value = tables[table_start[row] + entry]
                expected += mass * (value if value == np.inf else weights[row] * value)
            for slot in range(arity - 1, -1, -1):
                state[slot] += 1
                if state[slot] < starts[row_sites[first + slot] + 1] - starts[row_sites[first + slot]]:
                    break
                state[slot] = 0
        out[instance[row_sites[first]]] -= expected / temperature
    return out

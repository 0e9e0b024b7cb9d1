"""The order in which a graph of sites and rows is met by a search, and the decoding of messages along it."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel


@kernel
def breadth_first(starts, instance, row_ptr, row_sites, site_ptr, site_row, instances):
    """Search the graph of sites and rows breadth first from each site in turn that is not reached yet.

    Returns the sites and the rows in the order in which they are met, and (instances,) bool: whether the instance's
    graph of sites and rows is a forest.
    """
    sites, rows = starts.size - 1, row_ptr.size - 1
    site_order, row_order = np.empty(sites, np.int64), np.empty(rows, np.int64)
    seen_site, seen_row = np.zeros(sites, np.bool_), np.zeros(rows, np.bool_)
    forest = np.ones(instances, np.bool_)
    head, tail, count = 0, 0, 0
    for root in range(sites):
        if seen_site[root]:
            continue
        seen_site[root] = True
        site_order[tail] = root
        tail += 1
        while head < tail:
            site = site_order[head]
            head += 1
            for at in range(site_ptr[site], site_ptr[site + 1]):
                row = site_row[at]
                if seen_row[row]:
                    continue
                seen_row[row] = True
                row_order[count] = row
                count += 1
                for slot in range(row_ptr[row], row_ptr[row + 1]):
                    other = row_sites[slot]
                    if other == site:
                        continue
                    if seen_site[other]:
                        forest[instance[site]] = False
                    else:
                        seen_site[other] = True
                        site_order[tail] = other
                        tail += 1
    return site_order, row_order, forest


@kernel
def decode(order, view, unary, site_ptr, site_row, site_slot, belief, message, alive):
    """(n,) states: each site's best given the sites before it in a breadth-first order, and messages for the others.

    On a forest with messages of least energies this is a least assignment, ties or not.
    """
    starts, row_ptr, row_sites, table_start, weights, tables, message_ptr = view
    states = np.full(starts.size - 1, -1)
    widest, slots = 1, 1
    for site in range(starts.size - 1):
        widest = max(widest, starts[site + 1] - starts[site])
    for row in range(row_ptr.size - 1):
        slots = max(slots, row_ptr[row + 1] - row_ptr[row])
    cost, part = np.empty(widest), np.empty(widest)
    state = np.zeros(slots, np.int64)
    for site in order:
        own = starts[site + 1] - starts[site]
        for k in range(own):
            cost[k] = unary[starts[site] + k] if alive[starts[site] + k] else np.inf
        for at in range(site_ptr[site], site_ptr[site + 1]):
            row, mine = site_row[at], site_slot[at]
            first = row_ptr[row]
            arity = row_ptr[row + 1] - first
            fixed = False
            for slot in range(arity):
                fixed = fixed or states[row_sites[first + slot]] >= 0
            if not fixed:
                for k in range(own):
                    cost[k] += message[message_ptr[first + mine] + k]
                continue
            part[:own] = np.inf
            size = 1
            for slot in range(arity):
                state[slot] = 0
                size *= message_ptr[first + slot + 1] - message_ptr[first + slot]
            for entry in range(size):
                value = tables[table_start[row] + entry]
                if value != np.inf:
                    value *= weights[row]
                    for slot in range(arity):
                        other = row_sites[first + slot]
                        if states[other] >= 0:
                            if states[other] != state[slot]:
                                value = np.inf
                        elif slot != mine:
                            there = starts[other] + state[slot]
                            if alive[there]:
                                value += belief[there] - message[message_ptr[first + slot] + state[slot]]
                            else:
                                value = np.inf
                    part[state[mine]] = min(part[state[mine]], value)
                for slot in range(arity - 1, -1, -1):
                    state[slot] += 1
                    if state[slot] < message_ptr[first + slot + 1] - message_ptr[first + slot]:
                        break
                    state[slot] = 0
            for k in range(own):
                cost[k] += part[k]
        best = 0
        for k in range(own):
            if cost[k] < cost[best]:
                best = k
        states[site] = best
    return states

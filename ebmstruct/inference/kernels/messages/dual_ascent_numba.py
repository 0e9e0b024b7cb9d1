"""Dual ascent over the rows of a table view, any arity: SRMP on single sites, in float64.

Kolmogorov, "A new look at reweighted message passing" (2015): a pass visits the sites in order; each collects the
min-marginals of its rows that have earlier sites, and hands what it then holds back, in equal shares, to its rows that
have later ones. On pairs this is TRW-S. Messages are added to sites and taken off rows, so that after a pass all
rows' minima are 0 and the bound is the sum of what the sites kept.

A *view* below is (num_states, starts, instance, row_ptr, row_sites, table_start, weights, tables, unary, site_ptr,
site_row, site_slot, message_ptr, rank, kind, shape, big): a table view's arrays; rank (slots,) how many of the row's
sites come before the slot's; kind and shape of ``pair_minima_numba``; big (B,) what an impossible state costs.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain
from ebmstruct.inference.kernels.messages import pair_minima_numba as minima


@kernel
def spreads(row_ptr, row_sites, instance, table_start, row_size, weights, tables, starts, unary, spread, least):
    """Add to spread (B,) the range of the finite entries of every unary and every row, and to least (B,) the minima."""
    for i in range(instance.size):
        low, high = np.inf, -np.inf
        for at in range(starts[i], starts[i + 1]):
            low, high = min(low, unary[at]), max(high, unary[at])
        spread[instance[i]] += high - low
        least[instance[i]] += low
    low, high, wall = 0.0, 0.0, 0.0
    for row in range(row_ptr.size - 1):
        begin = table_start[row]
        if row == 0 or table_start[row - 1] != begin or row_size[row - 1] != row_size[row]:
            low, high = np.inf, -np.inf
            for at in range(begin, begin + row_size[row]):
                if tables[at] < np.inf:
                    low, high = min(low, tables[at]), max(high, tables[at])
            wall = 0.0
            if low == np.inf:
                low, high, wall = 0.0, 0.0, np.inf
        b = instance[row_sites[row_ptr[row]]]
        spread[b] += abs(weights[row]) * (high - low)
        least[b] += (weights[row] * low if weights[row] >= 0 else weights[row] * high) + wall


@kernel
def sweep(first, last, forth, view, active, messages, labels, bound):
    """Pass over the sites first ... last - 1, upwards if ``forth``; labels (n,) are decoded on the way.

    A site's label is its cheapest state given the labels of the sites before it and the messages of those after it.
    active: (B,) bool, which instances take part.  bound: (B,), to which each site adds what it keeps.
    """
    num_states, starts, instance, row_ptr, row_sites, table_start, weights, tables, unary = view[:9]
    site_ptr, site_row, site_slot, message_ptr, rank, kind, shape, big = view[9:]
    most, widest = 1, 1
    for i in range(first, last):
        most = max(most, num_states[i])
        for a in range(site_ptr[i], site_ptr[i + 1]):
            row = site_row[a]
            widest = max(widest, row_ptr[row + 1] - row_ptr[row])
            for slot in range(row_ptr[row], row_ptr[row + 1]):
                most = max(most, num_states[row_sites[slot]])
    theta, score, out, scratch = np.empty(most), np.empty(most), np.empty(most), np.empty(3 * most + 2)
    low, high, state = np.empty(widest, np.int64), np.empty(widest, np.int64), np.empty(widest, np.int64)
    for turn in range(last - first):
        i = first + turn if forth else last - 1 - turn
        if not active[instance[i]]:
            continue
        states = num_states[i]
        for k in range(states):
            theta[k] = unary[starts[i] + k]
            score[k] = theta[k]
        before, after = 0, 0
        for a in range(site_ptr[i], site_ptr[i + 1]):
            row, slot = site_row[a], site_slot[a]
            begin = row_ptr[row]
            arity = row_ptr[row + 1] - begin
            place = rank[begin + slot] if forth else arity - 1 - rank[begin + slot]
            own = message_ptr[begin + slot]
            after += 1 if place < arity - 1 else 0
            if place == 0:
                for k in range(states):
                    theta[k] += messages[own + k]
                    score[k] += messages[own + k]
                continue
            before += 1
            if arity == 2:
                other = row_sites[begin + 1 - slot]
                given = labels[other]
                rows, columns = num_states[row_sites[begin]], num_states[row_sites[begin + 1]]
                minima.pair(
                    tables, table_start[row], rows, columns, weights[row], kind[row], shape[row, 0], shape[row, 1],
                    shape[row, 2], slot, message_ptr[begin + 1 - slot], messages, scratch, out,
                )  # fmt: skip
                at = table_start[row] + (given * columns if slot == 1 else given)
                step = 1 if slot == 1 else columns
                for k in range(states):
                    score[k] += weights[row] * tables[at + k * step]
            else:
                for d in range(arity):
                    site = row_sites[begin + d]
                    low[d], high[d] = 0, num_states[site]
                    if d != slot and (site < i) == forth:
                        low[d], high[d] = labels[site], labels[site] + 1
                minima.scan(
                    tables, table_start[row], begin, arity, weights[row], slot, row_sites, num_states, message_ptr,
                    messages, low, high, state, out,
                )  # fmt: skip
                for k in range(states):
                    score[k] += out[k]
                for d in range(arity):
                    low[d], high[d] = 0, num_states[row_sites[begin + d]]
                minima.scan(
                    tables, table_start[row], begin, arity, weights[row], slot, row_sites, num_states, message_ptr,
                    messages, low, high, state, out,
                )  # fmt: skip
            for k in range(states):
                value = out[k]
                if value == np.inf:  # rows merged from several may leave a state without support
                    value = big[instance[i]]
                messages[own + k] = value
                theta[k] += value
        label, least = 0, 0
        for k in range(1, states):
            if score[k] < score[label]:
                label = k
            if theta[k] < theta[least]:
                least = k
        labels[i] = label if score[label] < np.inf else least
        kept = 1.0
        if after > 0:
            share = 1.0 / max(before, after)
            kept -= after * share
            for a in range(site_ptr[i], site_ptr[i + 1]):
                row, slot = site_row[a], site_slot[a]
                begin = row_ptr[row]
                place = rank[begin + slot] if forth else row_ptr[row + 1] - begin - 1 - rank[begin + slot]
                if place < row_ptr[row + 1] - begin - 1:
                    own = message_ptr[begin + slot]
                    for k in range(states):
                        messages[own + k] -= share * theta[k]
        if kept > 1e-9:
            bound[instance[i]] += kept * theta[least]


@plain
def _entry(row, view, labels):
    """The energy of a row at labels."""
    num_states, _, _, row_ptr, row_sites, table_start, weights, tables, _ = view[:9]
    at = 0
    for slot in range(row_ptr[row], row_ptr[row + 1]):
        site = row_sites[slot]
        at = at * num_states[site] + labels[site]
    return weights[row] * tables[table_start[row] + at]


@kernel
def descend(view, active, labels, sweeps):
    """Give each site in turn its cheapest label given all others (ICM, Besag 1986); stops when none changes.

    Of two labels that both break hard rows the one that breaks fewer is cheaper.
    """
    num_states, starts, instance, row_ptr, row_sites, table_start, weights, tables, unary = view[:9]
    site_ptr, site_row, site_slot = view[9:12]
    most = 1
    for i in range(num_states.size):
        most = max(most, num_states[i])
    walls, cost = np.empty(most, np.int64), np.empty(most)
    for _ in range(sweeps):
        changed = False
        for i in range(num_states.size):
            if not active[instance[i]]:
                continue
            for k in range(num_states[i]):
                walls[k] = 0
                cost[k] = unary[starts[i] + k]
            for a in range(site_ptr[i], site_ptr[i + 1]):
                row = site_row[a]
                at, step = table_start[row], 1
                own = row_ptr[row] + site_slot[a]
                stride = 1
                for slot in range(row_ptr[row + 1] - 1, row_ptr[row] - 1, -1):
                    if slot == own:
                        stride = step
                    else:
                        at += step * labels[row_sites[slot]]
                    step *= num_states[row_sites[slot]]
                for k in range(num_states[i]):
                    value = weights[row] * tables[at + k * stride]
                    if value == np.inf:
                        walls[k] += 1
                    else:
                        cost[k] += value
            best = labels[i]
            for k in range(num_states[i]):
                if walls[k] < walls[best] or (
                    walls[k] == walls[best] and cost[k] < cost[best] - 1e-12 * abs(cost[best])
                ):
                    best = k
            changed |= best != labels[i]
            labels[i] = best
        if not changed:
            return


@kernel
def merge(view, active, best, trial):
    """Switch ``best`` to ``trial`` in every connected set of sites in which they differ where that costs less.

    No row joins two such sets, so each is judged alone. trial becomes best.  Returns (B,) bool: what has changed.
    """
    _, starts, instance, row_ptr, row_sites, _, _, _, unary, site_ptr, site_row = view[:11]
    seen = np.zeros(instance.size, np.bool_)
    judged = np.zeros(row_ptr.size - 1, np.bool_)
    queue = np.empty(instance.size, np.int64)
    out = np.zeros(active.size, np.bool_)
    for first in range(instance.size):
        if seen[first] or best[first] == trial[first] or not active[instance[first]]:
            continue
        queue[0] = first
        seen[first] = True
        count, at, walls, change = 1, 0, 0, 0.0
        while at < count:
            i = queue[at]
            at += 1
            change += unary[starts[i] + trial[i]] - unary[starts[i] + best[i]]
            for a in range(site_ptr[i], site_ptr[i + 1]):
                row = site_row[a]
                if judged[row]:
                    continue
                judged[row] = True
                for slot in range(row_ptr[row], row_ptr[row + 1]):
                    site = row_sites[slot]
                    if not seen[site] and best[site] != trial[site]:
                        seen[site] = True
                        queue[count] = site
                        count += 1
                new, old = _entry(row, view, trial), _entry(row, view, best)
                if new == np.inf or old == np.inf:
                    walls += (1 if new == np.inf else 0) - (1 if old == np.inf else 0)
                    change += (0.0 if new == np.inf else new) - (0.0 if old == np.inf else old)
                else:
                    change += new - old
        if walls < 0 or (walls == 0 and change < 0.0):
            out[instance[first]] = True
            for at in range(count):
                best[queue[at]] = trial[queue[at]]
    for i in range(instance.size):
        if active[instance[i]]:
            trial[i] = best[i]
    return out

"""Least energies of chains, the best configurations and the k best: the loops, in float64.

Arrays are flat and contiguous, as in chain_numba. ``stride`` is K * K where each edge has its own table, so that the
edge into flat site t starts at t * stride of ``transition``, and 0 where one table is shared.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.chains.chain_energy_numba import path_energy
from ebmstruct.inference.kernels.chains.chain_log_numba import all_energies
from ebmstruct.inference.kernels.compiler import kernel
from ebmstruct.inference.kernels.simd_numba import LANES, add, load_some, minimum, splat, splat_at, store_some, widen


@kernel
def least_ahead(emission, transition, start, offsets, width, stride, messages, instance, site, stop):
    """Fill messages (n * K) for flat sites site to stop; returns the instance that site stop belongs to.

    messages[t, j] is the least energy of the part of the instance up to and including state j at site t.
    instance is the one that ``site`` lies in, so that the work can be cut into slices.
    """
    shared = transition.dtype.type(0)
    filler = emission.dtype.type(0)
    for t in range(site, stop):
        while offsets[instance + 1] <= t:
            instance += 1
        here = t * width
        if t == offsets[instance]:
            for j in range(width):
                messages[here + j] = emission[here + j]
                if start.size:
                    messages[here + j] += start[j]
            continue
        table = t * stride
        for j in range(0, width, LANES):
            even = splat(np.inf)
            odd = even
            for i in range(0, width - 1, 2):
                k = table + i * width + j
                row = widen(load_some(transition, k, width - j, shared))
                even = minimum(add(splat_at(messages, here - width + i), row), even)
                row = widen(load_some(transition, k + width, width - j, shared))
                odd = minimum(add(splat_at(messages, here - width + i + 1), row), odd)
            if width % 2:
                row = widen(load_some(transition, table + (width - 1) * width + j, width - j, shared))
                even = minimum(add(splat_at(messages, here - 1), row), even)
            own = widen(load_some(emission, here + j, width - j, filler))
            store_some(messages, here + j, width - j, add(minimum(even, odd), own))
    return instance


@kernel
def relax_ahead(emission, transition, start, width, stride, messages, first, site, stop):
    """Fill messages for sites site to stop of one instance with lower bounds that cost less than the least energies.

    Each state may follow from the best one before it at the price of the cheapest transition.
    """
    square = width * width
    cheapest = np.inf
    if not stride and site < stop:
        for k in range(square):
            cheapest = min(cheapest, transition[k])
    for t in range(site, stop):
        here = t * width
        before = 0.0
        if t > first:
            before = np.inf
            for j in range(here - width, here):
                before = min(before, messages[j])
            if stride:
                cheapest = np.inf
                for k in range(t * stride, t * stride + square):
                    cheapest = min(cheapest, transition[k])
            before += cheapest
        for j in range(width):
            messages[here + j] = before + emission[here + j]
            if t == first and start.size:
                messages[here + j] += start[j]


@kernel
def possible_endings(emission, transition, end, width, stride, first, last):
    """0 for each site from first and state from which some finite continuation leads to the end, else inf."""
    ending = np.full((last - first + 1) * width, np.inf)
    for t in range(last, first - 1, -1):
        for i in range(width):
            found = t == last and not (end.size and end[i] == np.inf)
            if t < last:
                for j in range(width):
                    onward = transition[(t + 1) * stride + i * width + j] + emission[(t + 1) * width + j]
                    found |= onward < np.inf and ending[(t + 1 - first) * width + j] == 0
            if found:
                ending[(t - first) * width + i] = 0.0
    return ending


@kernel
def complete(emission, transition, start, end, width, stride, messages, first, cut, last, ending, states):
    """Fill the states of one instance: least energy up to the site before cut, then the cheapest next one each time.

    ending: empty, or 0 or inf for each site from max(first, cut - 1) and state; states with inf are passed over.
    """
    if cut > first:
        best = np.inf
        pick = 0
        for j in range(width):
            value = messages[(cut - 1) * width + j]
            if cut > last and end.size:
                value += end[j]
            if ending.size:
                value += ending[j]
            if value < best:
                best = value
                pick = j
        states[cut - 1] = pick
        for t in range(cut - 1, first, -1):
            best = np.inf
            pick = 0
            for i in range(width):
                value = messages[(t - 1) * width + i] + transition[t * stride + i * width + states[t]]
                if value < best:
                    best = value
                    pick = i
            states[t - 1] = pick
    origin = max(first, cut - 1)
    for t in range(cut, last + 1):
        best = np.inf
        pick = 0
        for j in range(width):
            value = np.float64(emission[t * width + j])
            if t > first:
                value += transition[t * stride + states[t - 1] * width + j]
            elif start.size:
                value += start[j]
            if t == last and end.size:
                value += end[j]
            if ending.size:
                value += ending[(t - origin) * width + j]
            if value < best:
                best = value
                pick = j
        states[t] = pick


@kernel
def finish_least(
    emission, transition, start, end, offsets, width, stride, messages, reached, states, energies, bounds, finished,
    begin, stop,
):  # fmt: skip
    """States, energies and lower bounds of instances begin to stop, once messages before ``reached`` are filled.

    An instance beyond that is completed greedily. Should that run into a forbidden entry, it is completed again within
    the states from which the end can be reached, which costs as much as the messages would have.
    """
    nothing = messages[:0]
    table_fine = all_energies(transition, 0, 0 if stride else width * width)
    ends_fine = all_energies(start, 0, start.size) and all_energies(end, 0, end.size)
    for b in range(begin, stop):
        first = offsets[b]
        last = offsets[b + 1] - 1
        finished[b] = last < reached
        energies[b] = 0.0
        bounds[b] = 0.0
        if last < first:
            continue
        cut = min(max(reached, first), last + 1)
        relax_ahead(emission, transition, start, width, stride, messages, first, cut, last + 1)
        bound = np.inf
        for j in range(width):
            bound = min(bound, messages[last * width + j] + (end[j] if end.size else 0.0))
        complete(emission, transition, start, end, width, stride, messages, first, cut, last, nothing, states)
        value = path_energy(states, emission, transition, start, end, first, last, width, stride)
        if value == np.inf and cut <= last:
            ending = possible_endings(emission, transition, end, width, stride, max(first, cut - 1), last)
            complete(emission, transition, start, end, width, stride, messages, first, cut, last, ending, states)
            value = path_energy(states, emission, transition, start, end, first, last, width, stride)
        fine = ends_fine and all_energies(emission, first * width, (last + 1 - first) * width)
        if last > first:
            fine &= all_energies(transition, (first + 1) * stride, (last - first) * stride) and table_fine
        energies[b] = value if fine else np.nan
        bounds[b] = min(bound, value) if fine else np.nan


@kernel
def k_best(emission, transition, start, end, offsets, width, stride, k, states, energies):
    """states (k * n) and energies (k * B) of the k least energies of each instance, in rising order.

    Keeps the k best beginnings of each site and state. They differ from each other as beginnings do, so that
    the k best of all states at the last site are distinct. Slots that do not exist have energy inf and states 0.
    """
    instances = offsets.size - 1
    sites = emission.size // width
    longest = 0
    for b in range(instances):
        longest = max(longest, offsets[b + 1] - offsets[b])
    values = np.empty(2 * width * k)
    source = np.empty(longest * width * k, np.int64)  # what a beginning continues: state * k + rank
    heads = np.empty(width, np.int64)
    table_fine = all_energies(transition, 0, 0 if stride else width * width)
    ends_fine = all_energies(start, 0, start.size) and all_energies(end, 0, end.size)
    for b in range(instances):
        first = offsets[b]
        length = offsets[b + 1] - first
        for r in range(k):
            energies[r * instances + b] = np.inf
        if length == 0:
            energies[b] = 0.0
            continue
        fine = ends_fine and all_energies(emission, first * width, length * width)
        if length > 1:
            fine &= all_energies(transition, (first + 1) * stride, (length - 1) * stride) and table_fine
        if not fine:
            for r in range(k):
                energies[r * instances + b] = np.nan
            continue
        for t in range(length):
            site = first + t
            old = (t + 1) % 2 * width * k
            new = t % 2 * width * k
            for j in range(width):
                own = np.float64(emission[site * width + j])
                if t == 0:
                    for r in range(k):
                        values[new + j * k + r] = np.inf
                    values[new + j * k] = own + (start[j] if start.size else 0.0)
                    continue
                heads[:] = 0
                for r in range(k):
                    best = np.inf
                    pick = 0
                    for i in range(width):
                        if heads[i] < k:
                            value = values[old + i * k + heads[i]] + transition[site * stride + i * width + j]
                            if value < best:
                                best = value
                                pick = i
                    values[new + j * k + r] = best + own
                    source[(t * width + j) * k + r] = pick * k + min(heads[pick], k - 1)
                    heads[pick] += 1
        old = (length - 1) % 2 * width * k
        heads[:] = 0
        for r in range(k):
            best = np.inf
            pick = 0
            for j in range(width):
                if heads[j] < k:
                    value = values[old + j * k + heads[j]] + (end[j] if end.size else 0.0)
                    if value < best:
                        best = value
                        pick = j
            if best == np.inf:
                break
            energies[r * instances + b] = best
            slot = pick * k + heads[pick]
            heads[pick] += 1
            for t in range(length - 1, -1, -1):
                states[r * sites + first + t] = slot // k
                slot = source[(t * width + slot // k) * k + slot % k]

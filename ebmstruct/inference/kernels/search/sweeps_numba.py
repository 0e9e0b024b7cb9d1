"""Loops over single sites: conditional energies, heat-bath sweeps, replica exchange; and their random numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel, plain


class Problem(NamedTuple):
    """A table view laid out for local moves: ``starts`` and ``unary`` by site, and two ways to reach the rows.

    By row: row_ptr, row_sites, row_stride (the slot's step in its table), table_start, weights.
    By site: entries inc_ptr[i] : inc_ptr[i + 1] are the rows that look at i, each with its row, table start, weight,
    own stride, and the other slots' sites and strides at oth_ptr[e] : oth_ptr[e + 1].
    nb_ptr, nb_site: the sites that share a row with each site.
    """

    starts: np.ndarray
    unary: np.ndarray
    tables: np.ndarray
    row_ptr: np.ndarray
    row_sites: np.ndarray
    row_stride: np.ndarray
    table_start: np.ndarray
    weights: np.ndarray
    inc_ptr: np.ndarray
    inc_row: np.ndarray
    inc_start: np.ndarray
    inc_weight: np.ndarray
    inc_stride: np.ndarray
    oth_ptr: np.ndarray
    oth_site: np.ndarray
    oth_stride: np.ndarray
    nb_ptr: np.ndarray
    nb_site: np.ndarray


@inlined
def uniform(random):
    """A number in [0, 1) from the generator's state, (1,) uint64 and never 0 (xorshift64*, Vigna 2016)."""
    s = random[0]
    s ^= s >> np.uint64(12)
    s ^= s << np.uint64(25)
    s ^= s >> np.uint64(27)
    random[0] = s
    return float((s * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@inlined
def integer(random, limit):
    """An integer in 0 ... limit - 1."""
    return min(int(uniform(random) * limit), limit - 1)


@inlined
def conditional(problem, x, site, out):
    """The energy of each state of a site, all others as in ``x``; ``out`` has room for the site's states."""
    first = problem.starts[site]
    count = problem.starts[site + 1] - first
    for k in range(count):
        out[k] = problem.unary[first + k]
    for e in range(problem.inc_ptr[site], problem.inc_ptr[site + 1]):
        at = problem.inc_start[e]
        for o in range(problem.oth_ptr[e], problem.oth_ptr[e + 1]):
            at += x[problem.oth_site[o]] * problem.oth_stride[o]
        weight = problem.inc_weight[e]
        stride = problem.inc_stride[e]
        for k in range(count):
            out[k] += weight * problem.tables[at + k * stride]
    return count


@plain
def heat_bath(energy, count, temperature, draw):
    """The state that a uniform number picks from exp(-energy / temperature); ``energy`` becomes probabilities.

    Where every entry is infinite the first state's probability is 1.
    """
    least = energy[0]
    for k in range(1, count):
        least = min(least, energy[k])
    if least == np.inf:
        for k in range(count):
            energy[k] = 1.0 if k == 0 else 0.0
        return 0
    total = 0.0
    for k in range(count):
        gap = (energy[k] - least) / temperature
        energy[k] = np.exp(-gap) if gap < 700.0 else 0.0
        total += energy[k]
    for k in range(count):
        energy[k] /= total
    for k in range(count - 1):
        draw -= energy[k]
        if draw < 0.0:
            return k
    last = count - 1
    while energy[last] == 0.0:
        last -= 1
    return last


@kernel
def anneal(problem, x, region, random, temperatures, begin, visits, energy):
    """Heat-bath visits begin ... begin + visits - 1 in place; scratch ``energy``.

    Visit v is of site region[v % len(region)] at temperatures[v // len(region)].
    """
    sites = max(1, region.size)
    sweep, at = begin // sites, begin % sites
    for _ in range(visits):
        temperature = temperatures[sweep]
        site = region[at]
        count = conditional(problem, x, site, energy)
        if count == 2:
            gap = (energy[1] - energy[0]) / temperature
            if gap > 30.0:
                x[site] = 0
            elif gap < -30.0:
                x[site] = 1
            else:
                x[site] = 1 if uniform(random) * (1.0 + np.exp(gap)) < 1.0 else 0
        else:
            x[site] = heat_bath(energy, count, temperature, uniform(random))
        at += 1
        if at == sites:
            at = 0
            sweep += 1


@kernel
def gibbs(problem, x, order, random, temperature, sweeps, energy, beliefs):
    """``sweeps`` sweeps of every chain in place, sites in ``order``; conditional probabilities are added to ``beliefs``.

    x: (chains, n).  random: (chains, 1).  beliefs: (chains, states).
    """
    for chain in range(x.shape[0]):
        own, source, sums = x[chain], random[chain], beliefs[chain]
        for _ in range(sweeps):
            for i in range(order.size):
                site = order[i]
                count = conditional(problem, own, site, energy)
                own[site] = heat_bath(energy, count, temperature, uniform(source))
                first = problem.starts[site]
                for k in range(count):
                    sums[first + k] += energy[k]


@plain
def instance_energies(problem, x, instance, out):
    """The energy of each instance at ``x``, without the constants, to ``out``."""
    for b in range(out.size):
        out[b] = 0.0
    for site in range(x.size):
        out[instance[site]] += problem.unary[problem.starts[site] + x[site]]
    for row in range(problem.table_start.size):
        at = problem.table_start[row]
        for slot in range(problem.row_ptr[row], problem.row_ptr[row + 1]):
            at += x[problem.row_sites[slot]] * problem.row_stride[slot]
        out[instance[problem.row_sites[problem.row_ptr[row]]]] += problem.weights[row] * problem.tables[at]


@kernel
def temper(problem, x, instance, level, temperatures, random, sweeps, first, energy, energies, swaps, best, lowest):
    """``sweeps`` sweeps of all replicas in place, after each an exchange of neighbouring temperatures.

    x: (R, n).  level: (R, B), the temperature that a replica has in an instance.  temperatures: (R,), rising.
    first: sweeps done before, so that even and odd pairs alternate.  energies: (R, B), out.
    swaps: (R - 1, 2): exchanges accepted and tried, added to.  best, lowest: (n,) and (B,): the lowest labelling seen.
    """
    replicas, n = x.shape
    holder = np.empty(replicas, np.int64)
    for sweep in range(first, first + sweeps):
        for r in range(replicas):
            own = x[r]
            for site in range(n):
                count = conditional(problem, own, site, energy)
                own[site] = heat_bath(energy, count, temperatures[level[r, instance[site]]], uniform(random))
            instance_energies(problem, own, instance, energies[r])
            lower = False
            for b in range(lowest.size):
                lower = lower or energies[r, b] < lowest[b]
            if lower:
                for site in range(n):
                    if energies[r, instance[site]] < lowest[instance[site]]:
                        best[site] = own[site]
                for b in range(lowest.size):
                    lowest[b] = min(lowest[b], energies[r, b])
        for b in range(lowest.size):
            for r in range(replicas):
                holder[level[r, b]] = r
            for cold in range(sweep % 2, replicas - 1, 2):
                one, other = holder[cold], holder[cold + 1]
                rise = energies[other, b] - energies[one, b]
                swaps[cold, 1] += 1
                gain = (1.0 / temperatures[cold + 1] - 1.0 / temperatures[cold]) * rise
                if gain >= 0.0 or uniform(random) < np.exp(gain):
                    level[one, b] = cold + 1
                    level[other, b] = cold
                    holder[cold], holder[cold + 1] = other, one
                    swaps[cold, 0] += 1


@kernel
def colours(nb_ptr, nb_site):
    """(n,) a colour of each site, the lowest that no neighbour before it has."""
    n = nb_ptr.size - 1
    out = np.full(n, -1)
    used = np.full(n + 1, -1)
    for site in range(n):
        for i in range(nb_ptr[site], nb_ptr[site + 1]):
            if out[nb_site[i]] >= 0:
                used[out[nb_site[i]]] = site
        colour = 0
        while used[colour] == site:
            colour += 1
        out[site] = colour
    return out


@kernel
def settle(problem, x, energy, sweeps):
    """Iterated conditional modes in place, until no site improves or ``sweeps`` are done; returns the changes."""
    n = problem.starts.size - 1
    total = 0
    for _ in range(sweeps):
        changes = 0
        for site in range(n):
            count = conditional(problem, x, site, energy)
            best = x[site]
            for k in range(count):
                if energy[k] < energy[best]:
                    best = k
            if best != x[site]:
                x[site] = best
                changes += 1
        total += changes
        if changes == 0:
            break
    return total


@kernel
def gaps(problem, x, energy, limit):
    """(n,) at each site the least rise in energy of another state over the best, below ``limit``; -1 where none."""
    n = problem.starts.size - 1
    out = np.full(n, -1.0)
    for site in range(n):
        count = conditional(problem, x, site, energy)
        best = 0
        for k in range(1, count):
            if energy[k] < energy[best]:
                best = k
        for k in range(count):
            rise = energy[k] - energy[best]
            if k != best and rise < limit and (out[site] < 0.0 or rise < out[site]):
                out[site] = rise
    return out

"""Exact inference on forests of pairwise tables: the loops, in log space and float64.

A site's number of states is starts[i + 1] - starts[i]. ``order`` lists every site before its parent. The table of a
site and its parent begins at table_start[i] of ``tables``, row after row, rows being states of the site, or of the
parent where ``transposed``. Messages go from a site to its parent and have an entry for each state of the parent;
they lie one after another in the order of the sites, that of site i at messages[begins[i]:]. A root (parent -1)
sends none.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel


@kernel
def fault(sizes, starts, parent, order, table_start, transposed, instance, num_instances, numbers, table_numbers):
    """0 if the description of the forest is sound, otherwise what is wrong with it, for ``forest.FAULTS``.

    sizes: number of states of each site; numbers and table_numbers: how many energies there are.
    """
    n = sizes.size
    if starts.size != n + 1 or starts[0] != 0 or starts[n] != numbers:
        return 1
    seen = np.zeros(n, np.bool_)
    for i in range(n):
        if sizes[i] < 1 or starts[i + 1] - starts[i] != sizes[i]:
            return 1
        if instance[i] < 0 or instance[i] >= num_instances:
            return 2
        p = parent[i]
        if p < -1 or p >= n or p == i:
            return 3
        if p >= 0:
            if instance[p] != instance[i]:
                return 2
            if table_start[i] < 0 or table_start[i] + sizes[i] * sizes[p] > table_numbers:
                return 4
    if order.size != n:
        return 5
    for j in range(n):
        i = order[j]
        if i < 0 or i >= n or seen[i] or (parent[i] >= 0 and seen[parent[i]]):
            return 5
        seen[i] = True
    return 0


@kernel
def message_begins(sizes, parent):
    """Where the message of each site lies, and after the last one their number."""
    begins = np.zeros(sizes.size + 1, np.int64)
    for i in range(sizes.size):
        begins[i + 1] = begins[i] + (sizes[parent[i]] if parent[i] >= 0 else 0)
    return begins


@kernel
def joint_begins(sizes, parent):
    """Where the joint table of each site and its parent lies among those of all edges; after the last, their size."""
    begins = np.zeros(sizes.size + 1, np.int64)
    for i in range(sizes.size):
        begins[i + 1] = begins[i] + (sizes[i] * sizes[parent[i]] if parent[i] >= 0 else 0)
    return begins


@kernel
def steps(i, sizes, parent, transposed):
    """How far apart in the table of site i the next state of the site, and of its parent, are."""
    if transposed[i]:
        return 1, sizes[i]
    return sizes[parent[i]], 1


@kernel
def find_undefined(unary, tables, sizes, starts, parent, table_start, instance, undefined):
    """Mark the instances that read an energy that is NaN or -inf."""
    for i in range(sizes.size):
        fine = True
        for y in range(starts[i], starts[i + 1]):
            fine &= unary[y] > -np.inf
        if parent[i] >= 0:
            for cell in range(table_start[i], table_start[i] + sizes[i] * sizes[parent[i]]):
                fine &= tables[cell] > -np.inf
        if not fine:
            undefined[instance[i]] = True


@kernel
def log_up(unary, tables, sizes, starts, parent, order, table_start, transposed, instance, inside, messages, log_z):
    """Fill inside (flat over states: log weight of a subtree by its root's state), messages and log_z (B)."""
    begins = message_begins(sizes, parent)
    undefined = np.zeros(log_z.size, np.bool_)
    find_undefined(unary, tables, sizes, starts, parent, table_start, instance, undefined)
    for y in range(inside.size):
        inside[y] = -unary[y]
    log_z[:] = 0.0
    for j in range(order.size):
        i = order[j]
        first = starts[i]
        p = parent[i]
        across, down = (0, 0) if p < 0 else steps(i, sizes, parent, transposed)
        for x in range(1 if p < 0 else sizes[p]):
            peak = -1e308
            for y in range(sizes[i]):
                cell = 0.0 if p < 0 else tables[table_start[i] + y * across + x * down]
                peak = max(peak, inside[first + y] - cell)
            summed = 0.0
            for y in range(sizes[i]):
                cell = 0.0 if p < 0 else tables[table_start[i] + y * across + x * down]
                summed += np.exp(inside[first + y] - cell - peak)
            value = np.log(summed) + peak
            if p < 0:
                log_z[instance[i]] += value
            else:
                messages[begins[i] + x] = value
                inside[starts[p] + x] += value
    for b in range(log_z.size):
        if undefined[b]:
            log_z[b] = np.nan


@kernel
def posterior(
    tables, sizes, starts, parent, order, table_start, transposed, instance, inside, messages, log_z, weight, sign,
    unary_out, joint_out, table_out,
):  # fmt: skip
    """sign * weight[b] times the marginals, from what ``log_up`` filled in: p(site | parent) p(parent), roots first.

    joint_out, unless empty, gets those of the edges; table_out, unless empty, gets them added where their tables lie.
    An instance of weight 0 contributes zeros even if its marginals are undefined.
    """
    begins = message_begins(sizes, parent)
    joints = joint_begins(sizes, parent)
    share = np.zeros(inside.size)
    joint_out[:] = 0
    for j in range(order.size - 1, -1, -1):
        i = order[j]
        p = parent[i]
        first = starts[i]
        b = instance[i]
        factor = sign * weight[b] if weight[b] != 0 else 0.0
        undefined = np.isnan(log_z[b])
        empty = log_z[b] == -np.inf or factor == 0
        if p < 0:
            peak = -1e308
            for y in range(first, first + sizes[i]):
                peak = max(peak, inside[y])
            summed = 0.0
            for y in range(first, first + sizes[i]):
                share[y] = np.exp(inside[y] - peak)
                summed += share[y]
            for y in range(first, first + sizes[i]):
                share[y] = 0.0 if empty else share[y] / summed
        else:
            across, down = steps(i, sizes, parent, transposed)
            for x in range(sizes[p]):
                above = share[starts[p] + x]
                message = messages[begins[i] + x]
                for y in range(sizes[i]):
                    cell = table_start[i] + y * across + x * down
                    both = 0.0
                    if above > 0 and not empty:
                        both = above * np.exp(inside[first + y] - tables[cell] - message)
                        share[first + y] += both
                    both = np.nan if undefined and not empty else factor * both
                    if joint_out.size:
                        joint_out[joints[i] + y * sizes[p] + x] = both
                    if table_out.size:
                        table_out[cell] += both
    for i in range(sizes.size):
        b = instance[i]
        factor = sign * weight[b] if weight[b] != 0 else 0.0
        for y in range(starts[i], starts[i + 1]):
            unary_out[y] = np.nan if factor != 0 and np.isnan(log_z[b]) else factor * share[y]


@kernel
def minimize(
    unary, tables, sizes, starts, parent, order, table_start, transposed, instance, messages, states, energies, bounds
):
    """Messages (least energy of a subtree for each state of the parent), states, their energies, and bounds (B)."""
    begins = message_begins(sizes, parent)
    undefined = np.zeros(energies.size, np.bool_)
    find_undefined(unary, tables, sizes, starts, parent, table_start, instance, undefined)
    least = np.empty(unary.size)
    for y in range(unary.size):
        least[y] = unary[y]
    energies[:] = 0.0
    bounds[:] = 0.0
    for j in range(order.size):
        i = order[j]
        p = parent[i]
        across, down = (0, 0) if p < 0 else steps(i, sizes, parent, transposed)
        for x in range(1 if p < 0 else sizes[p]):
            best = np.inf
            for y in range(sizes[i]):
                cell = 0.0 if p < 0 else tables[table_start[i] + y * across + x * down]
                best = min(best, least[starts[i] + y] + cell)
            if p < 0:
                bounds[instance[i]] += best
            else:
                messages[begins[i] + x] = best
                least[starts[p] + x] += best
    for j in range(order.size - 1, -1, -1):
        i = order[j]
        p = parent[i]
        across, down = (0, 0) if p < 0 else steps(i, sizes, parent, transposed)
        best = np.inf
        pick = 0
        for y in range(sizes[i]):
            cell = 0.0 if p < 0 else tables[table_start[i] + y * across + states[p] * down]
            if least[starts[i] + y] + cell < best:
                best = least[starts[i] + y] + cell
                pick = y
        states[i] = pick
        energies[instance[i]] += unary[starts[i] + pick]
        if p >= 0:
            energies[instance[i]] += tables[table_start[i] + pick * across + states[p] * down]
    for b in range(energies.size):
        if undefined[b]:
            energies[b] = np.nan
            bounds[b] = np.nan


@kernel
def sample(tables, sizes, starts, parent, order, table_start, transposed, instance, inside, log_z, uniforms, states):
    """Draw states (S * n) from the roots down, from uniforms (S * n); zeros without a configuration."""
    n = sizes.size
    largest = 1
    for i in range(n):
        largest = max(largest, sizes[i])
    weights = np.empty(largest)
    for s in range(states.size // max(n, 1)):
        for j in range(n - 1, -1, -1):
            i = order[j]
            if not (log_z[instance[i]] > -np.inf):
                continue
            p = parent[i]
            across, down = (0, 0) if p < 0 else steps(i, sizes, parent, transposed)
            peak = -1e308
            for y in range(sizes[i]):
                cell = 0.0 if p < 0 else tables[table_start[i] + y * across + states[s * n + p] * down]
                weights[y] = inside[starts[i] + y] - cell
                peak = max(peak, weights[y])
            summed = 0.0
            for y in range(sizes[i]):
                weights[y] = np.exp(weights[y] - peak)
                summed += weights[y]
            target = uniforms[s * n + i] * summed
            summed = 0.0
            for y in range(sizes[i]):
                if weights[y] > 0:
                    states[s * n + i] = y
                    summed += weights[y]
                    if summed > target:
                        break

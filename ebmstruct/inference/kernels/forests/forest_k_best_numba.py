"""The k least energies of forests of pairwise tables: the loop. The layout is that of forest_numba."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel
from ebmstruct.inference.kernels.forests.forest_numba import find_undefined, message_begins, steps


@kernel
def merge(ours, at, theirs, k, merged, source, to):
    """The k least sums of one number of each of two rising lists, ours in place; source: their two ranks, a * k + b."""
    heads = np.zeros(k, np.int64)
    for r in range(k):
        best = np.inf
        pick = 0
        for a in range(k):
            if heads[a] < k and ours[at + a] + theirs[heads[a]] < best:
                best = ours[at + a] + theirs[heads[a]]
                pick = a
        merged[r] = best
        source[to + r] = pick * k + min(heads[pick], k - 1)
        heads[pick] += 1
    for r in range(k):
        ours[at + r] = merged[r]


@kernel
def k_best(unary, tables, sizes, starts, parent, order, table_start, transposed, instance, k, states, energies):
    """states (k * n) and energies (k * B) of the k least energies of each instance, in rising order.

    Each state of each site has a list of the k best of its subtree; a child's lists are first reduced over its
    states to one for each state of the parent, then merged into the parent's. A root sends to its instance, which
    stands above its trees like a parent of one state. Going down again, a site's children are taken in the reverse
    order, and each merge says which rank was left for those before it.
    """
    n = sizes.size
    instances = energies.size // k
    begins = message_begins(sizes, parent)
    undefined = np.zeros(instances, np.bool_)
    find_undefined(unary, tables, sizes, starts, parent, table_start, instance, undefined)
    lists = np.full(unary.size * k, np.inf)
    for y in range(unary.size):
        lists[y * k] = unary[y]
    tops = np.full(instances * k, np.inf)
    for b in range(instances):
        tops[b * k] = 0.0
    slots = np.empty(n, np.int64)  # where the lists that a site sends begin, in lists
    count = 0
    for i in range(n):
        slots[i] = count
        count += 1 if parent[i] < 0 else begins[i + 1] - begins[i]
    reduced = np.empty(count * k, np.int64)
    merged = np.empty(count * k, np.int64)
    message = np.empty(k)
    spare = np.empty(k)
    largest = 1
    for i in range(n):
        largest = max(largest, sizes[i])
    heads = np.empty(largest, np.int64)
    for j in range(n):
        i = order[j]
        p = parent[i]
        across, down = (0, 0) if p < 0 else steps(i, sizes, parent, transposed)
        for x in range(1 if p < 0 else sizes[p]):
            slot = (slots[i] + x) * k
            heads[: sizes[i]] = 0
            for r in range(k):
                best = np.inf
                pick = 0
                for y in range(sizes[i]):
                    if heads[y] < k:
                        value = lists[(starts[i] + y) * k + heads[y]]
                        if p >= 0:
                            value += tables[table_start[i] + y * across + x * down]
                        if value < best:
                            best = value
                            pick = y
                message[r] = best
                reduced[slot + r] = pick * k + min(heads[pick], k - 1)
                heads[pick] += 1
            if p < 0:
                merge(tops, instance[i] * k, message, k, spare, merged, slot)
            else:
                merge(lists, (starts[p] + x) * k, message, k, spare, merged, slot)
    rank = np.empty(n, np.int64)
    left = np.empty(instances, np.int64)
    for r in range(k):
        for b in range(instances):
            energies[r * instances + b] = np.nan if undefined[b] else tops[b * k + r]
            left[b] = r
        for j in range(n - 1, -1, -1):
            i = order[j]
            p = parent[i]
            b = instance[i]
            if not (energies[r * instances + b] < np.inf):
                continue
            slot = (slots[i] + (0 if p < 0 else states[r * n + p])) * k
            both = merged[slot + (left[b] if p < 0 else rank[p])]
            if p < 0:
                left[b] = both // k
            else:
                rank[p] = both // k
            chosen = reduced[slot + both % k]
            states[r * n + i] = chosen // k
            rank[i] = chosen % k

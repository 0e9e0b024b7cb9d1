"""What eliminating in a given order makes, before any energy is known: scopes, sizes, and places in memory.

A graph is ``adj_ptr`` (n + 1,) and ``adj``, the neighbours of each site, in both directions and without repeats.
``log_card`` (n,) is the log2 of each site's number of states.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel


@kernel
def symbolic(order, adj_ptr, adj, log_card, limit):
    """What eliminating in ``order`` makes: (parent, sep_ptr, sep, log_size), all by position in the order.

    sep: the later positions that a site's table holds besides itself, last first.  parent: the first of them, or -1.
    log_size: log2 of the entries of each table. Where one exceeds ``limit``, sep_ptr is empty.
    """
    n = order.size
    position = np.empty(n, np.int64)
    for i in range(n):
        position[order[i]] = i
    parent = np.full(n, -1, np.int64)
    child = np.full(n, -1, np.int64)
    sibling = np.full(n, -1, np.int64)
    mark = np.full(n, -1, np.int64)
    sep_ptr = np.zeros(n + 1, np.int64)
    sep = np.empty(max(16, 2 * adj.size), np.int64)
    log_size = np.zeros(n)
    used = 0
    for i in range(n):
        v = order[i]
        mark[i] = i
        begin = used
        total = log_card[v]
        bound = adj_ptr[v + 1] - adj_ptr[v]
        c = child[i]
        while c >= 0:
            bound += sep_ptr[c + 1] - sep_ptr[c]
            c = sibling[c]
        bound = min(bound, n - i)
        if used + bound > sep.size:
            bigger = np.empty(2 * sep.size + bound, np.int64)
            bigger[:used] = sep[:used]
            sep = bigger
        for at in range(adj_ptr[v], adj_ptr[v + 1]):
            p = position[adj[at]]
            if p > i and mark[p] != i:
                mark[p] = i
                sep[used] = p
                used += 1
                total += log_card[order[p]]
        c = child[i]
        while c >= 0:
            for at in range(sep_ptr[c], sep_ptr[c + 1]):
                p = sep[at]
                if mark[p] != i:
                    mark[p] = i
                    sep[used] = p
                    used += 1
                    total += log_card[order[p]]
            c = sibling[c]
        sep_ptr[i + 1] = used
        log_size[i] = total
        if total > limit:
            return parent, sep_ptr[:0], sep[:0], log_size[: i + 1]
        if used > begin:
            first = sep[begin]
            for at in range(begin + 1, used):
                first = min(first, sep[at])
            parent[i] = first
            sibling[i] = child[first]
            child[first] = i
            for at in range(begin + 1, used):  # scopes are short, and numba's own sort takes long to compile
                p = sep[at]
                to = at
                while to > begin and sep[to - 1] < p:
                    sep[to] = sep[to - 1]
                    to -= 1
                sep[to] = p
    return parent, sep_ptr, sep[:used], log_size


@kernel
def postorder(parent):
    """Positions rearranged so that each subtree is contiguous and ends with its root; the work stays the same."""
    n = parent.size
    child = np.full(n, -1, np.int64)
    sibling = np.full(n, -1, np.int64)
    for i in range(n - 1, -1, -1):
        if parent[i] >= 0:
            sibling[i] = child[parent[i]]
            child[parent[i]] = i
    out = np.empty(n, np.int64)
    stack = np.empty(n, np.int64)
    count = 0
    for root in range(n):
        if parent[root] >= 0:
            continue
        stack[0] = root
        depth = 1
        while depth > 0:
            i = stack[depth - 1]
            c = child[i]
            if c >= 0:
                child[i] = sibling[c]
                stack[depth] = c
                depth += 1
            else:
                out[count] = i
                count += 1
                depth -= 1
    return out


@kernel
def place_messages(parent, size, keep):
    """Where each message lies, in a stretch of memory whose length comes second.

    With ``keep`` one after another. Else two stacks grow towards each other, for even and odd depths: as subtrees are
    contiguous, what a bucket receives is always on top of one stack, and what it sends goes on top of the other.
    """
    n = parent.size
    place = np.empty(n, np.int64)
    if keep:
        total = 0
        for i in range(n):
            place[i] = total
            total += size[i]
        return place, total
    odd = np.zeros(n, np.bool_)
    for i in range(n - 1, -1, -1):
        odd[i] = parent[i] >= 0 and not odd[parent[i]]
    received = np.zeros(n, np.int64)
    low, high, peak = 0, 0, 0
    for i in range(n):
        if odd[i]:
            high += size[i]
            place[i] = -high
        else:
            place[i] = low
            low += size[i]
        peak = max(peak, low + high)
        if odd[i]:
            low -= received[i]
        else:
            high -= received[i]
        if parent[i] >= 0:
            received[parent[i]] += size[i]
    for i in range(n):
        if place[i] < 0:
            place[i] += peak
    return place, peak

"""Loops that find elimination orders.

A graph is ``adj_ptr`` (n + 1,) and ``adj``, the neighbours of each site, in both directions and without repeats.
``log_card`` (n,) is the log2 of each site's number of states.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain


@plain
def heap_push(keys, items, size, key, item):
    """Add (key, item) to a binary heap held in two arrays, least key first; the new size."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if keys[above] <= key:
            break
        keys[at] = keys[above]
        items[at] = items[above]
        at = above
    keys[at] = key
    items[at] = item
    return size + 1


@plain
def heap_pop(keys, items, size):
    """Take the least entry off; it is left at position size - 1, which is the new size."""
    key, item = keys[0], items[0]
    size -= 1
    last_key, last_item = keys[size], items[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and keys[below + 1] < keys[below]:
            below += 1
        if keys[below] >= last_key:
            break
        keys[at] = keys[below]
        items[at] = items[below]
        at = below
    keys[at] = last_key
    items[at] = last_item
    keys[size] = key
    items[size] = item
    return size


@kernel
def min_weight(adj_ptr, adj, log_card, limit, effort):
    """The order that eliminates the site of the smallest table next, and how many sites were ordered.

    It stops where the smallest table exceeds 2 ** limit entries, or after about ``effort`` looks at neighbours.
    The eliminated sites are kept as cliques (the quotient graph of George and Liu 1989, section 5), so that memory
    stays that of the graph.
    """
    n = log_card.size
    order = np.empty(n, np.int64)
    gone = np.zeros(n, np.bool_)
    mark = np.zeros(n, np.int64)
    stamp = 0
    neighbours = adj.copy()
    degree = np.empty(n, np.int64)
    cliques = np.empty(adj.size, np.int64)  # a site never joins more cliques than it had neighbours
    joined = np.zeros(n, np.int64)
    clique_begin = np.zeros(n, np.int64)
    clique_size = np.zeros(n, np.int64)
    absorbed = np.zeros(n, np.bool_)
    pool = np.empty(max(16, 4 * adj.size), np.int64)
    used = 0
    weight = np.empty(n)
    keys = np.empty(4 * n + 16)
    items = np.empty(4 * n + 16, np.int64)
    size = np.int64(0)
    scope = np.empty(n, np.int64)
    for v in range(n):
        degree[v] = adj_ptr[v + 1] - adj_ptr[v]
        weight[v] = log_card[v]
        for at in range(adj_ptr[v], adj_ptr[v + 1]):
            weight[v] += log_card[adj[at]]
        size = heap_push(keys, items, size, weight[v], v)
    count, looks = 0, 0
    while count < n:
        size = heap_pop(keys, items, size)
        v = items[size]
        if gone[v] or keys[size] != weight[v]:
            continue
        if weight[v] > limit or looks > effort:
            break
        gone[v] = True
        order[count] = v
        count += 1
        stamp += 1
        mark[v] = stamp
        width = 0
        for at in range(adj_ptr[v], adj_ptr[v] + degree[v]):
            u = neighbours[at]
            if not gone[u] and mark[u] != stamp:
                mark[u] = stamp
                scope[width] = u
                width += 1
        for at in range(adj_ptr[v], adj_ptr[v] + joined[v]):
            c = cliques[at]
            absorbed[c] = True
            for j in range(clique_begin[c], clique_begin[c] + clique_size[c]):
                u = pool[j]
                if not gone[u] and mark[u] != stamp:
                    mark[u] = stamp
                    scope[width] = u
                    width += 1
        if used + width > pool.size:
            bigger = np.empty(2 * pool.size + width, np.int64)
            bigger[:used] = pool[:used]
            pool = bigger
        clique_begin[v] = used
        clique_size[v] = width
        pool[used : used + width] = scope[:width]
        used += width
        for j in range(width):  # all but the neighbours that the new clique covers stay, and so do other cliques
            u = scope[j]
            kept = adj_ptr[u]
            for at in range(adj_ptr[u], adj_ptr[u] + degree[u]):
                w = neighbours[at]
                if not gone[w] and mark[w] != stamp:
                    neighbours[kept] = w
                    kept += 1
            degree[u] = kept - adj_ptr[u]
            kept = adj_ptr[u]
            for at in range(adj_ptr[u], adj_ptr[u] + joined[u]):
                if not absorbed[cliques[at]]:
                    cliques[kept] = cliques[at]
                    kept += 1
            cliques[kept] = v
            joined[u] = kept + 1 - adj_ptr[u]
        if size + width > keys.size:
            more_keys = np.empty(2 * keys.size + width)
            more_items = np.empty(2 * keys.size + width, np.int64)
            more_keys[:size] = keys[:size]
            more_items[:size] = items[:size]
            keys, items = more_keys, more_items
        for j in range(width):
            u = scope[j]
            stamp += 1
            mark[u] = stamp
            total = log_card[u]
            for at in range(adj_ptr[u], adj_ptr[u] + degree[u]):
                w = neighbours[at]
                if not gone[w] and mark[w] != stamp:
                    mark[w] = stamp
                    total += log_card[w]
            looks += degree[u]
            for at in range(adj_ptr[u], adj_ptr[u] + joined[u]):
                c = cliques[at]
                for k in range(clique_begin[c], clique_begin[c] + clique_size[c]):
                    w = pool[k]
                    if not gone[w] and mark[w] != stamp:
                        mark[w] = stamp
                        total += log_card[w]
                looks += clique_size[c]
            if total != weight[u]:
                weight[u] = total
                size = heap_push(keys, items, size, total, u)
    return order, count


@plain
def bits_set(word):
    """The number of ones in a word."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def min_fill(adj_ptr, adj, log_card, seed):
    """The order that adds the fewest edges at each step, ties broken by the smaller table; and the looks it took, about.

    A seed above 0 breaks ties at random. Neighbourhoods are bit sets: memory n ** 2 / 8 bytes; a step looks again only at
    the sites whose surroundings changed.
    """
    n = log_card.size
    words = (n + 63) // 64
    row = np.zeros((n, words), np.uint64)
    weight = log_card.copy()
    for v in range(n):
        for at in range(adj_ptr[v], adj_ptr[v + 1]):
            u = adj[at]
            row[v, u >> 6] |= np.uint64(1) << np.uint64(u & 63)
            weight[v] += log_card[u]
    fill = np.empty(n, np.int64)
    stale = np.ones(n, np.bool_)
    gone = np.zeros(n, np.bool_)
    noise = np.zeros(n)
    state = np.uint64(seed * 2 + 1) * np.uint64(0x9E3779B97F4A7C15)
    order = np.empty(n, np.int64)
    near = np.empty(n, np.int64)
    looks = 0
    for step in range(n):
        best, best_score, best_weight = -1, 0.0, 0.0
        looks += n
        for v in range(n):
            if gone[v]:
                continue
            if stale[v]:
                stale[v] = False
                missing, degree = 0, 0
                for w in range(words):
                    word = row[v, w]
                    while word != np.uint64(0):
                        low = word & (~word + np.uint64(1))
                        word ^= low
                        u = w * 64 + bits_set(low - np.uint64(1))
                        degree += 1
                        for x in range(words):
                            if row[v, x] != np.uint64(0):
                                missing += bits_set(row[v, x] & ~row[u, x])
                looks += words * (degree + 1)
                fill[v] = (missing - degree) // 2
                if seed > 0:
                    state ^= state << np.uint64(13)
                    state ^= state >> np.uint64(7)
                    state ^= state << np.uint64(17)
                    noise[v] = 0.75 * np.float64(state >> np.uint64(40)) / 16777216.0
            score = fill[v] + noise[v]
            if best < 0 or score < best_score or (score == best_score and weight[v] < best_weight):
                best, best_score, best_weight = v, score, weight[v]
        v = best
        order[step] = v
        gone[v] = True
        degree = 0
        for w in range(words):
            word = row[v, w]
            while word != np.uint64(0):
                low = word & (~word + np.uint64(1))
                word ^= low
                near[degree] = w * 64 + bits_set(low - np.uint64(1))
                degree += 1
        added = fill[v] > 0
        for j in range(degree):
            u = near[j]
            row[u, v >> 6] &= ~(np.uint64(1) << np.uint64(v & 63))
            stale[u] = True
            if added:
                for x in range(words):
                    row[u, x] |= row[v, x]
                row[u, u >> 6] &= ~(np.uint64(1) << np.uint64(u & 63))
                for x in range(words):  # a new edge among its neighbours changes a site's fill as well
                    word = row[u, x]
                    while word != np.uint64(0):
                        low = word & (~word + np.uint64(1))
                        word ^= low
                        stale[x * 64 + bits_set(low - np.uint64(1))] = True
            weight[u] = log_card[u]
            for x in range(words):
                word = row[u, x]
                while word != np.uint64(0):
                    low = word & (~word + np.uint64(1))
                    word ^= low
                    weight[u] += log_card[x * 64 + bits_set(low - np.uint64(1))]
        looks += 3 * words * degree
    return order, looks


@kernel
def sweep_order(adj_ptr, adj, log_card, start, eager, limit):
    """The order of a front that moves over a connected graph from ``start``; and about how many looks it took.

    Next comes the site at the front that brings the fewest states of new sites in, less its own where ``eager``; of
    those the one that came first (King 1970). On grids this walks along diagonals, or along the shorter side. Where the
    states of the front number more than 2 ** limit, the order is empty.
    """
    n = log_card.size
    order = np.empty(n, np.int64)
    inside = np.zeros(n, np.bool_)
    front = np.empty(n, np.int64)
    front[0] = start
    inside[start] = True
    count, looks = 1, 0
    weight = log_card[start]
    for step in range(n):
        if weight > limit:
            return order[:0], looks
        best, least = 0, np.inf
        for j in range(count):
            v = front[j]
            growth = -log_card[v] if eager else 0.0
            for at in range(adj_ptr[v], adj_ptr[v + 1]):
                if not inside[adj[at]]:
                    growth += log_card[adj[at]]
            looks += adj_ptr[v + 1] - adj_ptr[v] + 1
            if growth < least - 1e-9:
                best, least = j, growth
        v = front[best]
        order[step] = v
        weight -= log_card[v]
        for j in range(best, count - 1):
            front[j] = front[j + 1]
        count -= 1
        for at in range(adj_ptr[v], adj_ptr[v + 1]):
            u = adj[at]
            if not inside[u]:
                inside[u] = True
                front[count] = u
                count += 1
                weight += log_card[u]
    return order, looks


@kernel
def farthest(adj_ptr, adj, start):
    """A site of a connected graph at the largest distance from ``start``, the last that breadth-first search finds."""
    n = adj_ptr.size - 1
    seen = np.zeros(n, np.bool_)
    queue = np.empty(n, np.int64)
    queue[0] = start
    seen[start] = True
    count = 1
    for head in range(n):
        if head >= count:
            break
        v = queue[head]
        for at in range(adj_ptr[v], adj_ptr[v + 1]):
            u = adj[at]
            if not seen[u]:
                seen[u] = True
                queue[count] = u
                count += 1
    return queue[count - 1]

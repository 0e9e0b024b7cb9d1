"""Strongly connected components, in an order in which arcs lead."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel


@kernel
def strong_components(sites, first, second, forth, back, inside):
    """(sites,) the number of each node's strongly connected component, in an order in which arcs lead to lower numbers.

    The arcs are those from first[e] to second[e] where forth[e] > 0 and back where back[e] > 0, between nodes that
    are ``inside``; other nodes have number -1. Tarjan (1972), with a stack of its own.
    """
    ptr = np.zeros(sites + 2, np.int64)
    for e in range(first.size):
        if inside[first[e]] and inside[second[e]]:
            ptr[first[e] + 2] += forth[e] > 0
            ptr[second[e] + 2] += back[e] > 0
    for i in range(sites):
        ptr[i + 2] += ptr[i + 1]
    head = np.empty(ptr[sites + 1], np.int32)
    for e in range(first.size):
        i, j = first[e], second[e]
        if inside[i] and inside[j]:
            if forth[e] > 0:
                head[ptr[i + 1]] = j
                ptr[i + 1] += 1
            if back[e] > 0:
                head[ptr[j + 1]] = i
                ptr[j + 1] += 1
    component = np.full(sites, -1, np.int64)
    low, seen = np.zeros(sites, np.int64), np.zeros(sites, np.int64)
    at = ptr[:sites].copy()
    path, stack = np.empty(sites, np.int64), np.empty(sites, np.int64)
    depth, held, clock, found = 0, 0, 0, 0
    for root in range(sites):
        if seen[root] or not inside[root]:
            continue
        path[0], depth = root, 1
        while depth:
            i = path[depth - 1]
            if not seen[i]:
                clock += 1
                seen[i] = low[i] = clock
                stack[held] = i
                held += 1
            if at[i] < ptr[i + 1]:
                j = head[at[i]]
                at[i] += 1
                if not seen[j]:
                    path[depth] = j
                    depth += 1
                elif component[j] < 0:
                    low[i] = min(low[i], seen[j])
                continue
            depth -= 1
            if depth:
                low[path[depth - 1]] = min(low[path[depth - 1]], low[i])
            if low[i] == seen[i]:
                while True:
                    held -= 1
                    component[stack[held]] = found
                    if stack[held] == i:
                        break
                found += 1
    return component

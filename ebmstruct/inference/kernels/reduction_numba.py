"""Loops that shrink tables: which states can be part of a finite assignment, and which entries remain."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel


@kernel
def propagate(allowed, starts, row_ptr, row_sites, table_start, flat, hard, site_ptr, site_rows):
    """Generalised arc consistency (Mackworth 1977): drop every state that no finite entry of some table supports.

    allowed: (states,) bool, changed in place.  hard: (m,) bool, the rows whose tables hold an infinite entry.
    Returns (n,) bool: the sites whose last state was lost; each gets its first state back, so that others go on.
    """
    rows, sites = row_ptr.size - 1, starts.size - 1
    lost = np.zeros(sites, np.bool_)
    waiting = hard.copy()
    queue = np.empty(rows, np.int64)
    head, count = 0, 0
    for row in range(rows):
        if hard[row]:
            queue[count] = row
            count += 1
    arity_limit = 1
    for row in range(rows):
        arity_limit = max(arity_limit, row_ptr[row + 1] - row_ptr[row])
    state = np.zeros(arity_limit, np.int64)
    stride = np.zeros(arity_limit, np.int64)
    support_start = np.zeros(arity_limit + 1, np.int64)
    supported = np.zeros(8, np.bool_)
    while count > 0:
        row = queue[head]
        head = (head + 1) % rows
        count -= 1
        waiting[row] = False
        first = row_ptr[row]
        arity = row_ptr[row + 1] - first
        step = 1
        for slot in range(arity - 1, -1, -1):
            site = row_sites[first + slot]
            stride[slot] = step
            step *= starts[site + 1] - starts[site]
        for slot in range(arity):
            site = row_sites[first + slot]
            support_start[slot + 1] = support_start[slot] + starts[site + 1] - starts[site]
        if supported.size < support_start[arity]:
            supported = np.zeros(2 * support_start[arity], np.bool_)
        supported[: support_start[arity]] = False
        for entry in range(step):
            if flat[table_start[row] + entry] == np.inf:
                continue
            rest = entry
            fine = True
            for slot in range(arity):
                state[slot] = rest // stride[slot]
                rest -= state[slot] * stride[slot]
                if not allowed[starts[row_sites[first + slot]] + state[slot]]:
                    fine = False
                    break
            if fine:
                for slot in range(arity):
                    supported[support_start[slot] + state[slot]] = True
        for slot in range(arity):
            site = row_sites[first + slot]
            changed, left = False, False
            for k in range(starts[site + 1] - starts[site]):
                if allowed[starts[site] + k]:
                    if supported[support_start[slot] + k]:
                        left = True
                    elif not lost[site]:
                        allowed[starts[site] + k] = False
                        changed = True
            if changed and not left:
                lost[site] = True
                allowed[starts[site]] = True
            if changed:
                for at in range(site_ptr[site], site_ptr[site + 1]):
                    other = site_rows[at]
                    if hard[other] and not waiting[other] and other != row:
                        waiting[other] = True
                        queue[(head + count) % rows] = other
                        count += 1
    return lost


@kernel
def remaining(rows, row_ptr, row_sites, table_start, starts, kept_ptr, kept_states, out_ptr, out):
    """Positions in the flat table of the entries of some rows that remain, row-major over the states kept."""
    for j in range(rows.size):
        row = rows[j]
        first = row_ptr[row]
        arity = row_ptr[row + 1] - first
        for entry in range(out_ptr[j + 1] - out_ptr[j]):
            rest, step, at = entry, 1, table_start[row]
            for slot in range(arity - 1, -1, -1):
                site = row_sites[first + slot]
                kept = kept_ptr[site + 1] - kept_ptr[site]
                at += kept_states[kept_ptr[site] + rest % kept] * step
                rest //= kept
                step *= starts[site + 1] - starts[site]
            out[out_ptr[j] + entry] = at


@kernel
def row_is_hard(table_start, size, flat):
    """(m,) bool: whether a row's table holds an infinite entry."""
    out = np.zeros(table_start.size, np.bool_)
    for row in range(table_start.size):
        for entry in range(size[row]):
            if flat[table_start[row] + entry] == np.inf:
                out[row] = True
                break
    return out


@kernel
def row_energies(states, row_ptr, row_sites, table_start, weights, num_states, tables):
    """(m,) the energy of each row at one assignment."""
    rows = row_ptr.size - 1
    out = np.empty(rows)
    for row in range(rows):
        at = 0
        for slot in range(row_ptr[row], row_ptr[row + 1]):
            site = row_sites[slot]
            at = at * num_states[site] + states[site]
        out[row] = weights[row] * tables[table_start[row] + at]
    return out

"""The least energy of a row of a table view for each state of one of its sites: shortcuts for pairs, and any arity.

Everything is float64 and flat. A row's energies are weight * table - the messages of its slots; messages are finite.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels import simd_numba as simd
from ebmstruct.inference.kernels.compiler import kernel, plain

DENSE, POTTS, LINEAR, QUADRATIC = 0, 1, 2, 3


@kernel
def kinds(row_ptr, row_sites, table_start, weights, num_states, tables, kind, shape):
    """Fill kind (m,) and shape (m, 3) - V(0, 0), the rise from a distance of 0 to 1, the largest rise - of each row.

    A pair of sites with equal state counts K is POTTS where its table has one value on the diagonal and a larger one
    off it, LINEAR or QUADRATIC where it rises with |j - k| or its square up to a limit; all else is DENSE.
    """
    for row in range(row_ptr.size - 1):
        kind[row] = DENSE
        first = row_ptr[row]
        if row_ptr[row + 1] - first != 2 or weights[row] < 0:
            continue
        states = num_states[row_sites[first]]
        if states < 2 or num_states[row_sites[first + 1]] != states:
            continue
        at = table_start[row]
        same = row > 0 and table_start[row - 1] == at and row_ptr[row] - row_ptr[row - 1] == 2 and weights[row - 1] >= 0
        if same and num_states[row_sites[first - 1]] == states and num_states[row_sites[first - 2]] == states:
            kind[row] = kind[row - 1]
            for k in range(3):
                shape[row, k] = shape[row - 1, k]
            continue
        base = tables[at]
        slope = tables[at + 1] - base
        top = 0.0
        for k in range(states):
            top = max(top, tables[at + k] - base)
        if not (slope > 0 and np.isfinite(base) and np.isfinite(top)):
            continue
        close = 1e-13 * max(top, abs(base))
        potts, linear, quadratic = True, True, True
        for j in range(states):
            for k in range(states):
                rise = tables[at + j * states + k] - base
                gap = np.float64(abs(j - k))
                potts = potts and abs(rise - (slope if j != k else 0.0)) <= close
                linear = linear and abs(rise - min(slope * gap, top)) <= close
                quadratic = quadratic and abs(rise - min(slope * gap * gap, top)) <= close
            if not (potts or linear or quadratic):
                break
        shape[row, 0], shape[row, 1], shape[row, 2] = base, slope, top
        if potts:
            kind[row] = POTTS
        elif linear:
            kind[row] = LINEAR
        elif quadratic:
            kind[row] = QUADRATIC


@plain
def _envelope(scratch, states, slope, out):
    """out[k] = min over j of h[j] + slope (j - k)^2, in linear time (Felzenszwalb and Huttenlocher 2006, section 4).

    h is scratch[:states]; the parabolas of the envelope go behind it, and then the places where they take over.
    """
    apex, edge, last = states, 2 * states, 0
    scratch[apex] = 0.0
    scratch[edge] = -np.inf
    for q in range(1, states):
        while True:
            v = scratch[apex + last]
            cross = ((scratch[q] - scratch[np.int64(v)]) / slope + q * q - v * v) / (2.0 * (q - v))
            if cross > scratch[edge + last]:
                break
            last -= 1
        last += 1
        scratch[apex + last] = np.float64(q)
        scratch[edge + last] = cross
    at = 0
    for k in range(states):
        while at < last and scratch[edge + at + 1] < k:
            at += 1
        v = scratch[apex + at]
        out[k] = scratch[np.int64(v)] + slope * (k - v) * (k - v)


@plain
def pair(table, at, rows, columns, weight, kind, base, slope, top, slot, message, messages, scratch, out):
    """out[k] = min over j of weight * table(j, k) - messages[message + j], k a state of the pair's ``slot``.

    scratch: at least 3 times the larger state count; out: as many as the slot's states.
    """
    if kind == DENSE:
        if slot == 1:
            for first in range(0, columns, simd.LANES):
                best = simd.splat(np.inf)
                count = columns - first
                for j in range(rows):
                    entries = simd.load_some(table, at + j * columns + first, count, np.inf)
                    entries = simd.multiply(entries, simd.splat(weight))
                    best = simd.minimum(simd.subtract(entries, simd.splat_at(messages, message + j)), best)
                simd.store_some(out, first, count, best)
        else:
            for j in range(rows):
                best = simd.splat(np.inf)
                for first in range(0, columns, simd.LANES):
                    count = columns - first
                    entries = simd.load_some(table, at + j * columns + first, count, 0.0)
                    entries = simd.multiply(entries, simd.splat(weight))
                    best = simd.minimum(
                        simd.subtract(entries, simd.load_some(messages, message + first, count, -np.inf)), best
                    )
                out[j] = simd.least(best)
        return
    low = np.inf
    for k in range(rows):
        scratch[k] = -messages[message + k]
        low = min(low, scratch[k])
    limit = low + weight * top
    if kind == POTTS or weight == 0.0:
        for k in range(rows):
            out[k] = weight * base + min(scratch[k], limit)
        return
    if kind == LINEAR:
        step = weight * slope
        for k in range(1, rows):
            scratch[k] = min(scratch[k], scratch[k - 1] + step)
        for k in range(rows - 2, -1, -1):
            scratch[k] = min(scratch[k], scratch[k + 1] + step)
        for k in range(rows):
            out[k] = weight * base + min(scratch[k], limit)
        return
    _envelope(scratch, rows, weight * slope, out)
    for k in range(rows):
        out[k] = weight * base + min(out[k], limit)


@plain
def scan(table, at, first, arity, weight, slot, row_sites, num_states, ptr, messages, low, high, state, out):
    """out[k] = min of weight * table - the other slots' messages, over entries whose states lie in [low, high).

    A slot with one state left takes no message off: its state is given.  ptr: where each slot's message begins.
    """
    own = num_states[row_sites[first + slot]]
    for k in range(own):
        out[k] = np.inf
    for d in range(arity):
        state[d] = low[d]
    last = arity - 1
    size = num_states[row_sites[first + last]]
    single = high[last] - low[last] == 1
    while True:
        base, row = 0.0, 0
        for d in range(last):
            row = row * num_states[row_sites[first + d]] + state[d]
            if d != slot and high[d] - low[d] > 1:
                base += messages[ptr[first + d] + state[d]]
        row = at + row * size
        if slot == last:
            for k in range(low[last], high[last]):
                out[k] = min(out[k], weight * table[row + k] - base)
        else:
            best = np.inf
            for k in range(low[last], high[last]):
                best = min(best, weight * table[row + k] - (0.0 if single else messages[ptr[first + last] + k]))
            out[state[slot]] = min(out[state[slot]], best - base)
        d = last - 1
        while d >= 0:
            state[d] += 1
            if state[d] < high[d]:
                break
            state[d] = low[d]
            d -= 1
        if d < 0:
            return

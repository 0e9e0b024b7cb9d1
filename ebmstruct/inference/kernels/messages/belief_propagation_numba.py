"""Loops of belief propagation: messages from rows to sites, by three schedules, and the Bethe log partition.

Messages are energies: the message of a row to a state of one of its sites is what the rest of the row adds to that
state's energy, up to a constant a slot. Everything is float64. A state that a row forbids, whatever its other sites
do, is marked dead and left out from then on, so that no infinity is ever subtracted from another.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain

FLOODING, SEQUENTIAL, RESIDUAL = 0, 1, 2
"""Schedules: all rows from the last messages; rows in order, there and back; the row whose inputs changed most."""
TINY = 1e-250
"""Sums of exponentials below this are taken again, relative to their own largest term."""


@plain
def _joint(row, view, belief, message, alive, cavity, state, joint):
    """Energies of a row's entries with what the rest of the graph says of its sites; the number and the least."""
    starts, row_ptr, row_sites, table_start, weights, tables, message_ptr = view
    first = row_ptr[row]
    arity = row_ptr[row + 1] - first
    begin = message_ptr[first]
    size = 1
    for slot in range(arity):
        low = starts[row_sites[first + slot]]
        at = message_ptr[first + slot]
        states = starts[row_sites[first + slot] + 1] - low
        size *= states
        state[slot] = 0
        for k in range(states):
            cavity[at - begin + k] = belief[low + k] - message[at + k] if alive[low + k] else np.inf
    least = np.inf
    weight, base = weights[row], table_start[row]
    for entry in range(size):
        value = tables[base + entry]
        if value != np.inf:
            value *= weight
            for slot in range(arity):
                value += cavity[message_ptr[first + slot] - begin + state[slot]]
        joint[entry] = value
        least = min(least, value)
        for slot in range(arity - 1, -1, -1):
            state[slot] += 1
            if state[slot] < message_ptr[first + slot + 1] - message_ptr[first + slot]:
                break
            state[slot] = 0
    return size, least


@plain
def _gather(row, view, size, least, temperature, joint, state, total):
    """Per slot and state the least joint energy (temperature 0), or the sum of exp(-(energy - least) / T)."""
    row_ptr, message_ptr = view[1], view[6]
    first = row_ptr[row]
    arity = row_ptr[row + 1] - first
    begin = message_ptr[first]
    total[: message_ptr[row_ptr[row + 1]] - begin] = 0.0 if temperature > 0 else np.inf
    scale = 1.0 / temperature if temperature > 0 else 0.0
    mass = 0.0
    for entry in range(size):
        value = joint[entry]
        if temperature > 0:
            value = np.exp((least - value) * scale)
            mass += value
            for slot in range(arity):
                total[message_ptr[first + slot] - begin + state[slot]] += value
        else:
            for slot in range(arity):
                at = message_ptr[first + slot] - begin + state[slot]
                total[at] = min(total[at], value)
        for slot in range(arity - 1, -1, -1):
            state[slot] += 1
            if state[slot] < message_ptr[first + slot + 1] - message_ptr[first + slot]:
                break
            state[slot] = 0
    return mass


@plain
def _rare(row, view, slot, wanted, size, temperature, joint):
    """The free energy of one state of one slot whose sum was too small to be told beside the row's largest term."""
    row_ptr, message_ptr = view[1], view[6]
    inner = 1
    for other in range(row_ptr[row] + slot + 1, row_ptr[row + 1]):
        inner *= message_ptr[other + 1] - message_ptr[other]
    states = message_ptr[row_ptr[row] + slot + 1] - message_ptr[row_ptr[row] + slot]
    low = np.inf
    for entry in range(size):
        if (entry // inner) % states == wanted:
            low = min(low, joint[entry])
    if low == np.inf:
        return np.inf
    total = 0.0
    for entry in range(size):
        if (entry // inner) % states == wanted:
            total += np.exp((low - joint[entry]) / temperature)
    return low - temperature * np.log(total)


@plain
def _row_messages(row, view, belief, message, alive, temperature, scratch, fresh):
    """Write a row's new messages at their place in ``fresh``, each slot's least one 0, dead states inf.

    Returns -T log of the row's own sum (its least energy at temperature 0), for the Bethe energy.
    """
    row_ptr, message_ptr = view[1], view[6]
    cavity, state, joint, total = scratch
    size, least = _joint(row, view, belief, message, alive, cavity, state, joint)
    first, last = row_ptr[row], row_ptr[row + 1]
    begin = message_ptr[first]
    if least == np.inf:
        fresh[begin : message_ptr[last]] = np.inf
        return np.inf
    mass = _gather(row, view, size, least, temperature, joint, state, total)
    for slot in range(first, last):
        low = np.inf
        for at in range(message_ptr[slot], message_ptr[slot + 1]):
            value = np.inf
            if cavity[at - begin] != np.inf:
                value = total[at - begin]
                if temperature > 0:
                    if value > TINY:
                        value = least - temperature * np.log(value)
                    else:
                        value = _rare(row, view, slot - first, at - message_ptr[slot], size, temperature, joint)
                if value != np.inf:
                    value -= cavity[at - begin]
            fresh[at] = value
            low = min(low, value)
        if low != np.inf:
            for at in range(message_ptr[slot], message_ptr[slot + 1]):
                fresh[at] -= low
    return least - temperature * np.log(mass) if temperature > 0 else least


@plain
def _apply(row, view, belief, message, alive, keep, fresh, change):
    """Take a row's new messages over, damped; the largest change. change: (slots of the row,) each slot's own."""
    starts, row_ptr, row_sites, message_ptr = view[0], view[1], view[2], view[6]
    largest = 0.0
    for slot in range(row_ptr[row], row_ptr[row + 1]):
        low, begin = starts[row_sites[slot]], message_ptr[slot]
        own = 0.0
        for at in range(begin, message_ptr[slot + 1]):
            site_state = low + at - begin
            if not alive[site_state]:
                continue
            if fresh[at] == np.inf:
                alive[site_state] = False
                own = np.inf
                continue
            step = fresh[at] - message[at]
            own = max(own, abs(step))
            step *= 1.0 - keep
            message[at] += step
            belief[site_state] += step
        change[slot - row_ptr[row]] = own
        largest = max(largest, own)
    return largest


@plain
def _sift(heap, where, key, at, count):
    """Restore the order of a heap (largest key first) around position ``at``."""
    row = heap[at]
    while at > 0:
        up = (at - 1) // 2
        if key[heap[up]] >= key[row]:
            break
        heap[at] = heap[up]
        where[heap[at]] = at
        at = up
    while True:
        down = 2 * at + 1
        if down >= count:
            break
        if down + 1 < count and key[heap[down + 1]] > key[heap[down]]:
            down += 1
        if key[heap[down]] <= key[row]:
            break
        heap[at] = heap[down]
        where[heap[at]] = at
        at = down
    heap[at] = row
    where[row] = at


@plain
def _mark(row, view, site_ptr, site_row, change, key):
    """Add what a row's messages changed to the keys of the other rows at its sites; its own becomes 0."""
    row_ptr, row_sites = view[1], view[2]
    for slot in range(row_ptr[row], row_ptr[row + 1]):
        if change[slot - row_ptr[row]] > 0:
            site = row_sites[slot]
            for at in range(site_ptr[site], site_ptr[site + 1]):
                key[site_row[at]] += change[slot - row_ptr[row]]
    key[row] = 0.0


@kernel
def run(schedule, sweeps, order, order_ptr, active, forest, view, site_ptr, site_row, belief, message, alive,
        temperature, keep, tolerance, key, residual, count):  # fmt: skip
    """Up to ``sweeps`` sweeps over each active instance's rows; a sweep updates as many rows as there are.

    order, order_ptr: the rows of each instance, breadth first.  active: (B,) bool, cleared where the largest change of
    a message in a whole sweep over all rows is at most ``tolerance`` (in units of the temperature, where there is one).
    forest: (B,) bool: these are done after one sweep there and one back, undamped, which leaves nothing to change.
    key: (m,) for the residual schedule.  residual, count: (B,) the last sweep's largest change, and sweeps so far.
    The residual schedule (Elidan, McGraw and Koller 2006, with the bound of Sutton and McCallum 2007 for a residual)
    begins with one sweep there and one back.
    """
    row_ptr, row_sites, message_ptr = view[1], view[2], view[6]
    most, widest, slots = 1, 1, 1
    for row in range(row_ptr.size - 1):
        size = 1
        for slot in range(row_ptr[row], row_ptr[row + 1]):
            size *= message_ptr[slot + 1] - message_ptr[slot]
        most = max(most, size)
        widest = max(widest, message_ptr[row_ptr[row + 1]] - message_ptr[row_ptr[row]])
        slots = max(slots, row_ptr[row + 1] - row_ptr[row])
    scratch = (np.empty(widest), np.zeros(slots, np.int64), np.empty(most), np.empty(widest))
    fresh, change = np.empty(message.size), np.zeros(slots)
    heap, where = np.empty(row_ptr.size, np.int64), np.empty(row_ptr.size, np.int64)
    unit = 1.0 / temperature if temperature > 0 else 1.0
    for b in range(active.size):
        begin, end = order_ptr[b], order_ptr[b + 1]
        checking = False
        for _ in range(sweeps):
            if not active[b]:
                break
            largest = 0.0
            if schedule == RESIDUAL and count[b] >= 2 and not checking:
                for i in range(begin, end):
                    heap[i - begin] = order[i]
                    where[order[i]] = i - begin
                for i in range((end - begin) // 2, -1, -1):
                    if i < end - begin:
                        _sift(heap, where, key, i, end - begin)
                for _step in range(end - begin):
                    row = heap[0]
                    if key[row] * unit <= 0.25 * tolerance:
                        checking = True
                        break
                    _row_messages(row, view, belief, message, alive, temperature, scratch, fresh)
                    _apply(row, view, belief, message, alive, keep, fresh, change)
                    _mark(row, view, site_ptr, site_row, change, key)
                    if keep > 0:
                        for slot in range(row_ptr[row], row_ptr[row + 1]):
                            if change[slot - row_ptr[row]] < np.inf:
                                key[row] += keep * change[slot - row_ptr[row]]
                    _sift(heap, where, key, 0, end - begin)
                    for slot in range(row_ptr[row], row_ptr[row + 1]):
                        if change[slot - row_ptr[row]] > 0:
                            site = row_sites[slot]
                            for at in range(site_ptr[site], site_ptr[site + 1]):
                                _sift(heap, where, key, where[site_row[at]], end - begin)
                largest = key[heap[0]]
                residual[b] = max(largest * unit, 2 * tolerance)
            else:
                if schedule == FLOODING and not forest[b]:
                    for i in range(begin, end):
                        _row_messages(order[i], view, belief, message, alive, temperature, scratch, fresh)
                    for i in range(begin, end):
                        largest = max(largest, _apply(order[i], view, belief, message, alive, keep, fresh, change))
                else:
                    for i in range(begin, end):
                        row = order[i] if count[b] % 2 else order[begin + end - 1 - i]
                        _row_messages(row, view, belief, message, alive, temperature, scratch, fresh)
                        own = 0.0 if forest[b] else keep
                        largest = max(largest, _apply(row, view, belief, message, alive, own, fresh, change))
                        if schedule == RESIDUAL:
                            _mark(row, view, site_ptr, site_row, change, key)
                checking = False
                residual[b] = largest * unit
                if forest[b] and count[b] >= 1:
                    residual[b] = 0.0
                active[b] = residual[b] > tolerance
            count[b] += 1


@kernel
def bethe(view, instance, site_ptr, belief, message, alive, temperature, instances):
    """(instances,) log partition by Bethe (Yedidia, Freeman and Weiss 2005), at the present messages.

    log Z = sum over rows of log Z_row + sum over sites of (1 - degree) log Z_site, which no constant in a message
    changes. -inf where a site has no state left.
    """
    starts, row_ptr, row_sites, message_ptr = view[0], view[1], view[2], view[6]
    most, widest, slots = 1, 1, 1
    for row in range(row_ptr.size - 1):
        size = 1
        for slot in range(row_ptr[row], row_ptr[row + 1]):
            size *= message_ptr[slot + 1] - message_ptr[slot]
        most = max(most, size)
        widest = max(widest, message_ptr[row_ptr[row + 1]] - message_ptr[row_ptr[row]])
        slots = max(slots, row_ptr[row + 1] - row_ptr[row])
    cavity, state, joint = np.empty(widest), np.zeros(slots, np.int64), np.empty(most)
    out = np.zeros(instances)
    empty = np.zeros(instances, np.bool_)
    for row in range(row_ptr.size - 1):
        b = instance[row_sites[row_ptr[row]]]
        size, least = _joint(row, view, belief, message, alive, cavity, state, joint)
        if least == np.inf:
            empty[b] = True
            continue
        mass = 0.0
        for entry in range(size):
            mass += np.exp((least - joint[entry]) / temperature)
        out[b] += np.log(mass) - least / temperature
    for site in range(starts.size - 1):
        low = np.inf
        for k in range(starts[site], starts[site + 1]):
            if alive[k]:
                low = min(low, belief[k])
        if low == np.inf:
            empty[instance[site]] = True
            continue
        mass = 0.0
        for k in range(starts[site], starts[site + 1]):
            if alive[k]:
                mass += np.exp((low - belief[k]) / temperature)
        degree = site_ptr[site + 1] - site_ptr[site]
        out[instance[site]] += (1 - degree) * (np.log(mass) - low / temperature)
    out[empty] = -np.inf
    return out

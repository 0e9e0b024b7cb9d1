"""Assignments read off a finished elimination, last bucket first: the least, samples, the k best."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain
from ebmstruct.inference.kernels.elimination.elimination_order_numba import heap_pop, heap_push


@plain
def entry_of(i, plan, states):
    """Which entry of bucket i's message belongs to the states (by position) of its sep."""
    entry = 0
    for at in range(plan.sep_ptr[i], plan.sep_ptr[i + 1]):
        entry = entry * plan.card[plan.sep[at]] + states[plan.sep[at]]
    return entry


@plain
def conditional(i, plan, memory, states, values):
    """values[x] = the sum of bucket i's inputs where its site takes state x and later ones their ``states``."""
    card = plan.card[i]
    for x in range(card):
        values[x] = memory[plan.unary[i] + x]
    for at in range(plan.row_ptr[i], plan.row_ptr[i + 1]):
        row = plan.rows[at]
        entry, step, own = plan.table[row], 1, 0
        for slot in range(plan.scope_ptr[row + 1] - 1, plan.scope_ptr[row] - 1, -1):
            p = plan.scope[slot]
            if p == i:
                own = step
            else:
                entry += states[p] * step
            step *= plan.card[p]
        for x in range(card):
            values[x] += memory[entry + x * own]
    for at in range(plan.child_ptr[i], plan.child_ptr[i + 1]):
        child = plan.children[at]
        states[i] = 0
        entry = plan.message[child] + entry_of(child, plan, states)
        for x in range(card):  # the bucket's own site is the innermost axis of what it receives
            values[x] += memory[entry + x]


@kernel
def trace(plan, choice, choice_place, states):
    """The states (by position) that ``least`` recorded."""
    for i in range(plan.card.size - 1, -1, -1):
        entry = entry_of(i, plan, states)
        at = choice_place[i]
        if plan.card[i] == 2:
            states[i] = (choice[at + (entry >> 3)] >> (entry & 7)) & 1
        elif plan.card[i] <= 256:
            states[i] = choice[at + entry]
        else:
            states[i] = np.int64(choice[at + 2 * entry]) + 256 * np.int64(choice[at + 2 * entry + 1])


@kernel
def sample(plan, memory, uniforms, site, states):
    """Draws (S, n, by position); uniforms[s, site[i]] draws position i. memory holds all messages of ``log_sums``."""
    values = np.empty(max(1, plan.card.max()) if plan.card.size else 1)
    for s in range(states.shape[0]):
        draw = states[s]
        for i in range(plan.card.size - 1, -1, -1):
            card = plan.card[i]
            conditional(i, plan, memory, draw, values)
            least = np.inf
            for x in range(card):
                least = min(least, values[x])
            total = 0.0
            for x in range(card):
                values[x] = np.exp(least - values[x]) if values[x] < np.inf else 0.0
                total += values[x]
            target = uniforms[s, site[i]] * total
            running, chosen = 0.0, 0
            for x in range(card):
                if values[x] > 0.0:
                    chosen = x
                    running += values[x]
                    if running > target:
                        break
            draw[i] = chosen


@kernel
def k_best(first, last, plan, memory, buckets, states, above, queue):
    """The least assignments first ... last - 1 of one instance, whose buckets are given last first.

    Called for one range after the other; returns how many there are up to ``last`` and the queue for the next range.
    memory holds all messages of ``least``, so completing any assignment of later sites greedily is optimal, and costs
    nothing above the least; a step away from it costs the difference of two entries. So the next best
    assignment is always the cheapest single step away from one that was found, among those not taken yet (Lawler 1972).
    states: (k, n) by position, filled in.  above: (k,) how much more each has than the least.
    queue: the keys of a heap, its items, the steps (from, bucket, state) that these number, and how many of each.
    """
    depth = buckets.size
    most = 1
    for i in buckets:
        most = max(most, plan.card[i])
    values = np.empty(most)
    keys, items, steps, size, pushed = queue
    room = keys.size
    found = first
    for r in range(first, last):
        base, begin, forced = 0.0, 0, -1
        if r > 0:
            if size == 0:
                break
            size = heap_pop(keys, items, size)
            base = keys[size]
            parent, begin, forced = steps[items[size], 0], steps[items[size], 1], steps[items[size], 2]
            for at in range(begin):
                states[r, buckets[at]] = states[parent, buckets[at]]
        above[r] = base
        found += 1
        for at in range(begin, depth):
            i = buckets[at]
            if forced >= 0:
                states[r, i] = forced
                forced = -1
                continue
            conditional(i, plan, memory, states[r], values)
            best = 0
            for x in range(1, plan.card[i]):
                if values[x] < values[best]:
                    best = x
            states[r, i] = best
            for x in range(plan.card[i]):
                if x == best or not values[x] < np.inf:
                    continue
                if pushed == room:
                    room *= 2
                    more_keys, more_items = np.empty(room), np.empty(room, np.int64)
                    more_steps = np.empty((room, 3), np.int64)
                    more_keys[:size], more_items[:size] = keys[:size], items[:size]
                    more_steps[:pushed] = steps
                    keys, items, steps = more_keys, more_items, more_steps
                steps[pushed, 0], steps[pushed, 1], steps[pushed, 2] = r, at, x
                size = heap_push(keys, items, size, base + values[x] - values[best], pushed)
                pushed += 1
    return found, (keys, items, steps, size, pushed)

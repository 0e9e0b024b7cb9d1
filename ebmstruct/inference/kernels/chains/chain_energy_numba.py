"""Energies of given states of chains, summed in float64, and checks of what came in: the loops.

Arrays are flat and contiguous, as in chain_numba. ``stride`` is K * K where each edge has its own table, so that the
edge into flat site t starts at t * stride of ``transition``, and 0 where one table is shared.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from ebmstruct.inference.kernels.compiler import kernel


@kernel
def offsets_fault(offsets, sites):
    """0 if offsets rise from 0 to the number of sites, else 1."""
    last = offsets.size - 1
    if last < 0 or offsets[0] != 0 or offsets[last] != sites:
        return 1
    for b in range(last):
        if offsets[b + 1] < offsets[b]:
            return 1
    return 0


@kernel
def states_fault(states, width):
    """The first site whose state is not in [0, K), or -1."""
    for t in range(states.size):
        if states[t] < 0 or states[t] >= width:
            return t
    return -1


@kernel
def path_energy(states, emission, transition, start, end, first, last, width, stride):
    """Energy of the states of the sites first to last, an instance of its own."""
    summed = 0.0
    for t in range(first, last + 1):
        here = states[t]
        summed += emission[t * width + here]
        if t > first:
            summed += transition[t * stride + states[t - 1] * width + here]
        elif start.size:
            summed += start[here]
        if t == last and end.size:
            summed += end[here]
    return summed


@kernel
def energy(states, emission, transition, start, end, offsets, width, stride, out):
    """out[b] = energy of the states of instance b."""
    for b in range(offsets.size - 1):
        out[b] = path_energy(states, emission, transition, start, end, offsets[b], offsets[b + 1] - 1, width, stride)


@kernel
def energy_backward(states, offsets, weight, width, stride, emission_out, transition_out, start_out, end_out):
    """Add weight[b] at every entry that the energy of instance b reads."""
    for b in range(offsets.size - 1):
        for t in range(offsets[b], offsets[b + 1]):
            here = states[t]
            emission_out[t * width + here] += weight[b]
            if t > offsets[b]:
                transition_out[t * stride + states[t - 1] * width + here] += weight[b]
            else:
                start_out[here] += weight[b]
            if t == offsets[b + 1] - 1:
                end_out[here] += weight[b]

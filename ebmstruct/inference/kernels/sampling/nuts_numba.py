"""The no-U-turn sampler: every chain goes one leapfrog step further in the tree that it is building.

The tree is built without recursion (Phan, Pradhan and Jankowiak 2019; Lao and Dillon 2019): leaf n of a subtree needs
the leaves at which the aligned subtrees that end at n began, of which no more are kept than the tree is deep.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, kernel
from ebmstruct.inference.kernels.sampling.adaptation_numba import (
    DENSE,
    WINDOW,
    average,
    spread_out,
    step_to_keep,
    step_to_use,
)
from ebmstruct.inference.kernels.sampling.vectors_numba import (
    add,
    begin_step,
    begin_step_between,
    begin_step_full,
    copy,
    draw_momentum,
    finish_step,
    turning,
    turning_since,
    whiten,
)
from ebmstruct.inference.kernels.search.sweeps_numba import uniform

LEFT_Q, LEFT_P, LEFT_G, RIGHT_Q, RIGHT_P, RIGHT_G = 0, 1, 2, 3, 4, 5
DRAW_Q, DRAW_G, SUB_Q, SUB_G, TREE_SUM, SUB_SUM, P, VARIANCE, SLOPE, CHECKPOINTS = 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
"""Vectors of a chain: ends of the tree, its draw and that of the growing subtree, sums of momenta, the momentum, the
inverse mass, the gradient in the momentum's coordinates, and from ``CHECKPOINTS`` on pairs of a momentum and a sum."""

STEP, DRAW_E, SUB_E, TOTAL, TREE_WEIGHT, SUB_WEIGHT, ACCEPTED = 0, 1, 2, 3, 4, 5, 6
REALS = 7
"""Numbers of a chain: step size, energies of the draws, the Hamiltonian at the start, log weights, sum of acceptances."""

PHASE, DIRECTION, DEPTH, LEAF, DONE, STEPS, VERSION = 0, 1, 2, 3, 4, 5, 6
WHOLES = 7
"""Whole numbers of a chain: phase, direction of growth, subtrees finished, leaves of this one, draws, leapfrog
steps, and which factor is the chain's, 0 for none."""

BEGIN, GROW, IDLE = 0, 1, 2
"""Phases: before the first energy, building a tree, and done."""

ENERGY, HAMILTONIAN, ACCEPTANCE = 0, 1, 2
DRAW_DEPTH, DRAW_STEPS, DIVERGED = 0, 1, 2
"""Columns of what is recorded of a draw, reals and whole numbers."""

TOO_FAR = 1000.0
"""By how much the Hamiltonian may rise before a trajectory counts as divergent."""


class Chains(NamedTuple):
    """All chains of a run, changed in place.

    position: (N,), what energies are asked of; chain r owns start[r] : start[r + 1] of it.  work: the vectors of chain
    after chain, ``slots`` of each.  reals, wholes: (R, .) as named above.  random: (R, 1).  walls: (2, N), or (2, 0).
    group: (R,) with whom a chain shares what it learns.  learnt (R, .), shift (G, 1), window (G, .), window_ends,
    spread, group_start: see adaptation_numba.  products, factors: those of group g begin at factor_start[g], and at
    ``limits[3]`` times that; a chain with a factor moves in the coordinates that it makes alike.
    draws: (S, N) and records (S, R, 3) of the draws after ``limits[1]`` of warm-up; limits: depth, warm-up, draws,
    windows.  levels: inverse temperature, target acceptance, whether step sizes are learnt, gain of dual averaging.
    """

    position: np.ndarray
    start: np.ndarray
    work: np.ndarray
    reals: np.ndarray
    wholes: np.ndarray
    random: np.ndarray
    walls: np.ndarray
    group: np.ndarray
    learnt: np.ndarray
    shift: np.ndarray
    window: np.ndarray
    window_ends: np.ndarray
    spread: np.ndarray
    group_start: np.ndarray
    products: np.ndarray
    factors: np.ndarray
    factor_start: np.ndarray
    draws: np.ndarray
    record_reals: np.ndarray
    record_wholes: np.ndarray
    limits: np.ndarray
    levels: np.ndarray


@kernel
def advance(chains, slots, energy, gradient):
    """Every chain by one leapfrog step, given (R,) energies and the gradient (N,) at ``position``.

    Returns how many chains still need energies.
    """
    working = 0
    for r in range(chains.start.size - 1):
        if chains.wholes[r, PHASE] != IDLE:
            first, after = chains.start[r], chains.start[r + 1]
            work = chains.work[first * slots : after * slots].reshape((slots, after - first))
            own = chains.levels[0] * energy[r]
            _advance_one(chains, r, work, chains.position[first:after], own, gradient[first:after])
            working += chains.wholes[r, PHASE] != IDLE
    return working


@inlined
def _advance_one(chains, r, work, position, energy, gradient):
    """One chain by a step: ``work`` its vectors, ``position`` and ``gradient`` its part, ``energy`` over temperature."""
    real, whole = chains.reals[r], chains.wholes[r]
    if whole[PHASE] == BEGIN:
        copy(work[DRAW_Q], position)
        copy(work[DRAW_G], gradient)
        real[DRAW_E] = energy
        whole[PHASE] = GROW
        _begin_tree(chains, r, work, position)
        _go(chains, r, work, position, work[LEFT_G])
        return
    time = 0.5 * whole[DIRECTION] * real[STEP] * chains.levels[0]
    slope = work[SLOPE]
    _to_slope(chains, r, slope, gradient)
    kinetic = finish_step(work[P], slope, work[VARIANCE], work[SUB_SUM], time)
    gain = real[TOTAL] - energy - kinetic
    whole[STEPS] += 1
    diverged = not -TOO_FAR < gain < np.inf
    if diverged:
        _end_tree(chains, r, work, position, True)
    else:
        _take_leaf(real, work, position, energy, gradient, gain, whole[LEAF] == 0, chains.random[r])
        turned = _turned(work, whole[LEAF])
        whole[LEAF] += 1
        if turned:
            _end_tree(chains, r, work, position, False)
        elif whole[LEAF] < 1 << whole[DEPTH]:
            _go(chains, r, work, position, slope)
            return
        elif _join(chains, r, work, position, slope):
            _end_tree(chains, r, work, position, False)
        else:
            _begin_subtree(real, whole, work, position, chains.random[r])
    if whole[PHASE] == GROW:
        _go(chains, r, work, position, work[RIGHT_G] if whole[DIRECTION] > 0 else work[LEFT_G])


@inlined
def _to_slope(chains, r, target, gradient):
    """The gradient in the coordinates of the momentum, to ``target``."""
    version, size = chains.wholes[r, VERSION], gradient.size
    if version == 0:
        copy(target, gradient)
    else:
        first = chains.limits[3] * chains.factor_start[chains.group[r]] + (version - 1) * size * size
        whiten(target, chains.factors[first : first + size * size].reshape((size, size)), gradient)


@inlined
def _go(chains, r, work, position, gradient):
    """The first half of a leapfrog step."""
    step = chains.wholes[r, DIRECTION] * chains.reals[r, STEP]
    time = 0.5 * step * chains.levels[0]
    version, size = chains.wholes[r, VERSION], position.size
    if version > 0:
        first = chains.limits[3] * chains.factor_start[chains.group[r]] + (version - 1) * size * size
        factor = chains.factors[first : first + size * size].reshape((size, size))
        begin_step_full(position, work[P], gradient, factor, time, step)
    elif chains.walls.shape[1] == 0:
        begin_step(position, work[P], gradient, work[VARIANCE], time, step)
    else:
        first, after = chains.start[r], chains.start[r + 1]
        lower, upper = chains.walls[0, first:after], chains.walls[1, first:after]
        begin_step_between(position, work[P], gradient, work[VARIANCE], time, step, lower, upper)


@inlined
def _begin_tree(chains, r, work, position):
    """A tree of one leaf, the chain's draw, with a new momentum; and the first step away from it."""
    real, whole = chains.reals[r], chains.wholes[r]
    if whole[DONE] < chains.limits[1]:
        g = chains.group[r]
        _take_mass(chains, r, work)
        real[STEP] = step_to_use(chains.learnt[r], chains.shift[g, 0])
    kinetic = draw_momentum(work[LEFT_P], work[VARIANCE], chains.random[r])
    real[TOTAL] = real[DRAW_E] + kinetic
    real[TREE_WEIGHT] = 0.0
    real[ACCEPTED] = 0.0
    whole[DEPTH] = 0
    whole[STEPS] = 0
    copy(work[LEFT_Q], work[DRAW_Q])
    _to_slope(chains, r, work[LEFT_G], work[DRAW_G])
    copy(work[RIGHT_Q], work[DRAW_Q])
    copy(work[RIGHT_G], work[LEFT_G])
    copy(work[RIGHT_P], work[LEFT_P])
    copy(work[TREE_SUM], work[LEFT_P])
    _begin_subtree(real, whole, work, position, chains.random[r])


@inlined
def _take_mass(chains, r, work):
    """The inverse mass that a chain's group has by now."""
    g = chains.group[r]
    if chains.window[g, DENSE]:
        chains.wholes[r, VERSION] = chains.window[g, WINDOW]
    else:
        copy(work[VARIANCE], chains.spread[2, chains.group_start[g] : chains.group_start[g + 1]])


@inlined
def _begin_subtree(real, whole, work, position, random):
    """A direction by a coin, and a subtree as large as the tree, from that end."""
    whole[LEAF] = 0
    work[SUB_SUM][:] = 0.0
    if uniform(random) < 0.5:
        whole[DIRECTION] = -1
        copy(position, work[LEFT_Q])
        copy(work[P], work[LEFT_P])
    else:
        whole[DIRECTION] = 1
        copy(position, work[RIGHT_Q])
        copy(work[P], work[RIGHT_P])


@inlined
def _take_leaf(real, work, position, energy, gradient, gain, first, random):
    """The draw of the subtree becomes this leaf by its share of the weight (multinomial; Betancourt 2017)."""
    real[ACCEPTED] += 1.0 if gain >= 0.0 else np.exp(gain)
    if first:
        real[SUB_WEIGHT] = gain
        taken = True
    else:
        real[SUB_WEIGHT] = _log_sum(real[SUB_WEIGHT], gain)
        taken = uniform(random) < np.exp(gain - real[SUB_WEIGHT])
    if taken:
        real[SUB_E] = energy
        copy(work[SUB_Q], position)
        copy(work[SUB_G], gradient)


@inlined
def _log_sum(a, b):
    high, low = (a, b) if a > b else (b, a)
    return high + np.log1p(np.exp(low - high))


@inlined
def _turned(work, leaf):
    """Whether some aligned subtree that ends at this leaf goes back on itself; an even leaf is kept for later ones."""
    kept, rest = 0, leaf >> 1
    while rest:
        kept += rest & 1
        rest >>= 1
    if leaf & 1 == 0:
        copy(work[CHECKPOINTS + 2 * kept], work[P])
        copy(work[CHECKPOINTS + 2 * kept + 1], work[SUB_SUM])
        return False
    while leaf & 1:
        then, total = work[CHECKPOINTS + 2 * kept], work[CHECKPOINTS + 2 * kept + 1]
        if turning_since(then, total, work[P], work[SUB_SUM], work[VARIANCE]):
            return True
        kept -= 1
        leaf >>= 1
    return False


@inlined
def _join(chains, r, work, position, gradient):
    """The finished subtree becomes part of the tree; whether the tree has ended with that."""
    real, whole = chains.reals[r], chains.wholes[r]
    if uniform(chains.random[r]) < np.exp(min(0.0, real[SUB_WEIGHT] - real[TREE_WEIGHT])):
        real[DRAW_E] = real[SUB_E]
        copy(work[DRAW_Q], work[SUB_Q])
        copy(work[DRAW_G], work[SUB_G])
    real[TREE_WEIGHT] = _log_sum(real[TREE_WEIGHT], real[SUB_WEIGHT])
    add(work[TREE_SUM], work[SUB_SUM])
    end = RIGHT_Q if whole[DIRECTION] > 0 else LEFT_Q
    copy(work[end], position)
    copy(work[end + 1], work[P])
    copy(work[end + 2], gradient)
    whole[DEPTH] += 1
    if whole[DEPTH] >= chains.limits[0]:
        return True
    return turning(work[LEFT_P], work[RIGHT_P], work[TREE_SUM], work[VARIANCE])


@inlined
def _end_tree(chains, r, work, position, diverged):
    """Write the draw down or learn from it, and begin the next tree; a chain that has all its draws rests there."""
    real, whole = chains.reals[r], chains.wholes[r]
    warm_up, wanted = chains.limits[1], chains.limits[2]
    acceptance = real[ACCEPTED] / whole[STEPS]
    row = whole[DONE] - warm_up
    whole[DONE] += 1
    if row < 0:
        g = chains.group[r]
        part = chains.spread[:, chains.group_start[g] : chains.group_start[g + 1]]
        if chains.levels[2] > 0.0:
            average(chains.learnt[r], acceptance, chains.levels[1], chains.levels[3])
        size, count = part.shape[1] * chains.window[g, DENSE], chains.limits[3]
        first = chains.factor_start[g]
        products = chains.products[first : first + size * size].reshape((size, size))
        factors = chains.factors[count * first : count * (first + size * size)].reshape((count, size, size))
        spread_out(chains.window[g], chains.window_ends, part, products, factors, chains.shift[g], work[DRAW_Q])
        if whole[DONE] == warm_up:
            _take_mass(chains, r, work)
            real[STEP] = step_to_keep(chains.learnt, chains.group, g, chains.shift[g, 0])
    else:
        copy(chains.draws[row, chains.start[r] : chains.start[r + 1]], work[DRAW_Q])
        numbers, counts = chains.record_reals[row, r], chains.record_wholes[row, r]
        numbers[ENERGY], numbers[HAMILTONIAN], numbers[ACCEPTANCE] = real[DRAW_E], real[TOTAL], acceptance
        counts[DRAW_DEPTH], counts[DRAW_STEPS], counts[DIVERGED] = whole[DEPTH], whole[STEPS], diverged
    if whole[DONE] >= warm_up + wanted:
        whole[PHASE] = IDLE
        copy(position, work[DRAW_Q])
    else:
        _begin_tree(chains, r, work, position)

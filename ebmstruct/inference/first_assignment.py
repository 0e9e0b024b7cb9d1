"""A first assignment for whoever has little time: descent, and repair where tables forbid much."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ebmstruct.inference.kernels.search.icm import polished, unary_minima
from ebmstruct.inference.local_moves import energy_scale, lay_out, penalty_of
from ebmstruct.inference.views.table_view import TableView

SWEEP_VISITS = 5_000
"""Sites visited between two looks at the clock."""


def first_assignment(view: TableView, given: np.ndarray | None, stop: Callable[[], bool]) -> np.ndarray:
    """(n,) states of all open sites, found by single changes from ``given`` or from the least unary energies.

    Instances whose energy is infinite are then repaired under a penalty, by cooling and by exact moves of small
    subgraphs, until ``stop`` says so: a feasible assignment is likely, not certain.
    """
    states = polished(view, unary_minima(view) if given is None else given, stop)
    wanted = np.isfinite(view.constant.detach().numpy())
    penalty = penalty_of(view) if np.isposinf(view.energy(states)[wanted]).any() else np.inf
    random = np.array([0x9E3779B97F4A7C15], np.uint64)
    while penalty < 1e6 * energy_scale(view) and not stop():
        states = _repaired(view, states, random, penalty, stop)
        if np.isfinite(view.energy(states)[wanted]).all():
            return polished(view, states, stop)
        penalty *= 2.0
    return states


def _repaired(
    view: TableView, states: np.ndarray, random: np.ndarray, penalty: float, stop: Callable[[], bool]
) -> np.ndarray:
    """States of fewer forbidden entries; instances that had none keep theirs."""
    from ebmstruct.inference.kernels.search.subgraph_growth_numba import FULL, Moves, make_work
    from ebmstruct.inference.kernels.search.subgraph_search_numba import descend
    from ebmstruct.inference.kernels.search.sweeps_numba import anneal

    problem, new = lay_out(view, penalty), states.copy()
    most, everywhere = int(view.num_states.max()), np.arange(view.num_sites)
    temperatures, scratch = np.geomspace(penalty, penalty / 30.0, 16), np.zeros(most)
    for begin in range(0, 16 * view.num_sites, SWEEP_VISITS):
        if stop():
            return states
        visits = min(SWEEP_VISITS, 16 * view.num_sites - begin)
        anneal(problem, new, everywhere, random, temperatures, begin, visits, scratch)
    work = make_work(view.num_sites, int(view.starts[-1]), most, 1 << 12, 1 << 16)
    moves = Moves(FULL, most, 4.0, 11.0, 4.0, 9.0, 3.0, 0.0)
    idle = -1
    while not stop():
        _, idle = descend(problem, work, new, new, everywhere, moves, random, 1e7, idle)
        if idle < 0:
            break
    sound = np.isfinite(view.energy(states))
    return np.where(sound[view.instance], states, new)

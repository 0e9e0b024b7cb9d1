"""Table views laid out for methods that change a few sites at a time: sweeps, subgraph moves, chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator

from ebmstruct.inference.views.table_view import TableView

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.search.sweeps_numba import Problem


def lay_out(view: TableView, penalty: float | None = None) -> Problem:
    """The view's rows by row and by site; with a ``penalty`` it stands in for infinite entries."""
    from ebmstruct.inference.kernels.search.sweeps_numba import Problem

    unary, tables, weights = view.arrays
    start = view.table_start
    hard = np.isposinf(tables)
    if penalty is not None and hard.any():
        if (weights != 1.0).any():  # a light row's penalty must not be light
            own, start = view.row_tables()
            tables, weights = own.detach().numpy(), np.ones(view.num_rows)
            hard = np.isposinf(tables)
        tables = np.where(hard, penalty, tables)
    row = np.repeat(np.arange(view.num_rows), view.arity)
    stride = slot_strides(view)
    order = np.argsort(view.row_sites, kind="stable")
    inc_ptr = np.concatenate([[0], np.cumsum(np.bincount(view.row_sites, minlength=view.num_sites))])
    inc_row = row[order]
    others = view.arity[inc_row]
    oth_ptr = np.concatenate([[0], np.cumsum(others - 1)])
    slots = np.repeat(view.row_ptr[inc_row] - (np.cumsum(others) - others), others) + np.arange(int(others.sum()))
    slots = slots[slots != np.repeat(order, others)]
    return Problem(
        view.starts,
        unary,
        tables,
        view.row_ptr,
        view.row_sites,
        stride,
        start,
        weights,
        inc_ptr,
        inc_row,
        start[inc_row],
        weights[inc_row],
        stride[order],
        oth_ptr,
        view.row_sites[slots],
        stride[slots],
        *_neighbours(view.num_sites, np.repeat(view.row_sites[order], others - 1), view.row_sites[slots]),
    )


def slot_strides(view: TableView) -> np.ndarray:
    """(slots,) how far an entry moves in its row's table when the slot's state rises by one."""
    stride = np.ones(view.row_sites.size, np.int64)
    for place in range(2, int(view.arity.max()) + 1 if view.num_rows else 0):
        slot = view.row_ptr[1:][view.arity >= place] - place
        stride[slot] = stride[slot + 1] * view.num_states[view.row_sites[slot + 1]]
    return stride


def _neighbours(sites: int, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.unique(one * max(1, sites) + other)
    owner, near = pairs // max(1, sites), pairs % max(1, sites)
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=sites))]), near


def seed_state(generator: Generator | None, chains: int = 1) -> np.ndarray:
    """(chains, 1) uint64, none of them 0: the states of the kernels' random numbers, drawn from ``generator``."""
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    drawn = torch.randint(1, 2**62, (chains, 1), generator=generator, dtype=torch.long)
    return drawn.numpy().astype(np.uint64)


def energy_scale(view: TableView) -> float:
    """The largest spread of a row's or a site's finite energies: what an infinite entry must outweigh; at least 1."""
    unary, tables, weights = view.arrays
    finite = tables[np.isfinite(tables)]
    rows = float(np.ptp(finite)) * float(np.abs(weights).max(initial=0.0)) if finite.size else 0.0
    return max(1.0, rows, float(np.ptp(unary)) if unary.size else 0.0)


def starting_states(view: TableView, random: np.ndarray, scale: float = 2.0) -> np.ndarray:
    """(chains, n) random states, one row for each of the (chains, 1) states of random numbers, of finite energy.

    Where tables forbid much, a row is repaired under a penalty, by short annealing and subgraph moves; a row that
    stays infeasible has an infinite energy, which the caller must look at.
    """
    draws = [np.random.default_rng(int(seed)).integers(0, view.num_states) for seed in random[:, 0]]
    out = np.stack(draws) if view.num_sites else np.zeros((random.shape[0], 0), np.int64)
    open_instances = np.isfinite(view.constant.detach().numpy())
    if not view.num_sites or not np.isposinf(view.arrays[1]).any():
        return out
    for row, source in zip(out, random, strict=True):
        penalty = scale * energy_scale(view)
        for _ in range(8):
            if np.isfinite(view.energy(row)[open_instances]).all():
                break
            _repair(view, row, source, penalty)
            penalty *= 2.0
    return out


def _repair(view: TableView, row: np.ndarray, source: np.ndarray, penalty: float) -> None:
    from ebmstruct.inference.kernels.search.subgraph_growth_numba import FULL, Moves, make_work
    from ebmstruct.inference.kernels.search.subgraph_search_numba import descend
    from ebmstruct.inference.kernels.search.sweeps_numba import anneal

    problem = lay_out(view, penalty)
    most = int(view.num_states.max())
    everywhere = np.arange(view.num_sites)
    temperatures = np.geomspace(penalty, penalty / 30.0, 16)
    anneal(problem, row, everywhere, source, temperatures, 0, 16 * view.num_sites, np.zeros(most))
    work = make_work(view.num_sites, int(view.starts[-1]), most, 1 << 12, 1 << 16)
    moves = Moves(FULL, most, 4.0, 11.0, 4.0, 9.0, 3.0, 0.0)
    idle = -1
    for _ in range(50):
        _, idle = descend(problem, work, row, row, everywhere, moves, source, 1e7, idle)
        if idle < 0:
            break


def visit_nanoseconds(view: TableView) -> float:
    """About how long a visit of one site takes in a sweep."""
    sites = max(1, view.num_sites)
    rows = view.row_sites.size / sites
    states = float(view.starts[-1]) / sites
    return 40.0 + 4.0 * states + rows * (8.0 + states)


def penalty_of(view: TableView) -> float:
    """What stands in for an infinite entry at first: twice the energy scale."""
    return 2.0 * energy_scale(view)


def temperature_range(
    view: TableView, problem: Problem, settled: np.ndarray | None = None, penalty: float | None = None
) -> tuple[float, float]:
    """A hot and a cold temperature, from what changing one site costs at a labelling where no single change helps.

    settled: such a labelling; by default it is made here from the first states. Changes that break a hard
    constraint, at half the ``penalty`` or more, do not count.
    """
    from ebmstruct.inference.kernels.search.sweeps_numba import gaps, settle

    scratch = np.zeros(int(view.num_states.max(initial=1)))
    if settled is None:
        settled = np.zeros(view.num_sites, np.int64)
        settle(problem, settled, scratch, 20)
    hard = bool(np.isposinf(view.arrays[1]).any())
    limit = (penalty_of(view) if penalty is None else penalty) / 2.0 if hard else np.inf
    rise = gaps(problem, settled, scratch, limit)
    rise = rise[rise > 1e-9]
    if not rise.size:
        return 1.0, 0.01
    hot = float(np.quantile(rise, 0.7))
    return hot, max(0.3 * float(np.quantile(rise, 0.05)), hot / 100.0)

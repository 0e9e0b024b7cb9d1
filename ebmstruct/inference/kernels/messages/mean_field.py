"""Naive mean field over a table view: beliefs of single sites, and the lower bound on log Z that they prove."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ebmstruct.inference.kernels.search.icm import polished
from ebmstruct.inference.views.table_view import TableView

ANNEALING = 60
"""Sweeps in which the temperature falls, when an assignment is wanted."""
COLDEST = 1e-4
"""The last temperature of an annealing, as a share of the first."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Beliefs found by mean field, with what they prove.

    belief: flat over the states of open sites.  lower: (B,) a lower bound on log Z; -inf where hard rows could not be
    satisfied.  change, sweeps: (B,) the last sweep's largest change of a probability, and how many there were.
    converged: (B,) bool.
    """

    belief: np.ndarray
    lower: np.ndarray
    change: np.ndarray
    sweeps: np.ndarray
    converged: np.ndarray


@dataclass(frozen=True, eq=False)
class MeanFieldProblem:
    """A table view in the form that the loops take."""

    view: TableView
    arrays: tuple[np.ndarray, ...]
    unary: np.ndarray
    hard: np.ndarray
    order: np.ndarray
    scale: np.ndarray
    penalty: np.ndarray

    @property
    def looks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each site the rows that look at it."""
        return self.view.site_rows


def prepare(view: TableView) -> MeanFieldProblem:
    """What mean field needs of a view: which rows are hard, and the scale of energies in each instance.

    scale: (B,) the mean over sites of what a site's state can change, where that is finite.  penalty: (B,) an energy
    above any that finite entries add up to at one site.
    """
    from ebmstruct.inference.kernels.reduction_numba import row_is_hard

    unary, tables, weights = view.arrays
    hard = row_is_hard(view.table_start, view.row_sizes, tables)
    span = np.zeros(view.num_instances)
    sites = np.bincount(view.instance, minlength=view.num_instances)
    if view.num_sites:
        own = np.maximum.reduceat(unary, view.starts[:-1]) - np.minimum.reduceat(unary, view.starts[:-1])
        span += np.bincount(view.instance, own, view.num_instances)
    if view.num_rows:
        values, starts = view.row_tables()
        flat = values.detach().numpy()
        finite = np.isfinite(flat)
        high = np.maximum.reduceat(np.where(finite, flat, -np.inf), starts)
        low = np.minimum.reduceat(np.where(finite, flat, np.inf), starts)
        own = np.where(np.isfinite(high), high - low, 0.0)
        span += np.bincount(view.row_instance, own, view.num_instances)
    arrays = (view.starts, view.row_ptr, view.row_sites, view.table_start, weights, tables)
    scale = span / np.maximum(sites, 1)
    order = np.arange(view.num_sites)
    return MeanFieldProblem(view, arrays, unary, hard, order, np.maximum(scale, 1e-12), 2 * span + 1.0)


def initial(problem: MeanFieldProblem, temperature: np.ndarray, seed: int | None) -> np.ndarray:
    """Beliefs from the sites' own energies, or each instance's draws from its own stream of ``seed``."""
    view = problem.view
    if not view.num_sites:
        return np.zeros(0)
    energy = problem.unary / temperature[np.repeat(view.instance, view.num_states)]
    if seed is not None:
        owner = np.repeat(view.instance, view.num_states)
        noise = np.empty(energy.size)
        for b in range(view.num_instances):
            mine = np.nonzero(owner == b)[0]
            noise[mine] = np.random.default_rng(seed).standard_normal(mine.size)
        energy = energy + noise
    low = np.minimum.reduceat(energy, view.starts[:-1])
    weight = np.exp(np.repeat(low, view.num_states) - energy)
    return weight / np.repeat(np.add.reduceat(weight, view.starts[:-1]), view.num_states)


def decode(view: TableView, belief: np.ndarray) -> np.ndarray:
    """(n,) the most probable state of each site."""
    if not view.num_sites:
        return np.zeros(0, np.int64)
    top = np.maximum.reduceat(belief, view.starts[:-1])
    hits = np.nonzero(belief == np.repeat(top, view.num_states))[0]
    owner = np.repeat(np.arange(view.num_sites), view.num_states)[hits]
    first = np.concatenate([[True], owner[1:] != owner[:-1]])
    return hits[first] - view.starts[:-1]


def fit(
    problem: MeanFieldProblem,
    temperature: float,
    seed: int | None,
    most: int,
    tolerance: float,
    keep: float,
    stop: Callable[[], bool],
    start: np.ndarray | None = None,
) -> Fit:
    """Coordinate ascent of the bound at one temperature, from one start.

    Rows with infinite entries make the bound finite only for beliefs that give no probability to a forbidden entry.
    So the sites of such rows start in one state each, that of ``start`` or one found by an annealing in which
    violations cost a penalty, and each update leaves out what the neighbours' beliefs forbid: supports grow only where
    rows allow it.
    """
    from ebmstruct.inference.kernels.messages import mean_field_numba as kernels

    view = problem.view
    constant = view.constant.detach().numpy()
    heat = np.full(view.num_instances, temperature)
    belief = initial(problem, heat, seed)
    if problem.hard.any():
        states = anneal(problem, seed, stop) if start is None else start
        involved = np.zeros(view.num_sites, np.bool_)
        involved[view.row_sites[np.repeat(problem.hard, view.arity)]] = True
        belief[np.repeat(involved, view.num_states)] = 0.0
        belief[(view.starts[:-1] + states)[involved]] = 1.0
    open_ended = np.full(view.num_instances, np.inf)
    active = np.isfinite(constant)
    change, sweeps = np.zeros(view.num_instances), np.zeros(view.num_instances, np.int64)
    for _ in range(most):
        if not active.any() or stop():
            break
        now = kernels.sweep(
            problem.order, active, view.instance, problem.arrays, problem.unary, problem.looks, belief, heat,
            open_ended, keep,
        )  # fmt: skip
        sweeps += active
        change = np.where(active, now, change)
        active &= change > tolerance
    lower = kernels.lower_bound(view.instance, problem.arrays, problem.unary, belief, temperature, constant)
    return Fit(belief, lower, change, sweeps, ~active)


def anneal(problem: MeanFieldProblem, seed: int | None, stop: Callable[[], bool]) -> np.ndarray:
    """(n,) states of low energy: mean field while the temperature falls (Geiger and Girosi 1991), then descent."""
    from ebmstruct.inference.kernels.messages import mean_field_numba as kernels

    view = problem.view
    heat = problem.scale.copy()
    belief = initial(problem, heat, seed)
    active = np.isfinite(view.constant.detach().numpy())
    for _ in range(ANNEALING):
        if stop():
            break
        kernels.sweep(
            problem.order, active, view.instance, problem.arrays, problem.unary, problem.looks, belief, heat,
            problem.penalty, 0.0,
        )  # fmt: skip
        heat *= COLDEST ** (1 / ANNEALING)
    return polished(view, decode(view, belief), stop)

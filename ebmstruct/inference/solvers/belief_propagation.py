"""Loopy belief propagation: marginals and decodings from messages, exact on forests and a guess elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Answer, Ask, Budget, Claim, Marginals, Query, Result, Status
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

SCHEDULES = ("flooding", "sequential", "residual")
WORK_A_CALL = 1 << 20
"""About how many table entries are visited between two looks at the clock."""


@dataclass(eq=False)
class _Messages:
    """What belief propagation holds, in place: beliefs are energies of single sites with all their messages."""

    view: TableView
    arrays: tuple[np.ndarray, ...]
    site_order: np.ndarray
    order: np.ndarray
    order_ptr: np.ndarray
    forest: np.ndarray
    belief: np.ndarray
    message: np.ndarray
    alive: np.ndarray
    key: np.ndarray
    active: np.ndarray
    residual: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class BeliefPropagation(Solver):
    """Sum-product (Pearl 1988) for marginals, max-product for an assignment of low energy; rows of any arity.

    Marginals come with the Bethe log partition (Yedidia, Freeman and Weiss 2005). Both are exact where the graph of
    sites and rows is a forest, and then only does the answer say ``exact``; on a graph with cycles messages may not
    converge, and where they do the marginals may be badly wrong. Nothing tells how wrong, so no choice of a solver
    falls on this one by itself. Minimising gives the best assignment decoded on the way, without a bound.

    damping: how much of the old message is kept, in [0, 1).
    schedule: ``residual`` updates the row whose inputs changed most, ``sequential`` goes through the rows there and
    back, ``flooding`` updates all of them from the last messages. Instances that are forests take one sweep there and
    one back, undamped, whatever these say.
    max_iterations: sweeps over all rows.  tolerance: the largest change of a log message in a sweep that counts as
    converged (of a message in energy, when minimising).
    Cost a sweep: the entries of all tables, times the arity; an exponential an entry for marginals.
    """

    name: ClassVar[str] = "belief_propagation"

    damping: float = 0.0
    schedule: str = "residual"
    max_iterations: int = 1000
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 <= self.damping < 1:
            raise GraphError(f"belief propagation was asked for with damping {self.damping}; legal is 0 <= damping < 1")
        if self.schedule not in SCHEDULES:
            raise GraphError(f"there is no schedule {self.schedule!r}; legal are {', '.join(SCHEDULES)}")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is Ask.SAMPLE:
            return "messages give marginals and decodings, not samples"
        if query.sum_out:
            return "it minimises over all sites, and this query sums some of them out"
        if query.k > 1:
            return "it decodes one assignment, not the k best"
        if query.factors:
            return "it gives the beliefs of variables only, not joint ones of factors"
        return table_refusal(graph)

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        view = table_view(graph)
        work = float((view.row_sizes * view.arity).sum())
        return Cost(20 * work, int(view.row_sizes.max(initial=1)))

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        view = table_view(graph)
        budget = budget or Budget()
        state = _begin(view)
        if query.ask is Ask.MINIMIZE:
            return self._minimize(state, budget, init)
        stop = self._propagate(state, budget, query.temperature)
        return self._marginals(state, query.temperature, stop)

    def _propagate(self, state: _Messages, budget: Budget, temperature: float, sweeps: int | None = None) -> Status:
        """Pass messages until all instances are done or the budget ends; ``sweeps``: at most so many more."""
        from ebmstruct.inference.kernels.messages import belief_propagation_numba as kernels

        limit = self.max_iterations if budget.max_steps is None else min(self.max_iterations, budget.max_steps)
        work = int((state.view.row_sizes * state.view.arity).sum())
        while state.active.any():
            done = int(state.count[state.active].max())
            if done >= limit:
                return Status.MAX_STEPS
            if budget.expired:
                return Status.DEADLINE
            if sweeps == 0:
                return Status.CONVERGED
            now = min(limit - done, max(1, WORK_A_CALL // max(1, work)), 64 if sweeps is None else sweeps)
            sweeps = None if sweeps is None else sweeps - now
            site_ptr, site_row, _ = state.view.site_rows
            kernels.run(
                SCHEDULES.index(self.schedule), now, state.order, state.order_ptr, state.active, state.forest,
                state.arrays,
                site_ptr, site_row, state.belief, state.message, state.alive, temperature, self.damping,
                self.tolerance, state.key, state.residual, state.count,
            )  # fmt: skip
        return Status.CONVERGED

    def _status(self, state: _Messages, stop: Status) -> Tensor:
        return torch.from_numpy(np.where(state.active, int(stop), int(Status.CONVERGED)))

    def _stats(self, state: _Messages) -> dict[str, Any]:
        copies = {"residual": state.residual, "iterations": state.count, "forest": state.forest}
        return {name: torch.from_numpy(value.copy()) for name, value in copies.items()}

    def _marginals(self, state: _Messages, temperature: float, stop: Status) -> Marginals:
        from ebmstruct.inference.kernels.messages import belief_propagation_numba as kernels

        view = state.view
        log_z = kernels.bethe(
            state.arrays, view.instance, view.site_rows[0], state.belief, state.message, state.alive, temperature,
            view.num_instances,
        )  # fmt: skip
        log_z = torch.from_numpy(log_z) - view.constant.detach() / temperature
        dead = torch.isneginf(log_z)
        beliefs = view.expand_beliefs(_softmax(view, state, temperature))
        if bool(dead.any()):
            owner = np.split(view.instance_of_all, np.cumsum(view.sizes)[:-1])
            for (name, belief), instance in zip(beliefs.items(), owner, strict=True):
                beliefs[name] = torch.where(dead[torch.from_numpy(instance)][:, None], 0.0, belief)
        status = torch.where(dead, int(Status.INFEASIBLE), self._status(state, stop))
        exact = bool((torch.from_numpy(state.forest & ~state.active) | dead).all())
        stats = {**self._stats(state), "log_partition": "exact" if exact else "Bethe"}
        return Marginals(beliefs, log_z, exact, status, self.name, stats=stats)

    def _minimize(self, state: _Messages, budget: Budget, init: Assignment | None) -> Result:
        from ebmstruct.inference.kernels.messages.belief_decode_numba import decode

        view = state.view
        unary = view.arrays[0]
        site_ptr, site_row, site_slot = view.site_rows
        best = np.zeros(view.num_sites, np.int64) if init is None else view.compress(init.values)
        energy = view.energy(best)
        sweeps, stop, going = 1, Status.CONVERGED, True
        while going:
            stop = self._propagate(state, budget, 0.0, sweeps)
            sweeps = min(64, 2 * sweeps)
            going = bool(state.active.any()) and stop is Status.CONVERGED
            single = _least(view, np.where(state.alive, state.belief, np.inf))
            along = decode(
                state.site_order, state.arrays, unary, site_ptr, site_row, site_slot, state.belief, state.message,
                state.alive,
            )  # fmt: skip
            for states in (along, single):
                found = view.energy(states)
                wins = found < energy
                best = np.where(wins[view.instance], states, best)
                energy = np.where(wins, found, energy)
        lost = np.isposinf(view.constant.detach().numpy())
        if view.num_sites:
            lost[view.instance[~np.logical_or.reduceat(state.alive, view.starts[:-1])]] = True
        bound = torch.from_numpy(np.where(lost, np.inf, -np.inf))
        energy = np.where(lost, np.inf, energy)
        status = torch.where(torch.from_numpy(lost), int(Status.INFEASIBLE), self._status(state, stop))
        return Result(
            Assignment(view.expand(best)),
            torch.from_numpy(energy),
            bound,
            status,
            solver=self.name,
            witness=Claim("constraint propagation") if lost.any() else None,
            stats=self._stats(state),
        )


def _begin(view: TableView) -> _Messages:
    """All messages 0."""
    from ebmstruct.inference.kernels.messages.belief_decode_numba import breadth_first

    unary, tables, weights = view.arrays
    site_ptr, site_row, _ = view.site_rows
    site_order, rows, forest = breadth_first(
        view.starts, view.instance, view.row_ptr, view.row_sites, site_ptr, site_row, view.num_instances
    )
    order = rows[np.argsort(view.row_instance[rows], kind="stable")]
    arrays = (view.starts, view.row_ptr, view.row_sites, view.table_start, weights, tables, view.message_ptr)
    rows_of = np.bincount(view.row_instance, minlength=view.num_instances)
    return _Messages(
        view=view,
        arrays=arrays,
        site_order=site_order,
        order=order,
        order_ptr=np.concatenate([[0], np.cumsum(rows_of)]),
        forest=forest,
        belief=unary.copy(),
        message=np.zeros(int(view.message_ptr[-1])),
        alive=np.ones(unary.size, np.bool_),
        key=np.zeros(view.num_rows),
        active=np.ones(view.num_instances, np.bool_) & np.isfinite(view.constant.detach().numpy()),
        residual=np.zeros(view.num_instances),
        count=np.zeros(view.num_instances, np.int64),
    )


def _least(view: TableView, values: np.ndarray) -> np.ndarray:
    """(n,) the state of least value of each site, from flat values."""
    if not view.num_sites:
        return np.zeros(0, np.int64)
    low = np.minimum.reduceat(values, view.starts[:-1])
    hits = np.nonzero(values == np.repeat(low, view.num_states))[0]
    owner = np.repeat(np.arange(view.num_sites), view.num_states)[hits]
    first = np.concatenate([[True], owner[1:] != owner[:-1]])
    return hits[first] - view.starts[:-1]


def _softmax(view: TableView, state: _Messages, temperature: float) -> Tensor:
    """Flat probabilities of the states of open sites; 0 for dead states."""
    if not view.num_sites:
        return torch.zeros(0, dtype=torch.float64)
    energy = np.where(state.alive, state.belief, np.inf)
    low = np.minimum.reduceat(energy, view.starts[:-1])
    low = np.where(np.isfinite(low), low, 0.0)
    weight = np.exp((np.repeat(low, view.num_states) - energy) / temperature)
    total = np.add.reduceat(weight, view.starts[:-1])
    return torch.from_numpy(weight / np.repeat(np.where(total > 0, total, 1.0), view.num_states))

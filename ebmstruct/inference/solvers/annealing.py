"""Simulated annealing: heat-bath sweeps of several chains while the temperature falls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.local_moves import lay_out, penalty_of, seed_state, temperature_range, visit_nanoseconds
from ebmstruct.inference.result import Ask, Query, Reparametrization
from ebmstruct.inference.solver import IterativeMinimizer, Progress
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.search.sweeps_numba import Problem


@dataclass(frozen=True, eq=False)
class Cooling:
    """Where annealing stands. x: (chains, n).  visits: of single sites done by each chain.

    best, energy: (n,) and (B,), the lowest labelling by true energy among those that a step ended with.
    """

    view: TableView
    problem: Problem
    temperatures: np.ndarray
    x: np.ndarray
    random: np.ndarray
    visits: int
    best: np.ndarray
    energy: np.ndarray


@dataclass(frozen=True)
class Annealing(IterativeMinimizer[Cooling]):
    """Multi-label simulated annealing over table views: ``chains`` chains, ``sweeps`` heat-bath sweeps, then descent.

    Simple and dependable on small and middling graphs; subgraph search is nearly always better. No lower bound.
    Infinite entries count as a finite penalty, so an answer may be infeasible (infinite energy) though others exist.

    hot, cold: first and last temperature; by default from what changes of one site cost in this graph.
    schedule: ``geometric`` or ``linear`` between them.
    Cost: chains * sweeps * sites * (states + rows that look at a site) operations.
    Source: Kirkpatrick, Gelatt and Vecchi (1983); heat bath as Geman and Geman (1984).
    """

    name: ClassVar[str] = "annealing"

    chains: int = 8
    sweeps: int = 1000
    hot: float | None = None
    cold: float | None = None
    schedule: Literal["geometric", "linear"] = "geometric"
    step_ms: float = 5.0

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.MINIMIZE:
            return f"it minimises only, and {query.ask} is asked"
        if query.sum_out or query.k > 1:
            return "it finds one assignment over all variables, not several, and it sums none out"
        if min(self.chains, self.sweeps) < 1:
            return f"it needs at least one chain and one sweep; found {self.chains} and {self.sweeps}"
        return table_refusal(graph)

    def begin(self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None) -> Cooling:
        view = table_view(graph)
        random = seed_state(generator, self.chains)
        problem = lay_out(view, penalty_of(view))
        draws = [np.random.default_rng(int(seed)).integers(0, view.num_states) for seed in random[:, 0]]
        x = np.stack(draws).reshape(self.chains, view.num_sites).astype(np.int64)
        if init is not None:
            x[:] = view.compress(graph.complete(init))
        hot, cold = temperature_range(view, problem)
        hot = 2.0 * hot if self.hot is None else self.hot
        cold = min(cold, hot) if self.cold is None else self.cold
        space = np.geomspace if self.schedule == "geometric" else np.linspace
        return Cooling(view, problem, space(hot, cold, self.sweeps), x, random, 0, x[0].copy(), view.energy(x[0]))

    def step(self, graph: FactorGraph, query: Query, state: Cooling) -> Cooling:
        from ebmstruct.inference.kernels.search.sweeps_numba import anneal, settle

        view = state.view
        x, random = state.x.copy(), state.random.copy()
        everywhere = np.arange(view.num_sites)
        energy = np.zeros(int(view.num_states.max(initial=1)))
        total = self.sweeps * view.num_sites
        share = 1e6 * self.step_ms / (visit_nanoseconds(view) * self.chains)
        visits = min(total - state.visits, max(100, int(share)))
        for chain in range(self.chains):
            own, source = x[chain], random[chain]
            anneal(state.problem, own, everywhere, source, state.temperatures, state.visits, visits, energy)
        state = replace(state, x=x.copy(), random=random, visits=state.visits + visits)
        for own in x:  # the valleys below where the chains are now, which go on from above
            settle(state.problem, own, energy, 1000 if state.visits == total else 5)
        return _keep(state, x)

    def progress(self, state: Cooling) -> Progress:
        infeasible = torch.isposinf(state.view.constant.detach())
        done = infeasible | (state.visits >= self.sweeps * state.view.num_sites)
        bound = torch.where(infeasible, torch.inf, -torch.inf).double()
        return Progress(state.view.expand(state.best), torch.from_numpy(state.energy), bound, done)

    def witness(self, state: Cooling) -> Reparametrization | None:
        """Messages of zero, where the tables alone show an instance infeasible; nothing else is proven here."""
        if not bool(torch.isposinf(state.view.constant).any()):
            return None
        return Reparametrization("tables", torch.zeros(int(state.view.message_ptr[-1]), dtype=torch.float64))


def _keep(state: Cooling, labellings: np.ndarray) -> Cooling:
    """The lowest of some labellings and the best before, instance by instance."""
    best, lowest = state.best, state.energy
    for own in labellings:
        energy = state.view.energy(own)
        wins = energy < lowest
        best = np.where(wins[state.view.instance], own, best)
        lowest = np.where(wins, energy, lowest)
    return replace(state, best=best, energy=lowest)

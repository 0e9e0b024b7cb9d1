"""Parallel tempering: replicas at rising temperatures that exchange places, for graphs with many valleys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.local_moves import (
    lay_out,
    penalty_of,
    seed_state,
    starting_states,
    temperature_range,
    visit_nanoseconds,
)
from ebmstruct.inference.result import Answer, Ask, Budget, Query, Reparametrization, Status
from ebmstruct.inference.sampling.markov import Collected, as_samples, default_generator
from ebmstruct.inference.solver import IterativeMinimizer, Progress
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.search.sweeps_numba import Problem


@dataclass(frozen=True, eq=False)
class Replicas:
    """Where tempering stands. x: (R, n).  level: (R, B), each replica's temperature in each instance.

    swaps: (R - 1, 2), exchanges of neighbouring temperatures accepted and tried.
    best, lowest: (n,) and (B,): the lowest labelling met, by the energies of ``problem``.
    """

    view: TableView
    problem: Problem
    temperatures: np.ndarray
    x: np.ndarray
    level: np.ndarray
    random: np.ndarray
    swaps: np.ndarray
    best: np.ndarray
    lowest: np.ndarray
    sweeps: int = 0

    @property
    def coldest(self) -> np.ndarray:
        """(n,) in each instance the states of the replica at the lowest temperature."""
        replica = np.argmin(self.level, axis=0) if self.level.size else np.zeros(self.level.shape[1], np.int64)
        out: np.ndarray = self.x[replica[self.view.instance], np.arange(self.view.num_sites)]
        return out


@dataclass(frozen=True)
class ParallelTempering(IterativeMinimizer[Replicas]):
    """Replica exchange Monte Carlo over table views: minimises, and samples at the query's temperature.

    ``replicas`` chains sweep by heat bath at a geometric ladder of temperatures; after each sweep neighbours on the
    ladder exchange places, instance by instance, by a Metropolis test. Chains cross barriers while they are hot.
    Samples come from the lowest temperature; they are dependent (``exact`` is false), and stats tell the swap
    acceptance of each pair: below about 0.1 anywhere, take more replicas.
    As a minimiser it has no lower bound; infinite entries then count as a finite penalty. Samples obey them.

    hot: the highest temperature; cold: the lowest when minimising; by default from what changes of one site cost.
    sweeps: of each replica when minimising.  burn_in, thinning: sweeps, when sampling.
    Cost: replicas * sweeps * sites * (states + rows that look at a site). A budget counts steps of a few
    milliseconds when minimising, sweeps when sampling.
    Source: Geyer (1991); Hukushima and Nemoto (1996).
    """

    name: ClassVar[str] = "parallel_tempering"

    replicas: int = 12
    hot: float | None = None
    cold: float | None = None
    sweeps: int = 1000
    burn_in: int = 200
    thinning: int = 5
    step_ms: float = 5.0

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask not in (Ask.MINIMIZE, Ask.SAMPLE):
            return f"it minimises and draws samples, and {query.ask} is asked"
        if query.sum_out or query.k > 1:
            return "it finds one assignment over all variables, not several, and it sums none out"
        if min(self.replicas, self.sweeps, self.thinning) < 1 or self.burn_in < 0:
            return "replicas, sweeps and thinning must be at least 1, and burn_in at least 0"
        return table_refusal(graph)

    def begin(self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None) -> Replicas:
        from ebmstruct.inference.kernels.search.sweeps_numba import settle

        view = table_view(graph)
        random = seed_state(default_generator(generator), self.replicas)
        minimising = query.ask is Ask.MINIMIZE
        soft = lay_out(view, penalty_of(view))
        warm, cool = temperature_range(view, soft)
        low = (min(cool, warm) if self.cold is None else self.cold) if minimising else query.temperature
        high = max(low, 2.0 * warm) if self.hot is None else max(low, self.hot)
        if init is not None:
            x = np.tile(view.compress(graph.complete(init)), (self.replicas, 1))
        elif minimising:
            draws = [np.random.default_rng(int(seed)).integers(0, view.num_states) for seed in random[:, 0]]
            x = np.stack(draws).reshape(self.replicas, view.num_sites).astype(np.int64)
            settle(soft, x[0], np.zeros(int(view.num_states.max(initial=1))), 20)
        else:
            x = starting_states(view, random)
        level = np.tile(np.arange(self.replicas)[:, None], (1, view.num_instances))
        return Replicas(
            view,
            soft if minimising else lay_out(view),
            np.geomspace(low, high, self.replicas),
            x,
            level,
            random[0],
            np.zeros((self.replicas - 1, 2), np.int64),
            x[0].copy(),
            np.full(view.num_instances, np.inf),
        )

    def step(self, graph: FactorGraph, query: Query, state: Replicas) -> Replicas:
        """A few milliseconds of sweeps."""
        each = visit_nanoseconds(state.view) * self.replicas * max(1, state.view.num_sites)
        return _swept(state, min(self.sweeps - state.sweeps, max(1, int(1e6 * self.step_ms / each))))

    def progress(self, state: Replicas) -> Progress:
        view = state.view
        infeasible = torch.isposinf(view.constant.detach())
        done = infeasible | (state.sweeps >= self.sweeps)
        bound = torch.where(infeasible, torch.inf, -torch.inf).double()
        return Progress(view.expand(state.best), torch.from_numpy(view.energy(state.best)), bound, done)

    def witness(self, state: Replicas) -> Reparametrization | None:
        """Messages of zero, where the tables alone show an instance infeasible; nothing else is proven here."""
        if not bool(torch.isposinf(state.view.constant).any()):
            return None
        return Reparametrization("tables", torch.zeros(int(state.view.message_ptr[-1]), dtype=torch.float64))

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        if query.ask is Ask.MINIMIZE:
            result, last = self.iterate(graph, query, init=init, budget=budget, generator=generator)
            return replace(result, stats={**result.stats, "swap_acceptance": _acceptance(last)})
        budget = budget or Budget()
        state = self.begin(graph, query, init, generator)
        view, draws, status = state.view, [state.coldest], Status.CONVERGED
        for i in range(query.num_samples):
            for _ in range(self.thinning + (self.burn_in if i == 0 else 0)):
                if budget.expired or (budget.max_steps is not None and state.sweeps >= budget.max_steps):
                    status = Status.DEADLINE if budget.expired else Status.MAX_STEPS
                    break
                state = _swept(state, 1)
            if status is not Status.CONVERGED:
                break
            draws = [*([] if i == 0 else draws), state.coldest]
        energy = torch.from_numpy(np.stack([view.energy(x) for x in draws]))
        values = {k: v[:, None] for k, v in view.expand(np.stack(draws)).items()}
        swaps = _acceptance(state)
        share = torch.full((graph.num_instances,), min(swaps, default=1.0), dtype=torch.float64)
        collected = Collected(values, energy[:, None], share, status)
        extra: dict[str, Any] = {"swap_acceptance": swaps, "temperatures": state.temperatures.tolist()}
        samples = as_samples(graph, query, collected, self.name, sweeps=state.sweeps, **extra)
        samples.status[torch.isposinf(view.constant.detach())] = int(Status.INFEASIBLE)
        return samples


def _acceptance(state: Replicas) -> list[float]:
    return [float(done) / max(1, int(tried)) for done, tried in state.swaps]


def _swept(state: Replicas, sweeps: int) -> Replicas:
    """The replicas after more sweeps and exchanges."""
    from ebmstruct.inference.kernels.search.sweeps_numba import temper

    x, level, random, swaps = state.x.copy(), state.level.copy(), state.random.copy(), state.swaps.copy()
    best, lowest = state.best.copy(), state.lowest.copy()
    scratch, energies = np.zeros(int(state.view.num_states.max(initial=1))), np.zeros(level.shape)
    temper(
        state.problem, x, state.view.instance, level, state.temperatures, random, sweeps, state.sweeps, scratch,
        energies, swaps, best, lowest,
    )  # fmt: skip
    return replace(
        state, x=x, level=level, random=random, swaps=swaps, best=best, lowest=lowest, sweeps=state.sweeps + sweeps
    )

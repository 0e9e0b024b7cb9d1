"""Gibbs sampling over a colouring, and marginals by averaging conditional probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.local_moves import lay_out, seed_state, starting_states, visit_nanoseconds
from ebmstruct.inference.markov import (
    ChainInfo,
    ChainState,
    Collected,
    MarkovSampler,
    as_samples,
    default_generator,
    r_hat,
)
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Status
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.search.sweeps_numba import Problem


@dataclass(eq=False)
class Chains:
    """Chains of one call. x: (chains, n), changed in place.  beliefs: (chains, states), sums of conditionals."""

    view: TableView
    problem: Problem
    order: np.ndarray
    x: np.ndarray
    random: np.ndarray
    temperature: float
    beliefs: np.ndarray
    scratch: np.ndarray
    sweeps: int = 0

    def run(self, sweeps: int) -> None:
        """More sweeps of every chain."""
        from ebmstruct.inference.kernels.search.sweeps_numba import gibbs

        gibbs(
            self.problem, self.x, self.order, self.random, self.temperature, sweeps, self.scratch, self.beliefs
        )  # fmt: skip
        self.sweeps += sweeps

    def energy(self) -> Tensor:
        """(chains, B) float64."""
        rows = [self.view.energy(own) for own in self.x]
        return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True)
class BlockGibbs(MarkovSampler):
    """Gibbs sampling of table views: a sweep draws all sites of one colour together, colour after colour.

    Sites of a colour share no row, so they are independent given the others. Answers samples, and marginals as
    averages of the conditional probabilities met on the way (Rao-Blackwell); both are estimates (``exact`` is false)
    and their stats say how well the chains agree. Chains start apart, at random, or all at ``init``.
    Where hard constraints tie several sites together a single site cannot move, and the chains stay where they
    start: R-hat shows it. Strongly coupled graphs mix slowly; then use parallel tempering.

    chains: run side by side.  burn_in: sweeps dropped.  thinning: sweeps from one draw to the next.
    sweeps: how many the marginals average over.
    Cost: chains * sweeps * sites * (states + rows that look at a site). A budget counts sweeps.
    Source: Geman and Geman (1984); Gelfand and Smith (1990) for the average of conditionals.
    """

    name: ClassVar[str] = "gibbs"

    chains: int = 4
    burn_in: int = 200
    thinning: int = 5
    sweeps: int = 2000

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask not in (Ask.SAMPLE, Ask.MARGINALS):
            return f"it draws samples and estimates marginals, and {query.ask} is asked"
        if query.factors:
            return "it estimates marginals of single sites only, not joint ones of factors"
        if min(self.chains, self.thinning, self.sweeps) < 1 or self.burn_in < 0:
            return "chains, thinning and sweeps must be at least 1, and burn_in at least 0"
        return table_refusal(graph)

    def init(self, graph: FactorGraph, y: Assignment | None, generator: Generator | None = None) -> ChainState:
        view = table_view(graph)
        x = starting_states(view, seed_state(generator))[0] if y is None else view.compress(graph.complete(y))
        return ChainState(view.expand(x), torch.from_numpy(view.energy(x)))

    def step(
        self, graph: FactorGraph, state: ChainState, *, temperature: float, generator: Generator | None
    ) -> tuple[ChainState, ChainInfo]:
        """One sweep over all sites."""
        view = table_view(graph)
        x, random = view.compress(state.values)[None], seed_state(generator)
        kept = state.cache
        if isinstance(kept, Chains) and kept.view is view:  # the layout is all that a step takes from the one before
            run = replace(kept, x=x, random=random, temperature=temperature)
        else:
            run = _chains(view, x, random, temperature)
        run.run(1)
        following = ChainState(view.expand(run.x[0]), run.energy()[0], run)
        return following, ChainInfo(torch.ones_like(following.energy))

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
        random = seed_state(default_generator(generator), self.chains)
        if init is None:
            x = starting_states(view, random)
        else:
            x = np.tile(view.compress(graph.complete(init)), (self.chains, 1))
        run = _chains(view, x, random, query.temperature)
        status = self._advance(run, self.burn_in, budget)
        if query.ask is Ask.MARGINALS:
            return self._marginals(graph, query, run, budget)
        draws, energies = [x.copy()], [run.energy()]
        for i in range(-(-query.num_samples // self.chains)):
            status = self._advance(run, self.thinning, budget)
            if status is not Status.CONVERGED:
                break
            if i == 0:
                draws.clear()
                energies.clear()
            draws.append(run.x.copy())
            energies.append(run.energy())
        values = view.expand(np.stack(draws))
        collected = Collected(values, torch.stack(energies), torch.ones(graph.num_instances), status)
        samples = as_samples(graph, query, collected, self.name, sweeps=run.sweeps)
        samples.status[torch.isposinf(view.constant.detach())] = int(Status.INFEASIBLE)
        return samples

    def _advance(self, run: Chains, sweeps: int, budget: Budget) -> Status:
        """More sweeps, in pieces of a few milliseconds; how that ended."""
        each = max(1.0, visit_nanoseconds(run.view) * run.view.num_sites * self.chains)
        piece, done = max(1, int(5e6 / each)), 0
        while done < sweeps:
            if budget.expired:
                return Status.DEADLINE
            allowed = sweeps - done if budget.max_steps is None else budget.max_steps - run.sweeps
            if allowed <= 0:
                return Status.MAX_STEPS
            now = min(piece, sweeps - done, allowed)
            run.run(now)
            done += now
        return Status.CONVERGED

    def _marginals(self, graph: FactorGraph, query: Query, run: Chains, budget: Budget) -> Marginals:
        before, run.beliefs = run.beliefs, np.zeros_like(run.beliefs)
        begun = run.sweeps
        every = max(1, self.sweeps // 200)
        draws, energies, status = [], [run.energy()], Status.CONVERGED
        for _ in range(-(-self.sweeps // every)):
            status = self._advance(run, every, budget)
            draws.append(run.x.copy())
            energies.append(run.energy())
            if status is not Status.CONVERGED:
                break
        sums = run.beliefs if run.sweeps > begun else before
        if not run.sweeps:  # no time even for one sweep: nothing but the start is known
            sums = _indicators(run)
        beliefs = torch.from_numpy(sums.mean(0) / (max(1, run.sweeps - begun) if run.sweeps > begun else begun or 1))
        energy = torch.stack(energies)
        lowest = -energy.amin((0, 1)) / query.temperature
        infeasible = torch.isposinf(run.view.constant.detach())
        ended = torch.full((graph.num_instances,), int(status), dtype=torch.long)
        ended[torch.isposinf(energy[-1]).any(0)] = int(Status.MAX_STEPS)
        ended[infeasible] = int(Status.INFEASIBLE)
        stats = {
            "r_hat": {k: r_hat(v) for k, v in run.view.expand(np.stack(draws)).items()},
            "chains": self.chains,
            "sweeps": run.sweeps,
            "log_partition_lower": lowest,
        }
        return Marginals(run.view.expand_beliefs(beliefs), lowest, False, ended, self.name, stats=stats)


def _chains(view: TableView, x: np.ndarray, random: np.ndarray, temperature: float) -> Chains:
    from ebmstruct.inference.kernels.search.sweeps_numba import colours

    problem = lay_out(view)
    order = np.argsort(colours(problem.nb_ptr, problem.nb_site), kind="stable")
    beliefs = np.zeros((x.shape[0], int(view.starts[-1])))
    scratch = np.zeros(int(view.num_states.max(initial=1)))
    return Chains(view, problem, order, x, random, temperature, beliefs, scratch)


def _indicators(run: Chains) -> np.ndarray:
    out = np.zeros_like(run.beliefs)
    for own, row in zip(run.x, out, strict=True):
        row[run.view.starts[:-1] + own] = 1.0
    return out

"""Gibbs sampling over a colouring, and marginals by averaging conditional probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.diagnostics.states import R_HAT_FINE, effective_samples, site_r_hat
from ebmstruct.inference.local_moves import lay_out, seed_state, starting_states, visit_nanoseconds
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Status
from ebmstruct.inference.sampling.layered_chains import LayeredRun
from ebmstruct.inference.sampling.layers import LayeredSweeps
from ebmstruct.inference.sampling.markov import (
    ChainInfo,
    ChainState,
    Collected,
    MarkovSampler,
    as_samples,
    default_generator,
)
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.search.sweeps_numba import Problem

RECORDS = 200
"""How many times in a round the chains' states are written down, at least, to see whether they agree."""
RECORD_SECONDS = 2e-8
"""What looking at one recorded state takes in the end (measured on 34 million); kept back from a deadline."""


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


@dataclass(eq=False)
class Sweeps:
    """What was seen in a round: states (chains, n) and energies (chains, B) now and then, and sums of conditionals.

    status: how it ended.  r_hat: (n,) of each open site, once ``look`` was called.
    """

    draws: list[np.ndarray] = field(default_factory=list)
    energies: list[Tensor] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sweeps: int = 0
    status: Status = Status.CONVERGED
    r_hat: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def record(self, run: Chains) -> None:
        """Write down where the chains stand."""
        small = int(run.view.num_states.max(initial=1)) < 1 << 15
        self.draws.append(run.x.astype(np.int16 if small else np.int32))
        self.energies.append(run.energy())

    def look(self, run: Chains) -> None:
        """Find how well the chains agree at each site."""
        self.r_hat = site_r_hat(torch.from_numpy(np.stack(self.draws))).numpy()

    def by_instance(self, run: Chains) -> np.ndarray:
        """(B,) the largest R-hat of an instance's sites; infinite where it is not known."""
        worst = np.ones(run.view.num_instances)
        np.maximum.at(worst, run.view.instance, np.where(np.isnan(self.r_hat), np.inf, self.r_hat))
        return worst

    def agrees(self, run: Chains) -> bool:
        """Whether the chains agree in every instance that has allowed assignments."""
        feasible = np.isfinite(run.view.constant.detach().numpy())
        return bool((self.by_instance(run)[feasible] < R_HAT_FINE).all())

    def after(self, before: Sweeps) -> Sweeps:
        """This round, cut short, with all of the one before, whose records are twice as dense."""
        if not before.draws:
            return self if self.sweeps else replace(before, status=self.status)
        sums, sweeps = self.sums + before.sums, self.sweeps + before.sweeps
        draws, energies = before.draws[1::2] + self.draws, before.energies[1::2] + self.energies
        return Sweeps(draws, energies, sums, sweeps, self.status)


@dataclass(frozen=True)
class BlockGibbs(MarkovSampler):
    """Gibbs sampling of table views: a sweep draws all sites of one colour together, colour after colour.

    Sites of a colour share no row, so they are independent given the others. Answers samples, and marginals as
    averages of the conditional probabilities met on the way (Rao-Blackwell); both are estimates (``exact`` is false)
    and their stats say how well the chains agree. Chains start apart, at random, or all at ``init``.
    Layers of units (``BilinearFactor``) are drawn a layer at a time, by products of matrices, in one round of ``sweeps``;
    where no two open units are joined (hidden units given the visible ones) the answers are exact.
    Where hard constraints tie several sites together a single site cannot move, and the chains stay where they
    start: R-hat shows it. Strongly coupled graphs mix slowly; then use parallel tempering.

    chains: run side by side.  burn_in: sweeps dropped.  thinning: sweeps from one draw to the next.
    sweeps: the length of the first round (samples: longer, where they need it).
    patience: without a deadline, rounds take at most this many times the first one's length; 15 is four rounds.
    Cost: chains * sweeps * sites * (states + rows that look at a site). A budget counts sweeps.
    Source: Geman and Geman (1984); Gelfand and Smith (1990) for the average of conditionals.
    """

    name: ClassVar[str] = "gibbs"

    chains: int = 4
    burn_in: int = 200
    thinning: int = 5
    sweeps: int = 2000
    patience: int = 15

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask not in (Ask.SAMPLE, Ask.MARGINALS):
            return f"it draws samples and estimates marginals, and {query.ask} is asked"
        if query.factors:
            return "it estimates marginals of single sites only, not joint ones of factors"
        if min(self.chains, self.thinning, self.sweeps, self.patience) < 1 or self.burn_in < 0:
            return "chains, thinning, sweeps and patience must be at least 1, and burn_in at least 0"
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
        budget, generator = budget or Budget(), default_generator(generator)
        with torch.no_grad():
            layers = LayeredSweeps.of(graph)
        if layers is not None:
            run = LayeredRun(self.name, self.chains, self.burn_in, self.thinning, self.sweeps)
            return run.answer(layers, query, init, budget, generator)
        return self._by_tables(graph, query, init, budget, generator)

    def _by_tables(
        self, graph: FactorGraph, query: Query, init: Assignment | None, budget: Budget, generator: Generator
    ) -> Answer:
        """The same where sites are visited one by one."""
        view = table_view(graph)
        random = seed_state(generator, self.chains)
        if init is None:
            x = starting_states(view, random)
        else:
            x = np.tile(view.compress(graph.complete(init)), (self.chains, 1))
        run = _chains(view, x, random, query.temperature)
        wanted = -(-query.num_samples // self.chains) if query.ask is Ask.SAMPLE else 1
        found = self._rounds(run, wanted, budget)
        if query.ask is Ask.MARGINALS:
            return self._marginals(graph, query, run, found)
        count = min(wanted, len(found.draws))
        picked = (np.arange(count) + 1) * len(found.draws) // count - 1
        values = view.expand(np.stack([found.draws[i] for i in picked]).astype(np.int64))
        energy = torch.stack(found.energies)
        collected = Collected(
            values, energy[torch.from_numpy(picked)], torch.ones(graph.num_instances), Status.CONVERGED
        )
        samples = as_samples(graph, query, collected, self.name, **self._stats(run, found))
        samples.status[:] = self._ended(run, found, wanted)
        return samples

    def _rounds(self, run: Chains, wanted: int, budget: Budget) -> Sweeps:
        """Rounds, each twice as long, until the chains agree or the budget ends; ``wanted`` draws a chain at least."""
        length = self.sweeps if wanted == 1 else max(self.sweeps, wanted * self.thinning)
        records = max(RECORDS, wanted)
        most = math.inf if budget.deadline is not None else self.patience * length
        reserve = min(RECORD_SECONDS * records * run.x.size, 0.1 * max(0.0, budget.remaining))
        inner = budget if budget.deadline is None else replace(budget, deadline=budget.deadline - reserve)
        now, before, used = Sweeps(), None, 0
        now.status = self._advance(run, self.burn_in, inner)
        now.sums, now.sweeps = run.beliefs.copy(), run.sweeps  # the burn-in, in case that nothing else is known
        while now.status is Status.CONVERGED:
            before, now = now, Sweeps()
            run.beliefs[:] = 0.0
            every = max(1, length // records)
            begun = run.sweeps
            while now.status is Status.CONVERGED and run.sweeps - begun < length:
                now.status = self._advance(run, every, inner)
                now.record(run)
            now.sums, now.sweeps = run.beliefs.copy(), run.sweeps - begun
            if now.status is not Status.CONVERGED:
                break
            now.look(run)
            if now.agrees(run):
                return now
            used += length
            length *= 2
            if used + length > most:
                now.status = Status.MAX_STEPS
                return now
        if before is not None:
            now = now.after(before)
        if not now.draws:
            now.record(run)
        now.look(run)
        return now

    def _ended(self, run: Chains, found: Sweeps, wanted: int) -> Tensor:
        """(B,) long: the statuses; an instance whose own chains agree has converged, whatever the others do."""
        worst, finite = found.by_instance(run), np.isfinite(found.energies[-1].numpy()).all(0)
        enough = len(found.draws) >= max(RECORDS // 2, wanted) or not run.view.num_sites
        early = int(Status.MAX_STEPS if found.status is Status.CONVERGED else found.status)
        ended = np.where(enough & finite & (worst < R_HAT_FINE), int(Status.CONVERGED), early)
        dead = np.isposinf(run.view.constant.detach().numpy())
        return torch.from_numpy(np.where(dead, int(Status.INFEASIBLE), ended))

    def _stats(self, run: Chains, found: Sweeps) -> dict[str, Any]:
        block = np.repeat(np.arange(len(run.view.sizes)), run.view.sizes)[run.view.open_site]
        worst = {name: float(found.r_hat[block == i].max(initial=1.0)) for i, name in enumerate(run.view.names)}
        return {
            "r_hat": worst,
            "effective_samples": effective_samples(torch.stack(found.energies)),
            "chains": self.chains,
            "sweeps": run.sweeps,
        }

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

    def _marginals(self, graph: FactorGraph, query: Query, run: Chains, found: Sweeps) -> Marginals:
        sums = found.sums if found.sweeps else _indicators(run)  # no time even for one sweep: the start is known
        beliefs = torch.from_numpy(sums.mean(0) / max(1, found.sweeps))
        energy = torch.stack([*found.energies, run.energy()])
        lowest = -energy.amin((0, 1)) / query.temperature
        stats = {**self._stats(run, found), "log_partition_lower": lowest}
        ended = self._ended(run, found, 1)
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

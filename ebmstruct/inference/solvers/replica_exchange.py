"""Replica exchange for any energy over real and discrete variables: chains that cross valleys while they are hot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Continuous, Discrete, FactorGraph
from ebmstruct.graph.continuous import scattered
from ebmstruct.inference.result import Answer, Ask, Budget, Query, Samples, Status
from ebmstruct.inference.sampling.markov import Collected, as_samples, default_generator
from ebmstruct.inference.sampling.temperature_ladder import Ladder
from ebmstruct.inference.sampling.tempered_moves import FlipSites
from ebmstruct.inference.sampling.walkers import Walkers
from ebmstruct.inference.smooth_energy import clamped, constraint_labels, open_continuous, starting_point
from ebmstruct.inference.solver import Solver

TARGET = 0.8
"""Acceptance of trajectories that steps are tuned to."""
WARM_UP_SHARE = 0.4
"""The part of the time before a deadline that tuning may take."""


@dataclass(eq=False)
class Tempering:
    """Where a run stands: C ladders of R walkers, and (R, B) logarithms of step sizes by rung; changed in place."""

    walkers: Walkers
    ladder: Ladder
    log_steps: Tensor
    acceptance: Tensor
    moves: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, R, B."""
        c, r, b = self.ladder.level.shape
        return c, r, b

    @property
    def energy(self) -> Tensor:
        """(C, R, B)."""
        return self.walkers.standing.energy.reshape(self.shape)


@dataclass(frozen=True)
class ReplicaExchange(Solver):
    """Samples exp(-E / temperature) of energies with several valleys, over real, discrete or mixed variables.

    ``chains`` ladders of ``replicas`` copies walk at rising temperatures, real blocks by Hamiltonian trajectories and
    discrete sites by Metropolis flips, and after each round neighbours on a ladder exchange places, instance by
    instance. Draws are the states at the lowest temperature; ladders are independent of each other, so that R-hat can
    tell whether they agree. Draws are dependent (``exact`` is false).
    While warming up steps are tuned to an acceptance of 0.8, and where ``hot`` is not given rungs are spread until
    neighbours exchange about three times in ten; then both stay as they are.
    Stats: ``swap_acceptance`` of each pair of rungs, in the mean; ``temperatures`` (R, B); ``acceptance`` (B,) of
    trajectories at the lowest; ``r_hat``, ``effective_samples``. Swap acceptance below about 0.1: more replicas.
    For tables alone ``parallel_tempering`` is quicker; where there is one valley, one chain costs ``replicas`` times less.

    hot: the highest temperature.  hottest: how many times the query's temperature the highest may be, where it is found.
    warm_up: rounds of tuning.  thinning: rounds from draw to draw.  leapfrog_steps: of a trajectory.
    Cost: chains * replicas * rounds * (leapfrog_steps gradients + an energy for each discrete site of the largest
    instance). A budget counts rounds.
    Source: Geyer (1991); Swendsen and Wang (1986); Miasojedow, Moulines and Vihola (2013) for the ladder.
    """

    name: ClassVar[str] = "replica_exchange"

    chains: int = 4
    replicas: int = 8
    hot: float | None = None
    hottest: float = 1e3
    warm_up: int = 500
    thinning: int = 1
    leapfrog_steps: int = 8

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.SAMPLE:
            return f"it draws samples, and {query.ask} is asked"
        if min(self.chains, self.replicas, self.thinning, self.leapfrog_steps) < 1 or self.warm_up < 0:
            return "chains, replicas, thinning and leapfrog_steps must be at least 1, and warm_up at least 0"
        if (self.hot is not None and self.hot < query.temperature) or self.hottest < 1.0:
            return "hot must not be below the query's temperature, and hottest not below 1"
        for block in open_continuous(graph):
            assert isinstance(block.domain, Continuous)
            if block.domain.measure is None:
                return f"block {block.name!r} is {block.domain}, which states no measure against which to sample"
        for block in graph.variables.values():
            if not isinstance(block.domain, Discrete | Continuous) and not clamped(graph, block.name):
                return f"block {block.name!r} is {block.domain}, and it moves discrete and continuous blocks only"
        labels = constraint_labels(graph)
        if labels and open_continuous(graph):
            return f"factor {labels[0]!r} is a constraint, and chains of finite steps cannot stay on it"
        try:
            graph.repeat(1)
        except GraphError as fault:
            return f"its replicas are copies of the graph, and that cannot be copied: {fault}"
        return None

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
        state = self._begin(graph, query, init, generator)
        self._warm_up(state, query, budget, generator)
        wanted, status = -(-query.num_samples // self.chains), Status.CONVERGED
        draws: list[tuple[dict[str, Tensor], Tensor]] = []
        tuned = state.acceptance / state.moves if state.moves else torch.ones_like(state.acceptance)
        state.ladder, state.acceptance = state.ladder.counted_anew(), torch.zeros_like(state.acceptance)
        rounds = 0
        while len(draws) < wanted and status is Status.CONVERGED:
            for _ in range(self.thinning):
                status = self._ended(state, budget)
                if status is not Status.CONVERGED:
                    break
                self._round(state, budget, generator)
                rounds += 1
            else:
                draws.append(_coldest(graph, state))
        draws = draws or [_coldest(graph, state)]
        if not rounds:  # all that is known of the moves is what tuning met
            state.acceptance = tuned
        return self._samples(graph, query, state, draws, max(1, rounds), status)

    def _begin(self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator) -> Tempering:
        count = self.chains * self.replicas
        copies = graph.repeat(count)
        begin = starting_point(graph, init)
        values = {k: v.repeat(count, *[1] * (v.dim() - 1)) for k, v in begin.items()}
        for block in open_continuous(copies):
            assert isinstance(block.domain, Continuous)
            if init is None or block.name not in init:
                values[block.name] = scattered(block.domain, block.num_sites, values[block.name].dtype, generator)
        states = FlipSites.of(copies).uniform(generator)
        if init is not None:
            states.update({k: init[k].repeat(count) for k in states if k in init})
        values = copies.complete({**values, **states})
        walkers = Walkers.begin(graph, count, values)
        hot = self.hot if self.hot is not None else query.temperature * min(self.hottest, 1.5 ** (self.replicas - 1))
        ladder = Ladder.of(query.temperature, hot, self.chains, self.replicas, graph.num_instances)
        steps = torch.full((self.replicas, graph.num_instances), -1.6, dtype=torch.float64)
        return Tempering(walkers, ladder, steps + 0.5 * ladder.temperatures.log(), torch.zeros_like(steps))

    def _round(self, state: Tempering, budget: Budget, generator: Generator) -> tuple[Tensor, Tensor]:
        """Every replica moves, and neighbours exchange; (R, B) acceptance by rung, (R - 1, B) that of exchanges."""
        _, replicas, instances = state.shape
        level, own = state.ladder.level, torch.arange(instances)
        inverse = state.ladder.inverse.reshape(-1)
        state.walkers.flips(inverse, budget, generator)
        accepted = torch.ones(replicas, instances, dtype=torch.float64)
        if state.walkers.walks:
            jitter = 0.7 + 0.3 * torch.rand(level.shape, dtype=torch.float64, generator=generator)
            step = (state.log_steps[level, own].exp() * jitter).reshape(-1)
            found = state.walkers.walk(inverse, step, self.leapfrog_steps, budget, generator).reshape(level.shape)
            accepted = torch.zeros_like(found).scatter_(1, level, found).mean(0)
        state.ladder, exchanges = state.ladder.exchanged(state.energy, generator)
        state.acceptance = state.acceptance + accepted
        state.moves += 1
        return accepted, exchanges

    def _warm_up(self, state: Tempering, query: Query, budget: Budget, generator: Generator) -> None:
        inner = budget if budget.deadline is None else budget.within(WARM_UP_SHARE * max(0.0, budget.remaining))
        for i in range(self.warm_up):
            if self._ended(state, inner) is not Status.CONVERGED:
                return
            accepted, exchanges = self._round(state, inner, generator)
            state.log_steps = state.log_steps + (1.0 + i) ** -0.4 * (accepted - TARGET)
            if self.hot is None:
                rate = 4.0 * (10.0 + i) ** -0.6
                state.ladder = state.ladder.spread(exchanges, rate, self.hottest * query.temperature)

    @staticmethod
    def _ended(state: Tempering, budget: Budget) -> Status:
        if budget.expired:
            return Status.DEADLINE
        over = budget.max_steps is not None and state.moves >= budget.max_steps
        return Status.MAX_STEPS if over else Status.CONVERGED

    def _samples(
        self,
        graph: FactorGraph,
        query: Query,
        state: Tempering,
        draws: list[tuple[dict[str, Tensor], Tensor]],
        rounds: int,
        status: Status,
    ) -> Samples:
        values = {name: torch.stack([d[0][name] for d in draws]) for name in graph.variables}
        energy = torch.stack([d[1] for d in draws])
        swaps = state.ladder.acceptance.mean(1).tolist()
        collected = Collected(values, energy, state.acceptance[0] / rounds, status, steps=state.moves)
        stats = {"swap_acceptance": swaps, "temperatures": state.ladder.temperatures, "rounds": state.moves}
        samples = as_samples(graph, query, collected, self.name, **stats)
        rows = self.chains * self.replicas
        nowhere = torch.isposinf(state.walkers.standing.energy).reshape(rows, -1).all(0)
        ended = samples.status.masked_fill(nowhere, int(Status.INFEASIBLE))
        ended = ended.masked_fill(state.walkers.bad.reshape(rows, -1).any(0), int(Status.NONFINITE))
        return replace(samples, status=ended, warnings=(*samples.warnings, *_broken_ladder(swaps, rounds)))


def _broken_ladder(acceptance: list[float], rounds: int) -> tuple[str, ...]:
    low = min(acceptance, default=1.0)
    if low >= 0.05 or rounds < 20:
        return ()
    return (
        f"rungs {acceptance.index(low)} and {acceptance.index(low) + 1} of the ladder exchange in {100 * low:.1f} % of "
        "the tries only: heat does not reach the lowest; take more replicas",
    )


def _coldest(graph: FactorGraph, state: Tempering) -> tuple[dict[str, Tensor], Tensor]:
    """The values (C, n, ...) of the replicas at the lowest temperature, each instance's own, and (C, B) energies."""
    chains, replicas, _ = state.shape
    holder = state.ladder.holder[:, 0]
    values = {}
    for name, block in graph.variables.items():
        own = state.walkers.values[name]
        own = own.reshape(chains, replicas, block.num_sites, *own.shape[1:])
        chosen = holder[:, block.instance]
        values[name] = own[torch.arange(chains)[:, None], chosen, torch.arange(block.num_sites)]
    energy = state.energy.gather(1, holder[:, None])[:, 0]
    return values, energy

"""Gibbs sampling of mixed graphs: discrete states given the points, then points given the states."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.graph.continuous import scattered
from ebmstruct.inference.diagnostics import diagnose
from ebmstruct.inference.mixed.draws import StateDraws
from ebmstruct.inference.refine import with_states
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Samples
from ebmstruct.inference.sampling.adaptation import DualAveraging, dual_averaging, updated
from ebmstruct.inference.sampling.hamiltonian import draws, leapfrog
from ebmstruct.inference.sampling.markov import (
    ChainInfo,
    ChainState,
    MarkovSampler,
    as_samples,
    default_generator,
    run_chains,
)
from ebmstruct.inference.sampling.motion import Here, Motion, chain_refusal, options_refusal, state_at
from ebmstruct.inference.sampling.stretches import adjusted
from ebmstruct.inference.sampling.tempered_moves import with_states as with_drawn
from ebmstruct.inference.smooth_energy import clamped, open_continuous, starting_point


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a chain keeps beside its place: how states are drawn, and the search for (B,) step sizes."""

    states: StateDraws
    steps: DualAveraging


@dataclass(frozen=True)
class MixedGibbs(MarkovSampler):
    """Samples exp(-E / temperature) of a mixed graph: in turns the discrete blocks and the continuous ones.

    The discrete blocks are drawn given the points: all together and exactly where the tables that are left (``tabulate``)
    are a chain, a forest or narrow, else by a sweep of Gibbs sampling, and where a factor has no tables by Metropolis
    flips. Then ``trajectories`` Hamiltonian trajectories move the points given the states, each accepted or refused in
    each instance by itself. Both leave the density as it is, so draws follow it exactly in the end; they are dependent
    (``exact`` is false). Marginals are shares of the draws' states, and means and covariances of their points.
    Where states and points hold each other fast (a point that no other state explains) chains hardly move: R-hat and
    effective draws show it; ``replica_exchange`` heats them.

    chains: copies of the graph, run side by side.  burn_in, thinning: in sweeps.  draws: of each chain, for marginals.
    leapfrog_steps: of a trajectory; 1 makes it a Langevin step (MALA).  step_size: fixed where given, else learnt for
    each instance in the burn-in, for an acceptance of ``target_acceptance``.  joint: whether to draw states together.
    Cost of a sweep: a table of each mixed row, a draw from the tables, and trajectories * leapfrog_steps gradients.
    Source: Geman and Geman (1984); Neal (2011); Hoffman and Gelman (2014) for step sizes.
    """

    name: ClassVar[str] = "mixed_gibbs"

    chains: int = 4
    burn_in: int = 300
    thinning: int = 1
    draws: int = 1000
    trajectories: int = 1
    leapfrog_steps: int = 8
    step_size: float | None = None
    target_acceptance: float = 0.8
    joint: bool = True

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask not in (Ask.SAMPLE, Ask.MARGINALS):
            return f"it draws samples and takes shares and means of them, and {query.ask} is asked"
        if query.factors:
            return f"it has no joint beliefs of factors, and those of {list(query.factors)} are asked"
        if min(self.draws, self.trajectories, self.leapfrog_steps) < 1 or not 0 < self.target_acceptance < 1:
            return "draws, trajectories and leapfrog_steps must be at least 1, target_acceptance between 0 and 1"
        reason = options_refusal(self.chains, self.burn_in, self.thinning, step_size=self.step_size)
        if reason is not None:
            return reason
        states = _any_states(graph)
        if all(clamped(graph, n) or not v.numel() for n, v in states.items()):
            return "no discrete block is open; samplers of continuous blocks do without states to draw"
        inside = with_states(graph, {n: v for n, v in states.items() if not clamped(graph, n)})
        return chain_refusal(inside, replace(query, ask=Ask.SAMPLE), self.chains, adjusted=True)

    def init(self, graph: FactorGraph, y: Assignment | None, generator: Generator | None = None) -> ChainState:
        """The state before the first step: at ``y``; points that it does not name start scattered, states drawn."""
        generator = default_generator(generator)
        values = starting_point(graph, y)
        for block in open_continuous(graph):
            if y is None or block.name not in y:
                assert isinstance(block.domain, Continuous)
                values[block.name] = scattered(block.domain, block.num_sites, values[block.name].dtype, generator)
        given = {n: y[n] for n in _any_states(graph) if y is not None and n in y}
        with torch.no_grad():
            draw = StateDraws.of(graph, values, joint=self.joint)
            values = graph.complete({**values, **draw.sites.uniform(generator), **given})
            if len(given) < len(draw.sites.names):
                values = {**draw.drawn(values, graph.energy(values), 1.0, generator), **given}
        motion = Motion.of(graph, values)
        point = tuple(values[n] for n in motion.energy.names)
        energy, gradient = motion.energy.with_gradient(point)
        first = 0.1 if self.step_size is None else self.step_size
        steps = dual_averaging(torch.full((graph.num_instances,), first, dtype=torch.float64))
        return state_at(motion, point, energy, gradient, 0, Learnt(draw, steps))

    def step(
        self, graph: FactorGraph, state: ChainState, *, temperature: float, generator: Generator | None
    ) -> tuple[ChainState, ChainInfo]:
        """One sweep: states given the points, then points given the states."""
        return self._sweep(graph, state, temperature, generator, learning=False)

    def adapt(
        self,
        graph: FactorGraph,
        state: ChainState,
        at: int,
        of: int,
        *,
        temperature: float,
        generator: Generator | None,
    ) -> tuple[ChainState, ChainInfo]:
        return self._sweep(graph, state, temperature, generator, learning=self.step_size is None)

    def _sweep(
        self, graph: FactorGraph, state: ChainState, temperature: float, generator: Generator | None, *, learning: bool
    ) -> tuple[ChainState, ChainInfo]:
        generator = default_generator(generator)
        place = state.cache
        if place is None or place.motion.energy.graph is not graph:
            learnt = None if place is None else place.learnt
            place = self.init(graph, Assignment(dict(state.values)), generator).cache
            place = place if learnt is None else place._replace(learnt=replace(place.learnt, steps=learnt.steps))
        own: Learnt = place.learnt
        with torch.no_grad():
            values = own.states.drawn(state.values, state.energy, temperature, generator)
        motion = replace(place.motion, energy=with_drawn(place.motion.energy, values))
        point = tuple(values[n] for n in motion.energy.names)
        here = Here(point, *motion.energy.with_gradient(point))
        size = own.steps.step if learning else own.steps.average
        scale = [s.to(x) for s, x in zip(motion.energy.spread(size), point, strict=True)]
        propose = partial(
            leapfrog, motion, size=1.0, steps=self.leapfrog_steps, temperature=temperature, scale=scale
        )  # fmt: skip
        run = adjusted(motion, here, [(d, propose) for d in draws(motion, here, generator, self.trajectories)])
        if learning:
            assert run.acceptance is not None
            own = replace(own, steps=updated(own.steps, run.acceptance, target=self.target_acceptance))
        at = run.here
        info = ChainInfo(run.acceptance, run.divergent, {"step_size": size})
        return state_at(motion, at.point, at.energy, at.gradient, place.steps + 1, own), info

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        wanted = replace(query, num_samples=self.draws * self.chains) if query.ask is Ask.MARGINALS else query
        with torch.enable_grad():
            collected = run_chains(
                self,
                graph,
                wanted,
                chains=self.chains,
                burn_in=self.burn_in,
                thinning=self.thinning,
                init=init,
                budget=budget,
                generator=default_generator(generator),
            )
        samples = as_samples(graph, wanted, collected, self.name)
        return samples if query.ask is Ask.SAMPLE else _marginals(graph, samples)


def _any_states(graph: FactorGraph) -> dict[str, Tensor]:
    return {
        n: torch.zeros(v.num_sites, dtype=torch.long)
        for n, v in graph.variables.items()
        if not isinstance(v.domain, Continuous)
    }


def _marginals(graph: FactorGraph, samples: Samples) -> Marginals:
    """Shares of states, and means and covariances of points, as the draws have them."""
    distinct = int(samples.stats["distinct"])
    beliefs, means, covariances = {}, {}, {}
    for name, block in graph.variables.items():
        own = samples.values[name][:distinct]
        if isinstance(block.domain, Continuous):
            means[name] = block.domain.project(own.double().mean(0))
            apart = block.domain.local(means[name].expand_as(own), own.double())
            covariances[name] = torch.einsum("sni,snj->nij", apart, apart) / max(1, distinct - 1)
        else:
            states = torch.arange(max(1, block.discrete.largest))
            beliefs[name] = (own[:, :, None] == states).double().mean(0)
    figures = diagnose(samples, graph)
    stats: dict[str, Any] = {
        **samples.stats,
        "standard_error": {name: figures.mcse[name] for name in means},
        "r_hat": {name: figures.r_hat[name] for name in samples.values},
        "warnings": figures.warnings,
    }
    unknown = torch.full((graph.num_instances,), -math.inf, dtype=torch.float64)
    return Marginals(
        beliefs, unknown, False, samples.status, samples.solver, stats=stats, means=means, covariances=covariances
    )

"""The no-U-turn sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph, Real
from ebmstruct.inference.diagnostics import by_chain, mcse_mean
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Samples, Status
from ebmstruct.inference.sampling.adaptation import (
    DualAveraging,
    Spread,
    dual_averaging,
    inverse_mass,
    seen,
    spread,
    updated,
    windows,
)
from ebmstruct.inference.sampling.chain_rows import ChainRows
from ebmstruct.inference.sampling.compiled_stretches import gradient_program
from ebmstruct.inference.sampling.markov import (
    ChainInfo,
    ChainState,
    MarkovSampler,
    as_samples,
    chain_starts,
    default_generator,
)
from ebmstruct.inference.sampling.motion import Place, begin, chain_refusal, options_refusal, resume
from ebmstruct.inference.sampling.trajectories import Plan, Trajectories
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy, open_continuous


@dataclass(frozen=True)
class NUTS(MarkovSampler):
    """The no-U-turn sampler: Hamiltonian trajectories that end by themselves where they turn back.

    Step sizes and the scale of every coordinate are learnt during the warm-up; there is nothing to choose. Trees are
    grown by the multinomial scheme with the generalised criterion (Betancourt 2017), without recursion (Phan, Pradhan and
    Jankowiak 2019). Chains do not wait for each other: the energy and gradient of all of them are one torch call, after
    which each goes on in its own tree and, where that has ended, begins the next.

    chains: copies of the graph run side by side.  warm_up: draws of each that are dropped.
    draws: of each chain where marginals are asked; samples are as many as asked.
    max_depth: a trajectory has fewer than 2**max_depth steps; one that reaches this is cut there, which is correct but
    walks instead of travelling (the share of such draws is ``stats["deepest"]``).
    target_acceptance: what step sizes are learnt for; higher is safer and dearer.
    step_size: fixed where given.  adapt_mass: learn the scale of each coordinate.
    pooled: chains of an instance learn one inverse mass and keep the mean of their step sizes, else each its own.
    full_mass: the inverse mass is a matrix where chains are pooled, nothing is bounded, an instance has at most 256
    coordinates and the last window of the warm-up has 8 draws for each of them; else a variance for each coordinate.
    compiled: the gradient is a compiled program, as in ``Langevin``: for vectors without bounds.

    A rise of the Hamiltonian by more than 1000, or an energy that is not finite, is a divergence: the trajectory ends and
    is counted. At a bound a coordinate is reflected and its momentum turned round. A budget counts gradients of all
    chains; the draws made until it ends come back. As a MarkovSampler (``init``, ``step``, ``adapt``) all chains end a
    trajectory before one begins another, and each instance learns for itself; ``solve`` is quicker.
    Cost of a draw: a gradient a step, some ten in an easy energy, hundreds in a hard one.
    """

    name: ClassVar[str] = "nuts"

    chains: int = 4
    warm_up: int = 300
    draws: int = 1000
    max_depth: int = 10
    target_acceptance: float = 0.8
    step_size: float | None = None
    adapt_mass: bool = True
    pooled: bool = True
    full_mass: bool = True
    compiled: bool = False

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask not in (Ask.SAMPLE, Ask.MARGINALS):
            return f"it draws samples and takes means of them, and {query.ask} is asked"
        if query.factors:
            return f"it has no joint beliefs of factors, and those of {list(query.factors)} are asked"
        if not 1 <= self.max_depth <= 20 or not 0 < self.target_acceptance < 1 or self.draws < 1:
            return "max_depth must be from 1 to 20, target_acceptance between 0 and 1, and draws at least 1"
        reason = options_refusal(self.chains, self.warm_up, 1, step_size=self.step_size)
        if reason is not None:
            return reason.replace("burn_in", "warm_up")
        reason = chain_refusal(graph, replace(query, ask=Ask.SAMPLE), self.chains, adjusted=True)
        if reason is not None:
            return reason
        for block in open_continuous(graph):
            if not isinstance(block.domain, Real):
                return f"block {block.name!r} is of {block.domain}, and its trees need a vector space; take HMC"
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
        draws = self.draws if query.ask is Ask.MARGINALS else -(-query.num_samples // self.chains)
        if query.ask is Ask.MARGINALS:
            query = replace(query, num_samples=draws * self.chains)
        plan = self._plan(draws, query.temperature)
        with torch.enable_grad():  # once, not for each gradient
            rows, energy = self._rows(graph, init, generator)
            if self.compiled:
                rows = replace(rows, program=gradient_program(rows.smooth, rows.points(torch.from_numpy(rows.vector))))
            run = Trajectories.begin(rows, plan, energy, generator, budget)
            status = run.go(budget)
        samples = _samples(graph, query, run, status)
        return samples if query.ask is Ask.SAMPLE else _marginals(graph, samples)

    def init(self, graph: FactorGraph, y: Assignment | None, generator: Generator | None = None) -> ChainState:
        """The state before the first step: at ``y``; blocks that it does not name start scattered, at finite energies."""
        return begin(graph, y, generator)

    def step(
        self, graph: FactorGraph, state: ChainState, *, temperature: float, generator: Generator | None
    ) -> tuple[ChainState, ChainInfo]:
        state, info, _ = self._transition(graph, state, temperature, generator)
        return state, info

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
        state, info, vector = self._transition(graph, state, temperature, generator)
        place: Place = state.cache
        assert info.acceptance is not None
        learnt = place.learnt.after(vector, info.acceptance, at, of, self)
        return replace(state, cache=place._replace(learnt=learnt)), info

    def _transition(
        self, graph: FactorGraph, state: ChainState, temperature: float, generator: Generator | None
    ) -> tuple[ChainState, ChainInfo, Tensor]:
        """A trajectory of every instance; also the vector (N,) of where they end."""
        generator = default_generator(generator)
        with torch.enable_grad():
            place, point, energy = resume(graph, state)
            rows = ChainRows.of(place.motion.energy, point)
            given = place.learnt is not None or self.step_size is not None
            fixed = 1.0 if given and self.step_size is None else self.step_size
            plan = replace(self._plan(1, temperature), chains=1, warm_up=0, step_size=fixed, pooled=False)
            run = Trajectories.begin(rows, plan, energy, generator)
            learnt = place.learnt
            if learnt is None:
                learnt = Learnt.at(torch.from_numpy(run.state.learnt[:, 0]).exp(), rows.base.new_ones(rows.start[-1]))
            run.set_scales(learnt.step, learnt.variance)
            run.go(Budget())
        found, _ = run.collected(Status.CONVERGED)
        vector = torch.from_numpy(run.state.draws[0])
        smooth = place.motion.energy
        values = smooth.values(rows.points(vector.to(rows.base.device)))
        moved = found.energy[0, 0].to(state.energy)
        alive = energy.isfinite()
        info = ChainInfo(torch.where(alive, found.acceptance.to(energy.device), 0.0), found.divergences)
        cache = place._replace(steps=place.steps + 1, learnt=learnt)
        return ChainState(values, torch.where(alive, moved, energy), cache), info, vector

    def _plan(self, draws: int, temperature: float) -> Plan:
        return Plan(
            chains=self.chains,
            warm_up=self.warm_up,
            draws=draws,
            max_depth=self.max_depth,
            target_acceptance=self.target_acceptance,
            temperature=temperature,
            step_size=self.step_size,
            learn_mass=self.adapt_mass,
            pooled=self.pooled,
            full=self.full_mass,
            windows=windows(self.warm_up, self.chains if self.pooled else 1),
        )

    def _rows(self, graph: FactorGraph, init: Assignment | None, generator: Generator) -> tuple[ChainRows, Tensor]:
        """The chains' coordinates where they start, and (R,) energies; one at no finite energy starts with another."""
        copies = graph if self.chains == 1 else graph.repeat(self.chains)
        state = begin(copies, chain_starts(graph, init, self.chains), generator)
        smooth = state.cache.motion.energy
        point, energy = tuple(state.values[n] for n in smooth.names), state.energy
        return _among_the_living(smooth, point, energy, self.chains)


@dataclass(frozen=True, eq=False)
class Learnt:
    """What instances that step one trajectory at a time have learnt.

    averaging: of step sizes.  step: (R,) the step sizes to use.  variance: (N,) the inverse masses.  seen: this window's.
    """

    averaging: DualAveraging
    step: Tensor
    variance: Tensor
    seen: Spread

    @classmethod
    def at(cls, step: Tensor, variance: Tensor) -> Learnt:
        """The state before the first draw."""
        return cls(dual_averaging(step), step, variance, spread(variance.numel()))

    def after(self, draw: Tensor, acceptance: Tensor, at: int, of: int, sampler: NUTS) -> Learnt:
        """After draw number ``at`` (N,) of a warm-up of ``of``, with its acceptance probabilities (R,)."""
        plan, averaging, variance, known = windows(of), self.averaging, self.variance, self.seen
        if sampler.step_size is None:
            averaging = updated(averaging, acceptance.cpu(), target=sampler.target_acceptance)
        if sampler.adapt_mass and plan.ends and plan.first <= at < plan.ends[-1]:
            known = seen(known, draw[None])
            if at + 1 in plan.ends:
                variance, known = inverse_mass(known).to(variance), spread(variance.numel())
                averaging = replace(dual_averaging(averaging.average), pull=averaging.log_average)
        step = averaging.average if at + 1 == of else averaging.step
        return Learnt(averaging, step if sampler.step_size is None else self.step, variance, known)


def _among_the_living(smooth: SmoothEnergy, point: Point, energy: Tensor, chains: int) -> tuple[ChainRows, Tensor]:
    """The layout of a point in which every chain without a finite energy stands where one of its instance has it."""
    rows = ChainRows.of(smooth, point)
    fine = energy.isfinite().reshape(chains, -1)
    lost = (~fine & fine.any(0)).nonzero().tolist()
    if not lost:
        return rows, energy
    energy, vector, start = energy.clone(), torch.from_numpy(rows.vector), rows.start
    for chain, instance in lost:
        other = int(fine[:, instance].nonzero()[0]) * fine.shape[1] + instance
        own = chain * fine.shape[1] + instance
        vector[start[own] : start[own + 1]] = vector[start[other] : start[other + 1]]
        energy[own] = energy[other]
    return ChainRows.of(smooth, rows.points(vector.to(rows.base.device))), energy


def _samples(graph: FactorGraph, query: Query, run: Trajectories, status: Status) -> Samples:
    collected, done = run.collected(status)
    rounds, chains = collected.energy.shape[:2]
    order = torch.arange(query.num_samples) % (rounds * chains)
    total = collected.counts["hamiltonian"].flatten(0, 1)[order]
    stats: dict[str, Any] = {"hamiltonian": total, "gradients": run.evaluations, "rounds": done}
    samples = as_samples(graph, query, collected, NUTS.name, **stats)
    early = (done < run.plan.draws) & (samples.status <= int(status))
    finished = torch.where(samples.status == int(status), int(Status.CONVERGED), samples.status)
    return replace(samples, status=torch.where(early, int(status), finished))


def _marginals(graph: FactorGraph, samples: Samples) -> Marginals:
    """Means and covariances of the draws; what the means are worth is in ``stats["standard_error"]``."""
    means, covariances, errors = {}, {}, {}
    for block in open_continuous(graph):
        draws = samples.values[block.name].double()
        means[block.name] = draws.mean(0)
        apart = draws - means[block.name]
        covariances[block.name] = torch.einsum("sni,snj->nij", apart, apart) / max(1, draws.shape[0] - 1)
        errors[block.name] = mcse_mean(by_chain(samples, draws))
    stats = {
        **{k: v for k, v in samples.stats.items() if k != "hamiltonian"},
        "standard_error": errors,
        "warnings": samples.warnings,
    }
    unknown = torch.full((graph.num_instances,), -math.inf, dtype=torch.float64)
    return Marginals({}, unknown, False, samples.status, NUTS.name, stats=stats, means=means, covariances=covariances)

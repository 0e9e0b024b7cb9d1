"""The path from a simple density to exp(-E / temperature) for any energy over real and discrete variables."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph, Real
from ebmstruct.inference.annealed.annealed_path import AnnealedPath
from ebmstruct.inference.annealed.base_density import BaseDensity
from ebmstruct.inference.result import Budget
from ebmstruct.inference.sampling.tempered_moves import FlipSites
from ebmstruct.inference.sampling.walkers import Walkers
from ebmstruct.inference.smooth_energy import SmoothEnergy, clamped, constraint_labels, starting_point

TARGET = 0.8
"""Acceptance that steps are tuned to."""
WIDENED = 1.5
"""The normal base is so much wider than what a short run meets: its tails must cover the target's."""
SCOUTS, SCOUT_MOVES = 16, 40
"""Copies, and moves of three trajectories each, of that run."""


def energy_refusal(graph: FactorGraph) -> str | None:
    """Why a graph's energy has no path of densities that can be walked by gradients and flips; None if it has one."""
    for block in graph.variables.values():
        if not isinstance(block.domain, Discrete | Real) and not clamped(graph, block.name):
            return (
                f"block {block.name!r} is {block.domain}, and paths begin at densities of Discrete and Real ones only"
            )
    labels = constraint_labels(graph)
    if labels:
        return f"factor {labels[0]!r} is a constraint, and a density that jumps to zero cannot be walked by gradients"
    try:
        graph.repeat(1)
    except GraphError as fault:
        return f"its particles are copies of the graph, and that cannot be copied: {fault}"
    return None


@dataclass(eq=False)
class StepSizes:
    """Logarithms of step sizes (B,) found along the path, each with the points (B,) where it was found."""

    betas: list[Tensor]
    logs: list[Tensor]

    def at(self, beta: Tensor) -> Tensor:
        """(B,): in each instance the size found last before ``beta``."""
        place = ((torch.stack(self.betas) <= beta).sum(0) - 1).clamp(min=0)
        return torch.stack(self.logs).gather(0, place[None])[0].exp()


@dataclass(frozen=True, eq=False)
class Setting:
    """What a path is made from, the same for the pilot and the run; ``init``: values of real and of clamped blocks."""

    graph: FactorGraph
    temperature: float
    sweeps: int
    leapfrog_steps: int
    init: dict[str, Tensor]
    base: BaseDensity | None
    scales: tuple[Tensor, ...]
    steps: StepSizes
    generator: Generator

    @classmethod
    def of(
        cls,
        graph: FactorGraph,
        temperature: float,
        sweeps: int,
        leapfrog_steps: int,
        base_scale: float | None,
        init: Assignment | None,
        generator: Generator,
        budget: Budget,
    ) -> Setting:
        """The setting of a graph; the base density is found by a short run, unless its scale is given."""
        begin = starting_point(graph, init)
        smooth = SmoothEnergy.of(graph, begin)
        first = torch.full((graph.num_instances,), -0.7, dtype=torch.float64)
        steps = StepSizes([torch.zeros_like(first)], [first])
        setting = cls(graph, temperature, sweeps, leapfrog_steps, begin, None, (), steps, generator)
        if not smooth.names:
            return setting
        mean = [begin[name] for name in smooth.names]
        scale = [torch.full_like(m, 1.0 if base_scale is None else base_scale) for m in mean]
        setting = replace(setting, base=BaseDensity.of(smooth, mean, scale), scales=tuple(scale))
        return setting if base_scale is not None else _scouted(setting, smooth, budget)


@dataclass(eq=False)
class EnergyPath(AnnealedPath):
    """P particles as copies of a graph: trajectories of real variables, single flips of discrete ones.

    base: of the real blocks of all copies, or None.  acceptance: (B,) of each move.
    """

    setting: Setting
    particles: int
    walkers: Walkers
    base: BaseDensity | None
    acceptance: list[Tensor] = field(default_factory=list)

    @classmethod
    def begin(cls, setting: Setting, particles: int) -> EnergyPath:
        """Particles drawn from the base density, and uniformly from the states."""
        copies = setting.graph.repeat(particles)
        values = {k: v.repeat(particles, *[1] * (v.dim() - 1)) for k, v in setting.init.items()}
        values = copies.complete({**values, **FlipSites.of(copies).uniform(setting.generator)})
        base = None if setting.base is None else setting.base.repeat(particles)
        if base is not None:
            smooth = SmoothEnergy.of(copies, values)
            point = base.draw(smooth, [values[n] for n in smooth.names], setting.generator)
            values = {**values, **dict(zip(smooth.names, point, strict=True))}
        walkers = Walkers.begin(setting.graph, particles, values, setting.scales)
        return cls(setting, particles, walkers, base)

    @property
    def bad(self) -> Tensor:
        """(B,) bool: the instances in which a first energy was NaN or minus infinity."""
        return self.walkers.bad.reshape(self.particles, -1).any(0)

    @property
    def nowhere(self) -> Tensor:
        """(B,) bool: the instances in which every particle's energy is infinite: no allowed assignment was met."""
        energy = self.walkers.standing.energy.reshape(self.particles, -1)
        return torch.isposinf(energy).all(0) & ~self.bad

    @property
    def potential(self) -> Tensor:
        log_end = -self.walkers.standing.energy / self.setting.temperature
        if self.base is not None:
            log_end = log_end - self.base.log_density(self.walkers.smooth, self.walkers.standing.point)
        return log_end.reshape(self.particles, -1)

    @property
    def log_start(self) -> Tensor:
        """The log of the number of assignments of discrete sites; the base of real ones is normalised."""
        return self.walkers.sites.log_states.reshape(self.particles, -1)[0]

    def move(self, beta: Tensor, budget: Budget, *, tune: bool = False) -> None:
        setting = self.setting
        inverse = (beta / setting.temperature).repeat(self.particles)
        for _ in range(3 if tune else setting.sweeps):
            self.walkers.flips(inverse, budget, setting.generator)
            if self.base is None:
                continue
            jitter = 0.7 + 0.3 * torch.rand(beta.shape, dtype=torch.float64, generator=setting.generator)
            size, weight = setting.steps.at(beta), (1.0 - beta).repeat(self.particles)
            step = (size * jitter).repeat(self.particles)
            accepted = (
                self.walkers.walk(inverse, step, setting.leapfrog_steps, budget, setting.generator, self.base, weight)
                .reshape(self.particles, -1)
                .mean(0)
            )
            self.acceptance.append(accepted)
            if tune:
                setting.steps.betas.append(beta)
                setting.steps.logs.append(size.log() + (accepted - TARGET))

    def finish(self, log_weights: Tensor) -> Tensor:
        return log_weights

    @property
    def draws(self) -> dict[str, Tensor]:
        return {n: v.reshape(self.particles, -1, *v.shape[1:]) for n, v in self.walkers.values.items()}

    def expectations(self, weights: Tensor) -> dict[str, Any]:
        graph = self.setting.graph
        beliefs, means, covariances = {}, {}, {}
        for name, block in graph.variables.items():
            value = self.walkers.values[name]
            value = value.reshape(self.particles, block.num_sites, *value.shape[1:])
            own = weights[:, block.instance]
            if isinstance(block.domain, Discrete):
                width = torch.arange(max(1, block.discrete.largest))
                beliefs[name] = ((value[:, :, None] == width) * own[:, :, None]).sum(0)
            elif isinstance(block.domain, Real):
                value = value.double()
                means[name] = (own[:, :, None] * value).sum(0)
                apart = value - means[name]
                covariances[name] = torch.einsum("pn,pni,pnj->nij", own, apart, apart)
        return {"beliefs": beliefs, "means": means, "covariances": covariances}


def _scouted(setting: Setting, smooth: SmoothEnergy, budget: Budget) -> Setting:
    """The setting with a base density about what a few copies meet that walk at the end of the path."""
    graph = setting.graph
    path = EnergyPath.begin(setting, SCOUTS)
    end = torch.ones(graph.num_instances, dtype=torch.float64)
    sums = [(torch.zeros_like(s), torch.zeros_like(s), torch.zeros_like(s)) for s in setting.scales]
    for i in range(SCOUT_MOVES):
        if budget.expired:
            break
        path.move(end, budget, tune=True)
        if i < SCOUT_MOVES // 3:
            continue
        for j, x in enumerate(path.walkers.standing.point):
            rows = x.reshape(SCOUTS, *setting.scales[j].shape)
            count, first, second = sums[j]
            fine = rows.isfinite()
            rows = torch.where(fine, rows, 0.0)
            sums[j] = (count + fine.sum(0), first + rows.sum(0), second + (rows * rows).sum(0))
    mean, scale = [], []
    for (count, first, second), name, old in zip(sums, smooth.names, setting.scales, strict=True):
        m = first / count.clamp(min=1)
        s = (second / count.clamp(min=1) - m * m).clamp(min=0.0).sqrt()
        known = m.isfinite() & s.isfinite() & (s > 1e-8) & (count >= SCOUTS)
        mean.append(torch.where(known, m, setting.init[name]))
        scale.append(torch.where(known, s, old))
    first_log = torch.full((graph.num_instances,), -0.7, dtype=torch.float64)
    return replace(
        setting,
        base=BaseDensity.of(smooth, mean, [WIDENED * s for s in scale]),
        scales=tuple(scale),
        steps=StepSizes([torch.zeros_like(first_log)], [first_log]),
    )

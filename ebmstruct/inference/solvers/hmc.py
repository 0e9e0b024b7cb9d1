"""Hamiltonian Monte Carlo with trajectories of a fixed number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.hamiltonian import Here, draws, leapfrog, metropolis
from ebmstruct.inference.markov import ChainInfo, ChainState, default_generator
from ebmstruct.inference.motion import Motion, Place, chain_refusal, options_refusal, resume
from ebmstruct.inference.result import Query
from ebmstruct.inference.schedules import Schedule, schedule_refusal, value_at
from ebmstruct.inference.smooth_energy import open_continuous
from ebmstruct.inference.smooth_sampler import SmoothSampler


@dataclass(frozen=True, eq=False)
class HMC(SmoothSampler):
    """Hamiltonian Monte Carlo: momenta are drawn, ``leapfrog_steps`` steps follow the energy, a test takes or refuses.

    Draws follow exp(-E / temperature) exactly in the end, with bounds (a coordinate is reflected and its momentum turned
    round) and on manifolds (momenta in the body frame, against the Haar measure) too. Each instance is taken or refused
    by itself. Best is an acceptance of about 0.65 (Beskos et al. 2013), and trajectories half as long as the widest
    direction's period; ``NUTS`` finds both by itself.

    step_size: of a leapfrog step, a number or a schedule, in units of ``mass``'s scale.  leapfrog_steps: of a trajectory.
    jitter: each trajectory's step size is drawn from step_size * (1 +- jitter), which breaks periodic orbits.
    inverse_mass: block name to (t,) or (n, t), about the variance of each coordinate; blocks not named have 1.
    temperature: a factor, or a schedule of factors, on the query's temperature.
    chains: copies of the graph run side by side.  burn_in, thinning: in trajectories.
    A trajectory whose total energy rises by more than 1000 or is not finite counts as divergent.
    Cost of a step: ``leapfrog_steps`` gradients. Source: Duane et al. (1987); Neal (2011), section 3.
    """

    name: ClassVar[str] = "hmc"

    step_size: float | Schedule = 0.1
    leapfrog_steps: int = 10
    jitter: float = 0.0
    inverse_mass: Mapping[str, Tensor] | None = None
    temperature: float | Schedule = 1.0
    chains: int = 4
    burn_in: int = 200
    thinning: int = 1

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if self.leapfrog_steps < 1 or not 0 <= self.jitter < 1:
            return "leapfrog_steps must be at least 1, and jitter at least 0 and below 1"
        return (
            chain_refusal(graph, query, self.chains, adjusted=True)
            or schedule_refusal("step_size", self.step_size)
            or schedule_refusal("temperature", self.temperature)
            or options_refusal(self.chains, self.burn_in, self.thinning)
            or self._mass_refusal(graph)
        )

    def _mass_refusal(self, graph: FactorGraph) -> str | None:
        blocks = {block.name: block for block in open_continuous(graph)}
        for name, mass in (self.inverse_mass or {}).items():
            if name not in blocks:
                return f"inverse_mass names block {name!r}; the open continuous blocks are {list(blocks)}"
            block = blocks[name]
            size = block.domain.tangent_dim  # type: ignore[union-attr]
            if tuple(mass.shape) not in ((size,), (block.num_sites, size)) or not bool((mass > 0).all()):
                return (
                    f"inverse_mass of block {name!r} must be above 0, of shape ({size},) or ({block.num_sites}, {size}); "
                    f"found shape {tuple(mass.shape)}"
                )
        return None

    def walk(
        self,
        graph: FactorGraph,
        state: ChainState,
        *,
        burn_in: int,
        ahead: int,
        temperature: float,
        generator: Generator | None,
    ) -> Iterator[tuple[ChainState, ChainInfo]]:
        place, point, energy = resume(graph, state)
        motion, at, generator = place.motion, place.steps, default_generator(generator)
        here, values = Here(point, energy, place.gradient), motion.energy.values
        scale, block = self._scale(motion, here), motion.ahead(point, ahead)
        while True:
            sizes = 1.0 + self.jitter * (2.0 * torch.rand(block, generator=generator, dtype=torch.float64) - 1.0)
            for (momentum, allowance), factor in zip(
                draws(motion, here, generator, block), sizes.tolist(), strict=True
            ):
                warmth = temperature * value_at(self.temperature, at)
                size = factor * value_at(self.step_size, at)
                at += 1
                new, end = leapfrog(
                    motion, here, momentum, size=size, steps=self.leapfrog_steps, temperature=warmth, scale=scale
                )
                here, accepted, divergent, _ = metropolis(motion, here, new, end, allowance, warmth)
                cache = Place(motion, here.gradient, at, place.versions, place.learnt)
                yield ChainState(values(here.point), here.energy, cache), ChainInfo(accepted, divergent)

    def _scale(self, motion: Motion, here: Here) -> list[Tensor] | None:
        """For each block the roots of the inverse mass, repeated over the chains' copies; None for a mass of 1."""
        if not self.inverse_mass:
            return None
        out = []
        for name, x, g in zip(motion.energy.names, here.point, here.gradient, strict=True):
            mass = self.inverse_mass.get(name)
            root = torch.ones_like(g) if mass is None else mass.to(x).sqrt().expand(-1, g.shape[1])
            out.append(root if root.shape[0] in (1, x.shape[0]) else root.repeat(x.shape[0] // root.shape[0], 1))
        return out

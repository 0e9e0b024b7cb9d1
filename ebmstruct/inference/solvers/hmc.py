"""Hamiltonian Monte Carlo with trajectories of a fixed number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Query
from ebmstruct.inference.sampling.compiled_stretches import TOGETHER, leapfrog_program, leapfrog_stretch
from ebmstruct.inference.sampling.hamiltonian import Draw, draws, leapfrog
from ebmstruct.inference.sampling.motion import Here, Motion, chain_refusal, options_refusal
from ebmstruct.inference.sampling.schedules import Schedule, schedule_refusal, value_at
from ebmstruct.inference.sampling.smooth_sampler import SmoothSampler
from ebmstruct.inference.sampling.stretches import Stretch, adjusted
from ebmstruct.inference.smooth_energy import open_continuous


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
    compiled: trajectories are compiled, once for an energy and its shapes: ten seconds and more the first time on a
    machine, one in a later process. For vectors without bounds, else it changes nothing.
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
    compiled: bool = False

    @property
    def together(self) -> int:
        return max(1, TOGETHER // self.leapfrog_steps) if self.compiled else 1

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

    def randomness(self, motion: Motion, here: Here, generator: Generator, steps: int) -> Sequence[tuple[Draw, float]]:
        factors = 1.0 + self.jitter * (2.0 * torch.rand(steps, generator=generator, dtype=torch.float64) - 1.0)
        return list(zip(draws(motion, here, generator, steps), factors.tolist(), strict=True))

    def stretch(
        self,
        motion: Motion,
        here: Here,
        learnt: Any,
        randomness: Sequence[tuple[Draw, float]],
        at: int,
        temperature: float,
    ) -> tuple[Stretch, Any]:
        scale, steps, sizes = self._scale(motion, here), [], []
        for i, (draw, factor) in enumerate(randomness):
            warmth = temperature * value_at(self.temperature, at + i)
            size = factor * value_at(self.step_size, at + i)
            propose = partial(leapfrog, motion, size=size, steps=self.leapfrog_steps, temperature=warmth, scale=scale)
            steps.append((draw, propose))
            sizes.append((size, warmth))
        if not self.compiled or not motion.flat or len(steps) < self.together:
            return adjusted(motion, here, steps), learnt
        if learnt is None:
            learnt = leapfrog_program(motion, here, self.leapfrog_steps, scale is not None) or False
        if learnt is False:
            return adjusted(motion, here, steps), learnt
        return leapfrog_stretch(learnt, motion, here, steps, sizes, scale), learnt

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

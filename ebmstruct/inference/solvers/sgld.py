"""Stochastic gradient Langevin dynamics: Langevin steps that shrink, on energies of minibatches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Query
from ebmstruct.inference.sampling.motion import Here, Motion, chain_refusal, options_refusal
from ebmstruct.inference.sampling.schedules import Polynomial, Schedule, schedule_refusal, value_at
from ebmstruct.inference.sampling.smooth_sampler import SmoothSampler
from ebmstruct.inference.sampling.stretches import Stretch, unadjusted
from ebmstruct.inference.smooth_energy import Point, Step

SMOOTHING = 1e-5
"""Added to the root of the mean squared gradient, so that a flat direction does not make an endless step."""


FALLING = Polynomial(0.05, 1.0, 0.55)
"""The default schedule of steps."""


@dataclass(frozen=True)
class SGLD(SmoothSampler):
    """Langevin steps of a falling size; the gradient may be that of a minibatch (Welling and Teh 2011).

    x becomes x - e_t * gradient + sqrt(2 e_t T) * normal noise. For minibatches the caller gives each ``step`` a graph
    whose energy is an unbiased estimate of the whole one (``with_values``): the noise of the gradient then dies faster
    than the noise that is added. There is no test, so steps that stay large leave the bias of ``Langevin``; draws of
    small steps are more alike than those of large ones, and are not reweighted.

    step_size: a schedule or a number; the default falls as (1 + t)^-0.55, the slowest that still converges.
    preconditioned: each coordinate's step is divided by the root of its mean squared gradient, a mean over about
    1 / (1 - ``memory``) steps (Li et al. 2016, without their term of the derivative of the preconditioner, which leaves a
    bias of the order of 1 - ``memory``).
    temperature: a factor, or a schedule of factors, on the query's temperature.
    Bounds reflect; manifolds are moved on by ``retract``. A step to an energy that is not finite is not made.
    chains: copies of the graph run side by side.  burn_in, thinning: in steps.  Cost of a step: one gradient.
    """

    name: ClassVar[str] = "sgld"

    step_size: float | Schedule = FALLING
    preconditioned: bool = False
    memory: float = 0.99
    temperature: float | Schedule = 1.0
    chains: int = 4
    burn_in: int = 1000
    thinning: int = 10

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if not 0 <= self.memory < 1:
            return f"memory must be at least 0 and below 1; found {self.memory}"
        return (
            chain_refusal(graph, query, self.chains, adjusted=False)
            or schedule_refusal("step_size", self.step_size)
            or schedule_refusal("temperature", self.temperature)
            or options_refusal(self.chains, self.burn_in, self.thinning)
        )

    def randomness(self, motion: Motion, here: Here, generator: Generator, steps: int) -> Sequence[Step]:
        return motion.noise(here.point, generator, steps)

    def stretch(
        self, motion: Motion, here: Here, learnt: Any, randomness: Sequence[Step], at: int, temperature: float
    ) -> tuple[Stretch, Any]:
        squares: list[Step | None] = [learnt]

        def move(point: Point, gradient: Step, i: int) -> Point:
            size = value_at(self.step_size, at + i)
            spread = math.sqrt(2.0 * size * temperature * value_at(self.temperature, at + i))
            if not self.preconditioned:
                parts = zip(gradient, randomness[i], strict=True)
                return motion.moved(point, [torch.mul(z, spread).sub_(g, alpha=size) for g, z in parts])
            mean = self._squares(squares[i], gradient)
            squares[i + 1 :] = [mean]
            scales = [1.0 / (m.sqrt() + SMOOTHING) for m in mean]
            parts_scaled = zip(gradient, randomness[i], scales, strict=True)
            return motion.moved(point, [spread * s.sqrt() * z - size * s * g for g, z, s in parts_scaled])

        run = unadjusted(motion, here, len(randomness), move)
        return run, squares[-1]

    def _squares(self, mean: Step | None, gradient: Step) -> Step:
        """The running means of the squared gradients, with those of this step."""
        if mean is None:
            return tuple(g.square() for g in gradient)
        return tuple(m.lerp(g.square(), 1.0 - self.memory) for m, g in zip(mean, gradient, strict=True))

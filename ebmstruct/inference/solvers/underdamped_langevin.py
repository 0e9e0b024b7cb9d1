"""Underdamped Langevin dynamics: particles with momentum, friction and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Query
from ebmstruct.inference.sampling.motion import Here, Motion, chain_refusal, options_refusal
from ebmstruct.inference.sampling.schedules import Schedule, schedule_refusal, value_at
from ebmstruct.inference.sampling.smooth_sampler import SmoothSampler
from ebmstruct.inference.sampling.stretches import Stretch, unadjusted
from ebmstruct.inference.smooth_energy import Point, Step


@dataclass(frozen=True)
class UnderdampedLangevin(SmoothSampler):
    """Kinetic Langevin dynamics by the splitting BAOAB (Leimkuhler and Matthews 2013).

    Each step kicks the momentum by the gradient, drifts half a step, lets friction and noise act exactly on the momentum
    (p becomes c p + sqrt((1 - c^2) T) * normal noise, c = exp(-friction * step_size)), and drifts the other half. Momentum
    carries a chain across flat stretches that plain Langevin dynamics must diffuse through. Nothing is refused, so a bias
    of order step_size^2 stays; on a Gaussian the positions have none, for steps below 2 / sqrt(curvature).

    step_size: a number or a schedule.  friction: per unit of time; small travels far, large is ``Langevin``.
    temperature: a factor, or a schedule of factors, on the query's temperature.
    Momenta begin at rest. Bounds reflect and turn the momentum round; on manifolds it is that of the body.
    A step to an energy that is not finite is not made, and counts as divergent.
    chains: copies of the graph run side by side.  burn_in, thinning: in steps.  Cost of a step: one gradient.
    """

    name: ClassVar[str] = "underdamped_langevin"

    step_size: float | Schedule = 0.1
    friction: float = 1.0
    temperature: float | Schedule = 1.0
    chains: int = 4
    burn_in: int = 1000
    thinning: int = 10

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return (
            chain_refusal(graph, query, self.chains, adjusted=False)
            or schedule_refusal("step_size", self.step_size)
            or schedule_refusal("temperature", self.temperature)
            or options_refusal(self.chains, self.burn_in, self.thinning, friction=self.friction)
        )

    def randomness(self, motion: Motion, here: Here, generator: Generator, steps: int) -> Sequence[Step]:
        return motion.noise(here.point, generator, steps)

    def stretch(
        self, motion: Motion, here: Here, learnt: Any, randomness: Sequence[Step], at: int, temperature: float
    ) -> tuple[Stretch, Any]:
        start = tuple(torch.zeros_like(g) for g in here.gradient) if learnt is None else learnt
        momenta: list[Sequence[Tensor]] = [start]

        def move(point: Point, gradient: Step, i: int) -> Point:
            size = value_at(self.step_size, at + i)
            warmth = temperature * value_at(self.temperature, at + i)
            keep = math.exp(-self.friction * size)
            spread = math.sqrt((1.0 - keep * keep) * warmth)
            # the kick that ends one step and the kick that begins the next are made together
            velocity: Sequence[Tensor] = [
                torch.add(p, g, alpha=-size) for p, g in zip(momenta[i], gradient, strict=True)
            ]
            point, velocity = motion.drift(point, velocity, 0.5 * size)
            velocity = [torch.mul(p, keep).add_(z, alpha=spread) for p, z in zip(velocity, randomness[i], strict=True)]
            point, velocity = motion.drift(point, velocity, 0.5 * size)
            momenta[i + 1 :] = [velocity]
            return point

        run = unadjusted(motion, here, len(randomness), move)
        return run, momenta[-1]

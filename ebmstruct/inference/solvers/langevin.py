"""Unadjusted Langevin dynamics: gradient descent with noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph, Real
from ebmstruct.inference.result import Query
from ebmstruct.inference.sampling.compiled_stretches import TOGETHER, langevin_program, langevin_stretch
from ebmstruct.inference.sampling.motion import Here, Motion, chain_refusal, options_refusal
from ebmstruct.inference.sampling.restarts import Restarts
from ebmstruct.inference.sampling.schedules import Schedule, schedule_refusal, value_at
from ebmstruct.inference.sampling.smooth_sampler import SmoothSampler
from ebmstruct.inference.sampling.stretches import Move, Stretch, unadjusted
from ebmstruct.inference.smooth_energy import Point, Step


@dataclass(frozen=True)
class Langevin(SmoothSampler):
    """The unadjusted Langevin algorithm (ULA): x becomes x - step_size * gradient + noise_scale * normal noise.

    With noise_scale None the noise is sqrt(2 * step_size * temperature), so that for small steps the draws follow
    exp(-E / temperature). Nothing is refused, so a bias stays: on a Gaussian of curvature c the variance is
    temperature / (c * (1 - step_size * c / 2)), and above a step of 2 / c the chain explodes. ``MALA`` has no bias.

    step_size: a number or a schedule.  noise_scale: the noise's own standard deviation, as energy-based models are
    often trained (Du and Mordatch 2019): then the temperature only scales the noise by its root, and nothing is exact.
    temperature: a factor, or a schedule of factors, on the query's temperature: annealing.
    clip_gradient: every coordinate of the gradient is cut to this size.  clip_step: the same of the whole step.
    clip_sample: every coordinate is kept between -clip_sample and clip_sample, after each step.
    restart_every, restart_scale: every so many steps, and before the first, each instance is offered a fresh start, which
    a Metropolis test takes or refuses (``Restarts``): for densities of few coordinates with several valleys.
    Bounds reflect; manifolds are moved on by ``retract``, with noise in the step's coordinates.
    chains: copies of the graph run side by side.  burn_in, thinning: in steps.
    compiled: steps are compiled ten at a time, once for an energy and its shapes (``sampling/compiled.py``): ten seconds
    and more the first time on a machine, one in a later process. Without bounds and manifolds; else it does nothing.
    A step to where the energy is not finite is not made, and counts as divergent.
    Cost of a step: one gradient. Source: Roberts and Tweedie (1996).
    """

    name: ClassVar[str] = "langevin"

    step_size: float | Schedule = 0.01
    noise_scale: float | None = None
    temperature: float | Schedule = 1.0
    clip_gradient: float | None = None
    clip_step: float | None = None
    clip_sample: float | None = None
    restart_every: int | None = None
    restart_scale: float = 1.0
    chains: int = 4
    burn_in: int = 1000
    thinning: int = 10
    compiled: bool = False

    @property
    def together(self) -> int:
        return TOGETHER if self.compiled else 1

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if self.compiled and (self.clips or self.restarts is not None):
            return (
                "compiled steps are not clipped and have no fresh starts; leave out clip_gradient, clip_step, clip_sample "
                "and restart_every, or compiled"
            )
        return (
            chain_refusal(graph, query, self.chains, adjusted=False)
            or schedule_refusal("step_size", self.step_size)
            or schedule_refusal("temperature", self.temperature)
            or options_refusal(
                self.chains, self.burn_in, self.thinning, clip_gradient=self.clip_gradient, clip_step=self.clip_step,
                clip_sample=self.clip_sample,
            )
            or (None if self.restarts is None else self.restarts.refuse(graph))
        )  # fmt: skip

    @property
    def clips(self) -> bool:
        """Whether anything is cut to size."""
        return not self.clip_gradient is self.clip_step is self.clip_sample is None

    @property
    def restarts(self) -> Restarts | None:
        """The fresh starts, where there are any."""
        return None if self.restart_every is None else Restarts(self.restart_every, self.restart_scale)

    def randomness(self, motion: Motion, here: Here, generator: Generator, steps: int) -> Sequence[Any]:
        noise = motion.noise(here.point, generator, steps)
        return noise if self.restarts is None else self.restarts.offers(motion, here.point, generator, noise)

    def stretch(
        self, motion: Motion, here: Here, learnt: Any, randomness: Sequence[Any], at: int, temperature: float
    ) -> tuple[Stretch, Any]:
        rates = [self._rates(at + i, temperature) for i in range(len(randomness))]
        if self.restarts is not None:

            def warmth(step: int) -> float:
                return temperature * value_at(self.temperature, step)

            def run(here: Here, noise: Sequence[Step], first: int) -> Stretch:
                return unadjusted(motion, here, len(noise), self._move(motion, here, noise, rates[first:]))

            return self.restarts.between(motion, here, randomness, at, warmth, run), learnt
        move = self._move(motion, here, randomness, rates)
        if not self.compiled or not motion.flat or len(randomness) < self.together:
            return unadjusted(motion, here, len(randomness), move), learnt
        if learnt is None:
            learnt = langevin_program(motion, here) or False
        if learnt is False:
            return unadjusted(motion, here, len(randomness), move), learnt
        return langevin_stretch(learnt, motion, here, randomness, rates, move), learnt

    def _move(self, motion: Motion, here: Here, noise: Sequence[Step], rates: Sequence[tuple[float, float]]) -> Move:
        """Where each step of a stretch leads."""
        if not motion.flat or self.clips:

            def move(point: Point, gradient: Step, i: int) -> Point:
                return self._moved(motion, point, gradient, noise[i], rates[i])

        elif len(here.point) == 1:

            def move(point: Point, gradient: Step, i: int) -> Point:
                rate, scale = rates[i]
                return (torch.add(point[0], gradient[0], alpha=-rate).add_(noise[i][0], alpha=scale),)

        else:

            def move(point: Point, gradient: Step, i: int) -> Point:
                rate, scale = rates[i]
                parts = zip(point, gradient, noise[i], strict=True)
                return tuple([torch.add(x, g, alpha=-rate).add_(z, alpha=scale) for x, g, z in parts])

        return move

    def _rates(self, at: int, temperature: float) -> tuple[float, float]:
        """The step size and the standard deviation of the noise at a step."""
        rate = value_at(self.step_size, at)
        warmth = temperature * value_at(self.temperature, at)
        scale = math.sqrt(2.0 * rate * warmth) if self.noise_scale is None else self.noise_scale * math.sqrt(warmth)
        return rate, scale

    def _moved(self, motion: Motion, point: Point, gradient: Step, noise: Step, rates: tuple[float, float]) -> Point:
        rate, scale = rates
        if self.clip_gradient is not None:
            gradient = tuple(g.clamp(-self.clip_gradient, self.clip_gradient) for g in gradient)
        steps = [torch.mul(z, scale).sub_(g, alpha=rate) for g, z in zip(gradient, noise, strict=True)]
        if self.clip_step is not None:
            steps = [s.clamp_(-self.clip_step, self.clip_step) for s in steps]
        moved = motion.moved(point, steps)
        if self.clip_sample is None:
            return moved
        return clipped(motion, moved, self.clip_sample)


def clipped(motion: Motion, point: Point, size: float) -> Point:
    """The coordinates of blocks of ``Real`` cut to [-size, size]; clamped sites stay where they are."""
    parts = zip(point, motion.energy.domains, motion.energy.moving, strict=True)
    return tuple(_cut(x, moving, size) if isinstance(domain, Real) else x for x, domain, moving in parts)


def _cut(x: Tensor, moving: Tensor | None, size: float) -> Tensor:
    y = x.clamp(-size, size)
    return y if moving is None else torch.where(moving, y, x)

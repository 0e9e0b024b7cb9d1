"""Unadjusted Langevin dynamics: gradient descent with noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.markov import NOTHING_TO_TELL, ChainInfo, ChainState, default_generator
from ebmstruct.inference.motion import Motion, Place, chain_refusal, options_refusal, resume, unharmed
from ebmstruct.inference.result import Query
from ebmstruct.inference.schedules import Schedule, schedule_refusal, value_at
from ebmstruct.inference.smooth_energy import Point, Step
from ebmstruct.inference.smooth_sampler import SmoothSampler


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
    Bounds reflect; manifolds are moved on by ``retract``, with noise in the step's coordinates.
    chains: copies of the graph run side by side.  burn_in, thinning: in steps.
    A step to where the energy is not finite is not made, and counts as divergent.
    Cost of a step: one gradient. Source: Roberts and Tweedie (1996).
    """

    name: ClassVar[str] = "langevin"

    step_size: float | Schedule = 0.01
    noise_scale: float | None = None
    temperature: float | Schedule = 1.0
    clip_gradient: float | None = None
    clip_step: float | None = None
    chains: int = 4
    burn_in: int = 1000
    thinning: int = 10

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return (
            chain_refusal(graph, query, self.chains, adjusted=False)
            or schedule_refusal("step_size", self.step_size)
            or schedule_refusal("temperature", self.temperature)
            or options_refusal(
                self.chains, self.burn_in, self.thinning, clip_gradient=self.clip_gradient, clip_step=self.clip_step
            )
        )

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
        motion, gradient, at, learnt = place.motion, place.gradient, place.steps, place.learnt
        smooth, generator = motion.energy, default_generator(generator)
        block = motion.ahead(point, ahead)
        while True:
            for noise in motion.noise(point, generator, block):
                rate, scale = self._rates(at, temperature)
                new = self._moved(motion, point, gradient, noise, rate, scale)
                found = smooth.with_gradient(new)
                at += 1
                info = NOTHING_TO_TELL
                if motion.finite(found[0]):
                    point, (energy, gradient) = new, found
                else:
                    point, energy, gradient, bad = unharmed(motion, point, energy, gradient, (new, *found))
                    info = ChainInfo(divergent=bad)
                cache = Place(motion, gradient, at, place.versions, learnt)
                yield ChainState(smooth.values(point), energy, cache), info

    def _rates(self, at: int, temperature: float) -> tuple[float, float]:
        """The step size and the standard deviation of the noise at a step."""
        rate = value_at(self.step_size, at)
        warmth = temperature * value_at(self.temperature, at)
        scale = math.sqrt(2.0 * rate * warmth) if self.noise_scale is None else self.noise_scale * math.sqrt(warmth)
        return rate, scale

    def _moved(
        self, motion: Motion, point: Point, gradient: Step, noise: Sequence[Tensor], rate: float, scale: float
    ) -> Point:
        if self.clip_gradient is not None:
            gradient = tuple(g.clamp(-self.clip_gradient, self.clip_gradient) for g in gradient)
        if motion.flat and self.clip_step is None:
            return tuple(
                [
                    torch.add(x, g, alpha=-rate).add_(z, alpha=scale)
                    for x, g, z in zip(point, gradient, noise, strict=True)
                ]
            )
        steps = [torch.mul(z, scale).sub_(g, alpha=rate) for g, z in zip(gradient, noise, strict=True)]
        if self.clip_step is not None:
            steps = [s.clamp_(-self.clip_step, self.clip_step) for s in steps]
        return motion.moved(point, steps)

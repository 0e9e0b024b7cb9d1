"""The Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Generator

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Query
from ebmstruct.inference.sampling.compiled_stretches import TOGETHER, leapfrog_program, leapfrog_stretch
from ebmstruct.inference.sampling.hamiltonian import Draw, draws, leapfrog
from ebmstruct.inference.sampling.motion import Here, Motion, chain_refusal, options_refusal
from ebmstruct.inference.sampling.restarts import Restarts
from ebmstruct.inference.sampling.schedules import Schedule, schedule_refusal, value_at
from ebmstruct.inference.sampling.smooth_sampler import SmoothSampler
from ebmstruct.inference.sampling.stretches import Proposal, Stretch, adjusted


@dataclass(frozen=True)
class MALA(SmoothSampler):
    """Langevin steps, each taken or refused by a Metropolis test: draws follow exp(-E / temperature) exactly in the end.

    A proposal is x - step_size * gradient + sqrt(2 * step_size * temperature) * normal noise, computed as one leapfrog
    step of length sqrt(2 * step_size * temperature), which is the same where space is flat; so it stays exact with
    bounds (a coordinate is reflected and its momentum turned round) and on manifolds (momenta in the body frame,
    against the Haar measure). Each instance is taken or refused by itself. Take the step so that 0.4 to 0.8 of the
    proposals are accepted; best is 0.574 in high dimensions (Roberts and Rosenthal 1998).

    step_size: a number or a schedule.  temperature: a factor, or a schedule of factors, on the query's temperature.
    restart_every, restart_scale: every so many steps, and before the first, each instance is offered a fresh start, as in
    ``Langevin``.
    chains: copies of the graph run side by side.  burn_in, thinning: in steps.
    compiled: steps are compiled ten at a time, as in ``Langevin``.
    Constraints that are inequalities refuse proposals; an energy that is not finite does, and counts as divergent.
    Cost of a step: one gradient. Source: Roberts and Tweedie (1996).
    """

    name: ClassVar[str] = "mala"

    step_size: float | Schedule = 0.01
    temperature: float | Schedule = 1.0
    restart_every: int | None = None
    restart_scale: float = 1.0
    chains: int = 4
    burn_in: int = 1000
    thinning: int = 10
    compiled: bool = False

    @property
    def together(self) -> int:
        return TOGETHER if self.compiled else 1

    @property
    def restarts(self) -> Restarts | None:
        """The fresh starts, where there are any."""
        return None if self.restart_every is None else Restarts(self.restart_every, self.restart_scale)

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if self.compiled and self.restarts is not None:
            return "compiled steps have no fresh starts; leave out restart_every, or compiled"
        return (
            chain_refusal(graph, query, self.chains, adjusted=True)
            or schedule_refusal("step_size", self.step_size)
            or schedule_refusal("temperature", self.temperature)
            or options_refusal(self.chains, self.burn_in, self.thinning)
            or (None if self.restarts is None else self.restarts.refuse(graph))
        )

    def randomness(self, motion: Motion, here: Here, generator: Generator, steps: int) -> Sequence[Any]:
        own = draws(motion, here, generator, steps)
        return own if self.restarts is None else self.restarts.offers(motion, here.point, generator, own)

    def stretch(
        self, motion: Motion, here: Here, learnt: Any, randomness: Sequence[Any], at: int, temperature: float
    ) -> tuple[Stretch, Any]:
        if self.restarts is not None:

            def run(here: Here, own: Sequence[Draw], first: int) -> Stretch:
                return adjusted(
                    motion, here, [(d, self._proposal(motion, at + first + i, temperature)) for i, d in enumerate(own)]
                )

            def warmth(step: int) -> float:
                return self._size(step, temperature)[1]

            return self.restarts.between(motion, here, randomness, at, warmth, run), learnt
        steps = [(draw, self._proposal(motion, at + i, temperature)) for i, draw in enumerate(randomness)]
        if not self.compiled or not motion.flat or len(steps) < self.together:
            return adjusted(motion, here, steps), learnt
        if learnt is None:
            learnt = leapfrog_program(motion, here, 1, False) or False
        if learnt is False:
            return adjusted(motion, here, steps), learnt
        sizes = [self._size(at + i, temperature) for i in range(len(steps))]
        return leapfrog_stretch(learnt, motion, here, steps, sizes, None), learnt

    def _size(self, at: int, temperature: float) -> tuple[float, float]:
        """The leapfrog step and the temperature at a step."""
        warmth = temperature * value_at(self.temperature, at)
        return math.sqrt(2.0 * value_at(self.step_size, at) * warmth), warmth

    def _proposal(self, motion: Motion, at: int, temperature: float) -> Proposal:
        size, warmth = self._size(at, temperature)
        return partial(leapfrog, motion, size=size, steps=1, temperature=warmth)

"""Samplers of continuous blocks by gradients: the part that all of them share."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Answer, Budget, Query
from ebmstruct.inference.sampling.markov import (
    NOTHING_TO_TELL,
    ChainInfo,
    ChainState,
    MarkovSampler,
    Path,
    as_samples,
    default_generator,
    run_chains,
)
from ebmstruct.inference.sampling.motion import Here, Motion, Place, begin, resume
from ebmstruct.inference.sampling.stretches import Stretch

PATIENCE = 2e-3
"""Seconds that a stretch of steps may take, so that a deadline is met."""


class SmoothSampler(MarkovSampler):
    """A chain over a graph's open continuous blocks; a subclass gives ``randomness`` and ``stretch``.

    Samples of a batch agree with those of its instances one by one in distribution, not draw by draw: all instances
    share one generator.
    """

    chains: int
    burn_in: int
    thinning: int

    @property
    def together(self) -> int:
        """How many steps a stretch is best a multiple of."""
        return 1

    @abstractmethod
    def randomness(self, motion: Motion, here: Here, generator: Generator, steps: int) -> Sequence[Any]:
        """What ``steps`` steps need of the generator, step by step."""

    @abstractmethod
    def stretch(
        self, motion: Motion, here: Here, learnt: Any, randomness: Sequence[Any], at: int, temperature: float
    ) -> tuple[Stretch, Any]:
        """Steps number ``at`` and following, one for each entry of ``randomness``, and what is learnt after them."""

    def init(self, graph: FactorGraph, y: Assignment | None, generator: Generator | None = None) -> ChainState:
        """The state before the first step: at ``y``; blocks that it does not name start scattered, at finite energies."""
        return begin(graph, y, generator)

    def step(
        self, graph: FactorGraph, state: ChainState, *, temperature: float, generator: Generator | None
    ) -> tuple[ChainState, ChainInfo]:
        """One step."""
        return next(self.walk(graph, state, burn_in=0, ahead=1, temperature=temperature, generator=generator))

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
        """Stretches of steps without end, each a few milliseconds long at most; see ``MarkovSampler.walk``."""
        place, point, energy = resume(graph, state)
        motion, at, learnt = place.motion, place.steps, place.learnt
        here, generator = Here(point, energy, place.gradient), default_generator(generator)
        unit = self.together if motion.flat else 1
        block, until, pace = _multiple(motion.ahead(point, ahead), unit), at + ahead, 1
        while True:
            noise = self.randomness(motion, here, generator, block)
            done = 0
            while done < block:
                part = noise[done : done + max(1, min(_multiple(pace, unit), until - at))]
                begun = time.monotonic()
                run, learnt = self.stretch(motion, here, learnt, part, at, temperature)
                pace = _pace(time.monotonic() - begun, len(part))
                here, at, done = run.here, at + len(part), done + len(part)
                cache = Place(motion, here.gradient, at, place.versions, learnt)
                yield ChainState(motion.energy.values(here.point), here.energy, cache), _info(motion, run)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        with torch.enable_grad():  # once, not for each gradient; what the chains keep needs none
            collected = run_chains(
                self,
                graph,
                query,
                chains=self.chains,
                burn_in=self.burn_in,
                thinning=self.thinning,
                init=init,
                budget=budget,
                generator=default_generator(generator),
            )
        return as_samples(graph, query, collected, self.name)


def _multiple(count: int, unit: int) -> int:
    """The count as a multiple of ``unit``, at least one of it."""
    return max(unit, count - count % unit)


def _pace(seconds: float, steps: int) -> int:
    """How many steps to do together next."""
    return max(1, min(2 * steps, int(PATIENCE * steps / max(seconds, 1e-9))))


def _info(motion: Motion, run: Stretch) -> ChainInfo:
    if len(run.energies) == 1:
        nothing = run.acceptance is None and run.divergent is None
        return NOTHING_TO_TELL if nothing else ChainInfo(run.acceptance, run.divergent)
    values = dict(zip(motion.energy.names, map(list, zip(*run.points, strict=True)), strict=True))
    return ChainInfo(run.acceptance, run.divergent, path=Path(values, run.energies), steps=len(run.energies))

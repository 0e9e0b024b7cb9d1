"""Samplers of continuous blocks by gradients: the part that all of them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.markov import (
    ChainInfo,
    ChainState,
    MarkovSampler,
    as_samples,
    default_generator,
    run_chains,
)
from ebmstruct.inference.motion import begin
from ebmstruct.inference.result import Answer, Budget, Query


class SmoothSampler(MarkovSampler):
    """A chain over a graph's open continuous blocks that is told by ``walk``; fields as the samplers name them."""

    chains: int
    burn_in: int
    thinning: int

    def init(self, graph: FactorGraph, y: Assignment | None, generator: Generator | None = None) -> ChainState:
        """The state before the first step: at ``y``; blocks that it does not name start scattered, at finite energies."""
        return begin(graph, y, generator)

    def step(
        self, graph: FactorGraph, state: ChainState, *, temperature: float, generator: Generator | None
    ) -> tuple[ChainState, ChainInfo]:
        return next(self.walk(graph, state, burn_in=0, ahead=1, temperature=temperature, generator=generator))

    @abstractmethod
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
        """One state after another, without end; see ``MarkovSampler.walk``."""

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
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

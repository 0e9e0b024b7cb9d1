"""Draws of the discrete blocks of a mixed graph given its continuous ones: jointly where tables allow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph, tabulate
from ebmstruct.graph.tabulation import tabulation_refusal
from ebmstruct.inference.result import Ask, Query, Samples, Status
from ebmstruct.inference.sampling.markov import ChainState, MarkovSampler
from ebmstruct.inference.sampling.tempered_moves import FlipSites, flip
from ebmstruct.inference.solver import Solver

QUICK = 1e5
"""Elementary operations of an exact draw, for each discrete site, up to which it is worth its time."""


@dataclass(frozen=True, eq=False)
class StateDraws:
    """How the discrete blocks of a graph are drawn; decided once a run.

    solver: draws all states given the points together and exactly, or one sweep of Gibbs sampling over the tables; None
    where there are no tables: then each site is offered another state now and then (Metropolis).
    """

    graph: FactorGraph
    solver: Solver | None
    sites: FlipSites

    @property
    def kind(self) -> str:
        """What is done, in a word."""
        if self.solver is None:
            return "flips"
        return "sweep" if isinstance(self.solver, MarkovSampler) else "joint"

    @classmethod
    def of(cls, graph: FactorGraph, values: Mapping[str, Tensor], *, joint: bool) -> StateDraws:
        """The way of a graph; ``values`` of any finite point tell whether its tables can be drawn from exactly."""
        from ebmstruct.inference.solvers import SOLVERS

        sites = FlipSites.of(graph)
        if tabulation_refusal(graph) is not None:
            return cls(graph, None, sites)
        tables = tabulate(graph, {n: v for n, v in values.items() if n not in sites.names})
        query = Query(Ask.SAMPLE)
        for name in ("variable_elimination", "junction_tree") if joint else ():
            solver = SOLVERS[name]()
            if solver.refuse(tables, query) is None:
                cost = solver.cost(tables, query)
                if cost is None or cost.operations <= QUICK * max(
                    1, sum(tables.variables[n].num_sites for n in sites.names)
                ):
                    return cls(graph, solver, sites)
        gibbs = SOLVERS["gibbs"]()
        return cls(graph, gibbs if gibbs.refuse(tables, query) is None else None, sites)

    def drawn(
        self, values: Mapping[str, Tensor], energy: Tensor, temperature: float, generator: Generator
    ) -> dict[str, Tensor]:
        """Values of all blocks with the discrete ones drawn anew; energy: (B,) at ``values``."""
        if self.solver is None:
            return self._flipped(dict(values), energy, temperature, generator)
        states = {n: values[n] for n in self.sites.names}
        tables = tabulate(self.graph, {n: v for n, v in values.items() if n not in states})
        if isinstance(self.solver, MarkovSampler):
            state = ChainState(states, energy)
            state, _ = self.solver.step(tables, state, temperature=temperature, generator=generator)
            return {**values, **state.values}
        query = Query(Ask.SAMPLE, temperature=temperature)
        answer = self.solver.solve(tables, query, generator=generator)
        assert isinstance(answer, Samples)
        fine = answer.status <= int(Status.CONVERGED)
        fresh = {}
        for name, old in states.items():
            mask = fine[self.graph.variables[name].instance]
            fresh[name] = torch.where(mask, answer.values[name][0], old)
        return {**values, **fresh}

    def _flipped(
        self, values: dict[str, Tensor], energy: Tensor, temperature: float, generator: Generator
    ) -> dict[str, Tensor]:
        inverse = torch.full((self.graph.num_instances,), 1.0 / temperature, dtype=torch.float64)
        energy = energy.double()
        for _ in range(self.sites.longest):
            values, energy = flip(self.graph, self.sites, values, energy, inverse=inverse, generator=generator)
        return values

"""Exact answers about sets whose sites are independent but for an energy of how many are in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.counting import counted, counting_refusal, drawn, least, marginal_chances
from ebmstruct.inference.result import Answer, Ask, Budget, Claim, Marginals, Query, Result, Samples, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.solver import Cost, Solver


@dataclass(frozen=True)
class Cardinality(Solver):
    """Minimum, log partition, marginals and draws of one block of two states: a row a site, and ``CountFactor``s.

    The minimum of each count is its best sites, by sorting. Sums over all 2^n sets need only the chances of each count
    under independent sites, a product of n polynomials; marginals are its gradient; draws go backwards through the
    counts of beginnings (Gail, Lubin and Rubinstein 1981; Tarlow, Swersky, Zemel, Adams and Frey 2012). All exact, in
    float64; chances of counts below 1e-300 are lost.
    Cost: O(n K) for tables of K counts, the last for all larger ones; draws O(n (K + S)).
    """

    name: ClassVar[str] = "cardinality"

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.sum_out:
            return "all its sites are one block, and summing it out leaves nothing to minimise"
        if query.k > 1:
            return f"it finds one minimum, not the {query.k} best"
        if query.factors:
            return "it has no joint beliefs of factors"
        return counting_refusal(graph)

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        table = counted(graph).table
        (block,) = graph.variables.values()
        return Cost(50.0 * block.num_sites * table.shape[1], table.shape[1])

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        return counted(graph).log_partition(temperature)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        found = counted(graph)
        name, t = found.block.name, query.temperature
        if query.ask is Ask.MINIMIZE:
            states, energy = least(found)
            status = _status(energy, Status.CONVERGED)
            return Result(Assignment({name: states}), energy, energy, status, self.name, witness=Claim(self.name))
        chance, log_z = marginal_chances(found, t)
        status = _status(-log_z, Status.OPTIMAL)
        if query.ask is Ask.SAMPLE:
            draws = drawn(found, t, query.num_samples, default_generator(generator))
            energy = torch.stack([graph.energy({name: y}) for y in draws])
            return Samples({name: draws}, energy, True, status, self.name)
        beliefs = torch.stack([1 - chance, chance], dim=1)
        beliefs = beliefs.masked_fill(torch.isneginf(log_z)[found.block.instance][:, None], 0.0)
        return Marginals({name: beliefs}, log_z, True, status, self.name)


def _status(energy: Tensor, good: Status) -> Tensor:
    """(B,) long: INFEASIBLE where the energy is infinite, NONFINITE where it is no number."""
    status = torch.full(energy.shape, int(good), dtype=torch.long, device=energy.device)
    status = status.masked_fill(torch.isposinf(energy), int(Status.INFEASIBLE))
    return status.masked_fill(energy.isnan() | torch.isneginf(energy), int(Status.NONFINITE))

"""Sets of labels by a threshold on their marginals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import FactorGraph, Variables
from ebmstruct.inference.label_sets import SetDecoder, believed, beside, feasible, set_block, trusted
from ebmstruct.inference.result import Answer, Budget, Query, Result

UNTUNED = 0.5
"""The threshold where none is given and nobody has tuned one."""


@dataclass(frozen=True)
class Threshold(SetDecoder):
    """The labels whose marginal probability is at least a threshold, and never fewer than the most probable ones.

    It answers the query ``minimize`` with a set, a block of two states a site of which state 1 is "in". At 0.5 the set
    has the least expected number of wrong labels; where F1 counts, lower thresholds are better, and the best one lies
    between 0 and 0.5 (Lipton, Elkan and Narayanaswamy 2014).

    value: the threshold; None for the one that the task has tuned on dev examples (``Task.tune``), 0.5 without one.
    at_least: labels that a set has at least, the most probable ones; None for what the task knows of its sets, 0 where
    nobody does.
    samples: 0 takes marginals; above 0, the shares of so many draws.
    inner: the solver of the marginals or draws; None for the engine's choice.  block: which block is the set; None for
    the only one of two states a site. The result holds, in other blocks, the least energy given the set.
    Cost: the inner answer. Not where the best threshold differs between instances: see ``ExpectedF1``.
    """

    name: ClassVar[str] = "threshold"

    value: float | None = None
    at_least: int | None = None
    samples: int = 0
    inner: str | None = None
    temperature: float = 1.0
    block: str | None = None

    def __post_init__(self) -> None:
        fine = self.value is None or 0 <= self.value <= 1
        if not fine or self.samples < 0 or (self.at_least or 0) < 0 or not 0 < self.temperature < float("inf"):
            raise GraphError(
                f"threshold was asked for with value {self.value}, samples {self.samples}, at_least {self.at_least} and "
                f"temperature {self.temperature}; legal are None or a number from 0 to 1, 0 or more, 0 or more, and a "
                "positive number"
            )

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: object = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        block = set_block(graph, self.block)
        assert block is not None
        found = believed(graph, block, self.source, budget, generator)
        probability, status = trusted(graph, block, found)
        value = UNTUNED if self.value is None else self.value
        states = passing(probability, graph.variables[block], value, self.at_least or 0)
        y = feasible(graph, beside(graph, block, states, budget, generator), budget)
        stats = {"threshold": value, "probability": probability, "by": found.by, "exact": found.exact}
        nothing = torch.full((graph.num_instances,), -torch.inf, dtype=torch.float64)
        return Result(y, graph.energy(y), nothing, status, solver=self.name, stats=stats)


def passing(probability: Tensor, block: Variables, value: float, at_least: int = 0) -> Tensor:
    """(n,) long: 1 where a label's probability is at least ``value``, or among the ``at_least`` largest of its instance."""
    chosen = (probability >= value).long()
    if at_least:
        order = torch.argsort(probability, descending=True, stable=True)
        order = order[torch.argsort(block.instance[order], stable=True)]
        rank = torch.arange(block.num_sites, device=order.device) - block.offsets[block.instance[order]]
        chosen[order[rank < at_least]] = 1
    return chosen

"""Predictions averaged over draws of the weights: one factor graph that stands for the graphs of all draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call

from ebmstruct.energies import EnergyModel, Inputs
from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Budget
from ebmstruct.learning.posterior.mean_energies import MeanEnergies
from ebmstruct.learning.posterior.options import AverageName
from ebmstruct.learning.posterior.projection import Projection, not_projected
from ebmstruct.learning.posterior.weights import WeightDraws

TOGETHER = 32
"""Draws whose graphs are answered as one batch."""
SITES = 1 << 14
"""Sites that a batch of draws should not have more of."""
SHARE = 0.7
"""The part of a deadline that may go into averaging; the rest is for the answer."""

Fixing = Callable[[FactorGraph], Assignment | None]
"""What inputs themselves fix of the outputs, for their graph."""


class AveragedModel(EnergyModel):
    """The model with weights drawn from their posterior in place of one: its graph stands for those of all draws.

    average: ``beliefs``: the graph whose distribution has the beliefs of the mixture of all draws' distributions, of every
    site, and for a chain of every two neighbours: of all distributions of its structure the one nearest to the mixture (in
    the divergence of Kullback and Leibler from it). What a solver finds is decoded from the averaged probabilities, its
    energy is minus their logarithm, and marginals are the averaged ones. ``energies``: the graph of the mean energies.
    Where beliefs cannot be had (segments, and graphs that no solver sums) energies are averaged all the same.
    Cost: a forward pass and marginals for each draw; those of up to 32 draws are computed together.
    """

    def __init__(self, model: EnergyModel, draws: WeightDraws, average: AverageName = "beliefs") -> None:
        super().__init__()
        self.model, self.draws, self.average = model, draws, average
        self.order = draws.spaced(len(draws)).tolist()
        own = dict(model.named_parameters())
        self.parts = {n: v.to(own[n]) for n, v in draws.tensors().items()}

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.model.prepare(xs)

    def forward(self, inputs: Any) -> FactorGraph:
        """The graph that stands for those of all draws."""
        return self.conditioned(inputs, lambda graph: None)[0]

    def conditioned(
        self, inputs: Any, fixing: Fixing, budget: Budget | None = None
    ) -> tuple[FactorGraph, Mapping[str, Any]]:
        """The same given what inputs fix, from as many draws as the budget leaves time for, and facts about it.

        Facts: ``draws``, how many there was time for, at least one; ``average``, what was averaged.
        """
        with torch.no_grad():
            first = self.of_draw(self.order[0], inputs)
            fixed = fixing(first)
            beliefs = self.average == "beliefs" and not_projected(first) is None
            if beliefs:
                try:
                    return self._averaged(Projection(first, fixed), first, inputs, budget)
                except SolverRefusal:
                    pass
            return self._averaged(MeanEnergies(first, fixed), first, inputs, budget)

    def of_draw(self, number: int, inputs: Any) -> FactorGraph:
        """The graph of one draw."""
        weights = {name: values[number] for name, values in self.parts.items()}
        graph: FactorGraph = functional_call(self.model, weights, (inputs,))
        return graph

    def _averaged(
        self, mean: Projection | MeanEnergies, first: FactorGraph, inputs: Any, budget: Budget | None
    ) -> tuple[FactorGraph, Mapping[str, Any]]:
        open_s = None if budget is None or budget.deadline is None else SHARE * budget.remaining
        begun = time.monotonic()
        sites = sum(block.num_sites for block in first.variables.values())
        most = max(1, min(TOGETHER, SITES // max(1, sites)))
        size = most
        mean.add([first])
        used = 1
        while used < len(self.order):
            spent = time.monotonic() - begun
            if open_s is not None:
                left = open_s - spent
                size = max(0, min(most, 2 * used, int(left * used / max(spent, 1e-9))))
                if size < 1 or (budget is not None and budget.expired):
                    break
            mean.add([self.of_draw(n, inputs) for n in self.order[used : used + size]])
            used = min(len(self.order), used + size)
        return mean.graph(), {"draws": used, "average": mean.name}

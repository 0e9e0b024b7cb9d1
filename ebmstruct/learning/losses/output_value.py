"""What an output is worth: 1 where it is the target, less the worse it is; defined for weights over states too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebmstruct.errors import LossRefusal
from ebmstruct.graph import Assignment, Discrete, Factor, FactorGraph
from ebmstruct.learning.losses.latent_sites import known_sites
from ebmstruct.learning.losses.output_cost import cost_or_default, fillers, largest_cost

Measure = Literal["cost", "f1", "iou"]
MEASURES = ("cost", "f1", "iou")


@dataclass(frozen=True, eq=False)
class OutputValue:
    """The value of outputs between 0 and 1, the oracle that a value network learns (Gygli, Norouzi and Angelova 2017).

    measure "cost": 1 - cost / the largest cost.  "f1": 2 |A and B| / (|A| + |B|) of the sets A and B of known discrete
    sites that are on in the output and in the target; state 0 is off, and sites that are on agree where their states do.
    "iou": |A and B| / |A or B|. Both are 1 where nothing is on.
    Of weights over states: the mean cost under independent draws; for sets the sums of weights, of the smaller and of the
    larger ones. Equal to the value of states where weights are 0 and 1.
    cost: factors.  largest: (B,) the largest cost, 1 where nothing costs.
    """

    graph: FactorGraph
    target: Assignment
    measure: Measure
    cost: tuple[Factor, ...]
    largest: Tensor

    @classmethod
    def of(
        cls, graph: FactorGraph, target: Assignment, measure: Measure, cost: tuple[Factor, ...], reach: float
    ) -> OutputValue:
        """The value by a measure; LossRefusal where the task's cost has no largest value that can be found."""
        if measure != "cost":
            return cls(graph, target, measure, (), torch.ones(graph.num_instances, dtype=torch.float64))
        factors = cost_or_default(graph, target, cost, reach)
        largest = largest_cost(graph, target, cost, reach)
        if bool(torch.isinf(largest).any()):
            raise LossRefusal(
                "value: cost is divided by the largest cost, and the task's looks at continuous outputs, where that is not "
                "found; leave the cost out, which gives a bounded one"
            )
        return cls(graph, target, measure, factors, torch.where(largest > 0, largest, 1.0))

    def __call__(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """(B,) float64: the value of outputs; weights (n, K), states (n,) or points (n, d) of the target's blocks."""
        if self.measure == "cost":
            alone = FactorGraph(tuple(self.graph.variables.values()), self.cost)
            values = {**fillers(self.graph, outputs), **outputs}
            hard = all(v.dim() == 1 for n, v in values.items() if isinstance(alone.variables[n].domain, Discrete))
            charged = alone.energy(values) if hard else alone.relaxed_energy(values)
            return (1 - charged / self.largest).clamp(0.0, 1.0)
        both = torch.zeros(self.graph.num_instances, dtype=torch.float64)
        either = torch.zeros_like(both)
        for name, block in self.graph.variables.items():
            if name not in self.target or not isinstance(block.domain, Discrete):
                continue
            known = known_sites(self.graph, self.target, name)[:, None]
            wanted = _on(self.target[name], block.discrete.largest) * known
            given = outputs[name]
            weights = (_on(given, block.discrete.largest) if given.dim() == 1 else given[:, 1:].double()) * known
            if self.measure == "f1":
                shared, total = 2 * weights * wanted, weights + wanted
            else:
                shared, total = torch.minimum(weights, wanted), torch.maximum(weights, wanted)
            both = both.index_add(0, block.instance, shared.sum(1))
            either = either.index_add(0, block.instance, total.sum(1))
        return torch.where(either > 0, both / torch.where(either > 0, either, 1.0), 1.0)


def _on(states: Tensor, count: int) -> Tensor:
    """(n, K - 1) float64: 1 at a site's state, nothing for state 0."""
    return (states[:, None] == torch.arange(1, count, device=states.device)).double()

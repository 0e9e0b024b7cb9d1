"""Minimum Bayes risk for sets of labels: the set whose expected F1 is greatest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import FactorGraph
from ebmstruct.inference.counting import Counted, counted, counting_refusal
from ebmstruct.inference.label_sets import Believed, SetDecoder, believed, beside, feasible, set_block, trusted
from ebmstruct.inference.result import Answer, Budget, Query, Result


@dataclass(frozen=True)
class ExpectedF1(SetDecoder):
    """The set of labels of greatest expected F1 under p(y) proportional to exp(-E(y) / temperature).

    It answers the query ``minimize``, but what it makes least is the expected loss 1 - F1, not the energy: the energy
    of its set, which the engine reports, is seldom the least. A set is a block of two states a site, state 1 being
    "in". F1 of a set S and the true set T is 2 |S and T| / (|S| + |T|), and 1 where both are empty.

    samples: 0 takes marginals and supposes that labels are independent given the input (exact then, by the dynamic
    programme of Ye, Chai, Lee and Chieu 2012), but for an energy of their count (``CountFactor``), with which it is
    exact too; above 0, so many draws of whole sets, which keep the dependence
    (Dembczynski, Waegeman, Cheng and Huellermeier 2011).
    inner: the solver of the marginals or draws; None for the engine's choice.
    at_least: labels that a set has at least; None for what the task knows of its sets, 0 where nobody does.
    block: which block is the set; None for the only one of two states a site. Other blocks are summed out of the
    marginals, and the result holds the least energy of theirs given the set.
    Cost: the inner answer, and O(n^2) an instance of n labels (draws: O(n S + a^2 c), see the kernel).
    Where the set breaks a hard constraint, the answer of least energy takes its place.
    """

    name: ClassVar[str] = "expected_f1"

    samples: int = 0
    inner: str | None = None
    at_least: int | None = None
    temperature: float = 1.0
    block: str | None = None

    def __post_init__(self) -> None:
        if self.samples < 0 or (self.at_least or 0) < 0 or not 0 < self.temperature < float("inf"):
            raise GraphError(
                f"expected_f1 was asked for with samples {self.samples}, at_least {self.at_least} and temperature "
                f"{self.temperature}; legal are 0 or more, 0 or more, and a positive number"
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
        offsets, least = graph.variables[block].offsets, self.at_least or 0
        if found.draws is None and counting_refusal(graph) is None:
            states, value = best_counted_sets(counted(graph), self.temperature, least)
        else:
            states, value = best_sets(found, probability, offsets, least)
        y = feasible(graph, beside(graph, block, states, budget, generator), budget)
        stats = {"expected_f1": value, "probability": probability, "by": found.by, "exact": found.exact}
        nothing = torch.full((graph.num_instances,), -torch.inf, dtype=torch.float64)
        return Result(y, graph.energy(y), nothing, status, solver=self.name, stats=stats)


def best_sets(found: Believed, probability: Tensor, offsets: Tensor, at_least: int) -> tuple[Tensor, Tensor]:
    """(n,) long states of the sets of greatest expected F1, and (B,) float64 that F1."""
    from ebmstruct.inference.kernels.sets.expected_f1_numba import from_draws, from_marginals

    states = np.zeros(probability.numel(), np.int64)
    value = np.zeros(offsets.numel() - 1)
    bounds = offsets.cpu().numpy()
    if found.draws is None:
        from_marginals(probability.cpu().contiguous().numpy(), bounds, at_least, states, value)
    else:
        draws = found.draws.cpu().to(torch.uint8).contiguous().numpy()
        from_draws(draws, bounds, at_least, states, value)
    return torch.from_numpy(states).to(probability.device), torch.from_numpy(value)


def best_counted_sets(graph: Counted, temperature: float, at_least: int) -> tuple[Tensor, Tensor]:
    """The same, exactly, where labels are independent but for an energy of their count (``CountFactor``)."""
    from ebmstruct.inference.kernels.sets.expected_f1_numba import from_counts

    odds = torch.sigmoid(graph.score.detach() / temperature).cpu().nan_to_num(0.0)
    table = graph.table.detach().cpu() / temperature
    least = table.masked_fill(~table.isfinite(), torch.inf).amin(1, keepdim=True).nan_to_num(0.0, posinf=0.0)
    weight = torch.exp(least - table).nan_to_num(0.0)
    states, value = np.zeros(odds.numel(), np.int64), np.zeros(weight.shape[0])
    bounds = graph.block.offsets.cpu().numpy()
    from_counts(odds.numpy(), weight.contiguous().numpy(), bounds, at_least, states, value)
    return torch.from_numpy(states).to(graph.score.device), torch.from_numpy(value)

"""What a loss is, and the two values that most losses compare: with the target clamped, and free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Factor, FactorGraph
from ebmstruct.inference import Solver, log_partition, minimize


@dataclass(frozen=True, eq=False)
class LossValue:
    """value: (B,) float64, differentiable.  state: what the next call needs (persistent chains, buffers), or None."""

    value: Tensor
    state: Any = None


class Loss(ABC):
    """A learning objective of a graph and a target, per instance; a frozen object whose fields are YAML keys.

    Sites that the target does not know are latent: each loss says whether it sums them out, minimises over them, or
    refuses them.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(
        self,
        graph: FactorGraph,
        target: Assignment,
        *,
        cost: Sequence[Factor] = (),
        solver: Solver | None = None,
        generator: Generator | None = None,
        state: Any = None,
    ) -> LossValue:
        """The loss of each instance.

        cost: factors whose energy is the task's cost of an output; losses without a margin ignore them.
        solver: what answers the inference inside; chosen by the graph's structure if left out.
        """


def clamped_log_partition(graph: FactorGraph, target: Assignment, temperature: float, solver: Solver | None) -> Tensor:
    """(B,) log of the sum of exp(-E / temperature) over completions of the target; -E / temperature of a full one."""
    if target.complete(graph.topology.names):
        return -graph.energy(target) / temperature
    return log_partition(graph.condition(target), solver, temperature=temperature)


def clamped_minimum(graph: FactorGraph, target: Assignment, solver: Solver | None) -> Tensor:
    """(B,) the least energy over completions of the target, differentiable at that completion."""
    if target.complete(graph.topology.names):
        return graph.energy(target)
    return graph.energy(minimize(graph.condition(target), solver).assignment)


def free_minimum(graph: FactorGraph, solver: Solver | None) -> Tensor:
    """(B,) the least energy, differentiable at the assignment that has it (Danskin's theorem)."""
    return graph.energy(minimize(graph, solver).assignment)


def cost_augmented(graph: FactorGraph, cost: Sequence[Factor], weight: float = 1.0) -> FactorGraph:
    """The graph with ``weight`` times the cost taken from its energy, so that costly outputs look attractive."""
    return graph.add(*(f.scaled(-weight) for f in cost)) if cost else graph


def finite_difference_of(free: Tensor, clamped: Tensor) -> Tensor:
    """free - clamped, and infinite, not NaN, where the target itself is forbidden."""
    return torch.where(torch.isneginf(clamped), torch.inf, free - clamped)

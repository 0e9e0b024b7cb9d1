"""Losses that compare the target's energy with the least energy: perceptron and structured hinge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from ebmstruct.graph import Assignment, Factor, FactorGraph
from ebmstruct.inference import Solver
from ebmstruct.learning.losses.base import Loss, LossValue, clamped_minimum, cost_augmented, free_minimum


@dataclass(frozen=True)
class Perceptron(Loss):
    """E(target) - min_y E(y) (Collins 2002; LeCun et al. 2006, section 2.2.2).

    Unknown sites are minimised over. Margin class: zero, so the loss is content as soon as no other output lies
    lower, and constant energies satisfy it; use the structured hinge where that matters.
    Inference: one minimisation, two where sites are unknown.
    """

    name: ClassVar[str] = "perceptron"

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
        return LossValue(clamped_minimum(graph, target, solver) - free_minimum(graph, solver))


@dataclass(frozen=True)
class StructuredHinge(Loss):
    """E(target) - min_y [E(y) - weight * cost(y)] (Taskar, Guestrin and Koller 2003; Tsochantaridis et al. 2005).

    Margin-rescaled: an output must lie above the target by at least its cost. Unknown sites are minimised over
    (latent structural SVM, Yu and Joachims 2009). Margin class: positive, as long as the task has a cost; without
    one this is the perceptron. Inference: one minimisation with the cost inside, a second where sites are unknown.
    """

    name: ClassVar[str] = "structured_hinge"

    weight: float = 1.0

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
        augmented = cost_augmented(graph, cost, self.weight)
        return LossValue(clamped_minimum(graph, target, solver) - free_minimum(augmented, solver))

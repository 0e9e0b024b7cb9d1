"""Losses that compare the target's energy with the least energy: perceptron and structured hinge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.learning.losses.base import (
    Latent,
    Loss,
    LossValue,
    Margin,
    Setting,
    clamped_minimum,
    compared,
    cost_augmented,
    free_minimum,
)


@dataclass(frozen=True)
class Perceptron(Loss):
    """E(target) - min_y E(y) (Collins 2002; LeCun et al. 2006, section 2.2.2).

    Unknown sites are minimised over. Margin class: zero, so the loss is content as soon as no other output lies
    lower, and constant energies satisfy it; use the structured hinge where that matters.
    Inference: one minimisation, two where sites are unknown.
    """

    name: ClassVar[str] = "perceptron"
    margin: ClassVar[Margin] = "zero"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        correct, least = clamped_minimum(graph, target, setting.solver), free_minimum(graph, setting.solver)
        return compared(correct, least, correct - least)


@dataclass(frozen=True)
class StructuredHinge(Loss):
    """E(target) - min_y [E(y) - weight * cost(y)] (Taskar, Guestrin and Koller 2003; Tsochantaridis et al. 2005).

    Margin-rescaled: an output must lie above the target by at least its cost. Unknown sites are minimised over
    (latent structural SVM, Yu and Joachims 2009). Margin class: positive, as long as the task has a cost; without
    one this is the perceptron. Inference: one minimisation with the cost inside, a second where sites are unknown.
    """

    name: ClassVar[str] = "structured_hinge"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    weight: float = 1.0

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        augmented = cost_augmented(graph, setting.cost, self.weight)
        correct, least = clamped_minimum(graph, target, setting.solver), free_minimum(augmented, setting.solver)
        return compared(correct, least, correct - least)

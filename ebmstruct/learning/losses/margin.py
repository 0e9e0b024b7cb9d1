"""Losses of the target's energy alone and beside the least energy: energy, perceptron, structured hinge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.learning.losses.base import (
    Latent,
    Loss,
    LossValue,
    Margin,
    Setting,
    check_weight,
    compared,
    cost_augmented,
    nan_where_broken,
)
from ebmstruct.learning.losses.latent_sites import (
    LatentSites,
    check_latent_sites,
    completed,
    lowest,
    sum_out_refusal,
)
from ebmstruct.learning.losses.output_cost import cost_or_default, largest_cost
from ebmstruct.learning.losses.slack import worst_output

RESCALINGS = ("margin", "slack")


@dataclass(frozen=True)
class EnergyLoss(Loss):
    """E(target) (LeCun et al. 2006, section 2.2.1).

    Unknown sites are minimised over, or summed out (``latent_sites``): the free energy of the target, -T log of the sum of
    exp(-E / T) over its completions. Margin class: none. It pulls the target's energy down and pushes no other up, so a
    model that may lower all energies alike does that and nothing else, without end: the energy becomes the same for
    every output. Only for energies which cannot: those that have their least value by construction (a distance between the
    output and a prediction, as in regression; residuals with a constant normaliser), where it is the least squares loss.
    Inference: none, or one over the completions of the target.
    """

    name: ClassVar[str] = "energy"
    margin: ClassVar[Margin] = "none"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised", "summed")

    latent_sites: LatentSites = "minimise"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_latent_sites("energy", self.latent_sites, self.temperature)

    def closed(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        return self.evaluate(graph, target, setting)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        correct, _ = completed(graph, target, setting.solver, self.latent_sites, self.temperature)
        return LossValue(correct, correct=correct.detach().double())


@dataclass(frozen=True)
class Perceptron(Loss):
    """E(target) - min_y E(y) (Collins 2002; LeCun et al. 2006, section 2.2.2).

    Unknown sites are minimised over, or summed out of both energies (``latent_sites``). Margin class: zero, so the loss is
    content as soon as no other output lies lower, and constant energies satisfy it; use the structured hinge where that
    matters. Inference: one minimisation, two where sites are unknown; where it is not exact the loss is a lower bound, and
    its gradient that of the two outputs compared.
    """

    name: ClassVar[str] = "perceptron"
    margin: ClassVar[Margin] = "zero"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised", "summed")

    latent_sites: LatentSites = "minimise"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_latent_sites("perceptron", self.latent_sites, self.temperature)

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        return sum_out_refusal(graph, target) if self.latent_sites == "sum_out" else None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        how = (self.latent_sites, self.temperature)
        correct, _ = completed(graph, target, setting.solver, *how)
        least, _ = lowest(graph, target, setting.solver, *how)
        return compared(correct, least, correct - least)


@dataclass(frozen=True)
class StructuredHinge(Loss):
    """The energy of the target against that of the output whose cost is least accounted for.

    rescaling "margin": E(target) - min_y [E(y) - weight * cost(y)]: an output must lie above the target by at least its
    cost (Taskar, Guestrin and Koller 2003; Tsochantaridis et al. 2005).
    rescaling "slack": max_y weight * cost(y) * [1 + E(target) - E(y)]_+: every output must lie above by 1, and its cost
    says how much it matters where it does not, so that outputs that are dear but far away count nothing (Tsochantaridis
    et al. 2005). No solver maximises that product. ``SlackSearch`` finds its best candidates by at most ``steps``
    minimisations with the cost at different weights, and looks at the ``best`` lowest outputs of two of these where a
    solver gives several; the value is the product at the worst output found, a lower bound that is often the maximum;
    ``figures["upper_bound"]`` is what no output exceeds.

    Unknown sites are minimised over (latent structural SVM, Yu and Joachims 2009), or summed out of both sides: free
    energies of outputs (``latent_sites: sum_out``, at ``temperature``; Ping, Liu and Ihler 2014). Without a cost of the
    task, each wrong discrete site costs 1, and each continuous one its square distance from the target, bounded by the
    square of ``reach`` (``cost_or_default``).
    Margin class: positive. Inference: one minimisation with the cost inside (``steps`` + 2 where slack is rescaled),
    another where sites are unknown. Where it is not exact the loss is a lower bound. Not for models whose probabilities are
    wanted: nothing calibrates them.
    """

    name: ClassVar[str] = "structured_hinge"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised", "summed")

    weight: float = 1.0
    rescaling: Literal["margin", "slack"] = "margin"
    latent_sites: LatentSites = "minimise"
    temperature: float = 1.0
    reach: float = 1.0
    steps: int = 12
    best: int = 8

    def __post_init__(self) -> None:
        check_latent_sites("structured_hinge", self.latent_sites, self.temperature)
        if self.rescaling not in RESCALINGS:
            raise ValueError(f"structured_hinge: rescaling {self.rescaling!r}; legal are {RESCALINGS}")
        for field, value, least in (("steps", self.steps, 1), ("best", self.best, 1)):
            if value < least:
                raise ValueError(f"structured_hinge: {field} must be at least {least}; found {value}")
        check_weight(self.name, self.weight)
        if not self.reach > 0:
            raise ValueError(f"structured_hinge: reach must be positive; found {self.reach}")

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        return sum_out_refusal(graph, target) if self.latent_sites == "sum_out" else None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        cost = cost_or_default(graph, target, setting.cost, self.reach)
        how = (self.latent_sites, self.temperature)
        correct, completion = completed(graph, target, setting.solver, *how)
        if self.rescaling == "slack":
            worst = worst_output(
                graph,
                target,
                cost,
                correct,
                completion,
                largest_cost(graph, target, setting.cost, self.reach),
                solver=setting.solver,
                latent_sites=self.latent_sites,
                temperature=self.temperature,
                steps=self.steps,
                best=self.best,
            )
            incorrect, _ = completed(graph, worst.outputs, setting.solver, *how)
            value = self.weight * _product(worst.cost, 1 + correct - incorrect)
            value = nan_where_broken(graph, torch.where(torch.isposinf(correct), torch.inf, value))
            found = compared(correct, incorrect, value)
            return replace(found, figures={"upper_bound": self.weight * worst.bound})
        least, _ = lowest(cost_augmented(graph, cost, self.weight), target, setting.solver, *how)
        return compared(correct, least, correct - least)


def _product(cost: Tensor, missing: Tensor) -> Tensor:
    """cost * missing, and 0 where nothing costs, whatever is missing."""
    return torch.where(cost > 0, cost * missing, 0.0)

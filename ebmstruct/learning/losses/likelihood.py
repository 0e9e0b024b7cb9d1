"""Losses that compare probabilities: likelihood, softmax-margin, pseudo-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference import log_partition
from ebmstruct.learning.losses.base import (
    Latent,
    Loss,
    LossValue,
    Margin,
    Setting,
    check_positive,
    check_weight,
    clamped_log_partition,
    compared,
    cost_augmented,
    finite_difference_of,
)


@dataclass(frozen=True)
class NegativeLogLikelihood(Loss):
    """-log p(target), with p proportional to exp(-E / temperature).

    L = log sum_y exp(-E(y) / T) - log sum_{y agrees with the target} exp(-E(y) / T); sites that the target does not
    know are summed out, so that partly labelled data and hidden variables need nothing else (Lafferty, McCallum and
    Pereira 2001; Quattoni et al. 2007 with hidden states). Its gradient is the energy's gradient at the target less
    its mean under the model. Margin class of LeCun et al. 2006, table 1: positive margin.
    Inference: two log partitions, one of them clamped. Not for graphs on which no solver sums.
    """

    name: ClassVar[str] = "negative_log_likelihood"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("summed",)
    likelihood: ClassVar[bool] = True

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self.name, temperature=self.temperature)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        t = self.temperature
        clamped = clamped_log_partition(graph, target, t, setting.solver)
        free = log_partition(graph, setting.solver, temperature=t)
        return compared(-t * clamped, -t * free, finite_difference_of(free, clamped))


@dataclass(frozen=True)
class SoftmaxMargin(Loss):
    """The likelihood with the task's cost inside: outputs that cost more are pushed up harder.

    L = log sum_y exp(-E(y) / T + weight * cost(y)) + E(target) / T (Gimpel and Smith 2010, equation 5). It bounds
    the expected cost from above, so a cost that counts missed entities more than invented ones buys recall.
    Unknown sites are summed out. Margin class: positive margin. Inference: as for the likelihood, since the cost
    is a sum over sites. Without a cost it is the likelihood.
    """

    name: ClassVar[str] = "softmax_margin"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("summed",)

    weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self.name, temperature=self.temperature)
        check_weight(self.name, self.weight)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        clamped = clamped_log_partition(graph, target, self.temperature, setting.solver)
        augmented = cost_augmented(graph, setting.cost, self.weight * self.temperature)
        free = log_partition(augmented, setting.solver, temperature=self.temperature)
        t = self.temperature
        return compared(-t * clamped, -t * free, finite_difference_of(free, clamped))


@dataclass(frozen=True)
class PseudoLikelihood(Loss):
    """-sum over sites of log p(target at the site | target everywhere else) (Besag 1975).

    L = sum_i [E(target) / T + log sum_k exp(-E(target with site i set to k) / T)]. It needs no inference at all: K
    energies a site, whatever the graph's structure. Consistent, but less efficient than the likelihood, and too
    sure of itself where neighbours are strongly coupled. Every site must be known.
    """

    name: ClassVar[str] = "pseudo_likelihood"
    margin: ClassVar[Margin] = "positive"
    likelihood: ClassVar[bool] = True

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self.name, temperature=self.temperature)

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        for name, block in graph.variables.items():
            if not isinstance(block.domain, Discrete):
                return f"it takes discrete variables, and block {name!r} is {block.domain}"
        if not target.complete(graph.topology.names):
            return "it needs a target that knows every site; negative_log_likelihood sums out those that are not known"
        return None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        value = torch.zeros(graph.num_instances, dtype=torch.float64)
        for name, block in graph.variables.items():
            energies = graph.conditionals(name, target) / self.temperature
            site = -torch.log_softmax(-energies, 1).gather(1, target[name][:, None])[:, 0]
            value = value.to(site.device).index_add(0, block.instance, site)
        return LossValue(value)

"""Ratio matching: a loss of the probabilities of single states given all others, for discrete graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.learning.losses.base import Loss, LossValue, Margin, Setting
from ebmstruct.learning.losses.output_energy import OutputEnergy


@dataclass(frozen=True)
class RatioMatching(Loss):
    """Half the squared error of every site's conditional probabilities (Hyvärinen 2007).

    L = sum_i 1/2 sum_k (p(k | all others) - [k is the target's state])^2. With two states that is the square of the
    probability of the wrong one, Hyvärinen's objective; with more it is the quadratic score of each conditional, proper
    and free of the partition function (Dawid, Lauritzen and Parry 2012). Inference: none, K energies a site. Margin class:
    positive. Against pseudo_likelihood it is bounded, at 1 a site, so that outliers and hard constraints which the data
    break weigh less; it wastes more of the data where they fit. Every site must be known, or clamped by the graph.
    """

    name: ClassVar[str] = "ratio_matching"
    margin: ClassVar[Margin] = "positive"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"ratio_matching: temperature must be above 0; found {self.temperature}")

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        energy = OutputEnergy.of(graph, target, self.temperature)
        for name in (*energy.outputs, *energy.latent):
            if isinstance(graph.variables[name].domain, Continuous):
                return (
                    f"it takes discrete variables, and block {name!r} is {graph.variables[name].domain}; clamp it by "
                    "graph.condition where it is given, or take score_matching or noise_contrastive_estimation"
                )
        if energy.latent or target.allowed:
            return "it needs a target that knows every site; noise_contrastive_estimation sums out those that are not known"
        return None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        energy = OutputEnergy.of(graph, target, self.temperature)
        values = energy.values(target)
        value = torch.zeros(graph.num_instances, dtype=torch.float64)
        for name in energy.outputs:
            block = graph.variables[name]
            score = -graph.conditionals(name, values) / self.temperature
            wrong = score.softmax(1) - torch.nn.functional.one_hot(values[name], score.shape[1])
            site = 0.5 * wrong.square().sum(1)
            value = value.to(site.device).index_add(0, block.instance, site.double())
        return LossValue(value, setting.state)

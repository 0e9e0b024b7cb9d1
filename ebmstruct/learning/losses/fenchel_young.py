"""Losses made of a regulariser: Fenchel-Young losses by entropy, by a square norm, and by perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.sparse_mixture import SparseMixture, sparse_mixture
from ebmstruct.inference.unaries import discrete_blocks
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting, compared
from ebmstruct.learning.losses.likelihood import NegativeLogLikelihood
from ebmstruct.learning.losses.perturbed import (
    Noise,
    check_draws,
    noisy_gap,
    repeat_refusal,
    tilt_refusal,
    with_noise,
)

REGULARISERS = ("entropy", "norm", "perturbation")
NOISES = ("gumbel", "gaussian")


@dataclass(frozen=True)
class FenchelYoung(Loss):
    """E(target) + T R(target) - min_p [E_p E(y) + T R(p)] over distributions p of outputs.

    The loss of a regulariser R (Blondel, Martins and Niculae 2020): convex in energies of tables, never negative, 0 where
    the regularised prediction is the target alone. Its gradient is the energy's gradient at the target less its mean
    under that prediction.

    regulariser:
      - "entropy": R = -H(p), and T times the likelihood's loss at temperature T. Unknown sites are summed out.
      - "norm": R = half the square norm of the mean indicators of all discrete sites (SparseMAP, Niculae et al. 2018). The
        prediction is a mixture of a few assignments, found by minimisations alone; the loss is 0 once the target lies
        below every other output by T times the number of sites in which they differ, and training then leaves it alone.
        Unknown sites are minimised over under the same regulariser. Continuous sites beside discrete ones are minimised.
        The value is too small by at most the duality gap, ``figures["duality_gap"]``.
      - "perturbation": R is what perturbed minimisers stand for (Berthet et al. 2020), by ``num_samples`` draws of
        ``noise`` times T on the states of each site, or of a normal tilt of every ``Real`` block where no site is
        discrete. The value leaves out R(target), which no energy changes. Unknown sites are minimised over with the same
        noise.
    temperature: T.  tolerance, max_iterations: when the search for a sparse mixture is done (share of its value), and how
    many minimisations it may take.
    Margin class: positive margin. Cost: the likelihood's; a minimisation for each assignment of the mixture, some tens;
    num_samples minimisations at once. Not the norm where minimising is dear, not the perturbation where it is inexact.
    """

    name: ClassVar[str] = "fenchel_young"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("summed", "minimised")

    regulariser: Literal["entropy", "norm", "perturbation"] = "norm"
    temperature: float = 1.0
    num_samples: int = 4
    noise: Noise = "gaussian"
    tolerance: float = 1e-7
    max_iterations: int = 100

    def __post_init__(self) -> None:
        check_draws(self.name, self.num_samples, self.temperature)
        if self.regulariser not in REGULARISERS:
            raise ValueError(f"fenchel_young: regulariser {self.regulariser!r}; legal are {REGULARISERS}")
        if self.noise not in NOISES:
            raise ValueError(f"fenchel_young: noise {self.noise!r}; legal are {NOISES}")
        if self.max_iterations < 1 or not self.tolerance > 0:
            raise ValueError(
                f"fenchel_young: max_iterations must be at least 1 and tolerance positive; found {self.max_iterations} "
                f"and {self.tolerance}"
            )

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        """Why the regulariser means nothing here, or cannot be had."""
        discrete = bool(discrete_blocks(graph))
        if self.regulariser == "norm" and not discrete:
            return "the norm regularises the states of discrete sites, and there are none; take perturbation or entropy"
        if self.regulariser == "perturbation":
            return repeat_refusal(graph) or (None if discrete else tilt_refusal(graph))
        return None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        if self.regulariser == "entropy":
            found = NegativeLogLikelihood(self.temperature).evaluate(graph, target, setting)
            return LossValue(self.temperature * found.value, None, found.correct, found.incorrect)
        if self.regulariser == "perturbation":
            noisy = with_noise(graph.repeat(self.num_samples), self.temperature, self.noise, setting.generator)
            return noisy_gap(noisy, self.num_samples, target, setting.solver)
        return self._sparse(graph, target, setting)

    def _sparse(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        mixture = self._mixture(graph, setting)
        free = mixed_value(graph, mixture)
        gap = mixture.gap
        if target.complete(graph.topology.names):
            square = torch.zeros(graph.num_instances, dtype=torch.float64)
            for block in discrete_blocks(graph):
                square = square + block.lengths
            correct = graph.energy(target) + 0.5 * self.temperature * square
        else:
            clamped = self._mixture(graph.condition(target), setting)
            correct, gap = mixed_value(graph, clamped), gap + clamped.gap
        value = torch.where(correct.isposinf(), torch.inf, correct - free)
        figures = {"duality_gap": gap, "assignments": mixture.weights.gt(0).sum(0).double()}
        return compared(correct, free, value, figures=figures)

    def _mixture(self, graph: FactorGraph, setting: Setting) -> SparseMixture:
        return sparse_mixture(
            graph,
            setting.solver,
            strength=self.temperature,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            generator=setting.generator,
        )


def mixed_value(graph: FactorGraph, mixture: SparseMixture) -> Tensor:
    """(B,) the value of a mixture, differentiable in the energies of its assignments, their weights being held fixed."""
    mean = torch.zeros(graph.num_instances, dtype=torch.float64)
    for slot, weight in enumerate(mixture.weights):
        energy = graph.energy({n: rows[slot] for n, rows in mixture.assignments.items()})
        mean = mean + torch.where(weight > 0, weight * torch.where(weight > 0, energy, 0.0), 0.0)
    return mean + (mixture.value - mean.detach()).nan_to_num(0.0, posinf=0.0, neginf=0.0)

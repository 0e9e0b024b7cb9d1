"""Noise-contrastive estimation: energies learned by telling the target from noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting, compared
from ebmstruct.learning.losses.noise import Kind, Noise, noise_refusal, perturb
from ebmstruct.learning.losses.noise_statistics import Statistics, kept, restored, updated
from ebmstruct.learning.losses.output_energy import OutputEnergy, copy_refusal


@dataclass(frozen=True)
class NoiseContrastiveEstimation(Loss):
    """The loss of telling the target y_0 from ``samples`` draws y_1 ... y_S of noise with a known density q.

    With w_j = -E(y_j) / T - log q(y_j) for each:

    - ``ranking`` (Ma and Collins 2018): -log of exp(w_0) / sum_j exp(w_j). No normaliser: right for energies given an x;
    - ``binary`` (Gutmann and Hyvärinen 2010): softplus(log S - w_0) + sum_j softplus(w_j - log S). The model learns its
      own normaliser: give the graph a learned ``constant`` (one for each x), else the energy must absorb it;
    - ``conditional`` (Ceylan and Gutmann 2018): the mean of softplus(w_j - w_0). No normaliser.

    noise: ``fitted`` (each site on its own: frequencies of states so far, a Gaussian for vectors), ``uniform``,
    ``perturbed`` (neighbours of the target, ``flip`` and ``sigma`` away, by moves as likely back as forth, so that log q
    falls out; all draws of the ranking form are neighbours of one neighbour, which makes them and the target alike before
    energies are looked at, as in Tjelmeland 2004), or ``auto``: fitted in the binary form, else perturbed. Latent sites
    are summed out where that is exact. Margin class: positive. Cost: 1 + ``samples`` energies, no inference. Fitted and
    uniform noise not in many dimensions, nor where outputs follow closely from an x: it is told apart before anything is
    learned. Perturbed noise not where modes lie further apart than its moves: their weights are not compared.
    """

    name: ClassVar[str] = "noise_contrastive_estimation"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("summed",)

    form: Literal["binary", "ranking", "conditional"] = "ranking"
    noise: Literal["auto", "fitted", "uniform", "perturbed"] = "auto"
    samples: int = 10
    flip: float = 0.1
    sigma: float = 0.3
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for key, legal in (
            ("form", ("binary", "ranking", "conditional")),
            ("noise", ("auto", "fitted", "uniform", "perturbed")),
        ):
            if getattr(self, key) not in legal:
                raise ValueError(f"{self.name}: {key} {getattr(self, key)!r}; legal are {', '.join(legal)}")
        if self.noise == "perturbed" and self.form == "binary":
            raise ValueError(f"{self.name}: noise perturbed has no density of its own, which form binary needs")
        if self.samples < 1 or not 0 < self.flip <= 1 or not self.sigma > 0 or not self.temperature > 0:
            raise ValueError(
                f"{self.name}: samples must be at least 1, flip in (0, 1], sigma and temperature above 0; found "
                f"{self.samples}, {self.flip}, {self.sigma}, {self.temperature}"
            )

    @property
    def kind(self) -> Kind:
        """The noise, once ``auto`` is decided."""
        if self.noise != "auto":
            return self.noise
        return "fitted" if self.form == "binary" else "perturbed"

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        energy = OutputEnergy.of(graph, target, self.temperature)
        if not energy.outputs:
            return "the target knows no open site: there is nothing to tell from noise"
        for name in energy.outputs:
            reason = noise_refusal(graph.variables[name].domain, name, self.kind)
            if reason is not None:
                return reason
        return copy_refusal(graph) or energy.refuse(target)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        energy = OutputEnergy.of(graph, target, self.temperature)
        values = energy.values(target)
        statistics = self._statistics(energy, values, restored(setting.state))
        times, batch = 1 + self.samples, graph.num_instances
        noise = Noise(energy, statistics, self.kind)
        if self.kind == "perturbed":
            drawn = self._neighbours(energy, values, statistics, setting.generator)
        else:
            drawn = noise.draw(values, self.samples, setting.generator)
        both = {n: torch.cat([v.detach(), drawn[n]]) for n, v in values.items()}
        free = energy.repeat(times)(both)
        weight = -free / self.temperature
        if self.kind != "perturbed":
            weight = weight - noise.log_density(both, times).to(weight.device)
        free, weight = free.reshape(times, batch), weight.reshape(times, batch)
        value = self._value(weight)
        forbidden = torch.isposinf(free[0].detach())
        value = torch.where(forbidden, torch.inf, value)
        held: Mapping[str, Mapping[str, Tensor]] | None = statistics or None
        return compared(free[0], free[1:].mean(0), value, held)

    def _neighbours(
        self, energy: OutputEnergy, values: Mapping[str, Tensor], statistics: Statistics, generator: Generator
    ) -> dict[str, Tensor]:
        """The draws of perturbed noise."""

        def moved(start: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
            return perturb(
                energy,
                start,
                times,
                generator,
                flip=self.flip,
                sigma=self.sigma,
                statistics=statistics,
                lazy=self.form == "ranking",
            )

        if self.form == "ranking":
            values = moved(values, 1)
        return moved(values, self.samples)

    def _value(self, weight: Tensor) -> Tensor:
        """(B,) the loss from (1 + S, B) log weights; what is forbidden weighs -inf and has no gradient."""
        weight = torch.where(torch.isneginf(weight.detach()), -torch.inf, weight)
        if self.form == "ranking":
            safe = torch.where(torch.isneginf(weight[:1].detach()), 0.0, weight)
            return safe.logsumexp(0) - safe[0]
        if self.form == "binary":
            own = math.log(self.samples)
            return softplus(own - weight[0]) + softplus(weight[1:] - own).sum(0)
        return softplus(weight[1:] - weight[0]).mean(0)

    def _statistics(self, energy: OutputEnergy, values: Mapping[str, Tensor], before: Statistics) -> Statistics:
        """What the targets so far look like, these included; nothing where the noise needs none of it."""
        out = dict(before)
        for name, mask in energy.outputs.items():
            block = energy.graph.variables[name]
            needed = self.kind == "fitted" or (self.kind == "perturbed" and not isinstance(block.domain, Discrete))
            if needed and kept(block):
                diagonal = self.kind == "perturbed"
                out[name] = updated(block, values[name], mask, before.get(name), diagonal=diagonal)
        return out

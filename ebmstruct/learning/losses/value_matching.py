"""Deep value networks: energies that match what an output is worth, wherever inference may lead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting
from ebmstruct.learning.losses.latent_sites import completed, known_sites
from ebmstruct.learning.losses.output_value import MEASURES, Measure, OutputValue
from ebmstruct.learning.losses.value_outputs import OutputMaker, Outputs, has_latent, weights_move

LINKS = ("sigmoid", "linear")


@dataclass(frozen=True)
class ValueMatching(Loss):
    """The mean over some outputs y of how far the energy E(y) is from what y is worth (Gygli, Norouzi and Angelova 2017).

    v*(y) between 0 and 1 is the value of y by the task (``OutputValue``; ``value``: "cost", "f1" or "iou"). link "sigmoid":
    the divergence of v = 1 / (1 + exp(E(y))) from v*, which has the gradient of their cross-entropy; "linear":
    (E(y) - (1 - v*(y)))^2, so that the energy is the share of the largest cost.

    Four kinds of outputs, weighed by ``at_target``, ``at_inference``, ``at_adversary``, ``at_random`` (0 leaves one out):
    the target; what ``steps`` steps of inference by the present energy find; what as many steps up the loss itself find;
    the target with some sites drawn anew. Where the graph has relaxed energies and everything is discrete, outputs are
    weights over states (``FactorGraph.relaxed_energy``), moved by entropic mirror descent; elsewhere a minimiser finds the
    second, and with the cost inside the third. Outputs of infinite energy are left out, but for the target.

    Margin class: positive: the least energy belongs to the target as soon as all values match. Unknown sites are minimised
    over; outputs are rounded to states for that. Inference: 2 * ``steps`` gradients of the relaxed energy, or two
    minimisations; where these are not exact, other outputs are taught, and the loss is what it says at these.
    Not where a plain likelihood can be computed: it has to see an output to learn of it, and needs a model that can
    express the value of bad outputs too.
    """

    name: ClassVar[str] = "value_matching"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    value: Measure = "cost"
    link: Literal["sigmoid", "linear"] = "sigmoid"
    at_target: float = 1.0
    at_inference: float = 1.0
    at_adversary: float = 1.0
    at_random: float = 1.0
    steps: int = 10
    rate: float = 1.0
    noise: float = 0.3
    reach: float = 1.0

    def __post_init__(self) -> None:
        if self.value not in MEASURES:
            raise ValueError(f"value_matching: value {self.value!r}; legal are {MEASURES}")
        if self.link not in LINKS:
            raise ValueError(f"value_matching: link {self.link!r}; legal are {LINKS}")
        shares = (self.at_target, self.at_inference, self.at_adversary, self.at_random)
        if min(shares) < 0 or not sum(shares) > 0:
            raise ValueError(f"value_matching: at_* must be at least 0 and not all 0; found {shares}")
        if self.steps < 1 or not self.rate > 0 or not self.noise >= 0 or not 0 < self.reach < float("inf"):
            raise ValueError("value_matching: steps must be at least 1, rate and reach positive, noise at least 0")

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        known = [n for n in graph.variables if bool(known_sites(graph, target, n).any())]
        if not known and any(v.num_sites for v in graph.variables.values()):
            return "the target knows no site, so every output is worth the same"
        if self.value != "cost" and any(not isinstance(graph.variables[n].domain, Discrete) for n in known):
            return f"value: {self.value} compares sets of discrete sites, and the target has continuous ones; take cost"
        return None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        worth = OutputValue.of(graph, target, self.value, tuple(setting.cost), self.reach)
        maker = OutputMaker(
            graph,
            target,
            worth,
            setting.solver,
            setting.generator,
            weights_move(graph, worth),
            self.steps,
            self.rate,
            self.noise,
            self.reach,
        )
        total = torch.zeros(graph.num_instances, dtype=torch.float64)
        weights, seen = torch.zeros_like(total), {}
        for kind, share in self._shares():
            with torch.no_grad():
                outputs = self._outputs(maker, kind)
            energy, value = self._judged(maker, worth, outputs)
            counts = torch.ones_like(weights) if kind == "target" else energy.detach().isfinite().double()
            part = self.mismatch(torch.where(counts > 0, energy, 0.0), value)
            total, weights = total + share * counts * part, weights + share * counts
            seen[kind] = energy.detach()
        nothing = torch.full_like(total, torch.nan)
        mean = total / weights.clamp(min=1e-12)
        return LossValue(mean, None, seen.get("target", nothing), seen.get("inference", nothing))

    def mismatch(self, energy: Tensor, value: Tensor) -> Tensor:
        """(B,) how far energies are from values: 0 where they match."""
        if self.link == "linear":
            return (energy - (1 - value)).square()
        cross = value * softplus(energy) + (1 - value) * softplus(-energy)
        inside = value.clamp(1e-12, 1 - 1e-12)  # where the entropy has a slope
        return cross - torch.special.entr(inside) - torch.special.entr(1 - inside)

    def _shares(self) -> list[tuple[str, float]]:
        shares = (self.at_target, self.at_inference, self.at_adversary, self.at_random)
        kinds = ("target", "inference", "adversary", "random")
        return [(kind, share) for kind, share in zip(kinds, shares, strict=True) if share > 0]

    def _outputs(self, maker: OutputMaker, kind: str) -> Outputs:
        if kind == "adversary":
            return maker.at_adversary(self.mismatch)
        return {"target": maker.at_target, "inference": maker.at_inference, "random": maker.at_random}[kind]()

    def _judged(self, maker: OutputMaker, worth: OutputValue, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """The energies of outputs and their values."""
        graph, target = maker.graph, maker.target
        if has_latent(graph, target):
            rounded = maker.rounded(outputs)
            return completed(graph, rounded, maker.solver)[0], worth(rounded.values).detach()
        named = {n: outputs[n].detach() for n in target}
        soft = any(v.dim() == 2 and isinstance(graph.variables[n].domain, Discrete) for n, v in named.items())
        energy = graph.relaxed_energy(named) if soft else graph.energy(named)
        return energy, worth(named).detach()

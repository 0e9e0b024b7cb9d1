"""The concave-convex procedure for the latent structured hinge: completions of targets, kept for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
)
from ebmstruct.learning.losses.latent_sites import completed, known_sites, lowest
from ebmstruct.learning.losses.output_cost import cost_or_default

Kept = Mapping[str, Mapping[str, Any]]
"""Example number, as text, to its ``age`` in visits and its ``values``: block name to the values of its sites."""


@dataclass(frozen=True)
class ConcaveConvex(Loss):
    """E(target, h) - min [E - weight * cost], with h the best completion at the example's last refreshment.

    The latent structured hinge is a difference of two functions that are convex where the energy is linear in the
    parameters. With the latent sites held at h the subtracted one is replaced by its tangent, which bounds the loss from
    above and touches it when h is fresh; so descending on it with completions that are renewed every ``refresh`` visits of
    an example lowers the hinge itself from one refreshment to the next (Yuille and Rangarajan 2003; Yu and Joachims 2009).
    ``refresh: 1`` is the subgradient method of ``structured_hinge``.

    The state holds each example's completion and its age, by its number in the training data, and is checkpointed; without
    numbers every completion is fresh. A target that knows every site gives the hinge. Without a cost of the task the
    default cost is used (``cost_or_default``).
    Margin class: positive. Inference: one minimisation with the cost inside, another clamped one every ``refresh`` visits.
    Not where early completions are bad: it keeps what it began with, so begin with a small ``refresh`` or another loss.
    """

    name: ClassVar[str] = "concave_convex"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    refresh: int = 5
    weight: float = 1.0
    reach: float = 1.0

    def __post_init__(self) -> None:
        if self.refresh < 1:
            raise ValueError(f"concave_convex: refresh must be at least 1; found {self.refresh}")
        check_weight(self.name, self.weight)
        if not self.reach > 0:
            raise ValueError(f"concave_convex: reach must be positive; found {self.reach}")

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        cost = cost_or_default(graph, target, setting.cost, self.reach)
        least, _ = lowest(cost_augmented(graph, cost, self.weight), target, setting.solver)
        if target.complete(graph.topology.names) or setting.examples is None:
            correct, state = completed(graph, target, setting.solver)[0], setting.state
        else:
            numbers = [str(int(number)) for number in setting.examples]
            values, state = self._completions(graph, target, setting, numbers)
            correct = graph.energy(values)
        return compared(correct, least, correct - least, state)

    def _completions(
        self, graph: FactorGraph, target: Assignment, setting: Setting, numbers: list[str]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The values of every block with each example's completion, and the state after this visit."""
        kept: Kept = setting.state or {}
        lengths = {n: v.lengths.tolist() for n, v in graph.variables.items()}
        stale = [
            not self._usable(kept.get(e), {n: own[b] for n, own in lengths.items()}) for b, e in enumerate(numbers)
        ]
        fresh: Mapping[str, Tensor] = {}
        if any(stale):
            with torch.no_grad():
                fresh = dict(completed(graph, target, setting.solver)[1].items())
        parts = {n: fresh[n].detach().split(own) for n, own in lengths.items()} if fresh else {}
        state = dict(kept)
        for b, example in enumerate(numbers):
            if stale[b]:
                own = {n: part[b].clone() for n, part in parts.items()}
                state[example] = {"age": 1, "values": own}
            else:
                state[example] = {"age": int(kept[example]["age"]) + 1, "values": kept[example]["values"]}
        values = {}
        for name, block in graph.variables.items():
            value = torch.cat([state[e]["values"][name] for e in numbers]).to(block.offsets.device)
            known = known_sites(graph, target, name)
            if name in target:
                shape = (-1,) + (1,) * (value.dim() - 1)
                value = torch.where(known.reshape(shape), target[name].to(value.dtype), value)
            values[name] = value
        return values, state

    def _usable(self, kept: Mapping[str, Any] | None, lengths: Mapping[str, int]) -> bool:
        """Whether an example's completion is young enough and fits the sites that it has."""
        if kept is None or int(kept["age"]) >= self.refresh:
            return False
        values = kept["values"]
        return set(values) == set(lengths) and all(len(values[n]) == count for n, count in lengths.items())

"""Sums of energies: late composition of models and rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from ebmstruct.energies.model import EnergyModel, Inputs
from ebmstruct.errors import GraphError
from ebmstruct.graph import Discrete, Factor, FactorGraph, Variables


class SumOfEnergies(EnergyModel):
    """A weighted sum of energies, E = sum_i weight_i E_i: late composition of models and rules.

    The sum is over the union of the parts' blocks. Blocks of one name are the same variables and must agree in domain and
    in how many sites each instance has; a block that only some parts have (a latent one, say) is theirs alone.
    Each part keeps its factors, labelled ``part/label``, so that a result can be told apart by what decided it.
    An infinite entry of a part stays infinite whatever its weight.
    """

    def __init__(self, models: Sequence[EnergyModel], weights: Sequence[float], names: Sequence[str] = ()) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.weights = tuple(weights)
        self.names = tuple(names) or tuple(str(i) for i in range(len(models)))

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return _InputsOfParts([m.prepare(xs) for m in self._parts])

    @property
    def _parts(self) -> list[EnergyModel]:
        return cast("list[EnergyModel]", list(self.models))

    def forward(self, inputs: Any) -> FactorGraph:
        graphs = [model(part) for model, part in zip(self._parts, inputs.parts, strict=True)]
        blocks = _union_of_blocks(graphs, self.names)
        factors: list[Factor] = []
        constant: torch.Tensor | None = None
        for name, weight, graph in zip(self.names, self.weights, graphs, strict=True):
            for factor in graph.factors:
                scaled = factor if weight == 1.0 else factor.scaled(weight)
                factors.append(replace(scaled, label=f"{name}/{factor.label}"))
            if graph.constant is not None:
                constant = weight * graph.constant + (0.0 if constant is None else constant)
        total = FactorGraph(blocks, factors, constant=constant)
        for graph in graphs:
            total = total if graph.evidence is None else total.condition(graph.evidence)
        return total


def _union_of_blocks(graphs: Sequence[FactorGraph], names: Sequence[str]) -> list[Variables]:
    """The blocks of all parts, in the order in which they first appear; GraphError where two of one name differ."""
    blocks: dict[str, Variables] = {}
    owner: dict[str, str] = {}
    for part, graph in zip(names, graphs, strict=True):
        for name, block in graph.variables.items():
            if name not in blocks:
                blocks[name], owner[name] = block, part
            elif not _same(blocks[name], block):
                raise GraphError(
                    f"energies that are added share blocks by name, but {name!r} is {blocks[name]} in {owner[name]} and "
                    f"{block} in {part}; give it the same domain and sites in both, or another name in one of them"
                )
    return list(blocks.values())


def _same(one: Variables, other: Variables) -> bool:
    if not torch.equal(one.offsets, other.offsets):
        return False
    if isinstance(one.domain, Discrete) and isinstance(other.domain, Discrete):
        return torch.equal(one.state_counts, other.state_counts)
    return one.domain == other.domain


class _InputsOfParts:
    """The same inputs as each part of a sum prepared them."""

    def __init__(self, parts: Sequence[Inputs]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def select(self, positions: Sequence[int]) -> _InputsOfParts:
        return _InputsOfParts([p.select(positions) for p in self.parts])

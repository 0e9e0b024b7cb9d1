"""The base of energy models: torch modules from inputs to a factor graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from torch import nn

from ebmstruct.errors import GraphError
from ebmstruct.graph import Factor, FactorGraph


class Inputs(Protocol):
    """Inputs made ready once: ``len`` of them, and any selection by position."""

    def __len__(self) -> int: ...

    def select(self, positions: Sequence[int]) -> Inputs: ...


class InputList(list[Any]):
    """Inputs that need no preparation: a list with ``select``."""

    def select(self, positions: Sequence[int]) -> InputList:
        return InputList(self[i] for i in positions)


class EnergyModel(nn.Module, ABC):
    """A map from inputs x to a factor graph whose energy scores outputs and latent variables.

    Everything learned is a parameter of this module. A subclass takes ``schema`` first and its options
    as keyword arguments: these are the keys of the YAML section ``energy``.
    """

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        """Whatever can be computed from the inputs without parameters, once for a whole data set.

        The training loop calls it in training mode with the examples that the schema was fitted on.
        """
        return InputList(xs)

    @abstractmethod
    def forward(self, inputs: Any) -> FactorGraph:
        """The factor graph of a batch of prepared inputs: one instance each, in their order."""

    def graph(self, xs: Sequence[Any]) -> FactorGraph:
        """``prepare`` and ``forward`` in one step, for inputs that are seen once."""
        graph: FactorGraph = self(self.prepare(xs))
        return graph


class SumOfEnergies(EnergyModel):
    """A weighted sum of energies over the same variables: late composition of models and rules.

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
        first = graphs[0]
        factors: list[Factor] = []
        for name, weight, graph in zip(self.names, self.weights, graphs, strict=True):
            if graph.variables.keys() != first.variables.keys() or any(
                v.num_sites != first.variables[n].num_sites for n, v in graph.variables.items()
            ):
                raise GraphError(f"energies that are added need the same variables; found {first} and {graph}")
            for factor in graph.factors:
                scaled = factor if weight == 1.0 else factor.scaled(weight)
                factors.append(replace(scaled, label=f"{name}/{factor.label}"))
        return FactorGraph(tuple(first.variables.values()), factors)


class _InputsOfParts:
    """The same inputs as each part of a sum prepared them."""

    def __init__(self, parts: Sequence[Inputs]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def select(self, positions: Sequence[int]) -> _InputsOfParts:
        return _InputsOfParts([p.select(positions) for p in self.parts])

"""The base of energy models: torch modules from inputs to a factor graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import torch
from torch import Generator, Tensor, nn

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, Factor, FactorGraph, Variables

if TYPE_CHECKING:
    from ebmstruct.inference import Budget


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

    Everything learned is a parameter of this module. One that a task file names takes ``schema`` first and its options
    as keyword arguments: these are the keys of the YAML section ``energy``. The reusable energies of this package take
    sizes; a plugin derives from one, or holds one, and reads the sizes off its schema.
    """

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers lie, and so the graphs that ``forward`` makes; the CPU without any."""
        for tensor in chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")

    fixed: bool = False
    """Whether it was trained elsewhere: it then stays in evaluation mode, without dropout, while others are trained."""

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; an energy that is fixed stays in the second."""
        return super().train(mode and not self.fixed)

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        """Whatever can be computed from the inputs without parameters, once for a whole data set.

        The training loop calls it in training mode with the examples that the schema was fitted on.
        """
        return InputList(xs)

    @property
    def initialises(self) -> bool:
        """Whether ``initialise`` does anything."""
        return False

    def initialise(self, graph: FactorGraph, target: Assignment, generator: Generator) -> None:
        """Choose the first weights by outputs of the training data, before the first step of a training.

        graph, target: of some training examples, as many as thousands; sites may be unknown, as latent ones are.
        Biases begin at log odds, means at clusters (data-dependent starts; Salimans and Kingma 2016).
        """

    @abstractmethod
    def forward(self, inputs: Any) -> FactorGraph:
        """The factor graph of a batch of prepared inputs: one instance each, in their order."""

    def conditioned(
        self, inputs: Any, fixing: Callable[[FactorGraph], Assignment | None], budget: Budget | None = None
    ) -> tuple[FactorGraph, Mapping[str, Any]]:
        """The graph in which answers for prepared inputs are sought, given what ``fixing`` says of it, and facts about it.

        budget: when the answer must be there, for models that can do less in less time.
        """
        graph: FactorGraph = self(inputs)
        fixed = fixing(graph)
        return (graph if fixed is None else graph.condition(fixed)), {}

    def graph(self, xs: Sequence[Any]) -> FactorGraph:
        """``prepare`` and ``forward`` in one step, for inputs that are seen once."""
        graph: FactorGraph = self(self.prepare(xs))
        return graph


class Additions(EnergyModel):
    """An energy without variables of its own: it adds factors to the graph that other energies make."""

    def forward(self, inputs: Any) -> FactorGraph:
        """It makes no graph: GraphError."""
        name = type(self).__name__
        raise GraphError(f"{name} adds to other energies and makes no graph of its own; list it behind an energy")

    @abstractmethod
    def factors(self, graph: FactorGraph) -> list[Factor]:
        """What it adds to a graph."""


class SumOfEnergies(EnergyModel):
    """A weighted sum of energies: late composition of models and rules.

    The graph has the variables of all parts; blocks of one name must be the same in all, and a block that only some parts
    have (a latent one) is theirs. Each part keeps its factors, labelled ``part/label``, so that a result can be told apart
    by what decided it. ``Additions``, such as rules, add to what the others made. A block's first guess is that of the
    first part that has one.
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
    def initialises(self) -> bool:
        return any(part.initialises and not part.fixed for part in self._parts)

    def initialise(self, graph: FactorGraph, target: Assignment, generator: Generator) -> None:
        """Each part that starts from data, and is to be trained, does so by itself."""
        for part in self._parts:
            if part.initialises and not part.fixed:
                part.initialise(graph, target, generator)

    @property
    def _parts(self) -> list[EnergyModel]:
        return cast("list[EnergyModel]", list(self.models))

    def forward(self, inputs: Any) -> FactorGraph:
        variables: dict[str, Variables] = {}
        factors: list[Factor] = []
        guess: dict[str, Tensor] = {}
        evidence: list[Assignment] = []
        constant: Tensor | None = None
        parts = list(zip(self.names, self.weights, self._parts, inputs.parts, strict=True))
        for name, weight, model, part in parts:
            if isinstance(model, Additions):
                continue
            graph: FactorGraph = model(part)
            for block in graph.variables.values():
                _same(variables.setdefault(block.name, block), block, name)
            factors += _labelled(name, weight, graph.factors)
            guess = {**(graph.guess or {}), **guess}
            if graph.evidence is not None:
                evidence.append(graph.evidence)
            if graph.constant is not None:
                own = weight * graph.constant
                constant = own if constant is None else constant + own
        if not variables:
            raise GraphError(
                f"of the energies {', '.join(self.names)} none makes a graph; rules need an energy to add to"
            )
        graph = FactorGraph(tuple(variables.values()), factors, constant=constant, guess=guess or None)
        for fixed in evidence:
            graph = graph.condition(fixed)
        rules = [f for name, weight, model, _ in parts if isinstance(model, Additions)
                 for f in _labelled(name, weight, model.factors(graph))]  # fmt: skip
        return graph.add(*rules) if rules else graph


def _labelled(name: str, weight: float, factors: Sequence[Factor]) -> list[Factor]:
    scaled = [f if weight == 1.0 else f.scaled(weight) for f in factors]
    return [replace(f, label=f"{name}/{f.label}") for f in scaled]


def _same(first: Variables, other: Variables, part: str) -> None:
    """Raise GraphError unless two blocks of one name are the same block; part: whose the other is."""
    if isinstance(first.domain, Discrete) and isinstance(other.domain, Discrete):
        alike = first.num_sites == other.num_sites and torch.equal(first.state_counts, other.state_counts)
    else:
        alike = first.domain == other.domain
    if not alike or not torch.equal(first.offsets, other.offsets):
        raise GraphError(
            f"energies that are added need the same variables in blocks of one name; found {first}, and {other} in "
            f"{part}: mend one, or give it another name"
        )


class _InputsOfParts:
    """The same inputs as each part of a sum prepared them."""

    def __init__(self, parts: Sequence[Inputs]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def select(self, positions: Sequence[int]) -> _InputsOfParts:
        return _InputsOfParts([p.select(positions) for p in self.parts])

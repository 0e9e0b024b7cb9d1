"""The base of energy models: torch modules from inputs to a factor graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any, Protocol

import torch
from torch import nn

from ebmstruct.graph import FactorGraph


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
    as keyword arguments: these are the keys of the YAML section ``energy``. The energies of `ebmstruct.energies` take
    sizes; a plugin derives from one, or holds one, and reads the sizes off its schema.
    """

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers lie, and so the graphs that ``forward`` makes; the CPU without any."""
        for tensor in chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")

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

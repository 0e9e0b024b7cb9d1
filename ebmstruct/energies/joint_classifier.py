"""A classifier read as an energy of what it classifies and its class together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import BlockFactor, Discrete, FactorGraph, FunctionTableFactor, Real, Variables

KEPT = 4
"""Graphs that a model keeps, one a size of batch: they hold no numbers, and what is derived of their shape is kept too."""


class JointClassifier(EnergyModel):
    """E(x, c) = -f_c(x) + |x|^2 / (2 spread^2), f a classifier's scores: a joint energy model (Grathwohl et al. 2020).

    p(c | x) is the softmax of the scores, as ever. With the class summed out F(x) = -log sum_c exp f_c(x) + |x|^2 /
    (2 spread^2) is an energy of x alone: low for what looks like the training data, whatever its class.

    network: any module from (B, dim) to (B, classes), smooth where score matching or Langevin steps are wanted.
    spread: what keeps the density normalisable; None leaves the square out.  An input may be anything: only how many
    there are counts.  Blocks: ``block``, ``dim`` sites of one number an instance, so that any part of x may be known, and
    ``class_block``, one site.
    Inference: classes given x exactly; x given a class by samplers of smooth energies. Cost: one evaluation of the network
    for the energies of all classes.
    """

    def __init__(
        self,
        network: nn.Module,
        dim: int,
        classes: int,
        *,
        spread: float | None = 1.0,
        block: str = "x",
        class_block: str = "class",
    ) -> None:
        super().__init__()
        self.scores = Scores(network, dim)
        self.spread = None if spread is None else Square(dim, spread)
        self.dim, self.classes, self.block, self.class_block = dim, classes, block, class_block
        self._graphs: dict[tuple[int, torch.device], FactorGraph] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: everything but the graphs that are kept."""
        return {**self.__dict__, "_graphs": {}}

    def forward(self, inputs: Any) -> FactorGraph:
        key = len(inputs), self.device
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._made(len(inputs))
            self._graphs = {**dict(list(self._graphs.items())[1 - KEPT :]), key: graph}
        return graph

    def _made(self, count: int) -> FactorGraph:
        each = torch.arange(count + 1, device=self.device)
        x = Variables(self.block, Real(1), each * self.dim)
        c = Variables(self.class_block, Discrete(self.classes), each)
        graph = FactorGraph([x, c], [FunctionTableFactor((c.name, x.name), "scores", self.scores)])
        return graph if self.spread is None else graph.add(BlockFactor((x.name,), "spread", self.spread))


class Square(nn.Module):
    """|x|^2 / (2 spread^2) of vectors whose numbers are sites."""

    def __init__(self, dim: int, spread: float) -> None:
        super().__init__()
        self.dim, self.spread = dim, spread

    def forward(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of x (B dim, 1)."""
        return x.reshape(-1, self.dim).square().sum(1) / (2 * self.spread**2)


class Scores(nn.Module):
    """Energies of the classes: the classifier's scores turned round."""

    def __init__(self, network: nn.Module, dim: int) -> None:
        super().__init__()
        self.network, self.dim = network, dim

    def forward(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B, classes) of x (B dim, 1)."""
        weight = next(self.network.parameters(), torch.empty(0))
        out: Tensor = self.network(x.reshape(-1, self.dim).to(weight.dtype))
        return -out

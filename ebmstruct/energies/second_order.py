"""Chains of second order: energies of three sites in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.chain import ChainEnergy
from ebmstruct.energies.encoders import encoded, neighbours
from ebmstruct.energies.inputs import Sites
from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import FactorGraph, TableFactor


class SecondOrderChainEnergy(EnergyModel):
    """A chain in which a state depends on the two before it.

    E(x, y) = E_chain(x, y) + sum_t B[y_{t-2}, y_{t-1}, y_t], B learned and zero at first.

    width, states, encoder, block: as for `ChainEnergy`.  An input is a tensor (n, F).
    The block holds the states themselves, so that targets, partly known ones and costs are those of a chain.
    Inference: exact, by a junction tree with tables of K^3. A chain over pairs of states, as in ``nlp.second_order_chain``,
    takes a fifteenth of the time, but its targets must be spelt in pairs. Cost of the energy O(n K width).
    """

    def __init__(self, width: int, states: int, *, encoder: nn.Module | None = None, block: str = "y") -> None:
        super().__init__()
        self.encoder = encoder
        self.chain = ChainEnergy(width, states, block=block)
        self.triple = nn.Parameter(torch.zeros(states, states, states))

    def prepare(self, xs: Sequence[Any]) -> Sites:
        return Sites.of(xs)

    def forward(self, inputs: Sites) -> FactorGraph:
        sites = inputs.to(self.device)
        graph = self.chain.graph_of(encoded(self.encoder, sites.features, sites.offsets), sites.offsets)
        block = self.chain.block
        return graph.add(TableFactor((block,) * 3, "triple", self.triple, triples(sites.offsets)))


def triples(offsets: Tensor) -> Tensor:
    """(3, m) long: every three successive sites of an instance. O(n)."""
    around = neighbours(offsets, 1).T
    inside = (around < around.shape[1]).all(0)
    return around[:, inside]

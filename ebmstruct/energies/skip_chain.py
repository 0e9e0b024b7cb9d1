"""Skip chains: a linear chain with further energies between distant sites that the input joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ebmstruct.energies.chain import ChainEnergy
from ebmstruct.energies.encoders import encoded
from ebmstruct.energies.inputs import LinkedSites
from ebmstruct.energies.model import EnergyModel
from ebmstruct.energies.pairs import PairTables
from ebmstruct.graph import FactorGraph


class SkipChainEnergy(EnergyModel):
    """A linear chain whose distant sites are joined where the input says so (Sutton and McCallum 2004).

    E(x, y) = E_chain(x, y) + sum over links (i, j) of T_ij[y_i, y_j], with T_ij of `PairTables` from h_i and h_j. Links
    join, for example, words that are written alike, so that what is clear of one tells of the other.

    width, states, encoder, block: as for `ChainEnergy`.  link_width: of the features of links, 0 for none.
    directed: rows of T are the earlier end of a link; otherwise T is symmetric.
    An input is (features (n, F), links (2, m) long) or a `NodeGraph`. A pair that is listed twice counts once.
    Inference: links make cycles; exact by a junction tree where they are few and short, else messages or sampling.
    Cost of the energy O(n K width + m K^2 width).
    """

    def __init__(
        self,
        width: int,
        states: int,
        *,
        encoder: nn.Module | None = None,
        link_width: int = 0,
        directed: bool = False,
        block: str = "y",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.chain = ChainEnergy(width, states, block=block)
        self.links = PairTables(states, width=width, edge_width=link_width, directed=directed)

    def prepare(self, xs: Sequence[Any]) -> LinkedSites:
        return LinkedSites.of(xs)

    def forward(self, inputs: LinkedSites) -> FactorGraph:
        linked = inputs.to(self.device)
        h = encoded(self.encoder, linked.sites.features, linked.sites.offsets)
        pairs, features = linked.pairs(ordered=True)
        graph = self.chain.graph_of(h, linked.sites.offsets)
        return graph.add(self.links.factor(self.chain.block, "link", pairs, h, features))

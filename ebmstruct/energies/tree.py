"""Trees and forests over the sites of an input, given by each site's parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.encoders import encoded
from ebmstruct.energies.inputs import Sites, picked
from ebmstruct.energies.model import EnergyModel
from ebmstruct.energies.pairs import PairTables
from ebmstruct.errors import GraphError
from ebmstruct.graph import Discrete, FactorGraph, TableFactor, Variables


@dataclass(frozen=True, eq=False)
class TreeSites:
    """Sites with the parent of each.  parents: (n,) long, places within the same input; -1 at roots."""

    sites: Sites
    parents: Tensor

    @classmethod
    def of(cls, xs: Sequence[Any]) -> TreeSites:
        """From pairs (features (n, F), parents (n,) long). GraphError where parents do not exist or go in a circle."""
        sites = Sites.of([features for features, _ in xs])
        given = [torch.as_tensor(parents, dtype=torch.long) for _, parents in xs]
        parents = torch.cat(given) if given else torch.zeros(0, dtype=torch.long)
        found = cls(sites, parents)
        if parents.shape != (sites.features.shape[0],):
            raise GraphError(f"each of {sites.features.shape[0]} sites needs one parent; found {tuple(parents.shape)}")
        found._check()
        return found

    @property
    def pairs(self) -> Tensor:
        """(2, m) long: parent and child of every edge, as numbers among all sites."""
        child = (self.parents >= 0).nonzero()[:, 0]
        return torch.stack([self.parents[child] + self._begin[child], child])

    def __len__(self) -> int:
        return len(self.sites)

    def select(self, positions: Sequence[int]) -> TreeSites:
        return TreeSites(self.sites.select(positions), self.parents[picked(self.sites.offsets, positions)[0]])

    def to(self, device: torch.device | str) -> TreeSites:
        """The same on a device."""
        return TreeSites(self.sites.to(device), self.parents.to(device))

    @property
    def _begin(self) -> Tensor:
        return torch.repeat_interleave(self.sites.offsets[:-1], self.sites.offsets.diff())

    def _check(self) -> None:
        sizes = torch.repeat_interleave(self.sites.offsets.diff(), self.sites.offsets.diff())
        if bool(((self.parents < -1) | (self.parents >= sizes)).any()):
            raise GraphError("a parent is a place in the same input, or -1 at a root; found one outside")
        n = self.parents.numel()
        above = torch.cat([torch.where(self.parents < 0, n, self.parents + self._begin), torch.tensor([n])])
        for _ in range(n.bit_length()):  # each round doubles the distance: O(n log n)
            above = above[above]
        if bool((above != n).any()):
            raise GraphError("parents go in a circle; every site must lead to a root")


class TreeEnergy(EnergyModel):
    """A conditional random field over a tree or forest that comes with the input.

    E(x, y) = sum_i (W h_i + b)[y_i] + sum over children j of T_ij[y_i, y_j], i the parent of j, with h = encoder(x) and the
    tables T of `PairTables`, rows for the parent (as Cohn and Blunsom 2005 label semantic roles along parse trees).

    width: of the vectors h.  states: K.  encoder: as for `ChainEnergy`.
    pairwise: tables depend on both vectors; otherwise one is shared.
    An input is (features (n, F), parents (n,) long), -1 at roots.
    Inference: exact, by elimination along the forest. Cost of the energy O(n K width), with ``pairwise`` O(n K^2 width).
    """

    def __init__(
        self,
        width: int,
        states: int,
        *,
        encoder: nn.Module | None = None,
        pairwise: bool = False,
        block: str = "y",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(width, states)
        self.edges = PairTables(states, width=width if pairwise else 0, directed=True)
        self.states, self.block = states, block

    def prepare(self, xs: Sequence[Any]) -> TreeSites:
        return TreeSites.of(xs)

    def forward(self, inputs: TreeSites) -> FactorGraph:
        tree = inputs.to(self.device)
        h = encoded(self.encoder, tree.sites.features, tree.sites.offsets)
        block = Variables(self.block, Discrete(self.states), tree.sites.offsets)
        unary = TableFactor((self.block,), "site", self.output(h))
        return FactorGraph([block], [unary, self.edges.factor(self.block, "edge", tree.pairs, h)])

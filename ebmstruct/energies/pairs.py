"""Energies of pairs of sites that an input joins, as tables from the vectors of both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebmstruct.errors import GraphError
from ebmstruct.graph import TableFactor


class PairTables(nn.Module):
    """A table (K, K) for each pair (i, j) of sites: one that all share, and a part that depends on the pair.

    T_ij = S + V phi(e_ij), with e_ij the vectors of both sites and the features of the edge. directed: rows are the
    first site's state, and e_ij = [h_i, h_j, f_ij]. Otherwise e_ij = [h_i + h_j, |h_i - h_j|, f_ij] and T is symmetric, so
    that the order of a pair does not matter.

    states: K.  width: of the sites' vectors, 0 to leave them out.  edge_width: of the edges' features, 0 for none.
    hidden: units of phi, one layer with the smooth activation SiLU; 0 for phi(e) = e.  With both widths 0 the table is
    shared by all. Everything starts at zero: a model begins as one without pairs.
    """

    def __init__(
        self, states: int, *, width: int = 0, edge_width: int = 0, hidden: int = 0, directed: bool = False
    ) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(states, states))
        size = 2 * width + edge_width
        self.hidden = nn.Sequential(nn.Linear(size, hidden), nn.SiLU()) if hidden and size else None
        self.output = nn.Linear(hidden or size, states * states, bias=False) if size else None
        if self.output is not None:
            nn.init.zeros_(self.output.weight)
        self.states, self.width, self.edge_width, self.directed = states, width, edge_width, directed

    def forward(self, pairs: Tensor, h: Tensor, edge_features: Tensor | None = None) -> Tensor:
        """(m, K, K) tables of pairs (2, m), or (K, K) where all share one; h: (n, width); edge_features: (m, G)."""
        tables: Tensor = self.shared
        if self.output is not None:
            e = self._described(pairs, h, edge_features)
            e = e if self.hidden is None else self.hidden(e)
            tables = tables + self.output(e).reshape(-1, self.states, self.states)
        return tables if self.directed else 0.5 * (tables + tables.mT)

    def factor(
        self, block: str, label: str, pairs: Tensor, h: Tensor, edge_features: Tensor | None = None
    ) -> TableFactor:
        """The factor over pairs (2, m) of sites of a block."""
        return TableFactor((block, block), label, self(pairs, h, edge_features), pairs)

    def _described(self, pairs: Tensor, h: Tensor, edge_features: Tensor | None) -> Tensor:
        parts = []
        if self.width:
            first, second = h[pairs[0]], h[pairs[1]]
            parts = [first, second] if self.directed else [first + second, (first - second).abs()]
        if self.edge_width:
            if edge_features is None or edge_features.shape[1] != self.edge_width:
                found = "none" if edge_features is None else tuple(edge_features.shape)
                raise GraphError(f"features of edges must be ({pairs.shape[1]}, {self.edge_width}); found {found}")
            parts.append(edge_features)
        return torch.cat(parts, 1)

"""Prepared inputs that the energies here share: features side by side, without padding, and edges between sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebmstruct.errors import GraphError


@dataclass(frozen=True, eq=False)
class Rows:
    """One row of features for each of B inputs.  features: (B, F), or (B, ...) for images and the like."""

    features: Tensor

    @classmethod
    def of(cls, xs: Sequence[Any]) -> Rows:
        """Stack inputs that are tensors of one shape."""
        return cls(torch.stack([torch.as_tensor(x) for x in xs]))

    def __len__(self) -> int:
        return self.features.shape[0]

    def select(self, positions: Sequence[int]) -> Rows:
        return Rows(self.features[torch.as_tensor(positions, dtype=torch.long, device=self.features.device)])

    def to(self, device: torch.device | str) -> Rows:
        """The same on a device."""
        return Rows(self.features.to(device))


@dataclass(frozen=True, eq=False)
class Sites:
    """The features of the sites of B inputs, those of each input side by side.

    features: (n, F).  offsets: (B + 1,) long; input b owns the sites offsets[b] ... offsets[b + 1] - 1.
    """

    features: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, xs: Sequence[Any]) -> Sites:
        """Lay inputs (n_b, F) side by side; they may differ in length."""
        parts = [torch.as_tensor(x) for x in xs]
        lengths = torch.tensor([p.shape[0] for p in parts], dtype=torch.long)
        features = torch.cat(parts) if parts else torch.zeros(0, 0)
        return cls(features, offsets_of(lengths))

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def select(self, positions: Sequence[int]) -> Sites:
        rows, offsets = picked(self.offsets, positions)
        return Sites(self.features[rows], offsets)

    def to(self, device: torch.device | str) -> Sites:
        """The same on a device."""
        return Sites(self.features.to(device), self.offsets.to(device))


@dataclass(frozen=True, eq=False)
class NodeGraph:
    """One input that is a graph, with the names of torch_geometric's ``Data``, which may take its place.

    x: (n, F) features of nodes.  edge_index: (2, m) long, from and to.  edge_attr: (m, G) features of edges, or None.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LinkedSites:
    """Sites with edges between sites of the same input: the disjoint union of B graphs.

    edges: (2, m) long, from and to, as numbers among all n sites.  edge_offsets: (B + 1,) long, whose the edges are.
    counted: (m,) bool, one edge of each unordered pair, self-loops excluded: an edge that was listed in both directions,
    or twice, counts once.  edge_features: (m, G), or None.
    """

    sites: Sites
    edges: Tensor
    edge_offsets: Tensor
    counted: Tensor
    edge_features: Tensor | None = None

    @classmethod
    def of(cls, xs: Sequence[Any]) -> LinkedSites:
        """The union of graphs: `NodeGraph`, PyG's ``Data``, or tuples of its fields. GraphError on bad edges."""
        graphs = [_checked(NodeGraph(*x) if isinstance(x, tuple) else x, number) for number, x in enumerate(xs)]
        sites = Sites.of([g.x for g in graphs])
        lengths = torch.tensor([g.edge_index.shape[1] for g in graphs], dtype=torch.long)
        offsets = offsets_of(lengths)
        shift = torch.repeat_interleave(sites.offsets[:-1], lengths)
        edges = torch.cat([g.edge_index for g in graphs], 1) + shift if graphs else torch.zeros(2, 0, dtype=torch.long)
        given = [g.edge_attr for g in graphs if g.edge_attr is not None]
        if given and len(given) < len(graphs):
            raise GraphError("features of edges in some inputs and none in others; give them in every input or in none")
        return cls(sites, edges, offsets, first_of_pairs(edges), torch.cat(given) if given else None)

    def __len__(self) -> int:
        return len(self.sites)

    def select(self, positions: Sequence[int]) -> LinkedSites:
        rows, offsets = picked(self.edge_offsets, positions)
        sites = self.sites.select(positions)
        at = torch.as_tensor(positions, dtype=torch.long, device=offsets.device)
        shift = torch.repeat_interleave(sites.offsets[:-1] - self.sites.offsets[at], offsets.diff())
        features = None if self.edge_features is None else self.edge_features[rows]
        return LinkedSites(sites, self.edges[:, rows] + shift, offsets, self.counted[rows], features)

    def pairs(self, *, ordered: bool = False) -> tuple[Tensor, Tensor | None]:
        """(2, m') long: the pairs that count, once each, and the features of the edge that names each first.

        ordered: the lower site comes first, whichever way the edge was listed.
        """
        rows = self.counted.nonzero()[:, 0]
        pairs = self.edges[:, rows]
        features = None if self.edge_features is None else self.edge_features[rows]
        return (pairs.sort(0).values if ordered else pairs), features

    def links(self) -> tuple[Tensor, Tensor | None]:
        """(2, m') long: every edge as it was listed, and its features; self-loops are left out."""
        rows = (self.edges[0] != self.edges[1]).nonzero()[:, 0]
        return self.edges[:, rows], None if self.edge_features is None else self.edge_features[rows]

    def to(self, device: torch.device | str) -> LinkedSites:
        """The same on a device."""
        features = None if self.edge_features is None else self.edge_features.to(device)
        edges, offsets, counted = self.edges.to(device), self.edge_offsets.to(device), self.counted.to(device)
        return LinkedSites(self.sites.to(device), edges, offsets, counted, features)


def offsets_of(lengths: Tensor) -> Tensor:
    """(B + 1,) long: where each of B runs of these lengths begins, and where the last ends."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def picked(offsets: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The rows of some runs, in the order given, and the offsets of those runs. O(rows)."""
    at = torch.as_tensor(positions, dtype=torch.long, device=offsets.device)
    lengths = offsets.diff()[at]
    new = offsets_of(lengths)
    rows = torch.repeat_interleave(offsets[:-1][at] - new[:-1], lengths)
    return rows + torch.arange(rows.numel(), device=rows.device), new


def first_of_pairs(edges: Tensor) -> Tensor:
    """(m,) bool: the first edge (2, m) of each unordered pair of different sites. O(m log m)."""
    low, high = edges.min(0).values, edges.max(0).values
    size = int(edges.max()) + 1 if edges.numel() else 1
    found, code = torch.unique(low * size + high, return_inverse=True)
    rows = torch.arange(code.numel(), device=code.device)
    first = torch.full_like(found, code.numel()).scatter_reduce(0, code, rows, "amin")
    return (first[code] == rows) & (low != high)


def _checked(graph: Any, number: int) -> NodeGraph:
    """The graph with a column of features for each edge, where one number each was given; GraphError where it is none."""
    x, edges, features = graph.x, graph.edge_index, graph.edge_attr
    if x is None or edges is None or x.dim() != 2:
        raise GraphError(f"input {number}: x (n, F) and edge_index (2, m) are needed; found {graph}")
    sites = x.shape[0]
    if edges.dim() != 2 or edges.shape[0] != 2 or edges.dtype != torch.long:
        raise GraphError(
            f"input {number}: edges must be (2, m) long; found {edges.dtype} of shape {tuple(edges.shape)}"
        )
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= sites):
        raise GraphError(f"input {number}: an edge names a site that does not exist; it has sites 0 to {sites - 1}")
    if features is not None and features.shape[0] != edges.shape[1]:
        raise GraphError(f"input {number}: {edges.shape[1]} edges but {features.shape[0]} rows of features for them")
    return NodeGraph(x, edges, features[:, None] if features is not None and features.dim() == 1 else features)

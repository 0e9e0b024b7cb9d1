"""Which open latent sites hang together once everything else is given: the pieces into which their integral falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Continuous, Factor, FactorGraph


@dataclass(frozen=True, eq=False)
class LatentComponents:
    """The components of latent sites, and their coordinates in the vector of all latent steps.

    A step is the blocks' (n, t) steps, flattened one block after another.
    coordinate: (C, D) long, the places of each component's coordinates; the length of the vector where it has fewer.
    inside: (C, D) bool.  instance: (C,) long.  rows: factor label to (m,) long, the component that each row looks at, C
    where it looks at none; factors without rows have one for each instance.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    sizes: tuple[int, ...]
    coordinate: Tensor
    inside: Tensor
    instance: Tensor
    rows: dict[str, Tensor]

    @property
    def count(self) -> int:
        """C."""
        return self.coordinate.shape[0]

    @property
    def largest(self) -> int:
        """D, the coordinates of the largest component."""
        return self.coordinate.shape[1]

    @property
    def length(self) -> int:
        """The coordinates of all blocks, those of clamped sites included."""
        return sum(n * t for n, t in zip(self.sizes, self.widths, strict=True))

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """(length,) each: the component of every coordinate and its column there; component C at clamped sites."""
        component = torch.full((self.length + 1,), self.count, dtype=torch.long)
        column = torch.zeros_like(component)
        rows, columns = self.inside.nonzero(as_tuple=True)
        component[self.coordinate[rows, columns]] = rows
        column[self.coordinate[rows, columns]] = columns
        return component[:-1], column[:-1]

    def pack(self, steps: Sequence[Tensor]) -> Tensor:
        """(C, D): each component's coordinates of the blocks' steps; 0 where it has fewer."""
        flat = torch.cat([s.reshape(-1) for s in steps])
        return torch.cat([flat, flat.new_zeros(1)])[self.coordinate]

    def unpack(self, packed: Tensor) -> tuple[Tensor, ...]:
        """The blocks' (n, t) steps from (C, D); zero at clamped sites."""
        flat = packed.new_zeros(self.length + 1).index_put((self.coordinate[self.inside],), packed[self.inside])
        parts = flat[:-1].split([n * t for n, t in zip(self.sizes, self.widths, strict=True)])
        return tuple(p.reshape(n, t) for p, n, t in zip(parts, self.sizes, self.widths, strict=True))


def components(graph: FactorGraph, names: Sequence[str]) -> LatentComponents:
    """The components of the open sites of some continuous blocks, all other blocks being given.

    Two sites are in one component where a row looks at both; a factor without an index joins all of an instance.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    blocks = [graph.variables[n] for n in names]
    sizes = tuple(b.num_sites for b in blocks)
    widths = tuple(b.domain.tangent_dim for b in blocks if isinstance(b.domain, Continuous))
    first = dict(zip(names, np.cumsum([0, *sizes])[:-1].tolist(), strict=True))
    total = sum(sizes)
    is_open = torch.cat([torch.zeros(0, dtype=torch.bool), *(_open(graph, n) for n in names)]).numpy()
    members = {f.label: _members(graph, f, first, is_open) for f in graph.factors if set(f.scope) & set(names)}
    a = np.concatenate([np.zeros(0, np.int64), *(m[1][1:][m[0][1:] == m[0][:-1]] for m in members.values())])
    b = np.concatenate([np.zeros(0, np.int64), *(m[1][:-1][m[0][1:] == m[0][:-1]] for m in members.values())])
    joined = coo_array((np.ones(a.size), (a, b)), shape=(max(1, total), max(1, total)))
    labels = connected_components(joined, directed=False)[1] if total else np.zeros(0, np.int64)
    kept, number = np.unique(labels[is_open], return_inverse=True)
    component = np.full(total, kept.size)
    component[is_open] = number
    instance = np.concatenate([x.instance.cpu().numpy() for x in blocks]) if blocks else np.zeros(0, np.int64)
    owner = np.zeros(kept.size, np.int64)
    owner[number] = instance[is_open]
    coordinate, inside = _coordinates(component, kept.size, sizes, widths)
    rows = {label: _component_of_rows(m, component, kept.size) for label, m in members.items()}
    return LatentComponents(tuple(names), widths, sizes, coordinate, inside, torch.from_numpy(owner), rows)


def _open(graph: FactorGraph, name: str) -> Tensor:
    block, fixed = graph.variables[name], graph.evidence
    if fixed is None or name not in fixed.values:
        return torch.ones(block.num_sites, dtype=torch.bool)
    known = fixed.known.get(name)
    return torch.zeros(block.num_sites, dtype=torch.bool) if known is None else ~known


def _members(
    graph: FactorGraph, factor: Factor, first: dict[str, int], is_open: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs (row, open latent site), sorted by row, and the number of rows."""
    index = getattr(factor, "index", None)
    row, site = [], []
    for place, name in enumerate(factor.scope):
        if name not in first:
            continue
        block = graph.variables[name]
        if index is None:  # row b looks at all sites of instance b
            row.append(block.instance.numpy())
            site.append(np.arange(block.num_sites) + first[name])
        else:
            row.append(np.arange(index.shape[1]))
            site.append(index[place].numpy() + first[name])
    rows, sites = np.concatenate(row), np.concatenate(site)
    chosen = is_open[sites]
    rows, sites = rows[chosen], sites[chosen]
    order = np.argsort(rows, kind="stable")
    return rows[order], sites[order], graph.num_instances if index is None else index.shape[1]


def _component_of_rows(members: tuple[np.ndarray, np.ndarray, int], component: np.ndarray, none: int) -> Tensor:
    rows, sites, count = members
    out = np.full(count, none)
    out[rows] = component[sites]
    return torch.from_numpy(out)


def _coordinates(
    component: np.ndarray, count: int, sizes: tuple[int, ...], widths: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    each = np.repeat(np.array(widths, np.int64), np.array(sizes, np.int64))
    owner = np.repeat(component, each)
    length = owner.size
    order = np.argsort(owner, kind="stable")
    order = order[owner[order] < count]
    dims = np.bincount(owner[order], minlength=count)
    widest = int(dims.max(initial=0))
    coordinate = np.full((count, widest), length)
    column = np.arange(order.size) - np.repeat(np.cumsum(dims) - dims, dims)
    coordinate[owner[order], column] = order
    return torch.from_numpy(coordinate), torch.from_numpy(coordinate < length)

"""The residual factors of a graph as the rows of one least squares problem: which unknown each coordinate is, and where
the entries of the normal equations lie. It depends on the topology and on what is clamped only, and is kept with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ebmstruct.graph import Continuous, FactorGraph, Real, ResidualFactor, Variables
from ebmstruct.inference.kernels.banded.banded import BandLayout
from ebmstruct.inference.least_squares.sparse_cholesky import SparsePattern
from ebmstruct.inference.smooth_energy import open_continuous

Array = np.ndarray
NARROW = 40
"""Bands of at most this width are factorised as bands, without looking for anything better."""
SPARSE_PENALTY = 12.0
"""What a multiplication of a sparse factor costs, in those of a band."""


@dataclass(frozen=True, eq=False)
class RowPlaces:
    """Where the rows of one factor act.

    slots: the places of its scope that move.  blocks: for each, the position of its block among the open ones.
    columns: (m, T) the unknown of each tangent coordinate of those places, -1 where clamped.  owner: (m,) instances.
    pairs: (m, T (T + 1) / 2) where each pair's product goes in a sparse matrix; None where a band serves.
    """

    slots: tuple[int, ...]
    blocks: tuple[int, ...]
    columns: Array
    owner: Array
    pairs: Array | None = None

    def take(self, rows: Array) -> RowPlaces:
        """The same for some of the rows."""
        pairs = None if self.pairs is None else self.pairs[rows]
        return RowPlaces(self.slots, self.blocks, self.columns[rows], self.owner[rows], pairs)


@dataclass(frozen=True, eq=False)
class SparseLayout:
    """The upper half of J^T J of the whole batch. owner: (entries,) instances.  diagonal: (N,) places of its diagonal."""

    pattern: SparsePattern
    columns: Array
    owner: Array
    diagonal: Array


@dataclass(frozen=True, eq=False)
class ResidualView:
    """The unknowns: tangent coordinates of the open sites, those of each instance side by side in elimination order.

    names, domains: the open continuous blocks.  positions: for each (n, t) the unknown of each coordinate, N where the
    site is clamped.  offsets: (B + 1,).  lower, upper: (N,) bounds, None where there is none.
    rows: label to places, of the factors that act on an unknown.  sparse: None where the band serves better.
    """

    names: tuple[str, ...]
    domains: tuple[Continuous, ...]
    positions: tuple[Array, ...]
    offsets: Array
    rows: dict[str, RowPlaces]
    band: BandLayout
    sparse: SparseLayout | None
    lower: Array | None
    upper: Array | None

    @property
    def size(self) -> int:
        """N."""
        return int(self.offsets[-1])


def residual_view(graph: FactorGraph) -> ResidualView:
    """The view of a graph's residual factors that are no constraints; made once for each topology and pattern of clamps."""
    blocks = open_continuous(graph)
    factors = [f for f in graph.factors if isinstance(f, ResidualFactor) and not f.constraint]
    known = {b.name: _known(graph, b) for b in blocks}
    pattern = tuple((name, None if k is None else k.tobytes()) for name, k in known.items())
    labels = tuple(f.label for f in factors)
    return graph.topology.derive(("residual view", pattern, labels), lambda: _build(graph, blocks, factors, known))


def _known(graph: FactorGraph, block: Variables) -> Array | None:
    known = None if graph.evidence is None else graph.evidence.known.get(block.name)
    return None if known is None or not bool(known.any()) else known.cpu().numpy()


def _build(
    graph: FactorGraph, blocks: list[Variables], factors: list[ResidualFactor], known: dict[str, Array | None]
) -> ResidualView:
    names = [b.name for b in blocks]
    domains = tuple(b.domain for b in blocks if isinstance(b.domain, Continuous))
    scopes = [tuple((s, names.index(n)) for s, n in enumerate(f.scope) if n in names) for f in factors]
    instance = np.concatenate([np.zeros(0, np.int64), *(b.instance.cpu().numpy() for b in blocks)])
    is_open = [np.ones(b.num_sites, bool) if k is None else ~k for b, k in zip(blocks, known.values(), strict=True)]
    opened = np.concatenate([np.zeros(0, bool), *is_open])
    sizes = np.concatenate(
        [np.zeros(0, np.int64), *(np.full(b.num_sites, d.tangent_dim) for b, d in zip(blocks, domains, strict=True))]
    )
    base = np.concatenate([[0], np.cumsum([b.num_sites for b in blocks])])
    nodes = [
        np.stack([f.index[s].cpu().numpy() + base[b] for s, b in scope], 1) if scope else None
        for f, scope in zip(factors, scopes, strict=True)
    ]
    joined = [n for n in nodes if n is not None and n.size]
    sizes = np.where(opened, sizes, 0)
    first, widths = _best_order(instance, sizes, joined, graph.num_instances, len(blocks))
    counts = np.bincount(instance, sizes, graph.num_instances).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])
    positions = []
    for b, domain in enumerate(domains):
        span = slice(base[b], base[b + 1])
        place = first[span, None] + np.arange(domain.tangent_dim)
        positions.append(np.where(opened[span, None], place, total).astype(np.int64))
    rows: dict[str, RowPlaces] = {}
    for factor, scope in zip(factors, scopes, strict=True):
        if scope and factor.index.shape[1]:
            columns = np.concatenate([positions[b][factor.index[s].cpu().numpy()] for s, b in scope], 1)
            columns = np.where(columns == total, -1, columns)
            owner = graph.scope(factor)[0].instance[factor.index[0]].cpu().numpy()
            slots, which = (tuple(part) for part in zip(*scope, strict=True))
            rows[factor.label] = RowPlaces(slots, which, np.ascontiguousarray(columns), owner)
    band = BandLayout(offsets, widths)
    sparse, rows = _sparse(band, rows)
    return ResidualView(
        tuple(names), domains, tuple(positions), offsets, rows, band, sparse, *_bounds(domains, positions, total)
    )


def _bounds(domains: Sequence[Continuous], positions: Sequence[Array], size: int) -> tuple[Array | None, Array | None]:
    if not any(isinstance(d, Real) and d.bounded for d in domains):
        return None, None
    lower, upper = np.full(size + 1, -np.inf), np.full(size + 1, np.inf)  # one more, for what is clamped
    for domain, position in zip(domains, positions, strict=True):
        if isinstance(domain, Real) and domain.bounded:
            low, high = domain.bounds(torch.float64)
            lower[position], upper[position] = low.numpy(), high.numpy()
    return lower[:size], upper[:size]


def _best_order(
    instance: Array, sizes: Array, joined: list[Array], num_instances: int, num_blocks: int
) -> tuple[Array, Array]:
    """(sites,) the first unknown of each site, and (B,) the bandwidths: in natural order, or after Cuthill and McKee."""
    natural = np.argsort(instance, kind="stable")
    best = _placed(natural, instance, sizes, joined, num_instances)
    widest = max((int(sizes[n].sum(1).max()) for n in joined), default=1)
    if num_blocks == 1 and int(best[1].max(initial=0)) <= max(widest, 8):
        return best
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    pairs = [np.stack([n[:, i], n[:, j]]) for n in joined for i in range(n.shape[1]) for j in range(i)]
    if not pairs:
        return best
    rows, columns = np.concatenate(pairs, 1)
    kept = (sizes[rows] > 0) & (sizes[columns] > 0)
    rows, columns = rows[kept], columns[kept]
    near = coo_matrix(
        (np.ones(2 * rows.size, np.int8), (np.r_[rows, columns], np.r_[columns, rows])), (sizes.size,) * 2
    )
    order = reverse_cuthill_mckee(near.tocsr(), symmetric_mode=True)
    order = order[np.argsort(instance[order], kind="stable")]
    other = _placed(order, instance, sizes, joined, num_instances)
    counts = np.bincount(instance, sizes, num_instances)
    cheaper = (counts * np.square(other[1] + 1.0)).sum() < (counts * np.square(best[1] + 1.0)).sum()
    return other if cheaper else best


def _placed(
    order: Array, instance: Array, sizes: Array, joined: list[Array], num_instances: int
) -> tuple[Array, Array]:
    first = np.zeros(sizes.size, np.int64)
    first[order] = np.cumsum(sizes[order]) - sizes[order]
    widths = np.zeros(num_instances, np.int64)
    np.maximum.at(widths, instance, np.maximum(sizes - 1, 0))
    for nodes in joined:
        there = sizes[nodes] > 0
        low = np.where(there, first[nodes], np.iinfo(np.int64).max).min(1)
        high = np.where(there, first[nodes] + sizes[nodes] - 1, -1).max(1)
        some = high >= 0
        np.maximum.at(widths, instance[nodes[some, 0]], (high - low)[some])
    return first, widths


def _different(keys: Array) -> Array:
    """The keys that differ, in order; numpy's own ``unique`` hashes keys, and these collide by the million."""
    ordered = np.sort(keys)
    return ordered[np.diff(ordered, prepend=-2) != 0]


def _sparse(band: BandLayout, rows: dict[str, RowPlaces]) -> tuple[SparseLayout | None, dict[str, RowPlaces]]:
    """A sparse layout and the rows with their pairs, where it is expected to be cheaper than the band."""
    if int(band.width.max(initial=0)) <= NARROW:
        return None, rows
    size = int(band.offsets[-1])
    keys = [np.arange(size) * (size + 1)]
    found = {}
    for label, places in rows.items():
        a, b = np.tril_indices(places.columns.shape[1])
        low, high = np.minimum(places.columns[:, a], places.columns[:, b]), places.columns[:, a]
        high = np.maximum(high, places.columns[:, b])
        found[label] = np.where(low >= 0, high * size + low, -1)
        keys.append(_different(found[label].reshape(-1)))
    unique = _different(np.concatenate(keys))
    unique = unique[unique >= 0]
    columns, lower = unique // size, unique % size
    start = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=size))]).astype(np.int64)
    pattern = SparsePattern(size, start, lower.astype(np.int64))
    diagonal = np.searchsorted(unique, np.arange(size) * (size + 1))
    probe = np.full(unique.size, 1e-3 / size)
    probe[diagonal] = 1.0
    factor = pattern.factor(probe)
    if factor is None or SPARSE_PENALTY * float(np.square(np.diff(factor.lower_start) + 1.0).sum()) > band.operations:
        return None, rows
    owner = np.searchsorted(band.offsets, columns, side="right") - 1
    out = {}
    for label, places in rows.items():
        key = found[label]
        pairs = np.where(key >= 0, np.searchsorted(unique, key), -1)
        out[label] = RowPlaces(places.slots, places.blocks, places.columns, places.owner, pairs)
    return SparseLayout(pattern, columns, owner, diagonal), out

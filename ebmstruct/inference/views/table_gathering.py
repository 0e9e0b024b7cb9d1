"""The tables of a graph in one tensor, and the rows that look into them: before anything is closed or merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import BilinearFactor, ChainFactor, Factor, FactorGraph, GridFactor, TableFactor
from ebmstruct.inference.views.lines import ragged


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of two sites or more. start: into the flat tables; scale: into the flat weights, whose entry 0 is 1."""

    ptr: np.ndarray
    sites: np.ndarray
    start: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class Gathered:
    """All rows of a graph over two sites or more, as they come, with every site and state: nothing closed or merged.

    names, sizes: the blocks and their numbers of sites.  counts, instance: (N,) of each site.  ptr, sites: the sites of
    each row.  start: where its table begins in ``flat_tables``.  scale: where its weight is in ``gathered_scales``.
    to, source: the states of all sites that have energies of their own, and where these are in ``flat_tables``.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    instances: int
    counts: np.ndarray
    instance: np.ndarray
    ptr: np.ndarray
    sites: np.ndarray
    start: np.ndarray
    scale: np.ndarray
    to: np.ndarray
    source: np.ndarray


def gathered_rows(graph: FactorGraph) -> Gathered:
    """The rows of a graph; they depend on its topology only."""
    blocks = list(graph.variables.values())
    sizes, first = numbering(graph)
    begins = [0]
    for factor in graph.factors:
        begins.append(begins[-1] + sum(t.numel() for t in _tables_of(graph, factor)))
    rows = rows_of(graph, begins[:-1], first, [torch.ones(1, dtype=torch.float64)])
    counts = concatenated([b.state_counts.cpu().numpy() for b in blocks])
    instance = concatenated([b.instance.cpu().numpy() for b in blocks])
    starts = np.concatenate([[0], np.cumsum(counts)])
    entries = [(_indices(t), _indices(f)) for t, f in site_entries(graph, begins[:-1], starts, first)]
    return Gathered(
        names=tuple(graph.variables),
        sizes=sizes,
        instances=graph.num_instances,
        counts=counts,
        instance=instance,
        ptr=rows.ptr,
        sites=rows.sites.astype(np.int64),
        start=rows.start.astype(np.int64),
        scale=rows.scale,
        to=concatenated([t for t, _ in entries]),
        source=concatenated([f for _, f in entries]),
    )


def _indices(at: slice | Tensor) -> np.ndarray:
    return np.arange(at.start, at.stop) if isinstance(at, slice) else at.numpy()


def gathered_scales(graph: FactorGraph) -> Tensor:
    """The weights of rows: entry 0 is 1, then those of the pairs of each grid."""
    scales = [torch.ones(1, dtype=torch.float64)]
    for factor in graph.factors:
        if isinstance(factor, GridFactor):
            scales.append(factor.pairs(*graph.scope(factor))[1].cpu().double())
    return torch.cat(scales)


def excluded_of(graph: FactorGraph, starts: np.ndarray) -> Tensor | None:
    """``excluded_states`` of a graph whose sites' states begin at ``starts``."""
    return excluded_states(graph, starts, numbering(graph)[1])


def numbering(graph: FactorGraph) -> tuple[tuple[int, ...], dict[str, int]]:
    """The number of sites of each block, and the number of its first one among all sites."""
    sizes = tuple(b.num_sites for b in graph.variables.values())
    return sizes, dict(zip(graph.variables, np.cumsum([0, *sizes])[:-1].tolist(), strict=True))


def concatenated(parts: list[np.ndarray]) -> np.ndarray:
    """Whole numbers of several arrays, or of none, in one."""
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def _tables_of(graph: FactorGraph, factor: Factor) -> list[Tensor]:
    """The tables of a factor, in the order in which they lie in the flat ones."""
    if isinstance(factor, ChainFactor):
        return [factor.transition, *(e for e in (factor.start, factor.end) if e is not None)]
    if isinstance(factor, GridFactor):
        return [factor.table]
    if isinstance(factor, BilinearFactor):
        return [factor.tables(graph.scope(factor))]
    assert isinstance(factor, TableFactor)
    return [factor.tables]


def flat_tables(graph: FactorGraph) -> tuple[Tensor, list[int]]:
    """All tables, one after the other, and where each factor's begin."""
    parts, begins, total = [torch.zeros(0, dtype=torch.float64)], [], 0
    for factor in graph.factors:
        begins.append(total)
        for table in _tables_of(graph, factor):
            parts.append(table.cpu().double().reshape(-1))
            total += table.numel()
    return torch.cat(parts), begins


def site_energies(
    graph: FactorGraph, flat: Tensor, begins: list[int], starts: np.ndarray, first: dict[str, int]
) -> Tensor:
    """(states of all sites,) energies of single sites: tables of one site, chain ends, evidence."""
    out = flat.new_zeros(int(starts[-1]))
    for to, source in site_entries(graph, begins, starts, first):
        taken = flat[source]
        out = out + taken if to == slice(0, out.numel()) else _added(out, to, taken)
    banned = excluded_states(graph, starts, first)
    return out if banned is None else out.masked_fill(banned, torch.inf)


def _added(out: Tensor, to: slice | Tensor, taken: Tensor) -> Tensor:
    at = torch.arange(to.start, to.stop) if isinstance(to, slice) else to
    return out.index_add(0, at, taken)


def site_entries(
    graph: FactorGraph, begins: list[int], starts: np.ndarray, first: dict[str, int]
) -> Iterator[tuple[slice | Tensor, slice | Tensor]]:
    """Of every table of one site and every chain end: which states of all sites get energy, from which flat entries."""
    begin_of = torch.from_numpy(starts)
    for factor, begin in zip(graph.factors, begins, strict=True):
        (block, *_) = graph.scope(factor)
        site = first[factor.scope[0]]
        if isinstance(factor, TableFactor) and factor.arity == 1:
            if factor.index is None and not factor.shared and factor.starts is None:
                span = slice(int(starts[site]), int(starts[site + block.num_sites]))
                yield span, slice(begin, begin + span.stop - span.start)
                continue
            plain = factor.flat((block,))
            assert plain.index is not None and plain.starts is not None
            counts = block.state_counts.cpu()[plain.index[0].cpu()]
            yield ragged(begin_of[plain.index[0].cpu() + site], counts), ragged(plain.starts.cpu() + begin, counts)
        elif isinstance(factor, ChainFactor):
            at = begin + factor.transition.numel()
            for ends, sites in ((factor.start, block.first_sites), (factor.end, block.last_sites)):
                if ends is not None:
                    states = torch.arange(ends.numel())
                    to = (begin_of[sites.cpu() + site][:, None] + states).reshape(-1)
                    yield to, (at + states).repeat(sites.numel())
                    at += ends.numel()


def excluded_states(graph: FactorGraph, starts: np.ndarray, first: dict[str, int]) -> Tensor | None:
    """(states of all sites,) bool: those that the evidence excludes; None where it excludes none."""
    banned: Tensor | None = None
    for name, block in graph.variables.items():
        allowed = graph.allowed(name)
        if allowed is not None:
            within = torch.arange(allowed.shape[1]) < block.state_counts.cpu()[:, None]
            banned = torch.zeros(int(starts[-1]), dtype=torch.bool) if banned is None else banned
            begin = int(starts[first[name]])
            banned[begin : begin + int(within.sum())] = ~allowed.cpu()[within]
    return banned


def rows_of(graph: FactorGraph, begins: list[int], first: dict[str, int], scales: list[Tensor]) -> Rows:
    """The rows of all factors over two sites or more; the weights of grids are appended to ``scales``."""
    arity: list[np.ndarray] = []
    parts: list[Rows] = []
    for factor, begin in zip(graph.factors, begins, strict=True):
        scope = graph.scope(factor)
        scale = np.zeros(0, np.int64)
        if isinstance(factor, ChainFactor):
            (block,) = scope
            inner = np.nonzero(np.diff(block.instance.cpu().numpy(), prepend=-1) == 0)[0]
            index = np.stack([inner - 1, inner]) + first[block.name]
            size = factor.transition.shape[-1] ** 2 if factor.transition.dim() == 3 else 0
            start = begin + inner * size
        elif isinstance(factor, GridFactor):
            (block,) = scope
            pairs, weights = factor.pairs(block)
            index = pairs.cpu().numpy() + first[block.name]
            start = np.full(index.shape[1], begin)
            scale = np.arange(index.shape[1]) + sum(s.numel() for s in scales)
            scales.append(weights.cpu().double())
        elif isinstance(factor, BilinearFactor):
            shift = np.array([[first[name]] for name in factor.scope])
            index = factor.pairs(scope).cpu().numpy() + shift
            size = scope[0].discrete.largest * scope[1].discrete.largest
            start = begin + np.tile(
                np.arange(index.shape[1] // max(1, graph.num_instances)) * size, graph.num_instances
            )
        else:
            assert isinstance(factor, TableFactor)
            if factor.arity == 1:
                continue
            assert factor.index is not None
            shift = np.array([[first[name]] for name in factor.scope])
            index = factor.index.cpu().numpy() + shift
            given = factor.row_starts(scope)
            start = np.broadcast_to(given if isinstance(given, int) else given.cpu().numpy(), index.shape[1]) + begin
        rows = index.shape[1]
        arity.append(np.full(rows, index.shape[0]))
        scale = scale if scale.size == rows else np.zeros(rows, np.int64)
        parts.append(Rows(np.zeros(0), np.ascontiguousarray(index.T).reshape(-1), start, scale))
    ptr = np.concatenate([[0], np.cumsum(concatenated(arity))])
    return Rows(
        ptr,
        concatenated([p.sites for p in parts]),
        concatenated([p.start for p in parts]),
        concatenated([p.scale for p in parts]),
    )

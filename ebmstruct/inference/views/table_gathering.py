"""The tables of a graph in one tensor, and the rows that look into them: before anything is closed or merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import ChainFactor, Factor, FactorGraph, GridFactor, TableFactor
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


def gathered_rows(graph: FactorGraph) -> Gathered:
    """The rows of a graph; they depend on its topology only."""
    blocks = list(graph.variables.values())
    sizes, first = numbering(graph)
    begins = [0]
    for factor in graph.factors:
        begins.append(begins[-1] + sum(t.numel() for t in _tables_of(factor)))
    rows = rows_of(graph, begins[:-1], first, [torch.ones(1, dtype=torch.float64)])
    counts = concatenated([b.state_counts.cpu().numpy() for b in blocks])
    instance = concatenated([b.instance.cpu().numpy() for b in blocks])
    names = tuple(graph.variables)
    return Gathered(
        names, sizes, graph.num_instances, counts, instance, rows.ptr, rows.sites.astype(np.int64),
        rows.start.astype(np.int64), rows.scale,
    )  # fmt: skip


def gathered_scales(graph: FactorGraph) -> Tensor:
    """The weights of rows: entry 0 is 1, then those of the pairs of each grid."""
    scales = [torch.ones(1, dtype=torch.float64)]
    for factor in graph.factors:
        if isinstance(factor, GridFactor):
            scales.append(factor.pairs(*graph.scope(factor))[1].cpu().double())
    return torch.cat(scales)


def unary_of(graph: FactorGraph, flat: Tensor, begins: list[int]) -> Tensor:
    """(states of all sites,) the energies of single sites, from ``flat_tables``; excluded states are infinite."""
    _, first = numbering(graph)
    starts = np.concatenate(
        [[0], np.cumsum(concatenated([b.state_counts.cpu().numpy() for b in graph.variables.values()]))]
    )
    return site_energies(graph, flat, begins, starts, first)


def numbering(graph: FactorGraph) -> tuple[tuple[int, ...], dict[str, int]]:
    """The number of sites of each block, and the number of its first one among all sites."""
    sizes = tuple(b.num_sites for b in graph.variables.values())
    return sizes, dict(zip(graph.variables, np.cumsum([0, *sizes])[:-1].tolist(), strict=True))


def concatenated(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def _tables_of(factor: Factor) -> list[Tensor]:
    """The tables of a factor, in the order in which they lie in the flat ones."""
    if isinstance(factor, ChainFactor):
        return [factor.transition, *(e for e in (factor.start, factor.end) if e is not None)]
    if isinstance(factor, GridFactor):
        return [factor.table]
    assert isinstance(factor, TableFactor)
    return [factor.tables]


def flat_tables(graph: FactorGraph) -> tuple[Tensor, list[int]]:
    """All tables, one after the other, and where each factor's begin."""
    parts, begins, total = [torch.zeros(0, dtype=torch.float64)], [], 0
    for factor in graph.factors:
        begins.append(total)
        for table in _tables_of(factor):
            parts.append(table.cpu().double().reshape(-1))
            total += table.numel()
    return torch.cat(parts), begins


def site_energies(
    graph: FactorGraph, flat: Tensor, begins: list[int], starts: np.ndarray, first: dict[str, int]
) -> Tensor:
    """(states of all sites,) energies of single sites: tables of one site, chain ends, evidence."""
    out = flat.new_zeros(int(starts[-1]))
    begin_of = torch.from_numpy(starts)
    for factor, begin in zip(graph.factors, begins, strict=True):
        (block, *_) = graph.scope(factor)
        site = first[factor.scope[0]]
        if isinstance(factor, TableFactor) and factor.arity == 1:
            if factor.index is None and not factor.shared and factor.starts is None:
                span = slice(int(starts[site]), int(starts[site + block.num_sites]))
                if span == slice(0, out.numel()):
                    out = out + flat[begin : begin + out.numel()]
                else:
                    out = out.index_add(
                        0, torch.arange(span.start, span.stop), flat[begin : begin + factor.tables.numel()]
                    )
                continue
            plain = factor.flat((block,))
            assert plain.index is not None and plain.starts is not None
            counts = block.state_counts.cpu()[plain.index[0].cpu()]
            to = ragged(begin_of[plain.index[0].cpu() + site], counts)
            out = out.index_add(0, to, flat[ragged(plain.starts.cpu() + begin, counts)])
        elif isinstance(factor, ChainFactor):
            at = begin + factor.transition.numel()
            for ends, sites in ((factor.start, block.first_sites), (factor.end, block.last_sites)):
                if ends is not None:
                    states = torch.arange(ends.numel())
                    to = (begin_of[sites.cpu() + site][:, None] + states).reshape(-1)
                    out = out.index_add(0, to, flat[at : at + ends.numel()].repeat(sites.numel()))
                    at += ends.numel()
    for name, block in graph.variables.items():
        allowed = graph.allowed(name)
        if allowed is not None:
            within = torch.arange(allowed.shape[1]) < block.state_counts.cpu()[:, None]
            banned = torch.zeros_like(out, dtype=torch.bool)
            begin = int(starts[first[name]])
            banned[begin : begin + int(within.sum())] = ~allowed.cpu()[within]
            out = out.masked_fill(banned, torch.inf)
    return out


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

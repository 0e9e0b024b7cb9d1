"""A graph's values laid out as the chain and forest kernels take them; differentiable in the factors' values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import ChainFactor, FactorGraph, TableFactor
from ebmstruct.inference.structure import ChainFacts, ForestFacts


@dataclass(frozen=True, eq=False)
class ChainView:
    """A chain's energies divided by the temperature: the arguments of ``kernels.chain``, in its layout."""

    emission: Tensor
    transition: Tensor
    start: Tensor | None
    end: Tensor | None
    offsets: Tensor

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
        """In the order in which the kernels take them."""
        return self.emission, self.transition, self.start, self.end, self.offsets


def chain_view(graph: FactorGraph, facts: ChainFacts, temperature: float = 1.0) -> ChainView:
    """Lay out a chain; where one unary table serves and nothing is clamped, nothing is copied."""
    block = graph.variables[facts.block]
    chains = [graph.factors[i] for i in facts.chains]
    parts = []
    for position in facts.unaries:
        factor = graph.factors[position]
        assert isinstance(factor, TableFactor)
        parts.append(unary_rows(factor, block.num_sites, facts.num_states))
    transitions: list[Tensor] = [f.transition for f in chains if isinstance(f, ChainFactor)]
    starts = [f.start for f in chains if isinstance(f, ChainFactor) and f.start is not None]
    ends = [f.end for f in chains if isinstance(f, ChainFactor) and f.end is not None]
    transition = reduce(torch.add, transitions)
    emission = reduce(torch.add, parts) if parts else transition.new_zeros(block.num_sites, facts.num_states)
    allowed = graph.allowed(facts.block)
    if allowed is not None:
        emission = emission.masked_fill(~allowed, torch.inf)
    dtype = torch.promote_types(emission.dtype, transition.dtype)
    start = reduce(torch.add, starts).to(dtype) if starts else None
    end = reduce(torch.add, ends).to(dtype) if ends else None
    emission, transition = emission.to(dtype), transition.to(dtype)
    if temperature != 1.0:
        emission, transition = emission / temperature, transition / temperature
        start = None if start is None else start / temperature
        end = None if end is None else end / temperature
    return ChainView(emission, transition, start, end, block.offsets)


def unary_rows(factor: TableFactor, sites: int, states: int) -> Tensor:
    """(n, K) energies of a table over single sites; all have K states."""
    if factor.index is None and factor.starts is None:
        return factor.tables if factor.tables.dim() == 2 else factor.tables.expand(sites, states)
    if factor.starts is None:
        assert factor.index is not None
        rows = factor.tables if factor.tables.dim() == 2 else factor.tables.expand(factor.index.shape[1], states)
    else:
        at = factor.starts[:, None] + torch.arange(states, device=factor.tables.device)
        rows = factor.tables.index_select(0, at.reshape(-1)).reshape(-1, states)
    if factor.index is None:
        return rows
    return rows.new_zeros(sites, states).index_add(0, factor.index[0], rows)


@dataclass(frozen=True, eq=False)
class ForestView:
    """A forest's energies divided by the temperature: the arguments of ``kernels.forest``, in its layout.

    edge_of: (n,) for each site with a parent, the first pair (position in ``facts.pairs``) that joins them, else -1.
    """

    num_states: Tensor
    starts: Tensor
    unary: Tensor
    parent: Tensor
    order: Tensor
    tables: Tensor
    table_start: Tensor
    transposed: Tensor
    instance: Tensor
    num_instances: int
    edge_of: np.ndarray

    @property
    def arguments(
        self,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int]:
        """In the order in which the kernels take them."""
        return (
            self.unary,
            self.tables,
            self.num_states,
            self.starts,
            self.parent,
            self.order,
            self.table_start,
            self.transposed,
            self.instance,
            self.num_instances,
        )


def forest_view(graph: FactorGraph, facts: ForestFacts, temperature: float = 1.0) -> ForestView:
    """Lay out a forest; tables that several pairs share are not copied, unless two factors join one pair."""
    plan = graph.topology.derive("forest_plan", lambda: _plan(graph, facts))
    unary = _forest_unary(graph, facts)
    flats = [
        f.transition.reshape(-1) if isinstance(f, ChainFactor) else f.tables.reshape(-1) for f in _pair_factors(graph)
    ]
    tables = torch.cat([t.to(unary.dtype) for t in flats]) if flats else unary.new_zeros(0)
    if plan.extra_size:
        merged = tables.new_zeros(plan.extra_size).index_add(0, plan.extra_to, tables.index_select(0, plan.extra_from))
        tables = torch.cat([tables, merged])
    if temperature != 1.0:
        unary, tables = unary / temperature, tables / temperature
    return ForestView(
        plan.num_states,
        plan.starts,
        unary,
        plan.parent,
        plan.order,
        tables,
        plan.table_start,
        plan.transposed,
        plan.instance,
        graph.num_instances,
        plan.edge_of,
    )


def _pair_factors(graph: FactorGraph) -> list[ChainFactor | TableFactor]:
    return [f for f in graph.factors if isinstance(f, ChainFactor) or (isinstance(f, TableFactor) and f.arity == 2)]


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where each edge's table will lie in the concatenation of all pair factors' tables, plus merged ones."""

    num_states: Tensor
    starts: Tensor
    parent: Tensor
    order: Tensor
    instance: Tensor
    table_start: Tensor
    transposed: Tensor
    edge_of: np.ndarray
    extra_size: int
    extra_from: Tensor
    extra_to: Tensor


def _plan(graph: FactorGraph, facts: ForestFacts) -> _Plan:
    pairs, k = facts.pairs, facts.num_states
    sizes = {}
    begin = 0
    for position, factor in enumerate(graph.factors):
        if isinstance(factor, ChainFactor) or (isinstance(factor, TableFactor) and factor.arity == 2):
            sizes[position] = begin
            begin += factor.transition.numel() if isinstance(factor, ChainFactor) else factor.tables.numel()
    base = np.array([sizes.get(i, 0) for i in range(len(graph.factors))], dtype=np.int64)
    where = pairs.start + base[pairs.factor]
    n = k.size
    child = np.where(facts.parent[pairs.first] == pairs.second, pairs.first, pairs.second)
    transposed_edge = child == pairs.second
    table_start, transposed = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    edge_of = np.full(n, -1, np.int64)
    edge_of[child[::-1]] = np.arange(child.size)[::-1]
    table_start[child], transposed[child] = where, transposed_edge
    times = np.bincount(child, minlength=n)
    source, target, extra = [], [], 0
    for site in np.nonzero(times > 1)[0].tolist():
        rows, columns = int(k[site]), int(k[facts.parent[site]])
        cells = np.arange(rows * columns)
        for edge in np.nonzero(child == site)[0].tolist():
            step = (cells % columns) * rows + cells // columns if transposed_edge[edge] else cells
            source.append(where[edge] + step)
            target.append(extra + cells)
        table_start[site], transposed[site] = begin + extra, False
        extra += rows * columns
    empty = np.zeros(0, np.int64)
    as_tensor = torch.from_numpy
    return _Plan(
        as_tensor(k),
        as_tensor(facts.starts),
        as_tensor(facts.parent),
        as_tensor(np.ascontiguousarray(facts.order)),
        as_tensor(facts.instance),
        as_tensor(table_start),
        as_tensor(transposed),
        edge_of,
        extra,
        as_tensor(np.concatenate(source) if source else empty),
        as_tensor(np.concatenate(target) if target else empty),
    )


def _forest_unary(graph: FactorGraph, facts: ForestFacts) -> Tensor:
    """(sum of state counts,) the energies of single sites: tables of one site, chain ends, evidence."""
    dtype = reduce(
        torch.promote_types, [v.dtype for f in graph.factors for v in f.values() if v is not None], torch.float32
    )
    out = torch.zeros(int(facts.starts[-1]), dtype=dtype)
    starts = torch.from_numpy(facts.starts)
    for factor in graph.factors:
        first = facts.site_offset[factor.scope[0]] if factor.scope else 0
        (block, *_) = graph.scope(factor)
        if isinstance(factor, TableFactor) and factor.arity == 1:
            flat = factor.flat((block,))
            assert flat.index is not None and flat.starts is not None
            counts = block.state_counts[flat.index[0]]
            to, source = ragged(starts[flat.index[0] + first], counts), ragged(flat.starts, counts)
            out = out.index_add(0, to, flat.tables.index_select(0, source).to(dtype))
        elif isinstance(factor, ChainFactor):
            filled = (block.lengths > 0).nonzero()[:, 0]
            states = torch.arange(factor.transition.shape[-1])
            for ends, sites in ((factor.start, block.offsets[filled]), (factor.end, block.offsets[filled + 1] - 1)):
                if ends is not None:
                    to = (starts[sites + first][:, None] + states).reshape(-1)
                    out = out.index_add(0, to, ends.to(dtype).repeat(sites.numel()))
    for name, block in graph.variables.items():
        allowed = graph.allowed(name)
        if allowed is not None:
            inside = torch.arange(allowed.shape[1]) < block.state_counts[:, None]
            begin = int(starts[facts.site_offset[name]])
            banned = torch.zeros_like(out, dtype=torch.bool)
            banned[begin : begin + int(inside.sum())] = ~allowed[inside]
            out = out.masked_fill(banned, torch.inf)
    return out


def ragged(starts: Tensor, counts: Tensor) -> Tensor:
    """Concatenated ranges starts[j] ... starts[j] + counts[j] - 1."""
    total = int(counts.sum())
    rows = torch.repeat_interleave(torch.arange(counts.numel()), counts, output_size=total)
    within = torch.arange(total) - (counts.cumsum(0) - counts)[rows]
    return starts[rows] + within

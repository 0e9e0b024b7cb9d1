"""Instances that no answer can be trusted about: a table entry is NaN or minus infinity."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ebmstruct.graph import BilinearFactor, ChainFactor, Factor, FactorGraph, GridFactor, SegmentFactor, TableFactor
from ebmstruct.inference.result import Answer, Marginals, Result, Samples, Status

TABLES = (TableFactor, ChainFactor, GridFactor, BilinearFactor, SegmentFactor)
"""Factors whose values are tables of energies."""


def broken_instances(graph: FactorGraph) -> Tensor | None:
    """(B,) bool: the instances of which some table holds NaN or minus infinity; None where none does.

    Cost: a look at every table entry. Factors without tables are not looked at; their energies are certified.
    """
    out: Tensor | None = None
    for factor in graph.factors:
        if not isinstance(factor, TABLES):
            continue
        if not any(_least_is_bad(v) for v in factor.values() if v is not None and v.numel()):
            continue
        mine = _instances_of(graph, factor)
        out = mine if out is None else out | mine
    return out


def mended(graph: FactorGraph, broken: Tensor) -> FactorGraph:
    """The graph with 0 in place of such entries, so that solvers can answer for the other instances."""
    values = {}
    for factor in graph.factors:
        if isinstance(factor, TABLES):
            values[factor.label] = [None if v is None else torch.where(_bad(v), 0.0, v) for v in factor.values()]
    return graph.with_values(values)


def marked(answer: Answer, broken: Tensor) -> Answer:
    """The answer with its broken instances NONFINITE: no energy, no bound, no beliefs."""
    status = torch.where(broken, int(Status.NONFINITE), answer.status)
    if isinstance(answer, Result):
        return replace(
            answer,
            energy=answer.energy.masked_fill(broken, torch.nan),
            lower_bound=answer.lower_bound.masked_fill(broken, -torch.inf),
            status=status,
        )
    if isinstance(answer, Marginals):
        return replace(answer, log_partition=answer.log_partition.masked_fill(broken, torch.nan), status=status)
    assert isinstance(answer, Samples)
    return replace(answer, energy=answer.energy.masked_fill(broken, torch.nan), status=status)


def _bad(values: Tensor) -> Tensor:
    return values.isnan() | torch.isneginf(values)


def _least_is_bad(values: Tensor) -> bool:
    """The same of any entry, in one pass: a minimum is NaN where some entry is."""
    least = float(values.detach().min())
    return least != least or least == -torch.inf


def _instances_of(graph: FactorGraph, factor: Factor) -> Tensor:
    """(B,) bool: the instances that a broken entry of one factor belongs to; all, where the entry is shared."""
    everywhere = torch.ones(graph.num_instances, dtype=torch.bool)
    if isinstance(factor, SegmentFactor):
        return _of_segments(graph, factor)
    if not isinstance(factor, TableFactor) or factor.shared:
        return everywhere
    scope = graph.scope(factor)
    owner = factor.row_instance(scope)
    starts = factor.row_starts(scope)
    if owner is None or isinstance(starts, int):
        return everywhere
    size: int | Tensor = 1
    for count in factor.sizes(scope):
        size = size * count
    bad = torch.nn.functional.pad(_bad(factor.tables).reshape(-1).long().cumsum(0), (1, 0))
    rows = bad[starts + size] > bad[starts]
    return torch.zeros(graph.num_instances, dtype=torch.bool).index_fill(0, owner[rows], True)


def _of_segments(graph: FactorGraph, factor: SegmentFactor) -> Tensor:
    """The same for segments: those with a broken segment, or all where a shared table is; unread entries do not count."""
    (block,) = graph.scope(factor)
    if any(bool(_bad(v).any()) for v in factor.values()[:-1] if v is not None) or factor.segments is None:
        return torch.ones(graph.num_instances, dtype=torch.bool)
    left = block.offsets[1:][block.instance] - torch.arange(block.num_sites)
    read = torch.arange(factor.max_length) < left[:, None]
    rows = (_bad(factor.segments).any(2) & read).any(1)
    return torch.zeros(graph.num_instances, dtype=torch.bool).index_fill(0, block.instance[rows], True)

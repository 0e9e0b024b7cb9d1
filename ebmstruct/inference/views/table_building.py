"""How a table view is made: gather all tables, drop states and sites that the evidence closes, merge like rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.views.lines import ragged
from ebmstruct.inference.views.table_gathering import (
    Rows,
    concatenated,
    flat_tables,
    numbering,
    rows_of,
    site_energies,
)
from ebmstruct.inference.views.table_view import TableView


@dataclass(frozen=True, eq=False)
class _Level:
    """A graph partly reduced: its open sites and states with their own numbers, and what is left of its energies."""

    counts: np.ndarray
    instance: np.ndarray
    site: np.ndarray
    state: np.ndarray
    unary: Tensor
    rows: Rows
    flat: Tensor
    constant: Tensor

    @property
    def starts(self) -> np.ndarray:
        """(n + 1,) where each site's states begin."""
        return np.concatenate([[0], np.cumsum(self.counts)])


def build(graph: FactorGraph) -> TableView:
    """The view; gradients flow from it to the factors' values where they are on."""
    blocks = list(graph.variables.values())
    sizes, first = numbering(graph)
    counts = concatenated([b.state_counts.cpu().numpy() for b in blocks])
    instance = concatenated([b.instance.cpu().numpy() for b in blocks])
    starts = np.concatenate([[0], np.cumsum(counts)])
    flat, begins = flat_tables(graph)
    scales = [torch.ones(1, dtype=torch.float64)]
    unary = site_energies(graph, flat, begins, starts, first)
    rows = rows_of(graph, begins, first, scales)
    weights = torch.cat(scales)
    constant = torch.zeros(graph.num_instances, dtype=torch.float64)
    if graph.constant is not None:
        constant = constant + graph.constant.cpu().double()
    states = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    level = _Level(counts, instance, np.arange(counts.size), states, unary, rows, flat, constant)
    closed = np.full(counts.size, -1)
    while True:
        level = _shrink(level, weights, closed)
        merged = _merge(level, weights)
        if merged is level:
            break
        level = merged  # rows that have become one may leave states without support that each of them gave
    return TableView(
        names=tuple(graph.variables),
        sizes=sizes,
        largest=tuple(b.discrete.largest for b in blocks),
        num_instances=graph.num_instances,
        num_states=level.counts,
        starts=level.starts,
        instance=level.instance,
        row_ptr=level.rows.ptr,
        row_sites=level.rows.sites,
        table_start=level.rows.start,
        open_site=level.site,
        state=level.state,
        closed=closed,
        instance_of_all=instance,
        unary=level.unary,
        tables=level.flat,
        weights=weights[torch.from_numpy(level.rows.scale)],
        constant=level.constant,
    )


def _shrink(level: _Level, weights: Tensor, closed: np.ndarray) -> _Level:
    """Drop states without support, and close sites with one state left, whose states are written to ``closed``."""
    starts, counts, tensor = level.starts, level.counts, torch.from_numpy
    allowed = ~torch.isposinf(level.unary.detach()).numpy()
    lost = _propagate(allowed, counts, starts, level.rows, level.flat)
    kept = np.add.reduceat(allowed, starts[:-1]).astype(np.int64) if counts.size else counts
    opened = kept > 1
    constant = level.constant
    if lost.any():
        constant = constant.index_fill(0, tensor(np.unique(level.instance[lost])), torch.inf)
    if allowed.all() and opened.all():
        return replace(level, constant=constant)
    chosen = np.nonzero(allowed)[0]
    owner = np.repeat(np.arange(counts.size), counts)[chosen]
    shut, only = np.nonzero(~opened)[0], chosen[~opened[owner]]
    closed[level.site[shut]] = level.state[only]
    constant = constant.index_add(0, tensor(level.instance[shut]), level.unary[tensor(only)])
    inside = chosen[opened[owner]]
    shrunk = replace(
        level,
        counts=kept[opened],
        instance=level.instance[opened],
        site=level.site[opened],
        state=level.state[inside],
        unary=level.unary[tensor(inside)],
        constant=constant,
    )
    return _slice(level, shrunk, weights, kept, chosen - starts[owner], opened)


def _row_sizes(rows: Rows, counts: np.ndarray) -> np.ndarray:
    if not rows.start.size:
        return np.zeros(0, np.int64)
    return np.multiply.reduceat(counts[rows.sites], rows.ptr[:-1])


def _propagate(allowed: np.ndarray, counts: np.ndarray, starts: np.ndarray, rows: Rows, flat: Tensor) -> np.ndarray:
    """Drop unsupported states from ``allowed``; (n,) bool: sites that lost all of theirs."""
    from ebmstruct.inference.kernels import reduction_numba as kernels

    lost = np.zeros(counts.size, np.bool_)
    if counts.size:
        lost = ~np.logical_or.reduceat(allowed, starts[:-1])
        allowed[starts[:-1][lost]] = True
    if not rows.start.size or not bool(torch.isposinf(flat.detach()).any()):
        return lost
    values = flat.detach().numpy()
    hard = kernels.row_is_hard(rows.start, _row_sizes(rows, counts), values)
    order = np.argsort(rows.sites, kind="stable")
    site_ptr = np.concatenate([[0], np.cumsum(np.bincount(rows.sites, minlength=counts.size))])
    site_rows = np.repeat(np.arange(rows.start.size), np.diff(rows.ptr))[order]
    more = kernels.propagate(allowed, starts, rows.ptr, rows.sites, rows.start, values, hard, site_ptr, site_rows)
    return lost | more


def _slice(
    old: _Level, new: _Level, weights: Tensor, kept: np.ndarray, kept_states: np.ndarray, opened: np.ndarray
) -> _Level:
    """Rows over the open sites and states; those over one open site or none go to the unaries and the constant.

    kept: (n,) how many states each old site keeps.  kept_states: which, one site after the other.
    """
    from ebmstruct.inference.kernels.reduction_numba import remaining

    rows, tensor = old.rows, torch.from_numpy
    if not rows.start.size:
        return new
    number = np.cumsum(opened) - 1
    touched = np.nonzero(np.add.reduceat(((kept != old.counts) | ~opened)[rows.sites], rows.ptr[:-1]))[0]
    size = _row_sizes(rows, kept)[touched]
    out_ptr = np.concatenate([[0], np.cumsum(size)])
    source = np.empty(int(out_ptr[-1]), np.int64)
    kept_ptr = np.concatenate([[0], np.cumsum(kept)])
    remaining(touched, rows.ptr, rows.sites, rows.start, old.starts, kept_ptr, kept_states, out_ptr, source)
    entries = old.flat[tensor(source)] * weights[tensor(np.repeat(rows.scale[touched], size))]
    arity = np.add.reduceat(opened[rows.sites].astype(np.int64), rows.ptr[:-1])
    start, scale = rows.start.copy(), rows.scale.copy()
    start[touched] = old.flat.numel() + out_ptr[:-1]
    scale[touched] = 0
    unary, constant = new.unary, new.constant
    alone = np.nonzero(arity[touched] == 1)[0]
    if alone.size:
        slots = rows.sites[_slots(rows, touched[alone])]
        target, counts = new.starts[number[slots[opened[slots]]]], tensor(size[alone])
        unary = unary.index_add(0, ragged(tensor(target), counts), entries[ragged(tensor(out_ptr[:-1][alone]), counts)])
    none = np.nonzero(arity[touched] == 0)[0]
    if none.size:
        owner = old.instance[rows.sites[rows.ptr[:-1][touched[none]]]]
        constant = constant.index_add(0, tensor(owner), entries[tensor(out_ptr[:-1][none])])
    stays = arity >= 2
    sites = rows.sites[_slots(rows, np.nonzero(stays)[0])]
    ptr = np.concatenate([[0], np.cumsum(arity[stays])]).astype(np.int64)
    left = Rows(ptr, number[sites[opened[sites]]], start[stays], scale[stays])
    return replace(new, unary=unary, constant=constant, rows=left, flat=torch.cat([old.flat, entries]))


def _slots(rows: Rows, chosen: np.ndarray) -> np.ndarray:
    """Positions in ``rows.sites`` of the slots of some rows."""
    return ragged(torch.from_numpy(rows.ptr[:-1][chosen]), torch.from_numpy(np.diff(rows.ptr)[chosen])).numpy()


def _merge(level: _Level, weights: Tensor) -> _Level:
    """Rows over the same sites become one, whose table is their sum over the first one's order of sites."""
    rows, flat, counts = level.rows, level.flat, level.counts
    groups = _same_sites(rows, counts.size)
    if not groups:
        return level
    source, target, scale = [], [], []
    start, weight = rows.start.copy(), rows.scale.copy()
    gone = np.zeros(rows.start.size, np.bool_)
    total = 0
    for group in groups:
        sites = rows.sites[rows.ptr[group[0]] : rows.ptr[group[0] + 1]]
        shape = tuple(counts[sites].tolist())
        size = int(np.prod(shape))
        for row in group:
            own = rows.sites[rows.ptr[row] : rows.ptr[row + 1]]
            place = [own.tolist().index(s) for s in sites.tolist()]
            cells = np.arange(size).reshape(counts[own]).transpose(place).reshape(-1)
            source.append(rows.start[row] + cells)
            target.append(total + np.arange(size))
            scale.append(np.full(size, rows.scale[row]))
        start[group[0]] = flat.numel() + total
        weight[group[0]] = 0
        gone[group[1:]] = True
        total += size
    tensor = torch.from_numpy
    entries = flat[tensor(np.concatenate(source))] * weights[tensor(np.concatenate(scale))]
    merged = flat.new_zeros(total).index_add(0, tensor(np.concatenate(target)), entries)
    stays = np.nonzero(~gone)[0]
    ptr = np.concatenate([[0], np.cumsum(np.diff(rows.ptr)[stays])])
    kept = Rows(ptr, rows.sites[_slots(rows, stays)], start[stays], weight[stays])
    return replace(level, rows=kept, flat=torch.cat([flat, merged]))


def _same_sites(rows: Rows, sites: int) -> list[np.ndarray]:
    """Groups of two rows or more over the same set of sites."""
    arity = np.diff(rows.ptr)
    out: list[np.ndarray] = []
    for size in np.unique(arity).tolist():
        chosen = np.nonzero(arity == size)[0]
        scopes = np.sort(rows.sites[_slots(rows, chosen)].reshape(-1, size), axis=1)
        order = (
            np.lexsort(scopes.T[::-1]) if size > 2 else np.argsort(scopes[:, 0] * sites + scopes[:, 1], kind="stable")
        )
        ordered = scopes[order]
        edges = np.nonzero((ordered[1:] != ordered[:-1]).any(1))[0] + 1
        if edges.size + 1 < chosen.size:
            out += [chosen[np.sort(g)] for g in np.split(order, edges) if g.size > 1]
    return out

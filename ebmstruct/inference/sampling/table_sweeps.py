"""Gibbs sweeps of many chains on tables whose values change from call to call: structure is laid out once a topology."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.views.table_gathering import Gathered, flat_tables, gathered_rows, gathered_scales, unary_of

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.sampling.lane_sweeps_numba import Rows

DRAWS_AT_ONCE = 1 << 18
"""Uniform numbers drawn together, for several sweeps."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What does not change with the tables' values.

    alike: whether all instances have the same rows over the same tables, so that each is a lane of its own over the
    sites of one; else a lane is a chain of all instances.  sites: how many sites a lane has, block after block.
    rows, scale: the rows by site, and where each row's weight is.
    """

    alike: bool
    names: tuple[str, ...]
    sites: tuple[int, ...]
    instances: int
    states: np.ndarray
    rows: Rows
    scale: np.ndarray
    joins: np.ndarray

    def lanes(self, values: Mapping[str, Tensor]) -> np.ndarray:
        """(n, L) int32: a lane a column, from block name to (C, N_block) values."""
        parts = [values[n].reshape(-1, s) for n, s in zip(self.names, self.sites, strict=True)]
        return np.ascontiguousarray(torch.cat(parts, 1).to(torch.int32).numpy().T)

    def values(self, x: np.ndarray) -> dict[str, Tensor]:
        """Block name to (C, N_block) long, from lanes."""
        own = torch.from_numpy(x.T.astype(np.int64))
        chains = own.shape[0] // self.instances if self.alike else own.shape[0]
        parts = own.split(self.sites, 1)
        return {n: p.reshape(chains, -1) for n, p in zip(self.names, parts, strict=True)}


@dataclass(frozen=True, eq=False)
class TableSweeps:
    """Heat-bath sweeps over a graph that ``table_refusal`` takes, of as many chains as are handed in.

    Sites are visited one after the other in their order, so a sweep is a step of Gibbs sampling (Geman and Geman 1984).
    Clamped sites and excluded states have no probability. Unlike a table view this keeps every site and row, which makes
    it quick to build where values have changed, and its sweeps a little slower where evidence closes much.
    independent: whether no row joins two open sites: then one sweep draws them exactly, from any start.
    """

    graph: FactorGraph
    layout: Layout
    unary: np.ndarray
    tables: np.ndarray
    weights: np.ndarray
    order: np.ndarray
    finite: bool

    @classmethod
    def of(cls, graph: FactorGraph) -> TableSweeps:
        """The sweeps of a graph with its present values, without gradients."""
        layout = graph.topology.derive("table sweeps", lambda: lay_out_lanes(gathered_rows(graph)))
        with torch.no_grad():
            flat, begins = flat_tables(graph)
            unary = unary_of(graph, flat, begins).numpy()
            weights = gathered_scales(graph).numpy()[layout.scale]
        tables = flat.numpy()
        states = int(layout.states.sum())
        if layout.alike:
            counts = _block_states(layout)
            at = np.cumsum([0, *(c * layout.instances for c in counts)])
            parts = [unary[a : a + c * layout.instances].reshape(-1, c) for a, c in zip(at[:-1], counts, strict=True)]
            unary = np.ascontiguousarray(np.concatenate(parts, 1).T)
        else:
            unary = unary.reshape(states, 1)
        open_states = np.add.reduceat(np.isfinite(unary), layout.rows.starts[:-1], axis=0) if states else unary
        order = np.nonzero((open_states != 1).any(1))[0] if states else np.zeros(0, np.int64)
        return cls(graph, layout, unary, tables, weights, order, bool(np.isfinite(tables).all()))

    @property
    def independent(self) -> bool:
        """Whether no row joins two open sites."""
        mask = np.zeros(self.layout.states.size, np.bool_)
        mask[self.order] = True
        joins = self.layout.joins
        return not (mask[joins[0]] & mask[joins[1]]).any()

    def run(
        self, values: Mapping[str, Tensor], sweeps: int, temperature: float, generator: Generator
    ) -> dict[str, Tensor]:
        """Block name to (C, N_block) long: where chains that stand at ``values`` (C, N_block) are after some sweeps."""
        from ebmstruct.inference.kernels.sampling.lane_sweeps_numba import sweep

        x = self.layout.lanes(values)
        self._pin(x)
        lanes, sites = x.shape[1], self.order.size
        energy = np.zeros((int(self.layout.states.max(initial=2)), lanes))
        ahead = max(1, DRAWS_AT_ONCE // max(1, lanes * sites))
        draws: list[np.ndarray] = []
        for at in range(sweeps):
            if not draws:
                count = min(ahead, sweeps - at)
                noise = torch.rand(count, sites, lanes, dtype=torch.float64, generator=generator)
                draws = list(noise.numpy())
            sweep(
                self.layout.rows, self.unary, self.tables, self.weights, self.finite, self.order, x, draws.pop(0),
                float(temperature), energy,
            )  # fmt: skip
        return self.layout.values(x)

    def _pin(self, x: np.ndarray) -> None:
        """Put sites with one state left to it, where no sweep goes."""
        pinned = np.setdiff1d(np.arange(x.shape[0]), self.order)
        if not pinned.size:
            return
        finite, starts = np.isfinite(self.unary), self.layout.rows.starts
        rank = np.arange(finite.shape[0]) - np.repeat(starts[:-1], self.layout.states)
        own = np.add.reduceat(np.where(finite, rank[:, None], 0), starts[:-1], axis=0)[pinned]
        x[pinned] = np.tile(own, x.shape[1] // own.shape[1])


def _block_states(layout: Layout) -> list[int]:
    """How many states the sites of each block have together, in one lane."""
    ends = np.cumsum([0, *layout.sites])
    return [int(layout.states[a:b].sum()) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def lay_out_lanes(rows: Gathered) -> Layout:
    """The layout of a graph's rows; cost: a sort of their slots, and only those of one instance where all are alike."""
    one = _of_one_instance(rows)
    own = rows if one is None else one
    from ebmstruct.inference.kernels.sampling.lane_sweeps_numba import Rows

    arity = np.diff(own.ptr)
    owner = np.repeat(np.arange(arity.size), arity)
    stride = np.ones(own.sites.size, np.int64)
    for place in range(2, int(arity.max(initial=0)) + 1):
        slot = own.ptr[1:][arity >= place] - place
        stride[slot] = stride[slot + 1] * own.counts[own.sites[slot + 1]]
    order = np.argsort(own.sites, kind="stable")
    inc_ptr = np.concatenate([[0], np.cumsum(np.bincount(own.sites, minlength=own.counts.size))])
    row = owner[order]
    others = arity[row]
    slots = np.repeat(own.ptr[row] - (np.cumsum(others) - others), others) + np.arange(int(others.sum()))
    mine = np.repeat(order, others)
    away = slots != mine
    laid = Rows(
        np.concatenate([[0], np.cumsum(own.counts)]),
        inc_ptr,
        own.start[row],
        stride[order],
        row,
        np.concatenate([[0], np.cumsum(others - 1)]),
        own.sites[slots[away]],
        stride[slots[away]],
    )
    joins = np.stack([own.sites[mine[away]], own.sites[slots[away]]])
    sites = rows.sizes if one is None else tuple(s // rows.instances for s in rows.sizes)
    return Layout(one is not None, rows.names, sites, rows.instances, own.counts, laid, own.scale, joins)


def _of_one_instance(rows: Gathered) -> Gathered | None:
    """The rows of the first instance with sites numbered within it, where all instances are alike; else None."""
    count = rows.instances
    if count < 2 or rows.scale.any() or any(s % count for s in rows.sizes):
        return None
    local = np.zeros(rows.counts.size, np.int64)
    first, before = 0, 0
    for size in rows.sizes:
        each = size // count
        if (rows.instance[first : first + size] != np.repeat(np.arange(count), each)).any():
            return None
        local[first : first + size] = np.tile(np.arange(each), count) + before
        first, before = first + size, before + each
    states = np.zeros(before, np.int64)
    states[local[rows.instance == 0]] = rows.counts[rows.instance == 0]
    if (rows.counts != states[local]).any():
        return None
    owner = rows.instance[rows.sites[rows.ptr[:-1]]]
    arity = np.diff(rows.ptr)
    each = owner.size // count
    if owner.size != each * count or (np.bincount(owner, minlength=count) != each).any():
        return None
    order = np.argsort(owner, kind="stable")
    start, width = rows.start[order].reshape(count, each), arity[order].reshape(count, each)
    if (start != start[0]).any() or (width != width[0]).any():
        return None
    slot_order = np.argsort(np.repeat(owner, arity), kind="stable")
    sites = local[rows.sites[slot_order]].reshape(count, -1)
    if (sites != sites[0]).any():
        return None
    ptr = np.concatenate([[0], np.cumsum(width[0])])
    return Gathered(
        rows.names, rows.sizes, count, states, np.zeros(before, np.int64), ptr, sites[0], start[0],
        np.zeros(each, np.int64),
    )  # fmt: skip

"""Gibbs sweeps and energies of many chains on tables whose values change; structure is laid out once a topology."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.sampling.lane_layout import Layout, lay_out_lanes
from ebmstruct.inference.sampling.motion import versions
from ebmstruct.inference.views.table_gathering import excluded_of, flat_tables, gathered_rows, gathered_scales

DRAWS_AT_ONCE = 1 << 18
"""Uniform numbers drawn together, for several sweeps."""


@dataclass(frozen=True, eq=False)
class TableSweeps:
    """Heat-bath sweeps over a graph that ``table_refusal`` takes, and energies, of as many chains as are handed in.

    Sites are visited one after the other in their order, so a sweep is a step of Gibbs sampling (Geman and Geman 1984).
    Clamped sites and excluded states have no probability. Unlike a table view this keeps every site and row, which makes
    it quick to build where values have changed, and its sweeps a little slower where evidence closes much.
    unary: (states, W) energies of single sites, lane l has column l % W.  tables, weights: of rows.  All three are
    differentiable in the factors' values, where this was made with gradients on.
    """

    layout: Layout
    constant: Tensor | None
    unary: Tensor
    tables: Tensor
    weights: Tensor

    @classmethod
    def of(cls, graph: FactorGraph) -> TableSweeps:
        """The sweeps of a graph with its present values; without gradients they are made once for these."""
        if torch.is_grad_enabled():
            return cls._made(graph)
        now = versions(graph)
        before = _MADE.get(graph)
        if before is None or before[0] != now:
            before = now, cls._made(graph)
            with _LOCK:
                _MADE[graph] = before
        return before[1]

    @classmethod
    def _made(cls, graph: FactorGraph) -> TableSweeps:
        layout = graph.topology.derive("table sweeps", lambda: lay_out_lanes(gathered_rows(graph)))
        flat, _ = flat_tables(graph)
        unary = flat.new_zeros(layout.states * layout.wide).index_add(0, layout.to, flat[layout.source])
        unary = unary.reshape(layout.states, layout.wide)
        if graph.evidence is not None:
            banned = excluded_of(graph, layout.all_starts)
            if banned is not None:
                own = layout.by_lane(banned)
                unary = unary.expand(own.shape).masked_fill(own, torch.inf)
        return cls(layout, graph.constant, unary, flat, gathered_scales(graph)[layout.scale])

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """unary, tables and weights without gradients."""
        return tuple(t.detach().contiguous().numpy() for t in (self.unary, self.tables, self.weights))  # type: ignore[return-value]

    @cached_property
    def finite(self) -> bool:
        """Whether the tables of all rows and sites are finite, up to what evidence excludes."""
        return bool(np.isfinite(self.arrays[1]).all())

    @cached_property
    def order(self) -> np.ndarray:
        """The sites that have more than one state left, in any lane."""
        finite = np.isfinite(self.arrays[0])
        if not finite.size:
            return np.zeros(0, np.int64)
        left = np.add.reduceat(finite, self.layout.rows.starts[:-1], axis=0, dtype=np.int64)
        return np.nonzero((left != 1).any(1))[0]

    @property
    def independent(self) -> bool:
        """Whether no row joins two open sites: then one sweep draws them exactly, from any start."""
        mask = np.zeros(self.layout.rows.starts.size - 1, np.bool_)
        mask[self.order] = True
        one, other = self.layout.joins
        return not (mask[one] & mask[other]).any()

    def run(
        self, values: Mapping[str, Tensor], sweeps: int, temperature: float, generator: Generator
    ) -> dict[str, Tensor]:
        """Block name to (C, N_block) long: where chains that stand at ``values`` (C, N_block) are after some sweeps."""
        from ebmstruct.inference.kernels.sampling.lane_sweeps_numba import sweep

        x = self.layout.lanes(values)
        self._pin(x)
        (unary, tables, weights), order = self.arrays, self.order
        lanes, sites = x.shape[1], order.size
        energy = np.zeros((max(2, self.layout.most), lanes))
        ahead = max(1, DRAWS_AT_ONCE // max(1, lanes * sites))
        draws: list[np.ndarray] = []
        for at in range(sweeps):
            if not draws:
                count = min(ahead, sweeps - at)
                noise = torch.rand(count, sites, lanes, dtype=torch.float64, generator=generator)
                draws = list(noise.numpy())
            sweep(
                self.layout.rows, unary, tables, weights, self.finite, order, x, draws.pop(0), float(temperature), energy
            )  # fmt: skip
        return self.layout.values(x)

    def energies(self, values: Mapping[str, Tensor]) -> Tensor:
        """(C, B) float64: the energy of each instance in each chain, differentiable where this was made so."""
        x = self.layout.lanes(values)
        found: Tensor = _Energies.apply(self.unary, self.tables, self.weights, self.layout, x)  # type: ignore[no-untyped-call]
        out = found.reshape(-1, self.layout.instances)
        return out if self.constant is None else out + self.constant.double()

    def _pin(self, x: np.ndarray) -> None:
        """Put sites with one state left to it, where no sweep goes."""
        starts = self.layout.rows.starts
        if self.order.size == x.shape[0]:
            return
        pinned = np.setdiff1d(np.arange(x.shape[0]), self.order)
        finite = np.isfinite(self.arrays[0])
        rank = np.arange(finite.shape[0]) - np.repeat(starts[:-1], np.diff(starts))
        own = np.add.reduceat(np.where(finite, rank[:, None], 0), starts[:-1], axis=0)[pinned]
        x[pinned] = np.tile(own, x.shape[1] // own.shape[1])


_MADE: weakref.WeakKeyDictionary[FactorGraph, tuple[tuple[int, ...], TableSweeps]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


class _Energies(torch.autograd.Function):
    """(L, instances) energies of lanes; its gradient by single sites, tables and weights counts entries."""

    @staticmethod
    def forward(ctx: Any, unary: Tensor, tables: Tensor, weights: Tensor, layout: Layout, x: np.ndarray) -> Tensor:
        """The energies at ``x`` (n, L)."""
        from ebmstruct.inference.kernels.sampling.lane_sweeps_numba import energies

        arrays = [t.detach().contiguous().numpy() for t in (unary, tables, weights)]
        out = np.zeros((layout.inside, x.shape[1]))
        finite = bool(np.isfinite(arrays[1]).all())
        energies(layout.terms, layout.rows.starts, *arrays, finite, x, out)
        ctx.kept = layout, x, arrays, finite
        return torch.from_numpy(np.ascontiguousarray(out.T))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:  # type: ignore[override]
        """The gradients by unary, tables and weights."""
        from ebmstruct.inference.kernels.sampling.lane_sweeps_numba import energy_gradients

        layout, x, (unary, tables, weights), finite = ctx.kept
        by_unary, by_tables = np.zeros(unary.shape), np.zeros(tables.shape)
        by_weights = np.zeros(weights.size if ctx.needs_input_grad[2] else 0)
        own = np.ascontiguousarray(slope.double().numpy().T)
        energy_gradients(
            layout.terms, layout.rows.starts, own, tables, weights, finite, x, by_unary, by_tables, by_weights
        )  # fmt: skip
        further = torch.from_numpy(by_weights) if by_weights.size else None
        return torch.from_numpy(by_unary), torch.from_numpy(by_tables), further, None, None

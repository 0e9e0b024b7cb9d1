"""Dual ascent over the rows of a table view: float64 sweeps, any arity, and the best parts of all labellings seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct.inference.views.table_view import TableView

STEP_WORK = 4_000_000
"""Table entries and messages that one step reads: a few milliseconds."""

PATIENCE = 5
"""After so many passes in a row without a gain an instance ends."""

DESCENTS = 3
"""Sweeps of coordinate descent after each decoding."""


@dataclass(eq=False)
class TableAscent:
    """The state of SRMP (Kolmogorov 2015) on a table view; arrays are per instance (B,) or per open site.

    arrays: what ``kernels.dual_ascent_numba`` calls a view.  parts: the sites of each step of a half pass.
    messages: flat by ``TableView.message_ptr``; after a pass they prove ``bound``.
    """

    view: TableView
    arrays: tuple[Any, ...]
    messages: np.ndarray
    proven: np.ndarray
    labels: np.ndarray
    trial: np.ndarray
    energy: np.ndarray
    bound: np.ndarray
    done: np.ndarray
    parts: list[tuple[int, int, bool]]
    tolerance: float
    max_iterations: int
    running: np.ndarray
    stalls: np.ndarray
    passes: int = 0
    cursor: int = 0

    @property
    def values(self) -> dict[str, Tensor]:
        """The best labelling, of all blocks."""
        return self.view.expand(self.labels)

    @property
    def gave_up(self) -> np.ndarray:
        """(B,) whether an instance ended because its passes were used up."""
        return self.done & ~self.closed() & (self.stalls < PATIENCE) & (self.passes >= self.max_iterations)

    def step(self) -> bool:
        """Visit the next sites, and judge the labelling after each half pass; whether anything was judged."""
        from ebmstruct.inference.kernels.messages import dual_ascent_numba as kernels

        judged = False
        while self.cursor < len(self.parts):
            first, last, forth = self.parts[self.cursor]
            kernels.sweep(first, last, forth, self.arrays, ~self.done, self.messages, self.trial, self.running)
            self.cursor += 1
            half = 2 * self.cursor == len(self.parts)
            if half or self.cursor == len(self.parts):
                self._take_best()
                judged = True
            if half:
                self.running[:] = 0
            if len(self.parts) > 2:
                break
        if self.cursor == len(self.parts):
            self._finish_pass()
        return judged

    def _take_best(self) -> None:
        """Descend from the decoded labelling, and take over every part of it that costs less than the best one's."""
        from ebmstruct.inference.kernels.messages import dual_ascent_numba as kernels

        active = ~self.done
        kernels.descend(self.arrays, active, self.trial, DESCENTS)
        changed = kernels.merge(self.arrays, active, self.labels, self.trial)
        if changed.any():
            self.energy = np.where(active, self.view.energy(self.labels), self.energy)

    def _finish_pass(self) -> None:
        self.cursor = 0
        self.passes += 1
        active = ~self.done
        bound = np.where(active, self.running + self.view.constant.numpy(), self.bound)
        gain = np.subtract(bound, self.bound, out=np.zeros_like(bound), where=active)
        self.running = np.zeros_like(bound)
        self.bound = bound
        slow = gain <= self.tolerance * np.maximum(1.0, np.abs(bound))
        hopeless = ~active | ~(1000 * gain >= np.where(active, self.energy, np.inf) - np.where(active, bound, 0.0))
        self.stalls = np.where(slow & hopeless, self.stalls + 1, 0)
        self.done |= active & (self.closed() | (self.stalls >= PATIENCE) | (self.passes >= self.max_iterations))
        if len(self.parts) > 2:
            self.proven = self.messages.copy()

    def closed(self) -> np.ndarray:
        """(B,) whether the best labelling is proven least."""
        finite = np.isfinite(self.energy)
        gap = np.where(finite, self.energy, 0.0) - self.bound
        return finite & (gap <= 1e-9 * np.maximum(1.0, np.abs(self.energy)))

    def witness(self) -> tuple[Tensor, np.ndarray]:
        """The messages after the last whole pass, and the (B,) bounds that they prove."""
        return torch.from_numpy(self.proven if len(self.parts) > 2 else self.messages), self.bound


def begin_tables(view: TableView, init: np.ndarray | None, tolerance: float, max_iterations: int) -> TableAscent:
    """The state before the first pass: no messages, each site's cheapest state (or ``init``), a bound of no message."""
    from ebmstruct.inference.kernels.messages import dual_ascent_numba as kernels
    from ebmstruct.inference.kernels.messages import pair_minima_numba as minima

    unary, tables, weights = view.arrays
    site_ptr, site_row, site_slot = view.site_rows
    order = np.lexsort((view.row_sites, np.repeat(np.arange(view.num_rows), view.arity)))
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size) - np.repeat(view.row_ptr[:-1], view.arity)
    kind, shape = np.zeros(view.num_rows, np.int64), np.zeros((view.num_rows, 3))
    minima.kinds(view.row_ptr, view.row_sites, view.table_start, weights, view.num_states, tables, kind, shape)
    constant = view.constant.numpy()
    spread, bound = np.ones(view.num_instances), constant.copy()
    kernels.spreads(
        view.row_ptr, view.row_sites, view.instance, view.table_start, view.row_sizes, weights, tables, view.starts,
        unary, spread, bound,
    )  # fmt: skip
    arrays = (
        view.num_states, view.starts, view.instance, view.row_ptr, view.row_sites, view.table_start, weights, tables,
        unary, site_ptr, site_row, site_slot, view.message_ptr, rank, kind, shape, 4 * spread,
    )  # fmt: skip
    labels = _cheapest(view) if init is None else init.astype(np.int64).clip(0, view.num_states - 1)
    energy = view.energy(labels)
    messages = np.zeros(int(view.message_ptr[-1]))
    has_sites = np.bincount(view.instance, minlength=view.num_instances) > 0
    state = TableAscent(
        view=view,
        arrays=arrays,
        messages=messages,
        proven=messages.copy(),
        labels=labels,
        trial=labels.copy(),
        energy=energy,
        bound=bound,
        done=~has_sites | ~np.isfinite(bound),
        parts=_parts(view, site_ptr, site_row),
        tolerance=tolerance,
        max_iterations=max_iterations,
        running=np.zeros(view.num_instances),
        stalls=np.zeros(view.num_instances, np.int64),
    )
    return state


def _cheapest(view: TableView) -> np.ndarray:
    """(n,) each site's state of least unary energy, the first of several."""
    unary = view.arrays[0]
    if not view.num_sites:
        return np.zeros(0, np.int64)
    owner = np.repeat(np.arange(view.num_sites), view.num_states)
    least = np.minimum.reduceat(unary, view.starts[:-1])
    hits = np.nonzero(unary == least[owner])[0]
    _, at = np.unique(owner[hits], return_index=True)
    return hits[at] - view.starts[:-1]


def _parts(view: TableView, site_ptr: np.ndarray, site_row: np.ndarray) -> list[tuple[int, int, bool]]:
    """Ranges of sites for the steps of a pass, forth and back, each of about STEP_WORK entries."""
    per_site = np.diff(site_ptr) * 20.0 + view.num_states
    if view.num_rows:
        owner = np.repeat(np.arange(view.num_sites), np.diff(site_ptr))
        per_site = per_site + np.bincount(owner, view.row_sizes[site_row], view.num_sites)
    total = np.cumsum(per_site)
    count = max(1, int(np.ceil(total[-1] / STEP_WORK))) if total.size else 1
    edges = np.searchsorted(total, np.linspace(0, total[-1] if total.size else 0, count + 1)[1:-1]) + 1
    bounds = np.unique(np.concatenate([[0], edges, [view.num_sites]]).clip(max=view.num_sites)).tolist()
    if len(bounds) == 1:
        bounds = [0, 0]
    forth = [(a, b, True) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    return forth + [(a, b, False) for a, b, _ in reversed(forth)]

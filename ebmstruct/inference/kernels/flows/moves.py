"""Expansion and swap moves over a grid and over a pairwise table view: where they stand, and one move of each kind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ebmstruct.inference.kernels.flows.maxflow import EXACT, minimum_cut
from ebmstruct.inference.kernels.flows.roof import doubled_cut
from ebmstruct.inference.kernels.search.icm import polish

if TYPE_CHECKING:
    from ebmstruct.inference.views.table_view import TableView

GAIN = 1e-12
"""A move must gain this share of an instance's energy, so that rounding cannot lead around in circles."""


class GridMoves:
    """Moves over one grid; its buffers serve all of them.

    unary (n, K), right (n,), down (n,), table (K, K) as in a GridFactor, finite; width of the grid.
    labels: (n,) int32, the current labels, which moves change.  energy: of them.
    """

    def __init__(
        self, unary: np.ndarray, right: np.ndarray, down: np.ndarray, table: np.ndarray, width: int, labels: np.ndarray
    ) -> None:
        from ebmstruct.inference.kernels.flows import grid_capacities_numba, maxflow_grid_numba, move_numba

        self._moves = move_numba
        sites, self.num_states = unary.shape
        self._planes = np.ascontiguousarray(unary.T)
        self._pairs = right, down, np.ascontiguousarray(table, np.float64).reshape(-1), self.num_states, width
        self._width = width
        self.labels = labels.astype(np.int32)
        self._own = self._planes[self.labels, np.arange(sites)]
        spread = float((unary.max(1) - unary.min(1)).max(initial=0.0))
        weight = max(float(np.abs(right).max(initial=0.0)), float(np.abs(down).max(initial=0.0)))
        top = spread + 16.0 * weight * float(np.abs(table).max(initial=0.0))
        integers = all(bool((x == np.rint(x)).all()) for x in (unary, right, down, table))
        whole = integers and top <= grid_capacities_numba.LIMIT
        self._scale = 1.0 if whole else 2.0 ** math.floor(math.log2(EXACT / max(top, 1e-290)))
        words = 8 * (sites + 2 * width)
        self._cap = np.zeros(words, np.int32 if whole else np.float64)
        self._node = self._cap.view(np.int32)
        self._run = maxflow_grid_numba.run_int32 if whole else maxflow_grid_numba.run_float64
        self._layout = (8, 7) if whole else (16, 12)
        self._queue, self._orphans = np.empty((2, sites + 1), np.int32)
        self._sides = np.empty((2, sites), np.int32)
        self._costs = np.empty((2, sites), unary.dtype)
        self._next = np.empty(sites, np.int32), np.empty(sites, unary.dtype)
        self.energy = float(move_numba.grid_energy(self._own, *self._pairs, self.labels))

    def expand(self, label: int) -> bool:
        """Let every site keep its label or take this one, as is best for all; whether that lowered the energy."""
        self._sides[1] = label
        return self._move(self._own, self._planes[label], self.labels, self._sides[1])

    def swap(self, a: int, b: int) -> bool:
        """Let the sites with one of two labels choose between them again; whether that lowered the energy."""
        low, high = self._costs
        one, two = self._sides
        if not self._moves.swap_sides(self.labels, self._own, self._planes, a, b, low, high, one, two):
            return False
        return self._move(low, high, one, two)

    def _move(self, low: np.ndarray, high: np.ndarray, one: np.ndarray, two: np.ndarray) -> bool:
        self._moves.grid_move(low, high, one, two, *self._pairs, self._scale, self._cap)
        state = np.zeros(4, np.int64)
        work = self._cap, self._node, self._width, self._queue, self._orphans, state, 1 << 60
        self._run(*work)
        labels, own = self._next
        energy = self._moves.grid_take(self._node, *self._layout, low, high, one, two, *self._pairs, labels, own)
        if not energy < self.energy - GAIN * abs(self.energy):
            return False
        self._next = self.labels, self._own
        self.labels, self._own, self.energy = labels, own, float(energy)
        return True


class GraphMoves:
    """Moves over a table view whose rows join two sites; its instances move together, and each takes what helps it.

    states: (n,) int64, the current states of the open sites.  energy: (B,), with hard constraints counted as many.
    """

    def __init__(self, view: TableView, states: np.ndarray) -> None:
        from ebmstruct.inference.kernels.flows import move_numba

        self._moves, self._view = move_numba, view
        unary, tables, weights = view.arrays
        finite = np.abs(tables[np.isfinite(tables)]).max(initial=0.0) * np.abs(weights).max(initial=0.0)
        self._most = 1.0 + 4.0 * (float(np.abs(unary).sum()) + view.num_rows * float(finite))
        self._terms = unary, view.starts, view.num_states, view.row_sites, view.table_start, weights, tables
        self._edges = np.empty((2, view.num_rows), np.int32)
        self._capacities = np.empty((2, view.num_rows))
        self._excess, self._flipped = np.empty(view.num_sites), np.empty(view.num_rows, np.bool_)
        owner = np.repeat(np.arange(view.num_sites), view.num_states)
        self._place = owner, view.state, np.arange(view.state.size) - view.starts[owner]
        self.states = states.copy()
        self.energy = self._energies(self.states)

    @property
    def num_labels(self) -> int:
        """One more than the greatest state of any site, by the states' own numbers."""
        return int(self._view.state.max(initial=-1)) + 1

    def expand(self, label: int) -> np.ndarray:
        """(B,) bool: whether letting every site keep its state or take this one lowered the energy."""
        return self._move(self.states, self._take(label, np.ones(self.states.size, np.bool_)))

    def swap(self, a: int, b: int) -> np.ndarray:
        """(B,) bool: whether letting the sites in one of two states choose again lowered the energy."""
        own = self._view.state[self._view.starts[:-1] + self.states]
        among = (own == a) | (own == b)
        one, two = self._take(a, among), self._take(b, among)
        both = (one != two) & among
        return self._move(np.where(both, one, self.states), np.where(both, two, self.states))

    def descend(self) -> np.ndarray:
        """(B,) bool: whether changes of single sites, as many as help, lowered the energy."""
        fresh = self.states.copy()
        polish(self._view, fresh)
        return self._accept(fresh)

    def _take(self, label: int, among: np.ndarray) -> np.ndarray:
        owner, state, number = self._place
        hits = np.nonzero((state == label) & among[owner])[0]
        out = self.states.copy()
        out[owner[hits]] = number[hits]
        return out

    def _energies(self, states: np.ndarray) -> np.ndarray:
        out = np.zeros(self._view.num_instances)
        self._moves.graph_energies(*self._terms, states, self._most, self._view.instance, out)
        return out

    def _move(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        if (one == two).all():
            return np.zeros(self._view.num_instances, np.bool_)
        (first, second), (forth, back) = self._edges, self._capacities
        network = first, second, forth, back, self._excess
        wrong = self._moves.graph_move(*self._terms, one, two, self._most, *network, self._flipped)
        if wrong:
            n = one.size
            _, _, cut = doubled_cut(first, second, self._flipped, forth, back, self._excess)
            fresh = np.where(cut.side[n:] == 0, two, self.states)
            fresh = np.where(cut.side[:n] == 0, one, fresh)
        else:
            fresh = np.where(minimum_cut(*network).side == 1, two, one)
        return self._accept(fresh)

    def _accept(self, fresh: np.ndarray) -> np.ndarray:
        energy = self._energies(fresh)
        better = energy < self.energy - GAIN * np.abs(self.energy)
        self.states = np.where(better[self._view.instance], fresh, self.states)
        self.energy = np.where(better, energy, self.energy)
        return better

"""A graph's discrete energies as flat tables over the sites that are still open: what table solvers work on."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import BilinearFactor, ChainFactor, Discrete, FactorGraph, GridFactor, TableFactor
from ebmstruct.graph.assignment import Values
from ebmstruct.inference.views.lines import ragged

Refusal = str


@dataclass(frozen=True, eq=False)
class TableView:
    """Energies over n open sites: E(y) = constant + sum_i unary_i(y_i) + sum_r weight_r * table_r(y at r's sites).

    Sites of all discrete blocks are numbered one block after the other; those that the evidence or the infinite
    entries leave one state are *closed*: their energies are in ``constant`` and in the other tables, and states that
    no finite assignment can take are gone. Rows over the same sites are merged. Everything is float64.

    num_states (n,), starts (n + 1,): state counts of open sites, and where each begins in a flat vector of states.
    instance: (n,) the instance of each open site.
    unary: (starts[-1],) finite energies of single sites.
    row_ptr (m + 1,), row_sites: the open sites of row r are row_sites[row_ptr[r] : row_ptr[r + 1]], two or more.
    table_start (m,): where the row's table, row-major over its sites, begins in ``tables``; rows may share one.
    weights: (m,) factor on the row's table.
    constant: (B,) energies of closed parts; +inf where an instance is found infeasible.
    open_site: (n,) each open site's number among all N sites.  state: (starts[-1],) each open state's own number.
    closed: (N,) the state of each closed site, -1 at open ones.  instance_of_all: (N,) the instance of every site.
    Structure is numpy; ``unary``, ``tables``, ``weights`` and ``constant`` are tensors, differentiable in the
    factors' values where the view was made with gradients on.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    largest: tuple[int, ...]
    num_instances: int
    num_states: np.ndarray
    starts: np.ndarray
    instance: np.ndarray
    row_ptr: np.ndarray
    row_sites: np.ndarray
    table_start: np.ndarray
    open_site: np.ndarray
    state: np.ndarray
    closed: np.ndarray
    instance_of_all: np.ndarray
    unary: Tensor
    tables: Tensor
    weights: Tensor
    constant: Tensor

    @property
    def num_sites(self) -> int:
        """n, the number of open sites."""
        return self.num_states.size

    @property
    def num_rows(self) -> int:
        """m."""
        return self.row_ptr.size - 1

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """unary, tables and weights as numpy arrays, without gradients."""
        return self.unary.detach().numpy(), self.tables.detach().numpy(), self.weights.detach().numpy()

    @cached_property
    def arity(self) -> np.ndarray:
        """(m,) the number of sites of each row."""
        return np.diff(self.row_ptr)

    @cached_property
    def row_sizes(self) -> np.ndarray:
        """(m,) the number of entries of each row's table."""
        if not self.num_rows:
            return np.zeros(0, np.int64)
        return np.multiply.reduceat(self.num_states[self.row_sites], self.row_ptr[:-1])

    @cached_property
    def row_instance(self) -> np.ndarray:
        """(m,) the instance of each row."""
        return self.instance[self.row_sites[self.row_ptr[:-1]]]

    @cached_property
    def site_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each open site the rows that look at it: pointers (n + 1,), rows, and the site's slot in each."""
        order = np.argsort(self.row_sites, kind="stable")
        count = np.bincount(self.row_sites, minlength=self.num_sites)
        row = np.repeat(np.arange(self.num_rows), self.arity)[order]
        return np.concatenate([[0], np.cumsum(count)]), row, order - self.row_ptr[row]

    @cached_property
    def message_ptr(self) -> np.ndarray:
        """(slots + 1,) where the message of each slot of each row begins, in a flat vector over slots and states."""
        return np.concatenate([[0], np.cumsum(self.num_states[self.row_sites])])

    def row_tables(self) -> tuple[Tensor, np.ndarray]:
        """Every row's own table times its weight, one after the other, and where each begins; differentiable."""
        starts = np.cumsum(self.row_sizes) - self.row_sizes
        counts = torch.from_numpy(self.row_sizes)
        at = ragged(torch.from_numpy(self.table_start), counts)
        rows = torch.repeat_interleave(torch.arange(self.num_rows), counts)
        return self.tables[at] * self.weights[rows], starts

    def energy(self, states: np.ndarray) -> np.ndarray:
        """(B,) float64: the energy of each instance at ``states`` (n,)."""
        from ebmstruct.inference.kernels.reduction_numba import row_energies

        unary, tables, weights = self.arrays
        rows = row_energies(states, self.row_ptr, self.row_sites, self.table_start, weights, self.num_states, tables)
        out = self.constant.detach().numpy().copy()
        out += np.bincount(self.instance, unary[self.starts[:-1] + states], self.num_instances)
        return out + np.bincount(self.row_instance, rows, self.num_instances)

    def expand(self, states: np.ndarray | Tensor) -> dict[str, Tensor]:
        """Block name to (..., N_block) values of all sites, from states (..., n) of the open ones."""
        open_states = torch.as_tensor(states, dtype=torch.long)
        out = torch.from_numpy(self.closed).expand(*open_states.shape[:-1], -1).clone()
        own = torch.from_numpy(self.state)[torch.from_numpy(self.starts[:-1]) + open_states]
        out[..., torch.from_numpy(self.open_site)] = own
        return dict(zip(self.names, out.split(self.sizes, -1), strict=True))

    def compress(self, values: Values) -> np.ndarray:
        """(n,) the open sites' states in an assignment of all blocks; a state that is gone becomes state 0."""
        full = torch.cat([values[name] for name in self.names]).cpu().numpy()[self.open_site]
        found = np.zeros(self.num_sites, np.int64)
        owner = np.repeat(np.arange(self.num_sites), self.num_states)
        hits = np.nonzero(self.state == full[owner])[0]
        found[owner[hits]] = hits - self.starts[owner[hits]]
        return found

    def expand_beliefs(self, beliefs: Tensor) -> dict[str, Tensor]:
        """Block name to (N_block, K) probabilities, from flat ones (starts[-1],) of the open sites' states."""
        width = max(self.largest, default=1)
        out = beliefs.new_zeros(sum(self.sizes), width)
        closed = np.nonzero(self.closed >= 0)[0]
        feasible = torch.isfinite(self.constant)
        out[torch.from_numpy(closed), torch.from_numpy(self.closed[closed])] = 1.0
        owner = np.repeat(self.open_site, self.num_states)
        out = out.index_put((torch.from_numpy(owner), torch.from_numpy(self.state)), beliefs)
        if not bool(feasible.all()):
            out[~feasible[torch.from_numpy(self.instance_of_all)]] = 0.0
        parts = out.split(self.sizes)
        return {n: p[:, :k] for n, p, k in zip(self.names, parts, self.largest, strict=True)}


_CACHE: weakref.WeakKeyDictionary[FactorGraph, TableView] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def table_refusal(graph: FactorGraph) -> Refusal | None:
    """Why a graph has no table view, in a sentence; None if it has one."""
    for block in graph.variables.values():
        if not isinstance(block.domain, Discrete):
            return f"block {block.name!r} is {block.domain}, and this needs discrete variables"
    for factor in graph.factors:
        if not isinstance(factor, TableFactor | ChainFactor | GridFactor | BilinearFactor):
            return f"factor {factor.label!r} is a {type(factor).__name__}, which has no tables"
    return None


def table_view(graph: FactorGraph) -> TableView:
    """The table view of a graph that ``table_refusal`` does not refuse; made once a graph, unless gradients flow."""
    from ebmstruct.inference.views.table_building import build

    if torch.is_grad_enabled() and any(v.requires_grad for f in graph.factors for v in f.values() if v is not None):
        return build(graph)
    view = _CACHE.get(graph)
    if view is None:
        with torch.no_grad():
            view = build(graph)
        with _LOCK:
            _CACHE[graph] = view
    return view

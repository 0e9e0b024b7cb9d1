"""Beliefs over the rows of a table view, put back as joint beliefs over the rows of one of the graph's factors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import ChainFactor, FactorGraph, TableFactor
from ebmstruct.inference.views.table_view import TableView


def joint_beliefs(
    graph: FactorGraph, view: TableView, unary: np.ndarray, tables: np.ndarray, feasible: np.ndarray, label: str
) -> Tensor:
    """(m, K_1, ..., K_arity) probabilities of the joint states of a table factor's rows; of a chain (n, K, K).

    unary: probabilities of the open sites' states, flat.  tables: of the entries of the view's rows, flat, in the layout
    of ``TableView.row_tables``.  feasible: (B,) bool, which instances have any assignment; rows of others are zeros.
    Entry t of a chain is the edge from site t - 1 to t, zeros at first sites. Cost: one step of Python a row.
    """
    factor = next(f for f in graph.factors if f.label == label)
    scope = graph.scope(factor)
    shape: tuple[int, ...]
    first = dict(zip(view.names, np.cumsum([0, *view.sizes])[:-1].tolist(), strict=True))
    if isinstance(factor, ChainFactor):
        (block,) = scope
        rows = np.nonzero(np.diff(block.instance.cpu().numpy(), prepend=-1) == 0)[0]
        sites = np.stack([rows - 1, rows], 1) + first[block.name]
        shape = (block.num_sites, *(block.discrete.largest,) * 2)
    else:
        assert isinstance(factor, TableFactor)
        count = factor.num_rows(scope)
        index = np.arange(count)[None] if factor.index is None else factor.index.cpu().numpy()
        rows = np.arange(count)
        sites = index.T + np.array([first[name] for name in factor.scope])
        shape = (count, *(v.discrete.largest for v in scope))
    out = np.zeros(shape)
    place = _Placer(view, unary, tables, feasible)
    for row, scope_sites in zip(rows.tolist(), sites, strict=True):
        place(out[row], scope_sites)
    return torch.from_numpy(out)


class _Placer:
    """Writes the belief of one row, over its sites' own states."""

    def __init__(self, view: TableView, unary: np.ndarray, tables: np.ndarray, feasible: np.ndarray) -> None:
        self.view, self.unary, self.tables, self.feasible = view, unary, tables, feasible
        self.number = np.full(view.closed.size, -1)
        self.number[view.open_site] = np.arange(view.num_sites)
        ends = view.row_ptr.tolist()
        scopes = [view.row_sites[a:b].tolist() for a, b in zip(ends, ends[1:], strict=False)]
        self.row_over = {tuple(sorted(s)): (i, s) for i, s in enumerate(scopes)}
        self.begin = np.cumsum(view.row_sizes) - view.row_sizes

    def __call__(self, out: np.ndarray, sites: np.ndarray) -> None:
        view = self.view
        if not self.feasible[view.instance_of_all[sites[0]]]:
            return
        numbers = self.number[sites].tolist()
        states = [
            view.closed[[s]] if i < 0 else view.state[view.starts[i] : view.starts[i + 1]]
            for s, i in zip(sites.tolist(), numbers, strict=True)
        ]
        opened = [i for i in numbers if i >= 0]
        if not opened:
            value = np.ones(())
        elif len(opened) == 1:
            value = self.unary[view.starts[opened[0]] : view.starts[opened[0] + 1]]
        else:
            row, scope = self.row_over[tuple(sorted(opened))]
            flat = self.tables[self.begin[row] : self.begin[row] + view.row_sizes[row]]
            value = flat.reshape(view.num_states[scope]).transpose([scope.index(i) for i in opened])
        out[np.ix_(*states)] = value.reshape([len(s) for s in states])

"""Least cuts: exact minimisation over binary sites whose pairs never reward differing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Answer, Ask, Budget, Query, Reparametrization, Result, Status
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.views.plain_grid import PlainGrid, plain_grid
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

if TYPE_CHECKING:
    from ebmstruct.inference.kernels.flows.maxflow import GridCut


@dataclass(frozen=True)
class GraphCut(Solver):
    """An assignment of least energy by one maximum flow: exact for binary submodular pairs.

    Sites have two open states at most, factors join two sites at most, and each pair's table (over its open states)
    satisfies t(0, 0) + t(1, 1) <= t(0, 1) + t(1, 0). Infinite entries at (0, 1) or (1, 0) are fine, so are any at
    single sites. The flow is also the witness: as messages it makes the bound equal to the energy, up to rounding.
    Grids (one GridFactor and tables of single sites, no evidence) have a loop of their own, 2 to 4 times as quick as
    that for other graphs, which works on the table view.
    Cost: in practice a small multiple of the number of pairs; in the worst case their number times the square of the
    sites'. At a deadline the bound so far and a labelling come back. Boykov and Kolmogorov (2004).
    """

    name: ClassVar[str] = "graph_cut"

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.MINIMIZE or query.sum_out or query.k > 1:
            return "a least cut answers minimise for one best assignment, without blocks to sum out"
        grid = _binary_grid(graph)
        if grid is not None:
            wrong = _wrong_pairs(grid)
            if wrong:
                return f"{wrong} of its pairs reward neighbours that differ (or are not finite), which no cut can pay"
            return None
        reason = table_refusal(graph)
        if reason is not None:
            return reason
        return _view_refusal(table_view(graph))

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        grid = _binary_grid(graph)
        if grid is not None:
            return Cost(30.0 * grid.block.num_sites, 4)
        view = table_view(graph)
        return Cost(30.0 * (view.num_sites + view.num_rows), 4)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        budget = budget or Budget()
        grid = _binary_grid(graph)
        result = None if grid is None else _cut_grid(grid, budget)
        return _cut_view(table_view(graph), budget) if result is None else result


def _binary_grid(graph: FactorGraph) -> PlainGrid | None:
    grid = plain_grid(graph)
    return grid if grid is not None and grid.num_states == 2 else None


def _wrong_pairs(grid: PlainGrid) -> int:
    from ebmstruct.inference.kernels.flows.grid_capacities_numba import violations

    right, down = grid.weights()
    a, b, c, d = grid.table.tolist()
    if b + c >= a + d and all(w.min(initial=0) >= 0 and w.max(initial=0) < np.inf for w in (right, down)):
        return 0  # by far the most frequent; also at the borders, whose weights the count leaves out
    return sum(int(violations(right[part], down[part], width, b + c - a - d)) for part, width in grid.parts())


def _cut_grid(grid: PlainGrid, budget: Budget) -> Result | None:
    """The answer for a plain grid; None where an energy is no finite number."""
    from ebmstruct.inference.kernels.flows.maxflow import grid_cut

    unary, right, down = grid.arrays()
    parts = list(grid.parts())
    sizes = [(p.stop - p.start, width) for p, width in parts]
    wide, tall = [n - n // w for n, w in sizes], [max(n - w, 0) for n, w in sizes]
    messages = np.empty((sum(wide) + sum(tall), 4))
    across, along = np.cumsum([0, *wide]), sum(wide) + np.cumsum([0, *tall])
    states = np.zeros(grid.block.num_sites, np.int64)
    found: list[GridCut] = []
    for b, (part, width) in enumerate(parts):
        rows = messages[across[b] : across[b + 1]], messages[along[b] : along[b + 1]]
        cut = grid_cut(unary[part], right[part], down[part], grid.table, width, *rows, expired=lambda: budget.expired)
        if cut is None:
            return None
        states[part] = cut.states
        found.append(cut)
    constant = grid.constant.numpy()
    energy, bound = (np.array([getattr(f, name) for f in found]) + constant for name in ("energy", "bound"))
    finished = np.array([f.finished for f in found], np.bool_)
    return _result({grid.block.name: torch.from_numpy(states)}, energy, bound, finished, messages)


def _view_refusal(view: TableView) -> str | None:
    from ebmstruct.inference.kernels.flows.pairs import shape_refusal, wrong_pairs

    reason = shape_refusal(view)
    if reason is not None:
        return reason
    wrong = wrong_pairs(view)
    if wrong:
        return f"{wrong} of {view.num_rows} pairs reward sites that differ, so that no cut can pay for them"
    return None


def _cut_view(view: TableView, budget: Budget) -> Result:
    from ebmstruct.inference.kernels.flows.maxflow import minimum_cut
    from ebmstruct.inference.kernels.flows.pairs import binary_pairs, reparametrized_bound

    pairs = binary_pairs(view)
    network = pairs.first, pairs.second, pairs.forth, pairs.back, pairs.excess
    cut = minimum_cut(*network, expired=lambda: budget.expired)
    messages = pairs.messages(cut.flow)
    states = (cut.side == 1).astype(np.int64)
    bound = reparametrized_bound(view, messages)
    finished = np.full(view.num_instances, cut.finished)
    return _result(view.expand(states), view.energy(states), bound, finished, messages)


def _result(
    values: dict[str, Tensor], energy: np.ndarray, bound: np.ndarray, finished: np.ndarray, messages: np.ndarray
) -> Result:
    status = np.where(finished, int(Status.CONVERGED), int(Status.DEADLINE))
    return Result(
        Assignment(values),
        torch.from_numpy(energy),
        torch.from_numpy(bound),
        torch.from_numpy(status),
        solver=GraphCut.name,
        witness=Reparametrization("tables", torch.from_numpy(messages.reshape(-1))),
    )

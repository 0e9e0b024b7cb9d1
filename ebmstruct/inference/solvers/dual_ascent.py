"""Dual ascent: a labelling and a lower bound at once, by sequential reweighted message passing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph, GridFactor
from ebmstruct.inference.grid_ascent import GridAscent, begin_grid
from ebmstruct.inference.result import Answer, Ask, Budget, Query, Reparametrization, Result, Status
from ebmstruct.inference.solver import Cost, IterativeMinimizer, Progress
from ebmstruct.inference.table_ascent import TableAscent, begin_tables
from ebmstruct.inference.views.grid_layout import GridLayout, grid_layout
from ebmstruct.inference.views.table_view import table_refusal, table_view


@dataclass(eq=False)
class DualState:
    """An ascent on a grid or on a table view, and what it last said of itself."""

    ascent: GridAscent | TableAscent
    said: Progress
    bound: np.ndarray


@dataclass(frozen=True)
class DualAscent(IterativeMinimizer[DualState]):
    """Least energy over discrete variables by TRW-S and SRMP (Kolmogorov 2006, 2015), with a lower bound.

    Each pass moves energy between sites and tables so that the sum of all minima, which bounds every energy from
    below, does not fall; decoded labellings are improved and their best parts kept. Tables of any arity, mixed state
    counts, infinite entries. Grids (``grid_layout``) are swept in float32, their bounds computed in float64.
    An instance ends when its gap is closed, when its bound has stopped to grow (by ``tolerance`` relative), or after
    ``max_iterations`` passes. Where the bound stays below the least energy (a gap of the linear relaxation), the
    answer is neither proven nor necessarily best; that no assignment is feasible is not found out here.
    Cost of a pass: the entries of all tables twice; of Potts, truncated linear and quadratic ones their states only.
    """

    name: ClassVar[str] = "dual_ascent"

    max_iterations: int = 2000
    tolerance: float = 1e-7

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask != Ask.MINIMIZE:
            return f"it only minimises; {query.ask} was asked"
        if query.sum_out:
            return "it cannot sum blocks out"
        if query.k > 1:
            return f"it finds one labelling; {query.k} were asked"
        return table_refusal(graph)

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        layout = grid_layout(graph)
        if isinstance(layout, GridLayout):
            return Cost(4.0 * layout.unary.size, layout.num_states**2)
        view = table_view(graph)
        work = float((view.row_sizes * view.arity).sum() + view.message_ptr[-1])
        return Cost(2 * work, int(view.row_sizes.max(initial=1)))

    def begin(
        self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None
    ) -> DualState:
        layout = grid_layout(graph)
        ascent: GridAscent | TableAscent | None = None
        if isinstance(layout, GridLayout):
            given = None if init is None else graph.complete(init)[layout.block].cpu().numpy()
            ascent = begin_grid(layout, given, self.tolerance, self.max_iterations)
        if ascent is None:
            view = table_view(graph)
            states = None if init is None else view.compress(graph.complete(init))
            ascent = begin_tables(view, states, self.tolerance, self.max_iterations)
        return DualState(ascent, _progress(ascent), ascent.bound)

    def step(self, graph: FactorGraph, query: Query, state: DualState) -> DualState:
        if state.ascent.step():
            state.said = _progress(state.ascent)
        return state

    def progress(self, state: DualState) -> Progress:
        return state.said

    def witness(self, state: DualState) -> Reparametrization:
        messages, state.bound = state.ascent.witness()
        return Reparametrization("tables", messages)

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
        if budget.deadline is not None:
            budget = replace(budget, deadline=budget.deadline - _last_words(graph))
        result, state = self.iterate(graph, query, init=init, budget=budget, generator=generator)
        return _answer(result, state)


def _answer(result: Result, state: DualState) -> Result:
    """The result with the bound that its witness proves."""
    bound = torch.from_numpy(state.bound).clone()
    unfinished = torch.from_numpy(state.ascent.gave_up) & (result.status == int(Status.CONVERGED))
    return replace(
        result,
        lower_bound=torch.where(torch.isposinf(result.lower_bound), torch.inf, bound),
        status=torch.where(unfinished, int(Status.MAX_STEPS), result.status),
        stats={**result.stats, "passes": state.ascent.passes, "grid": isinstance(state.ascent, GridAscent)},
    )


def _progress(ascent: GridAscent | TableAscent) -> Progress:
    tensor = torch.from_numpy
    return Progress(
        ascent.values, tensor(ascent.energy.copy()), tensor(ascent.bound.copy()), tensor(ascent.done.copy())
    )


def _last_words(graph: FactorGraph) -> float:
    """Seconds that a grid needs at its end: its bound in float64, two messages an edge, the engine's own check."""
    sizes = [f.right.numel() * (4e-7 + 3e-8 * f.table.shape[0]) for f in graph.factors if isinstance(f, GridFactor)]
    return 2e-4 + max(sizes) if sizes else 0.0

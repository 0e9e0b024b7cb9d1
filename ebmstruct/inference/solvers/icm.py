"""Iterated conditional modes: descent by changes of single sites."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Ask, Claim, Query
from ebmstruct.inference.solver import Cost, IterativeMinimizer, Progress
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

VISITS = 1 << 15
"""Sites looked at in one step, a few milliseconds where rows are pairs."""


@dataclass(frozen=True, eq=False)
class Descent:
    """Where the descent stands: the states of the open sites, which to look at, the site to go on with (-1: none)."""

    view: TableView
    states: np.ndarray
    dirty: np.ndarray
    begin: int
    restarts: int
    generator: Generator


@dataclass(frozen=True)
class ICM(IterativeMinimizer[Descent]):
    """An assignment that no change of one site improves: quick, for tables of any arity, and without a bound.

    It starts at ``init``, or at each site's own least energy, and sweeps over the sites until nothing changes; only
    sites whose neighbours have changed are looked at again. Hard constraints are mended where single changes can.
    restarts: how many more times it starts, from states drawn at random; each instance keeps its best.
    Use it to polish, or where nothing better fits the time; move making and dual ascent find much lower energies.
    Cost: a sweep looks at every entry of the rows that one site's states see. Besag (1986), section 2.5.
    """

    name: ClassVar[str] = "icm"

    restarts: int = 0

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.MINIMIZE or query.sum_out or query.k > 1:
            return "descent answers minimise for one assignment, without blocks to sum out"
        return table_refusal(graph)

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        view = table_view(graph)
        seen = float((view.num_states[view.row_sites]).sum()) + float(view.num_states.sum())
        return Cost(5.0 * (1 + self.restarts) * seen, int(view.row_sizes.max(initial=1)))

    def begin(self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None) -> Descent:
        from ebmstruct.inference.kernels.search.icm import unary_minima

        view = table_view(graph)
        states = unary_minima(view) if init is None else view.compress(graph.complete(init))
        source = torch.Generator().manual_seed(0) if generator is None else generator
        return Descent(view, states, np.ones(view.num_sites, np.bool_), 0, self.restarts, source)

    def step(self, graph: FactorGraph, query: Query, state: Descent) -> Descent:
        from ebmstruct.inference.kernels.search.icm import polish

        view = state.view
        if state.begin < 0:
            draws = torch.rand(view.num_sites, dtype=torch.float64, generator=state.generator).numpy()
            fresh = np.minimum((draws * view.num_states).astype(np.int64), view.num_states - 1)
            everything = np.ones(view.num_sites, np.bool_)
            return replace(state, states=fresh, dirty=everything, begin=0, restarts=state.restarts - 1)
        states, dirty = state.states.copy(), state.dirty.copy()
        left = polish(view, states, dirty=dirty, begin=state.begin, visits=VISITS)
        return replace(state, states=states, dirty=dirty, begin=left)

    def progress(self, state: Descent) -> Progress:
        energy = torch.from_numpy(state.view.energy(state.states))
        bound = torch.where(torch.isposinf(state.view.constant.detach()), torch.inf, -torch.inf).double()
        done = torch.full(energy.shape, state.begin < 0 and not state.restarts)
        return Progress(state.view.expand(state.states), energy, bound, done)

    def witness(self, state: Descent) -> Claim | None:
        lost = torch.isposinf(state.view.constant.detach())
        return Claim("propagation of hard constraints") if bool(lost.any()) else None

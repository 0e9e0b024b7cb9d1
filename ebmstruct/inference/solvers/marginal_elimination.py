"""Marginal MAP over tables: sum the latent sites out exactly, then minimise what is left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.latent.free_minimum import least_of, summed_refusal
from ebmstruct.inference.latent.table_sums import OutOfTime, SumPlan, plan_sum, sum_out_tables
from ebmstruct.inference.result import Answer, Budget, Claim, Query, Result, Status
from ebmstruct.inference.solver import Cost, Solver


@dataclass(frozen=True)
class MarginalElimination(Solver):
    """Least free energy over discrete blocks, other discrete blocks being summed out exactly by elimination.

    The latent sites are eliminated first, each one leaving a table over its neighbours; the engine then minimises the
    graph of tables over the other sites as it does any, and its bound on that is a bound on the free energy. Tables
    of any arity, chains, grids, evidence, infinite entries, mixed state counts. ``Result.assignment`` holds, beside
    the minimiser, the latent states of least energy given it.

    max_table: entries of the largest table that summing out may make.
    Cost: the entries of all those tables, exponential in the width of the order that takes latent sites first
    (constrained width), which may be far larger than the width of the graph. Source: Dechter 1999, section 6.
    """

    name: ClassVar[str] = "marginal_elimination"

    max_table: int = 1 << 22

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        reason = summed_refusal(graph, query)
        if reason is not None:
            return reason
        plan = self._plan(graph, query)
        return plan if isinstance(plan, str) else None

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        plan = self._plan(graph, query)
        if isinstance(plan, str):
            return None
        return Cost(2e4 * len(plan.order) + 8 * plan.operations, round(plan.largest))

    def _plan(self, graph: FactorGraph, query: Query) -> SumPlan | str:
        return plan_sum(graph, query.sum_out, self.max_table)

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
        plan = self._plan(graph, query)
        assert isinstance(plan, SumPlan)
        try:
            left = sum_out_tables(graph, query.sum_out, plan, query.temperature, lambda: budget.expired)
        except OutOfTime:
            return _too_late(graph, query, init, generator)
        outer = None if init is None else Assignment({n: v for n, v in init.items() if n in left.variables})
        found = least_of(left, init=outer, budget=budget, generator=generator)
        latent = _given(graph, query, found.assignment, budget, generator)
        stats = {
            "summed_sites": len(plan.order),
            "largest_table": round(plan.largest),
            "minimised_by": found.solver,
            "latent": "minimiser given the others",
        }
        return replace(
            found,
            assignment=Assignment({n: latent.assignment[n] for n in graph.variables}),
            solver=self.name,
            witness=Claim(f"{self.name}, then {found.solver}"),
            stats=stats,
            integration="exact",
        )


def _given(graph: FactorGraph, query: Query, found: Assignment, budget: Budget, generator: Generator | None) -> Result:
    """The minimiser of the energy with the blocks that are not summed out at what was found."""
    fixed = graph.condition(Assignment({n: v for n, v in found.items() if n not in query.sum_out}))
    return least_of(fixed, budget=budget, generator=generator)


def _too_late(graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None) -> Result:
    """Some assignment; its energy is above its free energy, since a sum is no less than one of its terms."""
    found = least_of(graph, init=init, budget=Budget.after(0.0), generator=generator)
    status: Tensor = torch.full_like(found.status, int(Status.DEADLINE))
    return replace(
        found,
        status=torch.where(found.status > int(Status.DEADLINE), found.status, status),
        lower_bound=torch.full_like(found.energy, -torch.inf),
        solver=MarginalElimination.name,
        witness=None,
        integration="upper bound of one latent assignment",
    )

"""Bounds from elimination under a table budget, for graphs too wide to be eliminated exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.kernels.elimination import mini_bucket
from ebmstruct.inference.kernels.messages import mean_field
from ebmstruct.inference.kernels.search.icm import polished
from ebmstruct.inference.result import (
    Answer,
    Ask,
    Budget,
    Claim,
    EliminationOrder,
    Marginals,
    Query,
    Result,
    Status,
    Witness,
)
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

MEAN_FIELD_SWEEPS, MEAN_FIELD_TOLERANCE = 500, 1e-9
LOWER_SHARE = 0.2
"""The share of the time left that the lower bound of log Z may take."""


@dataclass(frozen=True)
class MiniBucket(Solver):
    """An interval that holds log Z, or a lower bound on the least energy with an assignment near it.

    Sites are eliminated one by one; a bucket whose table would exceed ``max_table`` entries is split into mini-buckets
    (Dechter and Rish 2003), summed with Hoelder's inequality (Liu and Ihler 2011). What comes out is an upper bound
    on log Z or a lower bound on the energy, the tighter the larger the tables; it is exact where nothing was split.
    The lower end of the interval is a mean-field bound. ``stats`` holds ``log_partition_lower`` and
    ``log_partition_upper``, (B,) each; ``log_partition`` is the middle (the upper end where the lower one is -inf).
    It gives no marginals. Cost: about (sites) x (mini-buckets a site) x ``max_table``.
    """

    name: ClassVar[str] = "mini_bucket"

    max_table: int = 1 << 16

    def __post_init__(self) -> None:
        if self.max_table < 1:
            raise GraphError(f"mini buckets were asked for with max_table {self.max_table}; legal is at least 1")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask in (Ask.SAMPLE, Ask.MARGINALS):
            return "it bounds the log partition and the least energy, and gives neither marginals nor samples"
        if query.sum_out:
            return "it minimises over all sites, and this query sums some of them out"
        if query.k > 1:
            return "it decodes one assignment, not the k best"
        return table_refusal(graph)

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        view = table_view(graph)
        return Cost(4.0 * view.num_sites * self.max_table, max(self.max_table, int(view.row_sizes.max(initial=1))))

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        view = table_view(graph)
        if query.ask is Ask.MINIMIZE:
            return self._minimize(view, init, budget or Budget())
        return self._log_partition(view, query.temperature, budget or Budget())

    def _log_partition(self, view: TableView, temperature: float, budget: Budget) -> Marginals:
        found = mini_bucket.eliminate(
            view, temperature, self.max_table, largest_score=False, stop=lambda: budget.expired
        )
        upper, exact = found.bound, ~found.split
        lower = upper.copy()
        if not exact.all():
            lower = np.where(exact, upper, np.minimum(self._lower(view, temperature, budget), upper))
        middle = np.where(np.isfinite(lower), lower + 0.5 * (upper - np.where(np.isfinite(lower), lower, 0.0)), upper)
        status = np.where(exact, int(Status.OPTIMAL), int(Status.DEADLINE if budget.expired else Status.CONVERGED))
        status = np.where(np.isneginf(upper), int(Status.INFEASIBLE), status)
        stats = {
            "log_partition_lower": torch.from_numpy(lower),
            "log_partition_upper": torch.from_numpy(upper),
            "largest_table": found.largest,
        }
        everything = bool((exact | np.isneginf(upper)).all())
        return Marginals({}, torch.from_numpy(middle), everything, torch.from_numpy(status), self.name, stats=stats)

    def _lower(self, view: TableView, temperature: float, budget: Budget) -> np.ndarray:
        """(B,) the mean-field bound; where rows are hard it starts at the assignment that mini-buckets decode."""
        deadline = budget if budget.deadline is None else budget.within(max(LOWER_SHARE * budget.remaining, 0.05))
        problem = mean_field.prepare(view)
        start = None
        if problem.hard.any():
            found = mini_bucket.eliminate(view, 1.0, self.max_table, largest_score=True, stop=lambda: deadline.expired)
            start = polished(view, mini_bucket.decode(view, found), lambda: deadline.expired)
        fit = mean_field.fit(
            problem, temperature, None, MEAN_FIELD_SWEEPS, MEAN_FIELD_TOLERANCE, 0.0, lambda: deadline.expired, start
        )
        return fit.lower

    def _minimize(self, view: TableView, init: Assignment | None, budget: Budget) -> Result:
        found = mini_bucket.eliminate(view, 1.0, self.max_table, largest_score=True, stop=lambda: budget.expired)
        bound = -found.bound
        states = polished(view, mini_bucket.decode(view, found), lambda: budget.expired)
        energy = view.energy(states)
        if init is not None:
            given = view.compress(init.values)
            wins = view.energy(given) < energy
            states = np.where(wins[view.instance], given, states)
            energy = np.minimum(energy, view.energy(given))
        witness: Witness = Claim("mini-buckets")
        if not found.split.any():
            witness = EliminationOrder(torch.tensor(found.order, dtype=torch.long))
        stop = Status.DEADLINE if budget.expired else Status.CONVERGED
        status = np.where(np.isposinf(bound), int(Status.INFEASIBLE), int(stop))
        return Result(
            Assignment(view.expand(states)),
            torch.from_numpy(energy),
            torch.from_numpy(bound),
            torch.from_numpy(status),
            solver=self.name,
            witness=witness,
            stats={"largest_table": found.largest},
        )

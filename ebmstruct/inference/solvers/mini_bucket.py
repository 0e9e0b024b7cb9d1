"""Bounds from elimination under a table budget, for graphs too wide to be eliminated exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.kernels.elimination import mini_bucket
from ebmstruct.inference.kernels.messages import mean_field
from ebmstruct.inference.kernels.search.icm import polished, unary_minima
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
LOWER_SHARE, LONGEST_SHARE = 0.2, 0.6
"""The share of the time left that the lower bound of log Z may take; and where one sweep needs more, at most this."""
SWEEP_SECONDS = 1.5e-8
"""What a sweep of mean field takes for each entry of each row (measured: 1.1 s for 75 million)."""
FIRST_TABLES = (1, 1 << 8, 1 << 12)
"""Table budgets that are tried before ``max_table`` where there is a deadline."""


@dataclass(frozen=True)
class MiniBucket(Solver):
    """An interval that holds log Z, or a lower bound on the least energy with an assignment near it.

    Sites are eliminated one by one; a bucket whose table would exceed ``max_table`` entries is split into mini-buckets
    (Dechter and Rish 2003), summed with Hoelder's inequality (Liu and Ihler 2011). What comes out is an upper bound
    on log Z or a lower bound on the energy, the tighter the larger the tables; it is exact where nothing was split.
    The lower end of the interval is a mean-field bound. ``stats`` holds ``log_partition_lower`` and
    ``log_partition_upper``, (B,) each; ``log_partition`` is the middle (the upper end where the lower one is -inf).
    With a deadline small tables come first, and larger ones while there is time; the best ends of all are kept, and
    an elimination that is cut short is bounded term by term. It gives no marginals.
    Cost: about (sites) x (mini-buckets a site) x ``max_table``.
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

    def _levels(self, budget: Budget) -> list[int]:
        """Table budgets to go through: all up to ``max_table`` where time may run out, else that one only."""
        small = [] if budget.deadline is None else [k for k in FIRST_TABLES if k < self.max_table]
        return [*small, self.max_table]

    def _eliminations(
        self, view: TableView, temperature: float, budget: Budget, largest_score: bool
    ) -> Iterator[mini_bucket.SplitElimination]:
        """Eliminations with larger and larger tables, until nothing is split or the time is up."""
        for max_table in self._levels(budget):
            if budget.expired:
                return
            found = mini_bucket.eliminate(
                view, temperature, max_table, largest_score=largest_score, stop=lambda: budget.expired
            )
            yield found
            if not found.split.any():
                return

    def _log_partition(self, view: TableView, temperature: float, budget: Budget) -> Marginals:
        upper = mini_bucket.term_by_term(view, temperature, largest_score=False)
        lower: np.ndarray | None = None
        timed = budget.deadline is not None
        if timed:  # the lower end first, since the upper one takes whatever time there is
            lower = self._lower(view, temperature, budget)
        exact, largest = np.zeros(view.num_instances, np.bool_), 1
        for found in self._eliminations(view, temperature, budget, largest_score=False):
            upper = np.where(exact, upper, np.where(found.split, np.minimum(upper, found.bound), found.bound))
            exact |= ~found.split
            largest = max(largest, found.largest)
        if lower is None:
            lower = upper if exact.all() else self._lower(view, temperature, budget)
        lower = np.where(exact, upper, np.minimum(lower, upper))
        middle = np.where(np.isfinite(lower), lower + 0.5 * (upper - np.where(np.isfinite(lower), lower, 0.0)), upper)
        status = np.where(exact, int(Status.OPTIMAL), int(Status.DEADLINE if budget.expired else Status.CONVERGED))
        status = np.where(np.isneginf(upper), int(Status.INFEASIBLE), status)
        stats = {
            "log_partition_lower": torch.from_numpy(lower),
            "log_partition_upper": torch.from_numpy(upper),
            "largest_table": largest,
        }
        everything = bool((exact | np.isneginf(upper)).all())
        return Marginals({}, torch.from_numpy(middle), everything, torch.from_numpy(status), self.name, stats=stats)

    def _lower(self, view: TableView, temperature: float, budget: Budget) -> np.ndarray:
        """(B,) the mean-field bound, or minus the energy of an assignment, whichever is higher.

        Where rows are hard, mean field starts at the assignment that mini-buckets decode. On a graph of which one
        sweep would not fit into the time, the assignment has to do.
        """
        share = LOWER_SHARE * budget.remaining
        mine = budget if budget.deadline is None else budget.within(share)
        states = self._assignment(view, mine)
        lower = -view.energy(states) / temperature
        sweep = SWEEP_SECONDS * float(view.row_sizes.sum())  # and computing the bound takes about as long
        if budget.deadline is not None:
            if 3.0 * sweep > LONGEST_SHARE * budget.remaining:
                return np.asarray(lower)
            mine = budget.within(max(share, 3.0 * sweep) - 2.0 * sweep)
        fit = mean_field.fit(
            _soft_problem(view),
            temperature,
            None,
            MEAN_FIELD_SWEEPS,
            MEAN_FIELD_TOLERANCE,
            0.0,
            lambda: mine.expired,
            states,
        )
        return np.maximum(lower, fit.lower)

    def _assignment(self, view: TableView, budget: Budget) -> np.ndarray:
        """(n,) states of low energy: those next to the sites' own best, or where rows are hard those decoded."""
        states = polished(view, unary_minima(view), lambda: budget.expired)
        allowed = np.isfinite(view.energy(states)[np.isfinite(view.constant.detach().numpy())]).all()
        if allowed and (budget.deadline is not None or not np.isposinf(view.arrays[1]).any()):
            return states
        table = self.max_table if budget.deadline is None else min(self.max_table, FIRST_TABLES[-1])
        found = mini_bucket.eliminate(view, 1.0, table, largest_score=True, stop=lambda: budget.expired)
        return _better(view, states, polished(view, mini_bucket.decode(view, found, states), lambda: budget.expired))

    def _minimize(self, view: TableView, init: Assignment | None, budget: Budget) -> Result:
        bound = -mini_bucket.term_by_term(view, 1.0, largest_score=True)
        states = polished(view, unary_minima(view), lambda: budget.expired)
        if init is not None:
            states = _better(view, states, view.compress(init.values))
        witness: Witness = Claim("mini-buckets")
        largest = 1
        for found in self._eliminations(view, 1.0, budget, largest_score=True):
            decoded = polished(view, mini_bucket.decode(view, found, states), lambda: budget.expired)
            states = _better(view, states, decoded)
            bound, largest = np.maximum(bound, -found.bound), max(largest, found.largest)
            if not found.split.any():
                witness, bound = EliminationOrder(torch.tensor(found.order, dtype=torch.long)), -found.bound
        stop = Status.DEADLINE if budget.expired else Status.CONVERGED
        status = np.where(np.isposinf(bound), int(Status.INFEASIBLE), int(stop))
        return Result(
            Assignment(view.expand(states)),
            torch.from_numpy(view.energy(states)),
            torch.from_numpy(bound),
            torch.from_numpy(status),
            solver=self.name,
            witness=witness,
            stats={"largest_table": largest},
        )


def _better(view: TableView, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) of two assignments the better one, instance by instance."""
    wins = view.energy(other) < view.energy(one)
    return np.where(wins[view.instance], other, one)


def _soft_problem(view: TableView) -> mean_field.MeanFieldProblem:
    """What ``mean_field.prepare`` makes, but for what only annealing needs, which looks at every row's own table."""
    from ebmstruct.inference.kernels.reduction_numba import row_is_hard

    unary, tables, weights = view.arrays
    hard = row_is_hard(view.table_start, view.row_sizes, tables)
    arrays = (view.starts, view.row_ptr, view.row_sites, view.table_start, weights, tables)
    ones = np.ones(view.num_instances)
    return mean_field.MeanFieldProblem(view, arrays, unary, hard, np.arange(view.num_sites), ones, ones)

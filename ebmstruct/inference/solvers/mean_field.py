"""Naive mean field: marginals from independent sites, with a lower bound on the log partition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.kernels.messages import mean_field as kernels
from ebmstruct.inference.result import Answer, Ask, Budget, Claim, Marginals, Query, Result, Status
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view


@dataclass(frozen=True)
class MeanField(Solver):
    """The best approximation of exp(-E / T) by independent sites, found by coordinate ascent (Jordan et al. 1999).

    ``Marginals.log_partition`` is a lower bound on log Z, proven by the beliefs themselves, in float64 (-inf where no
    assignment was found that the hard rows allow); ``exact`` is never True. Minimising lowers the temperature to
    nothing, decodes, and ends with a descent; there is no bound. The optimum found depends on the start:
    ``restarts`` draws more of them and keeps each instance's best.

    With infinite entries the beliefs stay where no forbidden entry has any probability, which may be much less than
    the support of the true marginals: the bound is still a bound, the beliefs are then poor.
    Cost a sweep: the entries of all tables times the square of the arity.
    """

    name: ClassVar[str] = "mean_field"

    max_iterations: int = 500
    tolerance: float = 1e-9
    damping: float = 0.0
    restarts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.damping < 1:
            raise GraphError(f"mean field was asked for with damping {self.damping}; legal is 0 <= damping < 1")
        if self.restarts < 1:
            raise GraphError(f"mean field was asked for with restarts {self.restarts}; legal is at least 1")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is Ask.SAMPLE:
            return "it gives marginals and a bound on the log partition, not samples"
        if query.sum_out:
            return "it minimises over all sites, and this query sums some of them out"
        if query.k > 1:
            return "it decodes one assignment, not the k best"
        if query.factors:
            return "it takes sites as independent, so it has no joint beliefs of factors"
        return table_refusal(graph)

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        view = table_view(graph)
        work = float((view.row_sizes * view.arity**2).sum()) * self.restarts
        return Cost(30 * work, int(view.row_sizes.max(initial=1)))

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
        problem = kernels.prepare(view)
        budget = budget or Budget()
        seed = int(torch.randint(1 << 31, (), generator=generator or torch.Generator().manual_seed(0)))
        seeds = [None, *(seed + i for i in range(1, self.restarts))]
        if query.ask is Ask.MINIMIZE:
            return self._minimize(problem, seeds, init, budget)
        return self._marginals(problem, seeds, query.temperature, budget)

    def _marginals(
        self, problem: kernels.MeanFieldProblem, seeds: list[int | None], temperature: float, budget: Budget
    ) -> Marginals:
        view = problem.view
        limit = self.max_iterations if budget.max_steps is None else min(self.max_iterations, budget.max_steps)
        best: kernels.Fit | None = None
        for seed in seeds:
            if best is not None and budget.expired:
                break
            found = kernels.fit(problem, temperature, seed, limit, self.tolerance, self.damping, lambda: budget.expired)
            best = found if best is None else _better(view, best, found)
        assert best is not None
        stop = Status.DEADLINE if budget.expired else Status.MAX_STEPS
        status = np.where(best.converged, int(Status.CONVERGED), int(stop))
        lost = np.isposinf(view.constant.detach().numpy())
        status = np.where(lost, int(Status.INFEASIBLE), status)
        return Marginals(
            view.expand_beliefs(torch.from_numpy(best.belief)),
            torch.from_numpy(np.where(lost, -np.inf, best.lower)),
            False,
            torch.from_numpy(status),
            self.name,
            stats={
                "log_partition_bound": "lower",
                "change": torch.from_numpy(best.change),
                "iterations": torch.from_numpy(best.sweeps),
            },
        )

    def _minimize(
        self, problem: kernels.MeanFieldProblem, seeds: list[int | None], init: Assignment | None, budget: Budget
    ) -> Result:
        view = problem.view
        best = np.zeros(view.num_sites, np.int64) if init is None else view.compress(init.values)
        energy = view.energy(best)
        for seed in seeds:
            states = kernels.anneal(problem, seed, lambda: budget.expired)
            found = view.energy(states)
            wins = found < energy
            best, energy = np.where(wins[view.instance], states, best), np.where(wins, found, energy)
            if budget.expired:
                break
        lost = np.isposinf(view.constant.detach().numpy())
        stop = Status.DEADLINE if budget.expired else Status.CONVERGED
        status = np.where(lost, int(Status.INFEASIBLE), int(stop))
        return Result(
            Assignment(view.expand(best)),
            torch.from_numpy(energy),
            torch.from_numpy(np.where(lost, np.inf, -np.inf)),
            torch.from_numpy(status),
            solver=self.name,
            witness=Claim("constraint propagation") if lost.any() else None,
            stats={"starts": len(seeds)},
        )


def _better(view: TableView, old: kernels.Fit, new: kernels.Fit) -> kernels.Fit:
    """Each instance's fit with the higher bound."""
    wins = new.lower > old.lower
    owner = np.repeat(view.instance, view.num_states)
    return kernels.Fit(
        np.where(wins[owner], new.belief, old.belief),
        np.where(wins, new.lower, old.lower),
        np.where(wins, new.change, old.change),
        np.where(wins, new.sweeps, old.sweeps),
        np.where(wins, new.converged, old.converged),
    )

"""Answers of outside solvers for a whole view: one process an instance, energies and bounds in float64."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.kernels.messages import mean_field
from ebmstruct.inference.outside.problem import IntegerProblem, integer_problem
from ebmstruct.inference.result import Ask, Budget, Claim, Query, Result, Status
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view


@dataclass(frozen=True, eq=False)
class Found:
    """What an outside solver said of one instance.

    states: (n,) its best assignment below the one it was given, None where it found none.  cost: no assignment costs
    less than this.  finished: whether it ended by itself.  failure: its complaint, where it failed.
    """

    states: np.ndarray | None
    cost: float
    finished: bool
    failure: str = ""


Asking = Callable[[IntegerProblem, Budget], Found]


def refusal(graph: FactorGraph, query: Query, max_entries: int) -> str | None:
    """Why no outside solver is asked, in a sentence; None if one may be. Their packages are looked for elsewhere."""
    if query.ask is not Ask.MINIMIZE:
        return f"it is asked for least energies only, and this query asks for {query.ask}"
    if query.sum_out:
        return "it minimises over all sites, and this query sums some of them out"
    if query.k > 1:
        return "it is asked for one assignment, not the k best"
    reason = table_refusal(graph)
    if reason is None and (size := int(table_view(graph).row_sizes.sum())) > max_entries:
        reason = f"the tables have {size:,} entries, more than {max_entries:,} to hand over"
    return reason


def answer(
    view: TableView, name: str, claim: str, top: int, ask: Asking, init: Assignment | None, budget: Budget
) -> Result:
    """Ask an outside solver about each instance in turn; each gets an equal share of the time that is left.

    It begins with ``init``, or an annealed mean field where there is none, and is asked for less only. The bound
    stands on the solver's word, but not on its rounding: costs were rounded down, so cost c proves offset + c / scale.
    """
    began = time.monotonic()
    first = _first(view, init, budget)
    energy = view.energy(first)
    constant = view.constant.detach().numpy()
    bound = np.where(np.isposinf(constant), np.inf, -np.inf)
    status = np.where(np.isposinf(constant), int(Status.INFEASIBLE), int(Status.CONVERGED))
    failures: dict[int, str] = {}
    scale = np.full(view.num_instances, np.inf)
    for b in np.nonzero(np.isfinite(constant))[0].tolist():
        if budget.expired:
            status[b] = int(Status.DEADLINE)
            continue
        problem = integer_problem(view, b, first, float(energy[b]), top)
        scale[b] = problem.scale
        if not problem.functions:
            bound[b] = problem.offset
            continue
        left = view.num_instances - b
        share = budget if budget.deadline is None else budget.within(budget.remaining / left)
        if share.expired:
            status[b] = int(Status.DEADLINE)
            continue
        found = ask(problem, share)
        if found.states is not None:
            better = first.copy()
            better[problem.sites] = found.states
            if view.energy(better)[b] < energy[b]:
                first = better
        if found.failure:
            failures[b] = found.failure
        bound[b] = problem.bound(found.cost)
        if found.states is None and problem.first_cost < 0 and found.cost >= problem.most:
            bound[b] = np.inf
        status[b] = int(Status.CONVERGED if found.finished else Status.MAX_STEPS if found.failure else Status.DEADLINE)
        if np.isposinf(bound[b]):
            status[b] = int(Status.INFEASIBLE)
    return Result(
        Assignment(view.expand(first)),
        torch.from_numpy(np.where(np.isposinf(bound), np.inf, view.energy(first))),
        torch.from_numpy(bound),
        torch.from_numpy(status),
        solver=name,
        witness=Claim(claim),
        stats={
            "seconds": time.monotonic() - began,
            "version": claim,
            "resolution": torch.from_numpy(1 / scale),
            "failures": failures,
        },
    )


def _first(view: TableView, init: Assignment | None, budget: Budget) -> np.ndarray:
    """(n,) states to begin with: what is given where it is feasible; an annealed assignment in all other instances."""
    if init is not None:
        given = view.compress(init.values)
        energy = view.energy(given)
        sound = np.isfinite(energy) | ~np.isfinite(view.constant.detach().numpy())
        if sound.all() or budget.expired:
            return given
    states = mean_field.anneal(mean_field.prepare(view), None, lambda: budget.expired)
    if init is None:
        return states
    return np.where((energy <= view.energy(states))[view.instance], given, states)

"""CP-SAT, the constraint solver of OR-Tools, where its Python wheel is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.outside.answers import Found, answer, refusal
from ebmstruct.inference.outside.problem import IntegerProblem
from ebmstruct.inference.outside.process import run
from ebmstruct.inference.result import Answer, Budget, Query
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.views.table_view import table_view

TOP = 1 << 40
"""About the greatest cost: sums of costs stay exact in float64, in which the solver tells its bounds."""


@dataclass(frozen=True)
class CPSAT(Solver):
    """Least energy by lazy clause generation, in a process of its own (Perron, Didier and Gay 2023).

    It wants the extra ``ebmstruct[cpsat]`` and refuses without. Energies are rounded down to whole multiples of
    ``stats["resolution"]``, chosen so fine that the known assignment costs 2**40; the energy of the answer is summed in
    float64, and the bound, marked as a claim, allows for the rounding. The process ends at the deadline, by force, and
    the best assignment printed so far is the answer; without a deadline it may run for ever.

    seconds: a limit beside the budget's, for the whole call.  workers: threads of the process; with more than one, or
    with a deadline, answers may differ from run to run.
    linked: a Boolean for every entry of a table, tied to those of the sites, which makes bounds much better and models
    much larger, in place of one for each entry that costs something.
    Models of more than ``max_entries`` table entries are refused.
    """

    name: ClassVar[str] = "cp_sat"

    seconds: float | None = None
    workers: int = 1
    linked: bool = True
    max_entries: int = 500_000

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if importlib.util.find_spec("ortools") is None:
            return 'OR-Tools is not installed: install "ebmstruct[cpsat]"'
        return refusal(graph, query, self.max_entries)

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
        if self.seconds is not None:
            budget = budget.within(self.seconds)
        claim = f"OR-Tools CP-SAT {importlib.metadata.version('ortools')}"
        return answer(table_view(graph), self.name, claim, TOP, self._ask, init, budget)

    def _ask(self, problem: IntegerProblem, budget: Budget) -> Found:
        options = {"workers": self.workers, "linked": int(self.linked), "seed": 1}
        return _read(run("cp_sat_worker", problem.arrays(), options, budget), problem)


def _read(lines: list[str], problem: IntegerProblem) -> Found:
    """What the worker's lines say. A line that was cut off by the deadline is passed over."""
    states: np.ndarray | None = None
    cost, finished, failure = 0.0, False, ""
    for line in lines:
        if line.startswith("failed: "):
            failure = line.removeprefix("failed: ")
            continue
        try:
            said: Any = json.loads(line)
        except ValueError:
            continue
        if not isinstance(said, dict):
            continue
        if "states" in said:
            states = np.array(said["states"], dtype=np.int64)
        if said.get("infeasible"):
            cost = float(problem.most if problem.first_cost < 0 else problem.first_cost)
        # a bound on whole numbers may be rounded up, but for what float64 lost on the way
        cost = max(cost, float(math.ceil(said.get("bound", 0.0) - 0.5)))
        finished = finished or bool(said.get("ended"))
    return Found(states, cost, finished, failure)

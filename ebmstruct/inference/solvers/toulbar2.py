"""toulbar2, an exact solver of weighted constraint networks, where its Python wheel is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.outside.answers import Found, answer, refusal
from ebmstruct.inference.outside.problem import IntegerProblem
from ebmstruct.inference.outside.process import run
from ebmstruct.inference.result import Answer, Budget, Query
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.views.table_view import table_view

TOP = 1 << 46
"""About the greatest cost: beyond it float64, in which costs are handed over, and sums of costs come near their ends."""
BOUNDS = re.compile(r"^(?:Initial lower and upper bounds|Optimality gap): \[(\d+), ?(\d+)\]")
OPTIMUM = re.compile(r"^Optimum: (\d+) ")


@dataclass(frozen=True)
class Toulbar2(Solver):
    """Least energy by branch and bound with soft arc consistency, in a process of its own (de Givry et al. 2005 on).

    It wants the extra ``ebmstruct[toulbar2]`` and refuses without. Energies are rounded down to whole multiples of
    ``stats["resolution"]``, chosen so fine that the known assignment costs 2**46; the energy of the answer is summed in
    float64, and the bound, marked as a claim, allows for the rounding. The process ends at the deadline, by
    force, and the best assignment printed so far is the answer; without a deadline it may run for ever.

    seconds: a limit beside the budget's, for the whole call.
    vac: search depth to which virtual arc consistency is kept (Cooper et al. 2010), better bounds for more time a node;
    1 is for preprocessing only, 0 for not at all.  rasps: whether to look for a first assignment where it is tight.
    vns: variable neighbourhood search in place of best-first search, which finds good assignments sooner on large
    graphs and proves less; the two others are then left out.
    Models of more than ``max_entries`` table entries are refused: handing them over would take seconds.
    """

    name: ClassVar[str] = "toulbar2"

    seconds: float | None = None
    vac: int = 1
    rasps: bool = True
    vns: bool = False
    max_entries: int = 6_000_000

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if importlib.util.find_spec("pytoulbar2") is None:
            return 'toulbar2 is not installed: install "ebmstruct[toulbar2]"'
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
        claim = f"toulbar2 {importlib.metadata.version('pytoulbar2')}"
        return answer(table_view(graph), self.name, claim, TOP, self._ask, init, budget)

    def _ask(self, problem: IntegerProblem, budget: Budget) -> Found:
        vac, rasps = (0, 0) if self.vns else (self.vac, int(self.rasps))
        options = {"vac": vac, "rasps": rasps, "vns": int(self.vns), "seed": 1}
        lines = run("toulbar2_worker", problem.arrays(), options, budget)
        return _read(lines, problem)


def _read(lines: list[str], problem: IntegerProblem) -> Found:
    """What toulbar2's lines say. A solution that was cut off by the deadline is passed over."""
    below = problem.first_cost if problem.first_cost >= 0 else problem.most
    states: np.ndarray | None = None
    cost, finished, failure = 0.0, False, ""
    for line, after in zip(lines, [*lines[1:], ""], strict=False):
        if line.startswith("New solution: "):
            found = np.array([int(word) for word in after.split() if word.isdigit()], dtype=np.int64)
            if found.size == problem.num_states.size and (found < problem.num_states).all():
                states = found
        elif match := BOUNDS.match(line):
            cost = max(cost, float(match[1]))
        elif match := OPTIMUM.match(line):
            cost, finished = float(match[1]), True
        elif line.startswith("No solution"):
            cost, finished = float(below), True
        elif line == "ended":
            finished = True
        elif line.startswith("failed: "):
            failure = line.removeprefix("failed: ")
    return Found(states, min(cost, float(below)), finished, failure)

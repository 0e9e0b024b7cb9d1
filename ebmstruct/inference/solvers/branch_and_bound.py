"""Branch and bound over the discrete sites of a mixed graph: proven minima beyond what can be enumerated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.mixed.alternation import Effort, lowest
from ebmstruct.inference.mixed.parts import mixed_refusal, never_negative, quadratic_inside
from ebmstruct.inference.mixed.tree_search import TreeSearch
from ebmstruct.inference.result import Answer, Budget, Query
from ebmstruct.inference.solver import Solver

FIRST_SHARE = 0.3
"""Of the time before a deadline, what the first best assignment may take."""


@dataclass(frozen=True)
class BranchAndBound(Solver):
    """The least energy of a mixed graph that is quadratic once its states are known, with a proof.

    Sites are decided one after another, from the first of each block to the last. A lower bound of everything that begins
    with some states: the least sum of squares of the rows whose sites are all decided, for what the other rows add is
    not negative, and the least discrete energy of any completion. The open node of least bound is taken apart first; what
    cannot come below the best assignment found is cut. The first best comes from alternating minimisation
    and a search about its fixed point.
    It needs residuals that are affine in free vectors whatever the states are (``linear=True``, no robust loss, no
    constraint). Bounds are tight along chains that observations hold; where rows join far sites nearly all nodes must
    be looked at.

    starts: of the alternating minimisation.  at_once: nodes of an instance that are taken apart together.
    max_nodes: of an instance; where they are used up the answer ends MAX_STEPS, with the bound reached.
    Cost: a continuous solve for each node. A budget counts rounds of ``at_once`` nodes.
    Source: Land and Doig (1960); Lawler and Wood (1966).
    """

    name: ClassVar[str] = "branch_and_bound"

    starts: int = 4
    at_once: int = 16
    max_nodes: int = 50_000

    def __post_init__(self) -> None:
        for field in ("starts", "at_once", "max_nodes"):
            if getattr(self, field) < 1:
                raise GraphError(f"BranchAndBound: {field} must be at least 1; found {getattr(self, field)}")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.k != 1:
            return f"it finds one assignment; {query.k} were asked"
        reason = mixed_refusal(graph, query)
        if reason is not None:
            return reason
        if never_negative(graph) and quadratic_inside(graph):
            return None
        return (
            "its bounds need residuals that are affine in free vectors once states are known (linear=True), without "
            "robust losses, constraints and bounds; mixed_enumeration and alternating do without"
        )

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
        first = budget if budget.deadline is None else budget.within(FIRST_SHARE * max(0.0, budget.remaining))
        effort = Effort(self.starts, 2, 0, 1, 256, 20, 1.0)
        best = lowest(graph, init, effort, replace(first, max_steps=None), generator)
        search = TreeSearch(graph, best, budget)
        search.run(self.at_once, self.max_nodes)
        return replace(search.result(), solver=self.name)

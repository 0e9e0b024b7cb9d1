"""Alternating minimisation of mixed graphs, and a search about its fixed points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.mixed.alternation import Alternations, Effort, lowest
from ebmstruct.inference.mixed.parts import mixed_refusal
from ebmstruct.inference.result import Answer, Budget, Query, Result, Status
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True)
class Alternating(Solver):
    """Low energy of a mixed graph of any size: block coordinate descent from several starts, then a local search.

    In turns the discrete blocks are minimised at fixed points (``tabulate``, and whatever solver the engine takes for
    the tables), and the continuous blocks at fixed states (``refine``), until nothing gets lower. Half of the starts
    begin at scattered points, half at random states. The ``searches`` lowest fixed points are then searched about:
    every change of one discrete site, and of two neighbouring ones, is tried with the points solved again, and the best
    is made, until none lowers the energy; afterwards ``kicks`` times some random sites change and it begins anew. All
    of it runs side by side, and each instance keeps its own best: starts do not depend on the batch.

    max_moves: of an instance; where doubles would make it more, only single changes are tried.
    start_distance: of scattered starts.  max_rounds: of one alternation.  kicked: the sites that a kick changes.
    Cost: a round is a solve of the tables and a continuous solve for each start, or 32 continuous solves for each search;
    a pass over the neighbourhood is a solve for each move. A budget counts rounds. It gives no bound of its own.
    """

    name: ClassVar[str] = "alternating"

    starts: int = 8
    searches: int = 3
    kicks: int = 2
    kicked: int = 3
    max_moves: int = 512
    max_rounds: int = 50
    start_distance: float = 1.0

    def __post_init__(self) -> None:
        for field, least in (("starts", 1), ("searches", 0), ("kicks", 0), ("kicked", 1), ("max_rounds", 1)):
            if getattr(self, field) < least:
                raise GraphError(f"Alternating: {field} must be at least {least}; found {getattr(self, field)}")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.k != 1:
            return f"it finds one assignment; {query.k} were asked"
        return mixed_refusal(graph, query)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        effort = Effort(
            self.starts,
            self.searches,
            self.kicks,
            self.kicked,
            self.max_moves,
            self.max_rounds,
            self.start_distance,
        )
        return self._result(lowest(graph, init, effort, budget or Budget(), generator))

    def _result(self, best: Alternations) -> Result:
        energy = best.energy[0]
        status = torch.full(energy.shape, int(best.stopped or Status.CONVERGED), dtype=torch.long)
        status = torch.where(energy.isfinite(), status, status.clamp(min=int(Status.INFEASIBLE)))
        return Result(
            Assignment({n: v[0] for n, v in best.values.items()}),
            energy,
            torch.full_like(energy, -torch.inf),
            status,
            solver=self.name,
            stats={"rounds": best.rounds, "solves": best.solves},
        )

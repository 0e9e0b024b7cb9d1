"""Every joint state of the discrete blocks, with a continuous solve inside: exact for small mixed graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.latent.configurations import log_configurations
from ebmstruct.inference.mixed.enumeration import Enumerated
from ebmstruct.inference.mixed.parts import discrete_blocks, mixed_refusal
from ebmstruct.inference.result import Answer, Budget, Query
from ebmstruct.inference.solver import Cost, Solver


@dataclass(frozen=True)
class MixedEnumeration(Solver):
    """Least energy of a mixed graph: the continuous blocks are minimised for each joint state of the discrete ones.

    Copies of the graph, each with its own states, are solved side by side (``refine``). Where every factor over a
    continuous block is a residual, whose energy is never negative, states are tried in the order of their discrete
    energy, and those are left out whose discrete energy alone exceeds the best total.
    Where residuals are affine in free vectors once the states are known (``linear=True``, no robust loss), each solve is
    exact and so is the answer: its bound is the minimum, and k best are the k best joint states. Else each solve finds a
    local minimum; the ``polished`` best states are then solved again from ``starts`` starts: where others of the best
    ended, and scattered ones.

    max_assignments: the most joint states of an instance that are taken on.  start_distance: of scattered starts.
    Cost: a continuous solve for each joint state that is not left out, times B. A budget counts batches of copies.
    """

    name: ClassVar[str] = "mixed_enumeration"

    max_assignments: int = 4096
    polished: int = 16
    starts: int = 6
    start_distance: float = 1.0

    def __post_init__(self) -> None:
        for field, least in (("max_assignments", 1), ("polished", 0), ("starts", 1)):
            if getattr(self, field) < least:
                raise GraphError(f"MixedEnumeration: {field} must be at least {least}; found {getattr(self, field)}")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        reason = mixed_refusal(graph, query)
        if reason is not None:
            return reason
        most = log_configurations(graph, discrete_blocks(graph))
        if most > math.log(self.max_assignments) + 1e-9:
            return f"an instance has about 1e{most / 2.302585:.0f} joint states, more than {self.max_assignments:,}"
        return None

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        sites = sum(v.num_sites for v in graph.variables.values())
        most = math.exp(min(log_configurations(graph, discrete_blocks(graph)), 60.0))
        return Cost(1e3 * most * sites, round(most))

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        run = Enumerated(graph, query.k, init, budget or Budget())
        run.enumerate()
        if not run.exact:
            run.polish(self.polished, self.starts, self.start_distance, generator)
            run.finish()
        return replace(run.result(), solver=self.name)

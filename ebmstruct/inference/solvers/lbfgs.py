"""Limited memory BFGS: the minimiser of smooth energies that are not sums of squares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.descent.gradient_refusal import gradient_refusal, gradient_status
from ebmstruct.inference.descent.loop import DescentOptions, DescentState, begin_descent, descend
from ebmstruct.inference.descent.multi_start import best_start, of_start, scattered_starts, values_of_start
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Answer, Budget, Query
from ebmstruct.inference.smooth_energy import SmoothEnergy
from ebmstruct.inference.solver import IterativeMinimizer, Progress


@dataclass(frozen=True, eq=False)
class LBFGSState:
    """The energy of all starts, where their descents stand, and what they say of the graph's own instances."""

    function: SmoothEnergy
    descent: DescentState
    chosen: Tensor
    said: Progress


@dataclass(frozen=True)
class LBFGS(IterativeMinimizer[LBFGSState]):
    """Least energy over continuous blocks by limited memory BFGS (Nocedal 1980), each instance with its own steps.

    Any differentiable energy: residuals, functions of whole blocks such as neural networks, tables over clamped blocks.
    Every instance has its own history, line search and end; the energy never rises. Bounds of ``Real`` hold at every
    step (two-metric projection, Bertsekas 1982). On manifolds the history is carried from point to point unchanged,
    which is an approximate transport. Finds a local minimum; energies with kinks may stop it early.

    history: remembered steps.  tolerance: an instance is done where no entry of its projected gradient is larger; None
    for 1e-8 in float64, 1e-5 in float32.  It is done too where three iterations bring nothing beyond rounding.
    max_iterations: accepted steps of an instance.  starts: how many descents from scattered starts, the best of which
    is kept; start_distance: how far apart, in each coordinate.
    Cost of a step: one energy with its gradient for all instances and starts, and 4 * history passes over the point.
    """

    name: ClassVar[str] = "lbfgs"

    history: int = 10
    tolerance: float | None = None
    max_iterations: int = 2000
    starts: int = 1
    start_distance: float = 1.0

    def __post_init__(self) -> None:
        for field in ("history", "starts"):
            if getattr(self, field) < 1:
                raise GraphError(f"LBFGS: {field} must be at least 1; found {getattr(self, field)}")

    @property
    def options(self) -> DescentOptions:
        """What the descent itself is told."""
        return DescentOptions(self.history, self.tolerance, self.max_iterations)

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return gradient_refusal(graph, query)

    def begin(
        self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None
    ) -> LBFGSState:
        function, point = scattered_starts(graph, init, self.starts, self.start_distance, generator)
        return self._state(graph, function, begin_descent(function, point, self.options))

    def step(self, graph: FactorGraph, query: Query, state: LBFGSState) -> LBFGSState:
        """One trial step of each instance that is not done."""
        return self._state(graph, state.function, descend(state.function, state.descent, self.options))

    def progress(self, state: LBFGSState) -> Progress:
        return state.said

    def _state(self, graph: FactorGraph, function: SmoothEnergy, descent: DescentState) -> LBFGSState:
        chosen = best_start(graph, self.starts, descent.energy)
        said = Progress(
            values_of_start(graph, self.starts, chosen, function.values(descent.point)),
            of_start(self.starts, chosen, descent.energy),
            torch.full((graph.num_instances,), -torch.inf, dtype=torch.float64),
            descent.done.reshape(self.starts, -1).all(0),
        )
        return LBFGSState(function, descent, chosen, said)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        result, state = self.iterate(graph, query, init=init, budget=punctual(budget, 0.5), generator=generator)
        descent = state.descent

        def own(rows: Tensor) -> Tensor:
            return of_start(self.starts, state.chosen, rows)

        gradient = own(descent.largest)
        status = gradient_status(result, gradient, own(descent.gave_up))
        stats = {
            **result.stats,
            "evaluations": descent.evaluations,
            "iterations": own(descent.iterations),
            "gradient": gradient,
        }
        return replace(result, status=status, stats=stats)

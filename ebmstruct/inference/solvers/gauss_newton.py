"""Least squares over residual factors, with whole steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.least_squares.loop import LeastSquares, Steps, residual_refusal
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Ask, Budget, Query, Result, Witness
from ebmstruct.inference.solver import IterativeMinimizer, Progress


@dataclass(frozen=True)
class GaussNewton(IterativeMinimizer[LeastSquares]):
    """Gauss-Newton: each step to the minimum of the linearised residuals, halved until the energy falls.

    Takes the graphs that ``LevenbergMarquardt`` takes, and needs fewer steps where residuals are nearly linear or the
    start is good; elsewhere that is the safer one. Instances whose matrix is singular are damped.

    relative_decrease, gradient, step_length: when an instance ends (``least_squares.Steps``).
    """

    name: ClassVar[str] = "gauss_newton"

    relative_decrease: float = 1e-10
    gradient: float = 1e-12
    step_length: float = 1e-12

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.MINIMIZE or query.k != 1 or query.sum_out:
            return "it finds one assignment of low energy, and nothing else"
        return residual_refusal(graph)

    def begin(
        self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None
    ) -> LeastSquares:
        return LeastSquares(graph, init, Steps(0.0, self.relative_decrease, self.gradient, self.step_length))

    def step(self, graph: FactorGraph, query: Query, state: LeastSquares) -> LeastSquares:
        state.advance()
        return state

    def progress(self, state: LeastSquares) -> Progress:
        return state.progress()

    def iterate(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> tuple[Result, LeastSquares]:
        return super().iterate(graph, query, init=init, budget=punctual(budget, 0.5), generator=generator)

    def witness(self, state: LeastSquares) -> Witness | None:
        return state.witness()

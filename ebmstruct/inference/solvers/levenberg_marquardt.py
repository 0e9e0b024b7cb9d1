"""Damped least squares over residual factors."""

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
class LevenbergMarquardt(IterativeMinimizer[LeastSquares]):
    """Levenberg-Marquardt: Gauss-Newton steps that each instance damps as much as it needs.

    For energies whose factors over continuous blocks are all ``ResidualFactor``; manifolds by their ``retract``, bounds
    of ``Real`` by projection, robust losses by reweighting. It finds a local minimum and is never worse than its start.

    damping: the first damping, as a part of the diagonal of J^T J.
    relative_decrease, gradient, step_length: when an instance ends (``least_squares.Steps``).
    Cost: a step factorises J^T J in its band, n w^2, or as a sparse matrix; whichever is less.
    """

    name: ClassVar[str] = "levenberg_marquardt"

    damping: float = 1e-4
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
        return LeastSquares(graph, init, Steps(self.damping, self.relative_decrease, self.gradient, self.step_length))

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

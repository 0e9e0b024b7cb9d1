"""Solvers inside solvers: found by name and options, asked for a certified answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Generator

from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Budget, Result
from ebmstruct.inference.solver import Solver


def named_solver(solver: Solver | str | None, options: Mapping[str, Any] | None = None) -> Solver | None:
    """The solver itself, or the one of that name with these options; None, for the engine's choice, as it is.

    Errors: GraphError for a name that no solver has, or options that it does not take.
    """
    if not isinstance(solver, str):
        return solver
    from ebmstruct.inference.solvers import SOLVERS

    if solver not in SOLVERS:
        raise GraphError(f"no solver is named {solver!r}; there: {', '.join(SOLVERS)}")
    try:
        return SOLVERS[solver](**(options or {}))
    except TypeError as fault:
        raise GraphError(f"the solver {solver!r} does not take these options: {fault}") from None


def nested_minimum(
    graph: FactorGraph,
    solver: Solver | None,
    init: Assignment | None,
    budget: Budget | None,
    generator: Generator | None,
) -> Result | None:
    """A certified minimum by the solver, or by the engine's choice for None; None where it refuses."""
    from ebmstruct.inference.engine import minimize

    try:
        return minimize(graph, solver, init=init, budget=budget, generator=generator)
    except SolverRefusal:
        return None

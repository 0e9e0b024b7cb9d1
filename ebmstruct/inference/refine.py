"""The continuous solve inside solvers of mixed graphs: discrete blocks clamped, the others minimised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.graph import Assignment, Continuous, Discrete, FactorGraph
from ebmstruct.inference.result import Budget, Query, Result
from ebmstruct.inference.smooth_energy import constraint_labels
from ebmstruct.inference.solver import Solver


def refine(
    graph: FactorGraph, init: Assignment, budget: Budget | None = None, generator: Generator | None = None
) -> Result:
    """Least energy over the open continuous blocks from ``init`` on, every discrete block clamped to its states there.

    By Levenberg-Marquardt where every factor over continuous blocks is a residual, else by L-BFGS; by augmented
    Lagrangians where there are constraints. A local minimum, with whatever bound the solver gives; the energies are the
    solver's own, not certified. Errors: SolverRefusal where none of them takes the graph.
    """
    states = {n: init[n] for n, v in graph.variables.items() if isinstance(v.domain, Discrete) and n in init}
    inside = with_states(graph, states)
    query = Query()
    solver = inner_solver(inside, query)
    start = Assignment({n: v for n, v in init.items() if isinstance(graph.variables[n].domain, Continuous)})
    answer = solver.solve(inside, query, init=start, budget=budget, generator=generator)
    assert isinstance(answer, Result)
    return answer


def with_states(graph: FactorGraph, states: Mapping[str, Tensor]) -> FactorGraph:
    """The graph with its discrete blocks clamped whole to ``states``, whatever the evidence left open there.

    It shares the topology, so that what was derived from it serves every choice of states.
    """
    fixed = graph.evidence or Assignment({})
    for name, block in graph.variables.items():
        if isinstance(block.domain, Discrete) and name not in states and name not in fixed.values and block.num_sites:
            raise GraphError(f"no states for block {name!r}; they were given for {list(states)}")
    values = {**fixed.values, **states}
    known = {n: m for n, m in fixed.known.items() if n not in states}
    evidence = Assignment(values, known, fixed.allowed)
    return FactorGraph((), graph.factors, constant=graph.constant, evidence=evidence, topology=graph.topology)


def inner_solver(graph: FactorGraph, query: Query) -> Solver:
    """The minimiser of a graph whose discrete blocks are clamped. Errors: SolverRefusal, with the reason of the last."""
    from ebmstruct.inference.solvers import SOLVERS

    names = ("augmented_lagrangian",) if constraint_labels(graph) else ("levenberg_marquardt", "lbfgs")
    reasons = {}
    for name in names:
        solver = SOLVERS[name]()
        reason = solver.refuse(graph, query)
        if reason is None:
            return solver
        reasons[name] = reason
    raise SolverRefusal(f"no minimiser of its continuous blocks takes the graph: {reasons[names[-1]]}", reasons)


def refine_refusal(graph: FactorGraph) -> str | None:
    """Why the continuous blocks cannot be minimised once the discrete ones are clamped; None where they can."""
    zeros = {
        n: torch.zeros(v.num_sites, dtype=torch.long)
        for n, v in graph.variables.items()
        if isinstance(v.domain, Discrete)
    }
    try:
        inner_solver(with_states(graph, zeros), Query())
    except SolverRefusal as refusal:
        return str(refusal)
    return None

"""What solvers of marginal MAP share: what they refuse, and the engine's own minimum of what is left."""

from __future__ import annotations

from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Ask, Budget, Query, Result


def summed_refusal(graph: FactorGraph, query: Query) -> str | None:
    """Why a query is none of marginal MAP, in a sentence; None where it is."""
    if query.ask is not Ask.MINIMIZE or not query.sum_out:
        return "it minimises with some blocks summed out, and this query names none"
    unknown = [n for n in query.sum_out if n not in graph.variables]
    if unknown:
        return f"the block {unknown[0]!r} to sum out does not exist; the graph's blocks are {list(graph.variables)}"
    if query.k > 1:
        return f"it finds one assignment; {query.k} were asked"
    return None


LOST = "the integral over the latents diverges or an energy is NaN: the free energy is no number"


def least_of(
    graph: FactorGraph,
    *,
    init: Assignment | None = None,
    budget: Budget | None = None,
    generator: Generator | None = None,
) -> Result:
    """The engine's answer to a plain minimisation, certified; the solver is its own choice."""
    from ebmstruct.inference.engine import minimize

    return minimize(graph, init=init, budget=budget, generator=generator)

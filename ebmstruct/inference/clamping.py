"""Graphs whose continuous blocks are all clamped: they are asked as the graphs of tables that are left of them."""

from __future__ import annotations

from dataclasses import replace

from ebmstruct.graph import Assignment, Continuous, FactorGraph, tabulate
from ebmstruct.graph.tabulation import tabulation_refusal
from ebmstruct.inference.result import Answer, Result, Samples
from ebmstruct.inference.smooth_energy import open_continuous


def tables_left(graph: FactorGraph) -> FactorGraph | None:
    """The graph over the discrete blocks, where all continuous ones are clamped and every factor becomes tables.

    None where there is no continuous block, where one is open, where there is no discrete one, or where a factor of
    another kind joins both.
    """
    kinds = [isinstance(v.domain, Continuous) for v in graph.variables.values()]
    if not any(kinds) or all(kinds) or open_continuous(graph):
        return None
    return None if tabulation_refusal(graph) is not None else tabulate(graph, {})


def with_clamped(graph: FactorGraph, answer: Answer) -> Answer:
    """An answer about the tables, as one about the graph: the clamped blocks beside the others."""
    assert graph.evidence is not None
    fixed = {n: v for n, v in graph.evidence.values.items() if isinstance(graph.variables[n].domain, Continuous)}
    if isinstance(answer, Result):
        several = tuple(Assignment({**y.values, **fixed}) for y in answer.alternatives)
        return replace(answer, assignment=Assignment({**answer.assignment.values, **fixed}), alternatives=several)
    if isinstance(answer, Samples):
        count = answer.energy.shape[0]
        return replace(answer, values={**answer.values, **{n: v.expand(count, *v.shape) for n, v in fixed.items()}})
    return answer

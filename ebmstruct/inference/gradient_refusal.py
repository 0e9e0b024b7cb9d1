"""What every minimiser by gradients refuses, in one sentence."""

from __future__ import annotations

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Ask, Query
from ebmstruct.inference.smooth_energy import constraint_labels, smooth_refusal


def gradient_refusal(graph: FactorGraph, query: Query, *, constraints: bool = False) -> str | None:
    """Why a gradient method cannot answer; None where it can. constraints: whether it knows what to do with them."""
    if query.ask != Ask.MINIMIZE:
        return f"it only minimises; {query.ask} was asked"
    if query.sum_out:
        return "it cannot sum blocks out"
    if query.k > 1:
        return f"it finds one assignment; {query.k} were asked"
    labels = [] if constraints else constraint_labels(graph)
    if labels:
        return f"factors {labels} are constraints, which a descent does not keep; augmented_lagrangian does"
    return smooth_refusal(graph)

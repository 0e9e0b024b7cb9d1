"""The graphs of several draws as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph, union


def joined(graphs: Sequence[FactorGraph], fixed: Assignment | None) -> list[tuple[FactorGraph, int]]:
    """The graphs in as few batches as can be, each with how many it holds; all of them conditioned on ``fixed``."""
    if len(graphs) == 1:
        return [(graphs[0] if fixed is None else graphs[0].condition(fixed), 1)]
    try:
        whole = union(graphs)
    except GraphError:  # draws that differ in what a union must share
        return [pair for graph in graphs for pair in joined([graph], fixed)]
    return [(whole if fixed is None else whole.condition(_repeated(fixed, len(graphs))), len(graphs))]


def _repeated(fixed: Assignment, times: int) -> Assignment:
    def over(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.repeat(times, *[1] * (v.dim() - 1)) for k, v in part.items()}

    return Assignment(over(fixed.values), over(fixed.known), over(fixed.allowed))

"""The graphs of several draws as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph, union
from ebmstruct.graph.topology import Topology


def sharing(graph: FactorGraph, topology: Topology | None) -> FactorGraph:
    """The graph with a topology that one of the same structure has had, so that what is derived from it is done once."""
    if topology is None or topology is graph.topology:
        return graph
    return FactorGraph(
        (), graph.factors, constant=graph.constant, evidence=graph.evidence, topology=topology, guess=graph.guess
    )


def joined(
    graphs: Sequence[FactorGraph], fixed: Assignment | None, known: dict[int, Topology]
) -> list[tuple[FactorGraph, int]]:
    """The graphs in as few batches as can be, each with how many it holds; all of them conditioned on ``fixed``.

    known: the topology of a batch by the number of graphs in it; new ones are added.
    """
    if len(graphs) == 1:
        whole = graphs[0]
    else:
        try:
            whole = union(graphs)
        except GraphError:  # draws that differ in what a union must share
            return [pair for graph in graphs for pair in joined([graph], fixed, known)]
    whole = sharing(whole, known.get(len(graphs)))
    known[len(graphs)] = whole.topology
    return [(whole if fixed is None else whole.condition(_repeated(fixed, len(graphs))), len(graphs))]


def _repeated(fixed: Assignment, times: int) -> Assignment:
    def over(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.repeat(times, *[1] * (v.dim() - 1)) for k, v in part.items()}

    return Assignment(over(fixed.values), over(fixed.known), over(fixed.allowed))

"""Whether a target fits a graph, told in one sentence before any loss looks at it."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph, Variables


def check_target(graph: FactorGraph, target: Assignment) -> None:
    """GraphError unless each block's values have its shape and type, lie in its domain, and agree with the evidence.

    Sites that the target does not know are not looked at. Cost: a look at every value.
    """
    for name, value in target.items():
        block = graph.variables.get(name)
        if block is None:
            raise GraphError(
                f"the target gives values for block {name!r}; the graph's blocks are {list(graph.variables)}"
            )
        discrete = isinstance(block.domain, Discrete)
        if value.shape[:1] != (block.num_sites,) or value.dim() != (1 if discrete else 2):
            wanted = f"({block.num_sites},)" if discrete else f"({block.num_sites}, d)"
            raise GraphError(
                f"the target gives block {name!r} values of shape {tuple(value.shape)}; {wanted} is needed"
            )
        known = target.known.get(name)
        if known is not None and (known.shape != (block.num_sites,) or known.dtype != torch.bool):
            raise GraphError(
                f"the target's mask of known sites of {name!r} is {known.dtype} of shape {tuple(known.shape)}; bool of "
                f"shape ({block.num_sites},) is needed"
            )
        if discrete:
            _check_states(block, value, known)
            _check_evidence(graph, name, value, known)


def _check_states(block: Variables, states: Tensor, known: Tensor | None) -> None:
    if states.dtype != torch.long:
        raise GraphError(
            f"the target gives block {block.name!r} values of type {states.dtype}; states are whole numbers (long)"
        )
    outside = (states < 0) | (states >= block.state_counts)
    if known is not None:
        outside = outside & known
    if bool(outside.any()):
        site = int(outside.nonzero()[0])
        raise GraphError(
            f"the target gives site {site} of block {block.name!r} state {int(states[site])}; legal are 0 to "
            f"{int(block.state_counts[site]) - 1}; a site that nobody knows is marked in Assignment.known"
        )


def _check_evidence(graph: FactorGraph, name: str, states: Tensor, known: Tensor | None) -> None:
    fixed = graph.evidence
    if fixed is None or name not in fixed.values:
        return
    differs = fixed.values[name] != states
    for mask in (known, fixed.known.get(name)):
        if mask is not None:
            differs = differs & mask
    if bool(differs.any()):
        site = int(differs.nonzero()[0])
        raise GraphError(
            f"the target gives site {site} of block {name!r} state {int(states[site])}, and the graph's evidence has "
            f"{int(fixed.values[name][site])} there"
        )


def has_open_sites(graph: FactorGraph) -> bool:
    """Whether any site of the graph may still take more than one value, as far as the evidence tells."""
    fixed = graph.evidence
    for name, block in graph.variables.items():
        if not block.num_sites:
            continue
        if fixed is None or name not in fixed.values:
            return True
        known = fixed.known.get(name)
        if known is not None and not bool(known.all()):
            return True
    return False

"""Topologies that a model makes once for each number of instances, with whatever solvers derive from them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ebmstruct.graph import Factor, FactorGraph, Topology, Variables

MOST = 8
"""Numbers of instances that are remembered for a model; those of a training are two or three."""
_MADE: weakref.WeakKeyDictionary[nn.Module, dict[Any, Topology]] = weakref.WeakKeyDictionary()


def graph_of(
    model: nn.Module, key: Any, factors: Sequence[Factor], variables: Callable[[], Sequence[Variables]]
) -> FactorGraph:
    """The graph of factors over the blocks that ``variables`` makes, checked the first time that a key is met.

    key: what the structure depends on beside the model: its graphs with one key differ in their factors' values only.
    The memory is no part of the model, which stays a module that can be copied.
    """
    known = _MADE.setdefault(model, {})
    topology = known.get(key)
    if topology is not None:
        return FactorGraph((), factors, topology=topology)
    graph = FactorGraph(variables(), factors)
    if len(known) >= MOST:
        known.pop(next(iter(known)))
    known[key] = graph.topology
    return graph

"""Copies of a mixed graph, each with its own states, whose continuous blocks are solved side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.refine import refine
from ebmstruct.inference.result import Budget

AT_ONCE = 1 << 14
"""Sites and rows of all copies together: a step of the continuous solve then takes a few milliseconds."""

Values = Mapping[str, Tensor]
"""Block name to (C, n) states or (C, n, d) points of C copies."""


@dataclass(frozen=True, eq=False)
class Solved:
    """Minima of C copies. values: by block.  energy, bound: (C, B) float64; a bound of -inf says nothing.

    done: (C, B) bool, whether the solve was not cut short.
    """

    values: dict[str, Tensor]
    energy: Tensor
    bound: Tensor
    done: Tensor


def copies_of(graph: FactorGraph, times: int) -> FactorGraph:
    """``graph.repeat(times)``, whose topology, and so all that is derived from it, is kept with the graph's own."""
    if times == 1:
        return graph
    made = graph.repeat(times)
    topology = graph.topology.derive(("copies", times), lambda: made.topology)
    return FactorGraph((), made.factors, constant=made.constant, evidence=made.evidence, topology=topology)


def copies_at_once(graph: FactorGraph) -> int:
    """How many copies of a graph are best solved together."""
    size = sum(v.num_sites for v in graph.variables.values())
    for factor in graph.factors:
        index = getattr(factor, "index", None)
        size += index.shape[1] if isinstance(index, Tensor) else 0
    return max(1, AT_ONCE // max(1, size))


def solve_copies(
    graph: FactorGraph, copies: FactorGraph, states: Values, points: Values, budget: Budget | None
) -> Solved:
    """The continuous minimum of each copy at its states, from its point on; ``copies``: as many of ``graph``."""
    times = copies.num_instances // max(1, graph.num_instances)
    given = {**points, **states}
    result = refine(copies, Assignment({n: v.flatten(0, 1) for n, v in given.items()}), budget)
    values = {
        n: v.reshape(times, graph.variables[n].num_sites, *v.shape[1:]) for n, v in result.assignment.items()
    }
    shape = (times, graph.num_instances)
    done = (result.status <= 1).reshape(shape)
    return Solved(values, result.energy.reshape(shape), result.lower_bound.reshape(shape), done)


def picked(graph: FactorGraph, values: Values, copy: Tensor) -> dict[str, Tensor]:
    """The values of one copy of each instance: copy (..., B) long, out of (C, n, ...); gives (..., n, ...)."""
    out = {}
    for name, value in values.items():
        block = graph.variables[name]
        out[name] = value[copy[..., block.instance], torch.arange(block.num_sites)]
    return out


def split(graph: FactorGraph, values: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States of discrete blocks, and points of the others."""
    states = {n: v for n, v in values.items() if isinstance(graph.variables[n].domain, Discrete)}
    return states, {n: v for n, v in values.items() if n not in states}

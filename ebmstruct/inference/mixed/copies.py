"""Copies of a mixed graph, each with its own states, whose continuous blocks are solved side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.refine import refine
from ebmstruct.inference.result import Budget, Status

AT_ONCE = 1 << 14
"""Sites and rows of all copies together: a step of the continuous solve then takes a few milliseconds."""

MOST_STEPS = 60
"""Steps of a continuous solve among many: few joint states need more, and those that crawl are not the best."""

Values = Mapping[str, Tensor]
"""Block name to (C, n) states or (C, n, d) points of C copies."""


@dataclass(frozen=True, eq=False)
class Solved:
    """Minima of C copies. values: by block.  energy, bound: (C, B) float64; a bound of -inf says nothing.

    late: (C, B) bool, whether the deadline came before the solve was done.  settled: whether it was done by itself.
    """

    values: dict[str, Tensor]
    energy: Tensor
    bound: Tensor
    late: Tensor
    settled: Tensor


def copies_of(graph: FactorGraph, times: int) -> FactorGraph:
    """``graph.repeat(times)``, whose topology, and so all that is derived from it, is kept with the graph's own."""
    if times == 1:
        return graph
    topology = graph.topology.derive(("copies", times), lambda: graph.repeat(times).topology)
    factors = [f.repeat(times, graph.scope(f)) for f in graph.factors]
    fixed, constant = graph.evidence, graph.constant
    if fixed is not None:
        parts = (fixed.values, fixed.known, fixed.allowed)
        fixed = Assignment(*({k: v.repeat(times, *[1] * (v.dim() - 1)) for k, v in p.items()} for p in parts))
    return FactorGraph(
        (), factors, constant=None if constant is None else constant.repeat(times), evidence=fixed, topology=topology
    )


def copies_at_once(graph: FactorGraph) -> int:
    """How many copies of a graph are best solved together."""
    size = sum(v.num_sites for v in graph.variables.values())
    for factor in graph.factors:
        index = getattr(factor, "index", None)
        size += index.shape[1] if isinstance(index, Tensor) else 0
    return max(1, AT_ONCE // max(1, size))


def solve_copies(
    graph: FactorGraph, times: int, states: Values, points: Values, budget: Budget, most: int | None = MOST_STEPS
) -> Solved:
    """The continuous minimum of each of ``times`` copies at its states, from its point on.

    budget: its deadline counts, its steps do not.  most: steps of the continuous solve, after which copies that crawl
    are left where they are; None for no limit.
    """
    copies = copies_of(graph, times)
    given = {**points, **states}
    inner = replace(budget, max_steps=most)
    result = refine(copies, Assignment({n: v.flatten(0, 1) for n, v in given.items()}), inner)
    values = {n: v.reshape(times, graph.variables[n].num_sites, *v.shape[1:]) for n, v in result.assignment.items()}
    shape = (times, graph.num_instances)
    status = result.status.reshape(shape)
    return Solved(
        values,
        result.energy.double().reshape(shape),
        result.lower_bound.reshape(shape),
        status == int(Status.DEADLINE),
        status <= int(Status.CONVERGED),
    )


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

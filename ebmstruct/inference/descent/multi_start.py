"""Several starts of one minimisation, side by side in one batch, of which each instance keeps its best."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy, clamped, starting_point


def scattered_starts(
    graph: FactorGraph, init: Assignment | None, starts: int, distance: float, generator: Generator | None
) -> tuple[SmoothEnergy, Point]:
    """The energy of ``starts`` copies of a graph, and their points.

    The first copy of each instance starts at ``init``, or where its domains start; the others a normal step, of
    ``distance`` in each coordinate, away from there. Copies lie one after another, as ``FactorGraph.repeat`` lays them.
    """
    values = starting_point(graph, init)
    if starts > 1:
        source = default_generator(generator)
        for name, value in values.items():
            values[name] = _apart(graph, name, value, starts, distance, source)
        graph = graph.repeat(starts)
    energy = SmoothEnergy.of(graph, values)
    return energy, tuple(values[name] for name in energy.names)


def _apart(graph: FactorGraph, name: str, value: Tensor, starts: int, distance: float, generator: Generator) -> Tensor:
    domain = graph.variables[name].domain
    copies = value.repeat(starts, *[1] * (value.dim() - 1))
    if not isinstance(domain, Continuous) or clamped(graph, name):
        return copies
    step = distance * torch.randn(copies.shape[0], domain.tangent_dim, dtype=value.dtype, generator=generator)
    known = None if graph.evidence is None else graph.evidence.known.get(name)
    if known is not None:
        step = step.masked_fill(known.repeat(starts)[:, None], 0.0)
    moved = domain.project(domain.retract(copies, step.to(value.device)))
    moved[: value.shape[0]] = value
    return moved


def best_start(graph: FactorGraph, starts: int, energy: Tensor) -> Tensor:
    """(B,) long: the copy of least energy of each instance of ``graph``; energy: (starts * B,)."""
    rows = energy.reshape(starts, graph.num_instances)
    return rows.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(0)


def of_start(starts: int, chosen: Tensor, rows: Tensor) -> Tensor:
    """(B,) the entry of each instance's chosen copy, from (starts * B,)."""
    return rows if starts == 1 else rows.reshape(starts, -1).gather(0, chosen[None])[0]


def values_of_start(graph: FactorGraph, starts: int, chosen: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values of every block of ``graph`` in each instance's chosen copy."""
    if starts == 1:
        return values
    out = {}
    for name, value in values.items():
        block = graph.variables[name]
        sites = torch.arange(block.num_sites, device=value.device)
        out[name] = value.reshape(starts, block.num_sites, *value.shape[1:])[chosen[block.instance], sites]
    return out

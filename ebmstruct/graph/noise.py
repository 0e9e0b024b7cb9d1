"""Noise levels: a block that says how much noise the other variables of an instance carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.assignment import Assignment
from ebmstruct.graph.continuous import Continuous
from ebmstruct.graph.factor_graph import FactorGraph
from ebmstruct.graph.variables import Variables


@dataclass(frozen=True)
class NoiseLevel(Continuous):
    """The logarithm of the standard deviation of normal noise, from log ``lowest`` to log ``highest``.

    An energy E(x, log sigma) of variables that carry such noise has one site of this domain an instance. Its model clamps
    it at the lowest level, so that every question about the graph is about variables with hardly any noise; losses and
    samplers that use other levels put them in its place by ``at_noise``.
    """

    measure: ClassVar[str | None] = "Lebesgue"

    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest < math.inf:
            raise GraphError(
                f"noise levels must rise, from above 0; found lowest {self.lowest}, highest {self.highest}"
            )

    @property
    def dim(self) -> int:
        return 1

    @property
    def tangent_dim(self) -> int:
        return 1

    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        return x + step

    def local(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def differential(self, x: Tensor) -> Tensor | None:
        return None

    def start(self, num_sites: int, dtype: torch.dtype) -> Tensor:
        return torch.full((num_sites, 1), math.log(self.lowest), dtype=dtype)

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(math.log(self.lowest), math.log(self.highest))


def noise_block(graph: FactorGraph) -> Variables | None:
    """The block of noise levels of a graph, where it has one."""
    return next((v for v in graph.variables.values() if isinstance(v.domain, NoiseLevel)), None)


def noise_levels(graph: FactorGraph) -> NoiseLevel:
    """The domain of a graph's noise levels; GraphError where it has none."""
    block = noise_block(graph)
    if block is None or not isinstance(block.domain, NoiseLevel):
        raise GraphError(f"none of the blocks {list(graph.variables)} holds noise levels; give the graph one of them")
    return block.domain


def at_noise(graph: FactorGraph, sigma: Tensor, *, released: bool = False) -> FactorGraph:
    """The graph with its noise levels at ``sigma`` (B,), standard deviations, whatever they were before.

    released: what other evidence clamps is open again.
    """
    noise_levels(graph)
    block = noise_block(graph)
    assert block is not None
    level = sigma.log()[:, None]
    if level.shape[0] != block.num_sites:
        raise GraphError(
            f"{level.shape[0]} noise levels for {block.num_sites} sites of {block.name!r}; give one for each"
        )
    values: Mapping[str, Tensor] = {block.name: level}
    old = graph.evidence
    if old is None or released:
        evidence = Assignment(values)
    else:
        known = {k: v for k, v in old.known.items() if k != block.name}
        evidence = Assignment({**old.values, **values}, known, old.allowed)
    return FactorGraph((), graph.factors, constant=graph.constant, evidence=evidence, topology=graph.topology)

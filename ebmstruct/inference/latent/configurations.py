"""All joint states of some discrete blocks, side by side in one batch of copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import FactorGraph


@dataclass(frozen=True, eq=False)
class Configurations:
    """C joint states of each instance's sites; instances that have fewer repeat their last.

    values: block name to (C, n) states.  real: (C, B) bool, whether a configuration is not such a repetition.
    """

    values: dict[str, Tensor]
    real: Tensor

    @property
    def count(self) -> int:
        """C."""
        return self.real.shape[0]

    def flat(self) -> dict[str, Tensor]:
        """Block name to (C * n,): the values of C copies of the graph, copy after copy."""
        return {name: v.reshape(-1) for name, v in self.values.items()}


def log_configurations(graph: FactorGraph, blocks: Sequence[str]) -> float:
    """log of the number of joint states of the instance that has most."""
    sizes = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name in blocks:
        _, counts = _options(graph, name)
        sizes = sizes.index_add(0, graph.variables[name].instance, counts.clamp(min=1).double().log())
    return float(sizes.max()) if sizes.numel() else 0.0


def configurations(graph: FactorGraph, blocks: Sequence[str]) -> Configurations:
    """Every joint state that the evidence allows; an instance with a site that has none has no real one.

    Memory: the product of the state counts of the largest instance, times the sites.
    """
    place = torch.ones(graph.num_instances, dtype=torch.long)
    possible = torch.ones(graph.num_instances, dtype=torch.bool)
    strides: dict[str, Tensor] = {}
    tables: dict[str, tuple[Tensor, Tensor]] = {}
    for name in blocks:
        block = graph.variables[name]
        options, counts = tables[name] = _options(graph, name)
        possible[block.instance[counts == 0]] = False
        counts = counts.clamp(min=1)
        stride = torch.ones_like(counts)
        begin = block.offsets[:-1]
        for position in range(int(block.lengths.max()) if block.num_instances else 0):
            here = block.lengths > position
            at = begin[here] + position
            stride[at] = place[here]
            place[here] *= counts[at]
        strides[name] = stride
    total = int(place.max()) if place.numel() else 1
    number = torch.arange(total)[:, None].minimum(place - 1)
    values = {}
    for name in blocks:
        options, counts = tables[name]
        digit = (number[:, graph.variables[name].instance] // strides[name]) % counts.clamp(min=1)
        values[name] = options[torch.arange(counts.numel()).expand_as(digit), digit]
    real = (torch.arange(total)[:, None] < place) & possible
    return Configurations(values, real)


def fits(graph: FactorGraph, blocks: Sequence[str], limit: int) -> bool:
    """Whether no instance has more than ``limit`` joint states."""
    return log_configurations(graph, blocks) <= math.log(limit) + 1e-9


def _options(graph: FactorGraph, name: str) -> tuple[Tensor, Tensor]:
    """(n, K) the states that each site may take, first those and then the others; (n,) how many it may take."""
    block = graph.variables[name]
    legal = torch.arange(max(1, block.discrete.largest)) < block.state_counts[:, None]
    allowed = graph.allowed(name)
    if allowed is not None:
        legal = legal & allowed
    return (~legal).long().sort(dim=1, stable=True).indices, legal.sum(1)

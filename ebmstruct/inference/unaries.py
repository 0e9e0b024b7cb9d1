"""Energies of single sites that are laid over a graph: one number for each state of each site."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ebmstruct.graph import Discrete, FactorGraph, TableFactor, Variables
from ebmstruct.inference.smooth_energy import precision

PREFIX = "laid over "
"""What the labels of such factors begin with."""


def discrete_blocks(graph: FactorGraph) -> list[Variables]:
    """The discrete blocks that have sites."""
    return [v for v in graph.variables.values() if isinstance(v.domain, Discrete) and v.num_sites]


def with_unaries(graph: FactorGraph, unaries: Mapping[str, Tensor]) -> FactorGraph:
    """The graph with (n, K) energies of the states of each site added, in the precision of its own values.

    Columns of states that a site does not have are not read. The labels begin with ``PREFIX``.
    """
    factors = []
    for name, table in unaries.items():
        block, table = graph.variables[name], table.to(precision(graph))
        if block.discrete.uniform:
            factors.append(TableFactor((name,), PREFIX + name, table))
        else:
            starts = torch.arange(block.num_sites) * table.shape[1]
            factors.append(TableFactor((name,), PREFIX + name, table.reshape(-1), starts=starts))
    return graph.add(*factors)


def other_unaries(graph: FactorGraph, unaries: Mapping[str, Tensor]) -> FactorGraph:
    """A graph made by ``with_unaries`` with other energies of the same blocks; its topology is kept."""
    found = {f.label: f.values()[0] for f in graph.factors if f.label.startswith(PREFIX)}
    values = {}
    for name, table in unaries.items():
        old = found[PREFIX + name]
        assert old is not None
        values[PREFIX + name] = table.to(old.dtype).reshape(old.shape)
    return graph.with_values(values)

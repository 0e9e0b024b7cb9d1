"""Graphs that are nothing but grids of pixels, as the arrays that cuts and moves work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Discrete, FactorGraph, GridFactor, TableFactor, Variables
from ebmstruct.graph.factors import uniform_states


@dataclass(frozen=True, eq=False)
class PlainGrid:
    """One block, one GridFactor over it, beside it tables of single sites only, and no evidence."""

    block: Variables
    unaries: tuple[TableFactor, ...]
    factor: GridFactor
    constant: Tensor

    @property
    def num_states(self) -> int:
        """K."""
        return self.block.discrete.largest

    @property
    def table(self) -> np.ndarray:
        """(K * K,) float64: the table of the pairs."""
        return self.factor.table.detach().cpu().double().reshape(-1).numpy()

    def parts(self) -> Iterator[tuple[slice, int]]:
        """Each instance's sites and the width of its rows."""
        offsets = self.block.offsets.tolist()
        for begin, end, width in zip(offsets, offsets[1:], self.factor.widths.tolist(), strict=False):
            yield slice(begin, end), width

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) the weights of the pairs to the right and of those down, in their own precision."""
        return self.factor.right.detach().cpu().numpy(), self.factor.down.detach().cpu().numpy()

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """unary (n, K), right (n,) and down (n,), all float32 where every tensor is, else all float64."""
        shape = self.block.num_sites, self.num_states
        unary = torch.zeros(shape)
        for i, factor in enumerate(self.unaries):
            unary = factor.tables.expand(shape) if i == 0 else unary + factor.tables
        tensors = unary, self.factor.right, self.factor.down
        dtype = torch.float32 if len(self.unaries) < 2 and all(t.dtype == torch.float32 for t in tensors) else None
        a, b, c = (t.detach().cpu().to(dtype or torch.float64).contiguous().numpy() for t in tensors)
        return a, b, c


def plain_grid(graph: FactorGraph) -> PlainGrid | None:
    """The plain grid that a graph is; None where it is more, or less. Energies need not be finite."""
    if graph.evidence is not None or len(graph.variables) != 1:
        return None
    (block,) = graph.variables.values()
    grids = [f for f in graph.factors if isinstance(f, GridFactor)]
    unaries = [f for f in graph.factors if isinstance(f, TableFactor)]
    plain = all(f.arity == 1 and f.index is None and f.starts is None for f in unaries)
    if len(grids) != 1 or len(unaries) + 1 != len(graph.factors) or not plain:
        return None
    if not isinstance(block.domain, Discrete) or uniform_states(block) is None:
        return None
    constant = torch.zeros(graph.num_instances, dtype=torch.float64)
    if graph.constant is not None:
        constant = graph.constant.detach().cpu().double()
    return PlainGrid(block, tuple(unaries), grids[0], constant)

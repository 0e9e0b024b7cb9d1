"""The graph whose energy is the mean of the energies of many graphs over the same blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ebmstruct.graph import (
    Assignment,
    ChainFactor,
    CountFactor,
    Factor,
    FactorGraph,
    GridFactor,
    SegmentFactor,
    TableFactor,
)

LINEAR = (TableFactor, ChainFactor, SegmentFactor, GridFactor, CountFactor)
"""Factors whose energies are linear in their values, so that means of values give means of energies."""


class MeanEnergies:
    """Running sums of the values of factors, and the graph that has their means.

    first: the graph of one draw, whose structure the result has.  fixed: evidence. Factors that are not linear in their
    values are kept, one of each draw, times one over their number.
    """

    name = "energies"

    def __init__(self, first: FactorGraph, fixed: Assignment | None) -> None:
        self.first, self.fixed = first, fixed
        self.count = 0
        self.sums: dict[int, list[Tensor | None]] = {}
        self.kept: dict[int, list[Factor]] = {}
        self.constant: Tensor | None = None

    def add(self, graphs: Sequence[FactorGraph]) -> None:
        """Count more draws."""
        for graph in graphs:
            self.count += 1
            for i, factor in enumerate(graph.factors):
                if not isinstance(factor, LINEAR):
                    self.kept.setdefault(i, []).append(factor)
                    continue
                values = [None if v is None else v.double() for v in factor.values()]
                before = self.sums.get(i, [None] * len(values))
                self.sums[i] = [v if b is None or v is None else b + v for b, v in zip(before, values, strict=True)]
            if graph.constant is not None:
                self.constant = graph.constant if self.constant is None else self.constant + graph.constant

    def graph(self) -> FactorGraph:
        """The graph with the mean energies of what has been counted so far."""
        factors: list[Factor] = []
        for i, factor in enumerate(self.first.factors):
            if i in self.sums:
                means = [None if s is None else s / self.count for s in self.sums[i]]
                old = factor.values()
                factors.append(
                    factor.with_values(*(m if m is None else m.to(_type(o)) for m, o in zip(means, old, strict=True)))
                )
                continue
            share = 1.0 / self.count
            for number, own in enumerate(self.kept[i]):
                factors.append(dataclasses.replace(own.scaled(share), label=f"{own.label} of draw {number + 1}"))
        constant = None if self.constant is None else self.constant / self.count
        blocks = [self.first.variables[name] for name in self.first.topology.names]
        out = FactorGraph(blocks, factors, constant=constant)
        return out if self.fixed is None else out.condition(self.fixed)


def _type(value: Tensor | None) -> torch.dtype:
    return torch.float64 if value is None else value.dtype

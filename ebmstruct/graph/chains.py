"""Energies of neighbours in a chain, without an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.expectation import expected
from ebmstruct.graph.factors import Factor, uniform_states
from ebmstruct.graph.tables import scale_table
from ebmstruct.graph.variables import Variables


@dataclass(frozen=True, eq=False)
class ChainFactor(Factor):
    """Energies of successive sites of one block: the sites of an instance, in order, form a chain.

    transition: (K, K) shared by all neighbours, or (n, K, K) where entry t belongs to the edge from site t - 1 to
    site t and an instance's first entry is not used. Rows are the earlier site, columns the later.
    start, end: (K,) energies of the first and last site of each instance, or None.
    An infinite entry forbids. The factor is implicit: it has structure but no index, and costs nothing to build.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("transition", "start", "end")

    transition: Tensor
    start: Tensor | None = None
    end: Tensor | None = None

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(B,) float64: the sum over each instance's neighbours and ends."""
        (y,), (block,) = values, variables
        if not block.num_sites:
            return torch.zeros(block.num_instances, dtype=torch.float64, device=y.device)
        states = self.transition.shape[-1]
        code = torch.add(y[1:], y[:-1], alpha=states)
        if self.transition.dim() == 3:
            code = code + torch.arange(1, code.numel() + 1, device=y.device) * states**2
        edges = self.transition.reshape(-1).index_select(0, code)
        if block.num_instances > 1:  # edges that would join one instance's last site to the next one's first
            edges = edges.index_fill(0, block.first_sites[1:] - 1, 0.0)
        out = block.sum_sites(torch.nn.functional.pad(edges, (1, 0)))
        for ends, sites in ((self.start, block.first_sites), (self.end, block.last_sites)):
            if ends is not None:
                part = ends.index_select(0, y.index_select(0, sites)).double()
                out = out + part if block.filled is None else out.index_add(0, block.filled, part)
        return out

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(B,) float64: the mean over each instance's neighbours and ends."""
        (w,), (block,) = values, variables
        if not block.num_sites:
            return torch.zeros(block.num_instances, dtype=torch.float64, device=w.device)
        later = _later_sites(block)
        tables = self.transition[later] if self.transition.dim() == 3 else self.transition
        edges = expected(tables, [w[later - 1], w[later]]).double()
        out = edges.new_zeros(block.num_instances).index_add(0, block.instance[later], edges)
        for ends, sites in ((self.start, block.first_sites), (self.end, block.last_sites)):
            if ends is not None:
                out = out.index_add(0, block.instance[sites], expected(ends, [w[sites]]).double())
        return out

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return None

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        (y,), (owner,) = values, variables
        out = self.transition.new_zeros(owner.num_sites, self.transition.shape[-1])
        later = _later_sites(owner)
        tables = self.transition[later] if self.transition.dim() == 3 else self.transition.expand(later.numel(), -1, -1)
        rows = torch.arange(later.numel(), device=y.device)
        out = out.index_add(0, later, tables[rows, y[later - 1]])
        out = out.index_add(0, later - 1, tables[rows, :, y[later]])
        for ends, sites in ((self.start, owner.first_sites), (self.end, owner.last_sites)):
            if ends is not None:
                out = out.index_add(0, sites, ends.expand(sites.numel(), -1))
        return out

    def check(self, variables: Sequence[Variables]) -> None:
        if len(variables) != 1:
            raise GraphError(f"factor {self.label!r}: a chain runs over one block; found the scope {self.scope}")
        states, sites = uniform_states(variables[0]), variables[0].num_sites
        if states is None:
            raise GraphError(f"factor {self.label!r}: a chain needs one number of states for all sites of its block")
        if tuple(self.transition.shape) not in ((states, states), (sites, states, states)):
            raise GraphError(
                f"factor {self.label!r}: transition of shape {tuple(self.transition.shape)}; legal are "
                f"{(states, states)} (shared) and {(sites, states, states)} (one for each site)"
            )
        for name, ends in (("start", self.start), ("end", self.end)):
            if ends is not None and tuple(ends.shape) != (states,):
                raise GraphError(f"factor {self.label!r}: {name} of shape {tuple(ends.shape)}; legal is {(states,)}")

    def scaled(self, weight: float | Tensor) -> ChainFactor:
        return self.with_values(*(None if v is None else scale_table(v, weight) for v in self.values()))

    def repeat(self, times: int, variables: Sequence[Variables]) -> ChainFactor:
        if self.transition.dim() == 2:
            return self
        return dataclasses.replace(self, transition=self.transition.repeat(times, 1, 1))

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> ChainFactor:
        if self.transition.dim() == 2:
            return self
        return dataclasses.replace(self, transition=self.transition[variables[0].sites_of(instances)])

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> ChainFactor:
        parts = (self, *others)
        if any(p.start is not self.start or p.end is not self.end for p in parts):
            raise GraphError(f"factor {self.label!r}: a union needs the same start and end energies in every part")
        if all(p.transition is self.transition for p in parts) and self.transition.dim() == 2:
            return self
        tables = [
            p.transition if p.transition.dim() == 3 else p.transition.expand(v[0].num_sites, -1, -1)
            for p, v in zip(parts, variables, strict=True)
        ]
        return dataclasses.replace(self, transition=torch.cat(tables))


def _later_sites(block: Variables) -> Tensor:
    """(edges,) long: every site that has a predecessor in its instance."""
    later = torch.ones(block.num_sites, dtype=torch.bool, device=block.offsets.device)
    later[block.first_sites] = False
    return later.nonzero()[:, 0]

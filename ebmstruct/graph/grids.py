"""Energies of neighbours in a grid of pixels, without an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.expectation import expected
from ebmstruct.graph.factors import Factor, uniform_states
from ebmstruct.graph.tables import scale_table
from ebmstruct.graph.variables import Variables

FEW = 16
"""Up to so many images are looked at one by one, without an index of their pairs."""


@dataclass(frozen=True, eq=False)
class GridFactor(Factor):
    """Energies of horizontal and vertical neighbours: a weight for each pair times one table for all.

    The sites of an instance are the pixels of an image, row after row. Its rows are all horizontal pairs, in the
    order of their left sites, and then all vertical pairs, in the order of their upper sites.
    table: (K, K), finite; rows are the left or upper site, columns the right or lower (``potts_table`` makes the
    usual one).
    right, down: (n,) weights of the pairs (site, site + 1) and (site, site + width); the entries of an image's last
    column and last row are not used.
    widths: (B,) long, pixels in a row of each instance; it must divide the instance's number of sites.
    The factor is implicit: solvers that know grids never build the pairs.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("table", "right", "down")

    table: Tensor
    right: Tensor
    down: Tensor
    widths: Tensor

    def first_sites(self, block: Variables) -> tuple[Tensor, Tensor]:
        """The sites that have a right neighbour, and those that have a lower one: two long tensors."""
        width = self.widths[block.instance]
        position = torch.arange(block.num_sites, device=width.device) - block.offsets[block.instance]
        right = ((position + 1) % width.clamp(min=1) != 0).nonzero()[:, 0]
        down = (position + width < block.lengths[block.instance]).nonzero()[:, 0]
        return right, down

    def pairs(self, block: Variables) -> tuple[Tensor, Tensor]:
        """(2, m) long: the sites of every pair; (m,) their weights."""
        right, down = self.first_sites(block)
        below = down + self.widths[block.instance[down]]
        index = torch.stack([torch.cat([right, down]), torch.cat([right + 1, below])])
        return index, torch.cat([self.right[right], self.down[down]])

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        (y,), (block,) = values, variables
        index, weights = self.pairs(block)
        return weights.double() * self.table[y[index[0]], y[index[1]]].double()

    def instance_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        (y,), (block,) = values, variables
        if block.num_instances > FEW:
            return super().instance_energies(values, variables)
        states, flat = self.table.shape[0], self.table.reshape(-1).double()
        out = [flat.new_zeros(0)]
        offsets = block.offsets.tolist()
        for begin, end, width in zip(offsets, offsets[1:], self.widths.tolist(), strict=False):
            z, right, down = (t[begin:end].reshape(-1, width) for t in (y, self.right.double(), self.down.double()))
            across = flat.take(z[:, :-1] * states + z[:, 1:]) * right[:, :-1]
            along = flat.take(z[:-1] * states + z[1:]) * down[:-1]
            out.append((across.sum() + along.sum())[None])
        return torch.cat(out)

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        (w,), (block,) = values, variables
        index, weights = self.pairs(block)
        return weights.double() * expected(self.table, [w[index[0]], w[index[1]]]).double()

    def row_instance(self, variables: Sequence[Variables]) -> Tensor:
        (block,) = variables
        return block.instance[torch.cat(self.first_sites(block))]

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        (y,), (owner,) = values, variables
        index, weights = self.pairs(owner)
        out = (weights.new_zeros(1) * self.table[:1]).new_zeros(owner.num_sites, self.table.shape[0])
        out = out.index_add(0, index[0], weights[:, None] * self.table[:, y[index[1]]].T)
        return out.index_add(0, index[1], weights[:, None] * self.table[y[index[0]]])

    def check(self, variables: Sequence[Variables]) -> None:
        if len(variables) != 1:
            raise GraphError(f"factor {self.label!r}: a grid runs over one block; found the scope {self.scope}")
        (block,) = variables
        states, sites = uniform_states(block), block.num_sites
        if states is None:
            raise GraphError(f"factor {self.label!r}: a grid needs one number of states for all sites of its block")
        if tuple(self.table.shape) != (states, states):
            raise GraphError(
                f"factor {self.label!r}: table of shape {tuple(self.table.shape)}; legal is {(states, states)}"
            )
        if not bool(self.table.isfinite().all()):
            raise GraphError(
                f"factor {self.label!r}: the table of a grid must be finite; forbid pairs with a TableFactor"
            )
        for name, weights in (("right", self.right), ("down", self.down)):
            if tuple(weights.shape) != (sites,):
                raise GraphError(f"factor {self.label!r}: {name} of shape {tuple(weights.shape)}; legal is {(sites,)}")
            if not bool(weights.isfinite().all()):
                raise GraphError(
                    f"factor {self.label!r}: {name} holds a weight that is infinite or NaN; all must be finite"
                )
        if self.widths.dtype != torch.long or tuple(self.widths.shape) != (block.num_instances,):
            raise GraphError(
                f"factor {self.label!r}: widths must be long of shape ({block.num_instances},); found "
                f"{self.widths.dtype} of shape {tuple(self.widths.shape)}"
            )
        bad = (self.widths < 1) | (block.lengths % self.widths.clamp(min=1) != 0)
        if bool(bad.any()):
            b = int(bad.nonzero()[0])
            raise GraphError(
                f"factor {self.label!r}: instance {b} has {int(block.lengths[b])} sites, which rows of width "
                f"{int(self.widths[b])} do not fill"
            )

    def scaled(self, weight: float | Tensor) -> GridFactor:
        return dataclasses.replace(self, table=scale_table(self.table, weight))

    def repeat(self, times: int, variables: Sequence[Variables]) -> GridFactor:
        return dataclasses.replace(
            self, right=self.right.repeat(times), down=self.down.repeat(times), widths=self.widths.repeat(times)
        )

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> GridFactor:
        sites = variables[0].sites_of(instances)
        return dataclasses.replace(self, right=self.right[sites], down=self.down[sites], widths=self.widths[instances])

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> GridFactor:
        parts = (self, *others)
        if any(p.table is not self.table and not torch.equal(p.table, self.table) for p in parts):
            raise GraphError(f"factor {self.label!r}: a union needs the same table in every part")
        joined: dict[str, Any] = {f: torch.cat([getattr(p, f) for p in parts]) for f in ("right", "down", "widths")}
        return dataclasses.replace(self, **joined)


def potts_table(num_states: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(K, K): 0 where two states agree and 1 where they differ (Potts 1952)."""
    return 1 - torch.eye(num_states, dtype=dtype)

"""Energies of counts: how many sites of an instance are in one state."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.factors import Factor
from ebmstruct.graph.variables import Variables


@dataclass(frozen=True, eq=False)
class CountFactor(Factor):
    """One energy an instance, looked up by the number of its sites that are in ``state``.

    tables: (K,) shared, or (B, K), one an instance; entry k is the energy of k sites, and the last entry that of K - 1 or
    more. An infinite entry forbids its count. state: the state that is counted.
    Whatever the sites' own energies, sums and minima over all assignments are exact and quick (solver ``cardinality``).
    """

    value_fields: ClassVar[tuple[str, ...]] = ("tables",)

    tables: Tensor
    state: int = 1

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        return self._at(self.counts(values[0], variables[0]), variables[0])

    def counts(self, states: Tensor, block: Variables) -> Tensor:
        """(B,) long: how many sites of each instance are in the state."""
        hit = (states == self.state).long()
        return hit.new_zeros(block.num_instances).index_add(0, block.instance, hit)

    def rows(self, block: Variables) -> Tensor:
        """(B, K): the table of each instance."""
        return self.tables.expand(block.num_instances, -1) if self.tables.dim() == 1 else self.tables

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(n, K) energies of each state of a site, the others as they are: two look-ups a site."""
        owner = variables[0]
        without = self.counts(values[0], owner)[owner.instance] - (values[0] == self.state).long()
        table = self.rows(owner)[owner.instance]
        last = table.shape[1] - 1
        other, hit = (table.gather(1, (without + k).clamp(max=last)[:, None]) for k in (0, 1))
        mine = torch.arange(owner.discrete.largest, device=other.device) == self.state
        return torch.where(mine, hit, other)

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(B,) the mean energy where every site draws its state by its weights."""
        weights = values[0]
        inside = (weights == self.state).double() if weights.dim() == 1 else weights[:, self.state]
        table = self.rows(variables[0]).to(inside.dtype)
        chance = count_chances(inside, variables[0], table.shape[1])
        return torch.where(chance > 0, chance * table, 0.0).sum(1)

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return None

    def check(self, variables: Sequence[Variables]) -> None:
        shape, count = tuple(self.tables.shape), variables[0].num_instances
        if len(variables) != 1 or len(shape) not in (1, 2) or not shape[-1] or (len(shape) == 2 and shape[0] != count):
            raise GraphError(
                f"factor {self.label!r} counts the sites of one block by tables (K,) or ({count}, K), K at least 1; found "
                f"the scope {self.scope} and tables {shape}"
            )
        if not 0 <= self.state < variables[0].discrete.largest:
            raise GraphError(
                f"factor {self.label!r} counts state {self.state}; block {variables[0].name!r} has states 0 to "
                f"{variables[0].discrete.largest - 1}"
            )

    def scaled(self, weight: float | Tensor) -> CountFactor:
        """The factor with every energy multiplied by ``weight``; an infinite entry stays infinite."""
        tables = torch.where(torch.isposinf(self.tables), torch.inf, weight * self.tables)
        return dataclasses.replace(self, tables=tables)

    def repeat(self, times: int, variables: Sequence[Variables]) -> CountFactor:
        if self.tables.dim() == 1:
            return self
        return dataclasses.replace(self, tables=self.tables.repeat(times, 1))

    def concatenate(self, others: Sequence[CountFactor], variables: Sequence[Sequence[Variables]]) -> CountFactor:
        parts = [self, *others]
        if any(f.state != self.state or f.tables.shape[-1] != self.tables.shape[-1] for f in parts):
            raise GraphError(f"factor {self.label!r}: a union needs one state and one length of tables in every part")
        rows = [f.rows(own[0]) for f, own in zip(parts, variables, strict=True)]
        return dataclasses.replace(self, tables=torch.cat(rows))

    def _at(self, counts: Tensor, block: Variables) -> Tensor:
        table = self.rows(block)
        return table.gather(1, counts.clamp(max=table.shape[1] - 1)[:, None])[:, 0]


def count_chances(chance: Tensor, block: Variables, length: int) -> Tensor:
    """(B, length) P(count = k) of independent sites that are in with ``chance`` (n,); the last column is "or more".

    Products of polynomials, two by two, of at most ``length`` terms: differentiable, O(n length) and log n rounds.
    """
    longest = int(block.lengths.max()) if block.num_instances else 0
    if not longest:
        out = chance.new_zeros(block.num_instances, length)
        out[:, 0] = 1.0
        return out
    place = torch.arange(block.num_sites, device=chance.device) - block.offsets[block.instance]
    flat = block.instance * longest + place
    inside = chance.new_zeros(block.num_instances * longest).index_copy(0, flat, chance).reshape(-1, longest)
    polynomials = torch.stack([1 - inside, inside], dim=2)
    if length == 1:
        return torch.ones_like(inside[:, :1])
    while polynomials.shape[1] > 1:
        if polynomials.shape[1] % 2:
            one = torch.zeros_like(polynomials[:, :1])
            one[:, :, 0] = 1.0
            polynomials = torch.cat([polynomials, one], dim=1)
        polynomials = _product(polynomials[:, 0::2], polynomials[:, 1::2], length)
    out = polynomials[:, 0]
    return torch.nn.functional.pad(out, (0, length - out.shape[1]))


def _product(a: Tensor, b: Tensor, length: int) -> Tensor:
    """Products of polynomials along the last axis; terms beyond ``length`` are added to the last."""
    terms = a.shape[2]
    whole = torch.nn.functional.pad(a * b[:, :, :1], (0, terms - 1))
    for j in range(1, terms):
        whole = whole + torch.nn.functional.pad(a * b[:, :, j : j + 1], (j, terms - 1 - j))
    if whole.shape[2] <= length:
        return whole
    return torch.cat([whole[:, :, : length - 1], whole[:, :, length - 1 :].sum(2, keepdim=True)], dim=2)

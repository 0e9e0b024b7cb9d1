"""Energies of all pairs of sites of two blocks at once: layers of units that are joined each with each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.factors import Factor, uniform_states
from ebmstruct.graph.variables import Variables


@dataclass(frozen=True, eq=False)
class BilinearFactor(Factor):
    """E(a, b) = sum_ij table_ij[a_i, b_j] over all sites i of one discrete block and j of another, in every instance.

    weight: (V, k, H, l), shared by the instances, which all have V sites of K states in the one block and H of L in the
    other. k is K, or K - 1 where state 0 has no energy (so that two states need one number, the usual weight of units that
    are on or off); l likewise. Finite: forbid pairs with a ``TableFactor``.
    The factor is implicit: energies, conditionals and sweeps are products of matrices, and only solvers that look at
    single pairs ever list them. Cost: V k H l an instance.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("weight",)

    weight: Tensor

    @property
    def matrix(self) -> Tensor:
        """(V k, H l)."""
        sites, states = self.weight.shape[:2]
        return self.weight.reshape(sites * states, -1)

    def tables(self, variables: Sequence[Variables]) -> Tensor:
        """(V, H, K, L): the table of each pair, with the states that ``weight`` leaves out."""
        full = self.weight
        for axis, block in ((1, variables[0]), (3, variables[1])):
            if full.shape[axis] < block.discrete.largest:
                zero = full.new_zeros(*full.shape[:axis], 1, *full.shape[axis + 1 :])
                full = torch.cat([zero, full], axis)
        return full.transpose(1, 2)

    def pairs(self, variables: Sequence[Variables]) -> Tensor:
        """(2, B V H) long: the sites of every pair, instance by instance, in the order of ``tables``."""
        one, other = self.weight.shape[0], self.weight.shape[2]
        rows = torch.arange(one * other, device=self.weight.device)
        instance = torch.arange(variables[0].num_instances, device=rows.device)[:, None]
        sites = (instance * one + rows // other, instance * other + rows % other)
        return torch.stack([s.reshape(-1) for s in sites])

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        a, b = (self.features(v, place, variables) for place, v in enumerate(values))
        return ((a @ self.matrix) * b).sum(1)

    def features(self, states: Tensor, place: int, variables: Sequence[Variables]) -> Tensor:
        """(L, V k) indicators of the states (L V,) of the block at one place of the scope, in the weight's precision."""
        sites, width = self.weight.shape[2 * place : 2 * place + 2]
        return state_features(states.reshape(-1, sites), width, variables[place].discrete.largest, self.weight.dtype)

    def field(self, features: Tensor, place: int) -> Tensor:
        """(L, V, k) energies of the states of the block at ``place``, from features of the other block."""
        matrix = self.matrix if place == 1 else self.matrix.T
        return (features @ matrix).reshape(-1, *self.weight.shape[2 * place : 2 * place + 2])

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        place = self.scope.index(block)
        field = self.field(self.features(values[1 - place], 1 - place, variables), place)
        return padded(field, variables[place].discrete.largest).flatten(0, 1)

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        a, b = (
            w[:, w.shape[1] - k :].reshape(variables[0].num_instances, -1)
            for w, k in zip(values, self.weight.shape[1::2], strict=True)
        )
        return ((a @ self.matrix.to(a.dtype)) * b).sum(1)

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return None

    def check(self, variables: Sequence[Variables]) -> None:
        if (
            len(variables) != 2
            or variables[0] is variables[1]
            or not all(isinstance(v.domain, Discrete) for v in variables)
        ):
            raise GraphError(f"factor {self.label!r} joins two discrete blocks; found the scope {self.scope}")
        if self.weight.dim() != 4 or not self.weight.is_floating_point():
            raise GraphError(
                f"factor {self.label!r}: weight must be floating point of shape (V, k, H, l); found {self.weight.dtype} of "
                f"shape {tuple(self.weight.shape)}"
            )
        for place, block in enumerate(variables):
            states, (sites, width) = uniform_states(block), self.weight.shape[2 * place : 2 * place + 2]
            if (
                states is None
                or states < 2
                or width not in (states, states - 1)
                or not bool((block.lengths == sites).all())
            ):
                raise GraphError(
                    f"factor {self.label!r}: weight of shape {tuple(self.weight.shape)} is for {sites} sites of "
                    f"{width} states, or of one more, in each instance of block {block.name!r}; found {block}"
                )
        if not bool(self.weight.detach().isfinite().all()):
            raise GraphError(
                f"factor {self.label!r}: weight holds an entry that is infinite or NaN; all must be finite"
            )

    def scaled(self, weight: float | Tensor) -> BilinearFactor:
        return dataclasses.replace(self, weight=self.weight * weight)

    def repeat(self, times: int, variables: Sequence[Variables]) -> BilinearFactor:
        return self

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> BilinearFactor:
        return self

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> BilinearFactor:
        if any(o.weight is not self.weight and not torch.equal(o.weight, self.weight) for o in others):
            raise GraphError(f"factor {self.label!r}: a union needs the same weights in every part")
        return self


def state_features(states: Tensor, width: int, count: int, dtype: torch.dtype) -> Tensor:
    """(L, V width): of states (L, V), each one of ``count``, the indicators of the last ``width`` states."""
    if width == 1:
        return states.to(dtype) if count == 2 else (states == count - 1).to(dtype)
    which = torch.arange(count - width, count, device=states.device)
    return (states[..., None] == which).to(dtype).flatten(1)


def padded(field: Tensor, states: int) -> Tensor:
    """(..., K): energies (..., k) with 0 for the state that they leave out."""
    return field if field.shape[-1] == states else torch.nn.functional.pad(field, (1, 0))

"""The energy of a whole set of labels by a small network, with quick answers to "what if this label were in?"."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ebmstruct import Factor, GraphError, Variables


@dataclass(frozen=True, eq=False)
class SetEnergy(Factor):
    """One energy an instance: sum_h charge_h softplus(measure_h . y + offset_h), y its L labels as 0 and 1 or as weights.

    measure: (H, L).  offset: (B, H), what the input says of each measurement.  charge: (H,).
    Changing one label changes a measurement by one entry of ``measure``, so that the energies of all single changes cost
    L H each, not L whole energies: that is what the pseudo-likelihood and samplers ask.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("measure", "offset", "charge")

    measure: Tensor
    offset: Tensor
    charge: Tensor

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        return softplus(self._measured(self._inside(values[0]))) @ self.charge

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(B,) the network's own extension to weights (n, 2); not linear in them."""
        weights = values[0]
        return self.energies([weights[:, 1] if weights.dim() == 2 else weights], variables)

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return None

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(n, 2) energies with each label out and in, the others as they are. O(n H) time and memory."""
        inside = self._inside(values[0])
        without = self._measured(inside)[:, None, :] - inside[:, :, None] * self.measure.T
        out, in_ = softplus(without) @ self.charge, softplus(without + self.measure.T) @ self.charge
        return torch.stack([out.reshape(-1), in_.reshape(-1)], dim=1).double()

    def check(self, variables: Sequence[Variables]) -> None:
        labels = self.measure.shape[1]
        if bool((variables[0].lengths != labels).any()):
            raise GraphError(
                f"factor {self.label!r} measures sets of {labels} labels; every instance needs as many sites"
            )

    def scaled(self, weight: float | Tensor) -> SetEnergy:
        return dataclasses.replace(self, charge=weight * self.charge)

    def repeat(self, times: int, variables: Sequence[Variables]) -> SetEnergy:
        return dataclasses.replace(self, offset=self.offset.repeat(times, 1))

    def concatenate(self, others: Sequence[SetEnergy], variables: Sequence[Sequence[Variables]]) -> SetEnergy:
        if any(o.measure is not self.measure or o.charge is not self.charge for o in others):
            raise GraphError(f"factor {self.label!r}: a union needs the same network in every part")
        return dataclasses.replace(self, offset=torch.cat([self.offset, *(o.offset for o in others)]))

    def _inside(self, labels: Tensor) -> Tensor:
        """(B, L) in the network's precision."""
        return labels.reshape(-1, self.measure.shape[1]).to(self.measure.dtype)

    def _measured(self, inside: Tensor) -> Tensor:
        return inside @ self.measure.T + self.offset

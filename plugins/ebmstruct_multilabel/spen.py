"""Structured prediction energy networks over label sets: scores of labels and a network's energy of the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ebmstruct import BlockFactor, ConfigError, EnergyModel, FactorGraph
from ebmstruct_multilabel.evidence import LABELS, Evidence, Inputs, Scaling, label_block, label_energies
from ebmstruct_multilabel.schema import LabelSchema


class SPEN(EnergyModel):
    """E(x, y) = -sum of scores of the labels in y, plus sum_h v_h softplus(c_h . y + b_h) (Belanger and McCallum 2016).

    The second term sees the set alone, as measurements c of it, and takes weights of labels as well as labels, so that
    mirror descent can move them. measurements: how many; they start small, so that training begins as an ``MLP``.
    Other options as in ``Evidence``. Trained by the structured hinge or by the pseudo-likelihood.
    """

    def __init__(
        self,
        schema: LabelSchema,
        *,
        measurements: int = 16,
        width: int = 512,
        depth: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        scaling: Scaling = "auto",
    ) -> None:
        super().__init__()
        if measurements < 1:
            raise ConfigError([f"measurements: found {measurements}; at least 1 is needed"])
        self.schema = schema
        labels = len(schema.labels)
        self.evidence = Evidence(
            schema,
            labels,
            width=width,
            depth=depth,
            dropout=dropout,
            input_dropout=input_dropout,
            scaling=scaling,
        )
        self.measure = nn.Linear(labels, measurements)
        self.charge = nn.Parameter(0.1 * torch.randn(measurements))

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.evidence.prepare(xs)

    def forward(self, inputs: Inputs) -> FactorGraph:
        scores = self.evidence(inputs)
        whole = BlockFactor((LABELS,), "set", self.set_energy, relaxed=True)
        return FactorGraph([label_block(*scores.shape)], [label_energies(scores), whole])

    def set_energy(self, weights: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) the energy of whole sets; weights: (B * L, 2) over "out" and "in"."""
        inside = weights[:, 1].reshape(-1, len(self.schema.labels))
        out: Tensor = softplus(self.measure(inside.to(self.charge.dtype))) @ self.charge
        return out

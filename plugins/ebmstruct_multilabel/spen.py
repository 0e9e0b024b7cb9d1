"""Structured prediction energy networks over label sets: scores of labels and a network's energy of the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ebmstruct import ConfigError, EnergyModel, FactorGraph
from ebmstruct_multilabel.evidence import Evidence, Inputs, Scaling, frequency_scores, label_block, label_energies
from ebmstruct_multilabel.schema import LABELS, LabelSchema
from ebmstruct_multilabel.set_energy import SetEnergy


class SPEN(EnergyModel):
    """E(x, y) = -sum of scores of the labels in y, plus sum_h v_h softplus(c_h . y + b_h(x)) (Belanger and McCallum 2016).

    The second term measures the set (c) beside what the input says (b), and takes weights of labels as well as labels, so
    that mirror descent and mean field can move them. measurements: how many; they start small, so that training begins as
    an ``MLP``.  conditional: whether b depends on the input; false is the original.
    Other options as in ``Evidence``. Trained by the pseudo-likelihood, the structured hinge, or whatever takes it.
    """

    def __init__(
        self,
        schema: LabelSchema,
        *,
        measurements: int = 16,
        conditional: bool = True,
        width: int = 512,
        depth: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        scaling: Scaling = "auto",
    ) -> None:
        super().__init__()
        if measurements < 1:
            raise ConfigError([f"measurements: found {measurements}; at least 1 is needed"])
        self.schema, self.conditional = schema, conditional
        labels = len(schema.labels)
        self.evidence = Evidence(
            schema,
            labels + (measurements if conditional else 0),
            width=width,
            depth=depth,
            dropout=dropout,
            input_dropout=input_dropout,
            scaling=scaling,
        )
        self.frequency = nn.Parameter(frequency_scores(schema) if conditional else torch.zeros(labels))
        self.measure = nn.Parameter(0.3 * torch.randn(measurements, labels))
        self.offset = nn.Parameter(torch.zeros(measurements))
        self.charge = nn.Parameter(0.1 * torch.randn(measurements))

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.evidence.prepare(xs)

    def forward(self, inputs: Inputs) -> FactorGraph:
        out = self.evidence(inputs)
        labels = len(self.schema.labels)
        scores = out[:, :labels] + self.frequency
        offset = self.offset + out[:, labels:] if self.conditional else self.offset.expand(len(out), -1)
        whole = SetEnergy((LABELS,), "set", self.measure, offset, self.charge)
        return FactorGraph([label_block(len(out), labels)], [label_energies(scores), whole])

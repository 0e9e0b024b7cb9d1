"""Scores of labels and an energy of how many there are, both by one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ebmstruct import ConfigError, CountFactor, EnergyModel, FactorGraph
from ebmstruct_multilabel.evidence import Evidence, Inputs, Scaling, frequency_scores, label_block, label_energies
from ebmstruct_multilabel.schema import LABELS, LabelSchema


class Counted(EnergyModel):
    """E(x, y) = -sum of scores of the labels in y - c_k(x), k being how many there are.

    What the input says of the size of the set (never empty, seldom above five) is thus said once, and labels depend on
    each other through it: one more makes others less probable. Minimum, likelihood, marginals and draws are exact
    (``cardinality``, to be named as ``inner`` of a decoder or as the solver).

    counts: how many sizes have an energy of their own, 0 included; larger sets share the last.  conditional: whether the
    input has a say in it.  Other options as in ``Evidence``. Cost: labels times counts more than ``MLP``.
    """

    def __init__(
        self,
        schema: LabelSchema,
        *,
        counts: int = 12,
        conditional: bool = True,
        width: int = 512,
        depth: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        scaling: Scaling = "auto",
    ) -> None:
        super().__init__()
        if counts < 1:
            raise ConfigError([f"counts: found {counts}; at least 1 is needed"])
        self.schema = schema
        labels = len(schema.labels)
        self.evidence = Evidence(
            schema,
            labels + (counts if conditional else 0),
            width=width,
            depth=depth,
            dropout=dropout,
            input_dropout=input_dropout,
            scaling=scaling,
        )
        self.frequency = nn.Parameter(frequency_scores(schema))
        self.sizes = nn.Parameter(torch.zeros(counts))

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.evidence.prepare(xs)

    def forward(self, inputs: Inputs) -> FactorGraph:
        out = self.evidence(inputs)
        labels = len(self.schema.labels)
        scores, sizes = out[:, :labels] + self.frequency, self.sizes
        if out.shape[1] > labels:
            sizes = sizes + out[:, labels:]
        counts = CountFactor((LABELS,), "size", -sizes)
        return FactorGraph([label_block(len(out), labels)], [label_energies(scores), counts])

"""Independent labels: a network that scores each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebmstruct import EnergyModel, FactorGraph
from ebmstruct_multilabel.evidence import Evidence, Inputs, Scaling, label_block, label_energies
from ebmstruct_multilabel.schema import LabelSchema


class MLP(EnergyModel):
    """E(x, y) = -sum over the labels in y of their scores, by a multi-layer perceptron.

    Labels are independent given the input, so everything is exact and quick, and the likelihood is the sum of logistic
    losses. Options as in ``Evidence``.
    """

    def __init__(
        self,
        schema: LabelSchema,
        *,
        width: int = 512,
        depth: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        scaling: Scaling = "auto",
    ) -> None:
        super().__init__()
        self.schema = schema
        self.evidence = Evidence(
            schema,
            len(schema.labels),
            width=width,
            depth=depth,
            dropout=dropout,
            input_dropout=input_dropout,
            scaling=scaling,
        )

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.evidence.prepare(xs)

    def forward(self, inputs: Inputs) -> FactorGraph:
        scores = self.evidence(inputs)
        return FactorGraph([label_block(*scores.shape)], [label_energies(scores)])

"""One network over input and labels together: deep value networks, with a score for each label beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.functional import relu

from ebmstruct import BlockFactor, ConfigError, EnergyModel, FactorGraph
from ebmstruct.energies.label_set import JointNetwork
from ebmstruct_multilabel.evidence import Evidence, Inputs, Scaling, label_block, label_energies
from ebmstruct_multilabel.schema import LABELS, LabelSchema


class ValueNetwork(EnergyModel):
    """E(x, y) = -sum of scores of the labels in y, plus a network's value of (x, y) (Gygli, Norouzi and Angelova 2017).

    The network sees a vector of the input and all labels, as weights between 0 and 1, through two layers of ``hidden``
    units. It is made for ``value_matching``, which teaches it how good a set is, and for ``mirror_descent``; nothing about
    it is exact, and an answer costs a descent. evidence: whether scores of single labels stand beside it.
    Other options as in ``Evidence``; the vector is the network's last hidden layer, so ``depth`` is at least 1.
    """

    def __init__(
        self,
        schema: LabelSchema,
        *,
        hidden: int = 128,
        evidence: bool = True,
        width: int = 512,
        depth: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        scaling: Scaling = "auto",
    ) -> None:
        super().__init__()
        if hidden < 1 or depth < 1:
            raise ConfigError([f"hidden, depth: found {hidden} and {depth}; both are at least 1"])
        self.schema = schema
        self.vector = Evidence(
            schema,
            width,
            width=width,
            depth=depth - 1,
            dropout=dropout,
            input_dropout=input_dropout,
            scaling=scaling,
        )
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(width, len(schema.labels)) if evidence else None
        self.value = JointNetwork(width, len(schema.labels), hidden)

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.vector.prepare(xs)

    def forward(self, inputs: Inputs) -> FactorGraph:
        h = self.dropout(relu(self.vector(inputs)))
        whole = BlockFactor((LABELS,), "value", self.value, (h,), relaxed=True)
        graph = FactorGraph([label_block(len(h), len(self.schema.labels))], [whole])
        return graph if self.scores is None else graph.add(label_energies(self.scores(h)))

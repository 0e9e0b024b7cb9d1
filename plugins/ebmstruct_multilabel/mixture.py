"""Labels that are independent once a hidden kind of the example is known: a conditional mixture of Bernoullis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ebmstruct import ConfigError, Discrete, EnergyModel, FactorGraph, TableFactor, Variables
from ebmstruct_multilabel.evidence import Evidence, Inputs, Scaling, frequency_scores, label_block
from ebmstruct_multilabel.schema import LABELS, LabelSchema

KIND = "kind"
"""The hidden block: one site an example, one state a component."""


class Mixture(EnergyModel):
    """E(x, z, y) = -gate_z(x) - log p(y | z, x) with a hidden kind z of the example and labels independent given it.

    The graph is a star: log partitions, marginals and draws are exact, and the likelihood sums z out. Summed over z labels
    depend on each other (conditional Bernoulli mixtures, Li, Wang, Pavlu and Aslam 2016).

    components: states of z.  scores: ``own`` gives each component a network's outputs of its own, ``shifted`` one score
    for all and a learned shift a component and label, which has far fewer parameters.
    Other options as in ``Evidence``. Cost: components times that of ``MLP``.
    """

    def __init__(
        self,
        schema: LabelSchema,
        *,
        components: int = 8,
        scores: Literal["own", "shifted"] = "own",
        width: int = 512,
        depth: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        scaling: Scaling = "auto",
    ) -> None:
        super().__init__()
        if components < 1:
            raise ConfigError([f"components: found {components}; at least 1 is needed"])
        self.schema, self.components = schema, components
        labels = len(schema.labels)
        own = scores == "own"
        self.evidence = Evidence(
            schema,
            components + labels * (components if own else 1),
            width=width,
            depth=depth,
            dropout=dropout,
            input_dropout=input_dropout,
            scaling=scaling,
        )
        self.shift = nn.Parameter(frequency_scores(schema) + 0.5 * torch.randn(components, labels))

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.evidence.prepare(xs)

    def scores(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """(B, K) scores of kinds, and (B, K, L) of labels given them."""
        out = self.evidence(inputs)
        gate, rest = out[:, : self.components], out[:, self.components :]
        return gate, rest.reshape(len(out), -1, self.shift.shape[1]) + self.shift

    def forward(self, inputs: Inputs) -> FactorGraph:
        gate, scores = self.scores(inputs)
        instances, kinds, labels = scores.shape
        blocks = [Variables.of_lengths(KIND, Discrete(kinds), [1] * instances), label_block(instances, labels)]
        tables = torch.stack([softplus(scores), softplus(-scores)], dim=3).transpose(1, 2).reshape(-1, kinds, 2)
        index = torch.stack([torch.arange(instances).repeat_interleave(labels), torch.arange(instances * labels)]).to(
            scores.device
        )
        gates = TableFactor((KIND,), "gate", -gate)
        return FactorGraph(blocks, [gates, TableFactor((KIND, LABELS), "evidence", tables, index)])

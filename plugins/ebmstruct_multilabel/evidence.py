"""The network from a row of features to scores of labels: sparse or dense inputs, hidden layers, dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import embedding_bag, relu

from ebmstruct import ConfigError, Discrete, TableFactor, Variables
from ebmstruct_multilabel.rows import Row
from ebmstruct_multilabel.schema import LABELS, LabelSchema, matrix

ROW_NORM = 5.5
"""The norm that rows get where they are scaled as counts: about unit variance for what is there."""
Scaling = Literal["auto", "idf", "standard", "none"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """B rows, scaled. dense: (B, F) float32, or None where they are kept in ``sparse``, a (B, F) csr matrix."""

    sparse: Any
    dense: Tensor | None

    def __len__(self) -> int:
        return int(self.sparse.shape[0]) if self.dense is None else self.dense.shape[0]

    def select(self, positions: Sequence[int]) -> Inputs:
        """Some rows, in the order given."""
        if self.dense is not None:
            return Inputs(None, self.dense[torch.as_tensor(list(positions), dtype=torch.long)])
        return Inputs(self.sparse[np.asarray(positions, dtype=np.int64)], None)


class Evidence(nn.Module):
    """(B, outputs) scores from rows; high is good.

    width, depth: of the hidden layers; depth 0 is a linear model.  dropout, input_dropout: in training, of hidden units
    and of the values of a row.  scaling: ``idf`` weighs a column by the logarithm of how rare it is (Spaerck Jones 1972)
    and gives all rows one norm; ``standard`` gives columns mean 0 and spread 1; ``auto`` takes the first for sparse
    counts and the second for anything else.
    Cost for sparse rows: width times their values, not times all columns.
    """

    def __init__(
        self,
        schema: LabelSchema,
        outputs: int,
        *,
        width: int,
        depth: int,
        dropout: float,
        input_dropout: float,
        scaling: Scaling,
    ) -> None:
        super().__init__()
        wrong = [
            f"{n}: found {v}; at least {m} is needed" for n, v, m in (("width", width, 1), ("depth", depth, 0)) if v < m
        ]
        rates = (("dropout", dropout), ("input_dropout", input_dropout))
        wrong += [f"{n}: found {v}; legal is a rate in [0, 1)" for n, v in rates if not 0 <= v < 1]
        if wrong:
            raise ConfigError(wrong)
        self.schema, self.dropout, self.input_dropout = schema, dropout, input_dropout
        self.scaling: str = scaling if scaling != "auto" else "idf" if schema.sparse else "standard"
        sizes = [len(schema.features), *[width] * depth, outputs]
        self.weight = nn.Parameter(torch.empty(sizes[0], sizes[1]).uniform_(-1, 1) / max(1, sizes[0]) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(sizes[1]))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[1:], sizes[2:], strict=False))
        last = self.layers[-1].bias if depth else self.bias
        assert isinstance(last, Tensor)
        if outputs == len(schema.labels):
            with torch.no_grad():
                last.copy_(frequency_scores(schema))

    def prepare(self, xs: Sequence[Row]) -> Inputs:
        """Rows as a scaled matrix."""
        x = matrix(xs, self.schema.features)
        missing = np.isnan(x.data)
        if missing.any():
            x.data[missing] = self.schema.mean.numpy()[x.indices[missing]] if self.scaling == "standard" else 0.0
        if self.scaling == "standard":
            spread = self.schema.spread.clamp(min=1e-6)
            return Inputs(None, (torch.from_numpy(x.toarray()) - self.schema.mean) / spread)
        if self.scaling == "idf":
            rarity = np.log((1 + self.schema.examples) / (1 + self.schema.present.numpy())) + 1
            x.data = x.data * rarity[x.indices].astype(np.float32)
            norm = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).reshape(-1))
            x.data *= np.repeat(ROW_NORM / np.maximum(norm, 1e-9), np.diff(x.indptr)).astype(np.float32)
        return Inputs(x, None) if self.schema.sparse else Inputs(None, torch.from_numpy(x.toarray()))

    def forward(self, inputs: Inputs) -> Tensor:
        h = self._first(inputs)
        for layer in self.layers:
            h = layer(dropped(relu(h), self.dropout, self.training))
        return h

    def _first(self, inputs: Inputs) -> Tensor:
        device = self.weight.device
        if inputs.dense is not None:
            return dropped(inputs.dense.to(device), self.input_dropout, self.training) @ self.weight + self.bias
        x = inputs.sparse
        values = dropped(torch.from_numpy(x.data).to(device), self.input_dropout, self.training)
        columns = torch.from_numpy(x.indices.astype(np.int64)).to(device)
        starts = torch.from_numpy(x.indptr[:-1].astype(np.int64)).to(device)
        out: Tensor = embedding_bag(columns, self.weight, starts, mode="sum", per_sample_weights=values) + self.bias
        return out


def frequency_scores(schema: LabelSchema) -> Tensor:
    """(L,) the scores at which every label has its frequency in the training data."""
    rate = (schema.together.diagonal() / max(1, schema.labelled)).clamp(1e-4, 1 - 1e-4)
    return torch.logit(rate)


def label_block(instances: int, labels: int) -> Variables:
    """The block of labels of a batch."""
    return Variables.of_lengths(LABELS, Discrete(2), torch.full((instances,), labels))


def label_energies(scores: Tensor) -> TableFactor:
    """One row a label: energy 0 where it is out, minus its score where it is in; scores (B, L)."""
    flat = scores.reshape(-1)
    # The only place where a score becomes an energy.
    return TableFactor((LABELS,), "evidence", torch.stack([torch.zeros_like(flat), -flat], dim=1))

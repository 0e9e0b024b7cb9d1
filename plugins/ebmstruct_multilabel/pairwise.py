"""Scores of labels plus energies of pairs: a tree of the most dependent pairs, or more of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct import ConfigError, EnergyModel, FactorGraph, TableFactor
from ebmstruct_multilabel.evidence import Evidence, Inputs, Scaling, label_block, label_energies
from ebmstruct_multilabel.schema import LABELS, LabelSchema


class Pairwise(EnergyModel):
    """E(x, y) = -sum of scores of the labels in y, plus a learned table (2, 2) for each of some pairs of labels.

    Pairs are those that depend most on each other in the training data, by mutual information. pairs: how many; None
    for the tree that has most of it (Chow and Liu 1968), on which everything is exact: likelihood, marginals, draws.
    With more pairs the graph has cycles: then ``pseudo_likelihood`` trains it, and marginals are estimates.
    Other options as in ``Evidence``.
    """

    index: Tensor

    def __init__(
        self,
        schema: LabelSchema,
        *,
        pairs: int | None = None,
        width: int = 512,
        depth: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        scaling: Scaling = "auto",
    ) -> None:
        super().__init__()
        if pairs is not None and pairs < 0:
            raise ConfigError([f"pairs: found {pairs}; legal is 0 or more, or null for a tree"])
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
        information = mutual_information(schema)
        chosen = spanning_tree(information) if pairs is None else strongest_pairs(information, pairs)
        self.register_buffer("index", chosen)
        self.tables = nn.Parameter(torch.zeros(chosen.shape[1], 2, 2))

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.evidence.prepare(xs)

    def forward(self, inputs: Inputs) -> FactorGraph:
        scores = self.evidence(inputs)
        instances, labels = scores.shape
        factors = [label_energies(scores)]
        if self.index.shape[1]:
            shift = torch.arange(instances, device=scores.device)[:, None] * labels
            index = (self.index[:, None, :] + shift).reshape(2, -1)
            starts = (torch.arange(self.index.shape[1], device=scores.device) * 4).repeat(instances)
            factors.append(TableFactor((LABELS, LABELS), "pairs", self.tables.reshape(-1), index, starts))
        return FactorGraph([label_block(instances, labels)], factors)


def mutual_information(schema: LabelSchema) -> Tensor:
    """(L, L) float64: the mutual information of two labels in the training data, in nats; 0 on the diagonal."""
    n = max(1, schema.labelled)
    both = schema.together.double() / n
    own = both.diagonal()
    out = torch.zeros_like(both)
    for a in (0, 1):
        for b in (0, 1):
            joint = (
                both
                if a and b
                else own[:, None] - both
                if a
                else own[None] - both
                if b
                else 1 - own[:, None] - own + both
            )
            apart = (own if a else 1 - own)[:, None] * (own if b else 1 - own)[None]
            joint = joint.clamp(min=0.0)
            out += torch.where(joint > 0, joint * (joint / apart.clamp(min=1e-300)).log(), 0.0)
    return out.fill_diagonal_(0.0)


def strongest_pairs(information: Tensor, count: int) -> Tensor:
    """(2, m) long: the pairs i < j with most information."""
    pairs = torch.triu_indices(len(information), len(information), offset=1)
    order = torch.argsort(information[pairs[0], pairs[1]], descending=True, stable=True)
    return pairs[:, order[:count]]


def spanning_tree(information: Tensor) -> Tensor:
    """(2, L - 1) long: the edges of the tree with most information (Prim 1957). O(L^2)."""
    labels = information.shape[0]
    best, parent = information[0].clone(), torch.zeros(labels, dtype=torch.long)
    left = torch.ones(labels, dtype=torch.bool)
    left[0] = False
    edges = []
    for _ in range(labels - 1):
        label = int(best.masked_fill(~left, -torch.inf).argmax())
        edges.append(sorted((int(parent[label]), label)))
        left[label] = False
        closer = left & (information[label] > best)
        best, parent = torch.where(closer, information[label], best), torch.where(closer, label, parent)
    return torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T

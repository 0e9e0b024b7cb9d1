"""The tagging energy of second order: a tag depends on the two before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct import ChainFactor, Discrete, FactorGraph, TableFactor, Variables
from ebmstruct_nlp.sparse_chain import FeatureInputs, SparseTags, TemplateName
from ebmstruct_nlp.tag_chain import TagSchema
from ebmstruct_nlp.tag_pairs import PAIRS, TagPairs


class SecondOrderChain(SparseTags):
    """A chain over pairs of neighbouring tags, with a learned energy for each three in a row.

    Only pairs that the scheme allows are states: 38 for three types of entity in BIO, 68 in BIOES. The options are those
    of ``SparseChain``. Cost: slots x K additions a token, and the square of the number of pairs for the chain.
    """

    before: Tensor
    after: Tensor
    tag: Tensor
    never_first: Tensor
    forbidden_end: Tensor

    def __init__(
        self,
        schema: TagSchema,
        *,
        template: TemplateName | list[str] = "words",
        buckets_log2: int = 20,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(schema, template, buckets_log2, dropout)
        pairs = TagPairs.of(schema)
        before, after = pairs.steps
        tags = len(schema.tags)
        self.transition = nn.Parameter(torch.zeros(tags, tags))
        self.triple = nn.Parameter(torch.zeros(len(before)))
        self.start = nn.Parameter(torch.zeros(tags))
        self.end = nn.Parameter(torch.zeros(tags))
        self.register_buffer("before", before, persistent=False)
        self.register_buffer("after", after, persistent=False)
        self.register_buffer("tag", pairs.tag, persistent=False)
        self.register_buffer("never_first", pairs.before != tags, persistent=False)
        self.register_buffer("forbidden_end", ~schema.end[pairs.tag], persistent=False)

    def prepare(self, xs: Sequence[Any]) -> FeatureInputs:
        return FeatureInputs(self.rows(xs))

    def forward(self, inputs: FeatureInputs) -> FactorGraph:
        emission, offsets = self.emission(inputs.rows)
        states = len(self.tag)
        block = Variables(PAIRS, Discrete(states), offsets)
        steps = self.triple + self.transition[self.tag[self.before], self.tag[self.after]]
        nothing = torch.full((states, states), torch.inf, dtype=steps.dtype, device=steps.device)
        chain = ChainFactor(
            (PAIRS,),
            "transition",
            nothing.index_put((self.before, self.after), steps),
            self.start[self.tag].masked_fill(self.never_first, torch.inf),
            self.end[self.tag].masked_fill(self.forbidden_end, torch.inf),
        )
        return FactorGraph([block], [TableFactor((PAIRS,), "word", emission[:, self.tag]), chain])

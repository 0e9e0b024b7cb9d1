"""The tagging energy over whole entities: hashed features of tokens, and of segments with their label and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct import ConfigError, Discrete, FactorGraph, SegmentFactor, TableFactor, Variables
from ebmstruct.energies.sparse import SparseLinear
from ebmstruct_nlp.features import FeatureRows
from ebmstruct_nlp.schemes import OUTSIDE
from ebmstruct_nlp.segment_features import segment_rows
from ebmstruct_nlp.sparse_chain import SparseTags, TemplateName
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema

DEFAULT = ("text", "shapes", "ends", "around", "around_shapes", "last")
"""The features of a segment that are used unless others are named."""


@dataclass(frozen=True)
class SegmentInputs:
    """The hashed features of sentences: of their tokens, and of the segments that begin at each."""

    rows: FeatureRows
    segments: FeatureRows

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, positions: Sequence[int]) -> SegmentInputs:
        return SegmentInputs(self.rows.select(positions), self.segments.select(positions))


class SemiMarkov(SparseTags):
    """Segments of BIO tags: an entity is scored as a whole (Sarawagi and Cohen 2004), a token outside by itself.

    An entity's energy adds those of its tokens' tags, of its length, of its features as a whole, and of the step from the
    type before. Entities longer than max_length are never found.
    template, buckets_log2, dropout: of the tokens' features, as in ``SparseChain``.
    max_length: tokens of the longest entity; by default that of the training text, which may hold none that is longer.
    segment_features: names of ``segment_features.FEATURES``; none is legal.  feature_length: only entities of at most so
    many tokens have them.  segment_buckets_log2, segment_dropout: as for tokens.
    Cost: that of ``SparseChain``, and features x types additions for each token and length.
    """

    def __init__(
        self,
        schema: TagSchema,
        *,
        template: TemplateName | list[str] = "words",
        buckets_log2: int = 20,
        dropout: float = 0.2,
        max_length: int | None = None,
        segment_features: list[str] | None = None,
        feature_length: int = 5,
        segment_buckets_log2: int = 18,
        segment_dropout: float = 0.5,
    ) -> None:
        super().__init__(schema, template, buckets_log2, dropout)
        if schema.scheme != "bio":
            raise ConfigError([f"nlp.semi_markov: the task's scheme is {schema.scheme}; segments are spelt in bio"])
        longest = schema.longest if max_length is None else max_length
        if longest < schema.longest:
            said = f"an entity of the training text has {schema.longest} tokens; leave it out"
            raise ConfigError([f"max_length: found {longest}, but {said}"])
        self.features = tuple(DEFAULT if segment_features is None else segment_features)
        self.described, self.segment_buckets_log2 = min(longest, feature_length), segment_buckets_log2
        segment_rows([], self.features, feature_length, segment_buckets_log2)  # tells of faults
        self.labels = labels_of(schema)
        types = len(self.labels) - 1
        self.segments = SparseLinear(1 << segment_buckets_log2, types, dropout=segment_dropout)
        self.lengths = nn.Parameter(torch.zeros(longest, types))
        self.transition = nn.Parameter(torch.zeros(types + 1, types + 1))
        self.start = nn.Parameter(torch.zeros(types + 1))
        self.end = nn.Parameter(torch.zeros(types + 1))

    def prepare(self, xs: Sequence[Any]) -> SegmentInputs:
        segments = segment_rows(xs, self.features, self.described, self.segment_buckets_log2)
        return SegmentInputs(self.rows(xs), segments)

    def forward(self, inputs: SegmentInputs) -> FactorGraph:
        emission, offsets = self.emission(inputs.rows)
        block = Variables(BLOCK, Discrete(len(self.tags)), offsets)
        factor = SegmentFactor(
            (BLOCK,),
            "segments",
            nn.functional.pad(self.lengths, (1, 0)),  # what is outside comes first, token by token
            self.transition,
            self.start,
            self.end,
            self._whole(inputs.segments),
            tag_states(len(self.labels)).to(emission.device),
        )
        return FactorGraph([block], [TableFactor((BLOCK,), "word", emission), factor])

    def _whole(self, rows: FeatureRows) -> Tensor | None:
        """(n, L, K) energies of the features of segments."""
        if not self.features:
            return None
        ids = torch.from_numpy(rows.ids).reshape(-1, len(self.features)).to(self.lengths.device)
        energy: Tensor = self.segments(ids, self.noise)
        energy = energy.reshape(len(rows.ids), self.described, self.lengths.shape[1])
        return nn.functional.pad(energy, (1, 0, 0, len(self.lengths) - self.described))


def labels_of(schema: TagSchema) -> tuple[str, ...]:
    """What is outside, then the types of entity, in the order of their tags."""
    return (OUTSIDE, *(tag[2:] for tag in schema.tags if tag.startswith("B-")))


def tag_states(labels: int) -> Tensor:
    """(K, 2) long: the tags O and none, then B and I of each type."""
    return torch.cat([torch.tensor([[0, -1]]), torch.arange(1, 2 * labels - 1).reshape(-1, 2)])

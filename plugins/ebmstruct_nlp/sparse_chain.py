"""The tagging energy of hashed features, as users of CRF toolkits know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ebmstruct import EnergyModel, FactorGraph
from ebmstruct.energies.sparse import SparseLinear
from ebmstruct_nlp.features import FeatureRows, FeatureTemplate
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema, tag_chain
from ebmstruct_nlp.templates import CHARACTERS, PLAIN_CHARACTERS, PLAIN_WORDS, WORDS

TemplateName = Literal["words", "plain_words", "characters", "plain_characters"]
TEMPLATES: dict[str, tuple[str, ...]] = {
    "words": WORDS,
    "plain_words": PLAIN_WORDS,
    "characters": CHARACTERS,
    "plain_characters": PLAIN_CHARACTERS,
}


@dataclass(frozen=True)
class FeatureInputs:
    """The hashed features of sentences, as the energies of hashed features take them."""

    rows: FeatureRows

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, positions: Sequence[int]) -> FeatureInputs:
        return FeatureInputs(self.rows.select(positions))


class SparseTags(EnergyModel):
    """What energies of hashed features share: the energies of a token's tags, a sum of learned weights each.

    Abstract: a subclass gives ``forward``.
    """

    def __init__(
        self, schema: TagSchema, template: TemplateName | list[str], buckets_log2: int, dropout: float
    ) -> None:
        super().__init__()
        slots = TEMPLATES[template] if isinstance(template, str) else tuple(template)
        self.template = FeatureTemplate(slots, buckets_log2)
        self.statistics = schema.statistics
        self.tags = schema.tags
        self.words = SparseLinear(self.template.num_buckets, len(schema.tags), dropout=dropout)

    def rows(self, xs: Sequence[Any]) -> FeatureRows:
        """The hashed features of the tokens of sentences."""
        return self.template.features(xs, self.statistics, counted=self.training)

    def emission(self, rows: FeatureRows) -> tuple[Tensor, Tensor]:
        """(n, K) energies of each token's tags, and (B + 1,) long, where each sentence begins."""
        device = self.words.weight.device
        ids, offsets = torch.from_numpy(rows.ids), torch.from_numpy(rows.offsets)
        return self.words(ids.to(device), self.noise), offsets.to(device)

    @property
    def noise(self) -> torch.Generator | None:
        """The source of dropout's randomness, in training."""
        return torch.default_generator if self.training else None

    def evidence(self, x: Sequence[str], site: int) -> Mapping[str, Tensor]:
        """What each feature of one token says: slot to the (K,) energies that it adds."""
        rows = self.template.features([x], self.statistics)
        ids = rows.ids[site].tolist()
        weight = self.words.weight.detach()
        return {slot: weight[i] for slot, i in zip(self.template.slots, ids, strict=True) if i}


class SparseChain(SparseTags):
    """A linear chain over tags whose word energies are sums of learned weights of hashed features.

    template: a name (``words``, ``plain_words``, ``characters``, ``plain_characters``) or a list of slots (see
    ``FeatureTemplate``).  buckets_log2: the table has 2^buckets_log2 rows of K weights.
    dropout: in training each feature of each token is left out with this probability.
    Cost: slots x K additions a token, and K x K a token for the chain.
    """

    def __init__(
        self,
        schema: TagSchema,
        *,
        template: TemplateName | list[str] = "words",
        buckets_log2: int = 20,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(schema, template, buckets_log2, dropout)
        self.chain = tag_chain(schema)

    def prepare(self, xs: Sequence[Any]) -> FeatureInputs:
        return FeatureInputs(self.rows(xs))

    def forward(self, inputs: FeatureInputs) -> FactorGraph:
        return self.chain.graph(*self.emission(inputs.rows), BLOCK, label="word")

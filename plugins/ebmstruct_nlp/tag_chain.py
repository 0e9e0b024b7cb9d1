"""The chain that every tagging energy here has: transitions between tags, with the scheme's hard constraints inside."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebmstruct import Schema
from ebmstruct.energies import Transitions
from ebmstruct_nlp.features import WordStatistics

BLOCK = "tags"


@dataclass(frozen=True)
class TagSchema(Schema):
    """What tagging energies need to know: the tags, which of them may follow one another, and the words seen.

    tags: (K) names.  scheme: of spans, or ``plain``.  start, transition, end: bool tensors of shape (K,), (K, K), (K,):
    what the scheme allows; rows are the earlier token.
    word_hashes, word_counts: the statistics of the training text's words, as ``WordStatistics`` holds them.
    longest: tokens of the longest entity in the training text.
    """

    tags: tuple[str, ...]
    scheme: str
    start: Tensor
    transition: Tensor
    end: Tensor
    word_hashes: Tensor
    word_counts: Tensor
    longest: int = 1

    def state_names(self, block: str) -> tuple[str, ...]:
        return self.tags if block == BLOCK else ()

    @property
    def statistics(self) -> WordStatistics:
        """How often the training text holds each word, and how it writes it."""
        return WordStatistics.from_arrays({"hashes": self.word_hashes.numpy(), "counts": self.word_counts.numpy()})


def tag_chain(schema: TagSchema) -> Transitions:
    """Energies of neighbouring tags: learned where the scheme allows them, infinite where it does not."""
    return Transitions(
        len(schema.tags),
        allowed_start=schema.start,
        allowed_transition=schema.transition,
        allowed_end=schema.end,
    )

"""The chain that every tagging energy here has: transitions between tags, with the scheme's hard constraints inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebmstruct import ChainFactor, Discrete, FactorGraph, Schema, TableFactor, Variables
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


class TagChain(nn.Module):
    """Energies of neighbouring tags: learned where the scheme allows them, infinite where it does not.

    Parameters: transition (K, K), start (K,), end (K,), all zero at first.
    """

    forbidden_start: Tensor
    forbidden_transition: Tensor
    forbidden_end: Tensor

    def __init__(self, schema: TagSchema) -> None:
        super().__init__()
        states = len(schema.tags)
        self.transition = nn.Parameter(torch.zeros(states, states))
        self.start = nn.Parameter(torch.zeros(states))
        self.end = nn.Parameter(torch.zeros(states))
        self.register_buffer("forbidden_start", ~schema.start, persistent=False)
        self.register_buffer("forbidden_transition", ~schema.transition, persistent=False)
        self.register_buffer("forbidden_end", ~schema.end, persistent=False)

    def graph(self, emission: Tensor, offsets: Tensor, label: str = "word") -> FactorGraph:
        """One chain of tags a sentence.

        emission: (n, K) energies of each token's tags; offsets: (B + 1,) long, where each sentence begins.
        """
        block = Variables(BLOCK, Discrete(emission.shape[1]), offsets)
        chain = ChainFactor(
            (BLOCK,),
            "transition",
            self.transition.masked_fill(self.forbidden_transition, torch.inf),
            self.start.masked_fill(self.forbidden_start, torch.inf),
            self.end.masked_fill(self.forbidden_end, torch.inf),
        )
        return FactorGraph([block], [TableFactor((BLOCK,), label, emission), chain])

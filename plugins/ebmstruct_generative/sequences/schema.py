"""What the training data say of sequences: their symbols and how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ebmstruct import DataError, Schema

SYMBOLS = "symbols"
"""The block of outputs: one site a place of a sequence."""
MOST_SYMBOLS = 5000


@dataclass(frozen=True)
class SequenceSchema(Schema):
    """symbols: in order.  lengths, shares: the lengths of training sequences and how many have each."""

    symbols: tuple[str, ...]
    lengths: tuple[int, ...]
    shares: tuple[int, ...]

    def state_names(self, block: str) -> tuple[str, ...]:
        return self.symbols if block == SYMBOLS else ()


def fitted(sequences: Sequence[Sequence[str]]) -> SequenceSchema:
    """The schema of sequences. Errors: DataError where they hold nothing, or more kinds of symbols than can be learnt."""
    seen = sorted({symbol for sequence in sequences for symbol in sequence})
    if not seen:
        raise DataError("the training data holds no symbol: every line is empty, so there is nothing to learn")
    if len(seen) > MOST_SYMBOLS:
        raise DataError(
            f"the training data has {len(seen)} kinds of symbols; at most {MOST_SYMBOLS} are legal. Take task.unit "
            "letters, or fewer kinds of words"
        )
    counts = sorted(Counter(len(s) for s in sequences).items())
    return SequenceSchema(tuple(seen), tuple(n for n, _ in counts), tuple(c for _, c in counts))

"""The input of a tagging task: tokens that remember the text they come from, and tags that are forced on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from ebmstruct_nlp.schemes import Tag
from ebmstruct_nlp.tokenizing import Tokens, joined


class Sentence(tuple[str, ...]):
    """A tuple of tokens.

    placed: the text and the tokens' places in it.  forced: for each token a tag that it must get, or None; empty
    where nothing is forced.
    """

    placed: Tokens
    forced: tuple[Tag, ...]

    def __new__(cls, tokens: Iterable[str], placed: Tokens | None = None, forced: Iterable[Tag] = ()) -> Self:
        self = super().__new__(cls, tokens)
        self.placed = joined(self) if placed is None else placed
        self.forced = tuple(forced)
        return self

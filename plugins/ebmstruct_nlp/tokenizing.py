"""Text to tokens with their places in the text, and spans of tokens back to spans of characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ebmstruct.errors import DataError

TOKENIZERS = ("spacy", "characters", "whitespace")
Offsets = tuple[tuple[int, int], ...]
_NOT_SPACE = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a text; ``text[start:end]`` of each offset is its token."""

    text: str
    tokens: tuple[str, ...]
    offsets: Offsets


@dataclass(frozen=True, slots=True)
class CharacterSpan:
    """A span of a text in characters, end exclusive."""

    start: int
    end: int
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Splits text into tokens; white space is never a token.

    name: spacy (the rules of ``spacy.blank(language)``: no model, no network), characters (one token a
    character, for Cantonese), or whitespace. language: spaCy's code; the other two ignore it.
    """

    name: str = "spacy"
    language: str = "en"

    def __post_init__(self) -> None:
        if self.name not in TOKENIZERS:
            raise DataError(f"tokenizer {self.name!r} is unknown; legal are {', '.join(TOKENIZERS)}")

    def __call__(self, text: str) -> Tokens:
        """The tokens of one text with their offsets; O(length)."""
        if self.name == "spacy":
            pairs = [(token.idx, token.text) for token in _spacy_tokenizer(self.language)(text) if not token.is_space]
        elif self.name == "characters":
            pairs = [(place, letter) for place, letter in enumerate(text) if not letter.isspace()]
        else:
            pairs = [(match.start(), match.group()) for match in _NOT_SPACE.finditer(text)]
        tokens = tuple([token for _, token in pairs])
        return Tokens(text, tokens, tuple([(start, start + len(token)) for start, token in pairs]))


@lru_cache(maxsize=8)
def _spacy_tokenizer(language: str) -> Any:
    """The tokenizer of a blank pipeline; imported here because spaCy takes longer to import than most runs."""
    try:
        import spacy
    except ImportError as fault:
        raise DataError(
            "the tokenizer 'spacy' needs spaCy, which is not installed; pip install 'ebmstruct[nlp]', "
            "or choose the tokenizer 'whitespace' or 'characters'"
        ) from fault
    try:
        return spacy.blank(language).tokenizer
    except ImportError as fault:
        raise DataError(
            f"spaCy has no usable language {language!r}; give a code such as en, de or xx (any language), "
            "or choose the tokenizer 'whitespace' or 'characters'"
        ) from fault


def align(tokens: Sequence[str], text: str) -> Offsets | None:
    """The offsets of tokens that stand in the text in this order, or None when one is not found; O(length)."""
    offsets = []
    place = 0
    for token in tokens:
        start = text.find(token, place)
        # A token may be preceded by white space only; more would mean that the text holds what no token covers.
        if start < 0 or (start > place and not text[place:start].isspace()):
            return None
        place = start + len(token)
        offsets.append((start, place))
    return tuple(offsets)


def joined(tokens: Iterable[str]) -> Tokens:
    """Tokens as a text of their own: joined by single spaces."""
    words = tuple(tokens)
    offsets = []
    place = 0
    for word in words:
        offsets.append((place, place + len(word)))
        place += len(word) + 1
    return Tokens(" ".join(words), words, tuple(offsets))


def character_spans(
    text: str, offsets: Sequence[tuple[int, int]], spans: Iterable[tuple[int, int, str]]
) -> list[CharacterSpan]:
    """Spans of tokens as spans of the text, from the first token's start to the last token's end."""
    out = []
    for first, last, label in spans:
        start, end = offsets[first][0], offsets[last - 1][1]
        out.append(CharacterSpan(start, end, label, text[start:end]))
    return out

"""Tokenizers and the way back from tokens to characters."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmstruct.errors import DataError
from ebmstruct_nlp.tokenizing import Tokenizer, align, character_spans, joined

needs_spacy = pytest.mark.skipif(importlib.util.find_spec("spacy") is None, reason="spaCy is not installed")
NAMES = [pytest.param("spacy", marks=needs_spacy), "characters", "whitespace"]


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_offsets_point_at_their_tokens(name: str, text: str) -> None:
    """Each token is what its offsets cut from the text, in order, and only white space lies between."""
    cut = Tokenizer(name)(text)
    assert tuple(text[start:end] for start, end in cut.offsets) == cut.tokens
    place, rest = 0, ""
    for start, end in cut.offsets:
        assert start >= place and end > start
        rest += text[place:start]
        place = end
    assert not (rest + text[place:]).strip()
    assert align(cut.tokens, text) == cut.offsets


@needs_spacy
def test_spacy_rules_without_a_model() -> None:
    """English rules split the possessive and the full stop, and need no network."""
    assert Tokenizer()("Anna's in  Rome.").tokens == ("Anna", "'s", "in", "Rome", ".")


def test_characters_for_cantonese() -> None:
    """One token a character; blanks are left out but their places count."""
    cut = Tokenizer("characters")("阿 May去香港")
    assert cut.tokens == ("阿", "M", "a", "y", "去", "香", "港") and cut.offsets[1] == (2, 3)


def test_spans_come_back_as_characters() -> None:
    """A span of tokens 1 to 2 is the text from the first one's start to the last one's end."""
    cut = Tokenizer("whitespace")("in  New   York now")
    (span,) = character_spans(cut.text, cut.offsets, [(1, 3, "LOC")])
    assert (span.start, span.end, span.label, span.text) == (4, 14, "LOC", "New   York")


def test_joined_and_align() -> None:
    """Tokens without a text are joined by blanks; tokens that a text does not spell have no places."""
    assert joined(["a", "bc"]).offsets == ((0, 1), (2, 4))
    assert align(["a", "c"], "a b c") is None and align(["x"], "a") is None and align([], "") == ()


def test_unknown_names_are_refused() -> None:
    """The legal names are listed."""
    with pytest.raises(DataError, match="tokenizer 'nltk' is unknown; legal are spacy, characters, whitespace"):
        Tokenizer("nltk")


@needs_spacy
def test_unknown_language_is_refused() -> None:
    """A language that spaCy lacks is one sentence, not spaCy's traceback."""
    with pytest.raises(DataError, match="no usable language 'qqq'"):
        Tokenizer(language="qqq")("text")


def test_long_text_is_linear() -> None:
    """100,000 words become 100,000 tokens, and their alignment too takes one pass."""
    text = "word " * 100_000
    cut = Tokenizer("whitespace")(text)
    assert len(cut.tokens) == 100_000 and align(cut.tokens, text) == cut.offsets


def test_data_modules_import_nothing_heavy() -> None:
    """Formats, corpora, schemes, metrics and tokenizing load neither torch nor spaCy nor pycantonese."""
    code = (
        "import sys, ebmstruct_nlp.formats, ebmstruct_nlp.corpora, ebmstruct_nlp.metrics; "
        "print([name for name in ('torch', 'spacy', 'pycantonese', 'rich') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

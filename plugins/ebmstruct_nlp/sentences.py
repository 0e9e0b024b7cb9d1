"""Tagged sentences, how they are to be read, and the account of what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ebmstruct.errors import DataError
from ebmstruct_nlp.schemes import Tag
from ebmstruct_nlp.tokenizing import Offsets, Tokenizer, Tokens, align, joined

MISALIGNED = ("unannotated", "expand", "error")


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """Tokens with one tag each.

    tags: None marks a site that nobody annotated (a partial label). text, offsets: the text as it was and
    the tokens' places in it, where the file tells. source: ``file:line`` of the first token.
    """

    tokens: tuple[str, ...]
    tags: tuple[Tag, ...]
    text: str | None = None
    offsets: Offsets | None = None
    source: str = ""

    def placed(self) -> Tokens:
        """The sentence as a text with the tokens' places: known, found in the text, or joined by blanks."""
        if self.text is not None:
            offsets = self.offsets or align(self.tokens, self.text)
            if offsets is not None:
                return Tokens(self.text, self.tokens, offsets)
        return joined(self.tokens)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How files of tagged text are read; every field has a default that fits the usual files.

    token_column, tag_column: a number counted from 1 (negative: from the end) or a name (UPOS, XPOS, FEATS in
    CoNLL-U; form, pos, chunk, ner in CoNLL-2003; those of ``# global.columns``; a key in JSONL).
    labels: entity type or whole tag to another type, to "O", or to None (its sites become unannotated); left
    out, OTH becomes O in UNER files, and a stray ``B-O`` becomes O everywhere.
    scheme: auto, or a name from `schemes`. misaligned: what happens to an entity in JSONL whose ends do not
    fall on token ends: unannotated (the tokens that it touches count as not annotated), expand (it grows
    to these tokens) or error. unannotated: the tag that means "nobody annotated this" in column files.
    tokenizer: for JSONL records that have a text and no tokens.
    """

    token_column: int | str | None = None
    tag_column: int | str | None = None
    labels: Mapping[str, str | None] | None = None
    scheme: str = "auto"
    misaligned: str = "unannotated"
    unannotated: str = "_"
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def __post_init__(self) -> None:
        if self.misaligned not in MISALIGNED:
            raise DataError(f"misaligned: {self.misaligned!r} is unknown; legal are {', '.join(MISALIGNED)}")
        for old, new in (self.labels or {}).items():
            if not isinstance(old, str) or not (new is None or (isinstance(new, str) and new)):
                raise DataError(f"labels: {old!r}: {new!r} is not a pair of names; write e.g. labels: {{OTH: O}}")


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What was found in one source of tagged text, and what was done to it.

    labels: count per entity type (spans) or per tag (plain). mapped: ``B-OTH -> O`` to its count.
    repaired: sites whose tag broke the scheme. misaligned: entities that did not fit the tokens, by what
    became of them. dropped: lines or records without tokens of their own, by reason. sha256: of the bytes as stored.
    """

    path: str
    format: str
    scheme: str
    sentences: int
    tokens: int
    labels: Mapping[str, int]
    unannotated: int = 0
    mapped: Mapping[str, int] = field(default_factory=dict)
    repaired: int = 0
    misaligned: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    def describe(self) -> str:
        """The report in one line."""
        kind = "tags" if self.scheme == "plain" else "entities"
        parts = [
            f"{self.path}: {self.format}; {self.sentences} sentences, {self.tokens} tokens, "
            f"{sum(self.labels.values())} {kind}" + _counts(self.labels)
        ]
        if self.unannotated:
            parts.append(f"{self.unannotated} tokens without annotation")
        if self.mapped:
            parts.append("mapped" + _counts(self.mapped))
        if self.repaired:
            parts.append(f"repaired, as they broke {self.scheme}, {self.repaired} tag{'s' * (self.repaired != 1)}")
        if self.misaligned:
            parts.append("entities that do not fit the tokens" + _counts(self.misaligned))
        if self.dropped:
            parts.append("skipped" + _counts(self.dropped))
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Reading:
    """The sentences of one file (or split) and the report of how they were read."""

    sentences: tuple[TaggedSentence, ...]
    report: ReadReport


def _counts(counts: Mapping[str, int]) -> str:
    """Counts in brackets, most frequent first, at most twenty."""
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f", and {len(ordered) - 20} more" if len(ordered) > 20 else ""
    return " (" + ", ".join(f"{name} {count}" for name, count in ordered[:20]) + more + ")"


def first_words(tokens: Sequence[str], limit: int = 6) -> str:
    """The beginning of a sentence, for messages."""
    return " ".join(tokens[:limit]) + (" …" if len(tokens) > limit else "")

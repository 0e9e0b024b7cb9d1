"""One JSON record a line: tokens with tags, or a text with entities by character (spaCy, Doccano, Prodigy)."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebmstruct.errors import DataError
from ebmstruct_nlp.files import Content
from ebmstruct_nlp.schemes import OUTSIDE, Tag
from ebmstruct_nlp.sentences import ReadOptions, first_words
from ebmstruct_nlp.tokenizing import Offsets, align

log = logging.getLogger(__name__)

TOKEN_KEYS = ("tokens", "words")
TAG_KEYS = ("tags", "ner_tags", "pos_tags", "upos")
ENTITY_KEYS = ("entities", "label", "labels", "spans")
LEGAL = (
    'legal are {"tokens": [...], "tags": [...]}, {"text": "...", "entities": [[start, end, "LABEL"], ...]} '
    '(Doccano: "label") and ["text", {"entities": [...]}]'
)


@dataclass(slots=True)
class Records:
    """What the records hold before the tags are looked at; misaligned: entities by what became of them."""

    tokens: list[tuple[str, ...]] = field(default_factory=list)
    tags: list[list[Tag]] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    offsets: list[Offsets | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    misaligned: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    from_entities: bool = False


def looks_like_records(text: str) -> bool:
    """Whether the first line that is not empty opens a JSON object, or an array as spaCy's examples do."""
    line = text[:1000].lstrip()
    return (line[:1] == "{" and line[1:].lstrip()[:1] in ('"', "}")) or (
        line[:1] == "[" and line[1:].lstrip()[:1] in '"{'
    )


def read_records(content: Content, options: ReadOptions) -> Records:
    """The sentences of a JSONL file; a record that cannot be used is a DataError. O(size), tokenising included."""
    records = Records()
    for number, line in enumerate(content.text.split("\n"), start=1):
        if not line or line.isspace():
            continue
        where = f"{content.path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as fault:
            hint = "write each record of the array on a line of its own" if line.strip() == "[" else LEGAL
            raise DataError(f"{where}: not a JSON record ({fault}); {hint}") from None
        if isinstance(record, list) and len(record) == 2 and isinstance(record[1], dict):
            record = {**record[1], "text": record[0]}
        if not isinstance(record, dict):
            raise DataError(f"{where}: a record is a JSON object, found {type(record).__name__}; {LEGAL}")
        _add(records, record, where, number, options)
    return records


def _add(records: Records, record: Mapping[str, Any], where: str, number: int, options: ReadOptions) -> None:
    """One record's sentence, appended to the columns of `records`."""
    text = _text(record, where)
    tokens, offsets = _tokens(record, text, where, options)
    if not tokens:
        records.dropped["records without tokens"] += 1
        return
    tag_key = _key(record, options.tag_column, TAG_KEYS, where, "tag_column")
    if tag_key is None and _is_tag_list(record.get("labels")):
        tag_key = "labels"
    if tag_key is not None:
        tags = _tags(record[tag_key], tokens, tag_key, where)
    else:
        entity_key = next((key for key in ENTITY_KEYS if key in record), None)
        if entity_key is None:
            raise DataError(f"{where}: no tags and no entities; its keys are {', '.join(record)}; {LEGAL}")
        if text is None or offsets is None:
            raise DataError(
                f"{where}: {entity_key!r} counts characters of a text, but "
                + ("there is no key 'text'" if text is None else f"its tokens do not spell it: {first_words(tokens)}")
                + f"; {LEGAL}"
            )
        entities = _entities(record[entity_key], entity_key, text, where)
        tags = _site_tags(entities, offsets, where, options.misaligned, records.misaligned)
        records.from_entities = True
    records.tokens.append(tokens)
    records.tags.append(tags)
    records.texts.append(text)
    records.offsets.append(offsets)
    records.numbers.append(number)


def _key(
    record: Mapping[str, Any], wanted: int | str | None, usual: Sequence[str], where: str, option: str
) -> str | None:
    """The key asked for, else the first usual one that is there."""
    if wanted is None:
        return next((key for key in usual if key in record), None)
    if wanted not in record:
        raise DataError(f"{where}: there is no key {wanted!r} ({option}); the record has {', '.join(record)}")
    return str(wanted)


def _text(record: Mapping[str, Any], where: str) -> str | None:
    text = record.get("text", record.get("data"))
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}: 'text' must be a string, found {type(text).__name__}; {LEGAL}")
    return text


def _tokens(
    record: Mapping[str, Any], text: str | None, where: str, options: ReadOptions
) -> tuple[tuple[str, ...], Offsets | None]:
    """Tokens and, where they are known, their places in the text."""
    key = _key(record, options.token_column, TOKEN_KEYS, where, "token_column")
    if key is None:
        if text is None:
            raise DataError(f"{where}: no tokens and no text; its keys are {', '.join(record) or 'none'}; {LEGAL}")
        cut = options.tokenizer(text)
        return cut.tokens, cut.offsets
    listed = record[key]
    if isinstance(listed, list) and all(isinstance(token, dict) and "text" in token for token in listed):
        listed = [token["text"] for token in listed]  # Prodigy's tokens are objects; their places follow from the text
    if not isinstance(listed, list) or not all(isinstance(token, str) and token for token in listed):
        raise DataError(f"{where}: {key!r} must be a list of strings that are not empty; found {str(listed)[:60]}")
    tokens = tuple(listed)
    return tokens, None if text is None else _given_offsets(record, tokens, text, where) or align(tokens, text)


def _given_offsets(record: Mapping[str, Any], tokens: Sequence[str], text: str, where: str) -> Offsets | None:
    """Offsets that the record itself gives, checked against the text."""
    given = record.get("offsets")
    if given is None:
        return None
    pairs = given if isinstance(given, list) else []
    ok = len(pairs) == len(tokens) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(value) is int for value in pair) for pair in pairs
    )
    if not ok or any(text[start:end] != token for (start, end), token in zip(pairs, tokens, strict=True)):
        raise DataError(f"{where}: 'offsets' must give [start, end] in the text for each of the {len(tokens)} tokens")
    return tuple((start, end) for start, end in pairs)


def _is_tag_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(tag is None or isinstance(tag, str) for tag in value)


def _tags(value: Any, tokens: Sequence[str], key: str, where: str) -> list[Tag]:
    """One tag for each token; null means not annotated."""
    if not isinstance(value, list) or not all(tag is None or (isinstance(tag, str) and tag) for tag in value):
        number = isinstance(value, list) and any(isinstance(tag, int) for tag in value)
        found = "numbers; write the names of the tags instead" if number else f"{str(value)[:60]}"
        raise DataError(f"{where}: {key!r} must be a list of tag names or null; found {found}")
    if len(value) != len(tokens):
        raise DataError(f"{where}: {len(tokens)} tokens but {len(value)} in {key!r}; each token needs one, or null")
    return value


def _entities(value: Any, key: str, text: str, where: str) -> list[tuple[int, int, str]]:
    """(start, end, label) of each entity, in order of start, the longer first."""
    if not isinstance(value, list):
        raise DataError(f"{where}: {key!r} must be a list of entities, found {type(value).__name__}; {LEGAL}")
    out = []
    for item in value:
        if isinstance(item, dict):
            start, end = (item.get(name, item.get(f"{name}_offset")) for name in ("start", "end"))
            parts = (start, end, item.get("label"))
        else:
            parts = tuple(item[:3]) if isinstance(item, list) and len(item) >= 3 else (None, None, None)
        start, end, label = parts
        if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
            raise DataError(f'{where}: entity {json.dumps(item)[:60]} is not [start, end, "LABEL"]; {LEGAL}')
        if not 0 <= start < end <= len(text):
            raise DataError(
                f"{where}: entity [{start}, {end}, {label!r}] leaves its text of {len(text)} characters or is empty; "
                "legal is 0 <= start < end <= length"
            )
        out.append((start, end, label))
    return sorted(set(out), key=lambda entity: (entity[0], -entity[1], entity[2]))


def _site_tags(
    entities: Sequence[tuple[int, int, str]], offsets: Offsets, where: str, policy: str, misaligned: Counter[str]
) -> list[Tag]:
    """BIO tags of tokens from entities over characters; O(tokens + entities log tokens).

    An entity whose ends are not token ends, or that overlaps one before it, is treated by the policy and counted.
    """
    starts = [start for start, _ in offsets]
    ends = [end for _, end in offsets]
    tags: list[Tag] = [OUTSIDE] * len(offsets)
    taken = 0
    for start, end, label in entities:
        first = bisect_right(ends, start)
        stop = bisect_left(starts, end)
        exact = first < stop and starts[first] == start and ends[stop - 1] == end
        if exact and first >= taken:
            tags[first:stop] = [f"B-{label}", *[f"I-{label}"] * (stop - first - 1)]
            taken = stop
            continue
        fault = "overlaps another" if first < taken else "touches no token" if first >= stop else "ends inside a token"
        if policy == "error":
            raise DataError(
                f"{where}: entity [{start}, {end}, {label!r}] {fault}; correct it, or set misaligned to "
                "unannotated or expand"
            )
        if policy == "expand" and taken <= first < stop:
            tags[first:stop] = [f"B-{label}", *[f"I-{label}"] * (stop - first - 1)]
            done, taken = "expanded to whole tokens", stop
        elif first >= taken and first < stop:
            tags[first:stop] = [None] * (stop - first)
            done, taken = "left unannotated", stop
        else:
            done = "left out"
            if first < taken < stop:  # what hangs over the entity before it is neither O nor known
                tags[taken:stop] = [None] * (stop - taken)
                taken = stop
        misaligned[f"{fault}: {done}"] += 1
        log.warning("%s: entity [%d, %d, %r] %s; %s", where, start, end, label, fault, done)
    return tags


def render_records(sentences: Sequence[tuple[Sequence[str], Sequence[Tag], str | None, Offsets | None]]) -> str:
    """(tokens, tags, text, offsets) of each sentence as JSONL; what is not known is left out."""
    lines = []
    for tokens, tags, text, offsets in sentences:
        record: dict[str, Any] = {} if text is None else {"text": text}
        record |= {"tokens": list(tokens), "tags": list(tags)}
        if text is not None and offsets is not None:
            record["offsets"] = [list(pair) for pair in offsets]
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)


def record_sources(path: str, records: Records) -> list[str]:
    """``file:line`` of each record."""
    return [f"{Path(path).name}:{number}" for number in records.numbers]

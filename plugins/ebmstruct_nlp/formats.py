"""Files of tagged text to sentences and back; the format is known by content, never by name.

`read` gives a `Reading` (sentences and report), `write` the file of some predictions. Formats: CoNLL columns,
CoNLL-U, UNER IOB2 and JSONL, each plain or gzip.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ebmstruct.errors import DataError
from ebmstruct_nlp.columns import ColumnLayout, default_labels, read_rows, render_columns, sniff_columns, sources
from ebmstruct_nlp.files import Content, read_text, write_text
from ebmstruct_nlp.records import looks_like_records, read_records, record_sources, render_records
from ebmstruct_nlp.schemes import BIO, PLAIN, Tag, convert, scheme_named
from ebmstruct_nlp.sentences import Reading, ReadOptions, ReadReport, TaggedSentence
from ebmstruct_nlp.tagging import STRAY_OUTSIDE, Tagged, settle
from ebmstruct_nlp.tokenizing import Offsets

__all__ = ["Format", "ReadOptions", "ReadReport", "Reading", "TaggedSentence", "read", "sniff", "write"]

log = logging.getLogger(__name__)
KINDS = ("conll", "conllu", "iob2", "jsonl")


@dataclass(frozen=True, slots=True)
class Format:
    """How one file is written: kind is conll, conllu, iob2 or jsonl; layout is None for jsonl."""

    kind: str
    gzipped: bool
    layout: ColumnLayout | None = None

    def describe(self) -> str:
        """The format in one clause, for the log and the report."""
        return (self.layout.describe() if self.layout else "JSON records, one a line") + ", gzip" * self.gzipped


def sniff(path: str | os.PathLike[str], options: ReadOptions | None = None) -> Format:
    """The format of a file by its content; a DataError when it is none of the known ones."""
    return _format(read_text(path), options or ReadOptions())


def read(path: str | os.PathLike[str], options: ReadOptions | None = None) -> Reading:
    """All sentences of a file. Entities come out in BIO whatever the file's scheme; plain tags as they are.

    Every fault of the file is a DataError of one sentence with file, line, what was found and what is legal.
    What was mapped, repaired, misaligned or skipped is counted in the report and logged. O(size).
    """
    options = options or ReadOptions()
    content = read_text(path)
    found = _format(content, options)
    dropped: Mapping[str, int]
    misaligned: Mapping[str, int] = {}
    if found.layout is None:
        records = read_records(content, options)
        tokens, raw, texts, dropped = records.tokens, records.tags, records.texts, records.dropped
        offsets: list[Offsets | None] = records.offsets
        named, misaligned = record_sources(content.path, records), records.misaligned
        from_entities = records.from_entities
    else:
        rows = read_rows(content, found.layout)
        tokens, raw, texts, dropped = rows.tokens, rows.tags, rows.texts, rows.dropped
        offsets = [None] * len(tokens)
        named, from_entities = sources(content.path, rows), False
    if not tokens:
        raise DataError(f"{content.path}: no sentence with a token was found ({found.describe()}); check the file")

    def place(sentence: int, site: int) -> str:
        if found.layout is None:
            return f"{content.path}:{records.numbers[sentence]}"
        return f"{content.path}:{rows.numbers[sum(len(tags) for tags in raw[:sentence]) + site]}"

    tagged = settle(
        raw,
        scheme="bio" if from_entities else _scheme(found, options),
        labels=default_labels(found.kind, STRAY_OUTSIDE) if options.labels is None else options.labels,
        unannotated=_unannotated(found, options),
        place=place,
    )
    report = _report(content, found, tagged, sum(map(len, tokens)), dropped, misaligned)
    log.info("%s", report.describe())
    return Reading(tuple(map(TaggedSentence, tokens, tagged.tags, texts, offsets, named)), report)


def write(
    path: str | os.PathLike[str],
    sentences: Iterable[TaggedSentence],
    *,
    kind: str = "jsonl",
    scheme: str = "bio",
    separator: str = "\t",
    tag_column: str = "UPOS",
) -> Path:
    """Write sentences whose tags are BIO (or plain, with scheme plain), atomically; ``.gz`` compresses.

    kind: conll, conllu, iob2 or jsonl. scheme: that of the tags in the file. separator: of conll columns, a tab
    or a blank. tag_column: of CoNLL-U. A tag of None becomes ``_`` in columns and null in JSONL.
    """
    if kind not in KINDS:
        raise DataError(f"format {kind!r} is unknown; legal are {', '.join(KINDS)}")
    if separator not in ("\t", " "):
        raise DataError(f"separator {separator!r} is not legal; columns are separated by a tab or a blank")
    target = scheme_named(scheme)
    listed = list(sentences)
    spelt: list[tuple[Tag, ...]] = [
        sentence.tags if target in (BIO, PLAIN) else convert(sentence.tags, BIO, target) for sentence in listed
    ]
    if kind == "jsonl":
        text = render_records([(s.tokens, tags, s.text, s.offsets) for s, tags in zip(listed, spelt, strict=True)])
    else:
        cells = separator if kind == "conll" else "\t"
        text = render_columns(
            kind,
            [(s.tokens, tags, s.text) for s, tags in zip(listed, spelt, strict=True)],
            separator=cells,
            tag_column=tag_column,
        )
    return write_text(path, text)


def _format(content: Content, options: ReadOptions) -> Format:
    if looks_like_records(content.text):
        return Format("jsonl", content.gzipped)
    layout = sniff_columns(content, options.token_column, options.tag_column)
    return Format(layout.kind, content.gzipped, layout)


def _scheme(found: Format, options: ReadOptions) -> str:
    """CoNLL-U's own columns hold one label a word; anywhere else the tags themselves show their scheme."""
    layout = found.layout
    name = layout.names[layout.tag] if layout is not None and layout.tag < len(layout.names) else ""
    own = name in ("UPOS", "XPOS", "FEATS")
    return "plain" if own and options.scheme == "auto" else options.scheme


def _unannotated(found: Format, options: ReadOptions) -> str | None:
    """The tag that means "not annotated"; in FEATS the sign ``_`` means "no features", which is an answer."""
    layout = found.layout
    if layout is None or (layout.tag < len(layout.names) and layout.names[layout.tag] == "FEATS"):
        return None
    return options.unannotated


def _report(
    content: Content,
    found: Format,
    tagged: Tagged,
    tokens: int,
    dropped: Mapping[str, int],
    misaligned: Mapping[str, int],
) -> ReadReport:
    return ReadReport(
        path=content.path,
        format=found.describe(),
        scheme=tagged.scheme.name,
        sentences=len(tagged.tags),
        tokens=tokens,
        labels=tagged.labels,
        unannotated=tagged.unannotated,
        mapped=tagged.mapped,
        repaired=tagged.repaired,
        misaligned=dict(misaligned),
        dropped=dict(dropped),
        sha256=content.sha256,
    )

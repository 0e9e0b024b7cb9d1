"""From a CSV file to a table, in pieces, so that a million rows take the memory of their numbers only."""

from __future__ import annotations

import contextlib
import difflib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ebmstruct.errors import DataError
from ebmstruct_generative.tables.columns import KINDS, ColumnBuilder
from ebmstruct_generative.tables.dialect import checked_names, records, sniffed
from ebmstruct_generative.tables.table import Table
from ebmstruct_generative.tables.text import lines, sample
from ebmstruct_generative.tables.values import MISSING

PIECE = 8192
"""Records that are laid out by columns at a time."""
TOLD = 5
"""Ragged rows that a message names."""


@dataclass(frozen=True)
class ReadOptions:
    """How a file is to be read.

    columns: names of all its columns; None takes the first line's.  header: whether the first line has names; None looks.
    delimiter: None looks.  quote: "" where quotes are plain text.  missing: cells that mean a missing value.
    types: column to its kind.  drop: columns to leave out.
    """

    columns: Sequence[str] | None = None
    header: bool | None = None
    delimiter: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"
    missing: Sequence[str] = MISSING
    types: Mapping[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()

    def faults(self) -> Iterator[str]:
        """What is wrong with these options in themselves, a sentence each."""
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            yield f"delimiter must be one character, not {self.delimiter!r}"
        if len(self.quote) > 1:
            yield f"quote must be one character or empty, not {self.quote!r}"
        for column, kind in self.types.items():
            first, _, form = kind.partition(" ")
            if first not in KINDS or (form and first != "date"):
                near = difflib.get_close_matches(kind, KINDS, 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                yield f"types: {column}: {kind!r} is no kind; legal are {', '.join(KINDS)} and 'date FORMAT'{hint}"


def read_table(path: Path, options: ReadOptions) -> Table:
    """The table in a CSV file. Errors: DataError, in one sentence, for whatever is wrong with it."""
    text = sample(path, options.encoding)
    delimiter = options.delimiter or sniffed(text)
    stream = records(lines(path, options.encoding), delimiter, path, options.quote)
    return _gathered(stream, options, path, delimiter, text)


def read_text(text: str, options: ReadOptions, name: str = "input") -> Iterator[dict[str, str]]:
    """The records of a piece of CSV text with a line of names, which may be missing where options name the columns."""
    delimiter = options.delimiter or sniffed(text)
    stream = records(io.StringIO(text, newline=""), delimiter, name, options.quote)
    names: tuple[str, ...] | None = None if options.columns is None else tuple(options.columns)
    for line, cells in stream:
        if names is None:
            names = checked_names(cells, name)
        elif tuple(cells) != names:
            if len(cells) != len(names):
                legal = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
                raise DataError(
                    f"{name}:{line}: has {len(cells)} cells for {len(names)} columns ({legal}); give one for each, empty "
                    "where it is unknown, or name the columns that are given in a first line"
                )
            yield dict(zip(names, cells, strict=True))


def _gathered(
    stream: Iterator[tuple[int, list[str]]], options: ReadOptions, path: Path, delimiter: str, text: str
) -> Table:
    names, first = _names(stream, options, path, delimiter, text)
    wanted = _wanted(names, options, path)
    comma = delimiter != ","
    missing = frozenset(options.missing)
    builders = {i: ColumnBuilder(n, missing, options.types.get(n, ""), comma) for i, n in wanted.items()}
    ragged: list[tuple[int, int]] = []
    odd = rows = 0
    pending = iter(first)
    while piece := list(islice(pending, PIECE)) or list(islice(stream, PIECE)):
        fitting = [cells for _, cells in piece if len(cells) == len(names)]
        if len(fitting) < len(piece):
            wrong = [(line, len(cells)) for line, cells in piece if len(cells) != len(names)]
            odd += len(wrong)
            ragged += wrong[: TOLD - len(ragged)]
        rows += len(piece)
        if fitting and not odd:
            turned = list(zip(*fitting, strict=True))
            for i, builder in builders.items():
                builder.feed(turned[i])
    if odd:
        raise _ragged(path, names, ragged, odd, rows)
    if not rows:
        raise DataError(f"{path}: has column names and no row; a table needs rows")
    return Table(tuple(b.done() for b in builders.values()), delimiter, name=path.name)


def _ragged(path: Path, names: Sequence[str], some: Sequence[tuple[int, int]], odd: int, rows: int) -> DataError:
    told = ", ".join(f"line {line} has {count}" for line, count in some) + (", ..." if odd > len(some) else "")
    return DataError(
        f"{path}: {odd:,} of {rows:,} rows do not have {len(names)} cells, one for each column: {told}; mend them, or name "
        "another delimiter"
    )


def _names(
    stream: Iterator[tuple[int, list[str]]], options: ReadOptions, path: Path, delimiter: str, text: str
) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """The columns' names, and records that were read meanwhile and are rows."""
    begin = list(islice(stream, 1))
    if not begin:
        raise DataError(f"{path}: the file is empty; a table needs a line of column names and at least two rows")
    cells = begin[0][1]
    if options.columns is not None:
        names = checked_names([c.strip() for c in options.columns], "columns")
        if options.header or (options.header is None and tuple(cells) == names):
            begin = []
        if len(names) != len(cells):
            raise DataError(f"{path}: its first line has {len(cells)} cells, and columns: names {len(names)}")
        return names, begin
    if options.header is False:
        return tuple(f"column_{i}" for i in range(1, len(cells) + 1)), begin
    if options.header is None and _looks_like_a_row(text, delimiter, path, options):
        raise DataError(
            f"{path}: its first line, {delimiter.join(cells)[:60]!r}, looks like a row and not like column names; name the "
            "columns by columns: [...], number them by header: false, or say header: true"
        )
    return checked_names(cells, path), []


def _looks_like_a_row(text: str, delimiter: str, path: Path, options: ReadOptions) -> bool:
    """Whether the first record has a number where the records after it have numbers too."""
    some: list[list[str]] = []
    with contextlib.suppress(DataError):  # a fault further on is told when it is come to
        some += (
            cells for _, cells in islice(records(io.StringIO(text, newline=""), delimiter, path, options.quote), 20)
        )
    if len(some) < 2 or any(len(cells) != len(some[0]) for cells in some):
        return False
    return any(all(_is_number(cells[i]) for cells in some) for i in range(len(some[0])))


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _wanted(names: Sequence[str], options: ReadOptions, path: Path) -> dict[int, str]:
    """Place to name of the columns that are kept; DataError where an option names a column that is not there."""
    for option, given in (("drop", options.drop), ("types", options.types)):
        for column in given:
            if column not in names:
                raise DataError(f"{option}: {path} has no column {column!r}{near_miss(column, names)}")
    kept = {i: n for i, n in enumerate(names) if n not in set(options.drop)}
    if not kept:
        raise DataError(f"{path}: drop leaves no column")
    return kept


def near_miss(name: str, names: Sequence[str]) -> str:
    """The names that there are, for a message about one that is not, with the nearest."""
    near = difflib.get_close_matches(name, names, 1)
    legal = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; it has {legal}" + (f" (did you mean {near[0]}?)" if near else "")

"""How a CSV file is written: its delimiter, whether it has a line of names, and its records with their lines."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebmstruct.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
SNIFFED = 200
"""Records of the beginning by which delimiters are compared."""
CELL_LIMIT = 131072
"""Characters of the longest cell; more means a quote that is never closed."""


@dataclass(frozen=True)
class Dialect:
    """delimiter: one character.  header: whether the first record is the columns' names."""

    delimiter: str
    header: bool


def sniffed(text: str) -> str:
    """The delimiter under which most records of a beginning have one and the same number of cells, more than one.

    A comma where no delimiter makes more than one column.
    """
    best, found = (0.0, 0), ","
    for delimiter in DELIMITERS:
        widths = _widths(text, delimiter)
        if not widths:
            continue
        width, count = Counter(widths).most_common(1)[0]
        score = (round(count / len(widths), 2), width)
        if width > 1 and score > best:
            best, found = score, delimiter
    return found


def _widths(text: str, delimiter: str) -> list[int]:
    out: list[int] = []
    try:
        for cells in csv.reader(io.StringIO(text), delimiter=delimiter):
            if cells:
                out.append(len(cells))
            if len(out) == SNIFFED:
                break
    except csv.Error:
        pass
    return out


def records(
    lines: Iterable[str], delimiter: str, name: str | Path, quote: str = '"'
) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank with the line on which it begins; cells are stripped of blanks around them.

    Errors: DataError, with the line, for a quote that is never closed or is followed by more text.
    """
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        quotechar=quote or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        strict=True,
        skipinitialspace=True,
    )
    begin = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:
            raise DataError(f"{name}:{begin}: {_said(fault, begin)}") from None
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield begin, [cell.strip() for cell in cells]
        begin = reader.line_num + 1


def _said(fault: csv.Error, line: int) -> str:
    text = str(fault)
    if "unexpected end" in text or "field larger" in text:
        return f"a quote that is opened on line {line} is never closed; close it, or say quote: '' if quotes are plain text"
    if "expected after" in text:
        return (
            "text follows a closing quote; double the quotes within a cell, or say quote: '' if quotes are plain text"
        )
    return f"is not CSV ({text})"


def checked_names(names: Sequence[str], name: str | Path) -> tuple[str, ...]:
    """Column names; DataError where one is empty or given twice."""
    empty = [i for i, column in enumerate(names, 1) if not column]
    if empty:
        raise DataError(
            f"{name}: column {empty[0]} of {len(names)} has no name; name it in the file, or name all by columns: [...]"
        )
    twice = [column for column, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{name}: the column name {twice[0]!r} is given twice; name the columns apart by columns: [...]"
        )
    return tuple(names)

"""Rows as a CSV file like the one they were learned from, a piece at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ebmstruct.storage import atomic
from ebmstruct_generative.endings import check_ending
from ebmstruct_generative.tables.columns import CATEGORICAL, Column
from ebmstruct_generative.tables.schema import TableSchema
from ebmstruct_generative.tables.table import gathered
from ebmstruct_generative.tables.values import texts_of

PIECE = 4096
"""Rows that are turned into text at a time."""


def write_rows(rows: Iterable[Any], path: Path, schema: TableSchema) -> None:
    """Write rows with the columns, delimiter and formats of the training data; the file is there whole or not at all."""
    check_ending(path, (".csv", ".tsv", ".txt"), "any other name, for rows as the training data has them")
    with atomic(path) as file:
        file.write(_line([schema.names], schema.delimiter).encode())
        for text in texts(rows, schema):
            file.write(text.encode("utf-8", errors="replace"))


def texts(rows: Iterable[Any], schema: TableSchema) -> Iterator[str]:
    """The lines of rows, a piece at a time."""
    stream = iter(rows)
    while some := list(islice(stream, PIECE)):
        for table, places in gathered(some):
            part = table.take(places)
            cells = [cells_of(part.by_name[name]) for name in schema.names]
            yield _line(zip(*cells, strict=True), schema.delimiter)


def line_of(row: Any, schema: TableSchema) -> str:
    """One row as a line without its end."""
    return next(texts([row], schema)).rstrip("\n")


def cells_of(column: Column) -> list[str]:
    """The cells of a column as they are written."""
    if column.kind == CATEGORICAL:
        names = [*column.texts, column.form.missing]
        return [names[code] for code in column.values.tolist()]
    return texts_of(column.values, column.form)


def _line(rows: Iterable[Any], delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue()

"""A table in memory by columns, and its rows as examples that are made when they are looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np

from ebmstruct import Example
from ebmstruct_generative.tables.columns import CATEGORICAL, DATE, INTEGER, Array, Column


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length.

    delimiter: of the file it came from.  open: whether what is missing is unknown, as in a row to be completed, and not
    known to be missing.  name: for messages.
    """

    columns: tuple[Column, ...]
    delimiter: str = ","
    open: bool = False
    name: str = "table"

    def __len__(self) -> int:
        return len(self.columns[0].values) if self.columns else 0

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns' names in order."""
        return tuple(c.name for c in self.columns)

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Name to column."""
        return {c.name: c for c in self.columns}

    def take(self, rows: Any) -> Table:
        """Some of the rows, in the order given."""
        return Table(tuple(c.take(rows) for c in self.columns), self.delimiter, self.open, self.name)


class Row(Mapping[str, Any]):
    """One row of a table, looked at: column name to text, number or None where the cell is missing."""

    __slots__ = ("index", "table")

    def __init__(self, table: Table, index: int) -> None:
        self.table, self.index = table, index

    def __getitem__(self, name: str) -> Any:
        column = self.table.by_name[name]
        value = column.values[self.index]
        if column.kind == CATEGORICAL:
            return None if value < 0 else column.texts[value]
        if math.isnan(value):
            return None
        if column.kind == DATE:
            return column.form.text(float(value))
        if column.kind == INTEGER and math.isfinite(value):
            return int(value)
        digits = column.form.decimals
        return float(value) if digits is None else round(float(value), digits)

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.names)

    def __len__(self) -> int:
        return len(self.table.columns)

    def __repr__(self) -> str:
        return f"Row({dict(self)})"


class Rows(Sequence[Example]):
    """The rows of a table as examples: each is made when it is asked for, so that a million cost nothing.

    table: all rows.  positions: (n,) long, those that count; None for all.
    """

    def __init__(self, table: Table, positions: Array | None = None) -> None:
        self.table = table
        self.positions = np.arange(len(table), dtype=np.int64) if positions is None else positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Example | Rows:
        if isinstance(index, slice):
            return Rows(self.table, self.positions[index])
        place = int(self.positions[index])
        return Example({}, Row(self.table, place), f"{self.table.name} row {place + 1}")

    def part(self) -> Table:
        """These rows as a table of their own."""
        return self.table.take(self.positions)


def gathered(rows: Sequence[Any]) -> list[tuple[Table, Array]]:
    """Rows as runs: each table that successive rows are of, with their places in it."""
    out: list[tuple[Table, Array]] = []
    begin = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end].table is not rows[begin].table:
            table = rows[begin].table
            out.append((table, np.fromiter((r.index for r in rows[begin:end]), np.int64, end - begin)))
            begin = end
    return out


def joined(rows: Sequence[Any]) -> Table:
    """One table of rows, whose tables must have the same columns and categories."""
    runs = gathered(rows)
    parts = [table.take(places) for table, places in runs]
    if len(parts) == 1:
        return parts[0]
    columns = tuple(
        Column(c.name, c.kind, np.concatenate([p.columns[i].values for p in parts]), c.texts, c.form)
        for i, c in enumerate(parts[0].columns)
    )
    return Table(columns, parts[0].delimiter, parts[0].open, parts[0].name)

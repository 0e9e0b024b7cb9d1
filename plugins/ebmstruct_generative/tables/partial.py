"""Rows given by hand: some cells of them, as texts or values, checked against the schema."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Generator

from ebmstruct.errors import DataError
from ebmstruct_generative.tables.columns import CATEGORICAL, INTEGER, Column
from ebmstruct_generative.tables.reading import near_miss
from ebmstruct_generative.tables.schema import ColumnSchema, TableSchema
from ebmstruct_generative.tables.table import Row, Table
from ebmstruct_generative.tables.values import iso_number


def parsed(texts: Sequence[str], schema: TableSchema) -> dict[str, Any]:
    """Column to value, from texts COLUMN=VALUE; DataError where a column or a value is none, or given twice."""
    out: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, value = name.strip(), value.strip()
        if not equals:
            raise DataError(f"--given {text!r}: write COLUMN=VALUE")
        if name in out:
            raise DataError(f"--given: column {name!r} is given twice")
        column = column_of(name, schema)
        cell_of(value, column)
        out[name] = value
    return out


def column_of(name: str, schema: TableSchema) -> ColumnSchema:
    """The column of a name; DataError, with the nearest, where there is none."""
    if name not in schema.names:
        raise DataError(f"there is no column {name!r}{near_miss(name, schema.names)}")
    return schema.column(name)


def cell_of(value: Any, column: ColumnSchema) -> int | float:
    """The number of a category, or the number of a cell; DataError where it is none that the training data could have."""
    if column.kind == CATEGORICAL:
        text = str(value)
        if text not in column.texts:
            raise DataError(f"column {column.name!r} has no category {text!r}{near_miss(text, column.texts)}")
        return column.place[text]
    try:
        number = float(value) if isinstance(value, (int, float)) else _number(str(value), column)
    except ValueError:
        what = f"a date like {column.form.text(column.low)}" if column.form.date else "a number"
        raise DataError(f"column {column.name!r}: {value!r} is not {what}") from None
    if column.kind == INTEGER and math.isfinite(number) and number != round(number):
        raise DataError(f"column {column.name!r} has whole numbers; found {value!r}")
    if number not in column.spikes and not column.low <= number <= column.high:
        low, high = (column.form.text(v) for v in (column.low, column.high))
        raise DataError(f"column {column.name!r} goes from {low} to {high} in the training data; found {value!r}")
    return number


def _number(text: str, column: ColumnSchema) -> float:
    return iso_number(text, column.form) if column.form.date else column.form.number(text)


def table_of_cells(x: Mapping[str, Any], schema: TableSchema) -> Table:
    """A table of one row of which only the cells of x are known; open (see ``Table``)."""
    for name in x:
        column_of(name, schema)
    columns = []
    for own in schema.parts_of:
        value = x.get(own.name)
        dtype: Any = np.int32 if own.kind == CATEGORICAL else np.float64
        missing = -1 if own.kind == CATEGORICAL else math.nan
        cell = missing if value is None else cell_of(value, own)
        columns.append(Column(own.name, own.kind, np.array([cell], dtype=dtype), own.texts, own.form))
    return Table(tuple(columns), schema.delimiter, open=True, name="given")


def restored(table: Table, xs: Sequence[Mapping[str, Any]], schema: TableSchema) -> Table:
    """The same table, whose i-th row has exactly the numbers that xs[i] gives: a model knows them to some precision only.

    Cost: one pass over the cells that are given; nothing where no number is.
    """
    columns = list(table.columns)
    for place, column in enumerate(columns):
        own = schema.column(column.name)
        rows = [i for i, x in enumerate(xs) if x.get(column.name) is not None]
        if own.kind == CATEGORICAL or not rows:
            continue
        texts = [xs[i][column.name] for i in rows]
        cells = {value: cell_of(value, own) for value in set(texts)}
        values = column.values.copy()
        values[rows] = [cells[value] for value in texts]
        columns[place] = replace(column, values=values)
    return replace(table, columns=tuple(columns))


def kept(x: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a completed row, those that x gives to the last digit."""
    cells = dict(row)
    if not isinstance(row, Row):
        return cells
    for name, value in x.items():
        column = row.table.by_name[name]
        if column.kind != CATEGORICAL and isinstance(value, str):
            number = iso_number(value, column.form) if column.form.date else column.form.number(value)
            given = Column(name, column.kind, np.array([number]), (), column.form)
            cells[name] = Row(Table((given,)), 0)[name]
    return cells


def class_draws(schema: TableSchema, count: int, generator: Generator) -> list[str]:
    """``count`` classes by their shares in the training data."""
    column = schema.column(schema.class_part)
    shares = torch.tensor([column.counts[column.place[c]] for c in schema.classes], dtype=torch.float64)
    return [schema.classes[i] for i in torch.multinomial(shares, count, replacement=True, generator=generator).tolist()]


def holds(record: Mapping[str, Any], x: Mapping[str, Any], schema: TableSchema) -> bool:
    """Whether a record has the cells that x gives."""
    for name, value in x.items():
        own, column = record.get(name), schema.column(name)
        if own is None or cell_of(own, column) != cell_of(value, column):
            return False
    return True

"""Which rows are for training, for choosing and for testing: by names, by files, or drawn."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct.storage import file_sha256
from ebmstruct_generative.tables.columns import CATEGORICAL, Array, Column
from ebmstruct_generative.tables.made import MADE, SHIPPED, table_of_name
from ebmstruct_generative.tables.reading import ReadOptions, near_miss, read_table
from ebmstruct_generative.tables.table import Rows, Table

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
LEAST_ROWS = 2
"""Training rows that there must be."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """splits: name to rows.  files: path to the hash of what was read."""

    splits: Mapping[str, Rows]
    files: Mapping[str, str] = field(default_factory=dict)


def read_corpus(
    data: str | Mapping[str, str], options: ReadOptions, *, dev_fraction: float, test_fraction: float, seed: int
) -> Corpus:
    """All rows. A single table is split by chance; of files by name only dev is drawn, from train, where it has no file."""
    if isinstance(data, str):
        named = data in (MADE, *SHIPPED) and not Path(data).exists()
        if not named and not Path(data).exists() and "/" not in data and "." not in data:
            raise DataError(
                f"data: there is no file {data!r}{near_miss(data, (MADE, *SHIPPED))}, or the path of a CSV file"
            )
        table = _chosen(table_of_name(data), options) if named else read_table(Path(data), options)
        files = {} if named else {data: file_sha256(Path(data))}
        return Corpus(_drawn(table, dev_fraction, test_fraction, seed), files)
    wrong = [split for split in data if split not in SPLITS]
    if wrong or "train" not in data:
        raise DataError(f"data: files are named by {', '.join(SPLITS)}, train among them; found {', '.join(data)}")
    splits: dict[str, Rows] = {}
    tables = {split: read_table(Path(path), options) for split, path in data.items()}
    for split, table in tables.items():
        splits[split] = Rows(alike(table, tables["train"], split))
    if "dev" not in splits and dev_fraction:
        splits |= _drawn(tables["train"], dev_fraction, 0.0, seed)
    order = {split: splits[split] for split in SPLITS if split in splits}
    return Corpus(order, {path: file_sha256(Path(path)) for path in data.values()})


def _drawn(table: Table, dev: float, test: float, seed: int) -> dict[str, Rows]:
    count = len(table)
    if count < LEAST_ROWS:
        raise DataError(f"{table.name}: has {count} row; a distribution is learned from at least {LEAST_ROWS}")
    order = np.random.default_rng(seed).permutation(count)
    parts = {"dev": int(count * dev), "test": int(count * test)}
    out, begin = {}, 0
    for split, size in parts.items():
        if size:
            out[split] = Rows(table, np.sort(order[begin : begin + size]))
        begin += size
    if count - begin < LEAST_ROWS:
        raise DataError(f"{table.name}: of {count} rows {count - begin} are left to train on; lower the fractions")
    train = {"train": Rows(table, np.sort(order[begin:]))}
    log.info(
        "%s: %d rows, of which %s", table.name, count, ", ".join(f"{len(r)} {s}" for s, r in (train | out).items())
    )
    return train | out


def alike(table: Table, first: Table, name: str) -> Table:
    """A table with the columns of another, in its order; DataError where one is not there or is of another kind."""
    lacking = [n for n in first.names if n not in table.by_name]
    if lacking:
        raise DataError(f"{name}: there is no column {lacking[0]!r}{near_miss(lacking[0], table.names)}")
    columns = []
    for own in first.columns:
        column = table.by_name[own.name]
        if column.kind == own.kind or {column.kind, own.kind} == {"integer", "real"}:
            columns.append(replace(column, kind=own.kind, form=own.form))
        elif bool(column.missing.all()):
            columns.append(_nothing(column, own))
        elif own.kind == CATEGORICAL:
            columns.append(as_categories(column))
        else:
            raise DataError(f"{name}: column {own.name!r} is {column.kind}, and in the training data it is {own.kind}")
    return Table(tuple(columns), table.delimiter, table.open, table.name)


def _nothing(column: Column, own: Column) -> Column:
    """A column of missing cells, of another's kind."""
    count = len(column.values)
    values: Array = np.full(count, -1, np.int32) if own.kind == CATEGORICAL else np.full(count, np.nan)
    return replace(own, values=values, texts=own.texts)


def as_categories(column: Column) -> Column:
    """A column of numbers as categories: the texts of its cells."""
    found, codes = np.unique(column.values, return_inverse=True)
    texts = tuple("" if np.isnan(v) else column.form.text(float(v)) for v in found)
    codes = np.where(np.isnan(column.values), -1, codes).astype(np.int32)
    return Column(column.name, CATEGORICAL, codes, texts, column.form)


def _chosen(table: Table, options: ReadOptions) -> Table:
    """A table that is not from a file, with the options that concern its columns."""
    for option, given in (("drop", options.drop), ("types", options.types)):
        for name in given:
            if name not in table.names:
                raise DataError(f"{option}: {table.name} has no column {name!r}{near_miss(name, table.names)}")
    columns = []
    for column in table.columns:
        if column.name in options.drop:
            continue
        kind = options.types.get(column.name, column.kind).partition(" ")[0]
        if kind == CATEGORICAL and column.kind != CATEGORICAL:
            column = as_categories(column)
        elif kind != column.kind and {kind, column.kind} != {"integer", "real"}:
            raise DataError(f"types: column {column.name!r} of {table.name} is {column.kind} and cannot be {kind}")
        columns.append(replace(column, kind=kind))
    if not columns:
        raise DataError(f"{table.name}: drop leaves no column")
    return Table(tuple(columns), table.delimiter, name=table.name)

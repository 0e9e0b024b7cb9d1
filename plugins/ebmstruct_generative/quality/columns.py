"""Tables as columns of numbers or of categories' codes: what the measures of tables take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ebmstruct.errors import DataError

NUMBER = "number"
"""The kind of a column of float64 numbers, of which NaN is a missing one."""
CATEGORY = "category"
"""The kind of a column of int64 codes into its categories, of which -1 is a missing one."""
MAX_STATES = 64
"""The most categories of a column that get a coordinate of their own in ``vectors``; rarer ones share one."""


@dataclass(frozen=True)
class Columns:
    """A table of n rows, column by column.

    names: of the columns, all different.
    kinds: NUMBER or CATEGORY, one a column.
    arrays: (n,) float64 with NaN where a number is missing, or (n,) int64 with -1 where a category is.
    categories: column name to the names of its categories, in the order of their codes; of CATEGORY columns alone.
    Errors: DataError where these do not fit together.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.kinds) == len(self.arrays) == len(set(self.names)):
            raise DataError(
                f"a table has one kind and one array for each name, and no name twice; found {len(self.names)} names "
                f"({len(set(self.names))} different), {len(self.kinds)} kinds and {len(self.arrays)} arrays"
            )
        for name, kind, array in zip(self.names, self.kinds, self.arrays, strict=True):
            self._check(name, kind, array)

    def _check(self, name: str, kind: str, array: np.ndarray) -> None:
        if kind not in (NUMBER, CATEGORY):
            raise DataError(f"column {name!r} is of kind {kind!r}; legal are {NUMBER!r} and {CATEGORY!r}")
        if array.ndim != 1 or len(array) != len(self.arrays[0]):
            raise DataError(f"column {name!r} has the shape {array.shape}; the first column has {self.arrays[0].shape}")
        if kind == NUMBER and array.dtype.kind != "f":
            raise DataError(f"column {name!r} of numbers holds {array.dtype}; it must hold floats, NaN where missing")
        if kind == CATEGORY:
            count = len(self.categories.get(name, ()))
            if array.dtype.kind != "i" or (array.size and not -1 <= array.min() <= array.max() < count):
                raise DataError(
                    f"column {name!r} has {count} categories; it must hold integers from -1 (missing) to {count - 1}"
                )

    def __len__(self) -> int:
        """n, the number of rows."""
        return len(self.arrays[0]) if self.arrays else 0

    def array(self, name: str) -> np.ndarray:
        """The column of a name; DataError where there is none."""
        if name not in self.names:
            raise DataError(f"the table has no column {name!r}; it has {', '.join(self.names)}")
        return self.arrays[self.names.index(name)]

    def kind(self, name: str) -> str:
        """The kind of the column of a name."""
        self.array(name)
        return self.kinds[self.names.index(name)]

    def missing(self, name: str) -> np.ndarray:
        """(n,) booleans: where the column's value is missing."""
        array = self.array(name)
        return np.isnan(array) if self.kind(name) == NUMBER else array < 0

    def take(self, rows: np.ndarray) -> Columns:
        """The table of some of its rows: indices or booleans."""
        return Columns(self.names, self.kinds, tuple(array[rows] for array in self.arrays), self.categories)

    def without(self, name: str) -> Columns:
        """The table less one column."""
        kept = [i for i, other in enumerate(self.names) if other != name]
        return Columns(
            tuple(self.names[i] for i in kept),
            tuple(self.kinds[i] for i in kept),
            tuple(self.arrays[i] for i in kept),
            {key: value for key, value in self.categories.items() if key != name},
        )

    @classmethod
    def of_texts(cls, names: Sequence[str], rows: Sequence[Sequence[str]], kinds: Mapping[str, str]) -> Columns:
        """A table from cells of text; an empty cell is missing. kinds: of each column.

        Errors: DataError where a cell of a NUMBER column is no number.
        """
        arrays: list[np.ndarray] = []
        categories = {}
        for i, name in enumerate(names):
            cells = [row[i] for row in rows]
            if kinds[name] == NUMBER:
                arrays.append(_numbers(name, cells))
            else:
                states = sorted({cell for cell in cells if cell != ""})
                code = {state: j for j, state in enumerate(states)}
                arrays.append(np.array([code.get(cell, -1) for cell in cells], np.int64))
                categories[name] = tuple(states)
        return cls(tuple(names), tuple(kinds[name] for name in names), tuple(arrays), categories)


def aligned(*tables: Columns) -> list[Columns]:
    """The same tables with one order of columns (the first's) and, in each column, the same codes for the same categories.

    Categories of the first table keep their codes; those that only later tables have follow.
    Errors: DataError where the tables have not the same columns of the same kinds.
    """
    first = tables[0]
    kinds = dict(zip(first.names, first.kinds, strict=True))
    for table in tables[1:]:
        found = dict(zip(table.names, table.kinds, strict=True))
        if found != kinds:
            raise DataError(f"the tables to compare have different columns: {kinds} and {found}; give the same of each")
    states = {
        name: tuple(dict.fromkeys(state for table in tables for state in table.categories.get(name, ())))
        for name, kind in kinds.items()
        if kind == CATEGORY
    }
    return [_recoded(table, first.names, states) for table in tables]


def _recoded(table: Columns, names: tuple[str, ...], states: Mapping[str, tuple[str, ...]]) -> Columns:
    arrays = []
    for name in names:
        array = table.array(name)
        if name in states:
            code = {state: j for j, state in enumerate(states[name])}
            new = np.array([*(code[state] for state in table.categories.get(name, ())), -1], np.int64)
            array = new[array]  # the code -1 takes the last entry, which is -1
        arrays.append(array)
    return Columns(names, tuple(table.kind(name) for name in names), tuple(arrays), states)


def vectors(reference: Columns, *tables: Columns) -> list[np.ndarray]:
    """(n, d) float64 for each table: numbers standardised by the reference's, categories as unit vectors.

    A number is less the mean of the reference's and over their standard deviation. A missing number is 0, with a
    coordinate of its own that tells it from the mean where any table misses one; a missing category is a category. A
    category that the reference has not is zero everywhere; of a column with more than MAX_STATES of them in the
    reference the rarest share one coordinate, with those that it has not. The tables must be ``aligned``.
    """
    parts: list[list[np.ndarray]] = [[] for _ in tables]
    for name in reference.names:
        if reference.kind(name) == NUMBER:
            blocks = _standardised(reference.array(name), [table.array(name) for table in tables])
        else:
            blocks = _unit_vectors(reference.array(name), [table.array(name) for table in tables])
        for part, block in zip(parts, blocks, strict=True):
            part.append(block)
    return [np.concatenate(part, 1) if part else np.zeros((len(t), 0)) for part, t in zip(parts, tables, strict=True)]


def _standardised(reference: np.ndarray, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    present = reference[np.isfinite(reference)]
    unit = float(np.abs(present).max(initial=0.0)) or 1.0  # squares of the largest numbers would overflow
    mean = (present / unit).mean() if len(present) else 0.0
    spread = ((present / unit).std(ddof=1) if len(present) > 1 else 0.0) or 1.0 / unit
    gaps = any(np.isnan(array).any() for array in arrays)
    out = []
    for array in arrays:
        scaled = (array / unit - mean) / (spread + 1e-12)
        columns = [np.where(np.isnan(array), 0.0, scaled)]
        out.append(np.stack([*columns, np.isnan(array).astype(float)] if gaps else columns, 1))
    return out


def _unit_vectors(reference: np.ndarray, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    found, counts = np.unique(reference, return_counts=True)
    kept = np.sort(found[np.argsort(-counts, kind="stable")[:MAX_STATES]])
    out = []
    for array in arrays:
        block = np.zeros((len(array), len(kept) + 1))
        place = np.searchsorted(kept, array).clip(max=max(len(kept) - 1, 0))
        known = kept[place] == array if len(kept) else np.zeros(len(array), bool)
        block[np.arange(len(array)), np.where(known, place, len(kept))] = 1.0
        out.append(block if len(found) > len(kept) else block[:, :-1])
    return out


def _numbers(name: str, cells: Sequence[str]) -> np.ndarray:
    try:
        return np.array([float(cell) if cell != "" else np.nan for cell in cells])
    except ValueError:
        wrong = next(i for i, cell in enumerate(cells) if cell != "" and not _is_number(cell))
        raise DataError(
            f"column {name!r} holds {cells[wrong]!r} in row {wrong + 1}, which is no number; make it a column of categories"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

"""One input, a row of features, and a data set of rows with their sets of labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """The features of one example that are not 0.

    names: of all columns, shared by the rows of a file; empty where columns are known by their number only.
    columns: (f,) ascending.  values: (f,) float32, NaN where a value is missing.  text: what it was made from, if that.
    """

    names: tuple[str, ...]
    columns: NDArray[np.int64]
    values: NDArray[np.float32]
    text: str | None = None

    @classmethod
    def of_mapping(cls, features: Mapping[str, float], text: str | None = None) -> Row:
        """A row of named values."""
        kept = {name: value for name, value in features.items() if value != 0}
        values = np.fromiter(kept.values(), np.float32, len(kept))
        return cls(tuple(kept), np.arange(len(kept)), values, text)

    @classmethod
    def of_values(cls, values: Sequence[float]) -> Row:
        """A row of all values in the order of the training data's columns."""
        dense = np.asarray(values, dtype=np.float32)
        columns = np.nonzero(dense)[0]
        return cls((), columns, dense[columns])

    @classmethod
    def of_text(cls, text: str) -> Row:
        """A bag of words."""
        return cls.of_mapping(words(text), text)

    def named(self) -> dict[str, float]:
        """Name to value; names are column numbers, from 1, where there are none."""
        names = [self.names[c] if self.names else str(c + 1) for c in self.columns.tolist()]
        return dict(zip(names, self.values.tolist(), strict=True))


def words(text: str) -> dict[str, float]:
    """Lower-case words of a text with their counts."""
    return {word: float(count) for word, count in Counter(_WORD.findall(text.lower())).items()}


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows with their labels. labels: every label that the data set knows, in its order.

    sets: one tuple of labels a row, None where nobody knows them.  sources: ``file:line`` of each row.
    """

    rows: Sequence[Row]
    sets: Sequence[tuple[str, ...] | None]
    sources: Sequence[str]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Iterable[int]) -> Labelled:
        """Some of the rows, in the order given."""
        kept = list(positions)
        return Labelled(
            [self.rows[i] for i in kept], [self.sets[i] for i in kept], [self.sources[i] for i in kept], self.labels
        )


@dataclass(eq=False)
class Builder:
    """Rows of one file in the making; ``columns`` grows where ``column`` is asked for a name that is new."""

    columns: dict[str, int] = field(default_factory=dict)
    cells: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    sets: list[tuple[str, ...] | None] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def column(self, name: str) -> int:
        """The number of a column, a new one for a new name."""
        return self.columns.setdefault(name, len(self.columns))

    def add(
        self, cells: Mapping[int, float], labels: tuple[str, ...] | None, source: str, text: str | None = None
    ) -> None:
        """One more row: column number to value; zeros are left out."""
        kept = sorted((c, v) for c, v in cells.items() if v != 0)
        columns = np.fromiter((c for c, _ in kept), np.int64, len(kept))
        values = np.fromiter((v for _, v in kept), np.float32, len(kept))
        self.cells.append((columns, values))
        self.sets.append(labels)
        self.sources.append(source)
        self.texts.append(text)

    def done(self, labels: Sequence[str], *, numbered: bool = False) -> Labelled:
        """The data set; numbered: columns have no names."""
        names = () if numbered else tuple(self.columns)
        rows = [Row(names, c, v, text) for (c, v), text in zip(self.cells, self.texts, strict=True)]
        return Labelled(rows, self.sets, self.sources, tuple(labels))

"""A column of a table: how it is gathered while a file is read, and what its cells turn out to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct_generative.tables.values import Format, date_format, decimals_of, number_format

CATEGORICAL, INTEGER, REAL, DATE = "categorical", "integer", "real", "date"
KINDS = (CATEGORICAL, INTEGER, REAL, DATE)
MOST_TEXTS = 50_000
"""Different cells of a column that are kept apart; one with more is a column of numbers or dates, or has no categories."""
MISTYPED_SHARE = 0.05
"""Where fewer different cells than this are no numbers, all others being numbers, they are taken for mistakes."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Column:
    """kind: one of ``KINDS``.  values: (n,) int32 numbers of categories, -1 where missing; or floats, NaN where missing.

    texts: the categories, in the order of ``values``.  form: how cells are written.
    """

    name: str
    kind: str
    values: Array
    texts: tuple[str, ...] = ()
    form: Format = field(default_factory=Format)

    @property
    def missing(self) -> Array:
        """(n,) bool."""
        return self.values < 0 if self.kind == CATEGORICAL else np.isnan(self.values)

    def take(self, rows: Any) -> Column:
        """Some of the rows."""
        return Column(self.name, self.kind, self.values[rows], self.texts, self.form)


@dataclass
class ColumnBuilder:
    """Gathers a column piece by piece, in four bytes a row: as numbers of different texts, then, where these become too
    many, as the numbers or dates that they are.

    asked: the kind that the user wants, perhaps with a date format behind it; "" to find it out.
    """

    name: str
    missing: frozenset[str]
    asked: str = ""
    comma: bool = True

    def __post_init__(self) -> None:
        self.place: dict[str, int] = {}
        self.pieces: list[Array] = []
        self.form: Format | None = None
        self.rows = 0

    def feed(self, cells: Sequence[str]) -> None:
        """Take the next cells."""
        if self.form is not None:
            self.pieces.append(self._numbers(cells, self.form))
            self.rows += len(cells)
            return
        place = self.place
        self.pieces.append(np.fromiter((place.setdefault(c, len(place)) for c in cells), np.int32, len(cells)))
        self.rows += len(cells)
        if len(place) > MOST_TEXTS:
            self._turn()

    def _turn(self) -> None:
        """From texts to numbers, or DataError where they are none."""
        kind, form = self._found()
        if kind == CATEGORICAL:
            raise self.too_many()
        self.form = form
        table = self._numbers(list(self.place), form)
        self.pieces = [table[piece] for piece in self.pieces]
        self.place = {}
        self.kind = kind

    def _numbers(self, cells: Sequence[str], form: Format) -> Array:
        """float32 where that keeps every digit that is written, else float64."""
        plain = not (form.date or form.grouped or form.comma or form.percent)
        out: Array
        try:
            if plain and "_" in "".join(cells):
                raise ValueError
            out = np.array([float(c) if plain else form.number(c) for c in cells])
            if bool(np.isnan(out).any()):
                raise ValueError
        except ValueError:
            out = np.array([self._number(c, form, i) for i, c in enumerate(cells)])
        if self.form is not None and form.decimals is not None and not form.date:
            least, most = decimals_of([c for c in cells[:256] if c not in self.missing], "," if form.comma else ".")
            if most is None or most > form.decimals:
                self.form = replace(form, least=min(least, form.least), decimals=most)
                self.kind = REAL
        return narrowed(out, form)

    def _number(self, cell: str, form: Format, at: int) -> float:
        if cell in self.missing:
            return float("nan")
        try:
            return form.number(cell)
        except ValueError:
            what = f"a date like {form.date}" if form.date else "a number"
            raise DataError(
                f"column {self.name!r}: {cell[:40]!r} in row {self.rows + at + 1} is not {what}, as those before it are; "
                f"mend it, add it to ``missing``, or say types: {{{self.name}: categorical}}"
            ) from None

    def _found(self) -> tuple[str, Format]:
        """The kind of the texts so far, and their format."""
        texts = [t for t in self.place if t not in self.missing]
        kind, _, wanted = self.asked.partition(" ")
        if kind == CATEGORICAL or not texts:
            return CATEGORICAL, Format()
        if kind in ("", DATE):
            form = wanted or date_format(texts)
            if form is not None:
                return DATE, Format(0, date=form)
            if kind == DATE:
                raise DataError(
                    f"column {self.name!r}: its cells, such as {texts[0]!r}, are in no known form of dates; give one, e.g. "
                    f"types: {{{self.name}: 'date %d/%m/%Y'}}"
                )
        found = number_format(texts, self.comma)
        if found is None:
            self._told_of_mistypes(texts, bool(kind))
            return CATEGORICAL, Format()
        if kind == INTEGER and found.decimals != 0:
            raise DataError(f"column {self.name!r}: types says integer, but it has cells with digits behind the point")
        whole = kind == INTEGER or (kind == "" and found.decimals == 0)
        return INTEGER if whole else REAL, found

    def _told_of_mistypes(self, texts: Sequence[str], asked: bool) -> None:
        """DataError where a column of numbers holds a few cells that are none."""
        wrong = [t for t in texts if number_format([t], self.comma) is None]
        few = len(texts) >= 40 and len(wrong) <= MISTYPED_SHARE * len(texts)
        if not (asked or few):
            return
        if not wrong:
            raise DataError(f"column {self.name!r}: its numbers are written in several ways; write them in one")
        shown = ", ".join(repr(t[:40]) for t in wrong[:3])
        raise DataError(
            f"column {self.name!r} holds numbers, but also {shown}; mend {'it' if len(wrong) == 1 else 'them'}, add "
            f"{'it' if len(wrong) == 1 else 'them'} to ``missing``, or say types: {{{self.name}: categorical}}"
        )

    def too_many(self) -> DataError:
        """The sentence for a column of texts that nearly all differ."""
        return DataError(
            f"column {self.name!r} has {len(self.place):,} different texts in {self.rows:,} rows: names of rows, "
            f"which no distribution can be learned of; leave it out by drop: [{self.name}], or keep it by "
            f"types: {{{self.name}: categorical}}"
        )

    def done(self) -> Column:
        """The column; DataError where it is an identifier."""
        if self.form is not None:
            values = np.concatenate(self.pieces)
            return Column(self.name, self.kind, narrowed(values, self.form), (), self._marked(self.form))
        kind, form = self._found()
        codes = np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int32)
        texts = list(self.place)
        form = self._marked(form, codes)
        if kind != CATEGORICAL:
            table = self._numbers(texts, form)
            return Column(self.name, kind, table[codes], (), form)
        kept = sorted(t for t in texts if t not in self.missing)
        if not self.asked and len(kept) > max(100, self.rows // 2):
            raise self.too_many()
        number = {t: i for i, t in enumerate(kept)}
        order = np.array([number.get(t, -1) for t in texts], dtype=np.int32)
        return Column(self.name, CATEGORICAL, order[codes] if texts else codes, tuple(kept), form)

    def _marked(self, form: Format, codes: Array | None = None) -> Format:
        """The format with the most frequent of the column's own marks of missing values."""
        marks = [t for t in self.place if t in self.missing]
        if not marks:
            mark = "" if "" in self.missing or not self.missing else sorted(self.missing)[0]
        else:
            assert codes is not None
            counts = np.bincount(codes, minlength=len(self.place))
            mark = max(marks, key=lambda t: int(counts[self.place[t]]))
        return replace(form, missing=mark)


def narrowed(values: Array, form: Format) -> Array:
    """The same numbers in float32, where that changes none of them as it is written."""
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        small = values.astype(np.float32)
        whole = np.isfinite(values)
        if form.decimals is None:  # 7 digits are written
            exact = bool(np.allclose(small[whole], values[whole], rtol=1e-7, atol=0))
        else:
            same = small[whole].astype(np.float64).round(form.decimals)
            exact = bool(np.allclose(same, values[whole], rtol=1e-12, atol=10.0**-form.decimals / 9))
    return small if exact else values

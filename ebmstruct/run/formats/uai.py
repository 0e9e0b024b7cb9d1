"""UAI model files, MARKOV and BAYES: what the UAI inference competitions use."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct.run.formats.flattening import Table, tables_of
from ebmstruct.run.formats.model import Model, graph_of
from ebmstruct.run.formats.packing import write_packed
from ebmstruct.run.formats.source import Source, shown

MAX_STATES = 1 << 31
LARGEST = 700.0
"""Energies of this size either way still have an exp that float64 holds in full precision."""


def parse_uai(source: Source) -> Model:
    """The model in the content of a .uai file; energies are -log of its entries, a zero forbids.

    The header's counts are held against the numbers that are there before anything is made of their size.
    Errors: DataError with file, line and fault.
    """
    head = re.compile(rb"(?:\xef\xbb\xbf)?\s*(\S+)").match(source.data)
    kind = b"" if head is None else head[1].upper()
    if kind not in (b"MARKOV", b"BAYES"):
        found = shown(b"" if head is None else head[1])
        raise source.fault(0, f"begins with {found}; a UAI file begins with MARKOV or BAYES")
    assert head is not None
    numbers = _Numbers(source, head.end(1), _parsed(source, head.end(1)))
    counts, at = _state_counts(numbers)
    arity, members, at = _scopes(numbers, at, counts.size)
    tables = _tables(numbers, at, counts, arity, members)
    return Model(
        graph_of(counts, arity, members, tables), kind.decode().lower(), path=source.path, sha256=source.sha256
    )


@dataclass(frozen=True, eq=False)
class _Numbers:
    """All numbers after the first word; start: the byte at which they begin."""

    source: Source
    start: int
    values: np.ndarray

    def fault(self, at: int, said: str) -> DataError:
        """A fault at a number, which it names; ``at`` beyond the last is the end of the file."""
        if at >= self.values.size:
            end = len(self.source.data.rstrip())
            return self.source.fault(end, f"the file ends here, after {self.values.size:,} numbers; {said}")
        offset, text = self.source.token(at, self.start)
        return self.source.fault(offset, f"number {at + 1:,} is {text.strip(chr(39))}: {said}")

    def whole(self, at: int, what: str) -> int:
        """The number at a place, which must be there and be whole."""
        value = float(self.values[at]) if at < self.values.size else -1.0
        if not value.is_integer() or value < 0:
            raise self.fault(at, f"{what} belongs here")
        return int(value)


def _parsed(source: Source, start: int) -> np.ndarray:
    """Every number from a byte on, as float64; all are finite and none is negative."""
    data = source.data
    if b"\0" in data:
        raise source.fault(data.index(b"\0"), "holds a zero byte, so it is not text")
    if start >= len(data.rstrip()):
        raise source.fault(start, "the file ends here; the number of variables belongs next")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # what older numpy says of a word that is no number
            values = np.fromstring(data[start:], sep=" ")
    except (ValueError, DeprecationWarning):
        raise _first_word(source, start) from None
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise _Numbers(source, start, values).fault(
            int(wrong.argmax()), "a number in a UAI file is finite and not negative"
        )
    return values


def _first_word(source: Source, start: int) -> DataError:
    """The fault of the first word that is no number."""
    for count, match in enumerate(re.compile(rb"\S+").finditer(source.data, start), 1):
        try:
            plain = b"_" not in match[0]
            float(match[0])
        except ValueError:
            plain = False
        if not plain:
            return source.fault(match.start(), f"{shown(match[0])} where number {count:,} belongs")
    return DataError(f"{source.path}: holds something that is no number")


def _state_counts(numbers: _Numbers) -> tuple[np.ndarray, int]:
    values = numbers.values
    n = numbers.whole(0, "the number of variables")
    if n > values.size - 1:
        raise numbers.fault(0, f"promises {n:,} variables, but only {values.size - 1:,} numbers follow")
    counts = values[1 : n + 1]
    wrong = (counts < 1) | (counts >= MAX_STATES) | (counts != np.floor(counts))
    if wrong.any():
        variable = int(wrong.argmax())
        raise numbers.fault(1 + variable, f"variable {variable} needs a whole number of states, at least 1")
    return counts.astype(np.int64), n + 1


def _scopes(numbers: _Numbers, at: int, n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(m,) how many variables each table has; all tables' variables in turn; where the tables begin."""
    values = numbers.values
    m = numbers.whole(at, "the number of tables")
    left = values.size - at - 1
    if 3 * m > left:
        raise numbers.fault(at, f"promises {m:,} tables, but only {left:,} numbers follow")
    heads = np.empty(m, np.int64)
    at += 1
    for row in range(m):
        size = numbers.whole(at, f"the number of variables of table {row}")
        if size > n or at + size >= values.size:
            end = f"the model has {n:,}" if size > n else f"only {values.size - at - 1:,} numbers follow"
            raise numbers.fault(at, f"table {row} cannot have so many variables; {end}")
        heads[row] = at
        at += 1 + size
    arity = values[heads].astype(np.int64)
    where = np.repeat(heads + 1 - (np.cumsum(arity) - arity), arity) + np.arange(int(arity.sum()))
    members = values[where]
    wrong = (members >= n) | (members != np.floor(members))
    if wrong.any():
        first = int(wrong.argmax())
        raise numbers.fault(int(where[first]), f"table {_owner(arity, first)} needs variables from 0 to {n - 1}")
    members = members.astype(np.int64)
    key = np.repeat(np.arange(m), arity) * max(n, 1) + members
    order = np.argsort(key, kind="stable")
    twice = np.nonzero(key[order][1:] == key[order][:-1])[0]
    if twice.size:
        second = int(order[twice + 1].min())
        raise numbers.fault(int(where[second]), f"table {_owner(arity, second)} names this variable twice")
    return arity, members, at


def _owner(arity: np.ndarray, member: int) -> int:
    return int(np.searchsorted(np.cumsum(arity), member, side="right"))


def _tables(numbers: _Numbers, at: int, counts: np.ndarray, arity: np.ndarray, members: np.ndarray) -> list[np.ndarray]:
    """The entries of each table, as views of the file's numbers."""
    values, m = numbers.values, arity.size
    sizes = np.ones(m)
    filled = np.nonzero(arity)[0]
    if filled.size:
        begins = (np.cumsum(arity) - arity)[filled]
        with np.errstate(over="ignore"):
            sizes[filled] = np.multiply.reduceat(counts[members].astype(np.float64), begins)
    # the sizes are floats: a product of state counts may overflow, and then lies beyond the end of the file anyhow
    ends = at + np.cumsum(sizes + 1)
    heads = np.concatenate([[float(at)], ends])[:-1]
    there = heads < values.size
    said = values[heads[there].astype(np.int64)]
    wrong = said != sizes[there]
    if wrong.any():
        row = int(wrong.argmax())
        scope = members[int(arity[:row].sum()) :][: arity[row]]
        shape = " x ".join(map(str, counts[scope[:12]].tolist())) + (" x ..." if scope.size > 12 else "")
        number = f"{sizes[row]:,.0f}" if sizes[row] < 1e15 else f"{sizes[row]:.3g}"
        raise numbers.fault(int(heads[row]), f"table {row} has {shape or 1} = {number} entries, and says so first")
    end = float(ends[-1]) if m else float(at)
    if end > values.size:
        row = max(0, int(there.sum()) - 1)
        if not there.any():
            raise numbers.fault(values.size, f"the entries of {m:,} tables belong next")
        have = max(0, values.size - int(heads[row]) - 1)
        raise numbers.fault(
            values.size, f"table {row} needs {sizes[row]:,.0f} entries and has {have:,}, of {m:,} tables"
        )
    if end < values.size:
        raise numbers.fault(int(end), f"{values.size - int(end):,} numbers follow the last table")
    starts = heads.astype(np.int64) + 1
    return [values[b:e] for b, e in zip(starts.tolist(), (starts + sizes.astype(np.int64)).tolist(), strict=True)]


def write_uai(path: Path | str, model: Model) -> None:
    """Replace a file by a model as UAI, gzip where its name ends in .gz; reading it gives energies equal to 1e-12.

    Entries are exp(-energy) with all their digits. Where a table's energies go beyond ``LARGEST`` it is shifted, and
    the sum of all shifts is written as tables without variables. Names are lost.
    Errors: DataError where a table's finite energies span more than twice ``LARGEST``: no entry can hold them.
    """
    path = Path(path)
    counts, tables, constant = tables_of(model.graph, path)
    scopes, entries = [], []
    for row, table in enumerate(tables):
        shift = _shift(path, row, table)
        constant += shift
        scopes.append(" ".join(map(str, (len(table.sites), *table.sites))))
        with np.errstate(under="ignore"):
            values = np.exp(-(table.energies - shift)).tolist()
        entries.append(f"{len(values)}\n{' '.join(map(repr, values))}")
    for part in _parts(constant):
        scopes.append("0")
        entries.append(f"1\n{part!r}")
    kind = "BAYES" if model.kind in ("bayes", "bif") and not model.graph.constant else "MARKOV"
    lines = [kind, str(len(counts)), " ".join(map(str, counts)), str(len(scopes)), *scopes, "", *entries]
    write_packed(path, "\n".join(lines) + "\n")


def _shift(path: Path, row: int, table: Table) -> float:
    finite = table.energies[np.isfinite(table.energies)]
    if not finite.size or (abs(finite) <= LARGEST).all():
        return 0.0
    low, high = float(finite.min()), float(finite.max())
    if high - low > 2 * LARGEST:
        raise DataError(
            f"{path}: table {row} over {table.sites} has energies from {low:.6g} to {high:.6g}; UAI entries are "
            f"exp(-energy) in float64, which spans {2 * LARGEST:.0f}; divide the energies, or write .npz for a grid"
        )
    return low + LARGEST if high - low > LARGEST else low


def _parts(constant: float) -> list[float]:
    """Entries of tables without variables whose energies add up to a constant."""
    if not constant:
        return []
    if constant == np.inf:
        return [0.0]
    count = int(abs(constant) // LARGEST) + 1
    return [float(np.exp(-constant / count))] * count

"""CSV files: a header, columns of features, and labels in columns of their own or in one column."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from ebmstruct import DataError
from ebmstruct.extend.components import near_miss
from ebmstruct_multilabel.arff import OFF, ON
from ebmstruct_multilabel.files import Content
from ebmstruct_multilabel.rows import Builder, Labelled, words

DELIMITERS = (",", ";", "\t")
LABEL_COLUMNS = ("labels", "tags")


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How a CSV file is read.

    labels: names of label columns, or one text: the name of a column that lists labels, or a beginning of names with a
    star behind it (``label_*``), or how many columns stand last (negative: first); None for a column ``labels``.
    separator: between the labels of one column.  text: the column of a text to be cut into words, or None.
    """

    labels: str | int | Sequence[str] | None = None
    separator: str = ";"
    text: str | None = None


def read_table(content: Content, options: TableOptions) -> Labelled:
    """The rows of a CSV file; a DataError names file and line. O(size) time and memory."""
    delimiter = _delimiter(content.text.split("\n", 1)[0])
    lines = csv.reader(io.StringIO(content.text), delimiter=delimiter, strict=True)
    builder = Builder()
    found: dict[str, None] = {}
    try:
        header = [name.strip() for name in next(lines)]
        columns, listed = _label_columns(header, options, content)
        features = [i for i, name in enumerate(header) if i not in columns and name != options.text]
        of_feature = {i: builder.column(header[i]) for i in features} if options.text is None else {}
        at_text = _place(header, options.text, content) if options.text is not None else None
        for cells in lines:
            if not cells or not any(cells):
                continue
            where = f"{content.name}:{lines.line_num}"
            if len(cells) != len(header):
                raise DataError(f"{where}: the row has {len(cells)} cells, and the header {len(header)}")
            labels = _labels(cells, header, columns, listed, options.separator, where)
            found.update(dict.fromkeys(labels or ()))
            if at_text is not None:
                counts = words(cells[at_text])
                builder.add({builder.column(w): n for w, n in counts.items()}, labels, where, cells[at_text])
            else:
                numbers = {c: _number(cells[i], header[i], where) for i, c in of_feature.items()}
                builder.add(numbers, labels, where)
    except csv.Error as fault:
        raise DataError(f"{content.name}:{lines.line_num}: not a CSV row ({fault}); check the quotes") from None
    return builder.done(sorted(found) if listed else [header[i] for i in sorted(columns)])


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)


def _place(header: Sequence[str], name: str, content: Content) -> int:
    if name not in header:
        raise DataError(
            f"{content.path}:1: there is no column {name!r}{near_miss(name, header)}; there are {_few(header)}"
        )
    return header.index(name)


def _label_columns(header: Sequence[str], options: TableOptions, content: Content) -> tuple[set[int], bool]:
    """The places of label columns, and whether it is one column that lists labels."""
    twice = [name for i, name in enumerate(header) if name in header[:i]]
    if twice:
        raise DataError(f"{content.path}:1: the column {twice[0]!r} is there twice; rename one")
    labels = options.labels
    if labels is None:
        known = [name for name in LABEL_COLUMNS if name in header]
        if not known:
            raise DataError(
                f"{content.path}:1: which columns are labels is not said, and none is called labels; set task.labels to a "
                f"column, to names, to a beginning of names such as label_*, or to a number; there are {_few(header)}"
            )
        labels = known[0]
    if isinstance(labels, int):
        if not 0 < abs(labels) < len(header):
            raise DataError(f"{content.path}:1: task.labels is {labels}; legal are 1 to {len(header) - 1}, or negative")
        places = range(len(header))
        return set(places[-labels:] if labels > 0 else places[:-labels]), False
    if isinstance(labels, str) and labels.endswith("*"):
        chosen = {i for i, name in enumerate(header) if name.startswith(labels[:-1])}
        if not chosen:
            raise DataError(f"{content.path}:1: no column begins with {labels[:-1]!r}; there are {_few(header)}")
        return chosen, False
    if isinstance(labels, str):
        return {_place(header, labels, content)}, True
    return {_place(header, name, content) for name in labels}, False


def _labels(
    cells: Sequence[str], header: Sequence[str], columns: set[int], listed: bool, separator: str, where: str
) -> tuple[str, ...]:
    if listed:
        (at,) = columns
        return tuple(dict.fromkeys(part.strip() for part in cells[at].split(separator) if part.strip()))
    out = []
    for i in sorted(columns):
        value = cells[i].strip().lower()
        if value in ON or value == "1.0":
            out.append(header[i])
        elif value not in (*OFF, "", "0.0"):
            raise DataError(f"{where}: the label {header[i]!r} is {cells[i]!r}; legal are 0 and 1")
    return tuple(out)


def _number(text: str, name: str, where: str) -> float:
    text = text.strip()
    if text in ("", "?"):
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        value = float("inf")
    if abs(value) == float("inf"):
        raise DataError(
            f"{where}: {name!r} is {text[:40]!r}; a finite number is needed (empty where it is missing). A column of "
            "text is named by task.text"
        )
    return value


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

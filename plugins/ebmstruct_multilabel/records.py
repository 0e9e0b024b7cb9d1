"""One JSON record a line: features as numbers, by name or as a text, with a list of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ebmstruct import DataError
from ebmstruct_multilabel.files import Content
from ebmstruct_multilabel.rows import Builder, Labelled, Row, words

LEGAL = (
    '{"features": [0.5, 0, ...]}, {"features": {"name": 0.5, ...}} or {"text": "..."}, each with "labels": ["...", ...]'
)

LARGEST = 3.4e38
"""Of a number: what 32 bits can hold."""


def read_records(content: Content) -> Labelled:
    """The rows of a JSONL file; a DataError names file and line. O(size) time and memory."""
    builder = Builder()
    found: dict[str, None] = {}
    width: int | None = None
    for number, line in enumerate(content.text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{content.name}:{number}"
        record = parsed(line, where)
        labels = _labels(record, where)
        found.update(dict.fromkeys(labels or ()))
        row = row_of(record, where)
        if isinstance(record.get("features"), list):
            values = record["features"]
            if width is not None and len(values) != width:
                raise DataError(
                    f"{where}: {len(values)} features, and {width} in the rows before; all rows need the same"
                )
            width = len(values)
            builder.add(dict(zip(row.columns.tolist(), row.values.tolist(), strict=True)), labels, where)
        elif width is not None:
            raise DataError(
                f"{where}: features by name or a text, and a list of numbers in the rows before; choose one"
            )
        else:
            cells = {builder.column(name): value for name, value in row.named().items()}
            builder.add(cells, labels, where, row.text)
    if width is not None:
        for i in range(width):
            builder.column(f"feature {i + 1}")
    return builder.done(sorted(found))


def parsed(line: str, where: str) -> Mapping[str, Any]:
    """A line as a JSON object. Errors: DataError."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{where}: not a JSON record ({fault}); legal are {LEGAL}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a record is a JSON object, found {type(record).__name__}; legal are {LEGAL}")
    return record


def row_of(record: Mapping[str, Any], where: str) -> Row:
    """The features of a record. Errors: DataError."""
    features, text = record.get("features"), record.get("text")
    if isinstance(features, dict):
        return Row.of_mapping({str(k): _number(v, str(k), where) for k, v in features.items()})
    if isinstance(features, list):
        return Row.of_values([_number(v, f"feature {i + 1}", where) for i, v in enumerate(features)])
    if isinstance(text, str) and features is None:
        return Row.of_mapping(words(text), text)
    keys = ", ".join(map(repr, record)) or "none"
    raise DataError(f"{where}: a record needs features or a text; its keys are {keys}; legal are {LEGAL}")


def _labels(record: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    labels = record.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(x, str) for x in labels):
        raise DataError(f"{where}: labels are {str(labels)[:60]!r}; a list of texts is needed, empty for no label")
    return tuple(dict.fromkeys(labels))


def _number(value: Any, name: str, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, (int, float)) or abs(value) > LARGEST:
        raise DataError(
            f"{where}: {name!r} is {str(value)[:40]!r}; a finite number is needed, or null where it is missing"
        )
    return float(value)

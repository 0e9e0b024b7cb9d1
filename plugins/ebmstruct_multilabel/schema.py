"""What the training data say before any energy is trained: columns, their scales, labels and how they meet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct import DataError, Example, Schema
from ebmstruct_multilabel.rows import Row

log = logging.getLogger(__name__)

LABELS = "labels"
"""The block of labels: one site a label, state 1 where it is in the set."""
SPARSE_BELOW = 0.2
"""Where less than this share of the values is other than 0, rows are kept sparse and scaled as counts are."""


@dataclass(frozen=True)
class LabelSchema(Schema):
    """Columns and labels of the training data.

    features: names of the F columns; empty texts of names where columns have numbers only.  labels: the L labels.
    examples: how many there were.  labelled: how many of them have known labels.  smallest: the size of their smallest
    set.  sparse: whether rows are kept sparse.
    present: (F,) in how many rows a column is not 0.  mean, spread: (F,) of its values.
    together: (L, L) in how many rows both labels are; the diagonal has the labels themselves.
    threshold: the one tuned on dev examples, or None.
    """

    features: tuple[str, ...]
    labels: tuple[str, ...]
    examples: int
    labelled: int
    smallest: int
    sparse: bool
    present: Tensor
    mean: Tensor
    spread: Tensor
    together: Tensor
    threshold: float | None = None

    def site_names(self, block: str) -> tuple[str, ...]:
        return self.labels if block == LABELS else ()


def fitted(train: Sequence[Example], least_count: int) -> LabelSchema:
    """The schema of labelled rows; its labels are those that some row has, in the order of their names.

    least_count: of words that are columns, for rows made from texts. Errors: DataError where there is nothing to learn.
    """
    sets = [tuple(e.y) for e in train if e.y is not None]
    known = tuple(sorted({label for own in sets for label in own}))
    if not known:
        raise DataError("the training data has no label: every set is empty or unknown, so there is nothing to learn")
    rows = [e.x for e in train]
    features = _features(rows, least_count)
    if not features:
        raise DataError("the training data has no feature: every row is empty, so there is nothing to learn from")
    x = matrix(rows, features)
    missing = np.bincount(x.indices[np.isnan(x.data)], minlength=len(features))
    seen = np.maximum(len(rows) - missing, 1)  # a value that is missing is no value, least of all 0
    present = np.diff(x.tocsc().indptr) - missing
    values = np.nan_to_num(x.data)
    x.data = values
    mean = np.asarray(x.sum(axis=0, dtype=np.float64)).reshape(-1) / seen
    square = np.asarray(x.astype(np.float64).multiply(x).sum(axis=0)).reshape(-1) / seen
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    place = {label: k for k, label in enumerate(known)}
    y = np.zeros((len(sets), len(known)), np.float32)
    for i, own in enumerate(sets):
        y[i, [place[label] for label in own]] = 1
    return LabelSchema(
        features,
        known,
        len(rows),
        len(sets),
        min(len(own) for own in sets),
        x.nnz < SPARSE_BELOW * len(rows) * len(features) and bool((values >= 0).all()),
        torch.from_numpy(present.astype(np.float32)),
        torch.from_numpy(mean.astype(np.float32)),
        torch.from_numpy(spread.astype(np.float32)),
        torch.from_numpy(y.T @ y),
    )


def _features(rows: Sequence[Row], least_count: int) -> tuple[str, ...]:
    """The columns of a data set; of texts only words in ``least_count`` rows at least."""
    texts = any(row.text is not None for row in rows)
    names = dict.fromkeys(name for own in {id(r.names): r.names for r in rows}.values() for name in own)
    if not names:
        return tuple(
            f"feature {i + 1}" for i in range(max((int(r.columns.max(initial=-1)) for r in rows), default=-1) + 1)
        )
    if not texts:
        return tuple(names)
    place = {name: i for i, name in enumerate(names)}
    count = np.zeros(len(place), np.int64)
    maps: dict[int, np.ndarray[Any, Any]] = {}
    for row in rows:
        if id(row.names) not in maps:
            maps[id(row.names)] = np.array([place[name] for name in row.names], dtype=np.int64)
        count[maps[id(row.names)][row.columns]] += 1
    return tuple(name for name, n in zip(names, count.tolist(), strict=True) if n >= least_count)


def matrix(rows: Sequence[Row], features: Sequence[str]) -> Any:
    """(B, F) csr matrix of rows over columns known by name, or by number where a row has no names.

    Names that are no column are passed over and counted in the log. Errors: DataError for a number that is none.
    """
    from scipy import sparse

    place: dict[str, int] | None = None
    maps: dict[int, np.ndarray[Any, Any]] = {}
    columns, values, sizes, lost = [], [], np.zeros(len(rows) + 1, np.int64), 0
    for i, row in enumerate(rows):
        if not isinstance(row, Row):
            raise DataError(
                f"an input is a Row, and this one is {type(row).__name__}; use Row.of_mapping, of_values or of_text, "
                "or predict_text"
            )
        if not row.names:
            if row.columns.size and int(row.columns.max()) >= len(features):
                raise DataError(
                    f"a row has {int(row.columns.max()) + 1} features; the model was trained on {len(features)}"
                )
            own, kept = row.columns, row.values
        else:
            if id(row.names) not in maps:
                if row.names == tuple(features):
                    maps[id(row.names)] = np.arange(len(features))
                else:
                    place = place or {name: k for k, name in enumerate(features)}
                    maps[id(row.names)] = np.array([place.get(name, -1) for name in row.names], dtype=np.int64)
            own = maps[id(row.names)][row.columns]
            kept = row.values[own >= 0]
            lost += own.size - kept.size
            own = own[own >= 0]
        columns.append(own)
        values.append(kept)
        sizes[i + 1] = own.size
    if lost:
        log.info(
            "%d values of %d rows are of features that the training data does not have; they are passed over",
            lost,
            len(rows),
        )
    flat = np.concatenate(columns) if columns else np.zeros(0, np.int64)
    data = np.concatenate(values).astype(np.float32) if values else np.zeros(0, np.float32)
    out = sparse.csr_matrix((data, flat, np.cumsum(sizes)), shape=(len(rows), len(features)))
    out.sort_indices()
    return out

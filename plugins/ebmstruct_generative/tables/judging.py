"""Tables as the quality report takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ebmstruct_generative.quality import CATEGORY, NUMBER, Columns, quality_report, quality_sections
from ebmstruct_generative.tables.columns import CATEGORICAL
from ebmstruct_generative.tables.table import Row, Rows, Table

TRAIN_ROWS = 50_000
"""Training rows, at most, that drawn ones are compared with."""
FEWEST = 20
"""Fewer training rows than this that have what is given are too few to stand beside drawn ones; all do then."""


def as_columns(table: Table) -> Columns:
    """The same table; dates are numbers, and infinite numbers, with which no distance is measured, are missing."""
    kinds, arrays = [], []
    for column in table.columns:
        if column.kind == CATEGORICAL:
            kinds.append(CATEGORY)
            arrays.append(column.values.astype(np.int64))
        else:
            kinds.append(NUMBER)
            arrays.append(np.where(np.isinf(column.values), np.nan, column.values).astype(np.float64))
    categories = {c.name: c.texts for c in table.columns if c.kind == CATEGORICAL}
    return Columns(table.names, tuple(kinds), tuple(arrays), categories)


def some_rows(rows: Rows, most: int = TRAIN_ROWS) -> Table:
    """The rows as a table, or ``most`` of them at equal distances."""
    positions = rows.positions
    if len(positions) > most:
        positions = positions[(np.arange(most) * len(positions)) // most]
    return rows.table.take(positions)


def judged(
    real: Table, drawn: Table, train: Rows, target: str, like: Callable[[Row], bool] | None = None
) -> dict[str, Any]:
    """The figures of the quality report; the target is asked for where it is not the only column, and varies.

    like: which training rows are compared, where FEWEST of them are; None for all.
    """
    varies = all(len(np.unique(t.by_name[target].values)) > 1 for t in (real, drawn))
    wanted = target if len(real.columns) > 1 and varies else None
    seen = some_rows(train)
    if like is not None:
        own = [i for i in range(len(seen)) if like(Row(seen, i))]
        seen = seen.take(np.array(own)) if len(own) >= FEWEST else seen
    with np.errstate(all="ignore"):  # numbers near the largest that there are
        return quality_report(as_columns(real), as_columns(drawn), as_columns(seen), target=wanted)


def drawings(figures: dict[str, Any], real: Table, drawn: Table) -> Sequence[Any]:
    """What the figures look like."""
    with np.errstate(all="ignore"):
        return quality_sections(figures, as_columns(real), as_columns(drawn))

"""Report sections of drawn rows: some of them, and columns beside the data's."""

from __future__ import annotations

import numpy as np

from ebmstruct.extend import Chart, Evaluation, Section
from ebmstruct.extend import Table as Sheet
from ebmstruct_generative.tables.columns import CATEGORICAL
from ebmstruct_generative.tables.judging import drawings
from ebmstruct_generative.tables.schema import TableSchema
from ebmstruct_generative.tables.table import Table, joined
from ebmstruct_generative.tables.writing import cells_of

SHOWN = 8
"""Rows that are shown."""
CHARTS = 12
"""Columns that are drawn."""
CATEGORIES = 15


def sections(evaluation: Evaluation, schema: TableSchema) -> list[Section]:
    """Some drawn rows, and what the quality report draws; without one the first columns in the data and as drawn."""
    real, drawn = joined([e.y for e in evaluation.examples]), joined(list(evaluation.outputs))
    some = drawn.take(np.arange(min(SHOWN, len(drawn))))
    cells = [cells_of(some.by_name[n]) for n in schema.names]
    rows = list(zip(*cells, strict=True))
    out: list[Section] = [Sheet("Rows that were drawn", list(schema.names), rows)]
    figures = evaluation.metrics.get("quality")
    if figures:
        return [*out, *drawings(figures, real, drawn)]
    return out + [_drawn_column(name, real, drawn) for name in schema.names[:CHARTS]]


def _drawn_column(name: str, real: Table, drawn: Table) -> Section:
    a, b = real.by_name[name], drawn.by_name[name]
    title = f"Column {name}"
    if a.kind != CATEGORICAL:
        series = {}
        for label, column in (("data", a), ("drawn", b)):
            series[label] = column.values[np.isfinite(column.values)].astype(float).tolist()
        if all(series.values()):
            return Chart(title, series, kind="histogram", x_label=name)
        return Sheet(title, ["", "data", "drawn"], [["values", *(str(len(v)) for v in series.values())]])
    texts = [np.array([*c.texts, "(missing)"], dtype=object)[c.values] for c in (a, b)]
    names, counts = np.unique(texts[0].astype(str), return_counts=True)
    kept = [str(n) for n in names[np.argsort(-counts, kind="stable")][:CATEGORIES]]
    shares = {label: [float((t == k).mean()) for k in kept] for label, t in zip(("data", "drawn"), texts, strict=True)}
    return Chart(title, shares, x=kept, kind="bar", y_label="share")

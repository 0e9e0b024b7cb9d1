"""How like the data drawn rows are, in one number, and the numbers that it is made of."""

from __future__ import annotations

import math

import numpy as np

from ebmstruct_generative.quality import as_vectors, column_shapes, density_coverage, nearest_record
from ebmstruct_generative.quality.column_measures import mean
from ebmstruct_generative.tables.judging import as_columns
from ebmstruct_generative.tables.table import Table

MOST = 1000
"""Held-out and drawn rows that are compared."""
NEIGHBOURS = 5


def measures(train: Table, real: Table, drawn: Table) -> dict[str, float]:
    """Measures of the quality report that are quick, and their product, each asked of at most ``MOST`` rows.

    coverage: the share of real rows that have a drawn one nearer than their 5th real neighbour (`density_coverage`).
    nearest_ratio: the median distance of drawn rows to the training row next to them, over that of held-out rows, at most
    9: near 1 is right, near 0 means copies (`nearest_record`, which looks at all the training rows that are given).
    column_shapes: mean over columns of how alike the distributions are.  fidelity: coverage times column_shapes times the
    ratio where it is below 1.
    """
    with np.errstate(all="ignore"):  # numbers near the largest that there are
        tables = [as_columns(t) for t in (real, drawn, train)]
        shape = mean(column_shapes(*tables[:2]))
        own, made, base = as_vectors(*tables)
        assert base is not None
        ratio = min(9.0, nearest_record(made, own, base, rows=MOST).ratio)
        neighbours = min(NEIGHBOURS, min(len(own), MOST) - 1)
        coverage = density_coverage(own, made, k=neighbours, rows=MOST)[1] if neighbours > 0 else 0.0
    shape = 1.0 if math.isnan(shape) else shape
    return {
        "fidelity": coverage * shape * min(1.0, ratio),
        "coverage": coverage,
        "nearest_ratio": ratio,
        "column_shapes": shape,
    }

"""How good generated records are: two-sample measures, measures of tables, and the report that says it in words."""

from __future__ import annotations

from ebmstruct_generative.quality.assessment import as_vectors, quality_report
from ebmstruct_generative.quality.classifier import classifier_accuracy, train_on_synthetic
from ebmstruct_generative.quality.column_measures import adherence, column_shapes, coverage, missing_similarity
from ebmstruct_generative.quality.columns import CATEGORY, NUMBER, Columns, aligned, vectors
from ebmstruct_generative.quality.nearest import NearestRecord, nearest_record
from ebmstruct_generative.quality.pairs import Pair, column_pairs, pair_trends
from ebmstruct_generative.quality.samples import density_coverage, mmd2, sliced_wasserstein
from ebmstruct_generative.quality.sections import quality_sections

__all__ = [
    "CATEGORY",
    "NUMBER",
    "Columns",
    "NearestRecord",
    "Pair",
    "adherence",
    "aligned",
    "as_vectors",
    "classifier_accuracy",
    "column_pairs",
    "column_shapes",
    "coverage",
    "density_coverage",
    "missing_similarity",
    "mmd2",
    "nearest_record",
    "pair_trends",
    "quality_report",
    "quality_sections",
    "sliced_wasserstein",
    "train_on_synthetic",
    "vectors",
]

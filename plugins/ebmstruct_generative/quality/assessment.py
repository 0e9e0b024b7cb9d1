"""The quality report of generated records: every measure beside what real records reach, and what it means in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct_generative.quality.classifier import classifier_accuracy, train_on_synthetic
from ebmstruct_generative.quality.column_measures import adherence, column_shapes, coverage, mean, missing_similarity
from ebmstruct_generative.quality.columns import CATEGORY, MAX_STATES, NUMBER, Columns, aligned, vectors
from ebmstruct_generative.quality.nearest import NearestRecord, nearest_record
from ebmstruct_generative.quality.pairs import column_pairs, pair_trends
from ebmstruct_generative.quality.samples import density_coverage, mmd2, sliced_wasserstein, subset
from ebmstruct_generative.quality.verdicts import LEAST, verdicts

Records = np.ndarray | Columns
_QUANTILES = 200
_DENSITY_ROWS = 5000
_ROWS, _TRAIN_ROWS, _CELLS = 20_000, 200_000, 20_000_000
"""The most rows, training rows, and numbers of one array that are looked at as vectors."""

MEANINGS: Mapping[str, tuple[float | None, str]] = {
    "classifier_accuracy": (0.5, "how often a random forest tells generated records from real ones"),
    "coverage": (None, "the share of real records that have a generated one in their neighbourhood"),
    "density": (1.0, "how many neighbourhoods of real records a generated one lies in, over k"),
    "mmd2": (0.0, "the squared maximum mean discrepancy, a distance between the distributions"),
    "sliced_wasserstein": (0.0, "the distance between projections on random directions, in the records' units"),
    "nearest_ratio": (1.0, "the distance to the nearest training record, over that of unseen real records"),
    "near_share": (0.05, "the share nearer to a training record than 95 % of unseen real records are"),
    "copies": (None, "the share that are training records"),
    "column_shapes": (1.0, "how alike the columns' distributions are, in the mean"),
    "pair_trends": (1.0, "how alike the trends between pairs of columns are, in the mean"),
    "train_on_synthetic": (None, "how well the target is predicted by a forest that learnt from generated records"),
    "value_coverage": (1.0, "the share of the columns' categories and ranges that generated records have"),
    "value_adherence": (1.0, "the share of generated values inside the training columns' categories and ranges"),
    "missing_similarity": (1.0, "how alike the shares of missing values are"),
}
"""Measure to its best value, where there is one that does not depend on the data, and to what it is."""


def quality_report(
    real: Records,
    generated: Records,
    train: Records | None = None,
    *,
    target: str | None = None,
    rows: int = 2000,
    trees: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """How good generated records are, as JSON values.

    real: records that the model has not seen, generated: its own, train: those that it learnt from; all (n, d) arrays on
    a scale on which distances mean something, or all tables. target: a table's column that is predicted from the others.
    rows: the most records of each kind that the costliest measures (the classifier's, and MMD) look at.
    trees: of each forest.

    Of the answer, ``measures`` has for each measure its ``value``, the ``reference`` that the training records reach in
    the place of the generated ones (which is as good as it gets; None without them), its ``best`` value and its
    ``meaning``; ``verdicts`` says in words what they amount to, worst first; ``columns`` and ``pairs`` are of tables
    alone; ``distances`` has quantiles of the distances to the nearest training record. Numbers that are not finite are
    None. Of more than 20,000 records (200,000 training records; fewer of wide ones) a random part stands for all wherever
    they are compared as vectors. Records with infinite numbers (of arrays, also NaN) are left out, and their share is told.

    Errors: DataError where real and generated ones do not fit together; PluginError without scikit-learn. Cost: some 10 s
    of processor time for 2000 records of 10 numbers.
    """
    kept, finite = _finite(generated)
    out: dict[str, Any] = {"records": {"held_out": len(real), "generated": len(generated)}, "seed": seed}
    out["records"] |= {} if train is None else {"training": len(train)}
    out["finite"] = finite
    if finite < 0.5 or min(len(real), len(kept)) < LEAST:
        out["measures"] = {}
        return _json(out | {"verdicts": verdicts(out)})
    measures: dict[str, dict[str, Any]] = {}
    out["measures"] = measures
    measures |= _vector_measures(out, *as_vectors(real, kept, train, seed=seed), rows, trees, seed)
    if isinstance(real, Columns):
        assert isinstance(kept, Columns) and (train is None or isinstance(train, Columns))
        measures |= _table_measures(out, real, kept, train, target, trees, seed)
    for name, entry in measures.items():
        best, meaning = MEANINGS[name]
        entry |= {"best": best, "meaning": meaning}
    out["verdicts"] = verdicts(out)
    return _json(out)


def _finite(generated: Records) -> tuple[Records, float]:
    """The records without infinite numbers, and their share."""
    if isinstance(generated, Columns):
        kinds = zip(generated.arrays, generated.kinds, strict=True)
        infinite = [np.isinf(array) for array, kind in kinds if kind == NUMBER]
        fine = ~np.any(infinite, 0) if infinite else np.ones(len(generated), bool)
        return (generated if fine.all() else generated.take(fine)), float(fine.mean()) if len(generated) else 0.0
    array = np.asarray(generated, float)
    fine = np.isfinite(array).reshape(len(array), -1).all(1)
    return array[fine], float(fine.mean()) if len(array) else 0.0


def as_vectors(
    real: Records, generated: Records, train: Records | None = None, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """All as arrays, of many a random part; tables are scaled by the training records, or by the real ones without."""
    given = [_bounded(real, _ROWS, seed), _bounded(generated, _ROWS, seed + 1)]
    given += [] if train is None else [_bounded(train, _TRAIN_ROWS, seed + 2)]
    tables = [one for one in given if isinstance(one, Columns)]
    if tables and len(tables) != len(given):
        raise DataError("real, generated and training records are to be all arrays or all tables of columns")
    if tables:
        tables = aligned(*tables[::-1])[::-1]
        arrays = vectors(tables[-1] if train is not None else tables[0], *tables)
    else:
        arrays = [np.asarray(one, float) for one in given]
    return arrays[0], arrays[1], arrays[2] if train is not None else None


def _bounded(records: Records, rows: int, seed: int) -> Records:
    """Some of the records where they are so many, or so wide as vectors, that all of them would take much memory."""
    if isinstance(records, Columns):
        width = sum(min(len(states), MAX_STATES) + 1 for states in records.categories.values())
        width += 2 * records.kinds.count(NUMBER)
        most = min(rows, _CELLS // max(width, 1))
        return records if len(records) <= most else records.take(subset(np.arange(len(records)), most, seed))
    array = np.asarray(records, float)
    return subset(array, min(rows, _CELLS // max(array.shape[-1], 1)), seed)


def _vector_measures(
    out: dict[str, Any],
    real: np.ndarray,
    generated: np.ndarray,
    train: np.ndarray | None,
    rows: int,
    trees: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The two-sample measures, of as many generated (and training) records as there are real ones."""
    count = min(len(real), _DENSITY_ROWS)
    found = []
    for other in [generated] if train is None else [generated, train]:
        density, covered = density_coverage(real, subset(other, count, seed), rows=count, seed=seed)
        found.append({
            "classifier_accuracy": classifier_accuracy(real, other, rows=rows, trees=trees, seed=seed),
            "coverage": covered,
            "density": density,
            "mmd2": mmd2(real, other, rows=rows, seed=seed),
            "sliced_wasserstein": sliced_wasserstein(real, other, seed=seed),
        })  # fmt: skip
    measures = _beside(*found)
    if train is not None:
        nearest = nearest_record(generated, real, train, seed=seed)
        out["distances"] = _distances(nearest)
        measures["nearest_ratio"] = {"value": nearest.ratio, "reference": 1.0}
        measures["near_share"] = {"value": nearest.near, "reference": nearest.held_out_near}
        measures["copies"] = {"value": nearest.copies, "reference": nearest.held_out_copies}
    return measures


def _table_measures(
    out: dict[str, Any],
    real: Columns,
    generated: Columns,
    train: Columns | None,
    target: str | None,
    trees: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The measures of columns and of their pairs."""
    seen = real if train is None else train
    found, columns, pairs = [], [], []
    for other in [generated] if train is None else [generated, train]:
        single = {
            "shape": column_shapes(real, other),
            "coverage": coverage(real, other),
            "adherence": adherence(seen, other),
            "missing": missing_similarity(real, other),
        }
        columns.append(single)
        pairs.append(column_pairs(real, other, seed=seed))
        measures = {
            "column_shapes": mean(single["shape"]),
            "pair_trends": pair_trends(pairs[-1]),
            "value_coverage": mean(single["coverage"]),
            "value_adherence": mean(single["adherence"]),
            "missing_similarity": mean(single["missing"]),
        }
        if target is not None:
            measures["train_on_synthetic"] = train_on_synthetic(other, real, target, trees=trees, seed=seed)
        found.append(measures)
    if train is not None and target is not None:
        out["target"] = {"name": target, "score": "F1" if real.kind(target) == CATEGORY else "R²"}
    out["columns"] = {
        name: {"kind": real.kind(name)} | {key: _pair_of([one[key][name] for one in columns]) for key in columns[0]}
        for name in real.names
    }
    out["pairs"] = [
        {"columns": [p.first, p.second], "measure": p.measure, "counts": p.counts, "score": p.score}
        | {"reference": pairs[1][i].score if train is not None else None, "real": p.real, "generated": p.generated}
        for i, p in enumerate(pairs[0])
    ]
    return _beside(*found)


def _beside(values: Mapping[str, float], reference: Mapping[str, float] | None = None) -> dict[str, dict[str, Any]]:
    return {k: {"value": v, "reference": None if reference is None else reference[k]} for k, v in values.items()}


def _pair_of(both: list[float]) -> dict[str, float | None]:
    return {"value": both[0], "reference": both[1] if len(both) > 1 else None}


def _distances(nearest: NearestRecord) -> dict[str, list[float]]:
    """Evenly spaced quantiles of the distances, which tell their distributions in a bounded size."""
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    both = {"generated": nearest.generated, "real": nearest.held_out}
    return {name: [float(f"{v:.6g}") for v in np.quantile(values, levels)] for name, values in both.items()}


def _json(value: Any) -> Any:
    """The same with None for numbers that JSON has not."""
    if isinstance(value, Mapping):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(one) for one in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

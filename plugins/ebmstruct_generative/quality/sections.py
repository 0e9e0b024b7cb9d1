"""Report sections on generated records: columns, trends, distributions and distances, real beside generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebmstruct.extend import Chart, Section, Table
from ebmstruct_generative.quality.columns import NUMBER, Columns, aligned
from ebmstruct_generative.quality.drawing import densities, matrices, sheet
from ebmstruct_generative.quality.nearest import nearest_record
from ebmstruct_generative.quality.samples import subset

_DRAWN = 2000
_MOST_COLUMNS = 30
_MOST_CATEGORIES = 12
_TILES = 16


def quality_sections(
    figures: Mapping[str, Any],
    real: np.ndarray | Columns,
    generated: np.ndarray | Columns,
    train: np.ndarray | Columns | None = None,
    *,
    shape: tuple[int, ...] = (),
    seed: int = 0,
) -> list[Section]:
    """What the figures of ``quality_report`` look like: charts, tables and pictures, as many as fit the kind of records.

    real, generated, train: as they were given to it. shape: of pictures as (channels, height, width), for arrays.
    """
    if isinstance(real, Columns):
        assert isinstance(generated, Columns)
        found = table_sections(figures, real, generated, seed=seed)
        return [*found[:1], *distance_sections(figures), *found[1:]]
    ours, theirs = np.asarray(real, float), np.asarray(generated, float)
    theirs = theirs[np.isfinite(theirs).all(1)]
    seen = None if train is None or isinstance(train, Columns) else np.asarray(train, float)
    return [*array_sections(ours, theirs, seen, shape, seed), *distance_sections(figures)]


def distance_sections(figures: Mapping[str, Any]) -> list[Section]:
    """How far records lie from the nearest training record, generated beside unseen real ones."""
    distances = figures.get("distances")
    if not distances:
        return []
    note = (
        "Where generated records copy training records, theirs lie further left than those of real records that the "
        "model has not seen. Each is drawn from 200 quantiles."
    )
    series = {"unseen real": distances["real"], "generated": distances["generated"]}
    return [
        Chart("Distance to the nearest training record", series, x_label="distance", kind="histogram", note=note),
    ]


def array_sections(
    real: np.ndarray, generated: np.ndarray, train: np.ndarray | None, shape: tuple[int, ...], seed: int
) -> list[Section]:
    """Of points in the plane where they lie, of pictures some with their nearest training pictures, else coordinates."""
    if not len(generated):
        return []
    if len(shape) in (2, 3):
        return _picture_sections(real, generated, train, shape, seed)
    if real.shape[1] == 2:
        return [densities({"real": real, "generated": generated})]
    return [
        _histogram(f"Coordinate {i + 1}", real[:, i], generated[:, i], seed)
        for i in range(min(real.shape[1], _MOST_COLUMNS // 3))
    ]


def _picture_sections(
    real: np.ndarray, generated: np.ndarray, train: np.ndarray | None, shape: tuple[int, ...], seed: int
) -> list[Section]:
    some = subset(generated, _TILES, seed)
    rows, note = (
        [subset(real, _TILES, seed), some],
        "Above real ones that the model has not seen, below generated ones.",
    )
    if train is not None:
        rows.append(train[nearest_record(some, some, train, train_rows=len(train)).index])
        note = (
            "Above unseen real ones, in the middle generated ones, and below each the training picture nearest to it."
        )
    return [sheet(rows, shape, title="Real and generated", note=note)]


def table_sections(figures: Mapping[str, Any], real: Columns, generated: Columns, *, seed: int = 0) -> list[Section]:
    """Scores of the columns, trends of their pairs, and each column's distribution."""
    real, generated = aligned(real, generated)
    out: list[Section] = []
    if figures.get("columns"):
        out += _column_scores(figures["columns"])
    if figures.get("pairs"):
        out += _trends(figures["pairs"], real.names[:_MOST_COLUMNS])
    for name in real.names[:_MOST_COLUMNS]:
        ours, theirs = (t.array(name)[~t.missing(name)] for t in (real, generated))
        if real.kind(name) == NUMBER:
            out.append(_histogram(name, ours, theirs[np.isfinite(theirs)], seed))
        else:
            out.append(_shares(name, ours, theirs, real.categories[name]))
    return out


def _column_scores(columns: Mapping[str, Any]) -> list[Section]:
    names = list(columns)
    series = {"generated": [columns[name]["shape"]["value"] for name in names]}
    reference = [columns[name]["shape"]["reference"] for name in names]
    if any(value is not None for value in reference):
        series["training rows"] = reference
    note = "1 is the same distribution; how near training rows come to it shows what so few rows can reach."
    rows = [
        [name, c["kind"], *(c[key]["value"] for key in ("shape", "coverage", "adherence", "missing"))]
        for name, c in columns.items()
    ]
    heads = ["column", "kind", "shape", "coverage", "adherence", "missing values"]
    told = (
        "Shape: likeness of the distribution. Coverage: the share of the categories or the range that is generated. "
        "Adherence: the share of generated values inside the training data's. Missing values: likeness of their share."
    )
    return [Chart("Shapes of the columns", series, names, kind="bar", note=note), Table("Columns", heads, rows, told)]


def _trends(pairs: list[Mapping[str, Any]], names: tuple[str, ...]) -> list[Section]:
    """The matrices of the trends, real and generated, and the pairs that are worst kept."""
    place = {name: i for i, name in enumerate(names)}
    both = {key: np.eye(len(names)) for key in ("real", "generated")}
    for key, matrix in both.items():
        matrix[~np.eye(len(names), dtype=bool)] = np.nan
        for pair in pairs:
            first, second = (place.get(name) for name in pair["columns"])
            if first is not None and second is not None:
                value = np.nan if pair[key] is None else pair[key]
                matrix[first, second] = matrix[second, first] = value
    note = (
        "Red: the columns rise together, or hang together where one is of categories (Cramér's V); blue: one falls as the "
        "other rises; white: no trend; grey: not defined."
    )
    out: list[Section] = []
    if len(names) > 1:
        out.append(matrices(both, names, "Trends between columns", note))
    counted = sorted((p for p in pairs if p["counts"] and p["score"] is not None), key=lambda p: p["score"])
    rows = [[" and ".join(p["columns"]), p["real"], p["generated"], p["score"], p["reference"]] for p in counted[:10]]
    if rows:
        heads = ["pair", "real", "generated", "score", "training rows' score"]
        out.append(Table("Trends worst kept", heads, rows, "Correlations, or Cramér's V where one is of categories."))
    return out


def _histogram(title: str, real: np.ndarray, generated: np.ndarray, seed: int) -> Section:
    """The same number of values of each, on the range of nearly all of them."""
    count = min(len(real), len(generated), _DRAWN)
    ours, theirs = subset(real, count, seed), subset(generated, count, seed + 1)
    beyond = 0
    if count:
        low, high = np.quantile(ours, [0.005, 0.995])
        spare = 0.25 * (high - low) if high > low else 1.0
        inside = [(v >= low - spare) & (v <= high + spare) for v in (ours, theirs)]
        beyond = int(sum((~some).sum() for some in inside))
        ours, theirs = ours[inside[0]], theirs[inside[1]]
    note = f"{count} values of each." + (f" {beyond} of them lie far outside and are not drawn." if beyond else "")
    return Chart(title, {"real": ours.tolist(), "generated": theirs.tolist()}, kind="histogram", note=note)


def _shares(title: str, real: np.ndarray, generated: np.ndarray, states: tuple[str, ...]) -> Section:
    counts = [np.bincount(side, minlength=len(states)) / max(len(side), 1) for side in (real, generated)]
    order = np.argsort(-counts[0] - counts[1], kind="stable")[:_MOST_CATEGORIES]
    series = {n: np.round(c[order], 4).tolist() for n, c in zip(("real", "generated"), counts, strict=True)}
    left = len(states) - len(order)
    note = f"Shares of the values; {left} rarer categories are not drawn." if left > 0 else "Shares of the values."
    return Chart(title, series, [states[i] for i in order], kind="bar", note=note)

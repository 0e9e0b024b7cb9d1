"""What the measures of generated records amount to, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

GOOD, WARN, BAD = "good", "warn", "bad"
_ORDER = (BAD, WARN, GOOD)
COPYING_RATIO, CLOSE_RATIO, FAR_RATIO = 0.6, 0.85, 1.5
"""Of the nearest-record ratio: below the first the generated records copy, up to the second they lean, above the third
they stray."""
LEAST = 10
"""The fewest records of each kind that are compared."""
_NAMED = 4


def verdicts(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """The sentences of a report's figures, worst first: ``level`` (good, warn or bad) and ``text``."""
    measures = figures["measures"]
    out = _of_finite(figures["finite"]) or _of_few(figures)
    for judge in (_of_nearest, _of_near, _of_classifier, _of_coverage, _of_density, _of_columns, _of_pairs):
        out += judge(measures, figures)
    for judge in (_of_target, _of_values, _of_missing):
        out += judge(measures, figures)
    return sorted(out, key=lambda verdict: _ORDER.index(verdict["level"]))


def _say(level: str, text: str) -> list[dict[str, str]]:
    return [{"level": level, "text": text}]


def _of_finite(share: float) -> list[dict[str, str]]:
    if share >= 1:
        return []
    told = "too few are left to say more" if share < 0.5 else "they were left out of every figure"
    return _say(BAD, f"{percent(1 - share)} of the generated records hold numbers that are not finite; {told}.")


def _of_few(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    real, generated = (figures["records"][key] for key in ("held_out", "generated"))
    if min(real, generated) >= LEAST:
        return []
    return _say(
        WARN, f"{real} held-out and {generated} generated records are too few to compare; {LEAST} of each are needed."
    )


def _of_nearest(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    if "nearest_ratio" not in measures:
        return []
    ratio, copies = measures["nearest_ratio"]["value"], measures["copies"]
    said = f"(nearest-record ratio {ratio:.2f}; 1 is right)"
    out: list[dict[str, str]] = []
    if copies["value"] > 2 * copies["reference"] + 0.01:
        out += _say(
            BAD,
            f"{percent(copies['value'])} of the generated records are training records, copied; of unseen real ones "
            f"{percent(copies['reference'])} are.",
        )
    if not math.isfinite(ratio):
        return out  # most unseen records stand among the training ones; the shares above tell what there is to tell
    if ratio < COPYING_RATIO:
        out += _say(
            BAD,
            f"The generated records copy training records {said}: they lie nearer to them than unseen real ones do, "
            "so that figures of likeness are flattered, and whoever sees them learns about training records.",
        )
    elif ratio < CLOSE_RATIO:
        out += _say(WARN, f"The generated records lean on training records {said}.")
    elif ratio > FAR_RATIO:
        out += _say(WARN, f"The generated records lie farther from the training records than real ones do {said}.")
    elif not out:
        out += _say(
            GOOD, f"The generated records are new: as far from training records as unseen real ones are {said}."
        )
    return out


def _of_near(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    if "near_share" not in measures:
        return []
    near = measures["near_share"]
    if near["value"] <= 3 * max(near["reference"], 0.05):
        return []
    return _say(
        WARN,
        f"{percent(near['value'])} of the generated records lie nearer to a training record than 95 % of unseen real ones "
        "do: do not publish them as if they told nothing about single training records.",
    )


def _of_classifier(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    if "classifier_accuracy" not in measures:
        return []
    entry = measures["classifier_accuracy"]
    found, reference = entry["value"], entry["reference"] or 0.5
    level = GOOD if found <= max(0.55, reference + 0.03) else WARN if found <= 0.8 else BAD
    said = f"A classifier tells generated from real records {percent(found)} of the time (50 % is perfect)"
    if found < 0.42:
        said += "; fewer than half means that the records are no independent draws, but evenly spread or in twins"
    if level == GOOD and _copies(measures):
        return _say(WARN, f"{said}, but copies of training records would pass that test too.")
    return _say(level, f"{said}.")


def _of_coverage(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    if "coverage" not in measures:
        return []
    found, reference = measures["coverage"]["value"], measures["coverage"]["reference"]
    reference = 0.97 if reference is None else reference
    share = found / reference if reference else 1.0
    said = f"{percent(found)} of real records have a generated one near by, {percent(reference)} a training one"
    if share >= 0.9:
        return _say(GOOD, f"The generated records cover the data: {said}.")
    if share >= 0.6:
        return _say(WARN, f"Parts of the data are thin or missing: {said}.")
    return _say(BAD, f"Modes are missing: {said}.")


def _of_density(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    if "density" not in measures:
        return []
    found = measures["density"]["value"] / (measures["density"]["reference"] or 1.0)
    if found < 0.6:
        return _say(WARN, f"Many generated records lie off the data (density {found:.2f} of what real ones have).")
    if found > 1.6:
        return _say(WARN, f"The generated records crowd where the data are densest (density {found:.2f} times real).")
    return []


def _of_columns(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    if "columns" not in figures:
        return []
    off = []
    for name, column in figures["columns"].items():
        found, reference = column["shape"]["value"], column["shape"]["reference"]
        reference = 0.95 if reference is None or math.isnan(reference) else reference
        if math.isnan(found) or found < reference - 0.1:
            off.append((0.0 if math.isnan(found) else found, name))
    found = measures["column_shapes"]["value"]
    if not off:
        return _say(GOOD, f"Every column is distributed as in the data (shapes {found:.2f} of 1 in the mean).")
    level = BAD if len(off) > len(figures["columns"]) / 3 else WARN
    return _say(level, f"Columns distributed otherwise than in the data: {listed([n for _, n in sorted(off)])}.")


def _of_pairs(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    entry = measures.get("pair_trends", {"value": math.nan})
    if math.isnan(entry["value"]):
        return []
    reference = 1.0 if entry["reference"] is None or math.isnan(entry["reference"]) else entry["reference"]
    lost = reference - entry["value"]
    level = GOOD if lost <= 0.05 else WARN if lost <= 0.2 else BAD
    what = "keep" if level == GOOD else "weaken" if level == WARN else "lose"
    said = f"The generated records {what} the trends between columns ({entry['value']:.2f}; training records have "
    return _say(level, f"{said}{reference:.2f}).")


def _of_target(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    if "train_on_synthetic" not in measures or "target" not in figures:
        return []
    found, reference = (measures["train_on_synthetic"][key] for key in ("value", "reference"))
    if math.isnan(found) or math.isnan(reference):
        return []
    level = GOOD if found >= reference - 0.05 else WARN if found >= reference / 2 else BAD
    name, score = figures["target"]["name"], figures["target"]["score"]
    return _say(
        level,
        f"What is learnt from generated records about {name!r} reaches {score} {found:.2f} on real ones, "
        f"{reference:.2f} when learnt from real ones.",
    )


def _of_values(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    columns = figures.get("columns", {})
    outside = [n for n, c in columns.items() if c["adherence"]["value"] < 0.98]
    lost = [
        n
        for n, c in columns.items()
        if c["kind"] == "category" and c["coverage"]["value"] < (c["coverage"]["reference"] or 1.0) - 1e-9
    ]
    out = []
    if outside:
        out += _say(WARN, f"Values outside the training data's ranges or categories in {listed(outside)}.")
    if lost:
        out += _say(WARN, f"Categories of the data that are never generated in {listed(lost)}.")
    return out


def _of_missing(measures: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, str]]:
    off = [n for n, c in figures.get("columns", {}).items() if c["missing"]["value"] < 0.95]
    return _say(WARN, f"Values are missing more or less often than in the data in {listed(off)}.") if off else []


def _copies(measures: Mapping[str, Any]) -> bool:
    """Whether the records are so near to training ones that likeness proves nothing."""
    if "nearest_ratio" not in measures:
        return False
    copies = measures["copies"]
    return measures["nearest_ratio"]["value"] < COPYING_RATIO or copies["value"] > 2 * copies["reference"] + 0.01


def percent(share: float) -> str:
    """A share in per cent, without decimals but for those near 0 and 1."""
    value = 100 * share
    near_end = 0 < value < 1 or 99 < value < 100
    return f"{value:.1f} %" if near_end else f"{value:.0f} %"


def listed(names: list[str]) -> str:
    """Some names as a reader says them; of many, the first few and how many more."""
    shown = [repr(name) for name in names[:_NAMED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")

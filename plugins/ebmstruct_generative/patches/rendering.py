"""What the report shows of patches: filters, what they fit, what they say, and patches drawn beside real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct.energies import EnergyModel
from ebmstruct.extend import Chart, Evaluation, Picture, Section, Table
from ebmstruct_generative.patches.gabor import Gabors, fitted
from ebmstruct_generative.patches.schema import PatchSchema
from ebmstruct_generative.sheets import grid, side_by_side

SHOWN = 60
"""Patches of each kind in the picture."""
WIDE = 10
"""Patches in a row of it."""
ANSWERS = 4000
"""Answers of filters in a histogram."""
GREY = 128.0


def sections(evaluation: Evaluation, model: EnergyModel, schema: PatchSchema) -> list[Section]:
    """All of them; those of filters where the model has some, and once, not for dev too."""
    real = np.stack([np.asarray(e.y, dtype=np.float32) for e in evaluation.examples])
    drawn = np.asarray(evaluation.outputs, dtype=np.float32).reshape(-1, schema.size, schema.size)
    out: list[Section] = [_beside(real, drawn)]
    filters = filters_of(model)
    if filters is None or evaluation.split == "dev":
        return out
    basis = (filters @ schema.colouring).reshape(-1, schema.size, schema.size)
    looks = (filters @ schema.whitening.T).reshape(-1, schema.size, schema.size)
    gabors = fitted(basis)
    order = arranged(gabors)
    return [
        *_sheets(basis[order], looks[order]),
        _facts(filters, real, gabors, schema),
        *_charts(filters, real, gabors, schema),
        *out,
    ]


def filters_of(model: EnergyModel) -> Tensor | None:
    """(count, k) filters of length 1 over the components, where the model has some; None where it has none."""
    expert = getattr(model, "expert", None)
    if expert is None or not hasattr(expert, "filters"):
        return None
    with torch.no_grad():
        found: Tensor = expert.filters()
        return found / found.norm(dim=1, keepdim=True).clamp_min(1e-30)


def arranged(gabors: Gabors) -> Tensor:
    """(count,) long: from coarse to fine, row by row of the sheet, and in each row by orientation."""
    count = len(gabors.r2)
    coarse = gabors.frequency.argsort(stable=True)
    rows = coarse.split(columns(count))
    return torch.cat([row[gabors.orientation[row].argsort(stable=True)] for row in rows])


def columns(count: int) -> int:
    """Tiles in a row of a sheet of ``count``: twice as wide as high, about, without a nearly empty last row."""
    widest = max(1, min(25, round((2 * count) ** 0.5)))
    return max(range(max(1, widest - 3), widest + 4), key=lambda c: (-((-count) % c), c))


def sheet(tiles: np.ndarray, wide: int, *, each: bool = True) -> np.ndarray:
    """(H, W, 3) bytes of tiles (n, s, s), ``wide`` in a row, 0 being grey.

    each: every tile has its own contrast; else -1 is black and 1 white in all.
    """
    largest = np.maximum(np.abs(tiles).max((1, 2), keepdims=True), 1e-12) if each else 1.0
    scaled = GREY + 127 * np.clip(tiles / largest, -1, 1)
    return grid(np.rint(scaled).astype(np.uint8), wide)


def _sheets(basis: Tensor, looks: Tensor) -> list[Section]:
    wide, size = columns(len(basis)), basis.shape[1]
    scale = max(1, round(840 / (wide * (size + 1))))
    note = "Coarse above, fine below; in each row by orientation. Each has its own contrast; grey is 0."
    return [
        Picture("What the filters stand for", sheet(basis.numpy(), wide), scale,
                f"The patch that goes with a large answer of each filter, as patches vary together. {note}"),
        Picture("Filters", sheet(looks.numpy(), wide), scale,
                "What each filter multiplies the pixels of a patch with, in the same order; whitening is part of it, so "
                "that fine detail weighs more."),
    ]  # fmt: skip


def excess_kurtosis(values: np.ndarray) -> np.ndarray:
    """Of each column (n, c): 0 of Gaussian numbers, larger where they are mostly small and sometimes large."""
    apart = values - values.mean(0)
    square = (apart**2).mean(0)
    found: np.ndarray = (apart**4).mean(0) / np.maximum(square**2, 1e-30) - 3
    return found


def _answers(filters: Tensor, real: np.ndarray, schema: PatchSchema) -> np.ndarray:
    answers: np.ndarray = (schema.encoded(list(real)) @ filters.T).numpy()
    return answers


def facts(filters: Tensor, real: np.ndarray, gabors: Gabors, schema: PatchSchema) -> dict[str, float]:
    """Figures of the filters: how well Gabor functions fit, how sparse their answers are, how many say the same."""
    alike = (filters @ filters.T - torch.eye(len(filters))).abs().amax(1)
    kurtosis = excess_kurtosis(_answers(filters, real, schema))
    return {
        "filters": float(len(filters)),
        "median R² of a Gabor function": float(gabors.r2.median()),
        "share with R² above 0.8": float((gabors.r2 > 0.8).double().mean()),
        "median excess kurtosis of the answers": float(np.median(kurtosis)),
        "share with a twin (cosine above 0.95)": float((alike > 0.95).double().mean()),
        "share of the variance in the components": schema.kept,
    }


def _facts(filters: Tensor, real: np.ndarray, gabors: Gabors, schema: PatchSchema) -> Table:
    rows = [[name, f"{value:.4g}"] for name, value in facts(filters, real, gabors, schema).items()]
    return Table("The filters in figures", ["figure", "value"], rows)


def _charts(filters: Tensor, real: np.ndarray, gabors: Gabors, schema: PatchSchema) -> list[Section]:
    answers = _answers(filters, real, schema)
    kurtosis = excess_kurtosis(answers)
    flat = (answers / answers.std(0)).ravel()
    some = np.clip(flat[:: max(1, len(flat) // ANSWERS)], -6, 6)
    random = np.random.default_rng(0).normal(size=len(some))
    return [
        _histogram("How well one Gabor function fits a filter", "R²", {"filters": gabors.r2.numpy()}),
        _histogram("How fine the filters are", "cycles a pixel", {"filters": gabors.frequency.numpy()}),
        _histogram("How the filters' crests are turned", "degrees, 0 horizontal", {"filters": gabors.orientation.numpy()}),
        _histogram(
            "Answers of the filters to held-out patches", "answer, in standard deviations",
            {"answers": some, "Gaussian": random},
            f"Mostly near 0 and sometimes large: their median excess kurtosis is {np.median(kurtosis):.1f}, that of a "
            "Gaussian 0. Beyond 6 standard deviations they are counted at 6.",
        ),
        _histogram("Excess kurtosis of each filter's answers", "excess kurtosis", {"filters": kurtosis}),
    ]  # fmt: skip


def _histogram(title: str, label: str, series: dict[str, Any], note: str = "") -> Chart:
    return Chart(title, {k: [float(x) for x in v] for k, v in series.items()}, (), label, "count", "histogram", note)


def _beside(real: np.ndarray, drawn: np.ndarray) -> Picture:
    largest = max(float(np.quantile(np.abs(real), 0.99)), 1e-12)
    sides = [sheet(np.clip(side[:SHOWN] / largest, -1, 1), WIDE, each=False) for side in (real, drawn)]
    return Picture(
        "Patches: real on the left, drawn on the right", side_by_side(sides), 3,
        "Log intensities less their mean, all with one contrast.",
    )  # fmt: skip

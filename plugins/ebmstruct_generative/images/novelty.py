"""Is a picture like those that the model has seen: energies of pictures, and how well they part from other data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ebmstruct import Assignment, EnergyModel, FactorGraph, log_partition, minimize
from ebmstruct.errors import PluginError, SolverRefusal
from ebmstruct_generative.images.layout import open_blocks
from ebmstruct_generative.images.pictures import Sizing
from ebmstruct_generative.images.schema import ImageSchema
from ebmstruct_generative.images.sources import read_source

TOGETHER = 500
MADE = 500
"""Pictures of noise, or cut from a photograph, to compare with."""
MOST = 2000
NOISE, PATCHES, HELD_OUT = "noise", "patches", "held_out"


def energies_of(graph: FactorGraph) -> Tensor:
    """(B,) of a graph whose records are clamped: what is discrete beside them summed out, the rest at its least."""
    if not open_blocks(graph):
        return graph.energy(Assignment({}))
    try:
        return -log_partition(graph)
    except SolverRefusal:
        return minimize(graph).energy


def picture_energies(model: EnergyModel, schema: ImageSchema, vectors: np.ndarray) -> np.ndarray:
    """(N,) energies of pictures as vectors (N, dim), nothing given beside them."""
    out = []
    for begin in range(0, len(vectors), TOGETHER):
        rows = torch.from_numpy(vectors[begin : begin + TOGETHER])
        with torch.no_grad():
            graph = model.graph([{}] * len(rows))
            out.append(energies_of(graph.condition(schema.values(graph, rows))).double().cpu().numpy())
    return np.concatenate(out) if out else np.zeros(0)


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """The probability that a score outside is above one inside, ties counting one half; NaN where one side is empty.

    The area under the curve of the true against the false positive rate (Hanley and McNeil 1982). O(n log n).
    """
    if not len(inside) or not len(outside):
        return float("nan")
    both = np.sort(np.asarray(inside, dtype=np.float64))
    below = np.searchsorted(both, outside, "left")
    upto = np.searchsorted(both, outside, "right")
    return float((below + upto).mean() / (2 * len(both)))


def other_pictures(name: str, schema: ImageSchema, crop: bool, held_out: np.ndarray | None) -> np.ndarray:
    """(M, dim) vectors of pictures that are none of the data's: by name, or of a path. Errors: DataError, PluginError."""
    if name == HELD_OUT:
        return np.zeros((0, schema.dim), np.float32) if held_out is None else schema.to_vectors(held_out)
    if name == NOISE:
        return np.random.default_rng(0).uniform(-1, 1, (MADE, schema.dim)).astype(np.float32)
    if name == PATCHES:
        return _patches(schema)
    sizing = Sizing(schema.size[:2], len(schema.size) == 3, crop)  # type: ignore[arg-type]
    found = read_source(name, sizing)
    pixels = np.concatenate([p.pixels for p in found.parts.values()])
    if len(pixels) > MOST:
        pixels = pixels[np.random.default_rng(0).permutation(len(pixels))[:MOST]]
    span = (0.0, 255.0) if pixels.dtype == np.uint8 else (float(pixels.min()), float(pixels.max()))
    scaled = (pixels.astype(np.float32) - span[0]) / max(span[1] - span[0], 1e-9)
    return schema.to_vectors(schema.low + scaled * (schema.high - schema.low))


def _patches(schema: ImageSchema) -> np.ndarray:
    """Pieces of a photograph that comes with scikit-image."""
    try:
        from skimage import data
    except ImportError:
        raise PluginError("patches come from scikit-image; pip install 'ebmstruct[generative]' brings it") from None
    photo = data.camera()
    height, width = schema.size[:2]
    tall, wide = (-(-n // m) for n, m in ((height, photo.shape[0]), (width, photo.shape[1])))
    photo = np.tile(photo, (tall, wide)) if max(tall, wide) > 1 else photo
    rng = np.random.default_rng(0)
    tops = rng.integers(0, photo.shape[0] - height + 1, MADE)
    lefts = rng.integers(0, photo.shape[1] - width + 1, MADE)
    cut = np.stack([photo[t : t + height, s : s + width] for t, s in zip(tops, lefts, strict=True)]) / 255.0
    if len(schema.size) == 3:
        cut = np.repeat(cut[..., None], 3, 3)
    return schema.to_vectors(schema.low + cut * (schema.high - schema.low))


def name_of(other: str) -> str:
    """What a set of other pictures is called in reports."""
    told = {NOISE: "noise", PATCHES: "patches of a photograph", HELD_OUT: "classes held out"}
    return told.get(other, Path(other).name)


def quantiles(energies: Sequence[float] | np.ndarray, count: int = 401) -> Tensor:
    """Ascending quantiles of energies, at equal distances; the finite ones alone."""
    found = np.asarray(energies, dtype=np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return torch.zeros(0)
    levels = (np.arange(count) + 0.5) / count
    return torch.tensor(np.quantile(found, levels), dtype=torch.float32)

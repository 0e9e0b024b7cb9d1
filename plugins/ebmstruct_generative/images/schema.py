"""What is known of pictures before an energy is trained: their size, classes, levels of grey, and pixel statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct.errors import DataError
from ebmstruct_generative.records import CLASS, RECORD, RecordSchema

CLASS_PART, IMAGE_PART, FILE_PART = "class", "image", "file"
"""The parts of a record that may be given: its class, some or all of its pixels, a picture of any size to be looked at."""
MOST_LEVELS = 256
FEW = 32
"""Levels of grey up to which energies of discrete units can have them as their states."""


@dataclass(frozen=True, eq=False)
class ImageSchema(RecordSchema):
    """Pictures of one size as vectors, channel after channel, row after row, scaled from ``low`` ... ``high`` to -1 ... 1.

    greys: how many values at equal distances a pixel takes from low to high; 0 where any number is one. Where they are few
    ``levels`` has them.
    class_counts: training pictures of each class.  mean, spread: (dim,) of each pixel, on the scale of -1 to 1.
    energies: ascending quantiles of the energies of held-out pictures; empty until the model is trained.
    """

    low: float = 0.0
    high: float = 255.0
    greys: int = 256
    class_counts: tuple[int, ...] = ()
    mean: Tensor = field(default_factory=lambda: torch.zeros(0))
    spread: Tensor = field(default_factory=lambda: torch.zeros(0))
    energies: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) or (H, W, 3) of a picture's pixels."""
        channels, height, width = self.shape
        return (height, width) if channels == 1 else (height, width, channels)

    def state_names(self, block: str) -> Sequence[str]:
        return self.classes if block == CLASS else ()

    def to_vectors(self, pixels: np.ndarray) -> np.ndarray:
        """(N, dim) float32 from -1 to 1 of pixels (N, H, W) or (N, H, W, 3); NaN stays."""
        scaled = (pixels.astype(np.float32) - self.low) * (2.0 / (self.high - self.low)) - 1.0
        if scaled.ndim == 4:
            scaled = scaled.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(scaled.reshape(len(scaled), -1), dtype=np.float32)

    def to_pixels(self, vectors: np.ndarray) -> np.ndarray:
        """(N, H, W) or (N, H, W, 3) in the data's own units, at the nearest level, of (N, dim) vectors; NaN becomes low."""
        unit = np.clip(np.nan_to_num(vectors.astype(np.float64), nan=-1.0) * 0.5 + 0.5, 0.0, 1.0)
        if self.greys:
            unit = np.rint(unit * (self.greys - 1)) / (self.greys - 1)
        out = self.low + unit * (self.high - self.low)
        if self.greys and float(self.step).is_integer() and float(self.low).is_integer():
            out = np.rint(out).astype(np.int64)
        channels, height, width = self.shape
        out = out.reshape(len(out), channels, height, width)
        return out[:, 0] if channels == 1 else out.transpose(0, 2, 3, 1)

    @property
    def step(self) -> float:
        """The distance of neighbouring levels."""
        return (self.high - self.low) / max(1, self.greys - 1)

    def bytes_of(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels in the data's own units as bytes, from black to white."""
        unit = (np.asarray(pixels, dtype=np.float64) - self.low) / (self.high - self.low)
        return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)

    def class_named(self, name: object) -> str:
        """A class of the data by its name; DataError where there is none."""
        if str(name) in self.classes:
            return str(name)
        legal = ", ".join(self.classes) if self.classes else "none: the training pictures have no classes"
        raise DataError(f"there is no class {str(name)!r}; the classes are {legal}")

    def out_of_distribution(self, energy: Sequence[float]) -> list[float | None]:
        """The share of held-out pictures whose energy is lower, for each energy; None before training is done."""
        if not self.energies.numel():
            return [None] * len(energy)
        found = torch.searchsorted(self.energies.double(), torch.tensor(list(energy), dtype=torch.float64))
        return [float(i) / self.energies.numel() for i in found]


def fitted(pixels: np.ndarray, classes: Sequence[str]) -> ImageSchema:
    """The schema of training pictures (N, H, W) or (N, H, W, 3)."""
    low, high, greys = _grey(pixels)
    channels = 3 if pixels.ndim == 4 else 1
    counts = Counter(classes)
    names = tuple(sorted(counts, key=_natural))
    shape = (channels, *pixels.shape[1:3])
    levels = tuple(np.linspace(-1.0, 1.0, greys).tolist()) if 2 <= greys <= FEW else ()
    part, each = CLASS_PART if names else "", tuple(counts[n] for n in names)
    bare = ImageSchema(shape, names, part, levels, low, high, greys, each)
    rows = torch.from_numpy(bare.to_vectors(pixels))
    spread = rows.std(0) if len(rows) > 1 else torch.zeros(rows.shape[1])
    return replace(bare, mean=rows.mean(0), spread=spread)


def in_units(pixels: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Bytes from black to white in the units, and at the levels, of data that are no bytes; what is in them stays."""
    if pixels.dtype != np.uint8 or data.dtype == np.uint8 or pixels.max(initial=0) <= data.max():
        return pixels
    low, high, greys = _grey(data)
    unit = pixels / 255
    unit = np.rint(unit * (greys - 1)) / (greys - 1) if greys else unit
    return (low + unit * (high - low)).astype(np.float32)


def _grey(pixels: np.ndarray) -> tuple[float, float, int]:
    """Least and greatest value, and how many levels there are between them: 256 of bytes, else those that are seen."""
    if pixels.dtype == np.uint8:
        return 0.0, 255.0, MOST_LEVELS
    low, high = float(pixels.min()), float(pixels.max())
    if low == high:
        return low, low + 1.0, 0
    seen = np.unique(pixels)
    if len(seen) > MOST_LEVELS:
        return low, high, 0
    steps = np.diff(seen.astype(np.float64))
    step = float(steps.min())
    count = (high - low) / step
    even = bool(np.allclose(steps / step, np.rint(steps / step), atol=1e-3)) and abs(count - round(count)) < 1e-3
    return low, high, round(count) + 1 if even and round(count) < MOST_LEVELS else 0


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers by their size, before names."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def stacked(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The pixels of records as one array."""
    return np.stack([np.asarray(r["pixels"]) for r in records])


__all__ = ["CLASS", "CLASS_PART", "FILE_PART", "IMAGE_PART", "RECORD", "ImageSchema", "fitted", "in_units", "stacked"]

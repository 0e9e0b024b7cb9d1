"""Pictures in memory: one array with their classes and where they came from, all of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ebmstruct.errors import DataError


@dataclass(frozen=True, eq=False)
class Pictures:
    """N pictures of one size.

    pixels: (N, H, W) grey or (N, H, W, 3) colour, bytes or float32 in the data's own units.  classes: one a picture, empty
    where nobody says.  sources: where each came from, for messages.
    """

    pixels: np.ndarray
    classes: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) or (H, W, 3)."""
        return tuple(self.pixels.shape[1:])

    def take(self, which: Sequence[int] | np.ndarray) -> Self:
        """Some of them, in the order named."""
        rows = np.asarray(which, dtype=np.int64)
        classes = tuple(self.classes[i] for i in rows) if self.classes else ()
        return replace(self, pixels=self.pixels[rows], classes=classes, sources=tuple(self.sources[i] for i in rows))

    def without(self, classes: Sequence[str]) -> tuple[Self, Self]:
        """Those of no class in ``classes``, and the others."""
        out = np.array([c in set(classes) for c in self.classes], dtype=bool)
        return self.take(np.flatnonzero(~out)), self.take(np.flatnonzero(out))


@dataclass(frozen=True)
class Sizing:
    """How pictures are brought to one size and to grey or colour.

    size: None leaves them as they are; a number, or (height, width).  colour: None takes what most of the data have.
    crop: cut centrally to the shape wanted before it is scaled; else the whole picture is stretched.
    """

    size: int | tuple[int, int] | None = None
    colour: bool | None = None
    crop: bool = True

    @property
    def wanted(self) -> tuple[int, int] | None:
        """(height, width), or None."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def sized(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, 3) pixels at the size wanted, averages of the pixels that fall together; same type."""
        wanted = self.wanted
        if wanted is None or pixels.shape[:2] == wanted:
            return pixels
        if self.crop:
            pixels = _cropped(pixels, wanted)
        return _scaled(pixels, wanted)

    def coloured(self, pixels: np.ndarray, colour: bool) -> np.ndarray:
        """Grey as three equal channels, or colour as its luminance (ITU-R BT.601), same type."""
        if colour and pixels.ndim == 2:
            return np.repeat(pixels[:, :, None], 3, 2)
        if not colour and pixels.ndim == 3:
            grey = pixels[:, :, :3] @ np.array([0.299, 0.587, 0.114])
            return np.rint(grey).astype(np.uint8) if pixels.dtype == np.uint8 else grey.astype(pixels.dtype)
        return pixels


def gathered(
    pixels: Sequence[np.ndarray], classes: Sequence[str], sources: Sequence[str], sizing: Sizing, what: str
) -> Pictures:
    """Single pictures (H, W) or (H, W, 3) as one array. DataError where there is none, or sizes differ."""
    if not len(pixels):
        raise DataError(f"{what}: there is no picture that can be read")
    colour = sizing.colour
    if colour is None:
        colour = 2 * sum(p.ndim == 3 for p in pixels) > len(pixels)
    made = [sizing.sized(sizing.coloured(p, colour)) for p in pixels]
    sizes = {m.shape for m in made}
    if len(sizes) > 1:
        common = max(sizes, key=lambda s: sum(m.shape == s for m in made))
        odd = next(i for i, m in enumerate(made) if m.shape != common)
        raise DataError(
            f"{sources[odd]}: the picture has {_told(made[odd].shape)} pixels and most others {_told(common)}; set size "
            "to bring all to one size"
        )
    return Pictures(np.stack(made), tuple(classes), tuple(sources))


def _told(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _cropped(pixels: np.ndarray, wanted: tuple[int, int]) -> np.ndarray:
    """The largest central part of the shape wanted."""
    height, width = pixels.shape[:2]
    scale = min(height / wanted[0], width / wanted[1])
    rows, columns = max(1, round(scale * wanted[0])), max(1, round(scale * wanted[1]))
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def _scaled(pixels: np.ndarray, wanted: tuple[int, int]) -> np.ndarray:
    """Scaled by means of the pixels that each new one covers, the new ones' own share of each."""
    rows, columns = _shares(pixels.shape[0], wanted[0]), _shares(pixels.shape[1], wanted[1])
    out = np.einsum("ij,jk...->ik...", rows, pixels.astype(np.float64))
    out = np.einsum("kj,ij...->ik...", columns, out)
    return np.rint(out).astype(np.uint8) if pixels.dtype == np.uint8 else out.astype(pixels.dtype)


def _shares(old: int, new: int) -> np.ndarray:
    """(new, old): how much of each new pixel each old one fills."""
    edges = np.arange(new + 1) * (old / new)
    at = np.arange(old)
    shared = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
    return np.clip(shared, 0, None) * (new / old)

"""Patches cut from photographs at random, each split from parts of the photographs that the others never see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from ebmstruct import Example
from ebmstruct.errors import DataError
from ebmstruct_generative.patches.sources import Photograph

BANDS = {"train": ((0.0, 0.4), (0.5, 0.8), (0.9, 1.0)), "dev": ((0.4, 0.5),), "test": ((0.8, 0.9),)}
"""Split to the bands of a photograph's width that its patches come from; no pixel belongs to two splits."""


def log_contrast(pixels: np.ndarray) -> np.ndarray:
    """(..., s, s): log(1 + intensity) less its mean over the patch, so that lighting falls out."""
    logs = np.log1p(np.maximum(pixels, 0.0))
    contrast: np.ndarray = logs - logs.mean((-2, -1), keepdims=True)
    return contrast


def cut(pictures: Sequence[Photograph], size: int, count: int, split: str, seed: int) -> Patches:
    """``count`` patches of a split, each from a photograph and a place drawn at random; the same seed, the same patches.

    Errors: DataError where no photograph is large enough.
    """
    parts = [part for picture in pictures for part in _parts(picture, size, split)]
    if not parts:
        raise DataError(
            f"no photograph has room for patches of {size} x {size} pixels in the {split} band, a tenth of its width; give "
            "larger photographs or a smaller size"
        )
    random = np.random.default_rng([seed, tuple(BANDS).index(split)])
    owners = sorted({p.picture for p in parts})
    columns = {o: np.concatenate([np.arange(p.places) + p.left for p in parts if p.picture == o]) for o in owners}
    images = {p.picture: p.grey for p in parts}
    out, names = np.empty((count, size, size), dtype=np.float32), []
    for i, number in enumerate(random.integers(len(owners), size=count)):
        owner = owners[number]
        row = int(random.integers(images[owner].shape[0] - size + 1))
        column = int(random.choice(columns[owner]))
        out[i] = images[owner][row : row + size, column : column + size]
        names.append(f"{owner}:{row},{column}")
    return Patches(log_contrast(out), names)


class _Part:
    """A band of a photograph."""

    def __init__(self, picture: str, grey: np.ndarray, left: int, places: int) -> None:
        self.picture, self.grey, self.left, self.places = picture, grey, left, places


def _parts(picture: Photograph, size: int, split: str) -> Iterator[_Part]:
    height, width = picture.grey.shape
    for begin, end in BANDS[split]:
        left, right = round(begin * width), round(end * width)
        if height >= size and right - left >= size:
            yield _Part(picture.name, picture.grey, left, right - left - size + 1)


class Patches(Sequence[Example]):
    """Patches as examples, each made when it is asked for.

    values: (n, s, s) float32 log contrasts.  names: of the photograph and place of each.
    """

    def __init__(self, values: np.ndarray, names: Sequence[str]) -> None:
        self.values, self.names = values, names

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Patches: ...
    def __getitem__(self, at: int | slice) -> Example | Patches:
        if isinstance(at, slice):
            return Patches(self.values[at], self.names[at])
        return Example(x={}, y=self.values[at], source=self.names[at])

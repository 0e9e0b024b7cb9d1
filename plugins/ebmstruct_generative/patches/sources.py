"""Photographs to cut patches from: those inside the wheels of scikit-image and scikit-learn, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebmstruct.errors import DataError, PluginError
from ebmstruct_generative.images.files import ENDINGS, read_picture

PHOTOGRAPHS = "photographs"
SHIPPED = ("camera", "brick", "grass", "gravel", "coins", "moon", "astronaut", "chelsea")
"""Photographs of ``skimage.data`` that its wheel holds, so that nothing is downloaded."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """name: what it is called.  grey: (H, W) float64 intensities, 0 to 255.  path: its file, where it is the user's."""

    name: str
    grey: np.ndarray
    path: Path | None = None


def photographs(data: str) -> list[Photograph]:
    """The photographs that the option ``data`` names: ``photographs``, a folder, or one file. Errors: DataError."""
    if data == PHOTOGRAPHS:
        return _shipped()
    path = Path(data).expanduser()
    if path.is_file():
        return [Photograph(path.name, grey(read_picture(path)), path)]
    if not path.is_dir():
        raise DataError(
            f"{path}: there is no such file or folder; legal are {PHOTOGRAPHS!r}, and the path of a picture or of a folder "
            "of pictures"
        )
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in ENDINGS and f.is_file())
    if not files:
        raise DataError(f"{path}: holds no picture; their names end in {', '.join(ENDINGS)}")
    return [Photograph(file.name, grey(read_picture(file)), file) for file in files]


def _shipped() -> list[Photograph]:
    data, load = _libraries()
    found = [
        Photograph(Path(name).stem, grey(image)) for name, image in zip(load().filenames, load().images, strict=True)
    ]
    return found + [Photograph(name, grey(getattr(data, name)())) for name in SHIPPED]


def _libraries() -> tuple[Any, Callable[[], Any]]:
    try:
        from skimage import data
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise PluginError(
            "the photographs come with scikit-image and scikit-learn; pip install 'ebmstruct[generative]' brings both"
        ) from None
    return data, load_sample_images


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W) float64: the mean of the channels."""
    pixels = np.asarray(image, dtype=np.float64)
    return pixels if pixels.ndim == 2 else pixels[..., :3].mean(-1)

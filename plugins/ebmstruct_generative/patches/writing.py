"""Patches written to files: one array, or a folder of pictures; whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ebmstruct import storage
from ebmstruct_generative.endings import check_ending
from ebmstruct_generative.sheets import png

BRIGHTNESS = 110.0
"""The intensity that a patch's mean log intensity becomes in a picture."""
LEVELS = " .:-=+*#%@"


def written(records: Iterable[Any], path: Path, size: int) -> None:
    """Patches (s, s) of log intensities to ``.npz`` (array ``patches``), or to a new folder of PNG files.

    Errors: RunFolderError where the place is taken or cannot be written.
    """
    check_ending(path, (".npz",), "a name without an ending for a folder of pictures")
    if path.suffix == ".npz":
        stacked = np.asarray(list(records), dtype=np.float32).reshape(-1, size, size)
        with storage.atomic(path) as file:
            np.savez_compressed(file, allow_pickle=False, patches=stacked)
        return
    with storage.atomic_folder(path) as made:
        for i, record in enumerate(records):
            pixels = intensities(np.asarray(record, dtype=np.float64))
            (made / f"{i + 1:06d}.png").write_bytes(png(pixels))


def intensities(patch: np.ndarray) -> np.ndarray:
    """(s, s) bytes of a patch of log intensities, as a photograph of mean brightness would hold them."""
    pixels = (BRIGHTNESS + 1) * np.exp(np.clip(patch, -20, 20)) - 1
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def drawn_in_text(patch: Any) -> str:
    """A patch as characters, dark to light."""
    pixels = np.asarray(patch, dtype=np.float64)
    scaled = np.clip(0.5 + 0.5 * pixels / max(float(np.abs(pixels).max()), 1e-12), 0, 1)
    return "\n".join("".join(LEVELS[int(v * (len(LEVELS) - 1))] * 2 for v in row) for row in scaled)

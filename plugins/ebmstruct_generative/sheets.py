"""Sheets of small pictures, for the report and for files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

PAPER = 236
"""The shade between pictures."""
WIDE = 900
"""Pixels of a page across."""


def grid(tiles: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """(rows, width, 3) bytes of tiles (N, H, W) or (N, H, W, 3), row after row, a light gap between them."""
    tiles = tiles if tiles.ndim == 4 else np.repeat(tiles[:, :, :, None], 3, 3)
    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    out = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), PAPER, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        out[top : top + height, left : left + width] = tile
    return out


def in_rows(rows: Sequence[np.ndarray], gap: int = 1) -> np.ndarray:
    """The same of rows of tiles, which may differ in number."""
    most = max(len(r) for r in rows)
    lines = [grid(r, len(r), gap) for r in rows]
    wide = grid(np.zeros((most, *rows[0].shape[1:]), np.uint8), most, gap).shape[1]
    padded = [np.pad(x, ((0, 0), (0, wide - x.shape[1]), (0, 0)), constant_values=PAPER) for x in lines]
    return np.concatenate(padded)


def side_by_side(parts: Sequence[np.ndarray], gap: int = 8) -> np.ndarray:
    """Sheets beside each other, with a wider gap."""
    high = max(p.shape[0] for p in parts)
    out: list[np.ndarray] = []
    for part in parts:
        if out:
            out.append(np.full((high, gap, 3), 255, dtype=np.uint8))
        out.append(np.pad(part, ((0, high - part.shape[0]), (0, 0), (0, 0)), constant_values=255))
    return np.concatenate(out, 1)


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of (H, W) or (H, W, 3) bytes."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
    return file.getvalue()


def scale_of(pixels: np.ndarray, most: int = 4) -> int:
    """How many times larger a sheet is shown, so that it fits a page."""
    return max(1, min(most, WIDE // pixels.shape[1]))

"""Pictures of generated records beside real ones: densities in the plane, matrices of trends, sheets of small pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebmstruct.extend import Picture
from ebmstruct_generative.sheets import PAPER, in_rows, scale_of

_HOT, _COLD = np.array([178.0, 24.0, 43.0]), np.array([33.0, 102.0, 172.0])
_DARK = np.array([16.0, 42.0, 92.0])


def densities(named: Mapping[str, np.ndarray], *, bins: int = 110) -> Picture:
    """How densely points (n, 2) lie in the plane, side by side on the same axes: white where none, dark where many.

    The axes reach from the 0.1 % to the 99.9 % quantile of the first, with a tenth to spare, so that a far point does not
    shrink the rest; what lies beyond is not drawn.
    """
    first = next(iter(named.values()))
    low, high = np.quantile(first, [0.001, 0.999], axis=0)
    spare = 0.1 * np.where(high > low, high - low, 1.0)
    edges = [np.linspace(low[i] - spare[i], high[i] + spare[i], bins + 1) for i in range(2)]
    panels = []
    for points in named.values():
        counts = np.histogram2d(points[:, 0], points[:, 1], edges)[0].T[::-1]
        share = np.sqrt(counts / max(counts.max(), 1.0))  # roots, so that thin parts can be seen beside dense ones
        panels.append(255 * (1 - share)[:, :, None] + share[:, :, None] * _DARK)
    note = f"From left to right: {', '.join(named)}; the same axes, darker where more points lie."
    return Picture("Where the points lie", beside(panels), scale=4, note=note)


def matrices(named: Mapping[str, np.ndarray], columns: Sequence[str], title: str, note: str) -> Picture:
    """Square matrices of numbers from -1 to 1 side by side: red above 0, blue below, white at 0, grey where undefined."""
    cell = max(1, min(28, 300 // max(len(columns), 1)))
    panels = []
    for matrix in named.values():
        size = np.clip(np.abs(np.nan_to_num(matrix)), 0, 1)[:, :, None]
        colour = np.where(np.nan_to_num(matrix)[:, :, None] >= 0, _HOT, _COLD)
        pixels = 255 * (1 - size) + size * colour
        pixels[np.isnan(matrix)] = 200.0
        panels.append(np.kron(pixels, np.ones((cell, cell, 1))))
    said = f"From left to right: {', '.join(named)}. Columns in order: {', '.join(columns)}. {note}"
    return Picture(title, beside(panels, gap=max(12, cell)), note=said)


def sheet(rows: Sequence[np.ndarray], shape: tuple[int, ...], *, title: str, note: str = "") -> Picture:
    """Rows of small pictures, each row (k, d) laid out as ``shape``: (channels, height, width) or (height, width).

    Numbers are stretched from the least to the greatest of the first row's.
    """
    channels, height, width = (1, *shape) if len(shape) == 2 else shape
    low, high = float(rows[0].min()), float(rows[0].max())
    scale = 255 / (high - low) if high > low else 1.0
    lines = []
    for row in rows:
        tiles = np.rint(np.clip((row - low) * scale, 0, 255)).astype(np.uint8).reshape(-1, channels, height, width)
        lines.append(tiles[:, 0] if channels == 1 else tiles[:, :3].transpose(0, 2, 3, 1))
    pixels = in_rows(lines)
    return Picture(title, pixels, scale=scale_of(pixels), note=note)


def beside(panels: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """(H, W, 3) pictures of one height in a row, with a light gap between them."""
    height = panels[0].shape[0]
    out: list[Any] = []
    for panel in panels:
        if out:
            out.append(np.full((height, gap, 3), float(PAPER)))
        out.append(panel)
    return np.concatenate(out, 1)

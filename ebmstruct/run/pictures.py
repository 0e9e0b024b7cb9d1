"""Pictures of the report: pixels as PNG inside the page, so that it stays one file."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from ebmstruct.extend.task import Picture
from ebmstruct.run.markup import text


def picture(section: Picture) -> str:
    """The HTML of a picture, its pixels in the page itself."""
    pixels = np.asarray(section.pixels)
    height, width = pixels.shape[:2]
    data = base64.b64encode(png(pixels)).decode("ascii")
    shown = f'width="{width * section.scale}" height="{height * section.scale}"'
    return f'<img class="pixels" alt="{text(section.title)}" {shown} src="data:image/png;base64,{data}">'


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of (H, W) grey or (H, W, 3) colour, cut to 0 ... 255. Errors: ValueError for other shapes."""
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise ValueError(f"a picture is (H, W) or (H, W, 3) numbers, H and W at least 1; found {pixels.shape}")
    rows = np.clip(np.rint(np.nan_to_num(pixels)), 0, 255).astype(np.uint8)
    height, width = rows.shape[:2]
    flat = rows.reshape(height, -1)
    unfiltered = np.concatenate([np.zeros((height, 1), np.uint8), flat], 1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if rows.ndim == 2 else 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(unfiltered, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

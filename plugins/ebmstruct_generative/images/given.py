"""What a user gives of the pictures to be drawn: a class, a picture of which some part is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct_generative.images.files import read_picture
from ebmstruct_generative.images.pictures import Sizing
from ebmstruct_generative.images.schema import CLASS_PART, IMAGE_PART, ImageSchema

LEGAL = "class=NAME, image=FILE, rows=FROM:TO, columns=FROM:TO, mask=FILE"


def parsed(texts: Sequence[str], schema: ImageSchema, sizing: Sizing) -> dict[str, Any]:
    """The parts that texts ``PART=VALUE`` give.

    ``class``: a class.  ``image`` (or ``pixels``): a picture file, of which transparent pixels are unknown.  ``rows`` and
    ``columns`` (from:to, the first is 0, the last is left out) and ``mask`` (a picture, light where known) say which
    pixels of it are given. Errors: DataError.
    """
    found: dict[str, str] = {}
    for text in texts:
        part, sign, value = text.partition("=")
        part = {"pixels": "image", "cols": "columns"}.get(part.strip(), part.strip())
        if not sign or part not in ("class", "image", "rows", "columns", "mask"):
            raise DataError(f"--given {text}: a picture is given by {LEGAL}")
        if part in found:
            raise DataError(f"--given {text}: {part} is given twice")
        found[part] = value.strip()
    out: dict[str, Any] = {}
    if CLASS_PART in found:
        out[CLASS_PART] = schema.class_named(found[CLASS_PART])
    regions = [p for p in ("rows", "columns", "mask") if p in found]
    if IMAGE_PART in found:
        pixels = given_picture(Path(found[IMAGE_PART]), schema, sizing)
        pixels[~_known(found, schema, sizing)] = np.nan
        if np.isnan(pixels).all():
            raise DataError(f"--given {' '.join(texts)}: leaves no pixel of the picture known")
        out[IMAGE_PART] = pixels
    elif regions:
        raise DataError(
            f"--given {regions[0]}={found[regions[0]]}: says which part of a picture is known; add image=FILE"
        )
    return out


def given_picture(path: Path, schema: ImageSchema, sizing: Sizing) -> np.ndarray:
    """(H, W) or (H, W, 3) float32 pixels in the data's units of a picture file, NaN where it is transparent."""
    whole = read_picture(path, transparent=True)
    made = fitting(whole[:, :, 0] if whole.shape[2] == 2 else whole[:, :, :3], schema, sizing)
    opacity = Sizing(schema.size[:2], False, sizing.crop).sized(whole[:, :, -1])  # type: ignore[arg-type]
    made[opacity < 128] = np.nan
    return made


def fitting(pixels: np.ndarray, schema: ImageSchema, sizing: Sizing) -> np.ndarray:
    """(H, W) or (H, W, 3) float32 in the data's units, at the model's size, of the bytes of any picture."""
    colour = len(schema.size) == 3
    wanted = Sizing(schema.size[:2], colour, sizing.crop)  # type: ignore[arg-type]
    made = wanted.sized(wanted.coloured(pixels, colour)).astype(np.float32)
    return (schema.low + made * ((schema.high - schema.low) / 255)).astype(np.float32)


def _known(found: Mapping[str, str], schema: ImageSchema, sizing: Sizing) -> np.ndarray:
    """(H, W) bool: the pixels that the regions leave known."""
    height, width = schema.size[:2]
    known = np.ones((height, width), dtype=bool)
    for part, length in (("rows", height), ("columns", width)):
        if part in found:
            begin, end = _span(part, found[part], length)
            inside = np.zeros(length, dtype=bool)
            inside[begin:end] = True
            known &= inside[:, None] if part == "rows" else inside[None, :]
    if "mask" in found:
        light = read_picture(Path(found["mask"]))
        grey = Sizing((height, width), False, sizing.crop)
        known &= grey.sized(grey.coloured(light, False)) >= 128
    return known


def _span(part: str, text: str, length: int) -> tuple[int, int]:
    """From and to of ``4``, ``0:4``, ``:4``, ``4:``, with negative numbers from the end."""
    first, sign, last = text.partition(":")
    try:
        begin = int(first) if first else 0
        end = (int(last) if last else length) if sign else begin + 1
    except ValueError:
        raise DataError(f"--given {part}={text}: is no range; write {part}=0:{length // 2}") from None
    begin, end = begin + length * (begin < 0), end + length * (end < 0)
    if not 0 <= begin < end <= length:
        raise DataError(f"--given {part}={text}: lies outside; pictures have {part} 0:{length}")
    return begin, end

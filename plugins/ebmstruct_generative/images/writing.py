"""Records written as pictures: a folder of PNG files, one sheet, NPZ arrays, or idx files; whole or not at all."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ebmstruct import storage
from ebmstruct_generative.endings import check_ending
from ebmstruct_generative.images.schema import CLASS_PART, ImageSchema, stacked
from ebmstruct_generative.sheets import grid, png

SHEET = 400
"""Pictures on a sheet; more do not fit a page."""


def written(records: Iterable[Mapping[str, Any]], path: Path, schema: ImageSchema) -> None:
    """Write records in the format that the ending of the path names.

    ``.npz``: arrays ``images`` and, where classes are known, ``labels``.  ``.png``: one sheet of the first 400.
    ``-idx3-ubyte``, ``.idx``, each also with ``.gz``: bytes in MNIST's format, labels beside.  Anything else: a folder of
    PNG files, in subfolders by class where classes are known. Errors: RunFolderError where it cannot be written.
    """
    idx = path.name.removesuffix(".gz").endswith(("-ubyte", ".idx"))
    check_ending(
        path, (".npz", ".png", ".idx", *([".gz"] if idx else [])), "a name without an ending for a folder of pictures"
    )
    name = path.name.removesuffix(".gz")
    if path.suffix == ".npz":
        _npz(list(records), path)
    elif path.suffix == ".png":
        _sheet(list(records)[:SHEET], path, schema)
    elif name.endswith(("-ubyte", ".idx")):
        _idx(list(records), path, schema)
    else:
        _folder(records, path, schema)


def _npz(records: list[Mapping[str, Any]], path: Path) -> None:
    pixels = stacked(records)
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 255:
        pixels = pixels.astype(np.uint8)
    arrays = {"images": pixels.astype(np.float32) if pixels.dtype == np.float64 else pixels}
    classes = _classes(records)
    if classes is not None:
        whole = all(re.fullmatch(r"-?\d{1,9}", c) for c in classes)
        arrays["labels"] = np.array([int(c) for c in classes] if whole else classes)
    with storage.atomic(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def _sheet(records: list[Mapping[str, Any]], path: Path, schema: ImageSchema) -> None:
    tiles = schema.bytes_of(stacked(records))
    side = max(1, round(len(tiles) ** 0.5))
    factor = max(1, 32 // max(tiles.shape[1:3]))
    sheet = grid(tiles, columns=-(-len(tiles) // side))
    storage.write_bytes(path, png(np.kron(sheet, np.ones((factor, factor, 1))).astype(np.uint8)))


def _idx(records: list[Mapping[str, Any]], path: Path, schema: ImageSchema) -> None:
    pixels = stacked(records)
    whole = schema.low >= 0 and schema.high <= 255 and pixels.dtype.kind in "iu"
    storage.write_bytes(path, _idx_bytes(pixels.astype(np.uint8) if whole else schema.bytes_of(pixels), path))
    classes = _classes(records)
    if classes is None:
        return
    places = np.array([schema.classes.index(c) for c in classes])
    digits = all(re.fullmatch(r"\d{1,2}|1\d\d|2[0-4]\d|25[0-5]", c) for c in classes)
    labels = np.array([int(c) for c in classes]) if digits else places
    other = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if other == path:
        other = path.with_name(f"labels-{path.name}")
    storage.write_bytes(other, _idx_bytes(labels.astype(np.uint8), other))


def _idx_bytes(array: np.ndarray, path: Path) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    raw = header + np.ascontiguousarray(array).tobytes()
    return gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw


def _folder(records: Iterable[Mapping[str, Any]], path: Path, schema: ImageSchema) -> None:
    """A new folder, which takes its name once all pictures are in it."""
    with storage.atomic_folder(path) as made:
        for i, record in enumerate(records):
            name = record.get(CLASS_PART)
            folder = made if name is None else made / re.sub(r"[^\w.-]|^\.+", "_", str(name))
            folder.mkdir(exist_ok=True)
            (folder / f"{i:06d}.png").write_bytes(png(schema.bytes_of(np.asarray(record["pixels"]))))


def _classes(records: list[Mapping[str, Any]]) -> list[str] | None:
    found = [r.get(CLASS_PART) for r in records]
    return None if any(c is None for c in found) else [str(c) for c in found]

"""Where pictures come from: scikit-learn's digits, MNIST files, NPZ arrays, folders of picture files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ebmstruct.errors import DataError, PluginError
from ebmstruct_generative.images.files import (
    ENDINGS,
    arrays_of,
    checked_images,
    read_idx,
    read_npz,
    read_picture,
)
from ebmstruct_generative.images.pictures import Pictures, Sizing, gathered

log = logging.getLogger(__name__)

DIGITS = "digits"
SPLITS = {"train": "train", "training": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev",
          "test": "test", "t10k": "test", "testing": "test"}  # fmt: skip
"""Names of folders and beginnings of file names that say which split is meant."""
MOST_TOLD = 5


@dataclass(frozen=True, eq=False)
class Source:
    """What was read: pictures by split, ``all`` where nothing says which; and the files that were read or left out."""

    parts: Mapping[str, Pictures]
    files: tuple[Path, ...] = ()
    skipped: tuple[str, ...] = field(default=())


def read_source(data: str, sizing: Sizing) -> Source:
    """The pictures named by the option ``data``: ``digits``, or a path. Errors: DataError, a sentence."""
    if data == DIGITS:
        return Source({"all": digits(sizing)})
    path = Path(data).expanduser()
    if path.is_dir():
        return _folder(path, sizing)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; legal are 'digits' and paths of pictures")
    if path.suffix == ".npz":
        return _npz(path, sizing)
    if _is_idx(path):
        return Source({"all": _idx(path, sizing)}, (path,))
    if path.suffix.lower() in ENDINGS:
        return Source({"all": gathered([read_picture(path)], [], [path.name], sizing, str(path))}, (path,))
    raise DataError(f"{path}: pictures come as a folder, .npz, idx files, or {', '.join(ENDINGS)}")


def digits(sizing: Sizing) -> Pictures:
    """The 1,797 digits of scikit-learn, 8 x 8 pixels with 17 levels of grey (Alpaydin and Kaynak 1998)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise PluginError("the digits come with scikit-learn; pip install 'ebmstruct[generative]' brings it") from None
    found = load_digits()
    images = found.images.astype(np.float32)
    return _stacked(images, [str(c) for c in found.target], DIGITS, sizing)


def _stacked(images: np.ndarray, classes: list[str], name: str, sizing: Sizing) -> Pictures:
    """An array of pictures, at the size and in the colours wanted."""
    sources = tuple(f"{name}:{i + 1}" for i in range(len(images)))
    colour = images.ndim == 4 if sizing.colour is None else sizing.colour
    wanted = sizing.wanted
    if (wanted is None or images.shape[1:3] == wanted) and colour == (images.ndim == 4):
        return Pictures(images, tuple(classes), sources)
    made = [sizing.sized(sizing.coloured(p, colour)) for p in images]
    return Pictures(np.stack(made), tuple(classes), sources)


def _is_idx(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return name.endswith(("-ubyte", ".idx")) or "idx3" in name


def _idx(path: Path, sizing: Sizing) -> Pictures:
    """Pictures of an idx file, with the labels of the file that is named like it."""
    images = checked_images(read_idx(path), path)
    other = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    classes: list[str] = []
    if other != path and not other.exists():
        other = other.with_name(other.name.removesuffix(".gz") if other.suffix == ".gz" else f"{other.name}.gz")
    if other != path and other.exists():
        classes = _labels(read_idx(other), len(images), other)
    return _stacked(images, classes, path.name, sizing)


def _labels(labels: np.ndarray, count: int, path: Path) -> list[str]:
    if labels.shape != (count,):
        raise DataError(f"{path}: labels of shape {labels.shape} for {count} pictures; one for each is needed")
    whole = labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all())
    return [str(c) for c in (labels.astype(int) if whole else labels).tolist()]


def _npz(path: Path, sizing: Sizing) -> Source:
    found = read_npz(path)
    endings = sorted({k[k.rfind("_") :] for k in found if "_" in k and k[k.rfind("_") + 1 :] in SPLITS})
    named = {s: e for e in endings for s in (SPLITS[e[1:]],)} or {"all": ""}
    parts = {}
    for split, ending in named.items():
        images, labels = arrays_of(path, found, ending)
        images = checked_images(images, path)
        parts[split] = _stacked(images, [] if labels is None else _labels(labels, len(images), path), path.name, sizing)
    return Source(parts, (path,))


def _folder(path: Path, sizing: Sizing) -> Source:
    """A folder of idx files, or of pictures: subfolders are splits, by their names, else classes."""
    idx = [p for p in sorted(path.iterdir()) if p.is_file() and _is_idx(p) and "labels" not in p.name]
    if idx:
        parts = {}
        for file in idx:
            split = next((s for word, s in SPLITS.items() if file.name.startswith(word)), "all")
            parts[split] = _idx(file, sizing)
        return Source(parts, tuple(idx))
    inner = {p.name.lower(): p for p in sorted(path.iterdir()) if p.is_dir()}
    if "train" in inner:
        named = {SPLITS[n]: p for n, p in inner.items() if n in SPLITS}
        found = {split: _pictures(p, sizing) for split, p in named.items()}
        return Source(
            {s: f[0] for s, f in found.items()},
            tuple(p for f in found.values() for p in f[1]),
            tuple(t for f in found.values() for t in f[2]),
        )
    pictures, files, skipped = _pictures(path, sizing)
    return Source({"all": pictures}, files, skipped)


def _pictures(path: Path, sizing: Sizing) -> tuple[Pictures, tuple[Path, ...], tuple[str, ...]]:
    """The picture files of a folder; where they lie in subfolders, the first subfolder is the class."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS)
    if not files:
        raise DataError(f"{path}: the folder holds no picture; legal are files {', '.join(ENDINGS)}, and idx files")
    classed = all(len(p.relative_to(path).parts) > 1 for p in files)
    pixels, classes, kept, skipped = [], [], [], []
    for file in files:
        try:
            pixels.append(read_picture(file))
        except DataError as fault:
            skipped.append(str(fault))
            continue
        kept.append(file)
        if classed:
            classes.append(file.relative_to(path).parts[0])
    for told in skipped[:MOST_TOLD]:
        log.warning("left out: %s", told)
    if len(skipped) > MOST_TOLD:
        log.warning("%d more files were left out", len(skipped) - MOST_TOLD)
    if not kept:
        raise DataError(f"none of the {len(files)} pictures can be read; the first: {skipped[0]}")
    sources = [str(p.relative_to(path)) for p in kept]
    return gathered(pixels, classes, sources, sizing, str(path)), tuple(kept), tuple(skipped)

"""Which files are train, dev and test, how each is read, and a dev split carved from train where there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ebmstruct import DataError
from ebmstruct_multilabel.arff import read_arff
from ebmstruct_multilabel.files import read_text
from ebmstruct_multilabel.made import made
from ebmstruct_multilabel.records import read_records
from ebmstruct_multilabel.rows import Labelled
from ebmstruct_multilabel.tables import TableOptions, read_table

SPLITS = ("train", "dev", "test")
MADE = "made"
SUFFIXES = (".arff", ".csv", ".tsv", ".jsonl")
EXPLICIT = "name the files in the task file: data: {train: FILE, dev: FILE, test: FILE}"
WORDS = {
    "train": ("train", "training"),
    "dev": ("dev", "devel", "development", "valid", "validation", "val"),
    "test": ("test", "testing", "eval"),
}
_WORD = {split: re.compile(rf"(?<![a-z])(?:{'|'.join(words)})(?![a-z])") for split, words in WORDS.items()}


@dataclass(frozen=True, eq=False)
class Corpus:
    """Labelled rows by split; files: path to sha256 of what was read.  carved: rows of dev that were taken from train."""

    splits: Mapping[str, Labelled]
    files: Mapping[str, str]
    carved: int = 0

    def __getitem__(self, split: str) -> Labelled:
        if split not in self.splits:
            raise DataError(f"there is no split {split!r}; these data have {', '.join(self.splits)}")
        return self.splits[split]


def read_file(path: Path, options: TableOptions) -> tuple[Labelled, str]:
    """The rows of one file, by its ending, and its sha256. Errors: DataError."""
    ending = path.name.lower().removesuffix(".gz")
    if not ending.endswith(SUFFIXES):
        raise DataError(f"{path}: legal endings are {', '.join(SUFFIXES)}, each also with .gz")
    content = read_text(path)
    if ending.endswith(".arff"):
        found = read_arff(content, options.labels)
    elif ending.endswith(".jsonl"):
        found = read_records(content)
    else:
        found = read_table(content, options)
    if not len(found):
        raise DataError(f"{path}: holds no row; rows of features with labels are needed")
    return found, content.sha256


def read_corpus(
    data: str | Mapping[str, str], options: TableOptions, *, dev_fraction: float = 0.15, seed: int = 0
) -> Corpus:
    """All splits of a folder, of files by split, or of the data made here; dev is carved from train if there is none.

    seed: of the choice of rows for dev. Errors: DataError.
    """
    if data == MADE:
        return Corpus({split: made(split) for split in SPLITS}, {})
    splits, files = {}, {}
    for split, path in split_paths(data).items():
        splits[split], files[str(path)] = read_file(path, options)
    carved = 0
    if "train" in splits and "dev" not in splits and dev_fraction > 0:
        splits, carved = _carve(splits, dev_fraction, seed)
    return Corpus({split: splits[split] for split in SPLITS if split in splits}, files, carved)


def split_paths(data: str | Mapping[str, str]) -> dict[str, Path]:
    """Paths by split from what a task file may say: a folder, one file to train on, or files by split."""
    if isinstance(data, Mapping):
        unknown = [name for name in data if name not in SPLITS]
        if unknown or not data:
            what = f"{unknown[0]} is no split" if unknown else "no file is given"
            raise DataError(f"data: {what}; legal are {', '.join(SPLITS)}, each with a file")
        return {split: Path(data[split]) for split in SPLITS if split in data}
    path = Path(data)
    if path.is_dir():
        return find_splits(path)
    if path.is_file():
        return {"train": path}
    raise DataError(f"data: {data!r} is neither a folder nor a file (looked for {path.absolute()}); or use {MADE!r}")


def find_splits(folder: Path, required: tuple[str, ...] = ("train",)) -> dict[str, Path]:
    """The files of a folder that hold train, dev and test, by a word in their names. Errors: DataError."""
    try:
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as fault:
        raise DataError(f"{folder}: the folder cannot be listed ({fault.strerror}); check its permissions") from None
    found: dict[str, Path] = {}
    for path in files:
        lowered = path.name.lower()
        if not lowered.removesuffix(".gz").endswith(SUFFIXES):
            continue
        for split in (s for s in SPLITS if _WORD[s].search(lowered)):
            if split in found:
                raise DataError(f"{folder}: {found[split].name} and {path.name} could both be {split}; {EXPLICIT}")
            found[split] = path
    missing = [split for split in required if split not in found]
    if missing:
        listed = ", ".join(p.name for p in files[:10]) or "no file"
        raise DataError(
            f"{folder}: no file for {missing[0]} is recognised (a name with {' or '.join(WORDS[missing[0]])} that ends in "
            f"{', '.join(SUFFIXES)}); the folder holds {listed}; rename the files, or {EXPLICIT}"
        )
    return found


def _carve(splits: Mapping[str, Labelled], fraction: float, seed: int) -> tuple[dict[str, Labelled], int]:
    """The splits with some rows of train as dev, drawn without regard to their labels."""
    train = splits["train"]
    count = round(fraction * len(train))
    if not 0 < count < len(train):
        raise DataError(
            f"train has {len(train)} rows, of which {fraction:g} are to be dev; give a dev file, or more rows, or set "
            "dev_fraction to 0 to go without"
        )
    order = np.random.default_rng(seed).permutation(len(train))
    dev, rest = sorted(order[:count].tolist()), sorted(order[count:].tolist())
    return {**splits, "train": train.take(rest), "dev": train.take(dev)}, count

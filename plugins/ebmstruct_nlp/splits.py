"""Which files are train, dev and test, and what they hold."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebmstruct.errors import DataError
from ebmstruct_nlp.formats import Reading, ReadOptions, ReadReport, TaggedSentence, read

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
WORDS = {
    "train": ("train", "training"),
    "dev": ("dev", "devel", "develop", "development", "valid", "validation", "val", "testa"),
    "test": ("test", "testing", "testb"),
}
DATA_SUFFIXES = (".conllu", ".conllup", ".conll", ".iob2", ".iob", ".bio", ".bioes", ".tsv", ".jsonl")
OTHER_SUFFIXES = (
    *(".md", ".rst", ".html", ".pdf", ".stats", ".py", ".sh", ".yaml", ".yml", ".toml", ".xml", ".log", ".zip", ".tar"),
    *(".png", ".svg", ".safetensors", ".npz", ".csv", ".sha256", ".md5"),
)
EXPLICIT = "name the files in the task file: data: {train: FILE, dev: FILE, test: FILE}"
_WORD = {
    split: re.compile(rf"(?<![a-z])(?:{'|'.join(sorted(words, key=len, reverse=True))})(?![a-z])")
    for split, words in WORDS.items()
}


@dataclass(frozen=True, slots=True)
class CorpusSplits:
    """Sentences by split, and how each split was read."""

    sentences: Mapping[str, tuple[TaggedSentence, ...]]
    reports: Mapping[str, ReadReport]

    def __getitem__(self, split: str) -> tuple[TaggedSentence, ...]:
        if split not in self.sentences:
            raise DataError(f"there is no split {split!r}; this corpus has {', '.join(self.sentences) or 'none'}")
        return self.sentences[split]


def find_splits(folder: str | os.PathLike[str], *, required: Sequence[str] = ("train",)) -> dict[str, Path]:
    """The files of a folder that hold train, dev and test, recognised by a word in their names.

    Case does not matter, digits and punctuation end a word. Files that are no data by their suffix are passed over,
    and so are files that name two splits (train_dev). Of two candidates the one with a known suffix of tagged
    text is taken; otherwise a DataError names both. required: splits without which the folder is refused.
    """
    root = Path(folder)
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    names = _listing(root)
    for path in names:
        lowered = path.name.lower()
        splits = [split for split in SPLITS if _WORD[split].search(lowered)]
        if len(splits) == 1 and not lowered.removesuffix(".gz").endswith(OTHER_SUFFIXES):
            found[splits[0]].append(path)
    chosen = {split: _one(root, split, paths) for split, paths in found.items() if paths}
    if missing := [split for split in required if split not in chosen]:
        listed = ", ".join(path.name for path in names[:10]) or "no file"
        raise DataError(
            f"{root}: no file for {' and '.join(missing)} is recognised by name (known words: "
            + "; ".join(f"{split}: {', '.join(WORDS[split])}" for split in missing)
            + f"); the folder holds {listed}{' …' * (len(names) > 10)}; rename the files, or {EXPLICIT}"
        )
    log.info("%s: %s", root, ", ".join(f"{split} is {path.name}" for split, path in chosen.items()))
    return chosen


def _listing(root: Path) -> list[Path]:
    """The visible files of a folder in the order of their names."""
    if not root.is_dir():
        what = "is a file" if root.exists() else f"does not exist (looked for {root.absolute()})"
        raise DataError(f"{root} {what}; a folder with train, dev and test files is needed, or {EXPLICIT}")
    try:
        return sorted(path for path in root.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as fault:
        raise DataError(f"{root}: the folder cannot be listed ({fault.strerror}); check its permissions") from None


def _one(root: Path, split: str, paths: Sequence[Path]) -> Path:
    """The one candidate, or the one whose suffix is known; else an error that names them."""
    if len(paths) == 1:
        return paths[0]
    known = [path for path in paths if path.name.lower().removesuffix(".gz").endswith(DATA_SUFFIXES)]
    if len(known) == 1:
        others = ", ".join(path.name for path in paths if path != known[0])
        log.info("%s: %s is %s by its suffix; passed over: %s", root, split, known[0].name, others)
        return known[0]
    names = " and ".join(path.name for path in (known or paths))
    raise DataError(f"{root}: {names} could all be the split {split!r}; {EXPLICIT}")


def split_paths(data: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]) -> dict[str, Path]:
    """Paths by split from what a task file may say: a folder, or a mapping of split names to files."""
    if not isinstance(data, Mapping):
        return find_splits(data)
    if unknown := [str(name) for name in data if name not in SPLITS]:
        raise DataError(f"data: {', '.join(unknown)} is no split; legal are {', '.join(SPLITS)}, each with a file")
    paths = {split: Path(data[split]) for split in SPLITS if data.get(split)}
    if not paths:
        raise DataError(f"data: no file is given; {EXPLICIT}")
    return paths


def read_splits(
    data: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    options: ReadOptions | None = None,
    *,
    splits: Sequence[str] | None = None,
) -> CorpusSplits:
    """Read a folder or a mapping of files; splits: only these, all that there are when left out."""
    paths = split_paths(data)
    wanted = paths if splits is None else {split: paths[split] for split in splits if split in paths}
    readings: dict[str, Reading] = {split: read(path, options) for split, path in wanted.items()}
    return CorpusSplits(
        {split: reading.sentences for split, reading in readings.items()},
        {split: reading.report for split, reading in readings.items()},
    )

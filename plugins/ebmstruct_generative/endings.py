"""Endings of files that are asked for and that a task does not write."""

from __future__ import annotations

from pathlib import Path

from ebmstruct.errors import DataError

FORMATS = frozenset(
    f".{name}"
    for name in (
        *("csv", "tsv", "txt", "json", "jsonl", "parquet", "feather", "xlsx", "xls", "ods", "arff", "db", "sqlite"),
        *("npz", "npy", "pkl", "pt", "h5", "hdf5", "mat", "idx", "html", "xml", "yaml"),
        *("png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "zip", "tar", "gz", "bz2", "xz"),
    )
)
"""Endings that promise a format."""


def check_ending(path: Path, legal: tuple[str, ...], otherwise: str) -> None:
    """DataError where the ending promises a format that is not one of ``legal``.

    otherwise: what is written where the ending promises nothing, for the message.
    """
    ending = path.suffix.lower()
    if ending in FORMATS and ending not in legal:
        raise DataError(
            f"--output {path}: records are not written as {ending}; legal are {', '.join(legal)}, and {otherwise}"
        )

"""Model files: UAI, BIF and grids in .npz, read within bounds and written back."""

from __future__ import annotations

import re
from pathlib import Path

from ebmstruct.errors import DataError
from ebmstruct.run.formats.bif import parse_bif, write_bif
from ebmstruct.run.formats.evidence import read_evidence, write_evidence
from ebmstruct.run.formats.grids import read_grid, write_grid
from ebmstruct.run.formats.model import Evidence, Model
from ebmstruct.run.formats.source import open_file, read_source, shown
from ebmstruct.run.formats.uai import parse_uai, write_uai

__all__ = ["Evidence", "Model", "is_model_file", "read_evidence", "read_model", "write_evidence", "write_model"]

SUFFIXES = (".uai", ".uai.gz", ".bif", ".bif.gz", ".npz")


def is_model_file(path: Path | str) -> bool:
    """Whether a file's name says that it is a model."""
    return Path(path).name.lower().endswith(SUFFIXES)


def read_model(path: Path | str) -> Model:
    """The model in a file: what the name says (.uai, .bif, either with .gz, .npz), or else what the content begins with.

    Errors: DataError, one line with file, place and fault, in memory bounded by a small multiple of the file's size
    and the stated limits.
    """
    path = Path(path)
    suffix = path.name.lower().removesuffix(".gz")
    if suffix.endswith(".npz"):
        return read_grid(path)
    if not suffix.endswith((".uai", ".bif")):
        with open_file(path) as file:
            if file.read(2) == b"PK":
                return read_grid(path)
    source = read_source(path)
    if suffix.endswith(".uai"):
        return parse_uai(source)
    if suffix.endswith(".bif"):
        return parse_bif(source)
    word = re.match(rb"(?:\xef\xbb\xbf|\s|//[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)*(\w*)", source.data)
    first = b"" if word is None else word[1]
    if first.upper() in (b"MARKOV", b"BAYES"):
        return parse_uai(source)
    if first in (b"network", b"variable"):
        return parse_bif(source)
    raise source.fault(
        0, f"begins with {shown(source.data[:12])}; a model is a .uai, .bif (both may be .gz) or .npz file"
    )


def write_model(path: Path | str, model: Model) -> None:
    """Replace a file by a model, in the format that its name asks for.

    Errors: DataError where the name asks for none, or the format cannot hold the model.
    """
    name = Path(path).name.lower().removesuffix(".gz")
    for suffix, write in ((".uai", write_uai), (".bif", write_bif), (".npz", write_grid)):
        if name.endswith(suffix):
            write(path, model)
            return
    raise DataError(f"{path}: a model is written as {', '.join(SUFFIXES)}")

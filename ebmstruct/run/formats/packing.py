"""Model files written whole, packed where their name asks for it."""

from __future__ import annotations

import gzip
from pathlib import Path

from ebmstruct.storage import write_bytes


def write_packed(path: Path, text: str) -> None:
    """Replace a file by text in UTF-8, gzip where its name ends in .gz; the same text gives the same bytes."""
    data = text.encode()
    write_bytes(path, gzip.compress(data, compresslevel=6, mtime=0) if path.name.endswith(".gz") else data)

"""Text of data files: plain or gzip by content, strict UTF-8, every fault a sentence."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from ebmstruct import DataError

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Content:
    """A file's text with "\\n" as line end, and the sha256 of its bytes as stored."""

    path: Path
    text: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name, for messages and sources."""
        return self.path.name


def read_text(path: Path) -> Content:
    """The text of a file. Errors: DataError where it is missing, damaged, empty or not UTF-8. O(size) memory."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except (OSError, ValueError) as fault:
        raise DataError(f"{path}: cannot be read ({getattr(fault, 'strerror', None) or fault})") from None
    raw = stored
    if stored[:2] == _GZIP:
        try:
            raw = gzip.decompress(stored)
        except (OSError, EOFError, zlib.error) as fault:
            raise DataError(f"{path}: the gzip file is damaged ({fault}); fetch or copy it again") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = raw.count(b"\n", 0, fault.start) + 1
        raise DataError(
            f"{path}:{line}: byte 0x{raw[fault.start]:02x} is not valid UTF-8; convert the file, e.g. with iconv"
        ) from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty; rows of features with labels are needed")
    return Content(path, text.replace("\r\n", "\n"), hashlib.sha256(stored).hexdigest())

"""A model file's content, read within bounds: whole, unpacked, hashed, or refused in one sentence."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path

from ebmstruct.errors import DataError

MAX_BYTES = 2 << 30
"""No file, and nothing that a packed file unpacks to, may be larger."""
FREE_BYTES = 64 << 20
"""A packed file may always unpack to this much."""
MAX_RATIO = 200
"""Beyond FREE_BYTES it may grow to so many times its size; real models grow by 3 to 60."""

_PIECE = 4 << 20
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, eq=False)
class Source:
    """The unpacked content of a file.

    data: its bytes.  sha256: their hash, the same whether the file is packed or not.
    """

    path: Path
    data: bytes
    sha256: str

    def fault(self, offset: int, said: str) -> DataError:
        """What is wrong at a byte of the content, as one line that begins with file and line number."""
        line = self.data.count(b"\n", 0, offset) + 1
        return DataError(f"{self.path}:{line}: {said}")

    def text(self) -> str:
        """The content as text; DataError where it is not UTF-8."""
        if b"\0" in self.data:
            raise self.fault(self.data.index(b"\0"), "holds a zero byte, so it is not text")
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.fault(error.start, f"is not UTF-8 text (byte {self.data[error.start]:#04x})") from None

    def token(self, number: int, start: int = 0) -> tuple[int, str]:
        """The offset and the text (shortened) of a token, counted from 0, of those that begin at byte ``start``."""
        found = re.compile(rb"\S+").finditer(self.data, start)
        match = next(islice(found, number, None), None)
        if match is None:
            return len(self.data), ""
        return match.start(), shown(match[0])


def text_fault(path: Path, text: str, offset: int, said: str) -> DataError:
    """What is wrong at a character of a file's text, as one line that begins with file and line number."""
    return DataError(f"{path}:{text.count(chr(10), 0, offset) + 1}: {said}")


def shown(raw: bytes | str, length: int = 24) -> str:
    """A piece of a file in quotes, safe to print on one line, shortened."""
    text = raw[: length + 1].decode("ascii", errors="backslashreplace") if isinstance(raw, bytes) else raw[: length + 1]
    return repr(text if len(raw) <= length else text[:length] + "...")


def open_file(path: Path, what: str = "model file") -> BufferedReader:
    """A regular file opened for reading; DataError says in a line why it cannot be."""
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder, not a {what}")
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is not a regular file; save it as one first")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path}: has {size:,} bytes; a {what} may have {MAX_BYTES:,}")
        if not size:
            raise DataError(f"{path}: is empty")
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_source(path: Path | str, what: str = "model file", limit: int = MAX_BYTES) -> Source:
    """The content of a file, unpacked where it is gzip, whatever its name says.

    Memory is bounded by ``limit``, and for packed files by FREE_BYTES or MAX_RATIO times the file's size.
    Errors: DataError, one line, where the file is missing, no file, unreadable, damaged, empty or too large.
    """
    path = Path(path)
    try:
        with open_file(path, what) as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            data = _unpacked(path, file, limit) if packed else file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > limit:
        raise DataError(f"{path}: has more than {limit:,} bytes, the most that a {what} may have")
    if not data.strip():
        raise DataError(f"{path}: is empty")
    return Source(path, data, hashlib.sha256(data).hexdigest())


def _unpacked(path: Path, file: BufferedReader, limit: int) -> bytes:
    size = path.stat().st_size
    pieces, total = [], 0
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            while piece := stream.read(_PIECE):
                pieces.append(piece)
                total += len(piece)
                if total > max(FREE_BYTES, MAX_RATIO * size):
                    raise DataError(
                        f"{path}: unpacks to more than {MAX_RATIO} times its {size:,} bytes, which no real model does; "
                        f"unpack it first if it is meant so"
                    )
                if total > limit:
                    break
    except (OSError, EOFError, zlib.error) as error:
        said = " ".join(str(error).split()) or "unexpected end"
        raise DataError(f"{path}: is damaged: its gzip data break off after {total:,} bytes ({said})") from None
    return b"".join(pieces)

"""Lines of a text file, one after another: gzip by content, a stated encoding, every fault a sentence with its line."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from ebmstruct.errors import DataError

SAMPLE_BYTES = 65536
"""How much of a file's beginning is looked at to recognise its form."""
_GZIP = b"\x1f\x8b"
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_encoding(name: str) -> str:
    """The encoding's own name; ValueError where there is none of this name or it is none of texts."""
    try:
        found = codecs.lookup(name)
        "".encode(name)
    except (LookupError, ValueError):
        raise ValueError(
            f"encoding {name!r} is not known; utf-8, latin-1, cp1252 and utf-16 are frequent ones"
        ) from None
    return found.name


def sample(path: Path, encoding: str) -> str:
    """The beginning of a file as text, of whole lines where it has more than one."""
    with _opened(path) as file:
        raw = _checked(path, file, SAMPLE_BYTES)
    if not raw.strip(b"\r\n \t" + codecs.BOM_UTF8):
        raise DataError(f"{path}: the file is empty; a table needs a line of column names and at least two rows")
    if encoding == "utf-8" and raw.startswith(_WIDE):
        raise DataError(f"{path}: the file is in UTF-16; say so with encoding: utf-16")
    if encoding in ("utf-8", "iso8859-1", "cp1252") and b"\0" in raw:
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1
        raise DataError(f"{path}:{line}: holds a NUL byte, so it is not a text file; a table is CSV text")
    text = codecs.getincrementaldecoder(_signed(encoding))(errors="replace").decode(raw)
    if len(raw) == SAMPLE_BYTES and "\n" in text:
        text = text[: text.rindex("\n") + 1]
    return text


def lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a file with their ends; DataError, with the line, where bytes are not of the encoding."""
    number = 0
    with _opened(path) as file, io.TextIOWrapper(file, encoding=_signed(encoding), newline="") as text:
        try:
            for number, line in enumerate(text, 1):
                if "\0" in line:
                    raise DataError(f"{path}:{number}: holds a NUL byte, so it is not a text file; a table is CSV text")
                yield line
        except UnicodeDecodeError as fault:
            where = _bad_line(path, encoding) or number + 1
            byte = fault.object[fault.start] if isinstance(fault.object, bytes) else 0
            way_out = "encoding: latin-1 reads any bytes" if encoding == "utf-8" else "name another encoding"
            raise DataError(f"{path}:{where}: byte 0x{byte:02x} is not {encoding}; {way_out}") from None
        except (OSError, EOFError, zlib.error) as fault:
            raise _damaged(path, fault) from None


def _signed(encoding: str) -> str:
    return "utf-8-sig" if encoding == "utf-8" else encoding


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where it is gzip."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name a CSV file in it") from None
    except (OSError, ValueError) as fault:
        raise DataError(f"{path}: cannot be read ({getattr(fault, 'strerror', None) or fault})") from None
    with file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file


def _checked(path: Path, file: IO[bytes], size: int) -> bytes:
    try:
        return file.read(size)
    except (OSError, EOFError, zlib.error) as fault:
        raise _damaged(path, fault) from None


def _damaged(path: Path, fault: Exception) -> DataError:
    return DataError(f"{path}: the gzip file is damaged ({fault}); fetch or copy it again")


def _bad_line(path: Path, encoding: str) -> int | None:
    """The first line whose bytes are not of the encoding, where its lines can be told apart as bytes."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return number
    return None

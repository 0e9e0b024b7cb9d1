"""Text files in and out: plain or gzip by content, strict UTF-8, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ebmstruct.errors import DataError

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Content:
    """A file's text, line ends as "\\n"; gzipped: whether it was compressed; sha256: of the bytes as stored."""

    path: str
    text: str
    gzipped: bool
    sha256: str


def read_text(path: str | os.PathLike[str]) -> Content:
    """The text of a file; every fault is a DataError of one sentence. O(size) memory."""
    name = os.fspath(path)
    stored = _read_bytes(name)
    gzipped = stored[:2] == _GZIP
    raw = _gunzip(name, stored) if gzipped else stored
    if not raw.strip():
        raise DataError(f"{name}: the file is empty; tagged text is needed, one token a line or one record a line")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        skipped = 3 if raw.startswith(b"\xef\xbb\xbf") else 0  # the decoder counts from behind the byte order mark
        offset = fault.start + skipped
        line = raw.count(b"\n", 0, offset) + 1
        hint = "it looks like UTF-16; " if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise DataError(
            f"{name}:{line}: byte 0x{raw[offset]:02x} at offset {offset} is not valid UTF-8 ({fault.reason}); "
            f"{hint}convert the file to UTF-8, e.g. with iconv"
        ) from None
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return Content(name, text, gzipped, hashlib.sha256(stored).hexdigest())


def _read_bytes(name: str) -> bytes:
    if os.path.isdir(name):
        raise DataError(
            f"{name} is a folder, and a file is needed here; a folder of train, dev and test goes to task.data"
        )
    try:
        return Path(name).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{name}: there is no such file; check the path") from None
    except (OSError, ValueError) as fault:
        raise DataError(f"{name}: cannot be read ({getattr(fault, 'strerror', None) or fault})") from None


def _gunzip(name: str, stored: bytes) -> bytes:
    try:
        return gzip.decompress(stored)
    except EOFError:
        raise DataError(
            f"{name}: the gzip file of {len(stored)} bytes ends in the middle; fetch or copy it again"
        ) from None
    except (OSError, zlib.error) as fault:
        raise DataError(f"{name}: the gzip file is damaged ({fault}); fetch or copy it again") from None


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text atomically as UTF-8, compressed when the name ends in .gz."""
    target = Path(path)
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as fault:
        raise DataError(f"{target}: {text[fault.start]!r} is half a character and cannot be written as UTF-8") from None
    return write_bytes(target, gzip.compress(data, mtime=0) if target.suffix == ".gz" else data)


def write_bytes(target: Path, data: bytes) -> Path:
    """Write bytes beside the target and move them into place, so that nothing half-written is ever seen."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as stream:
            stream.write(data)
        os.replace(temporary, target)
    except OSError as fault:
        raise DataError(f"{target}: cannot be written ({fault.strerror or fault}); choose another place") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target

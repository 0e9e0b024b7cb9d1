"""Files written whole or not at all, JSON without surprises, and bounded reading."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ebmstruct.errors import RunFolderError

MAX_JSON_BYTES = 256 * 1024 * 1024


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name only once it is whole and on the disk; a fault leaves what was there before.

    A link is followed. A device, a pipe or a socket is written into as it is, since a file must never take its place.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        with _through(path) as file:
            yield file
        return
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    os.close(handle)
    try:
        with open(temporary, "wb") as file:  # by name, for libraries that open the file themselves
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


@contextlib.contextmanager
def _through(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes its name only once everything is in it; a fault leaves nothing.

    Errors: RunFolderError where there is something of that name already, other than an empty folder.
    """
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(f"cannot write {path}: it is there already; choose another name with --output")
        made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield made
        if path.exists():
            path.rmdir()
        made.chmod(0o777 & ~_umask())
        made.rename(path)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def sweep(path: Path) -> None:
    """Take away what writes of this file, or of any file of this folder, left half-done when their process was killed."""
    inside = path.is_dir()
    for left in (path if inside else path.parent).glob(".*.tmp" if inside else f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink()


def cannot_write(path: Path, error: OSError) -> RunFolderError:
    """The sentence for a file that the system does not let us write."""
    what = "file" if isinstance(error, IsADirectoryError) else "folder"
    return RunFolderError(f"cannot write {path}: {error.strerror or error}; choose another {what} with --output")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file by these bytes."""
    with atomic(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text, in UTF-8; half surrogate pairs become question marks."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a value as indented JSON; see ``plain`` for what becomes of each type."""
    write_text(path, json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Replace a file by one JSON value a line; the values may be generated while it is written."""
    with atomic(path) as file:
        for value in values:
            line = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
            file.write(line.encode("utf-8", errors="replace") + b"\n")


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """A file's bytes; RunFolderError where it is missing, unreadable, or larger than ``limit``."""
    try:
        if limit is not None and path.stat().st_size > limit:
            raise RunFolderError(f"{path} is larger than {limit // 2**20} MiB, so it is not what a run writes")
        return path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file; RunFolderError where there is none."""
    return parse_json(read_bytes(path, limit), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in these bytes; path is for messages."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise RunFolderError(f"{path} is not JSON ({said}); the run is damaged") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds {type(value).__name__} where a JSON object belongs; the run is damaged")
    return value


def sha256(data: bytes) -> str:
    """The hash of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """The hash of a file, read in pieces."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error


def plain(value: Any) -> Any:
    """A value as JSON can hold it: tuples and tensors become lists, non-finite numbers null, what is left text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(child) for child in items]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

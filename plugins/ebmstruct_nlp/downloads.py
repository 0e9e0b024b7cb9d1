"""Corpora that are fetched from their homes: pinned, checked, cached.

Every file is pinned to a commit and to the SHA-256 of its content, so that what was trained on is known.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ebmstruct.errors import DataError
from ebmstruct_nlp.files import write_bytes

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
_CHUNK = 1 << 16
_RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the network: where, how many bytes, and their SHA-256."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus that can be fetched. note: what a reader of its figures must know."""

    name: str
    title: str
    home: str
    licence: str
    files: Mapping[str, RemoteFile]
    note: str = ""

    def fetch(self, cache: str | os.PathLike[str] | None = None) -> dict[str, Path]:
        """Paths by split, downloading what the cache lacks; without network a DataError of one sentence.

        cache: a folder, by default the user's cache. A cached file is checked before it is used.
        """
        folder = (Path(cache) if cache else cache_folder()) / self.name
        wanted = {split: folder / remote.name for split, remote in self.files.items()}
        lacking = [split for split, path in wanted.items() if not _intact(path, self.files[split])]
        if not lacking:
            log.info("%s: from the cache %s", self.name, folder)
            return wanted
        total = sum(self.files[split].size for split in lacking)
        log.info("%s: fetching %.1f MB from %s (%s)", self.name, total / 1e6, self.home, self.licence)
        with _progress(f"fetching {self.name}", total) as advance:
            for split in lacking:
                write_bytes(wanted[split], self._download(self.files[split], advance))
        return wanted

    def _download(self, remote: RemoteFile, advance: Callable[[int], None]) -> bytes:
        """The bytes of one file, checked."""
        instead = "pass a folder that holds train, dev and test files: --set task.data=PATH"
        data = bytearray()
        try:
            with urllib.request.urlopen(remote.url, timeout=TIMEOUT_S) as answer:
                while len(data) <= remote.size and (chunk := answer.read(_CHUNK)):
                    data += chunk
                    advance(len(chunk))
        except (OSError, http.client.HTTPException) as fault:
            reason = getattr(fault, "reason", None) or fault
            raise DataError(
                f"{self.name}: {remote.url} could not be fetched ({reason}); without network, {instead}"
            ) from None
        if (digest := hashlib.sha256(data).hexdigest()) != remote.sha256:
            raise DataError(
                f"{self.name}: {remote.url} gave {len(data)} bytes with SHA-256 {digest[:12]}…, but {remote.size} with "
                f"{remote.sha256[:12]}… are pinned; nothing was kept; try again, or {instead}"
            )
        return bytes(data)


def cache_folder() -> Path:
    """Where fetched corpora live: ``$XDG_CACHE_HOME/ebmstruct`` or ``~/.cache/ebmstruct``."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(root) if root and Path(root).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise DataError("there is no home folder to keep a cache in; set XDG_CACHE_HOME to a folder") from None
    return base / "ebmstruct"


def _intact(path: Path, remote: RemoteFile) -> bool:
    """Whether the cache holds exactly the pinned bytes."""
    try:
        return path.stat().st_size == remote.size and hashlib.sha256(path.read_bytes()).hexdigest() == remote.sha256
    except OSError:
        return False


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr when that is a terminal and rich is there; otherwise silent."""
    try:
        shown = sys.stderr.isatty()
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    except (ImportError, AttributeError, ValueError):
        shown = False
    if not shown:
        yield lambda count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


_UNER = f"{_RAW}/UniversalNER/UNER_English-EWT"
_UNER_FINAL = "8ed072de2fd24022cc62458997fe96a8fe191ea4"
_UNER_FIRST = "0c7ce0debb13a7d304da656f16309397e8ff36ef"
_UD = f"{_RAW}/UniversalDependencies/UD_English-EWT/15d613d8447b3478787d4c278730a1e48a945efb"

CORPORA: dict[str, Corpus] = {
    "uner_en_ewt": Corpus(
        name="uner_en_ewt",
        title="UNER English-EWT (named entities: PER, LOC, ORG)",
        home="https://github.com/UniversalNER/UNER_English-EWT",
        licence="CC BY-SA 4.0",
        files={
            "train": RemoteFile(
                f"{_UNER}/{_UNER_FIRST}/en_ewt-ud-train.iob2",
                3963291,
                "2d986b063bb92df99540e37de34b1415eb2a22958b86de3e4698ec3be05e339f",
            ),
            "dev": RemoteFile(
                f"{_UNER}/{_UNER_FINAL}/en_ewt-ud-dev.iob2",
                620415,
                "0cafd881cf31d39897b6d588420fab8fbbe4423d271725c59921ac9dd49c0713",
            ),
            "test": RemoteFile(
                f"{_UNER}/{_UNER_FINAL}/en_ewt-ud-test.iob2",
                623751,
                "821ad826d5f503ac03b4edc3fbc2174f21fbb005ec25863caf2051c434616d6e",
            ),
        },
        note="train is the first published annotation (blob 236914d9…), dev and test are the final ones; "
        "OTH and stray B-O are read as O",
    ),
    "ud_en_ewt": Corpus(
        name="ud_en_ewt",
        title="UD English-EWT (universal part-of-speech tags)",
        home="https://github.com/UniversalDependencies/UD_English-EWT",
        licence="CC BY-SA 4.0",
        files={
            "train": RemoteFile(
                f"{_UD}/en_ewt-ud-train.conllu",
                14203025,
                "3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b",
            ),
            "dev": RemoteFile(
                f"{_UD}/en_ewt-ud-dev.conllu",
                1805545,
                "531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6",
            ),
            "test": RemoteFile(
                f"{_UD}/en_ewt-ud-test.conllu",
                1804515,
                "e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd",
            ),
        },
        note="the state after release 2.16",
    ),
}


def corpus_named(name: str) -> Corpus:
    """The corpus of that name; unknown names are refused with the legal ones."""
    if name not in CORPORA:
        raise DataError(f"corpus {name!r} is unknown; legal are {', '.join(CORPORA)}, or a folder of one's own files")
    return CORPORA[name]

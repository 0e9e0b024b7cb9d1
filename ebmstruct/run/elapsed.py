"""A line on standard error while something takes longer than a second."""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType
from typing import Self

_LINES_S = (1, 5, 10, 30)
"""When a log that is no terminal gets a line; afterwards every minute."""
_LIVE_S = (1.0, 0.25)
"""When a terminal gets its line, and how often that is renewed."""
_CLEAR = "\r\x1b[K"
_COMPILING = "compiling, first use only (ebmstruct warm does it beforehand)"


class Elapsed:
    """Says how long the work inside ``with`` has taken: a line that renews itself on a terminal, else a few lines.

    what: the work, for the line.  started: the instant (monotonic clock) from which to count.
    deadline: how many seconds it may take, or None.
    """

    def __init__(self, what: str, started: float, deadline: float | None = None, *, quiet: bool = False) -> None:
        self._what = what
        self._started = started
        self._limit = "" if deadline is None else f" of {deadline:g} s"
        self._live = sys.stderr.isatty()
        self._done = threading.Event()
        self._thread = None if quiet else threading.Thread(target=self._tell, name="elapsed", daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            for handler in self._handlers():
                handler.addFilter(self._make_room)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            for handler in self._handlers():
                handler.removeFilter(self._make_room)

    def _handlers(self) -> list[logging.Handler]:
        return logging.getLogger("ebmstruct").handlers if self._live else []

    def _make_room(self, record: logging.LogRecord) -> bool:
        """A log line goes where the renewed line stood, which comes back under it."""
        sys.stderr.write(_CLEAR)
        return True

    def _tell(self) -> None:
        told = 0
        while not self._done.wait(self._pause(told)):
            seconds = time.monotonic() - self._started
            line = f"{self._what}: {seconds:.0f} s{self._limit}{', ' + _COMPILING if _compiling() else ''}"
            sys.stderr.write(f"{_CLEAR}{line}" if self._live else f"{line}\n")
            sys.stderr.flush()
            told += 1
        if self._live and told:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def _pause(self, told: int) -> float:
        """Seconds until the next line."""
        if self._live:
            return _LIVE_S[min(told, 1)]
        passed = time.monotonic() - self._started
        ahead = [s for s in _LINES_S if s > passed + 0.01]
        return ahead[0] - passed if ahead else 60.0


def _compiling() -> bool:
    """Whether kernels are being compiled; nothing is imported to find out."""
    compiler = sys.modules.get("ebmstruct.inference.kernels.compiler")
    compilations = getattr(compiler, "compilations", None)
    return compilations is not None and compilations.busy()

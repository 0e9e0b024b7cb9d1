"""The log of a run: kept in memory until the folder exists, then in its run.log."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path
from types import TracebackType
from typing import Self

from ebmstruct import storage

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunLog:
    """While it is open, everything that ebmstruct logs is kept; ``to`` gives it a file, and the rest follows there."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("ebmstruct")
        self._memory = logging.handlers.MemoryHandler(1, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        # the handler asks itself whether it is full; without a target there is nowhere to empty it to
        self._memory.setLevel(logging.DEBUG)
        self._level = self._logger.level

    def __enter__(self) -> Self:
        self._level = self._logger.level
        if self._logger.getEffectiveLevel() > logging.INFO:
            self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self._memory)
        return self

    def to(self, path: Path) -> None:
        """Append to this file from now on, beginning with what was logged before."""
        try:
            handler = logging.FileHandler(path, encoding="utf-8", errors="replace")
        except OSError as error:
            raise storage.cannot_write(path, error) from error
        handler.setFormatter(logging.Formatter(_FORMAT))
        self._memory.setTarget(handler)
        self._memory.flush()

    def note(self, message: str, error: BaseException | None = None) -> None:
        """Write to the log alone, with the traceback of an error: the user has been told otherwise."""
        trace = None if error is None else (type(error), error, error.__traceback__)
        record = logging.LogRecord("ebmstruct.run", logging.INFO, __file__, 0, message, None, trace)
        self._memory.handle(record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._logger.removeHandler(self._memory)
        self._logger.setLevel(self._level)
        self._memory.flush()
        target = self._memory.target
        self._memory.close()
        if target is not None:
            target.close()

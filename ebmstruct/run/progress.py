"""Live progress of a run on a terminal's standard error; on anything else, one plain line now and then."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ebmstruct.run.runner import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

logger = logging.getLogger(__name__)


class Quiet:
    """Shows nothing: the log has one line an epoch already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        return

    def __call__(self, progress: Progress) -> None:
        return


class Live:
    """A bar for each stage with loss, speed and the time that is left; log lines scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.logging import RichHandler
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._handler = RichHandler(console=console, show_path=False, show_level=False, markup=False)
        self._handler.setLevel(logging.INFO)
        self._stages: dict[str, TaskID] = {}
        self._others: list[tuple[logging.Handler, int]] = []
        self._last = 0.0

    def __enter__(self) -> Self:
        # while bars are drawn, the plain handler on the same terminal would tear them
        root = logging.getLogger("ebmstruct")
        for handler in root.handlers:
            if type(handler) is logging.StreamHandler and handler.stream in (sys.stderr, sys.__stderr__):
                self._others.append((handler, handler.level))
                self._handler.setLevel(handler.level)
                handler.setLevel(logging.CRITICAL + 1)
        root.addHandler(self._handler)
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()
        logging.getLogger("ebmstruct").removeHandler(self._handler)
        for handler, level in self._others:
            handler.setLevel(level)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        first = progress.stage not in self._stages
        total = progress.total or None
        done: float = progress.done
        said = ""
        if progress.event is not None:
            event = progress.event
            total = event.epochs
            done = event.epoch - 1 + event.step / event.steps
            said = _told(event)
            if now - self._last < 0.08 and event.step < event.steps:
                return
        self._last = now
        if first:
            for stage in self._stages.values():
                self._bars.update(stage, visible=False)
            self._stages[progress.stage] = self._bars.add_task(progress.stage, total=total, said=said)
        self._bars.update(self._stages[progress.stage], completed=done, total=total, said=said)


def _told(event: Any) -> str:
    left = max(0, round(event.eta_s))
    rest = f"{left // 60}:{left % 60:02d} left"
    return f"epoch {event.epoch}/{event.epochs}  loss {event.loss:.4g}  {event.examples_per_s:,.0f} examples/s  {rest}"


def display(*, quiet: bool) -> Live | Quiet:
    """Bars where standard error is a terminal and nobody asked for quiet, else nothing."""
    return Live() if not quiet and sys.stderr.isatty() else Quiet()

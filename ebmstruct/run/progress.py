"""Live progress of a run on a terminal's standard error; on anything else, one plain line now and then."""

from __future__ import annotations

import logging
import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ebmstruct.run.runner import Progress

if TYPE_CHECKING:
    from rich.console import Group
    from rich.progress import TaskID

    from ebmstruct.learning.training import TrainingEvent

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
    """A bar for the stage at hand, and below it the figures of the training; log lines scroll above them.

    It fits a terminal of 100 columns; a narrower one cuts the bar first.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as Screen
        from rich.logging import RichHandler
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=18),
            TextColumn("{task.fields[said]}", table_column=Column(no_wrap=True)),
        )
        self._figures = ""
        self._screen = Screen(console=console, transient=True, get_renderable=self._drawn, refresh_per_second=8)
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
        self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._screen.stop()
        logging.getLogger("ebmstruct").removeHandler(self._handler)
        for handler, level in self._others:
            handler.setLevel(level)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        event = progress.event
        first = progress.stage not in self._stages
        if event is not None and not first and now - self._last < 0.08 and event.step < event.steps:
            return
        self._last = now
        total, done = progress.total or None, float(progress.done)
        said = f"{progress.done:,} of {progress.total:,}" if progress.total else ""
        if event is not None:
            total, done, said = event.epochs, event.epoch - 1 + event.step / event.steps, where(event)
        if first:
            for stage in self._stages.values():
                self._bars.update(stage, visible=False)
            self._stages[progress.stage] = self._bars.add_task(progress.stage, total=total, said=said)
        self._figures = "" if event is None else figures(event)
        self._bars.update(self._stages[progress.stage], completed=done, total=total, said=said)

    def _drawn(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        lines = [Text(self._figures, no_wrap=True, overflow="ellipsis")] if self._figures else []
        return Group(self._bars, *lines)


def where(event: TrainingEvent) -> str:
    """Where the training stands, how fast it goes and what is left; at most 70 characters for sane numbers."""
    step = f"step {event.step}/{event.steps}  " if event.steps > 1 else ""
    return (
        f"epoch {event.epoch}/{event.epochs}  {step}{event.examples_per_s:,.0f} examples/s  {_clock(event.eta_s)} left"
    )


def figures(event: TrainingEvent) -> str:
    """Loss, energies, their margin and the gradient of a step in one line of at most 100 characters.

    What a loss does not compare is left out.
    """
    said = [f"loss {_short(event.loss)}"]
    if not math.isnan(event.margin):
        said.append(f"E correct {_short(event.energy_correct)}")
        said.append(f"E incorrect {_short(event.energy_incorrect)}")
        said.append(f"margin {_short(event.margin)}")
    return "  ".join([*said, f"gradient norm {_short(event.gradient_norm)}"])


def _short(value: float) -> str:
    """Four digits, in at most nine characters."""
    size = abs(value)
    if value == 0 or not 1e-3 <= size < 1e7:
        return f"{value:.2g}" if size < 1e-3 else f"{value:.2e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(size)))}f}"


def _clock(seconds: float) -> str:
    left = max(0, round(seconds))
    hours, minutes = divmod(left // 60, 60)
    return f"{hours}:{minutes:02d}:{left % 60:02d}" if hours else f"{minutes}:{left % 60:02d}"


def display(*, quiet: bool) -> Live | Quiet:
    """Bars where standard error is a terminal and nobody asked for quiet, else nothing."""
    return Live() if not quiet and sys.stderr.isatty() else Quiet()

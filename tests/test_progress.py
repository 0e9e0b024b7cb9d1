"""Live progress: every figure has its label, and it fits a terminal of 100 columns."""

from __future__ import annotations

import io
import math
import sys

import pytest

from ebmstruct.learning import TrainingEvent
from ebmstruct.run.progress import Live, Quiet, display, figures, where
from ebmstruct.run.runner import Progress

USUAL = TrainingEvent(2, 10, 120, 400, 1.2114, 0.5567, 1234.5, 63.0, -12.3449, -13.5561, -1.2112, 0.001)
HUGE = TrainingEvent(*(99, 100, 123456, 234567), -1.23456e-12, 9.8e30, 123456.0, 45296.0, -1.2e38, -1234567.8, -9999.99)
BARE = TrainingEvent(1, 3, 1, 1, 0.25, 1e-9, 10.0, 0.4)


def test_labels() -> None:
    """Loss, both energies, margin, gradient norm, speed and the time that is left, in words; none that is not there."""
    assert where(USUAL) == "epoch 2/10  step 120/400  1,234 examples/s  1:03 left"
    assert figures(USUAL) == "loss 1.211  E correct -12.34  E incorrect -13.56  margin -1.211  gradient norm 0.5567"
    assert (where(BARE), figures(BARE)) == ("epoch 1/3  10 examples/s  0:00 left", "loss 0.2500  gradient norm 1e-09")
    assert where(HUGE).endswith("12:34:56 left") and "loss -1.2e-12" in figures(HUGE) and math.isnan(BARE.margin)


@pytest.mark.parametrize("event", [USUAL, HUGE, BARE], ids=["usual", "huge", "bare"])
def test_it_fits(event: TrainingEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cut off in 100 columns, whatever the numbers."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    live = display(quiet=False)
    assert isinstance(live, Live) and isinstance(display(quiet=True), Quiet)
    with live:
        live(Progress("reading data"))
        live(Progress("training", event.epoch, event.epochs, event))
    with live._screen.console.capture() as capture:
        live._screen.console.print(live._drawn())
    lines = capture.get().splitlines()
    assert len(lines) == 2 and where(event) in lines[0] and figures(event) in lines[1]
    assert len(figures(event)) <= 100

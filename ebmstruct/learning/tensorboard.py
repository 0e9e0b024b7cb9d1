"""The one door to TensorBoard: event files with the figures of steps and epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ebmstruct.errors import ConfigError
from ebmstruct.learning.tracing import TrainingEvent

FOLDER = "tensorboard"
_STEP = ("loss", "gradient_norm", "lr", "energy_correct", "energy_incorrect", "margin", "examples_per_s")
_NOT_SHOWN = ("epoch", "seconds", "cpu_seconds")


def require_tensorboard() -> None:
    """ConfigError with the command that installs it where TensorBoard is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ConfigError(
            ["train.tensorboard: TensorBoard is not installed; pip install 'ebmstruct[tensorboard]'"]
        ) from None


class EventFiles:
    """Event files in the folder ``tensorboard`` of a run: ``step/...`` every few steps, ``epoch/...`` once an epoch.

    A resumed training adds a file, whose first event tells TensorBoard to drop what later steps had left.
    """

    def __init__(self, folder: Path, after: int) -> None:
        """Open a file for the steps that follow step ``after``."""
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=after + 1 if after else None)

    def step(self, step: int, event: TrainingEvent) -> None:
        """Write a step's figures; the step is counted over all epochs."""
        self._write("step", {name: getattr(event, name) for name in _STEP}, step)

    def epoch(self, step: int, row: Mapping[str, float]) -> None:
        """Write an epoch's figures, at the step that it ended with."""
        self._write("epoch", {k: v for k, v in row.items() if k not in _NOT_SHOWN}, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()

    def _write(self, group: str, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            if not math.isnan(value):
                self._writer.add_scalar(f"{group}/{name}", value, step)

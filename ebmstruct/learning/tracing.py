"""What a training tells while it runs: figures of steps and epochs, events, and the trace of its steps in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from ebmstruct.learning.losses import LossValue
from ebmstruct.learning.losses.base import CLIPPED
from ebmstruct.storage import cannot_write

STEPS_FILE = "steps.csv"
COLUMNS = (
    *("step", "epoch", "loss", "gradient_norm", "lr", "energy_correct", "energy_incorrect", "margin"),
    "examples_per_s",
)
"""Of the step trace; the energies are empty where a loss compares none."""


@dataclass(frozen=True)
class TrainingEvent:
    """One step of the training, for whoever shows progress. Epochs and steps count from 1.

    loss: the mean of the step's examples.  examples_per_s: in this epoch.  eta_s: seconds that are left at the speed so
    far, evaluations and checkpoints included, if nothing stops the training early.
    energy_correct, energy_incorrect: means of the energies that the loss pulls down and pushes up (``LossValue``);
    margin: the second less the first; NaN where the loss compares no two energies.  lr: the step size.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    gradient_norm: float
    examples_per_s: float
    eta_s: float
    energy_correct: float = math.nan
    energy_incorrect: float = math.nan
    margin: float = math.nan
    lr: float = math.nan


@dataclass
class TrainingTrace:
    """What training was like: one mapping of numbers an epoch, and the epoch whose weights were kept.

    best: the dev metric there.  evaluated: the last epoch that was evaluated.
    rollbacks: where the training had come apart and went back: ``epoch`` and ``step`` of the fault, ``to_epoch`` and
    ``to_step`` (all from 1, but 0 for the beginning), ``reason``, ``scale`` (of the step size from there on), ``said``.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: float = float("-inf")
    evaluated: int = 0
    rollbacks: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Sums:
    """What is summed over the examples of a step, or over the steps of an epoch so far.

    loss, correct, incorrect: over examples, the last two over the ``compared`` ones whose two energies are finite.
    gradient_norm: over steps.  clipped: the share of samples' numbers at a clip, over examples.
    """

    examples: int = 0
    steps: int = 0
    loss: float = 0.0
    gradient_norm: float = 0.0
    correct: float = 0.0
    incorrect: float = 0.0
    compared: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    clipped: float = 0.0

    def add(self, other: Sums) -> None:
        """Count the other's in."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def count(self, found: LossValue) -> None:
        """Count the examples of a loss value in."""
        self.examples += found.value.shape[0]
        if CLIPPED in found.figures:
            self.clipped += float(found.figures[CLIPPED].sum())
        if found.correct is None or found.incorrect is None:
            self.loss += float(found.value.detach().sum())
            return
        rows = torch.stack([found.value.detach().double(), found.correct.detach(), found.incorrect.detach()])
        loss, correct, incorrect = rows.sum(1).tolist()  # one reading back from the device
        self.loss += loss
        count = rows.shape[1]
        if not math.isfinite(correct - incorrect):
            rows = rows[:, torch.isfinite(rows[1:]).all(0)]
            _, correct, incorrect = rows.sum(1).tolist()
            count = rows.shape[1]
        self.correct, self.incorrect = self.correct + correct, self.incorrect + incorrect
        self.compared += count

    @property
    def energy_correct(self) -> float:
        """Mean energy of what the loss pulls down, or NaN."""
        return self.correct / self.compared if self.compared else math.nan

    @property
    def energy_incorrect(self) -> float:
        """Mean energy of what the loss pushes up, or NaN."""
        return self.incorrect / self.compared if self.compared else math.nan

    @property
    def margin(self) -> float:
        """How far the second lies above the first, or NaN."""
        return self.energy_incorrect - self.energy_correct

    def row(self, epoch: int) -> dict[str, float]:
        """The row of an epoch in the trace."""
        row = {
            "epoch": float(epoch),
            "loss": self.loss / max(1, self.examples),
            "gradient_norm": self.gradient_norm / max(1, self.steps),
        }
        if self.compared:
            row["train_energy_correct"] = self.energy_correct
            row["train_energy_incorrect"] = self.energy_incorrect
            row["train_margin"] = self.margin
        return {**row, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}

    def state(self) -> list[float]:
        """What a checkpoint must hold."""
        return list(astuple(self))

    @classmethod
    def of(cls, state: Sequence[float]) -> Sums:
        """Take over what ``state`` gave."""
        return cls(*state)  # type: ignore[arg-type]


class StepTrace:
    """A CSV file with a row every few steps, which each row reaches at once.

    A resumed training cuts off the rows after its checkpoint, so that no step is there twice.
    """

    def __init__(self, path: Path, after: int) -> None:
        """Open the file for the steps that follow step ``after``; with 0 it begins anew."""
        self._path = path
        try:
            keep = _length_until(path, after) if after and path.exists() else 0
            self._file: IO[str] = path.open("r+" if keep else "w", encoding="utf-8", newline="", buffering=1)
            if keep:
                self._file.truncate(keep)
                self._file.seek(keep)
            else:
                self._file.write(",".join(COLUMNS) + "\n")
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, step: int, event: TrainingEvent) -> None:
        """Append the row of a step, counted over all epochs."""
        figures = [getattr(event, name) for name in COLUMNS[2:]]
        cells = [str(step), str(event.epoch), *("" if math.isnan(v) else f"{v:.9g}" for v in figures)]
        self._file.write(",".join(cells) + "\n")

    def back(self, step: int) -> None:
        """Take away the rows after a step, to which the training has gone back."""
        self._file.flush()
        keep = _length_until(self._path, step)
        self._file.seek(keep)
        self._file.truncate(keep)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _length_until(path: Path, step: int) -> int:
    """The bytes of the header and of the whole rows up to a step; 0 where the file is no step trace."""
    length = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            first = line.split(b",", 1)[0]
            if number == 0:
                fine = line == ",".join(COLUMNS).encode() + b"\n"
            else:
                fine = line.endswith(b"\n") and first.isdigit() and int(first) <= step
            if not fine:
                break
            length += len(line)
    return length

"""Where a training stands, and when and how that is written down, so that a killed one goes on to the same bits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmstruct.energies import EnergyModel
from ebmstruct.errors import RunFolderError
from ebmstruct.learning.checkpoint import load_tree, save_tree, settled
from ebmstruct.learning.divergence import CameApart, Watch
from ebmstruct.learning.optimizing import Averager, Optimizers
from ebmstruct.learning.options import WRITING, TrainingOptions
from ebmstruct.learning.tracing import Sums, TrainingTrace
from ebmstruct.storage import sweep

_SHARE = 20
"""A checkpoint that took a second is followed by none for this many seconds."""


@dataclass
class Standing:
    """All that a step of the training depends on, and all that it changes.

    epoch: how many are done.  step: how many steps of the present one.  sums: their figures.  loss_state: what the loss
    keeps from step to step. Noise needs no entry: every step seeds its own, from where it stands.
    watch: what is remembered of the steps.  good: the place to go back to (``core``), once there is one.  repeats: how
    often it was gone back to.  scale: what the step size is multiplied by since then.
    """

    model: EnergyModel
    optimizer: Optimizers
    averager: Averager | None
    trace: TrainingTrace = field(default_factory=TrainingTrace)
    best_weights: dict[str, Tensor] | None = None
    epoch: int = 0
    step: int = 0
    sums: Sums = field(default_factory=Sums)
    loss_state: Any = None
    watch: Watch = field(default_factory=Watch)
    good: dict[str, Any] | None = None
    repeats: int = 0
    scale: float = 1.0

    def keep(self, state: Any, loss: str) -> None:
        """Take over what a loss returned; TypeError where no checkpoint could hold it."""
        try:
            self.loss_state = settled(state)
        except TypeError as fault:
            raise TypeError(f"the state of loss {loss} cannot be kept: {fault}") from None

    def core(self) -> dict[str, Any]:
        """What comes back when the training goes back; it shares memory with what goes on."""
        trace = self.trace
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums.state(),
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.averager is None else self.averager.state(),
            "best_weights": self.best_weights,
            "trace": [list(trace.epochs), trace.best_epoch, trace.best, trace.evaluated],
            "loss_state": self.loss_state,
            "watch": self.watch.state(),
        }

    def load_core(self, saved: Any) -> None:
        """Take over what ``core`` gave; how often the training went back stays."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.averager is not None:
            self.averager.load(saved["average"])
        self.best_weights = saved["best_weights"]
        epochs, best_epoch, best, evaluated = saved["trace"]
        self.trace = TrainingTrace(epochs, best_epoch, best, evaluated, self.trace.rollbacks)
        self.sums = Sums.of(saved["sums"])
        self.watch.load(saved["watch"])
        self.epoch, self.step, self.loss_state = saved["epoch"], saved["step"], saved["loss_state"]

    def tree(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        back = {"good": self.good, "repeats": self.repeats, "scale": self.scale, "rollbacks": self.trace.rollbacks}
        return {**self.core(), "back": back}

    def load(self, saved: Any) -> None:
        """Take over what ``tree`` gave."""
        back = saved["back"]
        self.good, self.repeats, self.scale = back["good"], back["repeats"], back["scale"]
        self.trace = TrainingTrace(rollbacks=back["rollbacks"])
        self.load_core(saved)


class Checkpoints:
    """The file in which the last checkpoint stands, and when the next one is due.

    Written whole or not at all, over the one before. None of this changes what is learned: from any checkpoint training
    goes on to the same bits.
    """

    def __init__(self, path: Path | None, options: TrainingOptions, facts: Mapping[str, Any]) -> None:
        """facts: what must be the same when training is resumed, beside the options."""
        self.path, self.options, self.facts = path, options, dict(facts)
        self.written: tuple[int, int] | None = None
        self._last, self._cost = time.monotonic(), 0.0
        if path is not None:
            sweep(path)

    def resume(self, standing: Standing) -> bool:
        """Bring the training to where the checkpoint stands; False where there is none.

        RunFolderError where it is of another training, or does not fit the model.
        """
        if self.path is None or not self.path.exists():
            return False
        saved = load_tree(self.path)
        try:
            self._check_same(saved)
            standing.load(saved["standing"])
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as fault:
            raise RunFolderError(
                f"{self.path}: the checkpoint does not fit this model ({type(fault).__name__}: {fault}); delete it to "
                "start anew"
            ) from None
        self.written = (standing.epoch, standing.step)
        return True

    def due(self, steps_done: int) -> bool:
        """Whether to write one within an epoch, after this many steps of the whole training."""
        if self.path is None:
            return False
        every, seconds = self.options.checkpoint_steps, self.options.checkpoint_s
        if every is not None and steps_done % every == 0:
            return True
        return seconds is not None and time.monotonic() - self._last >= max(seconds, _SHARE * self._cost)

    def due_after_epoch(self, *, over: bool) -> bool:
        """Whether to write one after an epoch: yes at the end and the first time, else if the last one's cost is paid."""
        if self.path is None:
            return False
        return over or self.written is None or time.monotonic() - self._last >= _SHARE * self._cost

    def write(self, standing: Standing) -> None:
        """Write one now; CameApart, and the one before stays, where weights are not finite."""
        if self.path is None or self.written == (standing.epoch, standing.step):
            return
        started = time.monotonic()
        self.check_finite(standing)
        save_tree(self.path, {"options": asdict(self.options), "facts": self.facts, "standing": standing.tree()})
        self.written = (standing.epoch, standing.step)
        self._last = time.monotonic()
        self._cost = self._last - started

    def check_finite(self, standing: Standing) -> None:
        """CameApart where the weights are no longer finite."""
        name = not_finite(standing.model)
        if name is not None:
            raise CameApart(f"the weights {name} are no longer finite")

    def last_good(self) -> str:
        """Where the last checkpoint is, in a sentence."""
        if self.path is None or self.written is None:
            return "No checkpoint had been written"
        epoch, step = self.written
        return f"The last checkpoint with finite weights, after epoch {epoch} and {step} more steps, is {self.path}"

    def _check_same(self, saved: Any) -> None:
        own = {**asdict(self.options), **self.facts}
        there = {**saved["options"], **saved["facts"]}
        changed = [key for key in own if key not in ("epochs", *WRITING) and own[key] != there.get(key)]
        if changed:
            raise RunFolderError(
                f"{self.path}: cannot resume, since {', '.join(changed)} differ from the run that was stopped; start anew "
                "without --resume"
            )


def not_finite(model: EnergyModel) -> str | None:
    """The name of a parameter that is not finite, or None."""
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            return name
    return None

"""Going back: where a training was last sound, and how it goes on from there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ebmstruct.errors import TrainingDiverged
from ebmstruct.learning.divergence import CameApart
from ebmstruct.learning.losses import Loss
from ebmstruct.learning.options import TrainingOptions
from ebmstruct.learning.snapshot import Checkpoints, Standing, not_finite

OFTEN = 100
"""Steps between places to go back to, of losses by samples."""
_ADVICE = "try a smaller train.lr or train.clip"
_ADVICE_BY_SAMPLES = (
    "try a smaller train.lr, train.clip, or of the loss a larger energy_decay, more steps, data_noise or clip_sample "
    "(docs/stability.md has them all)"
)
FORBIDDEN = "a target is forbidden by the energy's hard constraints, or an option of the loss is infinite"
"""What an infinite loss at sound weights comes from."""
MEND = "it is so at sound weights too: look at what they hold, and mend or drop them"
"""Of examples whose loss is no number at sound weights."""


class Recovery:
    """Keeps one place to go back to in memory, and in every checkpoint, so that a resumed training goes back to it too.

    A place is kept every so many steps while the figures are far from any sign of divergence: a copy of the weights, the
    optimiser, the average, the best weights and what the loss keeps. On a divergence all these come back, the step size
    is multiplied by a factor, noise is drawn anew, and where the place is the same a second time the loss begins without
    its chains. Cost: the copy, in time and in memory.
    """

    def __init__(self, options: TrainingOptions, loss: Loss, steps: int) -> None:
        """steps: in an epoch."""
        self.options, self.by_samples, self.steps = options, loss.by_samples, steps
        self.on = options.rollback > 0 and options.optimizer != "lbfgs"
        self.every = options.rollback_steps or (OFTEN if loss.by_samples else steps)

    def keep(self, at: Standing) -> None:
        """Keep the place where the training stands, where one is due and all is well."""
        if not self.on or (at.good is not None and (at.epoch * self.steps + at.step) % self.every):
            return
        if at.good is not None and (at.good["epoch"], at.good["step"]) == (at.epoch, at.step):
            return  # it has just come back to it
        if at.watch.calm and not_finite(at.model) is None:
            at.good, at.repeats = copy.deepcopy(at.core()), 0

    def back(self, at: Standing, fault: CameApart, checkpoints: Checkpoints) -> str:
        """Go back; what is to be said of it. TrainingDiverged where that is over."""
        done = at.trace.rollbacks
        where = f"epoch {at.epoch + 1}, step {at.step + 1}: {fault.reason}"
        if not self.on or at.good is None or len(done) >= self.options.rollback:
            raise self.given_up(at, fault, where, checkpoints)
        epoch, step = at.epoch + 1, at.step + 1
        at.load_core(copy.deepcopy(at.good))
        at.repeats += 1
        if at.repeats > 1:
            at.loss_state = None
        change = self.options.rollback_factor**at.repeats
        at.scale *= change
        again = " again" if at.repeats > 1 else ""
        said = f"{where}; went back{again} to {_place(at)}, {_cut(change)} ({len(done) + 1} of {self.options.rollback})"
        entry = {
            "epoch": epoch, "step": step, "to_epoch": at.epoch + 1 if at.epoch or at.step else 0, "to_step": at.step,
            "reason": fault.reason, "scale": at.scale, "said": said,
        }  # fmt: skip
        at.trace.rollbacks = [*done, entry]
        return said

    def given_up(self, at: Standing, fault: CameApart, where: str, checkpoints: Checkpoints) -> TrainingDiverged:
        """The error, with what to try and where the last checkpoint is."""
        advice = fault.advice or (_ADVICE_BY_SAMPLES if self.by_samples else _ADVICE)
        if fault.advice is None and fault.infinite:
            advice += f"; or {FORBIDDEN}"
        count, tried = len(at.trace.rollbacks), ""
        if count:
            times = "once" if count == 1 else f"{count} times"
            tried = f" It had gone back {times}, down to {at.scale:.3g} of the step size."
        return TrainingDiverged(f"{where}; {advice}.{tried} {checkpoints.last_good()}")


def suspects(examples: Sequence[int], values: Tensor) -> list[int]:
    """The numbers of the examples whose value (B,) is not finite."""
    wrong = ~torch.isfinite(values.detach())
    return [int(examples[i]) for i in wrong.nonzero()[:, 0].tolist()]


def outlier(examples: Sequence[int], energies: Tensor) -> str:
    """Which example the data's mean energy is mostly due to, as the end of a clause; empty where it is none in particular.

    energies: (B,) of the targets.
    """
    away = (energies - energies.median()).abs()
    most = int(away.argmax()) if away.numel() > 2 else 0
    rest = away.sum() - away[most] if away.numel() > 2 else torch.inf
    if not float(away[most]) > 10.0 * float(rest):
        return ""
    value, usual = float(energies[most]), float(energies.median())
    return f", most of it by training example {examples[most] + 1} (energy {value:.4g}, the median is {usual:.4g})"


def named(examples: Sequence[int]) -> str:
    """Training examples by their numbers, counted from 1."""
    numbers = [str(e + 1) for e in examples[:5]]
    more = f" and {len(examples) - 5} more" if len(examples) > 5 else ""
    return f"training example{'s' if len(examples) > 1 else ''} {', '.join(numbers)}{more}"


def _place(at: Standing) -> str:
    if not at.epoch and not at.step:
        return "the beginning"
    return f"epoch {at.epoch + 1}, step {at.step}" if at.step else f"the end of epoch {at.epoch}"


def _cut(change: float) -> str:
    words: dict[Any, str] = {0.5: "step size halved", 0.25: "step size quartered"}
    return words.get(change, f"step size times {change:.3g}")

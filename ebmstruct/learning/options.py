"""What a user may set of the training: the keys of the YAML section ``train``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

OptimizerName = Literal["adamw", "adam", "adagrad", "sgd", "lbfgs"]
ScheduleName = Literal["constant", "linear", "cosine", "inverse_sqrt"]
PrecisionName = Literal["float32", "bfloat16", "float64"]

WRITING = ("checkpoint_steps", "checkpoint_s", "trace_steps", "tensorboard")
"""Options that change what is written down and nothing of what is learned, so a resumed training may have others."""


@dataclass(frozen=True)
class TrainingOptions:
    """How long, how fast and by which optimiser to train.

    epochs: passes over the training data; for ``lbfgs`` outer steps, of five iterations each.
    batch_size: examples a batch (not for ``lbfgs``, which sees all of them).  accumulate: batches a step, whose gradients
    are those of one batch as large as all of them, in the memory of one.
    optimizer: adamw, adam, adagrad, sgd or lbfgs.  lr: the step size at its highest.
    weight_decay: decoupled decay for adamw; for the others 0.5 * weight_decay * |w|^2 in the objective.
    sparse_lr, sparse_decay, initial_accumulator: of the AdaGrad that trains tables with sparse gradients (sparse_lr: lr,
    if left out) and, with ``adagrad``, everything.
    schedule: how lr falls to ``final_lr_fraction`` over the run; with ``inverse_sqrt`` it is lr * sqrt(warmup / done), as
    in Vaswani et al. 2017, and never below that fraction.  warmup: fraction of all steps over which lr rises.
    clip: largest norm of the gradient, or none.
    average: keep a running mean of the weights from this epoch on (0 counts from the first; none: never, unless ``ema`` is
    given), and evaluate and save that (Polyak and Juditsky 1992).  ema: the mean forgets: the newest weights count at
    least 1 - ema in it, so that it looks back 1 / (1 - ema) steps; none: all steps count the same.
    precision: float32; bfloat16: the model's forward pass in mixed precision (torch.autocast), everything else as ever;
    float64: weights, energies and optimiser in double precision while it trains.
    rollback: how often a training that comes apart may go back to where it was last sound, with a smaller step size,
    before it is given up; 0: never (and never for ``lbfgs``).  rollback_factor: by which the step size is multiplied; its
    square, its cube, where it came back to the same place.  rollback_steps: steps between the places to which it may go
    back; none: 100 for losses by samples, an epoch for others.
    patience: stop after this many epochs without a better dev metric, at an evaluation.  keep_best: end with the best
    epoch's weights.  evaluate_every: epochs between evaluations on dev.
    seed: of shuffling, initial weights and noise.  device: cpu, cuda, cuda:0, mps ...  threads: of torch in this process,
    at most as many as there are processors.
    checkpoint_steps, checkpoint_s: steps and seconds between checkpoints within an epoch, or none; one more follows each
    epoch. But for those of checkpoint_steps they never take more than a twentieth of the time.
    trace_steps: steps between rows of the step trace, or none.  tensorboard: event files for TensorBoard too.
    """

    epochs: int = 10
    batch_size: int = 32
    accumulate: int = 1
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    sparse_lr: float | None = None
    sparse_decay: float = 0.0
    initial_accumulator: float = 1e-3
    schedule: ScheduleName = "constant"
    final_lr_fraction: float = 0.0
    warmup: float = 0.0
    clip: float | None = None
    average: int | None = None
    ema: float | None = None
    precision: PrecisionName = "float32"
    rollback: int = 5
    rollback_factor: float = 0.5
    rollback_steps: int | None = None
    patience: int | None = None
    keep_best: bool = True
    evaluate_every: int = 1
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    checkpoint_steps: int | None = None
    checkpoint_s: float | None = 60.0
    trace_steps: int | None = 10
    tensorboard: bool = False

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {rule}; found {getattr(self, name)!r}"
            for name, rule, fine in (
                (
                    "optimizer",
                    f"one of {', '.join(get_args(OptimizerName))}",
                    self.optimizer in get_args(OptimizerName),
                ),
                ("schedule", f"one of {', '.join(get_args(ScheduleName))}", self.schedule in get_args(ScheduleName)),
                (
                    "precision",
                    f"one of {', '.join(get_args(PrecisionName))}",
                    self.precision in get_args(PrecisionName),
                ),
                ("epochs", "at least 1", self.epochs >= 1),
                ("epochs", "a whole number", isinstance(self.epochs, int)),
                ("batch_size", "at least 1", self.batch_size >= 1),
                ("accumulate", "at least 1", self.accumulate >= 1),
                ("lr", "above 0 and finite", 0 < self.lr < math.inf),
                ("weight_decay", "at least 0", self.weight_decay >= 0),
                ("sparse_lr", "above 0, or left out", self.sparse_lr is None or self.sparse_lr > 0),
                ("sparse_decay", "at least 0", self.sparse_decay >= 0),
                ("initial_accumulator", "at least 0", self.initial_accumulator >= 0),
                ("final_lr_fraction", "between 0 and 1", 0 <= self.final_lr_fraction <= 1),
                ("warmup", "between 0 and 1", 0 <= self.warmup < 1),
                ("clip", "above 0, or left out", self.clip is None or self.clip > 0),
                ("average", "at least 0, or left out", self.average is None or self.average >= 0),
                ("ema", "above 0 and below 1, or left out", self.ema is None or 0 < self.ema < 1),
                ("rollback", "at least 0", self.rollback >= 0),
                ("rollback_factor", "above 0 and below 1", 0 < self.rollback_factor < 1),
                (
                    "rollback_steps",
                    "at least 1, or left out",
                    self.rollback_steps is None or self.rollback_steps >= 1,
                ),
                ("patience", "at least 1, or left out", self.patience is None or self.patience >= 1),
                ("evaluate_every", "at least 1", self.evaluate_every >= 1),
                ("threads", "at least 1", self.threads >= 1),
                ("seed", "from 0 to 2^63 - 1", 0 <= self.seed < 2**63),
                (
                    "checkpoint_steps",
                    "at least 1, or left out",
                    self.checkpoint_steps is None or self.checkpoint_steps >= 1,
                ),
                ("checkpoint_s", "at least 0, or left out", self.checkpoint_s is None or self.checkpoint_s >= 0),
                ("trace_steps", "at least 1, or left out", self.trace_steps is None or self.trace_steps >= 1),
            )
            if not fine
        ]
        wrong += self._together()
        if wrong:
            raise ValueError("; ".join(wrong))

    def _together(self) -> list[str]:
        """Options that do not go with each other."""
        wrong = []
        if self.schedule == "inverse_sqrt" and self.warmup == 0:
            wrong.append("schedule inverse_sqrt falls from the end of the warm-up on, so it needs a warmup above 0")
        if self.optimizer == "lbfgs" and self.accumulate > 1:
            wrong.append("accumulate has no meaning for lbfgs, which sees all examples at each step; leave it out")
        if self.optimizer == "lbfgs" and self.precision == "bfloat16":
            wrong.append(
                "the line search of lbfgs cannot tell values apart in bfloat16; set precision to float32 or float64"
            )
        return wrong

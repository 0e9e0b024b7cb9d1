"""What a user may set of the training: the keys of the YAML section ``train``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["adamw", "adam", "adagrad", "sgd", "lbfgs"]
ScheduleName = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class TrainingOptions:
    """How long, how fast and by which optimiser to train.

    epochs: passes over the training data; for ``lbfgs`` outer steps, of five iterations each.
    batch_size: examples a step (not for ``lbfgs``, which sees all of them).
    optimizer: adamw, adam, adagrad, sgd or lbfgs.  lr: the step size at its highest.
    weight_decay: decoupled decay for adamw; for the others 0.5 * weight_decay * |w|^2 in the objective.
    sparse_lr, sparse_decay, initial_accumulator: of the AdaGrad that trains tables with sparse gradients (sparse_lr: lr,
    if left out) and, with ``adagrad``, everything.
    schedule: how lr falls to ``final_lr_fraction`` over the run.  warmup: fraction of all steps over which lr rises.
    clip: largest norm of the gradient, or none.  average: keep a running mean of the weights from this epoch on
    (0 counts from the first; none: never) and evaluate and save that (Polyak and Juditsky 1992).
    patience: stop after this many epochs without a better dev metric.  keep_best: end with the best epoch's weights.
    evaluate_every: epochs between evaluations on dev.  seed: of shuffling, initial weights and noise.
    device: cpu, cuda, cuda:0, mps ...  threads: of torch in this process, at most as
    many as there are processors.
    """

    epochs: int = 10
    batch_size: int = 32
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
    patience: int | None = None
    keep_best: bool = True
    evaluate_every: int = 1
    seed: int = 0
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {rule}; found {getattr(self, name)!r}"
            for name, rule, fine in (
                ("epochs", "at least 1", self.epochs >= 1),
                ("batch_size", "at least 1", self.batch_size >= 1),
                ("lr", "above 0 and finite", 0 < self.lr < math.inf),
                ("weight_decay", "at least 0", self.weight_decay >= 0),
                ("sparse_lr", "above 0, or left out", self.sparse_lr is None or self.sparse_lr > 0),
                ("sparse_decay", "at least 0", self.sparse_decay >= 0),
                ("initial_accumulator", "at least 0", self.initial_accumulator >= 0),
                ("final_lr_fraction", "between 0 and 1", 0 <= self.final_lr_fraction <= 1),
                ("warmup", "between 0 and 1", 0 <= self.warmup < 1),
                ("clip", "above 0, or left out", self.clip is None or self.clip > 0),
                ("average", "at least 0, or left out", self.average is None or self.average >= 0),
                ("patience", "at least 1, or left out", self.patience is None or self.patience >= 1),
                ("evaluate_every", "at least 1", self.evaluate_every >= 1),
                ("threads", "at least 1", self.threads >= 1),
                ("seed", "from 0 to 2^63 - 1", 0 <= self.seed < 2**63),
            )
            if not fine
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

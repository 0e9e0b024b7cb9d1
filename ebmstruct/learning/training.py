"""The training loop: minibatches, evaluation, best epoch, checkpoints that resume to the same result."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ebmstruct.energies import EnergyModel, Inputs
from ebmstruct.errors import ConfigError, DataError, RunFolderError, TrainingDiverged
from ebmstruct.graph import Assignment, Factor, FactorGraph
from ebmstruct.inference import Solver
from ebmstruct.learning.checkpoint import load_tree, save_tree
from ebmstruct.learning.losses import Loss
from ebmstruct.learning.optimizing import Averager, make_optimizer, rate_at
from ebmstruct.learning.options import TrainingOptions

log = logging.getLogger(__name__)


class Pair(Protocol):
    """An input with its correct output, known at least in part."""

    @property
    def x(self) -> Any: ...

    @property
    def y(self) -> Any: ...


class Teacher(Protocol):
    """What training asks of a task: targets, and what wrong outputs cost."""

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment: ...

    def cost(self, graph: FactorGraph, target: Assignment, schema: Any) -> Sequence[Factor]: ...


@dataclass(frozen=True)
class TrainingEvent:
    """One step of the training, for whoever shows progress. Epochs and steps count from 1."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    gradient_norm: float
    examples_per_s: float
    eta_s: float


@dataclass
class TrainingTrace:
    """What training was like: one mapping of numbers an epoch, and the epoch whose weights were kept."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: float = float("-inf")


def fit(
    model: EnergyModel,
    task: Teacher,
    schema: Any,
    train: Sequence[Pair],
    loss: Loss,
    options: TrainingOptions | None = None,
    *,
    solver: Solver | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    metric: str | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_event: Callable[[TrainingEvent], None] | None = None,
) -> TrainingTrace:
    """Train a model in place on examples whose outputs are known, at least in part.

    evaluate: called with the model as it would be saved; its ``metric`` (more is better) chooses the epoch to keep.
    checkpoint: a file written after each epoch; with ``resume`` training goes on from it, to the same result as if it
    had never stopped.
    Errors: TrainingDiverged where a loss or gradient stops being finite; ConfigError for a device that is not there.
    """
    run = _Training(model, task, schema, train, loss, options or TrainingOptions(), solver, on_event)
    threads = torch.get_num_threads()
    noise = torch.default_generator.get_state()
    torch.set_num_threads(min(run.options.threads, os.cpu_count() or 1))
    try:
        return run.go(evaluate, metric, checkpoint, resume)
    finally:
        torch.set_num_threads(threads)
        torch.default_generator.set_state(noise)


def resolve_device(name: str, place: str = "train.device") -> torch.device:
    """The device of that name; ConfigError, naming those there are, where this machine has none such.

    place: what the message calls the setting.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # what torch raises differs from device to device
        there = ["cpu"]
        there += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise ConfigError([f"{place}: {name!r} was asked for; this machine has {', '.join(there)}"]) from None
    return device


class _Training:
    """The state of one call of ``fit``."""

    def __init__(
        self,
        model: EnergyModel,
        task: Teacher,
        schema: Any,
        train: Sequence[Pair],
        loss: Loss,
        options: TrainingOptions,
        solver: Solver | None,
        on_event: Callable[[TrainingEvent], None] | None,
    ) -> None:
        self.model, self.task, self.schema, self.loss, self.options = model, task, schema, loss, options
        self.solver, self.on_event = solver, on_event
        if not train:
            raise DataError("there is no example to train on; at least one is needed")
        self.device = resolve_device(options.device)
        model.to(self.device)
        model.train()
        self.inputs: Inputs = model.prepare([e.x for e in train])
        self.ys = [e.y for e in train]
        self.optimizer = make_optimizer(model, options)
        self.averager = Averager(model) if options.average is not None else None
        full_batch = options.optimizer == "lbfgs"
        self.batch_size = len(train) if full_batch else min(options.batch_size, max(1, len(train)))
        self.steps = 1 if full_batch else -(-len(train) // self.batch_size)
        self.trace = TrainingTrace()
        self.best_weights: dict[str, Tensor] | None = None
        self.epoch = 0
        self.state: Any = None
        self.noise = torch.Generator()
        self.done = 0.0

    def go(
        self,
        evaluate: Callable[[], Mapping[str, float]] | None,
        metric: str | None,
        checkpoint: Path | None,
        resume: bool,
    ) -> TrainingTrace:
        if resume and checkpoint is not None and checkpoint.exists():
            self._restore(load_tree(checkpoint), checkpoint)
            log.info("resuming after epoch %d of %d", self.epoch, self.options.epochs)
        while self.epoch < self.options.epochs and not self._out_of_patience():
            row = self._train_epoch()
            self._evaluate(row, evaluate, metric)
            self.trace.epochs.append(row)
            if checkpoint is not None:
                save_tree(checkpoint, self._snapshot())
            log.info("epoch %d of %d: %s", self.epoch, self.options.epochs, _told(row))
        self._finish()
        return self.trace

    def _train_epoch(self) -> dict[str, float]:
        self.model.train()
        wall, cpu = time.perf_counter(), time.process_time()
        order = torch.randperm(len(self.ys), generator=_seeded(self.options.seed, self.epoch)).tolist()
        total, norms = 0.0, 0.0
        for step in range(self.steps):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            self._set_rate(step)
            self._seed_noise(step)
            value, norm = self._full_step() if self.options.optimizer == "lbfgs" else self._step(batch)
            total += value
            norms += norm
            if self.averager is not None and self.epoch >= (self.options.average or 0):
                self.averager.update()
            self._tell(step, value / max(1, len(batch)), norm, (step + 1) / (time.perf_counter() - wall))
        self.epoch += 1
        seconds, spent = time.perf_counter() - wall, time.process_time() - cpu
        return {
            "epoch": float(self.epoch),
            "loss": total / max(1, len(self.ys)),
            "gradient_norm": norms / max(1, self.steps),
            "seconds": seconds,
            "cpu_seconds": spent,
        }

    def _losses(self, positions: Sequence[int]) -> Tensor:
        """(B,) losses of some examples."""
        graph = self.model(self.inputs.select(positions))
        target = self.task.encode([self.ys[i] for i in positions], graph, self.schema)
        cost = self.task.cost(graph, target, self.schema)
        found = self.loss(
            graph,
            target,
            cost=cost,
            solver=self.solver,
            generator=self.noise,
            state=self.state,
            examples=positions,
            done=self.done,
        )
        self.state = found.state
        return found.value

    def _step(self, batch: Sequence[int]) -> tuple[float, float]:
        """One minibatch step: the sum of losses and the norm of the gradient of their mean."""
        self.optimizer.zero_grad(set_to_none=True)
        value = self._losses(batch).sum()
        (value / len(batch)).backward()
        norm = _gradient_norm(self.model, self.options.clip)
        total = float(value.detach())
        self._check_finite(total, norm)
        self.optimizer.step()
        return total, norm

    def _full_step(self) -> tuple[float, float]:
        """One outer step of L-BFGS over all examples, gathered in pieces."""
        first: list[float] = []

        def closure() -> float:
            self._seed_noise(0)  # the line search needs one function, not a new one at each call
            self.optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for begin in range(0, len(self.ys), 1024):
                value = self._losses(range(begin, min(begin + 1024, len(self.ys)))).sum()
                (value / len(self.ys)).backward()
                total += float(value.detach())
            penalty = _penalty(self.model, self.options.weight_decay)
            first.append(total)
            return total / len(self.ys) + penalty

        self.optimizer.step(closure)
        norm = _gradient_norm(self.model, None)
        self._check_finite(first[-1], norm)
        return first[-1], norm

    def _check_finite(self, value: float, norm: float) -> None:
        if value != value or abs(value) == float("inf") or norm != norm or norm == float("inf"):
            raise TrainingDiverged(
                f"epoch {self.epoch + 1}: the loss is {value} and the gradient's norm {norm}; try a smaller train.lr or "
                "train.clip. An infinite loss means that a target is forbidden by the energy's hard constraints"
            )

    def _seed_noise(self, step: int) -> None:
        """Seed what dropout layers draw from, for this step alone, so that a resumed run draws the same.

        The CPU's generator directly: ``torch.manual_seed`` also visits devices that are not there, at 0.4 ms a call.
        """
        seed = _mixed(self.options.seed, self.epoch, step)
        self.noise.manual_seed(_mixed(seed, 1))
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.manual_seed(seed)

    def _set_rate(self, step: int) -> None:
        self.done = done = (self.epoch * self.steps + step) / max(1, self.options.epochs * self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(done, self.options) * group.get("scale", 1.0)

    def _tell(self, step: int, loss: float, norm: float, steps_per_s: float) -> None:
        if self.on_event is None:
            return
        left = (self.options.epochs - self.epoch) * self.steps - step - 1
        examples = steps_per_s * self.batch_size
        self.on_event(
            TrainingEvent(
                self.epoch + 1, self.options.epochs, step + 1, self.steps, loss, norm, examples, left / steps_per_s
            )
        )

    def _evaluate(
        self, row: dict[str, float], evaluate: Callable[[], Mapping[str, float]] | None, metric: str | None
    ) -> None:
        last = self.epoch == self.options.epochs
        if evaluate is None or (self.epoch % self.options.evaluate_every and not last):
            return
        self.model.eval()
        averaging = self.averager if self.averager is not None and self.averager.count else None
        kept = averaging.swap_in() if averaging else None
        row.update(evaluate())
        score = row.get(metric or "", -row["loss"])
        if score > self.trace.best:
            self.trace.best, self.trace.best_epoch = score, self.epoch
            if self.options.keep_best:
                self.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if averaging and kept is not None:
            averaging.swap_back(kept)

    def _out_of_patience(self) -> bool:
        since = self.epoch - self.trace.best_epoch
        return self.options.patience is not None and self.trace.best_epoch > 0 and since >= self.options.patience

    def _finish(self) -> None:
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        elif self.averager is not None and self.averager.count:
            self.averager.swap_in()
        self.model.eval()

    def _snapshot(self) -> dict[str, Any]:
        return {
            "options": asdict(self.options),
            "examples": len(self.ys),
            "epoch": self.epoch,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.averager is None else self.averager.state(),
            "best_weights": self.best_weights,
            "trace": [self.trace.epochs, self.trace.best_epoch, self.trace.best],
            "state": self.state,
        }

    def _restore(self, saved: Any, path: Path) -> None:
        try:
            here = {**asdict(self.options), "epochs": 0}
            there = {**saved["options"], "epochs": 0}
            if here != there or saved["examples"] != len(self.ys):
                changed = [k for k in here if here[k] != there.get(k)] or ["the number of training examples"]
                raise RunFolderError(
                    f"{path}: cannot resume, since {', '.join(changed)} differ from the run that was stopped; start anew "
                    "without --resume"
                )
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.averager is not None:
                self.averager.load(saved["average"])
            self.best_weights = saved["best_weights"]
            self.trace = TrainingTrace(saved["trace"][0], saved["trace"][1], saved["trace"][2])
            self.epoch, self.state = saved["epoch"], saved["state"]
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as fault:
            raise RunFolderError(
                f"{path}: the checkpoint does not fit this model ({type(fault).__name__}: {fault}); delete it to start anew"
            ) from None


def _gradient_norm(model: EnergyModel, clip: float | None) -> float:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return 0.0
    norms = torch.stack([(g._values() if g.is_sparse else g).norm() for g in gradients])
    norm = float(norms.norm())
    if clip is not None and norm > clip:
        for g in gradients:
            (g._values() if g.is_sparse else g).mul_(clip / norm)
    return norm


def _penalty(model: EnergyModel, weight_decay: float) -> float:
    """0.5 * weight_decay * |w|^2, whose gradient is added to the parameters' own."""
    if not weight_decay:
        return 0.0
    total = 0.0
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.grad.add_(p, alpha=weight_decay)
                total += 0.5 * weight_decay * float(p.square().sum())
    return total


def _seeded(*parts: int) -> torch.Generator:
    generator = torch.Generator()
    generator.manual_seed(_mixed(*parts))
    return generator


def _mixed(*parts: int) -> int:
    """One seed from several numbers, so that each step's noise depends on where it stands and on nothing else."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = ((value ^ (part + 0x7F4A7C15)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value & 0x7FFFFFFFFFFFFFFF


def _told(row: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch" and isinstance(v, (int, float)))

"""The training loop: minibatches, evaluation, best epoch, checkpoints that resume to the same result."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ebmstruct.energies import EnergyModel, Inputs
from ebmstruct.errors import ConfigError, DataError
from ebmstruct.inference import Solver
from ebmstruct.learning.divergence import CameApart
from ebmstruct.learning.losses import Loss, LossValue
from ebmstruct.learning.optimizing import Averager, decay_penalty, gradient_norm, make_optimizer, rate_at
from ebmstruct.learning.options import TrainingOptions
from ebmstruct.learning.precision import Forward, Weights, resolve_device
from ebmstruct.learning.recovery import FORBIDDEN, MEND, Recovery, named, outlier, suspects
from ebmstruct.learning.seeds import mixed, seeded
from ebmstruct.learning.snapshot import Checkpoints, Standing
from ebmstruct.learning.teaching import Pair, Teacher
from ebmstruct.learning.tensorboard import EventFiles, require_tensorboard
from ebmstruct.learning.tracing import STEPS_FILE, StepTrace, Sums, TrainingEvent, TrainingTrace

__all__ = ["Pair", "Teacher", "TrainingEvent", "TrainingTrace", "fit", "resolve_device"]

log = logging.getLogger(__name__)

STARTING = 10_000
"""Training examples, at most, by which a model chooses its first weights."""
_PIECE = 1024
"""Examples whose gradients L-BFGS gathers at a time."""


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
    traces: Path | None = None,
    on_event: Callable[[TrainingEvent], None] | None = None,
) -> TrainingTrace:
    """Train a model in place on examples whose outputs are known, at least in part.

    evaluate: called with the model as it would be saved; its ``metric`` (more is better) chooses the epoch to keep, and
    without one the training loss does.
    checkpoint: a file written after each epoch and within long ones; with ``resume`` training goes on from it, to the same
    result as if it had never stopped.
    traces: a folder for ``steps.csv``, and for TensorBoard's files where the options ask for them.
    A training that comes apart goes back to where it was last sound, with a smaller step size (``options.rollback``); the
    trace and the log say so.
    Errors: TrainingDiverged where that does not help; ConfigError for a device or a library that is not there, and where
    ``evaluate`` does not give the metric.
    """
    run = _Training(model, task, schema, train, loss, options or TrainingOptions(), solver)
    threads = torch.get_num_threads()
    noise = torch.default_generator.get_state()
    torch.set_num_threads(min(run.options.threads, os.cpu_count() or 1))
    with contextlib.ExitStack() as closing:
        closing.callback(torch.default_generator.set_state, noise)
        closing.callback(torch.set_num_threads, threads)
        if run.options.precision == "float64":
            closing.callback(Weights.doubled(model).put_back, model)
        run.begin(checkpoint, resume)
        run.watch(traces, on_event, closing)
        return run.go(evaluate, metric)


class _Training:
    """One call of ``fit``."""

    def __init__(
        self,
        model: EnergyModel,
        task: Teacher,
        schema: Any,
        train: Sequence[Pair],
        loss: Loss,
        options: TrainingOptions,
        solver: Solver | None,
    ) -> None:
        self.model, self.task, self.schema = model, task, schema
        self.loss, self.options, self.solver = loss, options, solver
        if not train:
            raise DataError("there is no example to train on; at least one is needed")
        if options.tensorboard:
            require_tensorboard()
        self.device = resolve_device(options.device)
        model.to(self.device)
        model.train()
        self.inputs: Inputs = model.prepare([e.x for e in train])
        self.examples = train  # asked one by one: a long table makes its examples when they are wanted
        self.forward = Forward(model, options.precision, self.device)
        self.full_batch = options.optimizer == "lbfgs"
        self.batch_size = len(train) if self.full_batch else min(options.batch_size, len(train))
        self.step_size = len(train) if self.full_batch else min(options.batch_size * options.accumulate, len(train))
        self.steps = -(-len(train) // self.step_size)
        self.noise = torch.Generator()
        self.done = 0.0

    def begin(self, checkpoint: Path | None, resume: bool) -> None:
        """Stand at the beginning, or where the checkpoint does."""
        o = self.options
        averager = Averager(self.model, o.ema) if o.average is not None or o.ema is not None else None
        self.at = Standing(self.model, make_optimizer(self.model, o), averager)
        self.recovery = Recovery(o, self.loss, self.steps)
        self.last: list[tuple[Sequence[int], LossValue]] = []
        self.checkpoints = Checkpoints(checkpoint, o, self._facts())
        if resume and self.checkpoints.resume(self.at):
            log.info("resuming after epoch %d of %d and %d more steps", self.at.epoch, o.epochs, self.at.step)
        elif self.model.initialises:
            self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Let the model choose its first weights by some of the training data."""
        generator = seeded(self.options.seed, -1)
        some = torch.randperm(len(self.examples), generator=generator)[:STARTING].tolist()
        graph = self.forward(self.inputs.select(some))
        target = self.task.encode([self.examples[i].y for i in some], graph, self.schema)
        self.model.initialise(graph, target, generator)

    def _facts(self) -> dict[str, Any]:
        """What must be the same when the training is resumed, beside the options."""
        return {"examples": len(self.examples), "loss": repr(self.loss), "solver": repr(self.solver)}

    def watch(
        self, traces: Path | None, on_event: Callable[[TrainingEvent], None] | None, closing: contextlib.ExitStack
    ) -> None:
        """Open what is told of the training, for the steps that follow."""
        self.on_event, self.step_trace, self.event_files, self.traces = on_event, None, None, traces
        self.begun, self.begun_at = time.monotonic(), self._steps_done
        if traces is not None and self.options.trace_steps is not None:
            self.step_trace = StepTrace(traces / STEPS_FILE, self._steps_done)
            closing.callback(self.step_trace.close)
        if traces is not None and self.options.tensorboard:
            self.event_files = EventFiles(traces, self._steps_done)
            closing.callback(lambda: self.event_files.close() if self.event_files is not None else None)

    @property
    def _steps_done(self) -> int:
        return self.at.epoch * self.steps + self.at.step

    def go(self, evaluate: Callable[[], Mapping[str, float]] | None, metric: str | None) -> TrainingTrace:
        """Train until the epochs or the patience are over, and leave the model as it is to be kept."""
        if evaluate is None and self.options.patience is not None:
            log.warning("train.patience has no effect: there is nothing to evaluate on between epochs")
        while not self._over():
            try:
                self._train_epoch()
                self._end_epoch(evaluate, metric)
                if self.checkpoints.due_after_epoch(over=self._over()):
                    self.checkpoints.write(self.at)
            except CameApart as fault:
                self._go_back(fault)
        if self.at.best_weights is not None:
            self.model.load_state_dict(self.at.best_weights)
        elif self.at.averager is not None:
            self.at.averager.put_in()
        self.model.eval()
        return self.at.trace

    def _go_back(self, fault: CameApart) -> None:
        """To where all was well; TrainingDiverged where that is over, or where an example is at fault at any weights."""
        said = self.recovery.back(self.at, fault, self.checkpoints)
        wrong = self._unsound() if fault.examples else []
        if wrong:
            fault.advice = FORBIDDEN if fault.infinite else MEND
            self.at.trace.rollbacks.pop()
            where = f"epoch {self.at.epoch + 1}: the loss of {named(wrong)} is not finite"
            raise self.recovery.given_up(self.at, fault, where, self.checkpoints)
        log.warning("%s", said)
        self.begun, self.begun_at = time.monotonic(), self._steps_done
        if self.step_trace is not None:
            self.step_trace.back(self._steps_done)
        if self.event_files is not None and self.traces is not None:
            self.event_files.close()
            self.event_files = EventFiles(self.traces, self._steps_done)

    def _unsound(self) -> list[int]:
        """Of the step that went wrong, the examples whose loss is not finite now either; nothing is learned from them."""
        kept, batches, wrong = self.at.loss_state, [positions for positions, _ in self.last], []
        with torch.no_grad():
            for positions in batches:
                self.at.loss_state = copy.deepcopy(kept)
                wrong += suspects(positions, self._losses(positions, Sums()).value)
        self.at.loss_state = kept
        return wrong

    def _over(self) -> bool:
        """Whether the last epoch is done, or the last evaluation came too long after the best one."""
        trace, patience = self.at.trace, self.options.patience
        late = patience is not None and trace.best_epoch > 0 and trace.evaluated - trace.best_epoch >= patience
        return late or self.at.epoch >= self.options.epochs

    def _train_epoch(self) -> None:
        """The steps of an epoch that are still to do."""
        at = self.at
        self.model.train()
        order = torch.randperm(len(self.examples), generator=seeded(self.options.seed, at.epoch)).tolist()
        while at.step < self.steps:
            self.recovery.keep(at)
            wall, cpu = time.perf_counter(), time.process_time()
            self._set_rate()
            self._seed_noise(at.step)
            chosen = order[at.step * self.step_size : (at.step + 1) * self.step_size]
            self.last.clear()
            figures = self._full_step() if self.full_batch else self._step(chosen)
            if at.averager is not None and at.epoch >= (self.options.average or 0):
                at.averager.update()
            figures.seconds, figures.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
            at.sums.add(figures)
            at.step += 1
            self._tell(figures)
            if self.checkpoints.due(self._steps_done):
                self.checkpoints.write(at)

    def _end_epoch(self, evaluate: Callable[[], Mapping[str, float]] | None, metric: str | None) -> None:
        at = self.at
        self.checkpoints.check_finite(at)
        row = at.sums.row(at.epoch + 1)
        back = sum(r["epoch"] == at.epoch + 1 for r in at.trace.rollbacks)
        if back:
            row["rollbacks"] = float(back)
        self._seed_noise(self.steps)
        self._evaluate(row, evaluate, metric)
        at.trace.epochs.append(row)
        at.epoch, at.step, at.sums = at.epoch + 1, 0, Sums()
        log.info("epoch %d of %d: %s", at.epoch, self.options.epochs, _told(row))
        if self.event_files is not None:
            self.event_files.epoch(self._steps_done, row)

    def _losses(self, positions: Sequence[int], figures: Sums) -> LossValue:
        """The losses of some examples, counted in the figures."""
        graph = self.forward(self.inputs.select(positions))
        target = self.task.encode([self.examples[i].y for i in positions], graph, self.schema)
        found = self.loss(
            graph,
            target,
            cost=self.task.cost(graph, target, self.schema),
            solver=self.solver,
            generator=self.noise,
            state=self.at.loss_state,
            examples=positions,
            done=self.done,
        )
        self.at.keep(found.state, self.loss.name)
        self.last.append((positions, LossValue(found.value.detach(), None, found.correct)))
        figures.count(found)
        return found

    def _step(self, chosen: Sequence[int]) -> Sums:
        """One step along the gradient of the mean loss of the examples chosen, taken batch by batch."""
        figures = Sums(steps=1)
        self.at.optimizer.zero_grad(set_to_none=True)
        for begin in range(0, len(chosen), self.batch_size):
            found = self._losses(chosen[begin : begin + self.batch_size], figures)
            _backward(found.value.sum() / len(chosen))
        figures.gradient_norm = gradient_norm(self.model, self.options.clip)
        self._check(figures)
        self.at.optimizer.step()
        return figures

    def _full_step(self) -> Sums:
        """One outer step of L-BFGS over all examples, gathered in pieces."""
        evaluations: list[Sums] = []
        state = self.at.loss_state

        def closure() -> float:
            # the line search needs one function, not a new one at each call: the same noise, the same chains, and a copy
            # of them, since a loss may change its buffer in place
            self._seed_noise(0)
            self.at.loss_state = copy.deepcopy(state)
            self.at.optimizer.zero_grad(set_to_none=True)
            figures = Sums(steps=1)
            for begin in range(0, len(self.examples), _PIECE):
                found = self._losses(range(begin, min(begin + _PIECE, len(self.examples))), figures)
                _backward(found.value.sum() / len(self.examples))
            evaluations.append(figures)
            return figures.loss / len(self.examples) + decay_penalty(self.model, self.options.weight_decay)

        self.at.optimizer.step(closure)
        figures = evaluations[-1]
        figures.gradient_norm = gradient_norm(self.model, None)
        self._check(figures)
        return figures

    def _check(self, figures: Sums) -> None:
        """CameApart where the step just computed shows that the training has."""
        value, norm = figures.loss, figures.gradient_norm
        if not (abs(value) < float("inf") and norm < float("inf")):
            wrong = [e for positions, found in self.last for e in suspects(positions, found.value)]
            few = 0 < len(wrong) < figures.examples / 2
            by = f", by {named(wrong)}" if few else ""
            reason = f"the loss is {value:.4g} and the gradient's norm {norm:.4g}{by}"
            raise CameApart(reason, examples=wrong, infinite=value == float("inf"))
        if self.loss.by_samples and self.recovery.on:
            sign = self.at.watch.look(figures)
            if sign is not None:
                known = [(p, f.correct) for p, f in self.last if f.correct is not None]
                examples = [e for p, _ in known for e in p]
                raise CameApart(sign + (outlier(examples, torch.cat([c for _, c in known])) if known else ""))

    def _seed_noise(self, step: int) -> None:
        """Seed what dropout layers and losses draw from, for this step alone, so that a resumed run draws the same.

        The CPU's generator directly: ``torch.manual_seed`` also visits devices that are not there, at 0.4 ms a call.
        """
        back = len(self.at.trace.rollbacks)
        seed = mixed(self.options.seed, self.at.epoch, step, *((back,) if back else ()))
        self.noise.manual_seed(mixed(seed, 1))
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.manual_seed(seed)

    def _set_rate(self) -> None:
        self.done = self._steps_done / (self.options.epochs * self.steps)
        for group in self.at.optimizer.param_groups:
            group["lr"] = self._rate() * group.get("scale", 1.0)

    def _rate(self) -> float:
        return rate_at(self.done, self.options) * self.at.scale

    def _tell(self, figures: Sums) -> None:
        """Tell whoever watches of the step that has just been made."""
        done, every = self._steps_done, self.options.trace_steps
        written = every is not None and done % every == 0
        if self.on_event is None and not written:
            return
        pace = (time.monotonic() - self.begun) / (done - self.begun_at)
        event = TrainingEvent(
            self.at.epoch + 1,
            self.options.epochs,
            self.at.step,
            self.steps,
            figures.loss / figures.examples,
            figures.gradient_norm,
            self.at.sums.examples / max(self.at.sums.seconds, 1e-9),
            (self.options.epochs * self.steps - done) * pace,
            figures.energy_correct,
            figures.energy_incorrect,
            figures.margin,
            self._rate(),
        )
        if written and self.step_trace is not None:
            self.step_trace.write(done, event)
        if written and self.event_files is not None:
            self.event_files.step(done, event)
        if self.on_event is not None:
            self.on_event(event)

    def _evaluate(
        self, row: dict[str, float], evaluate: Callable[[], Mapping[str, float]] | None, metric: str | None
    ) -> None:
        at, epoch = self.at, self.at.epoch + 1
        if evaluate is None or (epoch % self.options.evaluate_every and epoch != self.options.epochs):
            return
        self.model.eval()
        with at.averager.shown() if at.averager is not None else contextlib.nullcontext():
            row.update(evaluate())
            if metric is not None and metric not in row:
                raise ConfigError([f"the evaluation gives no metric {metric!r}; it gives {', '.join(row)}"])
            score = -row["loss"] if metric is None else row[metric]
            at.trace.evaluated = epoch
            if score > at.trace.best:
                at.trace.best, at.trace.best_epoch = score, epoch
                if self.options.keep_best:
                    at.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}


def _told(row: Mapping[str, float]) -> str:
    """The row of an epoch for the log: figures of the training, then those of the evaluation."""
    left_out = ("epoch", "cpu_seconds", "train_energy_correct", "train_energy_incorrect")
    shown = {k.removeprefix("train_").replace("_", " "): v for k, v in row.items() if k not in left_out}
    return ", ".join(f"{k} {v:.4g}" for k, v in shown.items() if isinstance(v, (int, float)))


def _backward(value: torch.Tensor) -> None:
    """Add a loss to the gradients; one that depends on no parameter, as that of a batch without sites, adds nothing."""
    if value.requires_grad:
        value.backward()

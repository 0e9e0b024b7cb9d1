"""Trainings that are stopped anywhere, in an epoch too, go on to the same bits; checkpoints are whole, few and alone."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import ebmstruct as es
from ebmstruct.learning import snapshot
from ebmstruct.learning.checkpoint import load_tree, save_tree, settled
from ebmstruct.learning.losses.base import LossValue, Margin, Setting

sys.path.insert(0, str(Path(__file__).parent))
helpers: Any = importlib.import_module("test_training")
sys.path.pop(0)
STEPS: dict[str, Any] = dict(epochs=4, batch_size=8, lr=0.05, checkpoint_steps=1, trace_steps=1)
TIMES = ("seconds", "cpu_seconds")


class Stop(Exception):
    """Raised where a training is to be stopped."""


@dataclass(frozen=True)
class Remembering(es.Loss):
    """The likelihood, tilted by what it keeps: a buffer, a chain for each example, a count, a text."""

    name: ClassVar[str] = "remembering"
    margin: ClassVar[Margin] = "positive"

    def evaluate(self, graph: es.FactorGraph, target: es.Assignment, setting: Setting) -> LossValue:
        """The likelihood times a number drawn from the buffer; the state is views, tuples and numbers as keys."""
        kept = setting.state or {"buffer": torch.ones(4, 3), "chains": {}, "both": (0, "none"), "flag": None}
        tilt = 1.0 + 0.1 * kept["buffer"].t().mean()
        noise = torch.rand(4, 3, generator=setting.generator)
        plain = es.NegativeLogLikelihood()(graph, target, solver=setting.solver)
        rows = {key: plain.value[i] for i, key in enumerate(setting.examples or ())}
        state = {
            "buffer": (kept["buffer"] * 0.9 + 0.1 * noise).t().contiguous().t(),
            "chains": {**kept["chains"], **rows},
            "both": (kept["both"][0] + 1, "some"),
            "flag": True,
        }
        return LossValue(plain.value * tilt, state, plain.correct, plain.incorrect)


def trained(options: es.TrainingOptions, loss: es.Loss, path: Path, *, stop: int = 0, **more: Any) -> tuple[Any, ...]:
    """Weights and rows (times aside) of a training that resumes where it can, and is stopped in step ``stop``."""
    seen = [0]

    def on_event(event: es.learning.TrainingEvent) -> None:
        seen[0] += 1
        if seen[0] == stop:
            raise Stop

    try:
        model, trace = helpers.train(options, loss, checkpoint=path, on_event=on_event, **{"resume": True, **more})
    except Stop:
        return (None, None)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in trace.epochs]
    return {k: v.clone() for k, v in model.state_dict().items()}, [rows, trace.best_epoch, trace.best]


CASES = {
    "adamw, moving average": es.TrainingOptions(**STEPS, ema=0.8, clip=1.0, schedule="cosine", warmup=0.2),
    "adagrad": es.TrainingOptions(**STEPS, optimizer="adagrad"),
    "sgd, accumulation, mean": es.TrainingOptions(
        **{**STEPS, "batch_size": 5}, optimizer="sgd", accumulate=2, average=1
    ),
    "adam, double precision": es.TrainingOptions(**STEPS, optimizer="adam", precision="float64"),
    "adamw, mixed precision": es.TrainingOptions(**STEPS, precision="bfloat16"),
    "lbfgs": es.TrainingOptions(**{**STEPS, "lr": 0.5}, optimizer="lbfgs"),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_in_any_step(case: str, tmp_path: Path) -> None:
    """Stopped twice, in the middle of an epoch, weights, every figure and the step trace are those of an unbroken run."""
    options, loss = CASES[case], Remembering()
    weights, rows = trained(options, loss, tmp_path / "whole", traces=tmp_path)
    steps = (tmp_path / "steps.csv").read_text()
    for stop in (2, 3) if options.optimizer == "lbfgs" else (4, 12):
        assert trained(options, loss, tmp_path / "broken", stop=stop, traces=tmp_path) == (None, None)
    again, others = trained(options, loss, tmp_path / "broken", traces=tmp_path)
    assert others == rows
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert without_speed((tmp_path / "steps.csv").read_text()) == without_speed(steps)


def without_speed(text: str) -> list[list[str]]:
    """The cells of a step trace but for the last column."""
    return [line.split(",")[:-1] for line in text.splitlines()]


def test_when_checkpoints_are_written_changes_nothing(tmp_path: Path) -> None:
    """At every step, at every moment, at ends of epochs, or not at all: the same weights."""
    base = replace(CASES["adamw, moving average"], checkpoint_steps=None)
    found = [
        trained(replace(base, checkpoint_steps=1), Remembering(), tmp_path / "a"),
        trained(replace(base, checkpoint_s=0.0), Remembering(), tmp_path / "b"),
        trained(replace(base, checkpoint_s=None), Remembering(), tmp_path / "c"),
    ]
    for weights, rows in found[1:]:
        assert rows == found[0][1] and all(torch.equal(w, found[0][0][k]) for k, w in weights.items())


def test_how_often_is_free_when_resuming(tmp_path: Path) -> None:
    """What is written down may change at resuming; the loss may not."""
    options = es.TrainingOptions(**STEPS)
    trained(options, Remembering(), tmp_path / "a", stop=5)
    with pytest.raises(es.RunFolderError, match="since loss differ"):
        trained(options, es.NegativeLogLikelihood(), tmp_path / "a")
    weights, _ = trained(replace(options, checkpoint_steps=None, trace_steps=None), Remembering(), tmp_path / "a")
    assert weights is not None


def test_large_states_are_not_written_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that takes long is followed by none for twenty times as long, but the last one is always there."""
    clock, writes = [0.0], [0]
    monkeypatch.setattr("ebmstruct.learning.snapshot.time.monotonic", lambda: clock[0])

    def slow(path: Path, tree: Any) -> None:
        clock[0] += 2.0
        writes[0] += 1
        save_tree(path, tree)

    monkeypatch.setattr(snapshot, "save_tree", slow)
    options = es.TrainingOptions(epochs=30, batch_size=30, checkpoint_s=3.0)

    def on_event(event: es.learning.TrainingEvent) -> None:
        clock[0] += 1.0

    helpers.train(options, es.Perceptron(), checkpoint=tmp_path / "c", on_event=on_event)
    assert writes[0] == 3  # in 60 s of steps: the first, one 40 s later, and the end
    assert load_tree(tmp_path / "c")["standing"]["epoch"] == 30


def test_half_a_write_is_taken_away(tmp_path: Path) -> None:
    """What a killed write left beside the checkpoint is gone after the next start, and nothing else is."""
    options = es.TrainingOptions(epochs=1)
    for name in (".c.x1.tmp", "other", ".d.x1.tmp"):
        (tmp_path / name).write_bytes(b"half")
    trained(options, es.Perceptron(), tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".d.x1.tmp", "c", "other"]


def test_divergence_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    """When training diverges the message names the checkpoint, and the weights in it are finite."""
    options = es.TrainingOptions(epochs=50, optimizer="sgd", lr=1e30, checkpoint_steps=1)
    with pytest.raises(es.TrainingDiverged, match=r"last checkpoint with finite weights, after epoch \d+ and \d+") as e:
        trained(options, es.NegativeLogLikelihood(), tmp_path / "c")
    assert str(tmp_path / "c") in str(e.value)
    weights = load_tree(tmp_path / "c")["standing"]["model"].values()
    assert all(bool(torch.isfinite(w).all()) for w in weights)


def test_a_state_that_cannot_be_kept_is_told_at_once() -> None:
    """A loss that keeps an object hears of it at the first step, not at the first checkpoint hours later."""

    @dataclass(frozen=True)
    class Keeping(es.Loss):
        name: ClassVar[str] = "keeping"
        margin: ClassVar[Margin] = "none"

        def evaluate(self, graph: es.FactorGraph, target: es.Assignment, setting: Setting) -> LossValue:
            return LossValue(graph.energy(target), {"chain": object()})

    with pytest.raises(TypeError, match="the state of loss keeping cannot be kept: .* found object"):
        helpers.train(es.TrainingOptions(epochs=1), Keeping())


def test_settled_is_what_comes_back(tmp_path: Path) -> None:
    """A settled tree is what a checkpoint gives back, in types, memory order and sharing; one that is so is not copied."""
    base = torch.arange(12.0).reshape(3, 4)
    tree = settled(
        {"t": base.t(), "part": base[1:], "whole": base, "pair": (1, "x"), "grad": base.requires_grad_() * 2}
    )
    save_tree(tmp_path / "t", [tree, tree["whole"], base[1:]])
    back, whole, part = load_tree(tmp_path / "t")
    assert back["pair"] == [1, "x"] == tree["pair"]
    assert all(torch.equal(back[k], tree[k]) and back[k].stride() == tree[k].stride() for k in ("t", "part", "grad"))
    assert torch.equal(whole, base) and torch.equal(part, base[1:]) and not tree["grad"].requires_grad
    buffer = torch.zeros(3)
    twice = settled([buffer, {"same": buffer}])
    assert twice[0] is buffer and twice[1]["same"] is buffer
    save_tree(tmp_path / "t", twice)
    first, second = load_tree(tmp_path / "t")
    first.fill_(1.0)
    assert torch.equal(second["same"], torch.ones(3))


def test_a_checkpoint_is_fsynced_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that writes the tensors keeps to the file that is then synced and renamed: one file, one inode."""
    inodes: list[int] = []
    real = os.replace

    def replaced(source: str, target: Path) -> None:
        inodes.append(Path(source).stat().st_ino)
        real(source, target)

    synced: list[int] = []
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    save_tree(tmp_path / "t", [torch.arange(1000)])
    assert inodes == synced and [p.name for p in tmp_path.iterdir()] == ["t"]


def test_memory_does_not_grow(caplog: pytest.LogCaptureFixture) -> None:
    """Over epochs of ragged graphs the number of tensors that are alive stays the same."""
    import gc

    caplog.set_level(logging.ERROR)
    alive: list[int] = []

    def on_event(event: es.learning.TrainingEvent) -> None:
        if event.step == event.steps:
            gc.collect()
            alive.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))

    options = es.TrainingOptions(epochs=6, batch_size=8, ema=0.9)
    helpers.train(options, Remembering(), on_event=on_event)
    assert max(alive[2:]) <= alive[1] + 5, alive


def kills() -> Any:
    """The module that kills and compares, which is a benchmark too."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        return importlib.import_module("benchmarks.kills")
    finally:
        sys.path.pop(0)


def test_kill_and_resume(tmp_path: Path) -> None:
    """SIGKILL at two random moments, then --resume: weights, metrics, predictions, traces, report as if never killed."""
    module = kills()
    outcome = module.try_kills(module.PERSISTENT, 2, tmp_path, seed=3)
    assert outcome.differences == () and outcome.same == 2


@pytest.mark.slow
@pytest.mark.parametrize("way", ["RUN", "PERSISTENT", "FITTING"])
def test_kill_and_resume_twenty_times(way: str, tmp_path: Path) -> None:
    """The same at 20 random moments, some within the write of a checkpoint, by the command and by fit: 20 of 20."""
    module = kills()
    outcome = module.try_kills(getattr(module, way), 20, tmp_path)
    assert outcome.differences == () and outcome.same == 20

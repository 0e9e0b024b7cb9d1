"""Trainings that come apart go back to where they were sound, and end as good as sound ones; or say what is wrong."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmstruct as es
from ebmstruct.learning.divergence import HOLD, Watch
from ebmstruct.learning.recovery import outlier
from ebmstruct.learning.tracing import Sums

SPREAD = torch.tensor([1.0, 0.5])
LOSS = es.PersistentContrastiveDivergence(steps=5, step_size=0.02, size=200, reinitialise=0.0)
OPTIONS: dict[str, Any] = dict(batch_size=50, optimizer="sgd", seed=1)


@dataclass(frozen=True)
class Point:
    """A point of the plane."""

    y: Tensor
    x: tuple[()] = ()


class Points:
    """Points are values already."""

    def encode(self, ys: Sequence[Tensor], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        return es.Assignment({"x": torch.stack(list(ys))})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> Sequence[es.Factor]:
        return ()


class Bowl(es.EnergyModel):
    """E(x) = sum_j exp(a_j) x_j^2 / 2, whose density is normal with standard deviations exp(-a_j / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2))

    def energy(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of x (B, 2)."""
        return 0.5 * (self.a.exp() * x.square()).sum(1)

    def forward(self, inputs: Any) -> es.FactorGraph:
        block = es.Variables.of_lengths("x", es.Real(2), [1] * len(inputs))
        return es.FactorGraph([block], [es.BlockFactor(("x",), "bowl", self.energy)])

    @property
    def spread(self) -> Tensor:
        """(2,) the standard deviations."""
        return (-0.5 * self.a).exp().detach()


def points(count: int = 200) -> list[Point]:
    """Normal points with the standard deviations ``SPREAD``."""
    return [Point(row) for row in SPREAD * torch.randn(count, 2, generator=torch.Generator().manual_seed(0))]


def fitted(examples: Sequence[Point], loss: es.Loss = LOSS, **more: Any) -> tuple[Bowl, es.TrainingTrace]:
    """A bowl trained on points; ``more`` are options of the training, or arguments of ``fit``."""
    names = es.TrainingOptions.__dataclass_fields__
    options = es.TrainingOptions(**{**OPTIONS, **{k: v for k, v in more.items() if k in names}})
    model = Bowl()
    trace = es.fit(model, Points(), None, examples, loss, options, **{k: v for k, v in more.items() if k not in names})
    return model, trace


def error(model: Bowl) -> float:
    """The largest relative error of the standard deviations."""
    return float((model.spread / SPREAD - 1).abs().max())


def test_a_step_size_far_too_large(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """With a step size a hundred times too large it comes apart, goes back, and ends as good as with a sound one.

    The log, the trace and the epochs' rows say so, and the step trace holds every step once.
    """
    caplog.set_level(logging.WARNING)
    sound, calm = fitted(points(), epochs=30, lr=0.5, schedule="linear")
    assert not calm.rollbacks and error(sound) < 0.15
    model, trace = fitted(points(), epochs=30, lr=100.0, schedule="linear", traces=tmp_path, trace_steps=1)
    assert 1 <= len(trace.rollbacks) <= 5 and error(model) < 0.15, (trace.rollbacks, model.spread)
    entry = trace.rollbacks[0]
    assert entry["said"] in caplog.text and "went back to the beginning, step size halved (1 of 5)" in entry["said"]
    assert any(row.get("rollbacks") for row in trace.epochs)
    steps = [int(line.split(",")[0]) for line in (tmp_path / "steps.csv").read_text().splitlines()[1:]]
    assert steps == list(range(1, 121))
    rates = [float(line.split(",")[4]) for line in (tmp_path / "steps.csv").read_text().splitlines()[1:]]
    assert rates[-1] < 100.0 * trace.rollbacks[-1]["scale"]


def test_repeated_cuts_grow() -> None:
    """Back at the same place the step size is cut by the square, the cube of the factor; so five times are enough."""
    _, trace = fitted(points(), epochs=10, lr=1e4, schedule="linear", rollback_factor=0.25)
    scales = [entry["scale"] for entry in trace.rollbacks]
    assert scales[:2] == [0.25, 0.25**3][: len(scales)]


def test_without_rollback_it_is_told_at_once() -> None:
    """With rollback 0, and after the last one, TrainingDiverged says what to try."""
    with pytest.raises(es.TrainingDiverged, match=r"^epoch 1, step \d+: .*train\.lr"):
        fitted(points(), epochs=30, lr=1e30, rollback=0)
    with pytest.raises(es.TrainingDiverged, match=r"energy_decay.*had gone back once, down to 0\.9 of the step size"):
        fitted(points(), epochs=30, lr=1e30, rollback=1, rollback_factor=0.9)


def test_a_record_that_is_not_a_number_is_named() -> None:
    """Of 200 points one holds NaN: the error names it, for a loss by samples and for another."""
    examples = points()
    examples[16] = Point(torch.tensor([0.1, math.nan]))
    for loss in (LOSS, es.ScoreMatching()):
        with pytest.raises(es.TrainingDiverged, match=r"training example 17 is not finite.*sound weights"):
            fitted(examples, loss, epochs=2, lr=0.1)


def test_an_outlier_is_named() -> None:
    """A finite point a million times too far away makes energies run away, and is named in what is said."""
    examples = points()
    examples[16] = Point(torch.tensor([1e6, 0.0]))
    with pytest.raises(es.TrainingDiverged, match=r"run away .*most of it by training example 17 \(energy 5.*e\+11"):
        fitted(examples, epochs=2, lr=0.1)
    assert outlier([4, 5, 6, 7], torch.tensor([1.0, 2.0, 1.5, 1.2])) == ""


def test_sound_trainings_are_let_alone() -> None:
    """Whether it may go back or not, a sound training gives the same bits."""
    one, _ = fitted(points(), epochs=10, lr=0.5, ema=0.9)
    other, trace = fitted(points(), epochs=10, lr=0.5, ema=0.9, rollback=0)
    assert torch.equal(one.a, other.a) and not trace.rollbacks


class Stop(Exception):
    """Raised where a training is to be stopped."""


@pytest.mark.parametrize("stop", [3, 12, 40])
def test_resumed_trainings_go_back_to_the_same_place(stop: int, tmp_path: Path) -> None:
    """Stopped before or after it went back, a training goes on to the same bits."""
    wild: dict[str, Any] = dict(epochs=15, lr=30.0, schedule="linear", ema=0.9, checkpoint_steps=1, rollback_steps=7)
    whole, trace = fitted(points(), checkpoint=tmp_path / "whole", **wild)
    assert trace.rollbacks
    seen = [0]

    def on_event(event: es.learning.TrainingEvent) -> None:
        seen[0] += 1
        if seen[0] == stop:
            raise Stop

    with pytest.raises(Stop):
        fitted(points(), checkpoint=tmp_path / "broken", on_event=on_event, **wild)
    again, other = fitted(points(), checkpoint=tmp_path / "broken", resume=True, **wild)
    assert torch.equal(whole.a, again.a)
    assert [r["said"] for r in other.rollbacks] == [r["said"] for r in trace.rollbacks]


def step(correct: float, incorrect: float, norm: float = 1.0, clipped: float = 0.0) -> Sums:
    """The figures of a step of one example."""
    return Sums(
        examples=1, steps=1, correct=correct, incorrect=incorrect, compared=1, gradient_norm=norm, clipped=clipped
    )


def looked(*bad: Sums, before: int = 50) -> list[str | None]:
    """What a watch says of bad steps that follow calm ones, whose energies are half apart."""
    watch = Watch()
    for _ in range(before):
        assert watch.look(step(0.0, 0.5)) is None
    assert watch.calm
    said = [watch.look(s) for s in bad]
    assert not watch.calm
    return said


def test_signs() -> None:
    """Each sign has its words; one bad step is let go, ten in a row are not; energies that run away are told at once."""
    cases = {
        "samples ran away below": step(0.0, -150.0),
        "samples ran away above": step(0.0, 1500.0),
        "gradient exploded": step(0.0, 20.0, norm=100.0),
        "stick to clip_sample": step(0.0, 0.5, clipped=0.8),
    }
    for words, bad in cases.items():
        said = looked(*[bad] * HOLD)
        assert said[:-1] == [None] * (HOLD - 1) and words in str(said[-1])
    assert "run away" in str(looked(step(0.0, 2e6))[0])


def test_states_of_the_watch_come_back() -> None:
    """What a checkpoint holds of the watch is all it knows."""
    one, other = Watch(), Watch()
    for k in range(40):
        one.look(step(0.0, 0.5 + k % 3, norm=1.0 + k))
    other.load(one.state())
    bad = [step(0.0, -400.0)] * HOLD
    assert [one.look(s) for s in bad] == [other.look(s) for s in bad] and one.state() == other.state()


def test_large_offsets_are_no_divergence() -> None:
    """Energies that are large from the beginning are a matter of their zero."""
    watch = Watch()
    assert all(watch.look(step(5e6, 5e6 + 0.5)) is None for _ in range(60)) and watch.calm


def test_options() -> None:
    """What makes no sense is refused."""
    for wrong in ({"rollback": -1}, {"rollback_factor": 1.0}, {"rollback_steps": 0}):
        with pytest.raises(ValueError, match="rollback"):
            es.TrainingOptions(**wrong)  # type: ignore[arg-type]

"""Options of the training loop: each does what its row in docs/task-files.md says."""

from __future__ import annotations

import csv
import importlib
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmstruct as es
from ebmstruct.learning import TrainingEvent
from ebmstruct.learning.optimizing import Averager, rate_at
from ebmstruct.learning.tracing import COLUMNS, StepTrace

sys.path.insert(0, str(Path(__file__).parent))
helpers: Any = importlib.import_module("test_training")
sys.path.pop(0)
NLL = es.NegativeLogLikelihood()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


class Plain(helpers.Tagger):  # type: ignore[misc]
    """The tagger without dropout, so that a sum over examples does not depend on how they are put in batches."""

    def __init__(self) -> None:
        super().__init__()
        self.drop.p = 0.0
        self.sparse.dropout = 0.0


def fitted(options: es.TrainingOptions, *, double: bool = False, **more: Any) -> tuple[Plain, list[TrainingEvent]]:
    """A plain tagger trained on 60 examples, and its events."""
    events: list[TrainingEvent] = []
    model = Plain()
    if double:
        model.double()
    es.fit(model, helpers.Teacher(), None, helpers.data(60), NLL, options, on_event=events.append, **more)
    return model, events


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adamw"])
def test_accumulation_is_a_large_batch(optimizer: Any) -> None:
    """Four batches of five give the step of one batch of twenty: the same losses, norms (clipped) and weights to 1e-9."""
    common: dict[str, Any] = {"epochs": 3, "optimizer": optimizer, "lr": 0.05, "clip": 0.3}
    whole, events = fitted(es.TrainingOptions(batch_size=20, **common), double=True)
    parts, others = fitted(es.TrainingOptions(batch_size=5, accumulate=4, **common), double=True)
    assert len(events) == len(others) == 9 and {e.steps for e in others} == {3}
    for one, other in zip(events, others, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-9)
    for name, weight in weights_of(whole).items():
        torch.testing.assert_close(weight, weights_of(parts)[name], rtol=1e-9, atol=1e-12)


def test_averages() -> None:
    """The mean of all weights without ema; with it the plain mean at first, then an exponential moving average."""
    model = nn.Linear(1, 1, bias=False)
    plain, moving = Averager(model), Averager(model, 0.75)
    values, expected = [], 0.0
    for step in range(1, 13):
        values.append(float(step * step % 7))
        with torch.no_grad():
            model.weight.fill_(values[-1])
        plain.update()
        moving.update()
        part = max(0.25, 1 / step)
        expected += part * (values[-1] - expected)
        assert float(plain.mean[0]) == pytest.approx(sum(values) / step, rel=1e-5)
        assert float(moving.mean[0]) == pytest.approx(expected, rel=1e-5)
    with moving.shown():
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(model.weight.detach()) == values[-1]


def test_the_average_is_evaluated_and_kept() -> None:
    """What is evaluated and what is left is the average, from its first epoch on; a fault in between puts weights back."""
    seen: list[Tensor] = []
    raw: list[Tensor] = []
    model = Plain()

    def evaluate() -> dict[str, float]:
        seen.append(model.transition.detach().clone())
        return {"score": float(len(seen))}

    es.fit(
        model,
        helpers.Teacher(),
        None,
        helpers.data(60),
        NLL,
        es.TrainingOptions(epochs=3, batch_size=30, average=1, ema=0.5, lr=0.1),
        evaluate=evaluate,
        metric="score",
        on_event=lambda event: raw.append(model.transition.detach().clone()),
    )
    mean = raw[2]
    for weight in raw[3:4]:
        mean = mean + 0.5 * (weight - mean)
    assert torch.equal(seen[0], raw[1])
    torch.testing.assert_close(seen[1], mean)
    assert torch.equal(model.transition, seen[2]) and not torch.equal(seen[2], raw[-1])


def test_schedules() -> None:
    """Warm-up rises to lr; linear, cosine and constant are as in their formulas; inverse_sqrt is that of Vaswani et al."""

    def rates(schedule: Any, **more: Any) -> list[float]:
        o = es.TrainingOptions(lr=2.0, warmup=0.25, schedule=schedule, **more)
        return [rate_at(t / 8, o) for t in range(9)]

    for name in ("constant", "linear", "cosine", "inverse_sqrt"):
        assert rates(name)[:3] == pytest.approx([0.002, 1.0, 2.0])
    assert rates("constant")[2:] == [2.0] * 7
    assert rates("linear", final_lr_fraction=0.1)[2:] == pytest.approx([2 - 1.8 * t / 6 for t in range(7)])
    assert rates("cosine")[2:] == pytest.approx([1 + math.cos(math.pi * t / 6) for t in range(7)])
    assert rates("inverse_sqrt")[2:] == pytest.approx([2 * math.sqrt(2 / t) for t in range(2, 9)])
    assert rates("inverse_sqrt", final_lr_fraction=0.6)[-1] == pytest.approx(1.2)


def test_options_that_do_not_go_together() -> None:
    """Each pair is one sentence that says why."""
    for said, options in {
        "needs a warmup above 0": {"schedule": "inverse_sqrt"},
        "accumulate has no meaning for lbfgs": {"optimizer": "lbfgs", "accumulate": 2},
        "cannot tell values apart in bfloat16": {"optimizer": "lbfgs", "precision": "bfloat16"},
        "ema must be above 0 and below 1": {"ema": 1.0},
        "checkpoint_steps must be at least 1": {"checkpoint_steps": 0},
    }.items():
        with pytest.raises(ValueError, match=said):
            es.TrainingOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "every", "epochs", "best"),
    [
        ((0.1, 0.9, 0.5, 0.4, 0.3), 1, 4, 2),
        ((0.5, 0.6, 0.9, 0.1), 3, 12, 9),  # the epoch of an evaluation, never one in between
        ((0.5, 0.4, 0.3), 3, 6, 3),
        ((math.nan,) * 12, 1, 12, 0),  # a metric that is no number is never the best
    ],
)
def test_patience(scores: Sequence[float], every: int, epochs: int, best: int) -> None:
    """Training ends at the first evaluation that comes two or more epochs after the best one."""
    left = iter(scores)
    trace = es.fit(
        Plain(),
        helpers.Teacher(),
        None,
        helpers.data(4),
        es.Perceptron(),
        es.TrainingOptions(epochs=12, patience=2, evaluate_every=every),
        evaluate=lambda: {"score": next(left)},
        metric="score",
    )
    assert (len(trace.epochs), trace.best_epoch) == (epochs, best)


def test_what_cannot_stop_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Patience without an evaluation is a warning; an evaluation without the metric asked for is an error."""
    with caplog.at_level(logging.WARNING, "ebmstruct"):
        fitted(es.TrainingOptions(epochs=1, patience=1))
    assert "train.patience has no effect" in caplog.text
    with pytest.raises(es.ConfigError, match="gives no metric 'f1'; it gives .*accuracy"):
        fitted(es.TrainingOptions(epochs=1), evaluate=lambda: {"accuracy": 1.0}, metric="f1")


def test_double_precision_while_training() -> None:
    """Energies and weights are float64 while it trains, weights float32 afterwards, and also after a fault."""
    model, found = Plain(), []

    def evaluate() -> dict[str, float]:
        found.append(model.graph([(1, 2)]).factors[0].values()[0].dtype)  # type: ignore[union-attr]
        if len(found) == 2:
            raise ZeroDivisionError
        return {}

    def train(epochs: int) -> None:
        options = es.TrainingOptions(epochs=epochs, precision="float64", average=0)
        es.fit(model, helpers.Teacher(), None, helpers.data(8), NLL, options, evaluate=evaluate)

    train(1)
    assert found == [torch.float64] and {p.dtype for p in model.parameters()} == {torch.float32}
    with pytest.raises(ZeroDivisionError):
        train(1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class Table(es.EnergyModel):
    """One table for all letters: nothing in it multiplies matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(12, 2))

    def forward(self, inputs: Any) -> es.FactorGraph:
        block = es.Variables.of_lengths("y", es.Discrete(2), [len(x) for x in inputs])
        letters = torch.tensor([k for x in inputs for k in x])
        return es.FactorGraph([block], [es.TableFactor(("y",), "letter", self.table[letters])])


class Fixed(Table):
    """Inputs of one type against weights of another."""

    def forward(self, inputs: Any) -> es.FactorGraph:
        block = es.Variables.of_lengths("y", es.Discrete(2), [len(x) for x in inputs])
        rows = nn.functional.one_hot(torch.tensor([k for x in inputs for k in x]), 12).float()
        return es.FactorGraph([block], [es.TableFactor(("y",), "letter", rows @ self.table)])


def test_mixed_precision(caplog: pytest.LogCaptureFixture) -> None:
    """Where bfloat16 can be used the model learns and factors stay float32; where nothing takes it the log says so."""
    with caplog.at_level(logging.WARNING, "ebmstruct"):
        options = es.TrainingOptions(epochs=12, batch_size=8, lr=0.05, precision="bfloat16")
        model, _ = helpers.train(options, NLL)
    assert not caplog.records and helpers.accuracy(model, helpers.data(50, seed=2))["accuracy"] > 0.9
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with caplog.at_level(logging.WARNING, "ebmstruct"):
        es.fit(
            Table(), helpers.Teacher(), None, helpers.data(4), NLL, es.TrainingOptions(epochs=1, precision="bfloat16")
        )
    assert [r.message for r in caplog.records] == [
        "train.precision: bfloat16 changes nothing here: no operation of the energy's forward pass takes it"
    ]
    caplog.clear()
    es.fit(Fixed(), helpers.Teacher(), None, helpers.data(4), NLL, es.TrainingOptions(epochs=1, precision="bfloat16"))


def test_types_that_do_not_mix_are_told() -> None:
    """An energy whose inputs stay float32 is refused in double precision, in a sentence, and stays as it was."""
    model = Fixed()
    with pytest.raises(
        es.ConfigError, match=r"train\.precision: this energy does not compute in float64 .*; use float32"
    ):
        es.fit(model, helpers.Teacher(), None, helpers.data(4), NLL, es.TrainingOptions(precision="float64"))
    assert model.table.dtype == torch.float32


def test_energies_are_told(tmp_path: Path) -> None:
    """Events, rows of epochs and the step trace hold the mean energies that the loss compares, and their margin."""
    events: list[TrainingEvent] = []
    options = es.TrainingOptions(epochs=2, batch_size=30, trace_steps=1, lr=0.01)
    _, trace = helpers.train(options, es.StructuredHinge(), on_event=events.append, traces=tmp_path)
    for row, (one, two) in zip(trace.epochs, (events[:2], events[2:]), strict=True):
        assert row["train_energy_correct"] == pytest.approx((one.energy_correct + two.energy_correct) / 2)
        assert row["train_margin"] == pytest.approx(row["train_energy_incorrect"] - row["train_energy_correct"])
        assert row["loss"] == pytest.approx(-row["train_margin"]) and row["loss"] == pytest.approx(
            (one.loss + two.loss) / 2
        )
    rows = list(csv.DictReader((tmp_path / "steps.csv").read_text().splitlines()))
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4] and [int(r["epoch"]) for r in rows] == [1, 1, 2, 2]
    assert [float(r["margin"]) for r in rows] == pytest.approx([e.margin for e in events])
    assert [e.eta_s > 0 for e in events] == [True, True, True, False] and events[0].lr == 0.01
    _, trace = helpers.train(options, es.PseudoLikelihood(), on_event=events.append, traces=tmp_path)
    assert math.isnan(events[-1].margin) and "train_margin" not in trace.epochs[0]
    assert next(csv.DictReader((tmp_path / "steps.csv").read_text().splitlines()))["margin"] == ""


def test_a_step_trace_goes_on_where_it_should(tmp_path: Path) -> None:
    """Rows after the checkpoint, half a row and whatever follows are cut off; a file of something else begins anew."""
    event = TrainingEvent(1, 1, 1, 1, 0.5, 1.0, 10.0, 0.0)
    path = tmp_path / "steps.csv"
    trace = StepTrace(path, 0)
    for step in range(1, 6):
        trace.write(step, event)
    trace.close()
    whole = path.read_bytes()
    for tail in (b"", b"6,1,0.5", b"rubbish\n7,1\n"):
        path.write_bytes(whole + tail)
        StepTrace(path, 3).close()
        assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["step", "1", "2", "3"]
    path.write_bytes(whole[:-9])
    StepTrace(path, 5).close()
    assert path.read_bytes() == whole[: whole.rindex(b"\n5,") + 1]
    path.write_text("x,y\n1,2\n")
    StepTrace(path, 3).close()
    assert path.read_text() == ",".join(COLUMNS) + "\n"


def test_tensorboard(tmp_path: Path) -> None:
    """Event files hold the figures of steps and epochs; a resumed training does not show a step twice."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = es.TrainingOptions(epochs=3, batch_size=20, trace_steps=1, tensorboard=True, checkpoint_steps=2)

    def stop(event: TrainingEvent) -> None:
        if event.epoch == 2 and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        helpers.train(options, NLL, traces=tmp_path, checkpoint=tmp_path / "c", on_event=stop)
    helpers.train(options, NLL, traces=tmp_path, checkpoint=tmp_path / "c", resume=True)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = set(found.Tags()["scalars"])
    assert {"step/loss", "step/margin", "step/lr", "epoch/loss", "epoch/accuracy", "epoch/train_margin"} <= tags
    assert [e.step for e in found.Scalars("step/loss")] == list(range(1, 10))
    assert [e.step for e in found.Scalars("epoch/loss")] == [3, 6, 9]


def test_without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for and not installed, it is one sentence with the command, before anything is trained."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(es.ConfigError, match=r"pip install 'ebmstruct\[tensorboard\]'"):
        fitted(es.TrainingOptions(tensorboard=True))

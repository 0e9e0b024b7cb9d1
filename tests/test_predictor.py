"""Predictors: one input or many, text, deadlines from the moment of the call, threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ebmstruct.errors import ConfigError, DataError, PluginError
from ebmstruct.extend import Inference
from ebmstruct.inference import minimize
from ebmstruct.run import Prediction, Predictor, load
from ebmstruct.run.config import parse_config
from ebmstruct.run.runner import run

TASK = "task: {name: toy.letters, examples_count: 24}\ntrain: {epochs: 2}\noutput: run\n"


@pytest.fixture
def predictor(toy: Path) -> Predictor:
    """A loaded run."""
    return load(run(parse_config(TASK, "t.yaml")).folder)


def test_one_many_and_text(predictor: Predictor) -> None:
    """One input gives a Prediction, a list gives a list, text gives one for each input in it; all agree."""
    one = predictor(("a", "b"))
    assert isinstance(one, Prediction) and one.status == "OPTIMAL" and one.gap <= 1e-6
    assert one.lower_bound <= one.energy + 1e-9
    many = predictor([("a", "b"), ("c",)])
    assert [p.x for p in many] == [("a", "b"), ("c",)] and many[0].output == one.output
    assert predictor.predict_text("ab c") == many
    assert predictor([]) == []
    with pytest.raises(DataError, match="holds letters other than"):
        predictor.predict_text("xyz")


def test_batches_equal_single_calls(predictor: Predictor) -> None:
    """Whatever the batch size, outputs and energies are those of single calls."""
    xs = [example.x for example in predictor.task.examples("test")]
    single = [predictor(x) for x in xs]
    for size in (1, 5, 64):
        for a, b in zip(single, replace(predictor, batch_size=size)(xs), strict=True):
            assert a.output == b.output and a.energy == pytest.approx(b.energy, rel=1e-5)


def test_deadline_opens_at_the_call(predictor: Predictor) -> None:
    """The budget ends deadline_s after the call, so that building the graph is inside it."""
    seen = []
    task = predictor.task
    model = predictor.model
    prepare = model.prepare

    def slow(xs):  # type: ignore[no-untyped-def]
        time.sleep(0.05)
        return prepare(xs)

    class Watching(type(task)):  # type: ignore[misc]
        def infer(self, graph, schema, *, solver=None, budget=None, detail=False):  # type: ignore[no-untyped-def]
            seen.append((budget.remaining, detail))
            result = minimize(graph, solver, budget=budget)
            return Inference(result, self.decode(result.assignment, graph, schema))

    object.__setattr__(model, "prepare", slow)
    watched = replace(predictor, task=Watching())
    watched(("a", "b"), deadline_s=10.0, detail=False)
    assert 9 < seen[0][0] < 9.96 and seen[0][1] is False
    late = watched(("a", "b"), deadline_s=0.001)
    assert seen[1][0] < 0 and late.output is not None


def test_threads(predictor: Predictor) -> None:
    """Concurrent calls give what calls one after the other give."""
    xs = [example.x for example in predictor.task.examples("train")] * 5
    predictor.warm(xs[0])
    expected = [predictor(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(predictor, xs)) == expected


def test_warm(predictor: Predictor) -> None:
    """Without an example a task that cannot read text, or reads nothing in a word, asks for one."""
    predictor.warm(("a",))
    with pytest.raises(PluginError, match="give warm"):
        predictor.warm()

    class Mute(type(predictor.task)):  # type: ignore[misc]
        def read(self, raw):  # type: ignore[no-untyped-def]
            return []

    with pytest.raises(PluginError, match="give warm"):
        replace(predictor, task=Mute()).warm()


def test_evaluation_mode(predictor: Predictor) -> None:
    """A predictor's model is in evaluation mode, so dropout does not blur answers."""
    assert not predictor.model.training


def test_no_gpu(predictor: Predictor) -> None:
    """Asking for a GPU where there is none is one sentence."""
    with pytest.raises(ConfigError, match="device: 'cuda' was asked for; this machine has cpu"):
        load("run", device="cuda")


def test_wrong_number_of_outputs(predictor: Predictor) -> None:
    """A task that decodes too few outputs is told so, and nothing is silently misaligned."""

    class Short(type(predictor.task)):  # type: ignore[misc]
        def decode(self, y, graph, schema):  # type: ignore[no-untyped-def]
            return super().decode(y, graph, schema)[:-1]

    with pytest.raises(PluginError, match="decoded 1 outputs for 2 inputs"):
        replace(predictor, task=Short())([("a",), ("b",)])

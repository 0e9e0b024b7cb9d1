"""Runs: determinism, resuming to the same result, faults that leave nothing half-written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ebmstruct.errors import ConfigError, DataError, PluginError, RunFolderError
from ebmstruct.run.config import parse_config
from ebmstruct.run.folder import RunFolder
from ebmstruct.run.runner import Progress, RunInterrupted, evaluate_run, run

TASK = "task: {name: toy.letters, examples_count: 24}\ntrain: {epochs: 4}\n"
SAME = ("model.safetensors", "schema.json", "predictions/test.jsonl", "predictions/dev.jsonl")


def test_summary_and_metrics(toy: Path) -> None:
    """The summary holds what metrics.json holds: for each split the task's metrics and how sure the answers are."""
    summary = run(parse_config(TASK, "t.yaml"))
    written = json.loads((summary.folder / "metrics.json").read_text())
    assert written == summary.metrics and summary.folder == Path("runs/t") and summary.epochs == 4
    assert set(written["splits"]) == {"dev", "test"} and written["metric"] == "accuracy"
    test = written["splits"]["test"]
    assert test["examples"] == 24 and set(test["per_type"]) == {"C", "V"}
    assert test["inference"]["statuses"] == {"OPTIMAL": 24} and test["inference"]["largest_gap"] <= 1e-6
    assert test["inference"]["mean_energy_predicted"] <= test["inference"]["mean_energy_correct"] + 1e-9
    lines = (summary.folder / "trace.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,loss,") and {"accuracy", "energy_correct"} <= set(lines[0].split(","))
    assert len(lines) == 5


def test_same_seed_same_bytes(toy: Path) -> None:
    """Two runs of one file end in the same weights and predictions, byte for byte; another seed does not."""
    one = run(parse_config(TASK, "t.yaml").with_output("one")).folder
    two = run(parse_config((one / "config.yaml").read_text(), "config.yaml").with_output("two")).folder
    other = run(parse_config(TASK, "t.yaml", ["train.seed=1"]).with_output("other")).folder
    for name in SAME:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert (one / SAME[0]).read_bytes() != (other / SAME[0]).read_bytes()


def test_stopped_and_resumed(toy: Path) -> None:
    """A run that is stopped keeps its checkpoint, says --resume, and ends as if it had never been stopped."""
    whole = run(parse_config(TASK, "t.yaml").with_output("whole")).folder

    def stop(progress: Progress) -> None:
        if progress.event is not None and progress.event.epoch == 3:
            raise KeyboardInterrupt

    config = parse_config(TASK, "t.yaml").with_output("stopped")
    with pytest.raises(RunInterrupted, match="stopped is unfinished: run again and add --resume"):
        run(config, on_progress=stop)
    assert (config.output / "checkpoint.safetensors").is_file() and not (config.output / "run.json").exists()
    with pytest.raises(RunFolderError, match="begun with another train"):
        run(parse_config(TASK, "t.yaml", ["train.lr=0.5"]).with_output("stopped"), resume=True)
    run(config, resume=True)
    for name in SAME:
        assert (whole / name).read_bytes() == (config.output / name).read_bytes(), name
    assert not (config.output / "checkpoint.safetensors").exists()


def test_killed_before_it_had_begun(toy: Path) -> None:
    """A run that was killed while its folder was made is not there yet: the same command begins it, without --resume."""
    config = parse_config(TASK, "t.yaml")
    config.output.mkdir(parents=True)
    for name in (".lock", "schema.json", "data.json", ".config.yaml.x.tmp"):
        (config.output / name).write_text("{")
    with pytest.raises(RunFolderError, match="run without --resume"):
        run(config, resume=True)
    folder = run(config).folder
    assert (folder / "run.json").is_file() and not list(folder.glob(".*"))


def test_killed_at_the_very_end(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its manifest a run is unfinished, still has its checkpoint, and is resumed without training again."""
    config = parse_config(TASK, "t.yaml", ["train.trace_steps=1"])
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda *arguments, **facts: None)
        folder = run(config).folder
    before = {name: (folder / name).read_bytes() for name in (*SAME, "trace.csv", "steps.csv")}
    (folder / ".metrics.json.x.tmp").write_text("half")
    steps: list[Progress] = []
    run(config, resume=True, on_progress=steps.append)
    assert not any(p.event for p in steps) and not list(folder.glob(".*.tmp"))
    assert all((folder / name).read_bytes() == data for name, data in before.items())
    assert (folder / "run.json").is_file() and not (folder / "checkpoint.safetensors").exists()


def test_hostile_checkpoint(toy: Path) -> None:
    """A checkpoint that is no checkpoint gives one sentence on --resume."""
    config = parse_config(TASK, "t.yaml")

    def stop(progress: Progress) -> None:
        if progress.event is not None and progress.event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted):
        run(config, on_progress=stop)
    path = config.output / "checkpoint.safetensors"
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[:-5], b"\x80\x04cos\nsystem\n", b"x" * 1000):
        path.write_bytes(data)
        with pytest.raises(RunFolderError, match=r"checkpoint\.safetensors"):
            run(config, resume=True)


def test_nothing_half_written(toy: Path) -> None:
    """Faults of data, device or energy leave no folder behind."""
    cases = {
        "task.data=missing.jsonl": (DataError, "missing.jsonl cannot be read"),
        "train.device=cuda": (ConfigError, "--set train.device: 'cuda' was asked for; this machine has cpu"),
        "train.device=toaster": (ConfigError, "--set train.device: 'toaster' was asked for; this machine has"),
        "eval.split=tset": (DataError, "--set eval.split: there is no split 'tset'; toy.letters has train, dev, test"),
        "energy.scale=-1": (PluginError, "energy toy.chain could not be built: ValueError: scale must be above 0"),
        "task.examples_count=0": (DataError, "the split 'train' holds no example"),
    }
    for override, (kind, said) in cases.items():
        with pytest.raises(kind, match=said.replace("(", r"\(")):
            run(parse_config(TASK, "t.yaml", [override]))
    assert not (toy / "runs").exists()


def test_data_that_changed(toy: Path) -> None:
    """A run is not resumed on other data."""
    (toy / "d.jsonl").write_text('["ab", "VV"]\n' * 9)

    def stop(progress: Progress) -> None:
        if progress.event is not None and progress.event.epoch == 2:
            raise KeyboardInterrupt

    config = parse_config(TASK, "t.yaml", ["task.data=d.jsonl"])
    with pytest.raises(RunInterrupted):
        run(config, on_progress=stop)
    (toy / "d.jsonl").write_text('["ab", "VV"]\n' * 8)
    with pytest.raises(RunFolderError, match="the data are not those"):
        run(config, resume=True)


def test_partial_targets(toy: Path) -> None:
    """A target that is only partly known has the least energy of its completions: never below the prediction's."""
    config = parse_config(TASK, "t.yaml", ["task.partial=true"])
    evaluation = evaluate_run(run(config).folder)
    assert any(None in example.y for example in evaluation.examples)
    for target, energy in zip(evaluation.target_energy, evaluation.energy, strict=True):
        assert math.isfinite(target) and target >= energy - 1e-6


def test_evaluate_other_data(toy: Path) -> None:
    """A file named after training is evaluated by the task that was trained."""
    folder = run(parse_config(TASK, "t.yaml")).folder
    (toy / "more.jsonl").write_text('["abc", ["V", "V", "C"]]\n["hh", ["C", "C"]]\n')
    evaluation = evaluate_run(folder, toy / "more.jsonl")
    assert evaluation.metrics["examples"] == 2 and len(evaluation.outputs) == 2
    with pytest.raises(DataError, match="cannot be read"):
        evaluate_run(folder, toy / "nothing.jsonl")


def test_deadline_in_evaluation(toy: Path) -> None:
    """With a deadline every example is asked alone and each answer still has its status."""
    config = parse_config(TASK, "t.yaml", ["eval.budget.deadline_s=5.0"])
    metrics = run(config).metrics
    assert metrics["splits"]["test"]["inference"]["statuses"] == {"OPTIMAL": 24}


def test_task_that_cannot_draw(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the task's own report sections is told in the report, and the run is finished all the same."""
    config = parse_config(TASK, "t.yaml")

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("no pen")

    monkeypatch.setattr(type(config.task), "render", broken)
    summary = run(config)
    assert (summary.folder / "run.json").is_file()
    assert "ZeroDivisionError: no pen" in summary.report.read_text()


def test_fault_is_in_the_log(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault while training ends in run.log with its traceback."""
    config = parse_config(TASK, "t.yaml")

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("no score")

    monkeypatch.setattr(type(config.task), "score", broken)
    with pytest.raises(ZeroDivisionError):
        run(config)
    log = (config.output / "run.log").read_text()
    assert "the run ended: ZeroDivisionError: no score" in log and "Traceback" in log

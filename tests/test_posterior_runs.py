"""Runs with a section ``posterior``: draws in the folder, averaged predictions, deadlines, calibration, faults told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ebmstruct.errors import ConfigError, RunFolderError
from ebmstruct.inference import marginals
from ebmstruct.learning.posterior import AveragedModel
from ebmstruct.run.config import parse_config
from ebmstruct.run.predictor import Prediction, load
from ebmstruct.run.runner import Progress, RunInterrupted, evaluate_run, run

TASK = """
task: {name: toy.letters, examples_count: 40}
train: {epochs: 4}
posterior: {name: sgld, draws: 24, batch_size: 16}
"""


def test_run_with_posterior(toy: Path) -> None:
    """Draws are kept and hashed; predictions average over them; metrics and report compare calibration with one set of
    weights; evaluate gives the same metrics again."""
    stages: list[str] = []
    summary = run(parse_config(TASK, "t.yaml"), on_progress=lambda p: stages.append(p.stage))
    assert "sampling the posterior" in stages and "calibration on test" in stages
    manifest = json.loads((summary.folder / "run.json").read_text())
    assert {"posterior.safetensors", "posterior.json"} <= set(manifest["files"])
    both = summary.metrics["splits"]["test"]["posterior"]
    assert 0 < both["averaged"]["log_loss"] < 1 and 0 < both["trained_weights"]["log_loss"] < 1
    assert sum(b["count"] for b in both["averaged"]["bins"]) == both["averaged"]["sites"]
    assert summary.metrics["posterior"]["draws"] == 24 and summary.metrics["posterior"]["sampler"] == "sgld"
    page = summary.report.read_text()
    for word in ("Posterior of the weights", "Calibration on test", "Reliability on dev", "largest R-hat"):
        assert word in page
    again = evaluate_run(summary.folder)
    assert again.metrics["accuracy"] == summary.metrics["splits"]["test"]["accuracy"]
    assert again.metrics["posterior"]["averaged"]["log_loss"] == pytest.approx(both["averaged"]["log_loss"], abs=1e-9)


def test_loaded_predictor_averages(toy: Path) -> None:
    """The loaded predictor's beliefs are the means of those of all draws; a deadline lowers the number of draws, which
    the prediction tells."""
    predictor = load(run(parse_config(TASK, "t.yaml")).folder)
    model = predictor.model
    assert isinstance(model, AveragedModel) and len(model.draws) == 24
    xs = [("a", "b", "e"), ("c",)]
    inputs = model.prepare(xs)
    with torch.no_grad():
        mean = torch.stack([marginals(model.of_draw(s, inputs)).beliefs["y"].double() for s in range(24)]).mean(0)
        assert torch.allclose(marginals(model(inputs)).beliefs["y"].double(), mean, atol=1e-6)
    answer = predictor(xs[0])
    assert isinstance(answer, Prediction) and answer.draws == 24 and answer.status == "OPTIMAL"
    assert predictor(xs[0], deadline_s=1e-4).draws == 1
    path = Path("runs/t/posterior.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(RunFolderError, match=r"posterior.safetensors is not the file that the run wrote"):
        load("runs/t")


def test_resumed_after_the_draws(toy: Path) -> None:
    """A run that is stopped once its draws are written goes on without drawing again, to the same predictions."""
    whole = run(parse_config(TASK, "t.yaml").with_output("whole")).folder

    def stop(progress: Progress) -> None:
        if progress.stage == "evaluating dev":
            raise KeyboardInterrupt

    config = parse_config(TASK, "t.yaml").with_output("stopped")
    with pytest.raises(RunInterrupted):
        run(config, on_progress=stop)
    stages: list[str] = []
    run(config, resume=True, on_progress=lambda p: stages.append(p.stage))
    assert "sampling the posterior" not in stages
    for name in ("predictions/test.jsonl", "posterior.safetensors"):
        assert (whole / name).read_bytes() == (config.output / name).read_bytes()


def test_faults_of_the_section(toy: Path) -> None:
    """Unknown keys, names and values are told with places and near misses; a loss with a margin needs any_loss."""
    text = TASK.replace("{name: sgld, draws: 24, batch_size: 16}", "{name: sgldd, drawz: 3}")
    with pytest.raises(ConfigError) as found:
        parse_config(text, "t.yaml")
    assert "t.yaml:4 posterior.name: must be one of sgld" in str(found.value) and "did you mean sgld?" in str(
        found.value
    )
    assert "posterior.drawz: unknown" in str(found.value) and "did you mean draws?" in str(found.value)
    with pytest.raises(ConfigError, match=r"t.yaml:4 posterior: must be a mapping with a name.*write \{name: sgld\}"):
        parse_config(TASK.replace("{name: sgld, draws: 24, batch_size: 16}", "sgld"), "t.yaml")
    with pytest.raises(ConfigError, match="t.yaml:4 posterior: leapfrog_steps belongs to hmc"):
        parse_config(TASK.replace("draws: 24", "leapfrog_steps: 3"), "t.yaml")
    hinge = TASK + "loss: {name: structured_hinge}\n"
    with pytest.raises(ConfigError, match="structured_hinge is no likelihood.*any_loss"):
        parse_config(hinge, "t.yaml")
    config = parse_config(hinge, "t.yaml", ["posterior.any_loss=true"])
    assert config.posterior is not None and config.posterior.any_loss
    assert parse_config(TASK, "t.yaml").resolved["posterior"]["prior_spread"] == 1.0
    assert "posterior" not in parse_config("task: {name: toy.letters}", "t.yaml").resolved


def test_energies_averaged(toy: Path) -> None:
    """average: energies answers by the graph of mean energies, in a run as in the model."""
    folder = run(parse_config(TASK, "t.yaml", ["posterior.average=energies"])).folder
    predictor = load(folder)
    model = predictor.model
    assert isinstance(model, AveragedModel)
    inputs = model.prepare([("a", "b")])
    with torch.no_grad():
        graph = model(inputs)
        y = predictor.task.encode([["C", "V"]], graph, predictor.schema)
        mean = torch.stack([model.of_draw(s, inputs).energy(y) for s in range(24)]).mean(0)
        assert torch.allclose(graph.energy(y), mean, atol=1e-6)

"""An energy of label sets joined to a network that guesses, from a task file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebmstruct.run.config import parse_config
from ebmstruct.run.runner import run


@pytest.mark.parametrize("loss", ["inference_network", "seal", "amortisation"])
def test_a_task_file_trains_the_network(loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loss of inference networks trains it, and the solver ``amortised`` answers every input from its guesses."""
    monkeypatch.chdir(tmp_path)
    text = (
        "task: {name: multilabel.classification}\n"
        "energy: {name: multilabel.amortised_spen, width: 32, network_width: 32}\n"
        f"loss: {{name: {loss}}}\nsolver: {{name: amortised, tolerance: 0.05}}\ntrain: {{epochs: 6, lr: 0.01}}\n"
    )
    found = run(parse_config(text, "amortised.yaml")).metrics["splits"]["test"]
    assert sum(found["inference"]["statuses"].values()) == 500
    if loss != "amortisation":  # which trains no energy
        assert found["example_f1"] > 0.4

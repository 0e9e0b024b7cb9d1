"""One line of a task file chooses the loss, and nothing else has to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebmstruct.errors import LossRefusal
from ebmstruct.extend.components import CORE
from ebmstruct.run.config import parse_config
from ebmstruct.run.predictor import load
from ebmstruct.run.runner import run

REFUSED = {
    "score_matching": "discrete",
    "denoising": "noise levels",
    "hybrid_likelihood": "no continuous block",
    "inference_network": "guess",
    "seal": "guess",
    "amortisation": "guess",
}
"""What the refusal is about: these need points, or a network of guesses, and the task has states and no network."""


@pytest.mark.parametrize("name", CORE["loss"])
def test_every_loss_trains_a_chain(name: str, toy: Path) -> None:
    """A run with this loss trains, evaluates and loads; or it is refused in a sentence, and nothing is left behind."""
    text = f"task: {{name: toy.letters, examples_count: 24}}\nloss: {{name: {name}}}\ntrain: {{epochs: 2}}\n"
    config = parse_config(text, "t.yaml")
    if name in REFUSED:
        with pytest.raises(LossRefusal, match=REFUSED[name]):
            run(config)
        assert not Path("runs").exists()
        return
    summary = run(config)
    assert summary.epochs == 2 and load(summary.folder)(("a", "b")).status == "OPTIMAL"

"""Rules between labels, beside a trained energy: no answer breaks one, however sets are decoded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ebmstruct.run.config import parse_config
from ebmstruct.run.runner import run

TASK = "task: {name: multilabel.classification}\n"
TRAIN = TASK + "energy: {name: multilabel.mlp, width: 32}\ntrain: {epochs: 1}\noutput: plain\n"
RULES = (
    f"{TASK}energy:\n  - {{name: multilabel.mlp, run: plain}}\n"
    '  - {name: rules, exclude: [["alarm 1: left", "alarm 1: right"]], implies: [["alarm 3: left", "alarm 4: right"]]}\n'
    "eval: {split: test}\n"
)


def broken(folder: Path) -> int:
    """How many predicted sets break a rule."""
    sets = [set(json.loads(line)["labels"]) for line in (folder / "predictions/test.jsonl").read_text().splitlines()]
    assert len(sets) == 500
    both = sum({"alarm 1: left", "alarm 1: right"} <= own for own in sets)
    return both + sum("alarm 3: left" in own and "alarm 4: right" not in own for own in sets)


def test_no_decoder_breaks_a_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain energy breaks the rules; with them beside it, neither decoder nor the least energy does."""
    monkeypatch.chdir(tmp_path)
    assert broken(run(parse_config(TRAIN, "plain.yaml")).folder) > 0
    for place, solver in enumerate(("{name: expected_f1}", "{name: threshold, value: 0.3}", "")):
        text = f"{RULES}solver: {solver}\noutput: ruled{place}\n"
        folder = run(parse_config(text, "ruled.yaml")).folder
        assert broken(folder) == 0
        page = (folder / "report.html").read_text()
        assert ("E(correct)" in page) == (not solver), "energies of decoded answers say nothing of mistakes"

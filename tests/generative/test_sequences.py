"""Sequences from a file to new ones: training, the commands generate, predict and latents, and what goes wrong."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import ebmstruct as es
from ebmstruct.cli import main
from ebmstruct.errors import DataError, PluginError
from ebmstruct.run.config import parse_config
from ebmstruct.run.generating import generate
from ebmstruct.run.latents import inferred
from ebmstruct.run.predictor import load
from ebmstruct.run.runner import run
from ebmstruct_generative.sequences.hidden_chain import HiddenChain
from ebmstruct_generative.sequences.measures import overlap, sequence_figures
from ebmstruct_generative.sequences.schema import fitted
from ebmstruct_generative.sequences.task import Sequences

TASK = """
task: {name: generative.sequences, data: lines.txt}
energy: {name: generative.hidden_chain, states: 4}
train: {optimizer: adam, lr: 0.05, epochs: 20, batch_size: 32, evaluate_every: 10}
output: out
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on lines in which a is always followed by b, and lengths are even."""
    folder = tmp_path_factory.mktemp("sequences")
    generator = torch.Generator().manual_seed(0)
    lines = []
    for _ in range(600):
        pairs = torch.randint(0, 2, (int(torch.randint(1, 4, (), generator=generator)),), generator=generator)
        lines.append("".join("ab" if p else "cd" for p in pairs.tolist()))
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = parse_config(TASK.replace("lines.txt", str(folder / "lines.txt")), "t.yaml")
        return folder / run(config).folder


def test_generated_lines_follow_the_rule_and_the_seed(finished: Path) -> None:
    """New lines are of the kind learnt, the same for one seed, others for another, with a report beside them."""
    found = generate(finished, 200, seed=3)
    lines = found.path.read_text().splitlines()
    assert len(lines) == 200 == found.count and {len(line) for line in lines} == {2, 4, 6}
    good = sum(line.replace("ab", "").replace("cd", "") == "" for line in lines)
    assert good > 180
    assert found.quality["triples_overlap"] > 0.8 and found.quality["quality"]["verdicts"]
    assert found.report is not None and "Held-out and drawn" in found.report.read_text()
    again = generate(finished, 200, seed=3, output=finished.parent / "again.txt", judge=False)
    assert again.path.read_text().splitlines() == lines and again.report is None
    other = generate(finished, 200, seed=4, output=finished.parent / "other.txt", judge=False)
    assert other.path.read_text().splitlines() != lines


def test_given_parts_are_kept(finished: Path) -> None:
    """A pattern holds where it names symbols; the rest is drawn given it."""
    found = generate(finished, 50, given=["pattern=a??d"], output=finished.parent / "given.txt", judge=False)
    lines = found.path.read_text().splitlines()
    assert all(len(line) == 4 and line[0] == "a" and line[3] == "d" for line in lines)
    assert sum(line == "abcd" for line in lines) > 40
    assert load(finished).predict_text("a?c?")[0].output == list("abcd")


def test_draws_of_a_small_chain_have_their_probabilities() -> None:
    """Exact draws agree with enumeration over symbols, hidden states summed out."""
    schema = fitted([["x", "y"], ["y", "y"]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HiddenChain(schema, states=3).requires_grad_(False)
    graph = model.graph([{"length": 2}])
    weights = {}
    for symbols in product(range(2), repeat=2):
        every = [
            -graph.energy({"symbols": torch.tensor(symbols), "states": torch.tensor(h)})
            for h in product(range(3), repeat=2)
        ]
        weights[symbols] = float(torch.stack(every).logsumexp(0).exp().sum())
    drawn = es.sample(graph, num_samples=20000, generator=torch.Generator().manual_seed(0)).values["symbols"]
    for symbols, weight in weights.items():
        share = float((drawn == torch.tensor(symbols)).all(1).float().mean())
        assert abs(share - weight / sum(weights.values())) < 0.015


def test_the_command(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ebmstruct generate` says where the records are; faults are one sentence and exit code 2, with nothing written."""
    out = finished.parent / "by_command.txt"
    assert main(["generate", str(finished), "--num", "30", "-o", str(out), "--json", "-q"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["records"] == 30 and Path(told["path"]) == out and told["quality"]["fidelity"] > 0.5
    missing = finished.parent / "nowhere" / "x.txt"
    for arguments, sentence in {
        ("--given", "prefix=q"): "the training data never has 'q'",
        ("--given", "suffix=a"): "legal are length=N, prefix=TEXT and pattern=TEXT",
        ("--given", "length=0"): "a whole number of at least 1",
        ("--given", "pattern=a??d", "--given", "prefix=b"): "leave one of them out",
        ("--given", "prefix=abababababab"): "no training sequence is as long",
        ("-o", str(missing)): "there is no folder",
    }.items():
        bad = finished.parent / "bad.txt"
        tail = [] if arguments[0] == "-o" else ["-o", str(bad)]
        assert main(["generate", str(finished), "--num", "3", *arguments, *tail]) == 2
        assert sentence in capsys.readouterr().err and not bad.exists()
    assert main(["generate", str(finished), "--num", "0"]) == 2
    assert "at least 1 is needed" in capsys.readouterr().err


def test_latents_of_lines(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ebmstruct latents` gives states, probabilities, entropies and draws for each line; the same in both formats."""
    lines, out = finished.parent / "some.txt", finished.parent / "latents.npz"
    lines.write_text("abcd\ncdab\n")
    assert main(["latents", str(finished), str(lines), "--samples", "40", "-q"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 and set(rows[0]) == {"states"}
    states = rows[0]["states"]
    mean = torch.tensor(states["mean"])
    assert mean.shape == (4, 4) and torch.allclose(mean.sum(1), torch.ones(4))
    entropy = -(mean * mean.clamp(min=1e-30).log()).sum(1)
    assert torch.allclose(torch.tensor(states["spread"]), entropy, atol=1e-5)
    shares = torch.nn.functional.one_hot(torch.tensor(states["samples"]), 4).double().mean(0)
    assert torch.allclose(shares, mean.double(), atol=0.35) and len(states["map"]) == 4
    assert main(["latents", str(finished), str(lines), "-o", str(out), "-q"]) == 0
    arrays = np.load(out)
    assert np.allclose(arrays["states.mean"][0], states["mean"]) and "states.samples" not in arrays
    lines.write_text("abcd\nab\n")
    assert main(["latents", str(finished), str(lines), "-o", str(out), "-q"]) == 2
    assert "choose an --output that ends in .jsonl" in capsys.readouterr().err
    assert main(["latents", str(finished), str(lines), "-o", "latents.xml"]) == 2
    assert "legal are .jsonl and .npz" in capsys.readouterr().err


def test_other_tasks_draw_nothing(toy: Path) -> None:
    """A task that predicts says what to ask it in place of records."""
    summary = run(parse_config("task: {name: toy.letters, examples_count: 24}\ntrain: {epochs: 1}\n", "t.yaml"))
    with pytest.raises(PluginError, match="draws no records; ebmstruct predict answers for it"):
        generate(summary.folder, 3)
    with pytest.raises(DataError, match="has no latent variable"):
        list(inferred(load(summary.folder), [es.Example(("a", "b"), ["V", "C"])]))


def test_strips_are_kept_while_training(finished: Path) -> None:
    """After each evaluated epoch a few records stand in the run folder, and the report shows them."""
    assert sorted(p.name for p in (finished / "drawn").iterdir()) == ["epoch-00010.jsonl", "epoch-00020.jsonl"]
    assert "Drawn while it was trained" in (finished / "report.html").read_text()


def test_overlap_by_hand() -> None:
    """1 less half the sum of the differences of shares, ends included for runs."""
    assert overlap([["a", "b"]], [["a", "a"]], 1) == pytest.approx(0.5)
    assert overlap([["a"]], [["a"]], 2) == 1.0
    assert overlap([["a", "b"]], [["a"]], 2) == pytest.approx(1 - 0.5 * (1 / 6 + 1 / 3 + 1 / 3 + 1 / 2))
    copied = sequence_figures([["c"]] * 30, [["b"]] * 30, [["c"]] * 30 + [["b"]] * 30)
    assert copied["measures"]["copied"]["value"] == 1.0
    assert [v["level"] for v in copied["verdicts"]] == ["bad", "good"]
    copied = sequence_figures([["c"]] * 30, [["b"]] * 30, [["b"]] * 30)
    assert copied["verdicts"][1]["level"] == "bad"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No file, no UTF-8, a cut gzip, too few lines: a sentence each."""
    (tmp_path / "latin.txt").write_bytes(b"ab\n\xe9t\xe9\n")
    (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "few.txt").write_text("ab\n")
    for name, sentence in {
        "nothing.txt": "cannot be read",
        "latin.txt": r"latin.txt:2: is not UTF-8 text \(byte 0xe9\)",
        "cut.gz": "cannot be read",
        "few.txt": "1 usable lines; at least 10",
    }.items():
        with pytest.raises(DataError, match=sentence):
            Sequences(data=str(tmp_path / name)).examples("train")

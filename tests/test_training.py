"""The training loop: it learns, it resumes after a kill to the same bits, it says when it diverges."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ebmstruct as es
from ebmstruct.energies.sparse import SparseLinear
from ebmstruct.learning.checkpoint import load_tree, save_tree

LETTERS = 12


@dataclass(frozen=True)
class Pair:
    """Letters and their tags."""

    x: tuple[int, ...]
    y: tuple[int, ...]


def data(count: int, seed: int = 0) -> list[Pair]:
    """A tag is the letter's parity, but always 1 after a letter that 3 divides."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        x = torch.randint(
            0, LETTERS, (int(torch.randint(1, 7, (), generator=generator)),), generator=generator
        ).tolist()
        y = [1 if i > 0 and x[i - 1] % 3 == 0 else k % 2 for i, k in enumerate(x)]
        pairs.append(Pair(tuple(x), tuple(y)))
    return pairs


class Tagger(es.EnergyModel):
    """Sparse and dense weights of a letter and its predecessor, with dropout, and a chain."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.sparse = SparseLinear(LETTERS + 1, 2, dropout=0.1)
        self.dense = nn.Embedding(LETTERS, 4)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(8, 2)
        self.transition = nn.Parameter(torch.zeros(2, 2))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in (self.dense.weight, self.out.weight):
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
            self.out.bias.zero_()

    def forward(self, inputs: Any) -> es.FactorGraph:
        block = es.Variables.of_lengths("y", es.Discrete(2), [len(x) for x in inputs])
        now = torch.tensor([k for x in inputs for k in x])
        before = torch.tensor([k for x in inputs for k in (x[0], *x[:-1])])
        noise = torch.default_generator if self.training else None
        energy = self.sparse((now + 1)[:, None], noise)
        energy = energy + self.out(self.drop(torch.cat([self.dense(now), self.dense(before)], 1)))
        return es.FactorGraph(
            [block], [es.TableFactor(("y",), "letter", energy), es.ChainFactor(("y",), "chain", self.transition)]
        )


class Teacher:
    """Targets and the Hamming cost."""

    def encode(self, ys: Sequence[Any], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        return es.Assignment({"y": torch.tensor([k for y in ys for k in y])})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> Sequence[es.Factor]:
        return [es.TableFactor(("y",), "cost", 1.0 - torch.eye(2)[target["y"]])]


def accuracy(model: Tagger, pairs: Sequence[Pair]) -> dict[str, float]:
    """The share of tags that are right."""
    with torch.no_grad():
        found = es.minimize(model.graph([p.x for p in pairs])).assignment["y"]
    gold = torch.tensor([k for p in pairs for k in p.y])
    return {"accuracy": float((found == gold).double().mean())}


def train(options: es.TrainingOptions, loss: es.Loss, **more: Any) -> tuple[Tagger, es.TrainingTrace]:
    """A tagger trained on 60 examples, the best epoch chosen on 30 others."""
    model, dev = Tagger(), data(30, seed=1)
    trace = es.fit(
        model,
        Teacher(),
        None,
        data(60),
        loss,
        options,
        evaluate=lambda: accuracy(model, dev),
        metric="accuracy",
        **more,
    )
    return model, trace


LOSSES = (es.NegativeLogLikelihood(), es.SoftmaxMargin(), es.Perceptron(), es.StructuredHinge(), es.PseudoLikelihood())
CASES = [("adamw", loss) for loss in LOSSES] + [(o, LOSSES[0]) for o in ("adam", "adagrad", "sgd", "lbfgs")]


@pytest.mark.parametrize(("optimizer", "loss"), CASES, ids=lambda v: getattr(v, "name", v))
def test_every_loss_and_every_optimizer_learns(optimizer: Any, loss: es.Loss) -> None:
    """Unseen sequences are tagged better than 9 times in 10 (half would be chance)."""
    lr = {"adamw": 0.05, "adam": 0.05, "adagrad": 0.3, "sgd": 0.3, "lbfgs": 1.0}[optimizer]
    options = es.TrainingOptions(epochs=25, batch_size=8, optimizer=optimizer, lr=lr, clip=None, schedule="linear")
    model, trace = train(options, loss)
    assert accuracy(model, data(50, seed=2))["accuracy"] > 0.9
    assert trace.best_epoch > 0


def test_the_same_seed_gives_the_same_bits() -> None:
    """Two trainings agree exactly, whatever the global generator does; another seed gives other weights."""
    options = es.TrainingOptions(epochs=2, lr=0.05)
    first, _ = train(options, es.NegativeLogLikelihood())
    torch.rand(7)
    second, _ = train(options, es.NegativeLogLikelihood())
    other, _ = train(es.TrainingOptions(epochs=2, lr=0.05, seed=1), es.NegativeLogLikelihood())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_training_leaves_the_global_generator_alone() -> None:
    """What a user draws after training does not depend on it."""
    model = Tagger()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    es.fit(model, Teacher(), None, data(60), es.NegativeLogLikelihood(), es.TrainingOptions(epochs=1))
    assert torch.equal(torch.rand(3), expected)


SCRIPT = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
import test_training as t
import ebmstruct as es
from pathlib import Path
options = es.TrainingOptions(epochs=12, batch_size=4, optimizer=sys.argv[3], lr=0.03, average=2, schedule="cosine")
slow = float(sys.argv[4])
model, trace = t.train(options, es.SoftmaxMargin(), checkpoint=Path(sys.argv[2]), resume=True,
                       on_event=lambda e: time.sleep(slow))
print(sum(float(p.double().sum()) for p in model.parameters()).hex(), trace.best_epoch, len(trace.epochs))
"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adagrad", "lbfgs"])
def test_a_killed_run_resumes_to_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    """kill -9 in the middle of training, then resume: weights, best epoch and trace equal those of an unbroken run."""

    def command(name: str, slow: float) -> list[str]:
        here = str(Path(__file__).parent)
        return [sys.executable, "-W", "ignore", "-c", SCRIPT, here, str(tmp_path / name), optimizer, str(slow)]

    whole = subprocess.run(command("whole", 0.0), capture_output=True, text=True, check=True).stdout
    victim = subprocess.Popen(command("broken", 0.3 if optimizer == "lbfgs" else 0.02), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and victim.poll() is None:
        if (tmp_path / "broken").exists() and load_tree(tmp_path / "broken")["standing"]["epoch"] >= 3:
            break
        time.sleep(0.02)
    assert victim.poll() is None, "the run was over before it could be killed"
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert 3 <= load_tree(tmp_path / "broken")["standing"]["epoch"] < 12
    resumed = subprocess.run(command("broken", 0.0), capture_output=True, text=True, check=True).stdout
    assert resumed == whole


def test_a_run_with_other_options_is_not_resumed(tmp_path: Path) -> None:
    """A checkpoint of another batch size is refused with the option named, and the file stays as it was."""
    path = tmp_path / "checkpoint"
    train(es.TrainingOptions(epochs=1, batch_size=8), es.NegativeLogLikelihood(), checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(es.RunFolderError, match="batch_size"):
        train(es.TrainingOptions(epochs=2, batch_size=4), es.NegativeLogLikelihood(), checkpoint=path, resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\x80\x04cos\nsystem\n(S'true'\ntR.", b'{"__tensor__": 1}'])
def test_a_hostile_checkpoint_does_nothing(content: bytes, tmp_path: Path) -> None:
    """Rubbish, zeros and a pickle that would run a command are refused in a sentence; nothing is executed."""
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    with pytest.raises(es.RunFolderError, match="not a checkpoint"):
        train(es.TrainingOptions(epochs=1), es.NegativeLogLikelihood(), checkpoint=path, resume=True)


def test_trees_survive_a_checkpoint(tmp_path: Path) -> None:
    """Nested dicts with numbers as keys, lists, texts, booleans, None and tensors of any type come back as they were."""
    tree = {
        "a": [1, 2.5, None, True, "x"],
        3: {"t": torch.arange(4), "e": torch.zeros(0)},
        "b": torch.tensor(2.0).double(),
    }
    save_tree(tmp_path / "tree", tree)
    back = load_tree(tmp_path / "tree")
    assert back["a"] == tree["a"]
    assert torch.equal(back[3]["t"], torch.arange(4)) and back[3]["e"].shape == (0,)
    assert back["b"].dtype == torch.float64


def test_divergence_is_told() -> None:
    """With an absurd step size the loss overflows; the message names what to change."""
    options = es.TrainingOptions(epochs=50, optimizer="sgd", lr=1e30)
    with pytest.raises(es.TrainingDiverged, match=r"train\.lr"):
        train(options, es.NegativeLogLikelihood())


def test_patience_stops_and_the_best_epoch_is_kept() -> None:
    """After 2 epochs without a better score training ends, with the weights of the best one."""
    scores = iter([0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    model, kept = Tagger(), []

    def evaluate() -> dict[str, float]:
        kept.append(model.out.weight.detach().clone())
        return {"score": next(scores)}

    options = es.TrainingOptions(epochs=6, patience=2)
    trace = es.fit(model, Teacher(), None, data(20), es.Perceptron(), options, evaluate=evaluate, metric="score")
    assert (len(trace.epochs), trace.best_epoch) == (4, 2)
    assert torch.equal(model.out.weight, kept[1])


def test_options_are_checked() -> None:
    """All faults come in one message."""
    with pytest.raises(ValueError, match=r"epochs must be at least 1; found 0; lr must be above 0"):
        es.TrainingOptions(epochs=0, lr=-1.0)


def test_a_device_that_is_not_there() -> None:
    """Asking for a GPU where there is none is one sentence that names what there is."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(es.ConfigError, match=r"'cuda' was asked for; this machine has cpu"):
        train(es.TrainingOptions(device="cuda"), es.NegativeLogLikelihood())

"""The loss lab: every loss of the core on every kind of planted model, with and without latent sites.

A cell is a loss on a kind of model. Either the loss refuses, with a sentence that docs/losses/matrix.md repeats, or its
gradient is right and, where its margin is positive, training with it recovers the planted answers. ``pytest -s`` prints
the matrix; ``python -m tests.test_loss_lab`` writes the page.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import ebmstruct as es
from ebmstruct.extend.components import CORE, Components
from ebmstruct.testing.planted import KINDS, Kind, Planted, PlantedNetwork, plant

PAGE = Path(__file__).parents[1] / "docs/losses/matrix.md"
CELLS = [(kind, latent) for latent in (False, True) for kind in KINDS]
ENOUGH = 0.95
"""The share of held-out cases that a loss with a positive margin must recover."""


@dataclass(frozen=True)
class Entry:
    """A loss in the lab. options: of the loss.  train: of the training.  skip: cells left out of recovery, with the reason.

    differentiable: the gradient is that of the value; False where draws depend on the parameters and are held fixed, whose
    gradients the family's own tests check.  network: hidden units of an inference network to which the model is
    joined; its own gradient the family's tests check, for it is not that of the value.
    """

    options: dict[str, Any]
    train: dict[str, Any]
    differentiable: bool = True
    sum_out: bool = False
    network: int = 0
    excused: dict[tuple[Kind, bool], str] | None = None


PLAIN = Entry({}, {})
FAR = "the least energy of these chains lies far above 0, so no energy is 0 or worth 1 where the loss wants it to be"
SQUARES: dict[tuple[Kind, bool], str] = {
    **dict.fromkeys([("continuous", False), ("continuous", True)], FAR),
    **dict.fromkeys([("mixed", False), ("mixed", True)], "squares of energies far from 0 need clipped gradients"),
}
ENTRIES: dict[str, Entry] = {
    "score_matching": Entry(
        {}, {}, excused={("continuous", True): "slopes hardly tell the weights of modes far apart"}
    ),
    "hybrid_likelihood": Entry(
        {},
        {},
        excused=dict.fromkeys(
            [("mixed", False), ("mixed", True), ("continuous", True)],
            "states are taught given the points, and of the points slopes near the data alone, which hardly tell far modes",
        ),
    ),
    "unrolled": Entry({"step_size": 0.02}, {}),
    "inference_network": Entry(
        {"weight": 3.0, "local_weight": 0.0},
        {"optimizer": "adam", "lr": 0.05},
        network=32,
        excused=dict.fromkeys(
            [("grid", False), ("mixed", False), ("grid", True), ("mixed", True), ("continuous", True)],
            "a network's minimum is too high, and where it stays so the planted answer is not recovered",
        ),
    ),
    # a network that knows less than the energy: one that knows the examples by heart draws nothing wrong
    "seal": Entry({"weight": 0.0, "samples": 20}, {"optimizer": "adam"}, network=1),
    "amortisation": Entry({}, {}, differentiable=False, network=32),
    "contrastive_divergence": Entry({}, {}, differentiable=False),
    "persistent_contrastive_divergence": Entry({"size": 100}, {}, differentiable=False),
    "sampled_likelihood": Entry({"samples": 50}, {}, differentiable=False),
    "minimum_classification_error": Entry(
        {}, {}, excused={("continuous", True): "its slope vanishes where first energies lie far apart, as here"}
    ),
    "square_square": Entry({}, {}, excused=SQUARES),
    "square_exponential": Entry({}, {}, excused=SQUARES),
    "value_matching": Entry(
        {},
        {},
        differentiable=False,
        excused=dict.fromkeys(
            [("mixed", False), ("mixed", True), ("continuous", False), ("continuous", True)],
            "the task's cost says nothing of the points, so their value is not taught",
        ),
    ),
}
"""Loss name to what the lab must know of it; a loss that is not here runs as it is."""


def entry(name: str) -> Entry:
    """How a loss is entered."""
    return ENTRIES.get(name, PLAIN)


def loss_named(name: str) -> es.Loss:
    """The loss with the options of its entry."""
    return Components({}).resolve("loss", name)(**entry(name).options)


@functools.cache
def planted(kind: Kind, latent: bool) -> Planted:
    """The planted model of a cell, made once."""
    return plant(kind, latent=latent)


def fresh(name: str, own: Planted, seed: int = 0) -> es.EnergyModel:
    """A fresh model for a loss, with an inference network where the loss asks for one."""
    model = own.fresh(seed)
    if not entry(name).network:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return es.Amortised(model, PlantedNetwork(own.truth, entry(name).network))


def energy_of(model: es.EnergyModel) -> torch.nn.Module:
    """The energy itself, where it is joined to a network."""
    return model.energy if isinstance(model, es.Amortised) else model


def refusal(name: str, kind: Kind, latent: bool) -> str | None:
    """Why a loss does not take a cell's graph and target; None where it does."""
    own = planted(kind, latent)
    some = own.train[:3]
    return loss_named(name).refuse(own.graph(fresh(name, own), some), own.target(some))


def value(name: str, own: Planted, model: es.EnergyModel, count: int = 4) -> torch.Tensor:
    """The sum of a loss over a few examples, with the same noise at every call."""
    some = own.train[:count]
    graph, target = own.graph(model, some), own.target(some)
    cost = own.cost(graph, target, None)
    noise = torch.Generator().manual_seed(7)
    found = loss_named(name)(graph, target, cost=cost, generator=noise, examples=range(count))
    assert found.value.shape == (count,)
    return found.value.double().sum()


@pytest.mark.parametrize(("kind", "latent"), CELLS)
@pytest.mark.parametrize("name", CORE["loss"])
def test_gradients_equal_finite_differences(name: str, kind: Kind, latent: bool) -> None:
    """Each loss' gradient by the parameters is that of its value, within 1e-4, wherever it does not refuse."""
    reason = refusal(name, kind, latent)
    own = planted(kind, latent)
    if reason is not None:
        with pytest.raises(es.LossRefusal) as told:
            value(name, own, fresh(name, own))
        assert reason in str(told.value)
        return
    model = fresh(name, own, seed=3)
    energy = energy_of(model)
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.mul_(5.0)  # away from ties
    total = value(name, own, model)
    gradients = torch.autograd.grad(total, list(energy.parameters()), allow_unused=True)
    flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in _pairs(gradients, energy)])
    assert torch.isfinite(flat).all() and torch.isfinite(total)
    if not entry(name).differentiable:
        return
    step = 1e-5
    for place in torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))[:6].tolist():
        ends = []
        for sign in (1.0, -1.0):
            _shift(energy, place, sign * step)
            ends.append(float(value(name, own, model).detach()))
            _shift(energy, place, -sign * step)
        numeric = (ends[0] - ends[1]) / (2 * step)
        scale = max(1.0, float(flat.abs().max()))
        assert abs(numeric - float(flat[place])) <= 1e-4 * scale, (place, numeric, float(flat[place]))


def _pairs(gradients: Any, model: torch.nn.Module) -> Any:
    return zip(gradients, model.parameters(), strict=True)


@torch.no_grad()
def _shift(model: torch.nn.Module, place: int, by: float) -> None:
    """Move one entry of the flattened parameters."""
    for parameter in model.parameters():
        if place < parameter.numel():
            parameter.view(-1)[place] += by
            return
        place -= parameter.numel()


OFFENDING = ("generalized_hinge", "log_loss", "minimum_classification_error", "square_square", "square_exponential")
"""They look for points outside a ball about the target, again and again: some 10 to 30 CPU seconds a training."""
LONG = (("grid", True), ("label_set", True), ("continuous", True))
"""Cells that `make test-all` trains: chains and mixed graphs stand for latent sites in `make test`."""


def slow(name: str, kind: Kind, latent: bool) -> bool:
    """Whether a training is left to the long suite."""
    return (kind, latent) in LONG or (name in OFFENDING and kind in ("mixed", "continuous"))


def promised(name: str, kind: Kind, latent: bool) -> bool:
    """Whether a loss says that it finds what was planted: its margin is positive, and the page has no reason against it."""
    return loss_named(name).margin == "positive" and (kind, latent) not in (entry(name).excused or {})


TRAININGS = [
    pytest.param(name, *cell, marks=[pytest.mark.slow] if slow(name, *cell) else [])
    for name in CORE["loss"]
    for cell in CELLS
    if promised(name, *cell)
]


@pytest.mark.parametrize(("name", "kind", "latent"), TRAININGS)
def test_positive_margins_recover_the_planted_answers(name: str, kind: Kind, latent: bool) -> None:
    """Training with a loss of positive margin finds the planted answer in at least 95 % of held-out cases."""
    loss, own, mine = loss_named(name), planted(kind, latent), entry(name)
    reason = refusal(name, kind, latent)
    if reason is not None:  # nothing can be trained; whoever looks for the cell must find the reason on the page
        assert reason in PAGE.read_text(encoding="utf-8")
        return
    model = fresh(name, own)
    options = {"epochs": 40, "lr": 0.1, "batch_size": 60, "schedule": "linear", **mine.train}
    es.fit(model, own, None, own.train, loss, es.TrainingOptions(**options))
    share = own.recovered(model, sum_out=mine.sum_out)
    assert share >= ENOUGH, f"{name} recovered {share:.2f}"


def matrix() -> str:
    """The page: which loss takes which kind of graph, and the refusals."""
    heads = [f"{kind}{', latent' if latent else ''}".replace("_", " ") for kind, latent in CELLS]
    lines = ["| loss | margin | " + " | ".join(heads) + " |", "| --- | --- |" + " --- |" * len(heads)]
    notes: dict[str, int] = {}
    doubts: dict[str, str] = {}
    for name in sorted(CORE["loss"]):
        row = []
        for kind, latent in CELLS:
            reason, doubt = refusal(name, kind, latent), (entry(name).excused or {}).get((kind, latent))
            if reason is not None:
                row.append(f"[{notes.setdefault(reason, len(notes) + 1)}]")
            else:
                row.append("yes" if doubt is None else f"yes [{doubts.setdefault(doubt, chr(ord('a') + len(doubts)))}]")
        lines.append(f"| `{name}` | {loss_named(name).margin} | " + " | ".join(row) + " |")
    told = [f"{number}. {reason}" for reason, number in notes.items()]
    doubted = [f"- {letter}: {doubt}" for doubt, letter in doubts.items()]
    why = "Where the gradient is right and training still does not find what was planted:"
    return "\n".join([HEAD, *lines, "", "The refusals, as the losses tell them:", "", *told, "", why, "", *doubted, ""])


HEAD = """# Which loss takes which graph

Each loss of the core on small models whose answers are known: chains, grids, label sets (one energy of the whole set),
mixed graphs (discrete and continuous outputs) and continuous outputs, with and without latent sites. `yes` means that the
gradient has been checked there and, where the margin is positive, that training finds the planted answers; a letter stands
for a reason why it does not find them there. A number stands for a refusal. Both are told below. The tests make this page
and hold it: `tests/test_loss_lab.py`.
"""


def test_the_printed_matrix_is_the_page() -> None:
    """The compatibility matrix in the documentation is what the losses say today."""
    text = matrix()
    print(text)
    assert PAGE.read_text(encoding="utf-8") == text, "run python -m tests.test_loss_lab"


if __name__ == "__main__":
    PAGE.write_text(matrix(), encoding="utf-8")

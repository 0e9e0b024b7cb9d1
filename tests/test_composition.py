"""Late composition: energies of finished runs, weighted, with rules, and without any training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ebmstruct as es
from ebmstruct.energies import EnergyModel, Rules
from ebmstruct.errors import ConfigError, GraphError, RunFolderError
from ebmstruct.run.composition import take_weights
from ebmstruct.run.config import parse_config
from ebmstruct.run.models import build_model
from ebmstruct.run.predictor import load
from ebmstruct.run.runner import run
from ebmstruct.testing import oracle

TASK = "task: {name: toy.letters, examples_count: 30}\n"
TRAIN = TASK + "energy: {name: toy.chain, scale: 0.2}\ntrain: {epochs: 3}\n"
RULES = TASK + (
    "energy:\n  - {name: toy.chain, run: runs/plain}\n"
    "  - {name: rules, forbid_next: [[V, V]]}\neval: {split: test}\noutput: runs/ruled\n"
)


def test_a_trained_energy_with_rules_needs_no_training(toy: Path) -> None:
    """Rules join a finished run's energy: weights are the run's own, no epoch is trained, and no answer breaks a rule."""
    plain = run(parse_config(TRAIN, "plain.yaml")).folder
    ruled = run(parse_config(RULES, "ruled.yaml"))
    assert ruled.epochs == 0
    mine, theirs = load(ruled.folder).model.state_dict(), load(plain).model.state_dict()
    for name, value in theirs.items():
        assert torch.equal(mine[f"models.0.{name}"], value)
    lines = [json.loads(line) for line in (ruled.folder / "predictions/test.jsonl").read_text().splitlines()]
    outputs = ["".join(line["output"]) for line in lines]
    assert len(outputs) == 30 and not any("VV" in text for text in outputs)
    before = [json.loads(line) for line in (plain / "predictions/test.jsonl").read_text().splitlines()]
    assert any("VV" in "".join(line["output"]) for line in before)


def test_the_new_run_stands_by_itself(toy: Path) -> None:
    """A composed run answers the same after the run it was made of has gone."""
    plain = run(parse_config(TRAIN, "plain.yaml")).folder
    folder = run(parse_config(RULES, "ruled.yaml")).folder
    before = load(folder)(("a", "e", "b"))
    plain.rename("elsewhere")
    assert load(folder)(("a", "e", "b")) == before


def test_options_come_from_the_run(toy: Path) -> None:
    """The options of an energy that is taken over are those of its run; another value is a fault that names both."""
    run(parse_config(TRAIN, "plain.yaml"))
    config = parse_config(RULES, "ruled.yaml")
    assert config.resolved["energy"][0]["scale"] == 0.2 and config.resolved["energy"][0]["run"] == "runs/plain"
    with pytest.raises(ConfigError, match=r"energy.0.scale: is 0.5, and runs/plain was trained with 0.2"):
        parse_config(RULES.replace("run: runs/plain", "run: runs/plain, scale: 0.5"), "ruled.yaml")
    with pytest.raises(ConfigError, match=r"runs/plain has no energy rules; its energies are toy.chain"):
        parse_config(RULES.replace("name: rules", "name: rules, run: runs/plain"), "ruled.yaml")


def test_runs_that_are_not_there(toy: Path) -> None:
    """A run that is missing is told before anything is written."""
    with pytest.raises(RunFolderError, match="there is no run folder runs/plain"):
        run(parse_config(RULES, "ruled.yaml"))
    assert not Path("runs/ruled").exists()


def test_a_part_may_be_trained_beside_one_that_is_taken_over(toy: Path) -> None:
    """An energy without ``run`` is trained while the other keeps its weights."""
    plain = run(parse_config(TRAIN, "plain.yaml")).folder
    text = TASK + (
        "energy:\n  - {name: toy.chain, run: runs/plain, weight: 0.5}\n  - {name: toy.chain, transitions: false}\n"
        "train: {epochs: 2}\noutput: runs/both\n"
    )
    both = run(parse_config(text, "both.yaml"))
    assert both.epochs == 2
    mine, theirs = load(both.folder).model.state_dict(), load(plain).model.state_dict()
    assert all(torch.equal(mine[f"models.0.{name}"], value) for name, value in theirs.items())
    assert not torch.equal(mine["models.1.unary"], theirs["unary"])


class Labels(EnergyModel):
    """Three labels of a set, with energies given."""

    def forward(self, inputs: list[torch.Tensor]) -> es.FactorGraph:
        """One label set an input."""
        block = es.Variables.of_lengths("y", es.Discrete(2), [3] * len(inputs))
        return es.FactorGraph([block], [es.TableFactor(("y",), "own", torch.cat(inputs))])


class Names(es.Schema):
    """The names of the labels."""

    def site_names(self, block: str) -> tuple[str, ...]:
        """Three animals, one of them a pet."""
        return ("cat", "dog", "pet/cat")


ALLOWED = {
    "forbid": lambda s: not s[1],
    "exclude": lambda s: not (s[0] and s[1]),
    "implies": lambda s: not s[2] or s[0],
}


@pytest.mark.parametrize("rule", ALLOWED)
@pytest.mark.parametrize("cost", [None, 1.5])
def test_rules_about_label_sets(rule: str, cost: float | None) -> None:
    """Each rule forbids, or prices, exactly the label sets that it should, by enumeration."""
    options = {"forbid": ("d*",), "exclude": (("cat", "dog"),), "implies": (("pet/*", "cat"),)}[rule]
    model = es.SumOfEnergies([Labels(), Rules(Names(), cost=cost, **{rule: options})], [1.0, 1.0], ["own", "rules"])
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(2)]
    graph, free = model.graph(x), Labels().graph(x)
    assert f"rules/{rule}" in [f.label for f in graph.factors]
    for b in range(2):
        with_rules, without = oracle(graph)[b], oracle(free)[b]
        for states, energy, bare in zip(with_rules.states, with_rules.energies, without.energies, strict=True):
            extra = 0.0 if ALLOWED[rule](states) else (float("inf") if cost is None else cost)
            assert energy == pytest.approx(bare + extra)


def test_names_that_are_not_there() -> None:
    """A rule about a name that nobody has says which there are; so does a graph without such names."""
    with pytest.raises(GraphError, match=r"'bird' names no site of block 'y'; there: cat, dog, pet/cat"):
        es.SumOfEnergies([Labels(), Rules(Names(), forbid=("bird",))], [1.0, 1.0]).graph([torch.zeros(3, 2)])
    with pytest.raises(GraphError, match=r"names no state of block 'y'; there: none that has a name"):
        es.SumOfEnergies([Labels(), Rules(None, forbid_next=(("a", "b"),))], [1.0, 1.0]).graph([torch.zeros(3, 2)])
    with pytest.raises(GraphError, match="none makes a graph"):
        es.SumOfEnergies([Rules(Names(), forbid=("cat",))], [1.0]).graph([torch.zeros(3, 2)])
    with pytest.raises(ValueError, match="there is no rule"):
        Rules(Names())


def test_a_breach_costs_once() -> None:
    """Patterns that mean a rule several times, or the other way round, are one rule."""
    options = {"exclude": (("cat", "dog"), ("dog", "cat"), ("*", "dog")), "forbid": ("d*", "dog")}
    graph = es.SumOfEnergies([Labels(), Rules(Names(), cost=2.0, **options)], [1.0, 1.0]).graph([torch.zeros(3, 2)])
    energies = dict(zip(oracle(graph)[0].states, oracle(graph)[0].energies, strict=True))
    assert energies[0, 1, 0] == 2.0 and energies[1, 1, 0] == 4.0 and energies[1, 0, 1] == 0.0


def test_what_is_taken_over_draws_no_noise(toy: Path) -> None:
    """An energy of a finished run stays in evaluation mode while others are trained, so its dropout is off."""
    run(parse_config(TRAIN.replace("scale: 0.2", "scale: 0.2, dropout: 0.5"), "plain.yaml"))
    text = TASK + "energy:\n  - {name: toy.chain, run: runs/plain}\n  - {name: toy.chain, dropout: 0.5}\n"
    config = parse_config(text, "both.yaml")
    model = build_model(config.energies, config.task.fit(list(config.task.examples("train"))), seed=0)
    assert isinstance(model, es.SumOfEnergies)
    take_weights(model, config.energies)
    model.train()
    taken, own = model.models
    assert not taken.drop.training and own.drop.training


def test_infinite_parts_stay_infinite() -> None:
    """A function that forbids goes on to forbid at any weight."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [1])
    factor = es.BlockFactor(("y",), "hard", lambda y, offsets: torch.where(y == 1, torch.inf, 1.0).double())
    for weight in (0.0, -1.0, 2.0):
        graph = es.FactorGraph([block], [factor.scaled(weight)])
        assert graph.energy({"y": torch.tensor([1])}).item() == float("inf")
        assert graph.energy({"y": torch.tensor([0])}).item() == weight

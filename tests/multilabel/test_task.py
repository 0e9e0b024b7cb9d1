"""The task from data to report: schema, encoding, cost, metrics, energies, tuning, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ebmstruct as es
from ebmstruct.cli import main
from ebmstruct_multilabel.counted import Counted
from ebmstruct_multilabel.metrics import best_threshold, calibration, f1, set_scores, together
from ebmstruct_multilabel.mixture import Mixture
from ebmstruct_multilabel.mlp import MLP
from ebmstruct_multilabel.pairwise import Pairwise, mutual_information, spanning_tree
from ebmstruct_multilabel.rows import Row
from ebmstruct_multilabel.schema import LabelSchema, fitted
from ebmstruct_multilabel.spen import SPEN
from ebmstruct_multilabel.task import Classification
from ebmstruct_multilabel.value_network import ValueNetwork

SMALL = {"width": 16}


def some(count: int = 120) -> list[es.Example]:
    """The first rows of the data made by the plugin."""
    return list(Classification().examples("train"))[:count]


@pytest.fixture(scope="module")
def schema() -> LabelSchema:
    """What those rows say."""
    return fitted(some(), 2)


def test_schema(schema: LabelSchema) -> None:
    """Means, spreads and counts are those of the rows; it comes back from its parts."""
    dense = np.array([[e.x.named()[name] for name in schema.features] for e in some()])
    np.testing.assert_allclose(schema.mean.numpy(), dense.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(schema.spread.numpy(), dense.std(0), rtol=1e-4)
    both = sum("alarm 1: left" in e.y and "alarm 2: left" in e.y for e in some())
    place = schema.labels.index
    assert schema.together[place("alarm 1: left"), place("alarm 2: left")] == both
    assert schema.together[place("alarm 1: left"), place("alarm 1: right")] == 0
    assert not schema.sparse and schema.smallest == 0 and schema.examples == 120
    values, tensors = schema.parts()
    again = LabelSchema.from_parts(json.loads(json.dumps(values)), tensors)
    assert again.features == schema.features and again.threshold is None


def test_sparse_rows_score_as_dense_ones() -> None:
    """The sparse first layer computes what the dense one does, with gradients, names in any order and unknown names."""
    rows = [Row.of_mapping({f"w{j}": 1.0 for j in range(i, i + 3)}) for i in range(40)] + [Row.of_mapping({})]
    examples = [es.Example(x, ("a",) if i % 2 else ("b",)) for i, x in enumerate(rows)]
    sparse = fitted(examples, 1)
    assert sparse.sparse and len(sparse.features) == 42
    model = MLP(sparse, width=8, dropout=0.0, input_dropout=0.0)
    other = MLP(replace(sparse, sparse=False), width=8, dropout=0.0, input_dropout=0.0, scaling="idf")
    other.load_state_dict(model.state_dict())
    mine, theirs = model.evidence(model.prepare(rows)), other.evidence(other.prepare(rows))
    torch.testing.assert_close(mine, theirs)
    mine.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(model.evidence.weight.grad, other.evidence.weight.grad)
    odd = Row.of_mapping({"new": 3.0, "w4": 1.0, "w3": 1.0})
    plain = Row.of_mapping({"w3": 1.0, "w4": 1.0})
    torch.testing.assert_close(model.evidence(model.prepare([odd])), model.evidence(model.prepare([plain])))
    with pytest.raises(es.DataError, match="an input is a Row"):
        model.prepare([[1.0]])


def test_encode_decode_cost(schema: LabelSchema) -> None:
    """Sets come back as they were, unknown ones are unknown, and wrong labels cost what the task says."""
    task = Classification(missed=3.0, spurious=1.0)
    examples = some(4)
    graph = MLP(schema, **SMALL).graph([e.x for e in examples])
    ys = [e.y for e in examples]
    target = task.encode(ys, graph, schema)
    assert [set(o["labels"]) for o in task.decode(target, graph, schema)] == [set(y) for y in ys]
    wrong = es.Assignment({"labels": 1 - target["labels"]})
    cost = es.FactorGraph(list(graph.variables.values()), task.cost(graph, target, schema))
    want = [3.0 * len(y) + 1.0 * (len(schema.labels) - len(y)) for y in ys]
    assert cost.energy(wrong).tolist() == want and cost.energy(target).tolist() == [0.0] * 4
    partly = task.encode([ys[0], None, ("no such label",), ()], graph, schema)
    assert partly.known["labels"].reshape(4, -1).all(1).tolist() == [True, False, True, True]
    assert int(partly["labels"].sum()) == len(ys[0])


def test_scores_by_hand() -> None:
    """Three examples, two labels: every score is the one worked out by hand."""
    found = set_scores([("a",), ("a", "b"), ()], [("a", "b"), ("a",), ()], 2)
    assert found["example_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["precision"] == pytest.approx((0.5 + 1 + 1) / 3) and found["recall"] == pytest.approx(
        (1 + 0.5 + 1) / 3
    )
    assert found["micro_f1"] == pytest.approx(4 / 6) and found["macro_f1"] == pytest.approx((1 + 0) / 2)
    assert found["hamming_accuracy"] == pytest.approx(4 / 6) and found["subset_accuracy"] == pytest.approx(1 / 3)
    assert found["per_label"]["b"] == {"precision": 0, "recall": 0, "f1": 0, "right": 0, "predicted": 1, "correct": 1}
    assert together([("a", "b")], [("a", "c")]) == [("a", "b", 1, 0), ("a", "c", 0, 1)]
    sure = calibration(np.array([0.95, 0.95, 0.05, 0.05]), np.array([True, False, False, False]))
    assert sure["error"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.05) and sure["count"] == 4


@pytest.mark.parametrize("at_least", [0, 1])
def test_best_threshold_is_the_best_of_a_grid(at_least: int) -> None:
    """No threshold of a fine grid gives a greater mean F1, and the one found gives what it promises."""
    random = np.random.default_rng(0)
    chances = random.random((30, 6)) ** 2
    inside = random.random((30, 6)) < chances

    def mean(value: float) -> float:
        chosen = chances >= value
        if at_least:
            chosen[np.arange(30), chances.argmax(1)] = True
        rows = zip(chosen, inside, strict=True)
        return float(
            np.mean([f1([str(i) for i in np.flatnonzero(t)], [str(i) for i in np.flatnonzero(s)]) for s, t in rows])
        )

    value, score = best_threshold(chances, inside, at_least)
    assert mean(value) == pytest.approx(score, abs=1e-12)
    assert score >= max(mean(v) for v in np.linspace(0, 1, 401)) - 1e-12


def test_pairs_by_information(schema: LabelSchema) -> None:
    """The tree has the four pairs that exclude each other, and information is that of the table of counts."""
    information = mutual_information(schema)
    edges = {tuple(e) for e in spanning_tree(information).T.tolist()}
    assert {(0, 1), (2, 3), (4, 5), (6, 7)} <= edges and len(edges) == 7
    y = np.array([["alarm 1: left" in e.y, "alarm 1: right" in e.y] for e in some()])
    want = sum(
        p * np.log(p / ((y[:, 0] == a).mean() * (y[:, 1] == b).mean()))
        for a in (0, 1)
        for b in (0, 1)
        if (p := ((y[:, 0] == a) & (y[:, 1] == b)).mean()) > 0
    )
    assert float(information[0, 1]) == pytest.approx(float(want), abs=1e-6)


ENERGIES = {
    "mlp": lambda schema: MLP(schema, **SMALL),
    "mixture own": lambda schema: Mixture(schema, components=3, **SMALL),
    "mixture shifted": lambda schema: Mixture(schema, components=3, scores="shifted", **SMALL),
    "counted": lambda schema: Counted(schema, counts=4, **SMALL),
    "tree": lambda schema: Pairwise(schema, **SMALL),
    "pairs": lambda schema: Pairwise(schema, pairs=9, **SMALL),
    "spen": lambda schema: SPEN(schema, measurements=4, **SMALL),
    "value network": lambda schema: ValueNetwork(schema, hidden=8, **SMALL),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_energies_learn(name: str, schema: LabelSchema) -> None:
    """Each energy trains by a loss that takes it, on a batch of a few steps, to a lower loss; unions and copies exist."""
    torch.manual_seed(0)
    model = ENERGIES[name](schema)
    task, examples = Classification(), some(64)
    loss: es.Loss = (
        es.NegativeLogLikelihood() if name not in ("pairs", "spen", "value network") else es.PseudoLikelihood()
    )
    solver = es.Cardinality() if name == "counted" else None
    options = es.TrainingOptions(epochs=4, batch_size=16, lr=0.02)
    trace = es.fit(model, task, schema, examples, loss, options, solver=solver)
    losses = [row["loss"] for row in trace.epochs]
    assert losses[-1] < 0.9 * losses[0]
    graph = model.graph([e.x for e in examples[:2]])
    twice = graph.repeat(2)
    y = {n: torch.zeros(v.num_sites, dtype=torch.long) for n, v in twice.variables.items()}
    energy = twice.energy(y)
    torch.testing.assert_close(energy[:2], energy[2:])


def test_mixture_is_its_sum() -> None:
    """-log Z of the star with the labels clamped is the mixture's own likelihood, computed directly."""
    schema = fitted(some(), 2)
    torch.manual_seed(0)
    model = Mixture(schema, components=3, **SMALL).eval()
    examples = some(5)
    inputs = model.prepare([e.x for e in examples])
    graph = model(inputs)
    target = Classification().encode([e.y for e in examples], graph, schema)
    value = es.NegativeLogLikelihood()(graph, target).value
    gate, scores = model.scores(inputs)
    y = target["labels"].reshape(5, 1, -1).double()
    inside = (y * scores - torch.nn.functional.softplus(scores.double())).sum(2)
    want = -(gate.double().log_softmax(1) + inside).logsumexp(1)
    torch.testing.assert_close(value, want, atol=1e-4, rtol=1e-4)


def test_interactions_are_learned() -> None:
    """On the made data, where causes exclude each other, the tree finds whole sets far more often than the MLP does."""
    task = Classification()
    train, test = list(task.examples("train")), list(task.examples("test"))
    schema, found = task.fit(train), {}
    for name, cls in (("mlp", MLP), ("tree", Pairwise)):
        torch.manual_seed(0)
        model = cls(schema, width=32, dropout=0.0, input_dropout=0.0)
        options = es.TrainingOptions(epochs=3, batch_size=64, lr=1e-2)
        es.fit(model, task, schema, train, es.NegativeLogLikelihood(), options)
        answers = es.Predictor(task, schema, model, batch_size=500)([e.x for e in test], detail=False)
        found[name] = task.score(test, [a.output for a in answers])["subset_accuracy"]
    assert found["tree"] > found["mlp"] + 0.1


def test_run_predict_evaluate(multilabel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task file trains, tunes its threshold on dev, keeps it with the run, evaluates, reports and predicts."""
    lines = [{"text": f"{'dog' if i % 2 else 'cat'} {'loud' if i % 3 else 'still'} w{i % 5}"} for i in range(60)]
    for line in lines:
        line["labels"] = [w for w in ("dog", "loud") if w in line["text"].split()]  # type: ignore[assignment]
    text = "\n".join(map(json.dumps, lines))
    Path("pets").mkdir()
    for split in ("train", "test"):
        Path(f"pets/{split}.jsonl").write_text(text)
    config = {
        "task": {"name": "multilabel.classification", "data": "pets", "dev_fraction": 0.3},
        "energy": {"name": "multilabel.mlp", "width": 8},
        "solver": {"name": "threshold"},
        "train": {"epochs": 6, "lr": 0.05, "batch_size": 16},
    }
    Path("pets.yaml").write_text(json.dumps(config))
    assert main(["run", "pets.yaml", "--output", "run", "--json", "--quiet"]) == 0
    metrics = json.loads(capsys.readouterr().out)["splits"]["test"]
    assert metrics["example_f1"] > 0.9 and metrics["calibration"]["count"] > 0
    kept = json.loads(Path("run/schema.json").read_text())["threshold"]
    assert 0 < kept < 1 and kept != 0.5
    assert es.load("run").schema.threshold == kept
    report = Path("run/report.html").read_text()
    assert all(
        title in report for title in ("Scores by label", "Labels that meet wrongly", "Calibration", "Worst examples")
    )
    assert main(["predict", "run", "a loud dog", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(told["labels"]) == ["dog", "loud"] and told["text"] == "a loud dog"
    assert main(["predict", "run", '{"features": {"cat": 1, "still": 1}}', "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == []
    assert main(["evaluate", "run", "pets/test.jsonl", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["example_f1"] == pytest.approx(metrics["example_f1"])


def test_untuned_and_fixed_thresholds(schema: LabelSchema) -> None:
    """A threshold that is given is not tuned; expected_f1 leaves the schema as it is."""
    task, model = Classification(), MLP(schema, **SMALL).eval()
    dev = some(40)
    for solver in (None, es.ExpectedF1(), es.Threshold(0.3)):
        assert task.tune(model, schema, dev, solver=solver) is schema
    tuned = task.tune(model, schema, dev, solver=es.Threshold())
    assert 0 < tuned.threshold < 1 and schema.threshold is None


def test_the_task_file_parses(multilabel: Path) -> None:
    """tasks/multilabel.yaml has no fault."""
    from ebmstruct.run.config import load_config

    config = load_config(Path(__file__).parents[2] / "tasks" / "multilabel.yaml")
    assert config.task_name == "multilabel.classification"


def test_set_energy_conditionals_are_its_energies(schema: LabelSchema) -> None:
    """The quick energies of single changes are those of the changed sets, up to a constant a site; weights agree too."""
    torch.manual_seed(0)
    with torch.no_grad():
        graph = SPEN(schema, measurements=4, **SMALL).eval().graph([e.x for e in some(2)])
    graph = graph.with_values({f.label: [v.detach() for v in f.values()] for f in graph.factors})
    n = graph.variables["labels"].num_sites
    y = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(0))
    quick = graph.conditionals("labels", {"labels": y})
    for site in range(n):
        energies = []
        for state in (0, 1):
            changed = y.clone()
            changed[site] = state
            energies.append(float(graph.energy({"labels": changed})[site // len(schema.labels)]))
        assert float(quick[site, 1] - quick[site, 0]) == pytest.approx(energies[1] - energies[0], abs=1e-4)
    weights = torch.nn.functional.one_hot(y, 2).double()
    torch.testing.assert_close(
        graph.relaxed_energy({"labels": weights}), graph.energy({"labels": y}), atol=1e-5, rtol=1e-5
    )


def test_every_option_is_documented(multilabel: Path) -> None:
    """docs/multilabel.md names every energy and every key of the task and the energies, and its task files parse."""
    from ebmstruct.extend.components import Components, options_of
    from ebmstruct.run.config import parse_config

    page = (Path(__file__).parents[2] / "docs" / "multilabel.md").read_text(encoding="utf-8")
    components = Components()
    for kind in ("task", "energy"):
        for name in (n for n in components.names(kind, "multilabel") if n.startswith("multilabel.")):
            assert f"`{name}`" in page, name
            for key in options_of(components.resolve(kind, name), skip=int(kind == "energy")):
                assert f"`{key}`" in page, f"{name}: {key}"
    blocks = [b.split("\n```")[0] for b in page.split("```yaml\n")[1:]]
    assert len(blocks) >= 2
    for block in blocks:
        parse_config(block, "multilabel.md")

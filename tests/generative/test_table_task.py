"""The task of tables from end to end: a run, new rows by rule and condition, completion, files as they came."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ebmstruct.cli import main
from ebmstruct.errors import DataError
from ebmstruct.run.drawing import draws
from ebmstruct.run.generating import generate
from ebmstruct.run.predictor import Predictor, load
from ebmstruct_generative.tables.fidelity import measures
from ebmstruct_generative.tables.made import customers
from ebmstruct_generative.tables.schema import fitted
from ebmstruct_generative.tables.table import Row, joined
from ebmstruct_generative.tables.task import TableTask
from ebmstruct_generative.tables.writing import write_rows

RULES = ["plan == 'youth' implies age < 30", "bill > roaming", "age < 80"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a file of 600 made customers, semicolons between cells."""
    folder = tmp_path_factory.mktemp("tables")
    table = customers(600)
    schema = fitted(table, ranges={}, target="bill", rules=(), class_part="")
    path = folder / "customers.csv"
    write_rows([Row(table, i) for i in range(len(table))], path, schema)
    path.write_text(path.read_text().replace(",", ";"))
    task = folder / "task.yaml"
    task.write_text(
        f"task:\n  name: generative.table\n  data: {path}\n  range: {{age: [10, 70]}}\n"
        f"  rules: {RULES}\ntrain: {{epochs: 1}}\noutput: {folder / 'run'}\n"
    )
    assert main(["--quiet", "run", str(task)]) == 0
    return folder / "run"


def _rows(predictor: Predictor, count: int, *given: str, seed: int = 0) -> list[Any]:
    x = predictor.task.given(given, predictor.schema)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(seed)
    return [r for part in draws(predictor, x, count, generator) for r in part.records]


def test_drawn_rows_obey_rules_and_ranges(run: Path) -> None:
    """Of 1,000 drawn rows none breaks a rule or leaves a range, though the model alone would break them."""
    rows = _rows(load(run), 1000)
    assert len(rows) == 1000
    assert all(r["age"] < 30 for r in rows if r["plan"] == "youth")
    assert all(10 <= r["age"] <= 70 and r["bill"] > r["roaming"] for r in rows)
    assert any(r["income"] is None for r in rows) and any(r["roaming"] == 0 for r in rows)


def test_rows_given_cells_have_them(run: Path) -> None:
    """Given a plan, an age and a date, every row has them; a youth plan is cheaper than a pro one."""
    predictor = load(run)
    rows = _rows(predictor, 200, "plan=pro", "age=40", "joined=2020-01-31")
    assert {(r["plan"], r["age"]) for r in rows} == {("pro", 40)}
    bills = [joined(_rows(predictor, 300, f"plan={plan}")).by_name["bill"].values.mean() for plan in ("youth", "pro")]
    assert bills[0] < bills[1] - 10


def test_the_same_seed_gives_the_same_rows(run: Path) -> None:
    """And another seed others."""
    predictor = load(run)
    first, again, other = (list(map(dict, _rows(predictor, 20, seed=s))) for s in (1, 1, 2))
    assert first == again and first != other


@pytest.mark.parametrize("given", ["bill=51.37", "joined=2016-03-05", "age=31"])
def test_given_numbers_are_kept_to_the_last_digit(run: Path, given: str) -> None:
    """The model knows numbers to some precision; drawn and completed rows have what was given all the same."""
    name, _, value = given.partition("=")
    predictor = load(run)
    assert {str(r[name]) for r in _rows(predictor, 20, given)} == {value}
    found = predictor.predict_text(f"{name}\n{value}\n")[0]
    assert str(predictor.task.record(found.x, found.output)["row"][name]) == value


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("plam=pro", "did you mean plan"),
        ("plan=prro", "did you mean pro"),
        ("age=old", "is not a number"),
        ("age=500", "goes from"),
        ("age=30.5", "whole numbers"),
        ("joined=yesterday", "not a date"),
        ("plan", "COLUMN=VALUE"),
    ],
)
def test_what_cannot_be_given_is_told(run: Path, given: str, said: str) -> None:
    """With the nearest column or category."""
    with pytest.raises(DataError, match=said):
        _rows(load(run), 1, given)


def test_rules_that_leave_nothing_are_told(run: Path) -> None:
    """A youth of 60 cannot be drawn: the sentence names the rule."""
    with pytest.raises(DataError, match="youth"):
        _rows(load(run), 5, "plan=youth", "age=60")


def test_completion_keeps_what_is_given_and_obeys(run: Path) -> None:
    """Empty cells are filled in, the others stay, and the rules hold."""
    text = "plan;age;bill\npro;;50.5\nyouth;;\n;20;\n"
    found = load(run).predict_text(text)
    assert [p.output["plan"] for p in found[:2]] == ["pro", "youth"]
    assert found[2].output["age"] == 20 and found[1].output["age"] < 30
    assert all(p.output["income"] is not None and p.status == "CONVERGED" for p in found)
    with pytest.raises(DataError, match="no column"):
        load(run).predict_text("plan;color\npro;red\n")


def test_one_row_needs_no_line_of_names(run: Path) -> None:
    """A single line is a row of all columns in the order of the data; another number of cells is told with their names."""
    found = load(run).predict_text("pro;40;;;;;;")
    assert len(found) == 1 and found[0].output["plan"] == "pro" and found[0].output["age"] == 40
    with pytest.raises(DataError, match=r"has 5 cells for 8 columns \(plan, age, "):
        load(run).predict_text("40;;pro;;")


def test_quality_given_a_cell_compares_with_training_rows_that_have_it(run: Path, tmp_path: Path) -> None:
    """Nothing is asked about a target that is given, and training rows of other plans are left out."""
    found = generate(run, 60, given=["plan=basic", "active=yes"], output=tmp_path / "basic.csv")
    training = list(load(run).task.examples("train"))
    own = sum(e.y["plan"] == "basic" and e.y["active"] == "yes" for e in training)
    assert found.quality["quality"]["records"]["training"] == own < len(training)
    assert "train_on_synthetic" not in found.quality
    few = generate(run, 5, given=["plan=basic", "active=yes"], output=tmp_path / "basic.csv")
    assert few.report is None and not list(tmp_path.glob("basic.quality.*"))  # that of the rows before is gone
    own_name = generate(run, 5, given=["plan=basic", "bill=13.79"], judge=False).path
    assert own_name.name == "seed-0-plan=basic-bill=13_79.csv"


def test_rows_are_written_as_they_came(run: Path, tmp_path: Path) -> None:
    """The same header, order, delimiter and formats, so that the file can be read and learned from again."""
    predictor, path = load(run), tmp_path / "new.csv"
    predictor.task.write(_rows(predictor, 300), path, predictor.schema)  # type: ignore[attr-defined]
    with path.open() as file:
        rows = list(csv.reader(file, delimiter=";"))
    assert rows[0] == ["plan", "age", "income", "joined", "minutes", "roaming", "bill", "active"] and len(rows) == 301
    assert all(r[1].isdigit() and len(r[3]) == 10 and len(r[6].split(".")[1]) <= 2 for r in rows[1:])
    again = TableTask(data=str(path)).corpus.splits["train"].table
    assert [c.kind for c in again.columns] == [c.kind for c in customers(50).columns]


def test_a_run_tells_its_measures(run: Path) -> None:
    """Fidelity, with the measures it is made of, and the quality report are in the metrics."""
    import json

    found = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    assert 0.5 < found["fidelity"] <= 1 and 0.5 < found["nearest_ratio"] < 2 and found["column_shapes"] > 0.8
    assert "Rows that were drawn" in (run / "report.html").read_text()


def test_fidelity_finds_copies_among_many_training_rows() -> None:
    """Rows that copy training rows have no fidelity, wherever in the training data they stand; unseen rows have much."""
    table = customers(2600)
    train, real, new = (table.take(np.arange(a, b)) for a, b in ((0, 2000), (2000, 2300), (2300, 2600)))
    copied = measures(train, real, train.take(np.arange(1, 600, 2)))
    assert copied["nearest_ratio"] == 0 and copied["fidelity"] == 0 and copied["coverage"] > 0.8
    assert measures(train, real, new)["fidelity"] > 0.7
    assert measures(train, real.take(np.arange(1)), new)["coverage"] == 0.0


def test_other_energies_take_tables(tmp_path: Path) -> None:
    """The denoising energy over vectors trains on the same task, and its rows obey the rules."""
    path = tmp_path / "task.yaml"
    path.write_text(
        "task: {name: generative.table, data: iris, target: target}\nenergy: {name: generative.denoiser, width: 16}\n"
        "loss: {name: denoising}\nsolver: {name: annealed_langevin, levels: 4}\n"
        f"train: {{epochs: 2, evaluate_every: 5}}\noutput: {tmp_path / 'run'}\n"
    )
    assert main(["--quiet", "run", str(path)]) == 0


@pytest.mark.parametrize("name", ["wine", "diabetes", "iris", "breast_cancer"])
def test_tables_of_scikit_learn(name: str) -> None:
    """Each is there, with a target."""
    pytest.importorskip("sklearn")
    splits = TableTask(data=name).corpus.splits
    assert set(splits) == {"train", "dev", "test"} and splits["train"].table.names[-1] == "target"

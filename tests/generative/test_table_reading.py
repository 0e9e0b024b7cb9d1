"""Reading tables: kinds of columns, formats that come back as they were, and quantiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ebmstruct.errors import DataError
from ebmstruct_generative.tables.columns import CATEGORICAL, DATE, INTEGER, MOST_TEXTS, REAL
from ebmstruct_generative.tables.quantiles import Quantiles, mass_points
from ebmstruct_generative.tables.reading import ReadOptions, read_table
from ebmstruct_generative.tables.table import Row, Rows, Table
from ebmstruct_generative.tables.writing import cells_of


def _read(tmp_path: Path, text: str, **options: object) -> Table:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(path, ReadOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", "3"], INTEGER),
        (["1", "", "3"], INTEGER),
        (["1.5", "2.25", "3"], REAL),
        (["10%", "20.5%", "3%"], REAL),
        (['"1,000"', '"25,300"', "7"], INTEGER),
        (["2020-01-31", "2021-12-01", ""], DATE),
        (["31.01.2020", "01.12.2021"], DATE),
        (["12/31/2020", "01/12/2021"], DATE),
        (["2020-01-31 10:20:30", "2021-12-01 00:00:00"], DATE),
        (["001", "002", "010"], CATEGORICAL),
        (["red", "blue", "NA"], CATEGORICAL),
        (["true", "false"], CATEGORICAL),
        (["1_0", "2_0"], CATEGORICAL),
        (["", "NA", "?"], CATEGORICAL),
        (["inf", "1", "-inf"], INTEGER),
        (["1e-5", "2.5"], REAL),
    ],
)
def test_kinds_are_found_out_and_cells_come_back(cells: list[str], kind: str, tmp_path: Path) -> None:
    """A column has the kind that its cells show, and writing it gives the cells that were read."""
    table = _read(tmp_path, "v,w\n" + "".join(f"{c},x\n" for c in cells))
    column = table.by_name["v"]
    assert column.kind == kind
    for text, back, gone in zip(cells, cells_of(column), column.missing.tolist(), strict=True):
        plain = text.strip('"')
        if kind in (INTEGER, REAL) and not gone:
            assert column.form.number(plain) == pytest.approx(column.form.number(back))
        elif not gone:
            assert plain == back


def test_types_can_be_given(tmp_path: Path) -> None:
    """Numbers as categories, whole numbers as reals, dates in a format of their own."""
    text = "a,b,c\n" + "".join(f"{i % 3},{i},{1 + i % 12:02d}~2020\n" for i in range(20))
    table = _read(tmp_path, text, types={"a": "categorical", "b": "real", "c": "date %m~%Y"})
    assert [c.kind for c in table.columns] == [CATEGORICAL, REAL, DATE]
    assert cells_of(table.by_name["c"])[:2] == ["01~2020", "02~2020"]


def test_a_long_column_of_numbers_is_kept_as_numbers(tmp_path: Path) -> None:
    """More different cells than are kept as texts: float32, the digits unchanged, missing cells too."""
    count = MOST_TEXTS + 5000
    cells = [f"{i / 1000:.3f}" if i % 100 else "" for i in range(count)]
    table = _read(tmp_path, "v,w\n" + "".join(f"{c},x\n" for c in cells))
    column = table.by_name["v"]
    assert column.kind == REAL and column.values.dtype == np.float32 and int(column.missing.sum()) == count // 100
    assert cells_of(column)[1:100] == [c if c else "" for c in cells[1:100]]


def test_a_long_column_of_texts_is_refused(tmp_path: Path) -> None:
    """Identifiers are refused, with the way out."""
    text = "v,w\n" + "".join(f"n{i},x\n" for i in range(MOST_TEXTS + 10_000))
    with pytest.raises(DataError, match=r"drop: \[v\]"):
        _read(tmp_path, text)
    assert len(_read(tmp_path, text, drop=("v",)).columns) == 1


def test_rows_are_made_when_they_are_looked_at(tmp_path: Path) -> None:
    """An example's record is a view of the table, with plain values."""
    rows = Rows(_read(tmp_path, "a,b,c\n1,x,2020-01-31\n,y,2020-02-01\n"))
    assert dict(rows[0].y) == {"a": 1, "b": "x", "c": "2020-01-31"} and rows[1].y["a"] is None
    assert isinstance(rows[1].y, Row) and len(rows[:1]) == 1


def test_quantiles_are_normal_scores_and_come_back() -> None:
    """Scores of a skewed sample have mean 0 and variance 1; ties come back as they were."""
    values = np.exp(np.random.default_rng(0).normal(size=10_000))
    quantiles = Quantiles.of(values)
    scores = quantiles.scores(values)
    assert abs(scores.mean()) < 0.01 and abs(scores.std() - 1) < 0.02
    assert np.abs(quantiles.numbers(scores) / values - 1).max() < 0.2
    tied = Quantiles.of(np.array([1.0, 1.0, 2.0, 5.0]))
    assert tied.numbers(tied.scores(np.array([1.0, 2.0, 5.0]))).tolist() == [1.0, 2.0, 5.0]
    assert tied.blur() > 0.02


def test_mass_points_are_found() -> None:
    """A zero-inflated column has one at 0, an even one has none, infinities always are."""
    r = np.random.default_rng(0)
    assert mass_points(np.concatenate([np.zeros(500), r.normal(size=500)])).tolist() == [0.0]
    assert mass_points(r.integers(0, 20, 1000).astype(float)).size == 0
    assert mass_points(np.array([np.inf, 1.0, 2.0])).tolist() == [np.inf]

"""The quality report: its words are true of data made to deserve them, its JSON is JSON, its page is safe and whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from ebmstruct.errors import DataError
from ebmstruct.extend import Chart, Picture, Table
from ebmstruct.run.quality_page import quality_html, write_quality
from ebmstruct_generative.quality import CATEGORY, NUMBER, Columns, assessment, quality_report, quality_sections
from ebmstruct_generative.quality.drawing import beside, densities, matrices, sheet

EVIL = "<script>alert('x')</script>\" onload=\"y"


def report(*records: Any, **options: Any) -> dict[str, Any]:
    """The quality report with small forests."""
    return quality_report(*records, trees=12, **options)


def two_modes(rows: int, seed: int) -> np.ndarray:
    """Points around (-3, 0) and (3, 0)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 2)) * 0.5 + np.outer(rng.choice([-3.0, 3.0], rows), [1, 0])


def people(rows: int, seed: int, *, tied: bool = True) -> Columns:
    """A table in which b is about 2 a, and the label tells the sign of a; without ``tied`` each column is by itself."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=rows)
    other = a if tied else rng.normal(size=rows)
    third = a if tied else rng.normal(size=rows)
    label = np.where(rng.random(rows) < 0.1, -1, (third > 0).astype(np.int64))
    b = np.where(rng.random(rows) < 0.1, np.nan, 2 * other + 0.1 * rng.normal(size=rows))
    return Columns(("a", "b", "label"), (NUMBER, NUMBER, CATEGORY), (a, b, label), {"label": ("down", "up")})


def said(figures: dict[str, Any], level: str) -> str:
    """The verdicts of a level as one text."""
    return " ".join(one["text"] for one in figures["verdicts"] if one["level"] == level)


def test_good_records() -> None:
    """Fresh rows of the same distribution are praised, and nothing is held against them."""
    figures = report(two_modes(400, 0), two_modes(400, 1), two_modes(400, 2))
    good = said(figures, "good")
    assert "are new" in good and "cover the data" in good and "of the time (50 % is perfect)" in good
    assert {one["level"] for one in figures["verdicts"]} == {"good"}
    assert figures["measures"]["classifier_accuracy"]["value"] == pytest.approx(0.5, abs=0.08)
    assert figures["records"] == {"held_out": 400, "generated": 400, "training": 400} and figures["finite"] == 1.0


def test_copies_are_called_copies() -> None:
    """Training rows with a little noise copy, and rows without any are named training rows; likeness is told with a but."""
    train = two_modes(400, 2)
    near = report(two_modes(400, 0), train + np.random.default_rng(0).normal(0, 1e-3, train.shape), train)
    assert "copy training records" in said(near, "bad") and "single training records" in said(near, "warn")
    assert "would pass that test" in said(near, "warn") and near["measures"]["nearest_ratio"]["value"] < 0.1
    same = report(two_modes(400, 0), train, train)
    assert "100 % of the generated records are training records" in said(same, "bad")
    assert same["measures"]["copies"] == {"value": 1.0, "reference": 0.0} | {
        key: same["measures"]["copies"][key] for key in ("best", "meaning")
    }


def test_a_lost_mode_is_called_lost() -> None:
    """Rows of one mode of two miss half, and rows far off stray."""
    real, train = two_modes(400, 0), two_modes(400, 2)
    lost = report(real, (half := two_modes(900, 1))[half[:, 0] > 0][:400], train)
    assert "Modes are missing: 4" in said(lost, "bad") or "Modes are missing: 5" in said(lost, "bad")
    far = report(real, np.random.default_rng(3).normal(size=(400, 2)) * 4, train)
    assert "farther from the training records" in said(far, "warn") and "off the data" in said(far, "warn")


def test_numbers_that_are_none() -> None:
    """Rows that are not finite are left out, and that is bad; where most are none, nothing else is measured."""
    drawn = two_modes(400, 1)
    drawn[:40] = np.nan
    figures = report(two_modes(300, 0), drawn, two_modes(300, 2))
    assert figures["finite"] == 0.9 and "10 % of the generated records hold numbers" in said(figures, "bad")
    drawn[:300] = np.inf
    figures = report(two_modes(300, 0), drawn, two_modes(300, 2))
    assert figures["measures"] == {} and "too few are left" in said(figures, "bad")


def test_few_and_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few records are not compared, and it is said; of many, a part of a stated size is looked at."""
    figures = report(two_modes(9, 0), two_modes(50, 1), two_modes(50, 2))
    assert figures["measures"] == {} and "too few to compare" in said(figures, "warn")
    monkeypatch.setattr(assessment, "_CELLS", 100)
    assert len(assessment._bounded(people(60, 0), 90, 0)) == 100 // (2 + 1 + 4)
    assert len(assessment._bounded(two_modes(60, 0), 90, 0)) == 50 and len(assessment._bounded(people(9, 0), 5, 0)) == 5
    assert report(people(60, 0), people(60, 1), people(60, 2))["records"]["held_out"] == 60


def test_repeated_rows_cover_themselves() -> None:
    """A table of one column of two categories has balls that are points; the same categories cover them."""
    label = np.arange(40) % 2
    two = Columns(("label",), (CATEGORY,), (label,), {"label": ("a", "b")})
    figures = report(two, two, two)
    assert figures["measures"]["coverage"]["value"] == 1.0 and "cover the data" in said(figures, "good")
    one = Columns(two.names, two.kinds, (np.zeros_like(label),), two.categories)
    assert report(two, one, two)["measures"]["coverage"]["value"] == 0.5


def test_tables() -> None:
    """Columns drawn each by itself have their shapes and lose their trends; a forest learns nothing from them."""
    real, train = people(300, 0), people(400, 1)
    good = report(real, people(400, 2), train, target="b")
    assert not said(good, "bad") and good["target"] == {"name": "b", "score": "R²"}
    bad = report(real, people(400, 2, tied=False), train, target="label")
    assert "lose the trends" in said(bad, "bad") and "Every column is distributed" in said(bad, "good")
    assert "'label' reaches F1" in said(bad, "bad") + said(bad, "warn")
    assert (
        bad["pairs"][0]["columns"] == ["a", "b"] and bad["pairs"][0]["real"] > 0.95 > 0.2 > bad["pairs"][0]["generated"]
    )
    assert set(bad["columns"]["b"]) == {"kind", "shape", "coverage", "adherence", "missing"}


def test_faulty_columns_are_named() -> None:
    """A shifted column, one without a category, and one without missing values are named."""
    real, train, drawn = people(300, 0), people(400, 1), people(400, 2)
    a, _, label = drawn.arrays
    b = np.nan_to_num(drawn.arrays[1])
    faulty = Columns(drawn.names, drawn.kinds, (a + 9, b, np.zeros_like(label)), drawn.categories)
    figures = report(real, faulty, train)
    warned = said(figures, "warn") + said(figures, "bad")
    assert "otherwise than in the data: 'a', 'label'" in warned and "ranges or categories in 'a'" in warned
    assert "never generated in 'label'" in warned and "missing more or less often than in the data in 'b'" in warned


def test_report_is_json_and_deterministic() -> None:
    """The same rows and seed give the same JSON, without NaN, also where measures are not defined."""
    real = people(60, 0)
    constant = Columns(real.names, real.kinds, (np.zeros(60), np.full(60, np.nan), real.arrays[2]), real.categories)
    for train in (people(60, 1), None):
        found = [json.dumps(report(real, constant, train, target="b"), allow_nan=False) for _ in range(2)]
        assert found[0] == found[1]
    with pytest.raises(DataError, match="all arrays or all tables"):
        report(real, np.zeros((60, 3)), None)


def test_sections_of_tables() -> None:
    """A table's sections: scores, distances, columns, trends, and one chart for each column."""
    tables = people(200, 0), people(300, 1), people(200, 2)
    figures = report(*tables)
    sections = quality_sections(figures, *tables)
    kinds = [type(section) for section in sections]
    assert kinds == [Chart, Chart, Table, Picture, Table, Chart, Chart, Chart]
    assert [s.title for s in sections[-3:]] == ["a", "b", "label"]
    bars = sections[-1]
    assert isinstance(bars, Chart) and sum(bars.series["real"]) == pytest.approx(1) and set(bars.x) == {"up", "down"}


def test_sections_of_arrays() -> None:
    """Points in the plane are drawn as densities, vectors as histograms, pictures beside their nearest training picture."""
    plane = two_modes(100, 0), two_modes(100, 1), two_modes(100, 2)
    first, second = quality_sections(report(*plane), *plane)
    assert isinstance(first, Picture) and isinstance(second, Chart)
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(60, 12)) for _ in range(3)]
    figures = report(*vectors)
    assert [s.title for s in quality_sections(figures, *vectors)][:2] == ["Coordinate 1", "Coordinate 2"]
    drawn = quality_sections(figures, *vectors, shape=(1, 3, 4))[0]
    assert isinstance(drawn, Picture) and "below each the training picture nearest to it" in drawn.note


def test_drawings_by_hand() -> None:
    """A point's cell is dark in its own panel; 1 is red, -1 blue, undefined grey; pictures stand at their places."""
    panels = densities({"real": np.array([[0.0, 0], [1, 1]]), "generated": np.array([[0.0, 1.0]])}, bins=4).pixels
    assert panels.shape == (4, 4 + 6 + 4, 3)
    assert panels[3, 0].sum() < 255 and panels[0, 3].sum() < 255 and panels[0, 0].sum() == 3 * 255  # up is up
    assert panels[0, 10].sum() < 255 and panels[3, 10].sum() == 3 * 255
    red = matrices({"m": np.array([[1.0, -1], [np.nan, 0]])}, ["a", "b"], "t", "").pixels
    cell = red.shape[0] // 2
    assert red[0, 0, 0] > red[0, 0, 2] and red[0, -1, 0] < red[0, -1, 2]
    assert red[cell, 0].tolist() == [200] * 3 and red[-1, -1].tolist() == [255] * 3
    rows = [np.array([[0.0, 1, 0, 0], [1, 1, 1, 1]]), np.array([[0.0, 0, 0, 0.5], [9, 9, 9, 9]])]
    drawn = sheet(rows, (2, 2), title="t").pixels
    assert drawn.shape == (2 * (1 + 2 + 1), 1 + 2 + 1 + 2 + 1, 3) and drawn[1, 1:3, 0].tolist() == [0, 255]
    assert drawn[6, 2, 0] == 128 and drawn[6, 5, 0] == 255
    assert beside([np.zeros((2, 1, 3)), np.zeros((2, 3, 3))], gap=2).shape == (2, 6, 3)


def test_page(tmp_path: Path) -> None:
    """The page shows words and figures, loads nothing, and escapes what comes from the data; the JSON is the figures."""
    names = ("a", EVIL)
    tables = [Columns(names, (NUMBER, NUMBER), people(60, seed).arrays[:2]) for seed in range(3)]
    figures = report(*tables, target=EVIL)
    write_quality(tmp_path / "q.html", tmp_path / "q.json", figures, quality_sections(figures, *tables), EVIL)
    assert json.loads((tmp_path / "q.json").read_text(encoding="utf-8")) == figures
    page = (tmp_path / "q.html").read_text(encoding="utf-8")
    assert "<script" not in page and 'onload="' not in page and "default-src 'none'" in page
    for words in ("Classifier accuracy", "Every measure", "A closer look", "60 held out", "training records: "):
        assert words in page, words


def test_page_of_little() -> None:
    """Figures without measures, verdicts and sections still make a page."""
    assert "</html>" in quality_html({}, [], "nothing")
    assert "0.25" in quality_html({"measures": {"odd": {"value": 0.25}, "none": {"value": None}}}, [], "odd")

"""Measures of tables against hand examples: columns, pairs of columns, learning from generated rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("sklearn")

from ebmstruct.errors import DataError
from ebmstruct_generative.quality.classifier import train_on_synthetic
from ebmstruct_generative.quality.column_measures import adherence, column_shapes, coverage, mean, missing_similarity
from ebmstruct_generative.quality.columns import CATEGORY, MAX_STATES, NUMBER, Columns, aligned, vectors
from ebmstruct_generative.quality.pairs import CELLS, CORRELATION, column_pairs, pair_trends

NAN = math.nan


def table(**columns: list[float] | list[str]) -> Columns:
    """A table from columns of numbers (NaN missing) or of texts (empty missing)."""
    kinds = {name: CATEGORY if isinstance(values[0], str) else NUMBER for name, values in columns.items()}
    rows = list(zip(*([str(v) for v in values] for values in columns.values()), strict=True))
    return Columns.of_texts(list(columns), [[c.replace("nan", "") for c in row] for row in rows], kinds)


def test_shapes_by_hand() -> None:
    """Numbers 1 2 3 4 against 3 4 5 6 differ most at 2, by one half; shares (2/3, 1/3) against (1/3, 1/3, 1/3) by 1/3."""
    real = table(number=[1.0, 2, 3, 4, NAN, NAN], label=["a", "a", "b", "", "", ""])
    generated = table(number=[3.0, 4, 5, 6], label=["a", "b", "c", ""])
    shapes = column_shapes(real, generated)
    assert shapes == pytest.approx({"number": 0.5, "label": 2 / 3})
    assert mean(shapes) == pytest.approx(7 / 12)
    assert column_shapes(real, real) == {"number": 1.0, "label": 1.0}


def test_missing_coverage_and_adherence_by_hand() -> None:
    """Missing 2 of 6 against none is 2/3; the range 1 to 4 against 3 to 6 is covered from 3 on, a third; half stays in."""
    real = table(number=[1.0, 2, 3, 4, NAN, NAN], label=["a", "a", "b", "", "", ""])
    generated = table(number=[3.0, 4, 5, 6], label=["a", "c", "c", ""])
    assert missing_similarity(real, generated) == pytest.approx({"number": 2 / 3, "label": 0.75})
    assert coverage(real, generated) == pytest.approx({"number": 1 / 3, "label": 0.5})
    assert adherence(real, generated) == pytest.approx({"number": 0.5, "label": 1 / 3})


def test_columns_without_values() -> None:
    """A column that has no value has no shape, no coverage and no adherence; means leave it out."""
    real, generated = table(number=[NAN, NAN], label=["", ""]), table(number=[1.0, 2], label=["a", "b"])
    for measure in (column_shapes, coverage, adherence):
        assert all(math.isnan(v) for v in measure(real, generated).values())
    assert all(math.isnan(v) for v in column_shapes(generated, real).values()) and math.isnan(mean({"a": NAN}))
    assert coverage(generated, real) == {"number": 0.0, "label": 0.0}


def test_correlations_by_hand() -> None:
    """Real columns with correlation 1 against generated ones with -1 score 0; rows with a missing number are left out."""
    real = table(a=[1.0, 2, 3, 9], b=[2.0, 4, 6, NAN])
    generated = table(a=[1.0, 2, 3], b=[3.0, 2, 1])
    (pair,) = column_pairs(real, generated)
    assert pair.measure == CORRELATION and pair.counts and pair.score == pytest.approx(0)
    assert (pair.real, pair.generated) == pytest.approx((1, -1)) and pair_trends([pair]) == pytest.approx(0)
    (constant,) = column_pairs(real, table(a=[1.0, 2], b=[1.0, 1]))
    assert math.isnan(constant.score) and not constant.counts and math.isnan(pair_trends([constant]))


def test_cells_by_hand() -> None:
    """Two categories that go together (Cramér's V is 1) against independent ones: half of the shares differ, score 1/2."""
    real, generated = table(a=["x", "y"], b=["u", "v"]), table(a=["x", "x", "y", "y"], b=["u", "v", "u", "v"])
    (pair,) = column_pairs(real, generated)
    assert pair.measure == CELLS and pair.counts and pair.score == pytest.approx(0.5)
    assert (pair.real, pair.generated) == pytest.approx((1.0, 0.0))
    (turned,) = column_pairs(generated, real)
    assert not turned.counts  # real columns that do not hang together show no trend to keep


def test_association_against_scipy() -> None:
    """Cramér's V from the observed cells alone equals that from the whole table."""
    from scipy.stats.contingency import association

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 300), rng.integers(0, 6, 300)
    b = np.where(rng.random(300) < 0.5, a, b)
    counts = np.zeros((4, 6))
    np.add.at(counts, (a, b), 1)
    data = table(a=[f"s{i}" for i in a], b=[f"s{i}" for i in b])
    assert column_pairs(data, data)[0].real == pytest.approx(association(counts.astype(int)), abs=1e-12)


def test_mixed_pairs_are_binned_each_in_its_own_range() -> None:
    """Numbers are cut between their own table's ends: a table stretched tenfold has the same cells, and scores 1."""
    numbers = [float(i) for i in range(40)]
    labels = ["low" if i < 20 else "high" for i in range(40)]
    (pair,) = column_pairs(table(a=numbers, b=labels), table(a=[10 * v for v in numbers], b=labels))
    assert pair.measure == CELLS and pair.score == pytest.approx(1) and pair.counts
    (gone,) = column_pairs(table(a=[*numbers, NAN], b=[*labels, ""]), table(a=[NAN, NAN], b=["low", "high"]))
    assert 0 <= gone.score < 0.2


def test_pairs_are_bounded() -> None:
    """Of many pairs a stated number is drawn, the same for the same seed."""
    rng = np.random.default_rng(0)
    wide = table(**{f"c{i}": rng.normal(size=20).tolist() for i in range(8)})
    few = column_pairs(wide, wide, most=5, seed=1)
    assert len(few) == 5 and few == column_pairs(wide, wide, most=5, seed=1) and len(column_pairs(wide, wide)) == 28


def test_learning_from_generated_rows() -> None:
    """The real rows' own rule is learnt where the generated ones have it, and nothing where they have it not."""
    rng = np.random.default_rng(0)

    def rows(count: int, tied: bool) -> Columns:
        x, noise = rng.normal(size=count), rng.normal(size=count)
        y = 2 * x + 0.1 * noise if tied else noise
        label = np.where((x if tied else rng.normal(size=count)) > 0, "up", "down")
        return table(x=x.tolist(), y=y.tolist(), label=label.tolist())

    real, good, bad = rows(200, True), rows(300, True), rows(300, False)
    assert train_on_synthetic(good, real, "y", trees=20) > 0.9 and train_on_synthetic(bad, real, "y", trees=20) < 0.1
    good, bad, real = (t.without("y") for t in (good, bad, real))
    assert train_on_synthetic(good, real, "label", trees=20) > 0.9
    assert train_on_synthetic(bad, real, "label", trees=20) < 0.7
    empty = table(x=[1.0, 2], label=["", ""])
    assert math.isnan(train_on_synthetic(empty, real, "label"))
    with pytest.raises(DataError, match="no column but the target"):
        train_on_synthetic(real.without("x"), real.without("x"), "label")


def test_vectors() -> None:
    """Numbers are standardised, missing ones marked; categories, missing too, are unit vectors, and a new one is zero."""
    real, other = table(n=[0.0, 2, NAN], c=["a", "b", ""]), table(n=[1.0, NAN, 1], c=["b", "new", "a"])
    real, other = aligned(real, other)
    x, y = vectors(real, real, other)
    half = 1 / np.sqrt(2)
    assert x == pytest.approx(np.array([[-half, 0, 0, 1, 0], [half, 0, 0, 0, 1], [0, 1, 1, 0, 0]]))
    assert y == pytest.approx(np.array([[0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]))


def test_vectors_are_bounded() -> None:
    """Of ten thousand categories the most frequent get a coordinate each, and the others share one."""
    many = table(c=[*(f"s{i}" for i in range(10_000)), "s7", "s7"])
    (x,) = vectors(many, many)
    assert x.shape == (10_002, MAX_STATES + 1) and (x.sum(1) == 1).all()


def test_aligned() -> None:
    """Tables made from texts of their own get the same codes for the same categories, and the same order of columns."""
    first, second = aligned(table(a=["x", "z"], n=[1.0, 2]), table(n=[3.0, 4], a=["y", "z"]))
    assert first.categories == second.categories == {"a": ("x", "z", "y")} and second.names == ("a", "n")
    assert second.array("a").tolist() == [2, 1] and second.array("n").tolist() == [3, 4]
    with pytest.raises(DataError, match="different columns"):
        aligned(table(a=["x"]), table(b=["x"]))


def test_faults_of_tables() -> None:
    """Columns that do not fit together, codes outside the categories, and texts that are no numbers are refused."""
    numbers = np.array([1.0, 2.0])
    for names, kinds, arrays, match in (
        (("a", "a"), (NUMBER, NUMBER), (numbers, numbers), "no name twice"),
        (("a",), ("text",), (numbers,), "legal are"),
        (("a", "b"), (NUMBER, NUMBER), (numbers, numbers[:1]), "shape"),
        (("a",), (NUMBER,), (np.array([1, 2]),), "must hold floats"),
        (("a",), (CATEGORY,), (np.array([0, 1]),), "0 categories"),
    ):
        with pytest.raises(DataError, match=match):
            Columns(names, kinds, arrays)
    with pytest.raises(DataError, match=r"holds 'x' in row 2"):
        Columns.of_texts(["a"], [["1"], ["x"]], {"a": NUMBER})
    with pytest.raises(DataError, match="no column 'b'"):
        table(a=[1.0]).array("b")

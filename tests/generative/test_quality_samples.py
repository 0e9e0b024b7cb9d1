"""Two-sample measures against closed forms, hand examples and the definitions written a second time."""

from __future__ import annotations

import importlib
import importlib.util
import os
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from ebmstruct.errors import DataError, PluginError
from ebmstruct_generative.quality.classifier import classifier_accuracy
from ebmstruct_generative.quality.nearest import nearest_record
from ebmstruct_generative.quality.samples import density_coverage, distances, mmd2, sliced_wasserstein, subset


def normal(rows: int, width: int = 2, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Rows of a standard normal distribution, shifted."""
    return np.random.default_rng(seed).normal(shift, 1, (rows, width))


def test_mmd_by_hand() -> None:
    """Real 0 and 1, generated 0 and 2, one kernel of the median distance 1: e^-1/2 + e^-2 - (1 + e^-2 + 2 e^-1/2) / 2."""
    real, generated = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    k = np.exp(-np.array([0.0, 1.0, 4.0]) / 2)
    by_hand = 2 * k[1] / 2 + 2 * k[2] / 2 - 2 * (k[0] + k[2] + k[1] + k[1]) / 4
    assert mmd2(real, generated, widths=(1.0,)) == pytest.approx(by_hand, abs=1e-12)


def test_mmd_of_two_normals() -> None:
    """Between N(0, 1) and N(1, 1) with a kernel of width s: 2 s / sqrt(s^2 + 2) (1 - exp(-1 / (2 (s^2 + 2))))."""
    found = []
    for seed in range(4):
        real = normal(700, 1, seed=seed)
        from scipy.spatial.distance import pdist

        s = float(np.median(pdist(real)))
        exact = 2 * s / np.sqrt(s**2 + 2) * (1 - np.exp(-1 / (2 * (s**2 + 2))))
        found.append(mmd2(real, normal(700, 1, 1.0, 100 + seed), widths=(1.0,)) - exact)
    assert abs(np.mean(found)) < 0.03
    assert abs(np.mean([mmd2(normal(300, seed=s), normal(300, seed=s + 50)) for s in range(8)])) < 2e-3


def test_mmd_where_most_rows_are_equal() -> None:
    """A median distance of 0 gives no kernel: the mean distance takes its place, and equal tables have a value near 0."""
    real = np.r_[np.zeros((8, 1)), np.ones((2, 1))]
    assert np.isfinite(mmd2(real, real)) and np.isfinite(mmd2(np.zeros((4, 2)), np.zeros((4, 2))))


def test_sliced_wasserstein_of_a_shift() -> None:
    """Shifting every row by v moves each projection by |v . u|, whose mean in two dimensions is 2 |v| / pi."""
    real = normal(500)
    found = sliced_wasserstein(real, real + [3.0, 4.0], projections=1500)
    assert found == pytest.approx(5 * 2 / np.pi, rel=0.03)
    assert sliced_wasserstein(real, real) == 0.0


def test_sliced_wasserstein_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions taken in pieces, to bound the memory, give the same distance."""
    from ebmstruct_generative.quality import samples

    whole = sliced_wasserstein(normal(200, 3), normal(300, 3, 0.5, 1))
    monkeypatch.setattr(samples, "_CELLS", 2100)
    assert sliced_wasserstein(normal(200, 3), normal(300, 3, 0.5, 1)) == pytest.approx(whole, abs=1e-12)


def test_density_and_coverage_by_hand() -> None:
    """Real 0, 1, 2, 10 with k = 1 have balls of reach 1, 1, 1 and 8; generated 0.5 and 3 lie in balls (0, 1, 10) of which
    0.5 in two and 3 in one: density 3 / 2, coverage 3 / 4."""
    real, generated = np.array([[0.0], [1.0], [2.0], [10.0]]), np.array([[0.5], [3.0]])
    assert density_coverage(real, generated, k=1) == (1.5, 0.75)


def test_coverage_of_one_distribution() -> None:
    """As many rows of the same distribution cover 1 - 1 / 2^k of the balls in the mean, with density 1."""
    both = [density_coverage(normal(400, seed=s), normal(400, seed=s + 1000), k=3) for s in range(40)]
    density, coverage = np.mean(both, 0)
    assert density == pytest.approx(1, abs=0.03) and coverage == pytest.approx(1 - 1 / 8, abs=0.01)


def test_distances_in_many_dimensions() -> None:
    """Distances by matrix products agree with those by differences, and a row is about 0 from itself."""
    x, y = normal(30, 150) + 5, normal(20, 150, seed=1)
    assert distances(x, y) == pytest.approx(np.linalg.norm(x[:, None] - y, axis=2), rel=1e-10)
    assert np.diag(distances(x, x)) == pytest.approx(0, abs=1e-5)


def test_coverage_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows taken in pieces, to bound the memory, give the same figures."""
    from ebmstruct_generative.quality import samples

    whole = density_coverage(normal(150), normal(300, seed=1))
    monkeypatch.setattr(samples, "_CELLS", 1000)
    assert density_coverage(normal(150), normal(300, seed=1)) == whole


def test_a_lost_mode_is_seen() -> None:
    """Rows from one of two modes alone cover about half of the data."""
    real = np.r_[normal(300, shift=-5), normal(300, shift=5, seed=1)]
    assert density_coverage(real, normal(600, shift=5, seed=2))[1] == pytest.approx(0.5, abs=0.02)


def test_classifier() -> None:
    """Rows of one distribution are told apart half of the time, far rows always."""
    assert classifier_accuracy(normal(400), normal(400, seed=1), trees=20) == pytest.approx(0.5, abs=0.07)
    assert classifier_accuracy(normal(60), normal(60, shift=9, seed=1), trees=10) == 1.0


def test_nearest_record_by_hand() -> None:
    """Training rows 0 and 10; generated 0, 1 and 12 lie at 0, 1, 2; held-out 4 and 8 at 4 and 2: ratio 1 / 3."""
    found = nearest_record(np.array([[0.0], [1], [12]]), np.array([[4.0], [8]]), np.array([[0.0], [10]]))
    assert found.generated.tolist() == [0, 1, 2] and found.index.tolist() == [0, 0, 1]
    assert found.ratio == pytest.approx(1 / 3) and found.copies == pytest.approx(1 / 3) and found.held_out_copies == 0
    assert found.near == 1.0 and found.held_out_near == 0.5  # the 5 % quantile of 2 and 4 is 2.1
    found = nearest_record(np.array([[0.0], [1], [1]]), np.zeros((4, 1)), np.zeros((2, 1)))
    assert found.ratio == float("inf") and found.held_out_near == 0.5 and found.held_out_copies == 1.0


@pytest.mark.parametrize("width", [3, 40])
def test_copies_far_from_the_origin(width: int) -> None:
    """Copies are found in few and in many dimensions, also of rows whose numbers are large."""
    train = normal(500, width) + 1e4
    found = nearest_record(np.r_[train[:30], normal(30, width, seed=1) + 1e4], normal(50, width, seed=2) + 1e4, train)
    assert found.copies == 0.5 and found.held_out_copies == 0 and (found.index[:30] == np.arange(30)).all()


def test_deterministic_and_bounded() -> None:
    """The same seed gives the same figures, and subsets have the size that was asked for."""
    real, generated = normal(300), normal(500, seed=1)
    for measure in (mmd2, sliced_wasserstein, density_coverage, classifier_accuracy):
        few = [measure(real, generated, rows=50, seed=seed) for seed in (3, 3, 4)]  # type: ignore[operator]
        assert few[0] == few[1] != few[2]
    assert len(subset(real, 20, 0)) == 20 and subset(real, 300, 0) is real


def test_faults() -> None:
    """Rows of other widths, too few rows, and numbers that are none are refused in a sentence."""
    with pytest.raises(DataError, match=r"\(n, d\) and \(m, d\)"):
        mmd2(normal(5), normal(5, 3))
    with pytest.raises(DataError, match="at least 5"):
        classifier_accuracy(normal(4), normal(5))
    with pytest.raises(DataError, match="infinite"):
        mmd2(normal(5), np.full((5, 2), np.nan))
    with pytest.raises(DataError, match="5 nearest"):
        density_coverage(normal(5), normal(5))


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where scikit-learn is missing, a sentence names the extra that brings it."""

    def missing(name: str) -> types.ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name="sklearn")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(PluginError, match=r"ebmstruct\[generative\]"):
        classifier_accuracy(normal(6), normal(6))


def shared() -> types.ModuleType:
    """The measures by which other libraries were judged, which lie beside the data."""
    path = Path(os.environ.get("EBMSTRUCT_DATA", "/nowhere")).parent / "peers/gen/metrics.py"
    if not path.is_file():
        pytest.skip("the measures of other libraries' figures are not there (EBMSTRUCT_DATA)")
    spec = importlib.util.spec_from_file_location("shared_metrics", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("width", [2, 64])
def test_equal_to_the_judge_of_other_libraries(width: int) -> None:
    """On the same arrays every measure equals that by which the figures of other libraries were made."""
    judge = shared()
    real = np.random.default_rng(0).normal(size=(120, width))
    generated = np.random.default_rng(1).normal(0.2, 1.1, size=(120, width))
    assert mmd2(real, generated) == pytest.approx(judge.mmd2(real, generated), abs=1e-14)
    assert sliced_wasserstein(real, generated) == pytest.approx(judge.sliced_w1(real, generated), abs=1e-14)
    assert density_coverage(real, generated) == pytest.approx(judge.density_coverage(real, generated), abs=1e-14)
    assert classifier_accuracy(real, generated) == judge.c2st(real, generated)

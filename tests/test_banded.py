"""Band and sparse matrices against dense algebra, and each loop against its twin in plain numpy."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ebmstruct.inference.kernels.banded import banded_plain
from ebmstruct.inference.kernels.banded.banded import BandLayout, loops, twins
from ebmstruct.inference.least_squares.normal_equations import BandEquations, SparseEquations
from ebmstruct.inference.least_squares.sparse_cholesky import SparsePattern
from ebmstruct.inference.views.residual_view import RowPlaces, SparseLayout

Array = np.ndarray
SIZES, WIDTHS = [7, 0, 12, 1, 5], [2, 0, 4, 0, 4]


def layout() -> BandLayout:
    """Five instances of different sizes and bandwidths, one of them empty."""
    return BandLayout(np.concatenate([[0], np.cumsum(SIZES)]), np.array(WIDTHS, np.int64))


def rows(rng: np.random.Generator, at: BandLayout, per_instance: int = 40) -> tuple[RowPlaces, Array, Array, Array]:
    """Rows of 3 coordinates (one clamped now and then) within each instance's band, with 2 residuals each."""
    columns, owner = [], []
    for b, (size, width) in enumerate(zip(SIZES, WIDTHS, strict=True)):
        for _ in range(per_instance if size else 0):
            low = rng.integers(0, max(1, size - width))
            window = np.arange(low, min(size, low + width + 1))
            some = rng.permutation(window)[:3]
            some = np.concatenate([some + at.offsets[b], np.full(3 - some.size, -1)])
            columns.append(some)
            owner.append(b)
    places = RowPlaces((0,), (0,), np.array(columns, np.int64), np.array(owner, np.int64))
    m = len(columns)
    return places, rng.normal(size=(m, 2, 3)), rng.normal(size=(m, 2)), rng.random(m) + 0.5


def dense_of(at: BandLayout, places: RowPlaces, jacobian: Array, weight: Array) -> Array:
    """(N, N) J^T W J of the whole batch."""
    size = int(at.offsets[-1])
    full = np.zeros((jacobian.shape[0] * 2, size + 1))
    for i, columns in enumerate(places.columns):
        full[2 * i : 2 * i + 2, columns] += np.sqrt(weight[i]) * jacobian[i] * (columns >= 0)
    full = full[:, :-1]
    return full.T @ full


def filled(seed: int) -> tuple[BandEquations, Array]:
    """Normal equations of random rows, and the same as a dense matrix."""
    rng, at = np.random.default_rng(seed), layout()
    places, jacobian, residual, weight = rows(rng, at)
    system, everyone = BandEquations(at), np.ones(len(SIZES), bool)
    system.add_matrix(places, jacobian, weight, everyone)
    system.add_gradient(places, jacobian, residual, weight, everyone)
    return system, dense_of(at, places, jacobian, weight)


def test_assembly_and_solution() -> None:
    """J^T W J, products, solutions with damping, and log determinants are those of dense algebra."""
    system, full = filled(0)
    everyone, rng = np.ones(len(SIZES), bool), np.random.default_rng(1)
    x, damping = rng.normal(size=system.size), np.full(len(SIZES), 0.1)
    np.testing.assert_allclose(system.multiply(x, everyone), full @ x, atol=1e-10)
    found, failed = system.solve(damping, x, everyone)
    damped = full + 0.1 * np.diag(np.diag(full))
    np.testing.assert_allclose(found, np.linalg.solve(damped, x), rtol=1e-9, atol=1e-10)
    assert not failed.any()
    at, out = system.layout, np.zeros(len(SIZES))
    loops().log_determinant(system.factor, at.offsets, at.start, at.width, everyone, out)
    for b, value in enumerate(out):
        span = slice(at.offsets[b], at.offsets[b + 1])
        np.testing.assert_allclose(value, np.linalg.slogdet(damped[span, span])[1] if SIZES[b] else 0.0, atol=1e-9)


def test_selected_inverse_and_noise() -> None:
    """The band of the inverse is that of the dense inverse; L^-T turns the identity into a root of it."""
    system, full = filled(2)
    everyone, at = np.ones(len(SIZES), bool), system.layout
    system.factorise(np.zeros(len(SIZES)), everyone)
    inverse, true = np.zeros_like(system.matrix), np.linalg.inv(full)
    loops().selected_inverse(system.factor, at.offsets, at.start, at.width, everyone, inverse)
    for b in range(len(SIZES)):
        for j in range(SIZES[b]):
            for k in range(min(WIDTHS[b], SIZES[b] - 1 - j) + 1):
                found = inverse[at.start[b] + j * (WIDTHS[b] + 1) + k]
                np.testing.assert_allclose(found, true[at.offsets[b] + j + k, at.offsets[b] + j], rtol=1e-8, atol=1e-12)
    root = np.eye(system.size)
    for i in range(system.size):
        loops().solve_transposed(system.factor, at.offsets, at.start, at.width, everyone, root[i])
    np.testing.assert_allclose(root.T @ root, true, rtol=1e-7, atol=1e-9)


def test_bad_instances_stay_alone() -> None:
    """A singular, an indefinite and a NaN matrix are told, each for its instance; the others are solved."""
    system, full = filled(3)
    at, everyone = system.layout, np.ones(len(SIZES), bool)
    system.matrix[at.start[0] : at.start[1]] = 0.0
    system.matrix[at.start[2]] = np.nan
    right = np.ones(system.size)
    found, failed = system.solve(np.zeros(len(SIZES)), right, everyone)
    assert failed.tolist() == [True, False, True, False, False]
    span = slice(at.offsets[3], at.offsets[5])
    np.testing.assert_allclose(found[span], np.linalg.solve(full[span, span], right[span]), rtol=1e-9)
    _, failed = system.solve(np.full(len(SIZES), 1e-3), right, everyone)
    assert failed.tolist() == [False, False, True, False, False]  # damping mends what is singular


@pytest.mark.parametrize("name", sorted(vars(loops())))
def test_twins(name: str) -> None:
    """Every loop does what its twin does, in the instances it is asked about, and leaves the others alone."""
    rng, at = np.random.default_rng(4), layout()
    places, jacobian, residual, weight = rows(rng, at)
    system, _ = filled(4)
    system.factorise(np.zeros(len(SIZES)), np.ones(len(SIZES), bool))
    todo = np.array([True, True, True, False, True])
    band = (at.offsets, at.start, at.width)
    x, noise = rng.normal(size=system.size), rng.normal(size=system.matrix.size)
    frozen = rng.random(system.size) < 0.3
    arguments: dict[str, tuple[Array, ...]] = {
        "factorise": (
            system.matrix,
            *band,
            np.int64(3),
            np.full(5, 0.2),
            frozen,
            todo,
            system.factor.copy(),
            np.zeros(5, bool),
        ),
        "solve": (system.factor, *band, todo, x),
        "solve_transposed": (system.factor, *band, todo, x),
        "multiply": (system.matrix, *band, todo, x, np.zeros_like(x)),
        "log_determinant": (system.factor, *band, todo, np.zeros(5)),
        "selected_inverse": (system.factor, *band, todo, np.zeros_like(noise)),
        "add_gradient": (jacobian, residual, weight, places.columns, places.owner, todo, x),
        "add_band": (jacobian, weight, places.columns, places.owner, todo, at.diagonal, np.zeros_like(noise)),
        "add_sparse": (jacobian, weight, rng.integers(-1, 9, (len(weight), 6)), places.owner, todo, np.zeros(9)),
        "reset": (system.matrix, at.start, todo, noise),
        "clear": (at.start, todo, noise),
        "advance": (jacobian, residual, places.columns, x, np.zeros_like(residual)),
        "add_squares": (residual, places.owner, np.zeros(5)),
        "settle": (
            rng.random(5),
            rng.normal(size=5),
            rng.random(5),
            np.array([1, 1, 0, 1, 1], bool),
            todo,
            rng.random(5),
            rng.random(5),
            np.float64(0.3),
            np.float64(0.1),
            np.bool_(False),
            np.bool_(False),
            rng.random(5),
            np.array([2.0, 4.0, 2.0, 2.0, 8.0]),
            rng.random(5),
            np.zeros(5, bool),
            np.zeros(5, bool),
        ),
        "sparse_selected_inverse": (*sparse_factor(8), np.zeros(sparse_factor(8)[1].size), np.zeros(30)),
        "sparse_solve_transposed": (*sparse_factor(8)[:3], rng.normal(size=(3, 30))),
        "largest_cosine": (x, rng.random(x.size), frozen, at.offsets, np.zeros(5)),
        "foresee": (x, rng.normal(size=x.size), rng.normal(size=x.size), at.offsets, np.zeros(5), np.zeros(5)),
    }
    one = [a.copy() for a in arguments[name]]
    two = [a.copy() for a in arguments[name]]
    getattr(loops(), name)(*one)
    getattr(twins(), name)(*two)
    for found, expected in zip(one, two, strict=True):
        if found.size == noise.size and name in ("factorise", "selected_inverse"):
            for b in range(5):  # what lies below the last row is nobody's
                found_b, expected_b = (
                    banded_plain.dense(a, int(at.start[b]), SIZES[b], WIDTHS[b]) for a in (found, expected)
                )
                np.testing.assert_allclose(found_b, expected_b, rtol=1e-8, atol=1e-10)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_wide_bands() -> None:
    """Wide bands, which LAPACK factorises, are solved as dense algebra does; singular and NaN ones are told."""
    rng, at = np.random.default_rng(9), BandLayout(np.array([0, 50, 100, 140]), np.array([30, 30, 39]))
    system, everyone = BandEquations(at), np.ones(3, bool)
    for b in range(3):
        columns = system.matrix[at.start[b] : at.start[b + 1]].reshape(-1, at.width[b] + 1)
        columns[:] = rng.normal(size=columns.shape)
        columns[:, 0] += 60.0
    right = rng.normal(size=140)
    found, failed = system.solve(np.zeros(3), right, everyone)
    assert not failed.any()
    for b, (low, high) in enumerate(zip(at.offsets[:-1], at.offsets[1:], strict=True)):
        full = banded_plain.dense(system.matrix, int(at.start[b]), high - low, int(at.width[b]))
        np.testing.assert_allclose(found[low:high], np.linalg.solve(full, right[low:high]), rtol=1e-9, atol=1e-12)
    system.matrix[: at.start[1]] = 0.0
    system.matrix[at.start[2] + 5] = np.nan
    assert system.solve(np.zeros(3), right, everyone)[1].tolist() == [True, False, True]
    assert system.solve(np.ones(3), right, everyone)[1].tolist() == [False, False, True]


def sparse_system(seed: int, sizes: list[int]) -> tuple[SparseEquations, Array]:
    """A random sparse positive definite matrix in blocks, and the same as a dense one."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    full = np.zeros((offsets[-1],) * 2)
    for low, high in zip(offsets[:-1], offsets[1:], strict=True):
        part = rng.normal(size=(high - low, high - low)) * (rng.random((high - low, high - low)) < 0.2)
        full[low:high, low:high] = part @ part.T + np.eye(high - low)
    columns, lower = np.nonzero(full)  # by columns of the symmetric matrix
    kept = lower <= columns
    columns, lower = columns[kept], lower[kept]
    start = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=offsets[-1]))])
    diagonal = np.nonzero(columns == lower)[0]
    owner = np.searchsorted(offsets, columns, side="right") - 1
    pattern = SparsePattern(int(offsets[-1]), start.astype(np.int64), lower.astype(np.int64))
    system = SparseEquations(SparseLayout(pattern, columns, owner, diagonal), offsets)
    system.matrix[:] = full[lower, columns]
    return system, full


def sparse_factor(seed: int) -> tuple[Array, Array, Array, Array]:
    """The factor of a random sparse matrix of 30 unknowns."""
    system, _ = sparse_system(seed, [30])
    found = system.layout.pattern.factor(system.matrix)
    assert found is not None
    return found.lower_start, found.lower_rows, found.lower, found.pivots


def test_sparse_solution() -> None:
    """A batch of sparse systems is solved as dense algebra does, one singular or NaN instance apart from the rest."""
    system, full = sparse_system(5, [6, 9, 1, 8])
    todo, right = np.ones(4, bool), np.random.default_rng(6).normal(size=system.size)
    found, failed = system.solve(np.zeros(4), right, todo)
    np.testing.assert_allclose(found, np.linalg.solve(full, right), rtol=1e-9)
    assert not failed.any()
    np.testing.assert_allclose(system.multiply(right, todo), full @ right, atol=1e-12)
    system.matrix[system.layout.owner == 0] = 0.0
    system.matrix[system.layout.owner == 3] = np.nan
    found, failed = system.solve(np.zeros(4), right, todo)
    assert failed.tolist() == [True, False, False, True]
    np.testing.assert_allclose(found[6:16], np.linalg.solve(full[6:16, 6:16], right[6:16]), rtol=1e-9)
    found, failed = system.solve(np.full(4, 0.5), right, todo)
    assert failed.tolist() == [False, False, False, True]


def test_sparse_pattern_by_threads() -> None:
    """Threads that factorise matrices of one pattern at once each get their own answer."""
    system, full = sparse_system(7, [30])
    right, wrong = np.ones(30), []

    def work(scale: float) -> None:
        for _ in range(50):
            x = system.layout.pattern.solve(scale * system.matrix, right)
            if x is None or np.abs(scale * (full @ x) - right).max() > 1e-8:
                wrong.append(scale)

    threads = [threading.Thread(target=work, args=(s,)) for s in (1.0, 2.0, 5.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

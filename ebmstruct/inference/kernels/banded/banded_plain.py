"""The loops of ``banded_numba`` and ``normal_equations_numba`` in plain numpy, over dense matrices, instance by instance.

For the tests, which hold the loops to them, and for machines without numba. Same arguments, same effects; cost n^3.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
LOST = 16 * 2.220446049250313e-16


def dense(matrix: Array, first: int, size: int, width: int) -> Array:
    """(n, n) lower half, as a full symmetric matrix, of one instance's band that begins at ``first``."""
    out = np.zeros((size, size))
    columns = matrix[first : first + size * (width + 1)].reshape(size, width + 1)
    for k in range(min(width, size - 1) + 1):
        rows = np.arange(size - k)
        out[rows + k, rows] = out[rows, rows + k] = columns[: size - k, k]
    return out


def _store(full: Array, matrix: Array, first: int, width: int) -> None:
    size = full.shape[0]
    columns = matrix[first : first + size * (width + 1)].reshape(size, width + 1)
    for k in range(min(width, size - 1) + 1):
        rows = np.arange(size - k)
        columns[: size - k, k] = full[rows + k, rows]


def _each(offsets: Array, start: Array, width: Array, todo: Array) -> list[tuple[int, slice, int, int, int]]:
    return [
        (b, slice(int(offsets[b]), int(offsets[b + 1])), int(start[b]), int(offsets[b + 1] - offsets[b]), int(width[b]))
        for b in range(offsets.size - 1)
        if todo[b]
    ]


def factorise(
    matrix: Array, offsets: Array, start: Array, width: Array, widest: int, damping: Array, frozen: Array, todo: Array,
    factor: Array, failed: Array,
) -> None:  # fmt: skip
    """As the loop: the Cholesky factor of matrix + damping * its diagonal."""
    for b, span, first, size, w in _each(offsets, start, width, todo):
        full = dense(matrix, first, size, w)
        diagonal = np.diag(full).copy()
        if damping[b] > 0 and size:
            least = 1e-12 * diagonal.max() if diagonal.max() > 0 else 1.0
            full[np.arange(size), np.arange(size)] += damping[b] * np.maximum(diagonal, least)
        if frozen.size:
            still = frozen[span].astype(bool)
            kept = np.diag(full).copy()
            full[still, :] = full[:, still] = 0
            full[np.arange(size), np.arange(size)] = kept
        if w > widest:
            _store(full, factor, first, w)
            failed[b] = False
            continue
        try:
            if not np.isfinite(full).all():
                raise np.linalg.LinAlgError
            lower = np.linalg.cholesky(full)
            if (np.diag(lower) ** 2 <= LOST * np.abs(diagonal)).any():
                raise np.linalg.LinAlgError
            _store(lower, factor, first, w)
            failed[b] = False
        except np.linalg.LinAlgError:
            failed[b] = True


def _lower(factor: Array, first: int, size: int, width: int) -> Array:
    return np.tril(dense(factor, first, size, width))


def solve(factor: Array, offsets: Array, start: Array, width: Array, todo: Array, x: Array) -> None:
    """As the loop: x becomes the solution of L L^T x = b."""
    for _, span, first, size, w in _each(offsets, start, width, todo):
        lower = _lower(factor, first, size, w)
        x[span] = np.linalg.solve(lower.T, np.linalg.solve(lower, x[span]))


def solve_transposed(factor: Array, offsets: Array, start: Array, width: Array, todo: Array, x: Array) -> None:
    """As the loop: x becomes the solution of L^T x = b."""
    for _, span, first, size, w in _each(offsets, start, width, todo):
        x[span] = np.linalg.solve(_lower(factor, first, size, w).T, x[span])


def multiply(matrix: Array, offsets: Array, start: Array, width: Array, todo: Array, x: Array, out: Array) -> None:
    """As the loop: out = matrix x."""
    for _, span, first, size, w in _each(offsets, start, width, todo):
        out[span] = dense(matrix, first, size, w) @ x[span]


def log_determinant(factor: Array, offsets: Array, start: Array, width: Array, todo: Array, out: Array) -> None:
    """As the loop: out (B,) the log of the determinant of L L^T."""
    for b, _, first, size, w in _each(offsets, start, width, todo):
        out[b] = 2 * np.log(np.diag(_lower(factor, first, size, w))).sum()


def selected_inverse(factor: Array, offsets: Array, start: Array, width: Array, todo: Array, inverse: Array) -> None:
    """As the loop: the band of the inverse."""
    for _, _, first, size, w in _each(offsets, start, width, todo):
        lower = _lower(factor, first, size, w)
        _store(np.linalg.inv(lower @ lower.T), inverse, first, w)


def add_gradient(
    jacobian: Array, residual: Array, weight: Array, columns: Array, owner: Array, todo: Array, gradient: Array
) -> None:
    """As the loop: gradient += J^T W r."""
    w = weight if weight.size else np.ones(columns.shape[0])
    part = np.einsum("m,mka,mk->ma", w, jacobian, residual)
    kept = (columns >= 0) & todo[owner].astype(bool)[:, None]
    np.add.at(gradient, columns[kept], part[kept])


def _pairs(jacobian: Array, weight: Array) -> tuple[Array, Array, Array]:
    w = weight if weight.size else np.ones(jacobian.shape[0])
    a, b = np.tril_indices(jacobian.shape[2])
    return a, b, np.einsum("m,mkp,mkp->mp", w, jacobian[:, :, a], jacobian[:, :, b])


def add_band(
    jacobian: Array, weight: Array, columns: Array, owner: Array, todo: Array, diagonal: Array, matrix: Array
) -> None:
    """As the loop: matrix += J^T W J in the band's layout."""
    a, b, part = _pairs(jacobian, weight)
    first, second = columns[:, a], columns[:, b]
    kept = (first >= 0) & (second >= 0) & todo[owner].astype(bool)[:, None]
    low, high = np.minimum(first, second)[kept], np.maximum(first, second)[kept]
    np.add.at(matrix, diagonal[low] + high - low, part[kept])


def add_sparse(jacobian: Array, weight: Array, places: Array, owner: Array, todo: Array, matrix: Array) -> None:
    """As the loop: matrix += J^T W J at the places given."""
    _, _, part = _pairs(jacobian, weight)
    kept = (places >= 0) & todo[owner].astype(bool)[:, None]
    np.add.at(matrix, places[kept], part[kept])


def reset(base: Array, start: Array, todo: Array, matrix: Array) -> None:
    """As the loop: matrix = base in the instances to do."""
    for b in np.nonzero(todo)[0]:
        matrix[start[b] : start[b + 1]] = base[start[b] : start[b + 1]]


def clear(start: Array, todo: Array, matrix: Array) -> None:
    """As the loop: matrix = 0 in the instances to do."""
    for b in np.nonzero(todo)[0]:
        matrix[start[b] : start[b + 1]] = 0


def advance(jacobian: Array, residual: Array, columns: Array, step: Array, out: Array) -> None:
    """As the loop: out = residual + J step."""
    moved = np.where(columns >= 0, np.append(step, 0.0)[columns], 0.0)
    out[:] = residual + np.einsum("mka,ma->mk", jacobian, moved)


def add_squares(residual: Array, owner: Array, out: Array) -> None:
    """As the loop: out += half the squared norms of rows."""
    np.add.at(out, owner, 0.5 * np.square(residual).sum(1))

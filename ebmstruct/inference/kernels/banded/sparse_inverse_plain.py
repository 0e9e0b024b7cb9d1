"""The loops of ``sparse_inverse_numba`` in plain numpy, over dense matrices; same arguments, same effects, cost n^3."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def _dense(start: Array, rows: Array, lower: Array, size: int) -> Array:
    """I + L."""
    out = np.eye(size)
    out[rows, np.repeat(np.arange(size), np.diff(start))] = lower
    return out


def sparse_selected_inverse(
    start: Array, rows: Array, lower: Array, pivots: Array, inverse: Array, diagonal: Array
) -> None:
    """As the loop: entries of the inverse at the places of L, and its diagonal."""
    factor = _dense(start, rows, lower, pivots.size)
    full = np.linalg.inv(factor @ np.diag(pivots) @ factor.T)
    inverse[:] = full[rows, np.repeat(np.arange(pivots.size), np.diff(start))]
    diagonal[:] = np.diag(full)


def sparse_solve_transposed(start: Array, rows: Array, lower: Array, x: Array) -> None:
    """As the loop: x becomes the solution of (I + L)^T x = b, row after row."""
    x[:] = np.linalg.solve(_dense(start, rows, lower, x.shape[1]).T, x.T).T

"""Loops over the sparse factor I + L, D of a symmetric matrix: selected inverse and noise, in the factor's own order.

L is strictly lower, column after column: those of column j are rows[start[j]] ... rows[start[j + 1] - 1], in order.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel, plain


@kernel
def sparse_selected_inverse(start, rows, lower, pivots, inverse, diagonal):
    """The entries of the inverse at the places of L, and its diagonal; the last column comes first.

    Takahashi, Fagan and Chin (1973): rows i and k of a column j are joined in the factor, so what column j needs is there.
    """
    size = pivots.size
    where = np.full(size, -1)
    total = np.zeros(size)
    for j in range(size - 1, -1, -1):
        for p in range(start[j], start[j + 1]):
            where[rows[p]] = p
            total[rows[p]] = 0.0
        for p in range(start[j], start[j + 1]):
            k = rows[p]
            total[k] += lower[p] * diagonal[k]
            for q in range(start[k], start[k + 1]):
                i = rows[q]
                if where[i] >= 0:
                    total[i] += lower[p] * inverse[q]
                    total[k] += lower[where[i]] * inverse[q]
        corner = 1.0 / pivots[j]
        for p in range(start[j], start[j + 1]):
            inverse[p] = -total[rows[p]]
            corner -= lower[p] * inverse[p]
            where[rows[p]] = -1
        diagonal[j] = corner


@plain
def sparse_solve_transposed(start, rows, lower, x):
    """In place: x (S, N) becomes the solution of (I + L)^T x = b, row after row."""
    for s in range(x.shape[0]):
        for j in range(x.shape[1] - 1, -1, -1):
            value = x[s, j]
            for p in range(start[j], start[j + 1]):
                value -= lower[p] * x[s, rows[p]]
            x[s, j] = value

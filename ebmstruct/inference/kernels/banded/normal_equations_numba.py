"""Loops from rows of Jacobians to normal equations: J^T W J into a band or a sparse matrix, J^T W r, and their kin.

A row has r residuals and T tangent coordinates; ``columns`` (m, T) says which unknown each coordinate is, -1 where it
is clamped. ``owner`` (m,): the instance of each row. Rows of instances without ``todo`` are passed over.
"""

from __future__ import annotations

from ebmstruct.inference.kernels.compiler import inlined, plain


@inlined
def _product(jacobian, row, a, b):
    total = 0.0
    for k in range(jacobian.shape[1]):
        total += jacobian[row, k, a] * jacobian[row, k, b]
    return total


@plain
def add_gradient(jacobian, residual, weight, columns, owner, todo, gradient):
    """gradient (N,) += J^T W r; weight: (m,), or empty for 1."""
    for row in range(columns.shape[0]):
        if not todo[owner[row]]:
            continue
        w = weight[row] if weight.size else 1.0
        for a in range(columns.shape[1]):
            if columns[row, a] >= 0:
                total = 0.0
                for k in range(residual.shape[1]):
                    total += jacobian[row, k, a] * residual[row, k]
                gradient[columns[row, a]] += w * total


@plain
def add_band(jacobian, weight, columns, owner, todo, diagonal, matrix):
    """matrix += J^T W J in the layout of ``banded_numba``; diagonal (N,): where each unknown's diagonal entry lies."""
    for row in range(columns.shape[0]):
        if not todo[owner[row]]:
            continue
        w = weight[row] if weight.size else 1.0
        for a in range(columns.shape[1]):
            first = columns[row, a]
            if first < 0:
                continue
            for b in range(a + 1):
                second = columns[row, b]
                if second >= 0:
                    low, high = min(first, second), max(first, second)
                    matrix[diagonal[low] + high - low] += w * _product(jacobian, row, a, b)


@plain
def add_sparse(jacobian, weight, places, owner, todo, matrix):
    """matrix += J^T W J at ``places`` (m, T (T + 1) / 2): those of pairs a >= b of coordinates, -1 where clamped."""
    for row in range(places.shape[0]):
        if not todo[owner[row]]:
            continue
        w = weight[row] if weight.size else 1.0
        pair = 0
        for a in range(jacobian.shape[2]):
            for b in range(a + 1):
                if places[row, pair] >= 0:
                    matrix[places[row, pair]] += w * _product(jacobian, row, a, b)
                pair += 1


@plain
def reset(base, start, todo, matrix):
    """matrix = base, in the instances to do; start (B + 1,): where each begins."""
    for b in range(start.size - 1):
        if todo[b]:
            for i in range(start[b], start[b + 1]):
                matrix[i] = base[i]


@plain
def clear(start, todo, matrix):
    """matrix = 0, in the instances to do; start (B + 1,): where each begins."""
    for b in range(start.size - 1):
        if todo[b]:
            for i in range(start[b], start[b + 1]):
                matrix[i] = 0.0


@plain
def advance(jacobian, residual, columns, step, out):
    """out (m, r) = residual + J step, for rows that are affine; step: (N,)."""
    for row in range(columns.shape[0]):
        for k in range(residual.shape[1]):
            total = residual[row, k]
            for a in range(columns.shape[1]):
                if columns[row, a] >= 0:
                    total += jacobian[row, k, a] * step[columns[row, a]]
            out[row, k] = total


@plain
def add_squares(residual, owner, out):
    """out (B,) += half the squared norm of each row of residuals."""
    for row in range(residual.shape[0]):
        total = 0.0
        for k in range(residual.shape[1]):
            total += residual[row, k] * residual[row, k]
        out[owner[row]] += 0.5 * total

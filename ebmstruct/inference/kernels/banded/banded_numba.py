"""Loops over symmetric band matrices, one for each instance of a batch, each of its own size and bandwidth.

The lower half is kept column after column: instance b has sizes offsets[b + 1] - offsets[b] columns of width[b] + 1
numbers, from start[b] on; entry k of column j is that of row j + k. Entries below the last row are never read. A factor
has the same layout. Loops look at instances with ``todo`` set only, and what goes wrong in one is told in ``failed``.
Cost: n (w + 1)^2 for factors and selected inverses, n (w + 1) for the rest.
"""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import inlined, plain

LOST = 16 * 2.220446049250313e-16
"""A pivot below this part of its diagonal entry is rounding, and the matrix singular."""


@inlined
def _factorise(matrix, factor, begin, size, width):
    """Cholesky in place, column by column; False at the first pivot that rounding or a singular matrix has eaten."""
    stride = width + 1
    for j in range(size):
        column = begin + j * stride
        pivot = factor[column]
        if not (pivot > LOST * abs(matrix[column])) or pivot == np.inf:
            return False
        root = np.sqrt(pivot)
        factor[column] = root
        last = min(width, size - 1 - j)
        for k in range(1, last + 1):
            factor[column + k] /= root
        for k in range(1, last + 1):
            value = factor[column + k]
            if value == 0.0:
                continue
            target = column + k * stride
            for i in range(k, last + 1):
                factor[target + i - k] -= value * factor[column + i]
    return True


@inlined
def _backward(factor, begin, size, width, x, first):
    stride = width + 1
    for j in range(size - 1, -1, -1):
        column = begin + j * stride
        value = x[first + j]
        for k in range(1, min(width, size - 1 - j) + 1):
            value -= factor[column + k] * x[first + j + k]
        x[first + j] = value / factor[column]


@inlined
def _forward(factor, begin, size, width, x, first):
    stride = width + 1
    for j in range(size):
        column = begin + j * stride
        value = x[first + j] / factor[column]
        x[first + j] = value
        for k in range(1, min(width, size - 1 - j) + 1):
            x[first + j + k] -= factor[column + k] * value


@plain
def factorise(matrix, offsets, start, width, widest, damping, frozen, todo, factor, failed):
    """factor of matrix + damping * its diagonal; rows and columns that are ``frozen`` keep their diagonal alone.

    widest: bands that are wider are damped only, and left to the caller to factorise.
    damping: (B,).  frozen: (N,) bool, or empty.  A diagonal entry counts for at least 1e-12 of its instance's
    largest where it is damped, so that damping mends a column of zeros too.
    """
    for b in range(offsets.size - 1):
        if not todo[b]:
            continue
        first, size, stride = offsets[b], offsets[b + 1] - offsets[b], width[b] + 1
        begin, end = start[b], start[b] + size * stride
        for i in range(begin, end):
            factor[i] = matrix[i]
        if damping[b] > 0.0:
            largest = 0.0
            for i in range(begin, end, stride):
                largest = max(largest, matrix[i])
            least = 1e-12 * largest if largest > 0.0 else 1.0
            for i in range(begin, end, stride):
                factor[i] += damping[b] * max(matrix[i], least)
        if frozen.size:
            for j in range(size):
                for k in range(1, min(width[b], size - 1 - j) + 1):
                    if frozen[first + j] or frozen[first + j + k]:
                        factor[begin + j * stride + k] = 0.0
        failed[b] = width[b] <= widest and not _factorise(matrix, factor, begin, size, width[b])


@plain
def solve(factor, offsets, start, width, todo, x):
    """In place: x becomes the solution of L L^T x = b, in each instance."""
    for b in range(offsets.size - 1):
        if todo[b]:
            size = offsets[b + 1] - offsets[b]
            _forward(factor, start[b], size, width[b], x, offsets[b])
            _backward(factor, start[b], size, width[b], x, offsets[b])


@plain
def solve_transposed(factor, offsets, start, width, todo, x):
    """In place: x becomes the solution of L^T x = b: of covariance (L L^T)^-1 where b is white noise."""
    for b in range(offsets.size - 1):
        if todo[b]:
            _backward(factor, start[b], offsets[b + 1] - offsets[b], width[b], x, offsets[b])


@plain
def multiply(matrix, offsets, start, width, todo, x, out):
    """out = matrix x, in each instance."""
    for b in range(offsets.size - 1):
        if not todo[b]:
            continue
        first, size, stride = offsets[b], offsets[b + 1] - offsets[b], width[b] + 1
        for j in range(size):
            out[first + j] = 0.0
        for j in range(size):
            column = start[b] + j * stride
            total = matrix[column] * x[first + j]
            for k in range(1, min(width[b], size - 1 - j) + 1):
                total += matrix[column + k] * x[first + j + k]
                out[first + j + k] += matrix[column + k] * x[first + j]
            out[first + j] += total


@plain
def log_determinant(factor, offsets, start, width, todo, out):
    """out (B,): the log of the determinant of L L^T."""
    for b in range(offsets.size - 1):
        if todo[b]:
            total = 0.0
            stride = width[b] + 1
            for j in range(offsets[b + 1] - offsets[b]):
                total += np.log(factor[start[b] + j * stride])
            out[b] = 2.0 * total


@plain
def selected_inverse(factor, offsets, start, width, todo, inverse):
    """The entries of (L L^T)^-1 that lie in the band, in its layout, from the last column to the first.

    Takahashi, Fagan and Chin (1973), "Formation of a sparse bus impedance matrix": column j needs those after it only.
    """
    for b in range(offsets.size - 1):
        if not todo[b]:
            continue
        size, w = offsets[b + 1] - offsets[b], width[b]
        stride = w + 1
        for j in range(size - 1, -1, -1):
            column = start[b] + j * stride
            last = min(w, size - 1 - j)
            pivot = factor[column]
            for k in range(last, 0, -1):
                total = 0.0
                for i in range(1, k):
                    total += factor[column + i] * inverse[column + i * stride + k - i]
                for i in range(k, last + 1):
                    total += factor[column + i] * inverse[column + k * stride + i - k]
                inverse[column + k] = -total / pivot
            total = 0.0
            for i in range(1, last + 1):
                total += factor[column + i] * inverse[column + i]
            inverse[column] = (1.0 / pivot - total) / pivot

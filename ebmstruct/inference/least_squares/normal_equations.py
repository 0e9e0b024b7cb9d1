"""The normal equations of a batch: gathered from rows, factorised and solved, as bands or as one sparse matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ebmstruct.inference.kernels.banded.banded import BandLayout, loops
from ebmstruct.inference.kernels.banded.banded_plain import LOST
from ebmstruct.inference.views.residual_view import ResidualView, RowPlaces, SparseLayout

Array = np.ndarray
NONE = np.zeros(0)
NOBODY = np.zeros(0, bool)
WIDE = 24
"""Bands wider than this are factorised by LAPACK, whose blocks pay from there on."""


class NormalEquations(ABC):
    """H = J^T W J and g = J^T W r of each instance; one run's own memory, which its methods overwrite.

    todo: (B,) bool: the instances that a call works on; the others keep what they have.
    """

    def __init__(self, offsets: Array) -> None:
        self.offsets = offsets
        self.size = int(offsets[-1])
        self.gradient = np.zeros(self.size)
        self.matrix = NONE
        self.base: Array | None = None

    def keep(self) -> None:
        """Take H as it is now for the part that never changes: ``clear`` goes back to it."""
        self.base = self.matrix.copy()

    @abstractmethod
    def clear(self, todo: Array) -> None:
        """Forget g of some instances, and H but for the part kept."""

    @abstractmethod
    def add_matrix(self, places: RowPlaces, jacobian: Array, weight: Array, todo: Array) -> None:
        """H += J^T W J of a factor's rows; jacobian: (m, r, T), weight: (m,), or empty for 1."""

    def add_gradient(self, places: RowPlaces, jacobian: Array, residual: Array, weight: Array, todo: Array) -> None:
        """g += J^T W r of a factor's rows."""
        loops().add_gradient(jacobian, residual, weight, places.columns, places.owner, todo, self.gradient)

    @abstractmethod
    def diagonal(self) -> Array:
        """(N,) the diagonal of H."""

    @abstractmethod
    def solve(self, damping: Array, right: Array, todo: Array, frozen: Array = NOBODY) -> tuple[Array, Array]:
        """(N,) solution of (H + damping * diagonal of H) x = right, and (B,) bool of the instances where there is none.

        frozen: (N,) bool, or empty: unknowns that are solved for by themselves, as if joined to no other.
        """

    @abstractmethod
    def solve_again(self, right: Array, todo: Array) -> Array:
        """(N,) solution of the system that was solved last, if that was undamped; 0 where there is none."""

    @abstractmethod
    def multiply(self, x: Array, todo: Array) -> Array:
        """(N,) H x."""

    def inner(self, a: Array, b: Array) -> Array:
        """(B,) inner products of two vectors, instance by instance."""
        return self.summed(a * b)

    def summed(self, x: Array) -> Array:
        """(B,) sums over the unknowns of each instance."""
        return segments(np.add, x, self.offsets, 0.0)


def segments(reduce: np.ufunc, x: Array, offsets: Array, empty: float) -> Array:
    """(B,) ``reduce`` over each instance's part of x; ``empty`` where it has none."""
    if offsets.size == 2:
        return np.array([reduce.reduce(x) if x.size else empty])
    out = np.full(offsets.size - 1, empty)
    filled = np.diff(offsets) > 0
    if x.size:
        out[filled] = reduce.reduceat(x, offsets[:-1][filled])
    return out


class BandEquations(NormalEquations):
    """H in bands; cost of a solution: n (w + 1)^2."""

    def __init__(self, layout: BandLayout) -> None:
        super().__init__(layout.offsets)
        self.layout = layout
        self.matrix = np.zeros(int(layout.start[-1]))
        self.factor = np.zeros_like(self.matrix)
        self.wide = np.nonzero(layout.width > WIDE)[0]

    def clear(self, todo: Array) -> None:
        if self.base is None:
            loops().clear(self.layout.start, todo, self.matrix)
        else:
            loops().reset(self.base, self.layout.start, todo, self.matrix)
        loops().clear(self.offsets, todo, self.gradient)

    def add_matrix(self, places: RowPlaces, jacobian: Array, weight: Array, todo: Array) -> None:
        loops().add_band(jacobian, weight, places.columns, places.owner, todo, self.layout.diagonal, self.matrix)

    def diagonal(self) -> Array:
        return self.matrix[self.layout.diagonal]

    def factorise(self, damping: Array, todo: Array, frozen: Array = NOBODY) -> Array:
        """Make ``factor`` that of H + damping * its diagonal; (B,) bool of the instances where there is none."""
        at, failed = self.layout, np.zeros(todo.size, bool)
        loops().factorise(self.matrix, at.offsets, at.start, at.width, WIDE, damping, frozen, todo, self.factor, failed)
        for b in self.wide:
            if todo[b]:
                failed[b] = not self._factorise_wide(int(b))
        return failed

    def _factorise_wide(self, b: int) -> bool:
        """Cholesky in place, of one instance, by LAPACK; whether it went well."""
        from scipy.linalg.lapack import dpbtrf

        span, stride = slice(self.layout.start[b], self.layout.start[b + 1]), self.layout.width[b] + 1
        columns = self.factor[span].reshape(-1, stride)
        lower, info = dpbtrf(columns.T, lower=1, overwrite_ab=1)
        columns[:] = lower.T  # the same memory, unless scipy saw a reason for a copy
        pivots, diagonal = np.square(columns[:, 0]), np.abs(self.matrix[span][::stride])
        return info == 0 and bool((pivots > LOST * diagonal).all()) and bool(np.isfinite(pivots).all())

    def solve(self, damping: Array, right: Array, todo: Array, frozen: Array = NOBODY) -> tuple[Array, Array]:
        failed = self.factorise(damping, todo, frozen)
        return self.solve_again(right, todo & ~failed), failed

    def solve_again(self, right: Array, todo: Array) -> Array:
        x, at = right.copy(), self.layout
        loops().solve(self.factor, at.offsets, at.start, at.width, todo, x)
        return x

    def multiply(self, x: Array, todo: Array) -> Array:
        out, at = np.zeros(self.size), self.layout
        loops().multiply(self.matrix, at.offsets, at.start, at.width, todo, x, out)
        return out


class SparseEquations(NormalEquations):
    """H as one sparse matrix of the whole batch; cost of a solution: the squares of the factor's columns."""

    def __init__(self, layout: SparseLayout, offsets: Array) -> None:
        super().__init__(offsets)
        self.layout = layout
        self.matrix = np.zeros(layout.pattern.rows.size)

    def clear(self, todo: Array) -> None:
        doing = todo[self.layout.owner]
        self.matrix[doing] = 0.0 if self.base is None else self.base[doing]
        loops().clear(self.offsets, todo, self.gradient)

    def add_matrix(self, places: RowPlaces, jacobian: Array, weight: Array, todo: Array) -> None:
        loops().add_sparse(jacobian, weight, places.pairs, places.owner, todo, self.matrix)

    def diagonal(self) -> Array:
        return self.matrix[self.layout.diagonal]

    def damped(self, damping: Array, frozen: Array = NOBODY) -> Array:
        """The entries of H + damping * its diagonal."""
        data = self.matrix.copy()
        diagonal = self.diagonal()
        if frozen.size:
            cut = frozen[self.layout.columns] | frozen[self.layout.pattern.rows]
            data[cut] = 0.0
        largest = segments(np.maximum, diagonal, self.offsets, 0.0)
        least = np.where(largest > 0, 1e-12 * largest, 1.0)
        counts = np.diff(self.offsets)
        data[self.layout.diagonal] = diagonal + np.repeat(damping, counts) * np.maximum(
            diagonal, np.repeat(least, counts)
        )
        return data

    def solve(self, damping: Array, right: Array, todo: Array, frozen: Array = NOBODY) -> tuple[Array, Array]:
        data = self.damped(damping, frozen)
        counts = np.diff(self.offsets)
        idle = ~np.repeat(todo, counts)
        data[~todo[self.layout.owner]] = 0.0  # the identity stands in for instances that nobody asks about
        data[self.layout.diagonal[idle]] = 1.0
        right = np.where(idle, 0.0, right)
        x = self.layout.pattern.solve(data, right)
        found = np.zeros(self.size) if x is None else x
        wrong = todo if x is None else todo & ~self._solves(data, found, right)
        return self._one_by_one(data, right, found, wrong) if wrong.any() else (found, wrong)

    def solve_again(self, right: Array, todo: Array) -> Array:
        x, failed = self.solve(np.zeros(todo.size), right, todo)
        return np.where(np.repeat(failed, np.diff(self.offsets)), 0.0, x)

    def _solves(self, data: Array, x: Array, right: Array) -> Array:
        """(B,) whether A x = right up to rounding: the factor of a singular matrix is rounding, or an old one."""
        with np.errstate(invalid="ignore", over="ignore"):
            off = np.abs(self._times(data, x) - right)
            size = np.abs(right)
        worst = segments(np.maximum, np.nan_to_num(off, nan=np.inf), self.offsets, 0.0)
        return worst <= 1e-6 * segments(np.maximum, size, self.offsets, 0.0)

    def _one_by_one(self, data: Array, right: Array, x: Array, wrong: Array) -> tuple[Array, Array]:
        """Solve the instances that went wrong each by itself; what is singular then is singular."""
        import scipy.sparse
        from scipy.sparse.linalg import splu

        pattern, failed = self.layout.pattern, wrong.copy()
        for b in np.nonzero(wrong)[0]:
            low, high = self.offsets[b], self.offsets[b + 1]
            span = slice(pattern.start[low], pattern.start[high])
            start = pattern.start[low : high + 1] - pattern.start[low]
            upper = scipy.sparse.csc_matrix((data[span], pattern.rows[span] - low, start), shape=(high - low,) * 2)
            if not np.isfinite(data[span]).all():
                continue
            full = upper + scipy.sparse.triu(upper, 1).T
            try:
                x[low:high] = splu(full.tocsc()).solve(right[low:high])
            except RuntimeError:
                continue
            off = np.abs(full @ x[low:high] - right[low:high]).max(initial=0.0)
            failed[b] = not off <= 1e-6 * np.abs(right[low:high]).max(initial=0.0)
        return x, failed

    def _times(self, data: Array, x: Array) -> Array:
        at, rows = self.layout.columns, self.layout.pattern.rows
        off = at != rows
        out = np.bincount(rows, data * x[at], self.size)
        return out + np.bincount(at[off], data[off] * x[rows[off]], self.size)

    def multiply(self, x: Array, todo: Array) -> Array:
        return self._times(self.matrix, x)


def normal_equations(view: ResidualView) -> NormalEquations:
    """Empty normal equations of a view, in the layout that it found cheaper."""
    return BandEquations(view.band) if view.sparse is None else SparseEquations(view.sparse, view.offsets)

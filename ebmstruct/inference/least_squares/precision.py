"""What the factor of a precision matrix H tells of the Gaussian exp(-x^T H x / 2): determinant, covariances, draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from ebmstruct.inference.kernels.banded.banded import loops
from ebmstruct.inference.least_squares.normal_equations import BandEquations, NormalEquations, SparseEquations
from ebmstruct.inference.least_squares.sparse_cholesky import SparseFactor

Array = np.ndarray


class Precision(ABC):
    """The factor of H, instance by instance.

    proper: (B,) bool: where H is positive definite; elsewhere values mean nothing.  log_determinant: (B,).
    """

    proper: Array
    log_determinant: Array

    @abstractmethod
    def covariance(self, first: Array, second: Array) -> Array:
        """Entries of H^-1 at pairs of unknowns that some row joins, or that belong to one site; 0 at -1 and N."""

    @abstractmethod
    def coloured(self, noise: Array) -> Array:
        """(S, N) of covariance H^-1, from white noise (S, N); 0 in improper instances."""


class BandPrecision(Precision):
    """By a band's Cholesky factor; cost of the selected inverse: n (w + 1)^2, once."""

    def __init__(self, system: BandEquations, todo: Array) -> None:
        self.layout, self.size = system.layout, system.size
        self.proper = todo & ~system.factorise(np.zeros(todo.size), todo)
        self.factor = system.factor.copy()
        self.log_determinant = np.zeros(todo.size)
        at = self.layout
        loops().log_determinant(self.factor, at.offsets, at.start, at.width, self.proper, self.log_determinant)

    @cached_property
    def inverse(self) -> Array:
        """The band of H^-1."""
        out, at = np.zeros_like(self.factor), self.layout
        loops().selected_inverse(self.factor, at.offsets, at.start, at.width, self.proper, out)
        return out

    def covariance(self, first: Array, second: Array) -> Array:
        low, high = np.minimum(first, second), np.maximum(first, second)
        there = (low >= 0) & (high < self.size)
        low, high = np.where(there, low, 0), np.where(there, high, 0)
        return np.where(there, self.inverse[self.layout.diagonal[low] + high - low], 0.0) if self.size else 0.0 * low

    def coloured(self, noise: Array) -> Array:
        at = self.layout
        out = noise * np.repeat(self.proper, np.diff(at.offsets))
        for row in out:
            loops().solve_transposed(self.factor, at.offsets, at.start, at.width, self.proper, row)
        return out


class SparsePrecision(Precision):
    """By the factor L D L^T of the whole batch; improper instances have the identity in their place."""

    def __init__(self, system: SparseEquations, todo: Array) -> None:
        self.size, self.offsets = system.size, system.offsets
        _, failed = system.solve(np.zeros(todo.size), np.ones(self.size), todo)
        found = self._factor(system, todo & ~failed)
        if not self.proper.all() and (todo & ~failed & ~self.proper).any():
            found = self._factor(system, self.proper)
        self.factor = found

    def _factor(self, system: SparseEquations, todo: Array) -> SparseFactor:
        layout = system.layout
        data = np.where(todo[layout.owner], system.matrix, 0.0)
        idle = ~np.repeat(todo, np.diff(self.offsets))
        data[layout.diagonal[idle]] = 1.0
        found = layout.pattern.factor(data)
        if found is None:
            raise ArithmeticError("a factor vanished that was there a moment ago")
        owner = np.repeat(np.arange(todo.size), np.diff(self.offsets))[found.order]
        bad = ~(found.pivots > 1e-14 * data[layout.diagonal][found.order])
        self.proper = todo.copy()
        self.proper[owner[bad]] = False
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.where(self.proper[owner], np.log(found.pivots), 0.0)
        self.log_determinant = np.bincount(owner, logs, todo.size)
        return found

    @cached_property
    def inverse(self) -> tuple[Array, Array, Array]:
        """Keys (column * N + row), sorted, and entries of H^-1 at the places of L, and its diagonal; in L's order."""
        at = self.factor
        entries, diagonal = np.zeros_like(at.lower), np.zeros(self.size)
        loops().sparse_selected_inverse(at.lower_start, at.lower_rows, at.lower, at.pivots, entries, diagonal)
        columns = np.repeat(np.arange(self.size), np.diff(at.lower_start))
        return columns * self.size + at.lower_rows, entries, diagonal

    def covariance(self, first: Array, second: Array) -> Array:
        place = np.empty(self.size + 1, np.int64)
        place[self.factor.order] = np.arange(self.size)
        there = (np.minimum(first, second) >= 0) & (np.maximum(first, second) < self.size)
        a, b = place[np.where(there, first, self.size - 1)], place[np.where(there, second, self.size - 1)]
        keys, entries, diagonal = self.inverse
        key = np.minimum(a, b) * self.size + np.maximum(a, b)
        at = np.minimum(np.searchsorted(keys, key), max(keys.size - 1, 0))
        off = entries[at] if keys.size else np.zeros(at.shape)
        return np.where(there, np.where(a == b, diagonal[a], off), 0.0)

    def coloured(self, noise: Array) -> Array:
        at = self.factor
        out = noise[:, at.order] / np.sqrt(np.abs(at.pivots))
        loops().sparse_solve_transposed(at.lower_start, at.lower_rows, at.lower, out)
        back = np.empty_like(out)
        back[:, at.order] = out
        return back * np.repeat(self.proper, np.diff(self.offsets))


def precision(system: NormalEquations, todo: Array) -> Precision:
    """The factor of the normal equations as they are now, of the instances to do."""
    if isinstance(system, BandEquations):
        return BandPrecision(system, todo)
    assert isinstance(system, SparseEquations)
    return SparsePrecision(system, todo)

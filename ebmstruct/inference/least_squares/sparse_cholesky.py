"""Factors of sparse symmetric matrices by QDLDL (Stellato and others 2020): L D L^T, after a minimum degree order.

What depends on the pattern alone is done once; values are factorised again and again. This is qdldl's only door.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class SparseFactor:
    """A = P (I + L) D (I + L)^T P^T: L strictly lower in columns, D (N,), order (N,): place i holds unknown order[i]."""

    lower_start: Array
    lower_rows: Array
    lower: Array
    pivots: Array
    order: Array


@dataclass(frozen=True, eq=False)
class SparsePattern:
    """The upper half of a symmetric sparse matrix, column after column: N, column starts (N + 1,), and rows.

    Several threads may factorise matrices of one pattern at once: each borrows a solver, which nobody else sees.
    """

    size: int
    start: Array
    rows: Array
    _free: list[Any] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def solve(self, data: Array, right: Array) -> Array | None:
        """(N,) the solution of A x = right; None where a pivot vanished. Callers check it: pivots may be rounding."""
        solver = self._take(data)
        if solver is None:
            return None
        found = np.asarray(solver.solve(right))
        self._give(solver)
        return found

    def factor(self, data: Array) -> SparseFactor | None:
        """The factor itself; None where a pivot vanished."""
        solver = self._take(data)
        if solver is None:
            return None
        lower, pivots, order = solver.factors()
        self._give(solver)
        lower = lower.tocsc()
        parts = (lower.indptr.astype(np.int64), lower.indices.astype(np.int64), lower.data.astype(np.float64))
        return SparseFactor(*parts, np.array(pivots), np.asarray(order, np.int64))

    def _take(self, data: Array) -> Any | None:
        """A solver that holds the factor of these values."""
        import qdldl
        import scipy.sparse

        matrix = scipy.sparse.csc_matrix((data, self.rows, self.start), shape=(self.size, self.size))
        with self._lock:
            solver = self._free.pop() if self._free else None
        try:
            if solver is None:
                return qdldl.Solver(matrix, upper=True)
            solver.update(matrix, upper=True)
            return solver
        except RuntimeError:
            return None

    def _give(self, solver: Any) -> None:
        with self._lock:
            self._free.append(solver)

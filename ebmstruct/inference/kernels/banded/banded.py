"""The band matrices of a batch: where their entries lie, and the loops over them, compiled where numba is there."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import numpy as np

from ebmstruct.inference.kernels.banded import banded_plain, damping_plain, sparse_inverse_plain

Array = np.ndarray
NAMES = (
    "factorise", "solve", "solve_transposed", "multiply", "log_determinant", "selected_inverse", "add_gradient",
    "add_band", "add_sparse", "reset", "clear", "advance", "add_squares", "settle", "largest_cosine", "foresee",
    "sparse_selected_inverse", "sparse_solve_transposed",
)  # fmt: skip


@functools.cache
def loops() -> SimpleNamespace:
    """The loops, compiled at their first use (or read from numba's cache); in plain numpy where numba is missing."""
    if importlib.util.find_spec("numba") is None:
        return twins()
    from ebmstruct.inference.kernels.banded import (
        banded_numba,
        damping_numba,
        normal_equations_numba,
        sparse_inverse_numba,
    )

    found = {
        **vars(banded_numba),
        **vars(damping_numba),
        **vars(normal_equations_numba),
        **vars(sparse_inverse_numba),
    }
    return SimpleNamespace(**{name: found[name] for name in NAMES})


@functools.cache
def twins() -> SimpleNamespace:
    """The same in plain numpy."""
    found = {**vars(banded_plain), **vars(damping_plain), **vars(sparse_inverse_plain)}
    return SimpleNamespace(**{name: found[name] for name in NAMES})


@dataclass(frozen=True, eq=False)
class BandLayout:
    """Where the entries of each instance's band matrix lie in one flat array (``banded_numba`` tells the order).

    offsets: (B + 1,) of the unknowns.  width: (B,) how many entries lie below the diagonal.
    """

    offsets: Array
    width: Array

    @cached_property
    def start(self) -> Array:
        """(B + 1,): where each instance's matrix begins, and where the last one ends."""
        sizes = np.diff(self.offsets) * (self.width + 1)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])

    @cached_property
    def diagonal(self) -> Array:
        """(N,): where the diagonal entry of each unknown lies."""
        counts = np.diff(self.offsets)
        within = np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], counts)
        return np.repeat(self.start[:-1], counts) + within * np.repeat(self.width + 1, counts)

    @property
    def operations(self) -> float:
        """About how many multiplications a Cholesky factor takes."""
        return float((np.diff(self.offsets) * np.square(self.width + 1.0)).sum())

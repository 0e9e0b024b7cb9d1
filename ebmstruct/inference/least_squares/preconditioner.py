"""The inverse of the Gauss-Newton matrix at a point, for whoever solves systems in the Hessian by iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.least_squares.loop import LeastSquares, Steps, residual_refusal
from ebmstruct.inference.least_squares.normal_equations import NOBODY
from ebmstruct.inference.smooth_energy import Step

Array = np.ndarray


class GaussNewtonInverse:
    """(J^T W J)^-1 of a least squares problem at a point, banded or sparse as its rows allow; the identity in
    instances where that is singular. It is the inverse Hessian where residuals are affine or vanish, and near it where
    they are nearly so. Cost: a linearisation and a factorisation, then a solution for each call.
    """

    def __init__(self, graph: FactorGraph, point: Mapping[str, Tensor]) -> None:
        run = LeastSquares(graph, Assignment(dict(point)), Steps(damping=0.0))
        run.linearise_here()
        self._system, self._positions, self._size = run.system, run.view.positions, run.view.size
        everyone = np.ones(graph.num_instances, bool)
        frozen = run.frozen if run.bounded else NOBODY
        self._frozen, self._none = frozen, np.zeros(graph.num_instances)
        _, failed = self._system.solve(self._none, np.ones(self._size), everyone, frozen)
        self._sound = ~failed
        self._spread = np.repeat(self._sound, np.diff(run.view.offsets))

    @classmethod
    def of(cls, graph: FactorGraph, point: Mapping[str, Tensor]) -> GaussNewtonInverse | None:
        """The inverse at the values of the open continuous blocks; None where the graph is no least squares problem."""
        return None if residual_refusal(graph) is not None or not point else cls(graph, point)

    def __call__(self, step: Sequence[Tensor]) -> Step:
        """The inverse times a step (n, t) of each open continuous block, in their order; clamped sites get nothing."""
        right = np.zeros(self._size + 1)
        for part, position in zip(step, self._positions, strict=True):
            right[position] = part.detach().double().numpy()
        found, failed = self._system.solve(
            self._none, np.where(self._spread, right[:-1], 0.0), self._sound, self._frozen
        )
        kept = self._spread & ~np.repeat(failed, np.diff(self._system.offsets))
        out = np.append(np.where(kept, found, right[:-1]), 0.0)
        return tuple(torch.from_numpy(out[p]).to(s) for p, s in zip(self._positions, step, strict=True))

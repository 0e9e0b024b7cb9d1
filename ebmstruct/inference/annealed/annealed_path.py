"""Annealed importance sampling along a path of densities: a pilot that places its points, and the run itself."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebmstruct.inference.annealed.importance import next_beta
from ebmstruct.inference.result import Budget, Status

PILOT_SHARE = 0.9
"""Conditional effective size of the pilot's steps; the run divides each of them."""
PILOT_MOST = 2000
"""Steps of the pilot at the most."""
TIME_SHARE = 0.8
"""The part of the time that is left for which steps are planned."""


class AnnealedPath(ABC):
    """P particles of each of B instances, and densities f0^(1 - beta) f1^beta between which they move; changed in place."""

    @property
    @abstractmethod
    def potential(self) -> Tensor:
        """(P, B) float64: log f1 - log f0 of each particle, up to what ``log_start`` has.

        Where the log density is no straight line in beta, its slope where the particles were moved last.
        """

    def gain(self, before: Tensor, after: Tensor) -> Tensor:
        """(P, B) float64: how much the log density of each particle rises from ``before`` to ``after`` (B,)."""
        return (after - before) * self.potential

    @property
    @abstractmethod
    def log_start(self) -> Tensor:
        """(B,): what the log mean of weights lacks of the log partition: the log integral of f0, and constants."""

    @abstractmethod
    def move(self, beta: Tensor, budget: Budget, *, tune: bool = False) -> None:
        """Move the particles such that the density at ``beta`` (B,) stays as it is; fewer of them where time is out.

        tune: adapt the moves to what they meet there, and remember it for later runs near that point.
        """

    @abstractmethod
    def finish(self, log_weights: Tensor) -> Tensor:
        """(P, B): weights at the end of the path; differs where the path's end was a stand-in for the true density."""

    @property
    @abstractmethod
    def draws(self) -> dict[str, Tensor]:
        """Where the particles stand: block name to (P, n) long, or (P, n, d) for a real block."""

    @abstractmethod
    def expectations(self, weights: Tensor) -> dict[str, Any]:
        """``beliefs``, ``means`` and ``covariances`` by weights (P, B) that sum to 1."""


@dataclass(frozen=True, eq=False)
class Annealed:
    """What a run along a path ended with. log_weights: (P, B).  steps: points visited.  status: how it ended."""

    log_weights: Tensor
    steps: int
    status: Status


def place_points(path: AnnealedPath, share: float, most: int, pilot_most: int, budget: Budget) -> Tensor:
    """(K + 1, B): points from 0 to 1 such that each step keeps a conditional effective size of about ``share``.

    A pilot of the path's particles goes in coarse steps, each as long as PILOT_SHARE allows and ``pilot_most`` of them
    at the most, and its steps are then divided evenly; with more than ``most`` they are thinned. Since a step's loss
    grows with the square of its length, d parts lose d times less in all. The run must take fresh particles: then
    points are fixed before it begins, and its weights are unbiased.
    """
    instances = path.log_start.shape[0]
    beta = torch.zeros(instances, dtype=torch.float64)
    log_weights = torch.zeros_like(path.potential)
    points = [beta]
    while bool((beta < 1).any()) and len(points) <= min(PILOT_MOST, pilot_most) and not budget.expired:
        potential = path.potential
        after = next_beta(beta, log_weights, potential, PILOT_SHARE)
        log_weights = torch.where(potential.isfinite(), log_weights + (after - beta) * potential, -torch.inf)
        log_weights = torch.where(_worn_out(log_weights), 0.0, log_weights)
        beta = after
        path.move(beta, budget, tune=True)
        points.append(beta)
    if bool((beta < 1).any()):
        points.append(torch.ones_like(beta))
    coarse = torch.stack(points)
    parts = max(1, round(((1.0 / PILOT_SHARE - 1.0) / (1.0 / share - 1.0)) ** 0.5))
    wanted = max(1, min(most, parts * (coarse.shape[0] - 1)))
    return thinned(coarse, wanted)


def thinned(points: Tensor, wanted: int) -> Tensor:
    """(wanted + 1, B): so many steps along the same points (K + 1, B), whether fewer or more than there are."""
    last = points.shape[0] - 1
    if wanted == last or not last:
        return points
    at = torch.linspace(0, last, wanted + 1, dtype=torch.float64)
    low = at.long().clamp(max=last - 1)
    out = torch.lerp(points[low], points[low + 1], (at - low)[:, None])
    out[0], out[-1] = 0.0, 1.0
    return out


def anneal(path: AnnealedPath, points: Tensor, budget: Budget) -> Annealed:
    """Weigh and move the particles along ``points``; where time is short some points are left out.

    How many is told by the time that the steps before took; where the budget ends the particles jump to the end of the
    path. Weights stay unbiased; they only vary more. Source: Neal (2001).
    """
    log_weights = torch.zeros_like(path.potential)
    status, at, steps, last = Status.CONVERGED, 0, 0, points.shape[0] - 1
    began = time.monotonic()
    while at < last:
        following = min(last, at + _stride(last - at, steps, time.monotonic() - began, budget))
        if following > at + 1:
            status = Status.DEADLINE
        step = points[following] - points[at]
        gain = torch.where(
            step > 0, path.gain(points[at], points[following]), 0.0
        )  # an instance at 1 already gains nothing, not NaN
        log_weights, at, steps = log_weights + gain, following, steps + 1
        if at < last or not budget.expired:
            path.move(points[at], budget)
    return Annealed(path.finish(log_weights), steps, status)


def _stride(left: int, steps: int, seconds: float, budget: Budget) -> int:
    """How many of the points that are left the next step covers."""
    if budget.expired:
        return left
    if budget.deadline is None or not steps:
        return 1
    affordable = TIME_SHARE * budget.remaining * steps / max(seconds, 1e-9)
    return max(1, min(left, -(-left // max(1, int(affordable)))))


def _worn_out(log_weights: Tensor) -> Tensor:
    """(P, B) bool: the pilot's weights are set equal again where fewer than half of them are left."""
    weights = torch.softmax(torch.where(torch.isneginf(log_weights).all(0), 0.0, log_weights), 0)
    return (1.0 / weights.square().sum(0).clamp(min=1e-300) < 0.5 * log_weights.shape[0]).expand_as(log_weights)

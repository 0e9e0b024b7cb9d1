"""Step sizes and temperatures that change from step to step, as frozen values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """A positive number for each step; ``at`` counts steps from 0, since the chain's start."""

    @abstractmethod
    def __call__(self, at: int) -> float:
        """The value at step ``at``."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step."""

    value: float

    def __call__(self, at: int) -> float:
        return self.value


@dataclass(frozen=True)
class Polynomial(Schedule):
    """scale * (offset + at) ** -power; with a power in (0.5, 1] SGLD converges without a bias (Welling and Teh 2011)."""

    scale: float
    offset: float = 1.0
    power: float = 0.55

    def __call__(self, at: int) -> float:
        return self.scale * (self.offset + at) ** -self.power


@dataclass(frozen=True)
class Cyclical(Schedule):
    """highest / 2 * (cos(pi * at / period) + 1), over again in every period (Zhang et al. 2020, eq. 1).

    A period's large steps find a new mode, its small ones sample there. lowest: a floor under the value.
    """

    highest: float
    period: int
    lowest: float = 0.0

    def __call__(self, at: int) -> float:
        phase = (at % self.period) / self.period
        return max(self.lowest, 0.5 * self.highest * (math.cos(math.pi * phase) + 1.0))


@dataclass(frozen=True)
class Geometric(Schedule):
    """From ``first`` to ``last`` by a constant factor over ``steps`` steps, and ``last`` ever after: annealing."""

    first: float
    last: float
    steps: int

    def __call__(self, at: int) -> float:
        share = min(1.0, at / max(1, self.steps - 1))
        return self.first * (self.last / self.first) ** share


def value_at(setting: float | Schedule, at: int) -> float:
    """A number, or what a schedule says at step ``at``."""
    return setting(at) if isinstance(setting, Schedule) else setting


def schedule_refusal(name: str, setting: float | Schedule | None) -> str | None:
    """Why a setting cannot be used: it is not a finite number above 0 at its first step."""
    if setting is None:
        return None
    value = value_at(setting, 0)
    return None if 0 < value < math.inf else f"{name} must be a finite number above 0; found {value}"

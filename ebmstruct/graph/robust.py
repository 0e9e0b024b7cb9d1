"""Robust losses: what takes the place of half the squared norm of a residual, so that outliers weigh less.

Each is a function rho of s = |r|^2 / scale^2, with rho(0) = 0 and slope 1 at 0; the energy is 0.5 * scale^2 * rho(s).
Table of such losses: Zhang (1997), "Parameter estimation techniques", section 9.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.errors import GraphError


@dataclass(frozen=True)
class RobustLoss(ABC):
    """A loss of the squared norm of a residual. scale: the norm at which it begins to differ from the square."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise GraphError(f"{type(self).__name__}: the scale must be positive; found {self.scale}")

    @abstractmethod
    def rho(self, s: Tensor) -> Tensor:
        """(m,) the loss at s = |r|^2 / scale^2, at least 0."""

    @abstractmethod
    def slope(self, s: Tensor) -> Tensor:
        """(m,) the derivative of rho by s: the weight of a row in iteratively reweighted least squares, 0 to 1."""

    def energy(self, square: Tensor) -> Tensor:
        """(m,) 0.5 * scale^2 * rho, from the squared norms of residuals."""
        return 0.5 * self.scale**2 * self.rho(square / self.scale**2)

    def weight(self, square: Tensor) -> Tensor:
        """(m,) the weights of rows, from the squared norms of residuals."""
        return self.slope(square / self.scale**2)


@dataclass(frozen=True)
class Huber(RobustLoss):
    """Squared up to the scale, linear beyond (Huber 1964): convex."""

    def rho(self, s: Tensor) -> Tensor:
        return torch.where(s <= 1, s, 2 * s.clamp(min=1).sqrt() - 1)

    def slope(self, s: Tensor) -> Tensor:
        return s.clamp(min=1).rsqrt()


@dataclass(frozen=True)
class Cauchy(RobustLoss):
    """log(1 + s): grows without limit, but slowly."""

    def rho(self, s: Tensor) -> Tensor:
        return s.log1p()

    def slope(self, s: Tensor) -> Tensor:
        return 1 / (1 + s)


@dataclass(frozen=True)
class GemanMcClure(RobustLoss):
    """s / (1 + s): no outlier costs more than 0.5 * scale^2 (Geman and McClure 1987)."""

    def rho(self, s: Tensor) -> Tensor:
        return s / (1 + s)

    def slope(self, s: Tensor) -> Tensor:
        return (1 + s).square().reciprocal()


@dataclass(frozen=True)
class Tukey(RobustLoss):
    """The biweight (Beaton and Tukey 1974): outliers beyond the scale have no influence at all."""

    def rho(self, s: Tensor) -> Tensor:
        return (1 - (1 - s).clamp(min=0).pow(3)) / 3

    def slope(self, s: Tensor) -> Tensor:
        return (1 - s).clamp(min=0).square()

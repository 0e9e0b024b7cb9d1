"""Smooth domains: what a point of one is, and how a step from a point leads to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError

Bound = float | tuple[float, ...] | None


class Continuous(ABC):
    """A smooth space: a point has ``dim`` ambient numbers, a step from it ``tangent_dim`` coordinates.

    Minimisers and samplers move by ``retract`` and measure by ``local``; a new manifold gives these two, the two
    sizes, ``differential`` and ``start``. ``measure`` names the volume against which exp(-E) is a density; samplers
    refuse a domain that states none. The step space is taken to be Euclidean at every point.
    """

    measure: ClassVar[str | None] = None

    @property
    @abstractmethod
    def dim(self) -> int:
        """d, the ambient numbers of a point."""

    @property
    @abstractmethod
    def tangent_dim(self) -> int:
        """t, the coordinates of a step."""

    @abstractmethod
    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        """(..., d): the point that a step (..., t) leads to from x (..., d); a step of zero stays."""

    @abstractmethod
    def local(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., t): the step that leads from x to y, so that ``retract(x, local(x, y))`` is y."""

    @abstractmethod
    def differential(self, x: Tensor) -> Tensor | None:
        """(..., d, t): the derivative of ``retract`` by the step, at the step zero; None where it is the identity."""

    @abstractmethod
    def start(self, num_sites: int, dtype: torch.dtype) -> Tensor:
        """(n, d): where search begins when nobody says: the origin, the identity, or the legal point nearest to it."""

    def pull_back(self, x: Tensor, gradient: Tensor) -> Tensor:
        """(..., t): the gradient by the step, from the ambient gradient (..., d) of a function at x."""
        differential = self.differential(x)
        return gradient if differential is None else (gradient[..., None, :] @ differential)[..., 0, :]

    def project(self, x: Tensor) -> Tensor:
        """The legal point nearest to x: inside the bounds, of unit length."""
        return x

    def check(self, name: str, x: Tensor) -> None:
        """Raise GraphError unless ``x`` is (n, d) of floating numbers."""
        if x.dim() != 2 or x.shape[1] != self.dim or not x.is_floating_point():
            raise GraphError(
                f"block {name!r} holds points of {self}: values must be floating, of shape (n, {self.dim}); found "
                f"{x.dtype} of shape {tuple(x.shape)}"
            )


@dataclass(frozen=True)
class Real(Continuous):
    """Vectors of ``dim`` real numbers, each between ``lower`` and ``upper`` where these are given.

    lower, upper: one number for all coordinates, a tuple with one for each, or None; infinite entries bound nothing.
    """

    measure: ClassVar[str | None] = "Lebesgue"

    dim: int = 1  # type: ignore[misc]  # a field, where the base has a property
    lower: Bound = None
    upper: Bound = None

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise GraphError(f"Real: the dimension must be at least 1; found {self.dim}")
        for side in (self.lower, self.upper):
            if isinstance(side, tuple) and len(side) != self.dim:
                raise GraphError(
                    f"Real: {self.dim} coordinates but {len(side)} bounds; give one number or one for each"
                )
        lower, upper = self.bounds(torch.float64)
        if bool((lower > upper).any()) or bool(lower.isnan().any() | upper.isnan().any()):
            raise GraphError(f"Real: lower bound {self.lower} is above upper bound {self.upper}, or one of them is NaN")

    @property
    def tangent_dim(self) -> int:
        return self.dim

    @property
    def bounded(self) -> bool:
        """Whether some coordinate has a bound."""
        return self.lower is not None or self.upper is not None

    def bounds(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(d,) lower and (d,) upper bounds; infinite where there is none."""

        def full(side: Bound, nothing: float) -> Tensor:
            value = nothing if side is None else side
            return torch.tensor(value, dtype=dtype).expand(self.dim)

        return full(self.lower, -torch.inf), full(self.upper, torch.inf)

    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        return x + step

    def local(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def differential(self, x: Tensor) -> Tensor | None:
        return None

    def start(self, num_sites: int, dtype: torch.dtype) -> Tensor:
        return self.project(torch.zeros(num_sites, self.dim, dtype=dtype))

    def project(self, x: Tensor) -> Tensor:
        if not self.bounded:
            return x
        lower, upper = (side.to(x) for side in self.bounds(x.dtype))
        return torch.minimum(torch.maximum(x, lower), upper)


def scattered(domain: Continuous, num_sites: int, dtype: torch.dtype, generator: Generator | None) -> Tensor:
    """(n, d): starts scattered about ``domain.start`` by normal steps of length 1, for chains that begin apart."""
    start = domain.start(num_sites, dtype)
    step = torch.randn(num_sites, domain.tangent_dim, dtype=dtype, generator=generator)
    return domain.project(domain.retract(start, step))

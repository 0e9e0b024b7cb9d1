"""Differentiable functions of a point, and the bounds that its blocks have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Continuous, Real
from ebmstruct.inference.descent.packing import Packing
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy, Step


class SmoothFunction(Protocol):
    """What a descent needs of a function of a point; instances do not influence each other."""

    @property
    def domains(self) -> tuple[Continuous, ...]:
        """The domain of each block."""
        ...

    @property
    def instances(self) -> tuple[Tensor | None, ...]:
        """For each block (n,) long, or None where site b belongs to instance b."""
        ...

    def with_gradient(self, point: Point) -> tuple[Tensor, Step]:
        """(B,) values without a record, and their gradient by a step from the point."""
        ...

    def retract(self, point: Point, step: Step) -> Point:
        """The point that a step leads to, inside the bounds."""
        ...


@dataclass(frozen=True, eq=False)
class PointFunction:
    """Another function (B,) of the points of an energy, with the same blocks and clamped sites.

    function: point to (B,), differentiable in the point. space: whose blocks, bounds and clamped sites hold.
    """

    space: SmoothEnergy
    function: Callable[[Point], Tensor]

    @property
    def domains(self) -> tuple[Continuous, ...]:
        """The domain of each block."""
        return self.space.domains

    @property
    def instances(self) -> tuple[Tensor | None, ...]:
        """For each block (n,) long, or None where site b belongs to instance b."""
        return self.space.instances

    def with_gradient(self, point: Point) -> tuple[Tensor, Step]:
        """(B,) values without a record, and their gradient by a step; zero at clamped sites.

        Errors: SolverRefusal where the function has no gradient.
        """
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_(True) for x in point)
            value = self.function(leaves)
            if not value.requires_grad:
                raise SolverRefusal("the function does not depend on the point in a way that torch can differentiate")
            found = torch.autograd.grad(value, leaves, torch.ones_like(value), allow_unused=True)
        out = []
        for x, g, domain, moving in zip(point, found, self.space.domains, self.space.moving, strict=True):
            part = domain.pull_back(x, torch.zeros_like(x) if g is None else g)
            out.append(part if moving is None else part * moving)
        return value.detach(), tuple(out)

    def retract(self, point: Point, step: Step) -> Point:
        """The point that a step leads to, inside the bounds."""
        return self.space.retract(point, step)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds of every entry of a vector of steps, infinite where there is none."""

    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, function: SmoothFunction, packing: Packing, point: Point, gradient: Step) -> Bounds | None:
        """The bounds of a point's blocks; None where no block has any."""
        if not any(isinstance(d, Real) and d.bounded for d in function.domains):
            return None
        lower, upper = [], []
        for domain, x, g in zip(function.domains, point, gradient, strict=True):
            if isinstance(domain, Real):
                low, high = (side.to(x).expand_as(x) for side in domain.bounds(x.dtype))
            else:
                low, high = torch.full_like(g, -torch.inf), torch.full_like(g, torch.inf)
            lower.append(low)
            upper.append(high)
        return cls(packing.pack(lower), packing.pack(upper))

    def projected(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at x without what pushes out of the bounds, cut where a step along it would leave them."""
        return torch.minimum(torch.maximum(gradient, x - self.upper), x - self.lower)


def coordinates(function: SmoothFunction, packing: Packing, point: Point) -> Tensor:
    """A point as a vector: its numbers, and zeros for blocks on manifolds."""
    blocks = zip(function.domains, point, packing.shapes, strict=True)
    return packing.pack([x if isinstance(d, Real) else x.new_zeros(s) for d, x, s in blocks])


def chosen(packing: Packing, taken: Tensor, new: Point, old: Point) -> Point:
    """The new values in the instances ``taken`` (B,), else the old ones."""
    if packing.owner is None:
        shape = (packing.num_instances, -1)
        pick = taken[:, None]
        return tuple(
            torch.where(pick, a.reshape(shape), b.reshape(shape)).reshape(a.shape)
            for a, b in zip(new, old, strict=True)
        )
    spread = packing.unpack(packing.spread(taken))
    return tuple(torch.where(s[:, :1], a, b) for s, a, b in zip(spread, new, old, strict=True))

"""Weights over states and points of smooth spaces as one point that a descent can move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Continuous, FactorGraph, Real
from ebmstruct.inference.descent.simplex_descent import RelaxedEnergy, normalised, spread_out
from ebmstruct.inference.penalties import penalised
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy, Step, starting_point


@dataclass(frozen=True)
class SquareRoots(Continuous):
    """Weights over ``dim`` states by their square roots: unit vectors q, with weights q * q; d = t = dim.

    The sphere's own geometry is Fisher's, in which an entropy has the same curvature in every direction, however small
    a weight is. Steps are vectors of the surrounding space, in units of twice the sphere's; what is along q does nothing.
    """

    dim: int = 2  # type: ignore[misc]  # a field, where the base has a property

    @property
    def tangent_dim(self) -> int:
        return self.dim

    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        moved = x + 0.5 * step
        return moved / moved.norm(dim=-1, keepdim=True)

    def local(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * (y / (x * y).sum(-1, keepdim=True) - x)

    def differential(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        return 0.5 * (eye - x[..., :, None] * x[..., None, :])

    def start(self, num_sites: int, dtype: torch.dtype) -> Tensor:
        return torch.full((num_sites, self.dim), self.dim**-0.5, dtype=dtype)

    def project(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    def tangent(self, x: Tensor, step: Tensor) -> Tensor:
        """The part of a step that moves x."""
        return step - x * (x * step).sum(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class RelaxedFreeEnergy:
    """E(w, x) - T H(w) as a function of a point: square roots of the weights of open discrete blocks, then open points.

    E is the relaxed energy (infinite entries count as a large finite penalty), H the sum of the sites' entropies. With
    T = 1 its least value over weights is that of naive mean field. discrete, smooth: the open blocks of the two kinds.
    """

    graph: FactorGraph
    discrete: RelaxedEnergy
    smooth: SmoothEnergy
    temperature: float
    dtype: torch.dtype

    @classmethod
    def of(cls, graph: FactorGraph, temperature: float, values: dict[str, Tensor] | None = None) -> RelaxedFreeEnergy:
        """The function of a graph; values: of its continuous and clamped blocks, else ``starting_point``."""
        soft = penalised(graph)[0]
        values = starting_point(graph, None) if values is None else values
        discrete, smooth = RelaxedEnergy.of(soft, values), SmoothEnergy.of(soft, values)
        dtype = next((values[n].dtype for n in smooth.names), discrete.dtype)
        return cls(soft, discrete, smooth, temperature, dtype)

    @cached_property
    def domains(self) -> tuple[Continuous, ...]:
        """The domain of each block."""
        roots = [SquareRoots(legal.shape[1]) for legal in self.discrete.legal]
        return (*roots, *self.smooth.domains)

    @cached_property
    def instances(self) -> tuple[Tensor | None, ...]:
        """For each block (n,) long."""
        return (*self.discrete.owners, *self.smooth.instances)

    @cached_property
    def moving(self) -> tuple[Tensor | None, ...]:
        """For each block (n, t) or (n, 1) bool of what may move, None where all may."""
        return (*self.discrete.legal, *self.smooth.moving)

    def start(self, generator: Generator, values: dict[str, Tensor]) -> Point:
        """Weights that are even but for a hair, and the given values of the continuous blocks."""
        logs = spread_out(self.discrete, 1, 0.0, generator)
        roots = [(0.5 * x).exp().to(self.dtype) for x in logs]
        return (*roots, *(values[n] for n in self.smooth.names))

    def points(self, point: Sequence[Tensor]) -> dict[str, Tensor]:
        """Block to (n, d): the open continuous blocks."""
        return dict(zip(self.smooth.names, point[len(self.discrete.names) :], strict=True))

    def best_response(self, point: Sequence[Tensor]) -> dict[str, Tensor]:
        """Block to (n, K): logarithms of the weights that each site would take, all others being as they are.

        They are -dE/dw / T, normalised. At a stationary point they are the logarithms of the point's own weights, and
        exact however small a weight is, which square roots of weights are not. Differentiable in the point and in the
        factors' values.
        """
        count = len(self.discrete.names)
        if not count:
            return {}
        weights = [q.square() for q in point[:count]]
        energy = self._energy(weights, point[count:])
        if not energy.requires_grad:
            gradient = [torch.zeros_like(w) for w in weights]
        else:
            gradient = list(torch.autograd.grad(energy.sum(), weights, create_graph=True, materialize_grads=True))
        return {
            name: normalised(-torch.where(legal, g, 0.0) / self.temperature, legal)
            for name, g, legal in zip(self.discrete.names, gradient, self.discrete.legal, strict=True)
        }

    def towards_response(self, point: Sequence[Tensor], lost: Tensor) -> Point:
        """The point with weights half way to the best response, in the instances ``lost`` (B,) bool.

        A weight of 0 is where no gradient by square roots leads away from; the response says what it ought to be.
        """
        logs = [x.detach() for x in self.best_response(point).values()]
        roots = []
        for q, log, owner in zip(point, logs, self.discrete.owners, strict=False):
            mixed = (0.5 * (q.square() + log.exp().to(q.dtype))).sqrt()
            roots.append(torch.where(lost[owner][:, None], mixed, q))
        return (*roots, *point[len(roots) :])

    def _energy(self, weights: Sequence[Tensor], points: Sequence[Tensor]) -> Tensor:
        names = (*self.discrete.names, *self.smooth.names)
        fixed = {n: v for n, v in self.discrete.fixed.items() if n not in names}
        return self.graph.relaxed_energy({**fixed, **dict(zip(names, (*weights, *points), strict=True))})

    def __call__(self, point: Sequence[Tensor]) -> Tensor:
        """(B,) float64, differentiable in the point and in the factors' values."""
        count = len(self.discrete.names)
        weights = [q.square() for q in point[:count]]
        energy = self._energy(weights, point[count:])
        if not self.temperature or not count:
            return energy
        least = torch.finfo(self.dtype).tiny
        rows = [(w * w.clamp(min=least).log()).sum(1) for w in weights]
        return energy + self.temperature * self.discrete.total(rows)

    def with_gradient(self, point: Sequence[Tensor]) -> tuple[Tensor, Step]:
        """(B,) values without a record, and their gradient by a step from the point; zero where nothing moves."""
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(True) for x in point]
            energy = self(leaves)
            if not energy.requires_grad:
                return energy.detach(), tuple(
                    x.new_zeros(x.shape[0], d.tangent_dim) for x, d in zip(leaves, self.domains, strict=True)
                )
            found = torch.autograd.grad(energy.sum(), leaves, allow_unused=True)
        out = []
        for x, g, domain, moving in zip(point, found, self.domains, self.moving, strict=True):
            part = domain.pull_back(x, torch.zeros_like(x) if g is None else g)
            out.append(part if moving is None else torch.where(moving, part, 0.0))
        return energy.detach(), tuple(out)

    def retract(self, point: Sequence[Tensor], step: Sequence[Tensor]) -> Point:
        """The point that a step leads to, inside the bounds."""
        return tuple(
            d.project(d.retract(x, s)) if isinstance(d, Real) else d.retract(x, s)
            for d, x, s in zip(self.domains, point, step, strict=True)
        )

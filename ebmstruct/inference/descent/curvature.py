"""The second derivatives of a relaxed free energy at a point, and systems of equations in them, instance by instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ebmstruct.graph import Real
from ebmstruct.inference.descent.packing import Packing
from ebmstruct.inference.descent.relaxed_free_energy import RelaxedFreeEnergy, SquareRoots
from ebmstruct.inference.least_squares.preconditioner import GaussNewtonInverse
from ebmstruct.inference.smooth_energy import Point, Step

FLAT = {torch.float64: 1e-10, torch.float32: 1e-5}
"""A curvature below this share of the largest is none."""


@dataclass(frozen=True, eq=False)
class Solution:
    """x: a vector (``Packing``).  curvature: (B,) the least seen: the least eigenvalue where the matrix was built, else the
    least along the search directions.  residual: (B,) what is left of the right side, as a share of it.
    sound: (B,) bool, whether the curvature is positive and the system solved; x is 0 in the other instances.
    bent: a vector of length 1 along which the curvature is negative, in instances where one was seen, else 0.
    """

    x: Tensor
    curvature: Tensor
    residual: Tensor
    sound: Tensor
    bent: Tensor


class Curvature:
    """The gradient and the Hessian by a step from a point, in the coordinates of ``RelaxedFreeEnergy.retract``.

    Directions in which nothing moves (clamped sites, states that are not legal, entries held at a bound by the gradient,
    steps along the square roots of weights) have curvature 1 and are joined to no other, so that systems in them have
    solutions. Cost: an energy with its gradient; for each product with a vector about two gradients more.
    gradient: a vector, with the record of the factors' values.
    """

    def __init__(self, function: RelaxedFreeEnergy, point: Point, damping: float = 0.0) -> None:
        self.function, self.point, self.damping = function, point, damping
        with torch.enable_grad():
            self._steps = [
                torch.zeros(x.shape[0], d.tangent_dim, dtype=x.dtype, requires_grad=True)
                for x, d in zip(point, function.domains, strict=True)
            ]
            pairs = zip(function.domains, point, self._steps, strict=True)
            energy = function([d.retract(x, s) for d, x, s in pairs])
            found = torch.autograd.grad(
                energy.sum(), self._steps, create_graph=True, allow_unused=True, materialize_grads=True
            )
            self.packing = Packing.of(self._steps, function.instances, energy.shape[0])
            self._free = self._open(found)
            self.gradient = self.packing.pack(self.tangent(found))

    def _open(self, gradient: Sequence[Tensor]) -> list[Tensor | None]:
        """For each block what moves, as 0 and 1: neither clamped nor pressed against a bound."""
        out: list[Tensor | None] = []
        for x, g, domain, moving in zip(self.point, gradient, self.function.domains, self.function.moving, strict=True):
            mask = None if moving is None else moving.expand(g.shape)
            if isinstance(domain, Real) and domain.bounded:
                lower, upper = (side.to(x) for side in domain.bounds(x.dtype))
                held = ((x <= lower) & (g.detach() > 0)) | ((x >= upper) & (g.detach() < 0))
                mask = ~held if mask is None else mask & ~held
            out.append(None if mask is None else mask.to(x.dtype))
        return out

    def tangent(self, step: Sequence[Tensor]) -> Step:
        """The part of a step that moves the point."""
        out = []
        for x, s, domain, free in zip(self.point, step, self.function.domains, self._free, strict=True):
            s = s if free is None else s * free
            out.append(domain.tangent(x, s) if isinstance(domain, SquareRoots) else s)
        return tuple(out)

    def multiply(self, vector: Tensor) -> Tensor:
        """The Hessian, damped, times a vector."""
        within = self.tangent(self.packing.unpack(vector))
        inside = self.packing.pack(within)
        product = torch.zeros_like(inside)
        if self.gradient.requires_grad:
            found = torch.autograd.grad(
                self.gradient, self._steps, inside, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            product = self.packing.pack(self.tangent(found))
        return product + self.damping * inside + (vector - inside)

    @cached_property
    def widest(self) -> int:
        """The most coordinates that an instance has."""
        if self.packing.owner is None:
            return int(self._place.shape[-1])
        return int(self._place.max()) + 1 if self._place.numel() else 0

    @cached_property
    def _place(self) -> Tensor:
        """The number of each entry of a vector within its instance."""
        count = self.gradient.shape[-1]
        if self.packing.owner is None:
            return torch.arange(count).expand(self.gradient.shape[0], -1)
        assert self.packing.offsets is not None
        return torch.arange(count) - self.packing.offsets[self.packing.owner]

    def _rows(self, vector: Tensor) -> Tensor:
        """(B, D) from a vector; zeros behind the end of an instance."""
        if self.packing.owner is None:
            return vector
        out = vector.new_zeros(self.packing.num_instances, self.widest)
        out[self.packing.owner, self._place] = vector
        return out

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """(B, D) eigenvalues and (B, D, D) eigenvectors; cost: D products, and an eigenvalue problem of size D."""
        columns = []
        for j in range(self.widest):
            columns.append(self._rows(self.multiply((self._place == j).to(self.gradient.dtype))))
        matrix = torch.stack(columns, 2)
        there = self._rows(torch.ones_like(self.gradient.detach()))
        matrix = 0.5 * (matrix + matrix.mT) + torch.diag_embed(1 - there)
        broken = ~matrix.isfinite().flatten(1).all(1)
        eye = torch.eye(self.widest, dtype=matrix.dtype)
        values, vectors = torch.linalg.eigh(torch.where(broken[:, None, None], eye, matrix))
        return values.masked_fill(broken[:, None], torch.nan), vectors

    def solve_dense(self, right: Tensor) -> Solution:
        """x with H x = right, by all eigenvalues of each instance."""
        values, vectors = self._spectrum
        rows = self._rows(right)
        sound = values[:, 0] > FLAT.get(values.dtype, 1e-5) * values[:, -1].abs()
        inverse = torch.where(sound[:, None], 1 / values, 0.0)
        x = (vectors @ (inverse[:, :, None] * (vectors.mT @ rows[:, :, None])))[:, :, 0]
        vector = x if self.packing.owner is None else x[self.packing.owner, self._place]
        left = (~sound).to(values.dtype)
        negative = values[:, 0] < -FLAT.get(values.dtype, 1e-5) * values[:, -1].abs()
        bent = torch.where(negative[:, None], vectors[:, :, 0], 0.0)
        bent = bent if self.packing.owner is None else bent[self.packing.owner, self._place]
        return Solution(vector, values[:, 0].double(), left.double(), sound, bent)

    @cached_property
    def _inverse(self) -> GaussNewtonInverse | None:
        if self.function.discrete.names:
            return None
        return GaussNewtonInverse.of(self.function.smooth.graph, self.function.points(self.point))

    def _preconditioned(self, vector: Tensor) -> Tensor:
        """The Gauss-Newton inverse times a vector, where the energy is a least squares problem."""
        if self._inverse is None:
            return vector
        free = self.tangent(self.packing.unpack(vector))
        within = self.packing.pack(free)
        return self.packing.pack(self.tangent(self._inverse(free))) + (vector - within)

    def solve_conjugate(self, right: Tensor, tolerance: float, max_iterations: int) -> Solution:
        """x with H x = right, by conjugate gradients (Hestenes and Stiefel 1952), every instance with its own end.

        Least squares problems are preconditioned by their Gauss-Newton matrix, and then take a handful of iterations.
        """
        packing = self.packing
        x, r = torch.zeros_like(right), right.clone()
        z = self._preconditioned(r)
        p, square, first = z.clone(), packing.dot(r, z), packing.dot(r, r)
        rest, aim = first.clone(), tolerance**2 * first
        curvature, bent = torch.full_like(square, torch.inf), torch.zeros_like(right)
        going = rest > aim
        for _ in range(max_iterations):
            if not bool(going.any()):
                break
            q = self.multiply(p)
            bend = packing.dot(p, q)
            quotient = bend / packing.dot(p, p)
            curvature = torch.where(going, torch.minimum(curvature, quotient), curvature)
            unit = p / packing.spread(packing.dot(p, p).sqrt())
            bent = torch.where(packing.spread(going & (bend < 0)), unit, bent)
            going = going & (bend > 0)
            length = packing.spread(torch.where(going, square / bend, 0.0))
            x, r = x + length * p, r - length * q
            z = self._preconditioned(r)
            new = packing.dot(r, z)
            p = z + packing.spread(torch.where(going, new / square, 0.0)) * p
            square = torch.where(going, new, square)
            rest = torch.where(going, packing.dot(r, r), rest)
            going = going & (rest > aim)
        residual = (rest / first.clamp(min=torch.finfo(first.dtype).tiny)).sqrt()
        sound = (curvature > 0) & (residual <= 10 * tolerance)
        x = torch.where(packing.spread(sound), x, 0.0)
        return Solution(x, curvature.double(), residual.double(), sound, bent)

"""Integrals over continuous latent blocks: Gaussian ones exactly, others by Laplace's method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import Continuous, FactorGraph, Real
from ebmstruct.inference.latent.components import LatentComponents, components

Values = Mapping[str, Tensor]
NEWTON_STEPS = 60
"""Steps to a mode at most; a few are enough from a neighbouring one."""
HALVINGS = 30
"""How often a step is halved before its direction is given up."""


@dataclass(frozen=True, eq=False)
class Expansion:
    """An energy to second order in steps of the latents from a point, component by component.

    energy: (B,).  gradient: (C, D).  hessian: (C, D, D), the identity where a component has fewer coordinates.
    """

    energy: Tensor
    gradient: Tensor
    hessian: Tensor


@dataclass(frozen=True, eq=False)
class LatentIntegral:
    """-T log of the integral of exp(-E / T) over continuous latent blocks, as a function of the other blocks.

    quadratic: whether E is quadratic in the latents, so that the integral is the Gaussian one and exact; otherwise it
    is Laplace's approximation about the mode (Tierney and Kadane 1986): E(mode) + T / 2 log det(H / (2 pi T)).
    Cost of one value: D products with the Hessian, D being the coordinates of the largest component, and a dense
    factorisation of each component.
    """

    graph: FactorGraph
    temperature: float
    parts: LatentComponents
    quadratic: bool

    @property
    def exact(self) -> bool:
        """Whether the integral is a Gaussian one, or over nothing."""
        return self.quadratic or not self.parts.count

    @classmethod
    def of(cls, graph: FactorGraph, names: tuple[str, ...], temperature: float, quadratic: bool) -> LatentIntegral:
        """The integral over the open sites of ``names``."""
        return cls(graph, temperature, components(graph, names), quadratic)

    def moved(self, latent: Values, steps: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The latent values that steps lead to."""
        out = {}
        for name, step in zip(self.parts.names, steps, strict=True):
            domain = self.graph.variables[name].domain
            assert isinstance(domain, Continuous)
            out[name] = domain.retract(latent[name], step.to(latent[name].dtype))
        return out

    def expand(self, given: Values, latent: Values, at: Tensor | None = None) -> Expansion:
        """The energy to second order about ``at`` (C, D), a step from ``latent``; differentiable in ``given``."""
        parts, recording = self.parts, torch.is_grad_enabled()
        with torch.enable_grad():
            packed = torch.zeros(parts.coordinate.shape, dtype=torch.float64) if at is None else at
            if not packed.requires_grad:
                packed = packed.requires_grad_(True)
            energy = self.graph.energy({**given, **self.moved(latent, parts.unpack(packed))})
            gradient = _gradient(energy.sum(), packed)
            columns = [_gradient(gradient[:, j].sum(), packed, recording) for j in range(parts.largest)]
        hessian = torch.stack(columns, -1) if columns else packed.new_zeros(parts.count, 0, 0)
        hessian = 0.5 * (hessian + hessian.mT) + torch.diag_embed((~parts.inside).to(hessian))
        if not recording:
            energy, gradient, hessian = energy.detach(), gradient.detach(), hessian.detach()
        return Expansion(energy, gradient, hessian)

    def curvature(self, given: Values, latent: Values, along: Tensor) -> Tensor:
        """(C, D) the product of each component's Hessian at a point with a direction; not differentiable."""
        with torch.enable_grad():
            start = torch.zeros(self.parts.coordinate.shape, dtype=torch.float64).requires_grad_(True)
            energy = self.graph.energy({**given, **self.moved(latent, self.parts.unpack(start))})
            gradient = _gradient(energy.sum(), start)
            return _gradient((gradient * along).sum(), start, False).detach()

    def mode(self, given: Values, latent: Values) -> dict[str, Tensor]:
        """The latent values of least energy near ``latent``; two Newton steps where the energy is quadratic.

        Otherwise Newton's method with the absolute curvatures (Dauphin and others 2014) and halved steps, each instance
        with its own. Not differentiable.
        """
        with torch.no_grad():
            values = {n: latent[n].detach() for n in self.parts.names}
            if not self.parts.count:
                return values
            here = self.expand(given, values)
            if self.quadratic:
                values = self.moved(values, self.parts.unpack(-_solve(here.hessian, here.gradient)))
                again = self.expand(given, values)  # what rounding has left
                return self.moved(values, self.parts.unpack(-_solve(again.hessian, again.gradient)))
            tiny = self._rounding(values)
            for _ in range(NEWTON_STEPS):
                step = -_absolute_solve(here.hessian, here.gradient)
                slope = self._by_instance((step * here.gradient).sum(1))
                if bool(((slope.abs() <= tiny + 4 * tiny * here.energy.abs()) | slope.isnan()).all()):
                    break
                found, moving = self._searched(given, values, step, here.energy, slope)
                if not moving:
                    break
                values = found
                here = self.expand(given, values)
            return values

    def free(self, given: Values, mode: Values) -> Tensor:
        """(B,) the free energy, differentiable in ``given`` and in the factors' values.

        NaN where the curvature at the mode is not positive.

        At a mode the energy's derivative by the latents is zero, so that the derivative of the quadratic case needs
        none of the mode; otherwise the mode follows ``given`` by one differentiable Newton step (implicit function).
        """
        if not self.parts.count:
            return self.graph.energy({**given, **mode})
        if not self._recording(given):
            with torch.no_grad():
                here = self.expand(given, mode)
                return here.energy + self.log_determinant(here.hessian)
        if self.quadratic:
            here = self.expand(given, mode)
            return here.energy + self.log_determinant(here.hessian)
        return self.followed(given, mode)

    def followed(self, given: Values, mode: Values) -> Tensor:
        """(B,) the free energy, where the mode follows ``given`` by one differentiable Newton step.

        That step is right to first order, and the energy has no slope at a mode: the derivatives by ``given`` and by the
        factors' values are exact up to the third, which scores and their curvature need.
        """
        if not self.parts.count:
            return self.graph.energy({**given, **mode})
        with torch.no_grad():
            fixed = self.expand(given, mode).hessian
        with torch.enable_grad():
            start = torch.zeros(self.parts.coordinate.shape, dtype=torch.float64).requires_grad_(True)
            energy = self.graph.energy({**given, **self.moved(mode, self.parts.unpack(start))})
            step = -_solve(fixed, _gradient(energy.sum(), start))
        here = self.expand(given, mode, step)
        return here.energy + self.log_determinant(here.hessian)

    def log_determinant(self, hessian: Tensor) -> Tensor:
        """(B,) T / 2 log det(H / (2 pi T)), summed over the components of each instance."""
        factor, broken = torch.linalg.cholesky_ex(_sound(hessian))
        half = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        count = self.parts.inside.sum(1).double()
        each = half - 0.5 * count * math.log(2 * math.pi * self.temperature)
        each = torch.where((broken > 0) | hessian.isnan().any(-1).any(-1), torch.nan, each)
        return self._by_instance(self.temperature * each)

    def _by_instance(self, rows: Tensor) -> Tensor:
        zero = rows.new_zeros(self.graph.num_instances, dtype=torch.float64)
        return zero.index_add(0, self.parts.instance, rows.double())

    def _recording(self, given: Values) -> bool:
        """Whether somebody may ask for derivatives."""
        told = [
            v
            for f in self.graph.factors
            for value in f.values()
            for v in (value if isinstance(value, tuple) else (value,))
        ]
        return torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (*given.values(), *told))

    def _rounding(self, values: Values) -> float:
        """The relative precision of energies."""
        single = any(values[n].dtype != torch.float64 for n in self.parts.names)
        return torch.finfo(torch.float32 if single else torch.float64).eps

    def _searched(
        self, given: Values, values: Values, step: Tensor, energy: Tensor, slope: Tensor
    ) -> tuple[dict[str, Tensor], bool]:
        """The values after a step that lowers each instance's energy, and whether any moves."""
        length = torch.where(slope < 0, 1.0, 0.0)
        slack = 4 * self._rounding(values) * energy.abs()
        for _ in range(HALVINGS):
            trial = self.moved(values, self.parts.unpack(length[self.parts.instance][:, None] * step))
            now = self.graph.energy({**given, **trial})
            worse = ~(now <= energy + 1e-4 * length * slope + slack) & (length > 0)
            if not bool(worse.any()):
                break
            length = torch.where(worse, 0.5 * length, length)
        length = torch.where(worse, 0.0, length)
        return self.moved(values, self.parts.unpack(length[self.parts.instance][:, None] * step)), bool(length.any())


def is_quadratic(integral: LatentIntegral, given: Values, latent: Values, generator: torch.Generator) -> bool:
    """Whether the curvature by the latents, in a direction drawn, is the same at several scattered points, to rounding.

    False where a latent domain is bounded or no vector space: those integrals are not Gaussian.
    """
    for name in integral.parts.names:
        domain = integral.graph.variables[name].domain
        if not isinstance(domain, Real) or domain.bounded:
            return False
    single = any(latent[n].dtype == torch.float32 for n in integral.parts.names)
    shape = integral.parts.coordinate.shape

    def drawn(distance: float) -> Tensor:
        return distance * torch.randn(shape, generator=generator, dtype=torch.float64)

    along = drawn(1.0) * integral.parts.inside
    first = integral.curvature(given, latent, along)
    scale = first.abs().amax(-1, keepdim=True) if first.numel() else first
    for distance in (0.3, 1.0, 5.0):
        other = integral.curvature(given, integral.moved(latent, integral.parts.unpack(drawn(distance))), along)
        differs = (other - first).abs() > (1e-4 if single else 1e-9) * scale.clamp(min=1e-9)
        if bool((differs & ~other.isnan() & ~first.isnan()).any()):
            return False
    return True


def _gradient(total: Tensor, by: Tensor, recording: bool = True) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(by)
    (found,) = torch.autograd.grad(total, by, create_graph=recording, retain_graph=True, allow_unused=True)
    return torch.zeros_like(by) if found is None else found


def _sound(matrix: Tensor) -> Tensor:
    """The matrices, the identity in place of those that are not finite."""
    bad = ~matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(bad, torch.eye(matrix.shape[-1], dtype=matrix.dtype), matrix)


def _solve(hessian: Tensor, right: Tensor) -> Tensor:
    """(C, D) the solution of each component's system; NaN where it is not positive definite."""
    factor, broken = torch.linalg.cholesky_ex(_sound(hessian))
    bad = (broken > 0) | ~hessian.isfinite().all(-1).all(-1)
    safe = torch.where(bad[:, None, None], torch.eye(hessian.shape[-1], dtype=hessian.dtype), factor)
    found = torch.cholesky_solve(right[..., None], safe)[..., 0]
    return torch.where(bad[:, None], torch.nan, found)


def _absolute_solve(hessian: Tensor, right: Tensor) -> Tensor:
    """The same with every curvature made positive and not too small, so that the step goes down."""
    bad = ~(hessian.isfinite().all(-1).all(-1) & right.isfinite().all(-1))
    curvature, axes = torch.linalg.eigh(_sound(hessian))
    curvature = curvature.abs()
    curvature = torch.maximum(curvature, 1e-8 * curvature.amax(-1, keepdim=True).clamp(min=1e-300))
    found = (axes @ ((axes.mT @ right[..., None]) / curvature[..., None]))[..., 0]
    return torch.where(bad[:, None], 0.0, found)

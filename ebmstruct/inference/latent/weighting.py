"""Integrals over continuous latent blocks by weighted draws about their modes, with the noise held fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Factor, FactorGraph, Real
from ebmstruct.inference.latent.integrals import LatentIntegral

Values = Mapping[str, Tensor]
FREEDOM = 6
"""Degrees of freedom of the proposals: tails heavy enough that no weight is unbounded for targets of normal tails."""


@dataclass(frozen=True, eq=False)
class WeightedIntegral:
    """-T log of the integral of exp(-E / T) over continuous latents, by importance sampling with fixed draws.

    Each component has its own draws, from a multivariate t about its mode with its inverse curvature (Geweke 1989), and
    its own mean weight; what the draws make is a smooth function of the other blocks, whose expectation lies above the
    true free energy (Burda, Grosse and Salakhutdinov 2016, theorem 1).
    steps: (S, C, D) steps from ``mode``.  log_density: (S, C) of the proposals.
    Cost of a value: the energies of S copies of the graph.
    """

    integral: LatentIntegral
    copies: FactorGraph
    mode: dict[str, Tensor]
    steps: Tensor
    log_density: Tensor

    @classmethod
    def about(
        cls, integral: LatentIntegral, given: Values, mode: dict[str, Tensor], samples: int, generator: Generator
    ) -> WeightedIntegral:
        """Draws about a mode; components whose curvature is not positive there get draws of unit width."""
        parts, temperature = integral.parts, integral.temperature
        with torch.no_grad():
            hessian = integral.expand(given, mode).hessian / temperature
            hessian = torch.where(parts.inside[:, :, None] & parts.inside[:, None, :], hessian, hessian * temperature)
            factor = _factor(hessian)
            noise, radius = _noise(samples, parts.instance, parts.largest, generator)
            noise = noise * parts.inside
            steps = torch.linalg.solve_triangular(factor.mT, (noise / radius[..., None])[..., None], upper=True)[..., 0]
            count = parts.inside.sum(1)
            half = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            square = (noise / radius[..., None]).square().sum(-1)
            log_density = _log_t(square, count) + half
        return cls(integral, integral.graph.repeat(samples), mode, steps, log_density)

    @property
    def samples(self) -> int:
        """S."""
        return self.steps.shape[0]

    def log_weights(self, given: Values) -> tuple[Tensor, Tensor]:
        """(S, C) logarithms of the weights, and (B,) the energy of what no latent is in; differentiable in ``given``."""
        parts, graph, samples = self.integral.parts, self.integral.graph, self.samples
        latent = self._draws()
        values = graph.complete({**given, **self.mode})
        spread = {n: v.repeat(samples, *[1] * (v.dim() - 1)) for n, v in values.items() if n not in latent}
        spread = self.copies.complete({**spread, **latent})
        energy = torch.zeros(samples, parts.count + 1, dtype=torch.float64)
        rest = torch.zeros(graph.num_instances, dtype=torch.float64)
        if graph.constant is not None:
            rest = rest + graph.constant.double()
        for factor, repeated in zip(graph.factors, self.copies.factors, strict=True):
            if factor.label not in parts.rows:
                rest = rest + factor.instance_energies([values[n] for n in factor.scope], graph.scope(factor)).double()
                continue
            owner = parts.rows[factor.label]
            rows = repeated.energies([spread[n] for n in repeated.scope], self.copies.scope(repeated))
            energy = energy.index_add(1, owner, rows.double().reshape(samples, -1))
            rest = rest.index_add(0, *_loose(factor, graph, owner, rows.double().reshape(samples, -1)[0], parts.count))
        weights = -energy[:, :-1] / self.integral.temperature - self.log_density
        return weights.masked_fill(self._outside(), -torch.inf), rest

    def free(self, given: Values) -> Tensor:
        """(B,) the estimate, differentiable in ``given``."""
        weights, rest = self.log_weights(given)
        each = weights.logsumexp(0) - math.log(self.samples)
        return rest - self.integral.temperature * rest.new_zeros(rest.shape).index_add(
            0, self.integral.parts.instance, each
        )

    def error(self, given: Values) -> Tensor:
        """(B,) the standard error of the estimate, by the variance of each component's weights (delta method)."""
        with torch.no_grad():
            weights, rest = self.log_weights(given)
            share = (weights - weights.logsumexp(0)).exp() * self.samples
            variance = share.var(0) / self.samples
            total = torch.zeros_like(rest).index_add(0, self.integral.parts.instance, variance)
            return self.integral.temperature * total.sqrt()

    def _draws(self) -> dict[str, Tensor]:
        out: dict[str, list[Tensor]] = {n: [] for n in self.integral.parts.names}
        for step in self.steps:
            for name, value in self.integral.moved(self.mode, self.integral.parts.unpack(step)).items():
                out[name].append(value)
        return {n: torch.cat(v) for n, v in out.items()}

    def _outside(self) -> Tensor:
        """(S, C) bool: draws outside the bounds of their domain, which have no weight."""
        parts = self.integral.parts
        out = torch.zeros(self.samples, parts.count, dtype=torch.bool)
        for s, step in enumerate(self.steps):
            moved = self.integral.moved(self.mode, parts.unpack(step))
            bad = []
            for name, value in moved.items():
                domain = self.integral.graph.variables[name].domain
                gone = (domain.project(value) != value) if isinstance(domain, Real) else torch.zeros_like(value).bool()
                bad.append(gone.double())
            out[s] = (parts.pack(bad) * parts.inside > 0).any(1)
        return out


def _loose(factor: Factor, graph: FactorGraph, owner: Tensor, rows: Tensor, none: int) -> tuple[Tensor, Tensor]:
    """The instances and energies of a factor's rows that look at no open latent site."""
    instance = factor.row_instance(graph.scope(factor))
    instance = torch.arange(graph.num_instances) if instance is None else instance
    chosen = owner == none
    return instance[chosen], rows[chosen]


def _factor(hessian: Tensor) -> Tensor:
    """(C, D, D) lower factors with H = L L^T; the identity where H is not positive definite."""
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype)
    bad = ~hessian.isfinite().all(-1).all(-1)
    factor, broken = torch.linalg.cholesky_ex(torch.where(bad[:, None, None], identity, hessian))
    return torch.where((bad | (broken > 0))[:, None, None], identity, factor)


def _noise(samples: int, instance: Tensor, width: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Normal noise (S, C, D), and the radii (S, C) that make it a t; draws come in pairs of opposite sign.

    Noise belongs to a component's position in its instance, so that an instance sees the same in whatever batch it is.
    """
    seed = int(torch.randint(0, 1 << 40, (), generator=generator))
    order = torch.argsort(instance, stable=True)
    counts = torch.bincount(instance)
    position = torch.empty_like(instance)
    position[order] = torch.arange(instance.numel()) - (counts.cumsum(0) - counts)[instance[order]]
    pairs, noise, radii = (samples + 1) // 2, [], []
    for place in range(int(counts.max()) if counts.numel() else 0):
        own = Generator().manual_seed(seed + place)
        radius = torch.randn(pairs, FREEDOM, generator=own, dtype=torch.float64).square().mean(1).sqrt()
        half = torch.stack([torch.randn(pairs, generator=own, dtype=torch.float64) for _ in range(width)], 1)
        noise.append(torch.stack([half, -half], 1).reshape(-1, width)[:samples])
        radii.append(radius.repeat_interleave(2)[:samples])
    return torch.stack(noise, 1)[:, position], torch.stack(radii, 1)[:, position]


def _log_t(square: Tensor, count: Tensor) -> Tensor:
    """log density of a standard multivariate t in ``count`` dimensions at points of a squared length."""
    dims, nu = count.double(), float(FREEDOM)
    constant = torch.lgamma(0.5 * (nu + dims)) - math.lgamma(0.5 * nu) - 0.5 * dims * math.log(nu * math.pi)
    return constant - 0.5 * (nu + dims) * torch.log1p(square / nu)

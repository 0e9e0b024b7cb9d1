"""Moves that leave a tempered density as it is: Hamiltonian trajectories of real blocks, single flips of discrete ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Continuous, Discrete, FactorGraph, Real
from ebmstruct.inference.annealed.base_density import BaseDensity
from ebmstruct.inference.result import Budget
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy, Step


@dataclass(frozen=True, eq=False)
class Standing:
    """Where the real blocks of N instances stand. energy: (N,) float64.  gradient: of the energy, by a step."""

    point: Point
    energy: Tensor
    gradient: Step


def standing_at(smooth: SmoothEnergy, point: Point) -> Standing:
    """Energy and gradient at a point; what is not a number counts as an infinite energy."""
    energy, gradient = smooth.with_gradient(point)
    energy = energy.double()
    lost = torch.zeros_like(energy, dtype=torch.bool)
    for g, instance in zip(gradient, smooth.instances, strict=True):
        bad = ~g.isfinite().all(1)
        if bool(bad.any()):
            lost = lost | (bad if instance is None else torch.zeros_like(lost).index_fill(0, instance[bad], True))
    energy = torch.where(energy.isnan() | (lost & energy.isfinite()), torch.inf, energy)
    return Standing(point, energy, gradient)


def trajectory(
    smooth: SmoothEnergy,
    now: Standing,
    *,
    inverse: Tensor,
    step: Tensor,
    scales: Step,
    leapfrog_steps: int,
    generator: Generator,
    budget: Budget,
    base: BaseDensity | None = None,
    base_weight: Tensor | None = None,
) -> tuple[Standing, Tensor]:
    """One Hamiltonian trajectory in every instance, accepted or not; also (N,) the probability of acceptance.

    The density is exp(-inverse * energy) times the base's density to the power ``base_weight``, all (N,); ``step`` is in
    units of the blocks' ``scales`` (n, t). Paths are reflected at bounds. An energy that is not finite is refused, and so
    is every path where the budget ends under way.
    Cost: ``leapfrog_steps`` gradients. Source: Duane, Kennedy, Pendleton and Roweth (1987); Neal (2011), section 5.5.1.5
    for reflection; on manifolds the momentum is constant in the body frame between kicks.
    """
    moving = smooth.moving
    sizes = [e.to(s.dtype) * s for e, s in zip(smooth.spread(step), scales, strict=True)]
    momenta = [torch.randn(s.shape, dtype=s.dtype, generator=generator) for s in sizes]
    momenta = [p if m is None else p * m for p, m in zip(momenta, moving, strict=True)]
    begun = _hamiltonian(smooth, now, momenta, inverse, base, base_weight)
    at = now
    force = _force(smooth, at, inverse, base, base_weight)
    for i in range(leapfrog_steps):
        if i and budget.expired:
            return now, torch.zeros_like(now.energy)
        momenta = [p + 0.5 * s * f for p, s, f in zip(momenta, sizes, force, strict=True)]
        moved = [_drift(d, x, s * p, p) for d, x, s, p in zip(smooth.domains, at.point, sizes, momenta, strict=True)]
        momenta = [p for _, p in moved]
        at = standing_at(smooth, tuple(x for x, _ in moved))
        force = _force(smooth, at, inverse, base, base_weight)
        momenta = [p + 0.5 * s * f for p, s, f in zip(momenta, sizes, force, strict=True)]
    ended = _hamiltonian(smooth, at, momenta, inverse, base, base_weight)
    rise = ended - begun
    probability = torch.where(rise.isnan(), torch.zeros_like(rise), (-rise).clamp(max=0.0).exp())
    taken = torch.rand(rise.shape, dtype=torch.float64, generator=generator) < probability
    return Standing(
        smooth.where(taken, at.point, now.point),
        torch.where(taken, at.energy, now.energy),
        smooth.where(taken, at.gradient, now.gradient),
    ), probability


def _force(
    smooth: SmoothEnergy, at: Standing, inverse: Tensor, base: BaseDensity | None, base_weight: Tensor | None
) -> list[Tensor]:
    """The gradient of the log density; zero where it is not a number, since such a path is refused at its end."""
    out = [-b.to(g.dtype) * g for b, g in zip(smooth.spread(inverse), at.gradient, strict=True)]
    if base is not None and base_weight is not None:
        pulls = base.gradient(at.point)
        weights = smooth.spread(base_weight)
        out = [f + w.to(f.dtype) * g for f, w, g in zip(out, weights, pulls, strict=True)]
    return [f.nan_to_num(0.0, 0.0, 0.0) for f in out]


def _hamiltonian(
    smooth: SmoothEnergy,
    at: Standing,
    momenta: list[Tensor],
    inverse: Tensor,
    base: BaseDensity | None,
    base_weight: Tensor | None,
) -> Tensor:
    kinetic = 0.5 * smooth.dot(momenta, momenta).double()
    out = torch.where(inverse > 0, inverse * at.energy, 0.0) + kinetic
    if base is not None and base_weight is not None:
        out = out - base_weight * base.log_density(smooth, at.point)
    return torch.where(torch.isneginf(out), torch.nan, out)  # a density without end is no place to be


def _drift(domain: Continuous, x: Tensor, step: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
    """The point after a drift, and the momentum, which turns round at each bound that is met."""
    x = domain.retract(x, step)
    if not isinstance(domain, Real) or not domain.bounded:
        return x, momentum
    lower, upper = domain.bounds(x.dtype)
    for _ in range(2):
        below, above = x < lower, x > upper
        x = torch.where(below, 2 * lower - x, torch.where(above, 2 * upper - x, x))
        momentum = torch.where(below | above, -momentum, momentum)
    outside = (x < lower) | (x > upper)
    return torch.where(outside, torch.nan, x), momentum  # too long a step: its energy is refused


@dataclass(frozen=True, eq=False)
class FlipSites:
    """The open discrete sites, instance by instance. owner: number of the block.  first: (N,), count: (N,) of each.

    allowed: for each block (n, K) bool.  names: of the discrete blocks.
    """

    names: tuple[str, ...]
    allowed: tuple[Tensor, ...]
    owner: Tensor
    site: Tensor
    first: Tensor
    count: Tensor

    @property
    def longest(self) -> int:
        """Open sites of the largest instance: the flips that make a sweep."""
        return int(self.count.max()) if self.count.numel() else 0

    @property
    def log_states(self) -> Tensor:
        """(N,): the log of the number of assignments of the open sites."""
        out = torch.zeros(self.count.shape[0], dtype=torch.float64)
        instance = torch.repeat_interleave(torch.arange(self.count.shape[0]), self.count)
        for number, allowed in enumerate(self.allowed):
            mine = self.owner == number
            out.index_add_(0, instance[mine], allowed[self.site[mine]].sum(1).double().log())
        return out

    @classmethod
    def of(cls, graph: FactorGraph) -> FlipSites:
        """The sites of a graph that have more than one allowed state."""
        names = tuple(n for n, v in graph.variables.items() if isinstance(v.domain, Discrete))
        masks, owner, site, instance = [], [], [], []
        for number, name in enumerate(names):
            block = graph.variables[name]
            mask = torch.arange(max(1, block.discrete.largest)) < block.state_counts[:, None]
            allowed = graph.allowed(name)
            if allowed is not None and allowed.shape == mask.shape:  # else there are no sites, or no states
                mask = mask & allowed
            free = (mask.sum(1) > 1).nonzero()[:, 0]
            masks.append(mask)
            owner.append(torch.full_like(free, number))
            site.append(free)
            instance.append(block.instance[free])
        empty = torch.zeros(0, dtype=torch.long)
        whose = torch.cat([empty, *instance])
        order = whose.argsort(stable=True)
        count = torch.bincount(whose, minlength=graph.num_instances)
        return cls(
            names,
            tuple(masks),
            torch.cat([empty, *owner])[order],
            torch.cat([empty, *site])[order],
            count.cumsum(0) - count,
            count,
        )

    def uniform(self, generator: Generator) -> dict[str, Tensor]:
        """Block name to (n,) states drawn uniformly from the allowed ones."""
        out = {}
        for name, mask in zip(self.names, self.allowed, strict=True):
            draw = torch.rand(mask.shape, generator=generator, dtype=torch.float64)
            out[name] = draw.masked_fill(~mask, -1.0).argmax(1)
        return out


def flip(
    graph: FactorGraph,
    sites: FlipSites,
    values: dict[str, Tensor],
    energy: Tensor,
    *,
    inverse: Tensor,
    generator: Generator,
) -> tuple[dict[str, Tensor], Tensor]:
    """A Metropolis step of one random open site in each instance, to another of its allowed states.

    energy, inverse: (N,) float64. From an infinite energy every move is taken. Cost: one evaluation of the energy.
    """
    able = (sites.count > 0).nonzero()[:, 0]
    draw = torch.rand(able.shape, generator=generator, dtype=torch.float64)
    entry = sites.first[able] + (draw * sites.count[able]).long().clamp(max=sites.count[able] - 1)
    proposed = dict(values)
    for number, name in enumerate(sites.names):
        chosen = sites.site[entry[sites.owner[entry] == number]]
        mask = sites.allowed[number][chosen].clone()
        mask.scatter_(1, values[name][chosen][:, None], False)
        state = torch.rand(mask.shape, generator=generator, dtype=torch.float64).masked_fill(~mask, -1.0).argmax(1)
        proposed[name] = values[name].clone().index_put_((chosen,), state)
    after = graph.energy(proposed).detach().double()
    rise = inverse * (after - energy)
    rise = torch.where(torch.isposinf(energy), 0.0, torch.where(after.isnan(), torch.inf, rise))
    taken = torch.rand(rise.shape, generator=generator, dtype=torch.float64) < (-rise).clamp(max=0.0).exp()
    merged = dict(values)
    for name in sites.names:
        merged[name] = torch.where(taken[graph.variables[name].instance], proposed[name], values[name])
    return merged, torch.where(taken, torch.where(after.isnan(), torch.inf, after), energy)


def with_states(smooth: SmoothEnergy, values: dict[str, Tensor]) -> SmoothEnergy:
    """The smooth energy whose discrete blocks have other states."""
    return replace(smooth, fixed={name: values[name] for name in smooth.fixed})

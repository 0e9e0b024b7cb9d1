"""How the chains of a graph's open continuous blocks move: steps, walls, and the state from which a chain goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph, Real, ResidualFactor
from ebmstruct.inference.result import Ask, Query
from ebmstruct.inference.sampling.markov import ChainState, default_generator
from ebmstruct.inference.smooth_energy import (
    Point,
    SmoothEnergy,
    Step,
    open_continuous,
    smooth_refusal,
    starting_point,
)

NOISE_AT_ONCE = 1 << 16
"""Random numbers drawn together: noise for several steps, while that stays in the cache of a core."""
TRIES = 30
"""Random starts of an instance before one of finite energy is given up."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Steps of a graph's open continuous blocks; built once a run.

    walls: for each block its bounds, (d,) lower and upper, or None where it has none.
    """

    energy: SmoothEnergy
    walls: tuple[tuple[Tensor, Tensor] | None, ...]
    flat: bool

    @classmethod
    def of(cls, graph: FactorGraph, values: dict[str, Tensor]) -> Motion:
        """The motion of a graph whose blocks other than the open continuous ones have ``values``."""
        energy = SmoothEnergy.of(graph, values)
        walls: list[tuple[Tensor, Tensor] | None] = []
        for name, domain in zip(energy.names, energy.domains, strict=True):
            bounded = isinstance(domain, Real) and domain.bounded
            walls.append(domain.bounds(values[name].dtype) if bounded and isinstance(domain, Real) else None)
        return cls(energy, tuple(walls), energy.flat)

    def noise(self, point: Point, generator: Generator | None, steps: int) -> list[Step]:
        """Standard normal steps (n, t) of every block, for several steps at once; zero at clamped sites."""
        parts = []
        for x, domain, moving in zip(point, self.energy.domains, self.energy.moving, strict=True):
            shape = (steps, x.shape[0], domain.tangent_dim)
            z = torch.randn(shape, dtype=x.dtype, device=x.device, generator=generator)
            parts.append((z if moving is None else z.mul_(moving)).unbind())
        return list(zip(*parts, strict=True))

    def ahead(self, point: Point, steps: int) -> int:
        """For how many of ``steps`` steps noise is best drawn at once."""
        return max(1, min(steps, NOISE_AT_ONCE // max(1, sum(x.numel() for x in point)), 64))

    def moved(self, point: Sequence[Tensor], step: Sequence[Tensor]) -> Point:
        """The point that a step leads to, reflected at the bounds."""
        if self.flat:
            return tuple(x + s for x, s in zip(point, step, strict=True))
        return tuple(
            domain.retract(x, s) if wall is None else reflected(x + s, wall)[0]
            for x, s, domain, wall in zip(point, step, self.energy.domains, self.walls, strict=True)
        )

    def drift(
        self, point: Point, velocity: Sequence[Tensor], time: float, scale: Sequence[Tensor] | None = None
    ) -> tuple[Point, Sequence[Tensor]]:
        """The point that ``velocity`` (times ``scale``, where given) leads to in ``time``, and the velocity there.

        At a bound a coordinate is reflected and its velocity turned round; on a manifold the velocity is that of the
        body and stays. So the flow keeps the volume, and runs backwards from the velocity turned round.
        """
        if self.flat:
            if scale is None:
                return tuple([torch.add(x, v, alpha=time) for x, v in zip(point, velocity, strict=True)]), velocity
            return tuple(
                [torch.addcmul(x, v, s, value=time) for x, v, s in zip(point, velocity, scale, strict=True)]
            ), velocity
        out, turned = [], []
        for i, (x, v) in enumerate(zip(point, velocity, strict=True)):
            step = time * v if scale is None else time * v * scale[i]
            wall = self.walls[i]
            if wall is None:
                out.append(self.energy.domains[i].retract(x, step))
                turned.append(v)
            else:
                y, flips = reflected(x + step, wall)
                out.append(y)
                turned.append(torch.where(flips, -v, v))
        return tuple(out), turned


def all_finite(energy: Tensor) -> bool:
    """Whether all energies are finite, by one reduction (False also where finite ones are too large to be added)."""
    return math.isfinite(float(energy.sum()))


def reflected(x: Tensor, wall: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(n, d): x folded back into the bounds as often as it takes, and where the last direction is turned round."""
    lower, upper = wall
    width = upper - lower
    both = width.isfinite()
    span = torch.where(both & (width > 0), width, 1.0)
    within = torch.remainder(x - torch.where(both, lower, 0.0), 2 * span)
    over = within > span
    folded = lower + torch.where(over, 2 * span - within, within)
    below, above = x < lower, x > upper
    single = torch.where(below, 2 * lower - x, torch.where(above, 2 * upper - x, x))
    outside = below | above
    y = torch.where(both & outside, folded, single)
    y = torch.minimum(torch.maximum(y, lower), upper)  # rounding; and bounds that meet
    return y, outside & torch.where(both, over, True)


class Here(NamedTuple):
    """A point with its energy (B,) and its gradient."""

    point: Point
    energy: Tensor
    gradient: Step


class Place(NamedTuple):
    """What a chain of continuous blocks keeps beside its values: the motion, the gradient there, and the steps done.

    versions: of the tensors that the graph shows, to notice that they were changed in place.
    learnt: what a sampler has adapted, or None.
    """

    motion: Motion
    gradient: Step
    steps: int
    versions: tuple[int, ...]
    learnt: Any = None


def begin(graph: FactorGraph, y: Assignment | None, generator: Generator | None) -> ChainState:
    """The state before the first step: at ``y``; blocks that it does not name start scattered, at finite energies."""
    values = starting_point(graph, y)
    for name, value in values.items():
        if isinstance(graph.variables[name].domain, Discrete) and value.is_floating_point():
            raise GraphError(f"block {name!r} is discrete; its values must be whole numbers")
    motion = Motion.of(graph, values)
    smooth = motion.energy
    free = [y is None or name not in y for name in smooth.names]
    point: Point = tuple(values[name] for name in smooth.names)
    if not any(free):
        energy, gradient = smooth.with_gradient(point)
        return state_at(motion, point, energy, gradient)
    generator = default_generator(generator)
    home, length, bad = point, 1.0, torch.ones(graph.num_instances, dtype=torch.bool, device=point[0].device)
    for _ in range(TRIES):
        noise = motion.noise(home, generator, 1)[0]
        step = tuple(length * z if open_ else 0 * z for z, open_ in zip(noise, free, strict=True))
        point = smooth.where(bad, motion.moved(home, step), point)
        energy, gradient = smooth.with_gradient(point)
        if all_finite(energy):
            break
        bad = ~energy.isfinite()
        length *= 0.8
    return state_at(motion, point, energy, gradient)


def state_at(
    motion: Motion, point: Point, energy: Tensor, gradient: Step, steps: int = 0, learnt: Any = None
) -> ChainState:
    """The state of a chain at a point; what it needs to go on is its cache."""
    if not all(bool(g.isfinite().all()) for g in gradient):  # at a kink, say: a zero leads away from there
        gradient = tuple(torch.where(g.isfinite(), g, 0.0) for g in gradient)
    place = Place(motion, gradient, steps, versions(motion.energy.graph), learnt)
    return ChainState(motion.energy.values(point), energy, place)


def resume(graph: FactorGraph, state: ChainState) -> tuple[Place, Point, Tensor]:
    """Place, point and energy of a state under ``graph``, looked at afresh where the cache was built for another graph.

    Values of factors changed in place are noticed in tensors that the graph or a torch module in it shows; a function
    that hides others needs a graph of its own for each set of values (or a state without a cache).
    """
    place = state.cache
    if isinstance(place, Place) and place.motion.energy.graph is graph and place.versions == versions(graph):
        return place, tuple(state.values[n] for n in place.motion.energy.names), state.energy
    motion = Motion.of(graph, graph.complete(state.values))
    point = tuple(state.values[n] for n in motion.energy.names)
    energy, gradient = motion.energy.with_gradient(point)
    steps, learnt = (place.steps, place.learnt) if isinstance(place, Place) else (0, None)
    afresh: Place = state_at(motion, point, energy, gradient, steps, learnt).cache
    return afresh, point, energy


def versions(graph: FactorGraph) -> tuple[int, ...]:
    """How often each tensor that the graph shows has been changed in place: values of factors, and torch modules'."""
    out = []
    for factor in graph.factors:
        for value in factor.values():
            out += [t._version for t in (value if isinstance(value, tuple) else (value,)) if t is not None]
        function = getattr(factor, "function", None)
        owner = getattr(function, "__self__", function)
        if isinstance(owner, nn.Module):
            out += [p._version for p in owner.parameters()]
    return tuple(out)


def unharmed(motion: Motion, old: Here, new: Here) -> tuple[Here, Tensor]:
    """The new place where its energy is finite, else the old one; and (B,) bool where it is refused.

    A gradient that is not finite counts as zero at the old place, so that noise leads away from there.
    """
    fine = new.energy.isfinite()
    calm = tuple(torch.where(g.isfinite(), g, 0.0) for g in old.gradient)
    where = motion.energy.where
    kept = Here(
        where(fine, new.point, old.point), torch.where(fine, new.energy, old.energy), where(fine, new.gradient, calm)
    )
    return kept, ~fine


def chain_refusal(graph: FactorGraph, query: Query, chains: int, *, adjusted: bool) -> str | None:
    """Why chains of the open continuous blocks cannot sample a graph; None where they can.

    adjusted: whether a Metropolis test refuses what the energy forbids.
    """
    if query.ask is not Ask.SAMPLE:
        return f"it draws samples only, and {query.ask} is asked"
    reason = smooth_refusal(graph)
    if reason is not None:
        return reason
    for block in open_continuous(graph):
        if not isinstance(block.domain, Discrete) and block.domain.measure is None:
            return (
                f"block {block.name!r} is of {block.domain}, which states no measure against which exp(-E) is a density"
            )
    moving = {block.name for block in open_continuous(graph)}
    for factor in graph.factors:
        if not isinstance(factor, ResidualFactor) or not factor.constraint or not moving & set(factor.scope):
            continue
        if factor.constraint == "equality":
            return f"factor {factor.label!r} is an equality constraint, which leaves no volume to sample in"
        if not adjusted:
            return f"factor {factor.label!r} is a constraint, which unadjusted steps would break; take MALA or HMC"
    if chains > 1:
        try:
            graph.repeat(1)
        except GraphError as fault:
            return f"its chains are copies of the graph, and that cannot be copied: {fault}"
    return None


def options_refusal(chains: int, burn_in: int, thinning: int, **positive: float | None) -> str | None:
    """Why the options of a sampler make no sense: counts too small, or a named number that is not above 0."""
    if chains < 1 or thinning < 1 or burn_in < 0:
        return "chains and thinning must be at least 1, and burn_in at least 0"
    for name, value in positive.items():
        if value is not None and not 0 < value < math.inf:
            return f"{name} must be above 0; found {value}"
    return None

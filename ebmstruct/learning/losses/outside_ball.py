"""Least energies outside a ball about a continuous target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, Discrete, FactorGraph, Real
from ebmstruct.inference import minimize
from ebmstruct.inference.descent.loop import DescentOptions, minimize_point
from ebmstruct.inference.smooth_energy import Point, Step, precision
from ebmstruct.learning.losses.latent_sites import known_sites

ROUNDS = 3
"""Turns of descending outside the ball and of minimising the discrete sites at the point found."""
ITERATIONS = 100
"""Steps of one descent."""
SLOPE = 1e-4
"""A descent ends where no entry of its gradient is larger; the error of the energy is of the order of its square."""


def distances(graph: FactorGraph, target: Assignment, values: Mapping[str, Tensor]) -> Tensor:
    """(B,) float64: the length of the step from the target to some values, over the known continuous sites; -1 for none."""
    square = torch.zeros(graph.num_instances, dtype=torch.float64)
    some = torch.zeros(graph.num_instances, dtype=torch.bool)
    for name, block in graph.variables.items():
        if name in target and isinstance(block.domain, Continuous):
            at = known_sites(graph, target, name).nonzero()[:, 0]
            step = block.domain.local(target[name][at].to(values[name].dtype), values[name][at])
            square = square.index_add(0, block.instance[at], step.square().sum(1).double())
            some = some.index_fill(0, block.instance[at], True)
    return torch.where(some, square.sqrt(), -1.0)


@dataclass(frozen=True, eq=False)
class OutsideBall:
    """The energy as a function of steps from a centre, where shorter steps than ``radius`` are lengthened to it.

    A step of the known sites of an instance that is shorter than the radius counts as the point of the sphere that it
    points to, so that the least value of the function is the least energy outside the ball, and nothing constrains the
    descent.
    centre: block name to (n, d): the target where it is known, any point elsewhere.  fixed: values of all other blocks.
    known: for each block (n,) bool, the sites that the ball is about.
    """

    graph: FactorGraph
    centre: dict[str, Tensor]
    fixed: dict[str, Tensor]
    known: dict[str, Tensor]
    radius: float

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The blocks that move."""
        return tuple(self.centre)

    @cached_property
    def domains(self) -> tuple[Continuous, ...]:
        """Steps are plain vectors."""
        return tuple(Real(self._domain(n).tangent_dim) for n in self.names)

    @cached_property
    def instances(self) -> tuple[Tensor | None, ...]:
        """For each block (n,) long, the instance of each site."""
        return tuple(self.graph.variables[n].instance for n in self.names)

    def retract(self, point: Point, step: Step) -> Point:
        """The sum."""
        return tuple(x + s for x, s in zip(point, step, strict=True))

    def with_gradient(self, point: Point) -> tuple[Tensor, Step]:
        """(B,) energies without a record, and their gradients."""
        with torch.enable_grad():
            leaves = tuple(x.detach().requires_grad_(True) for x in point)
            energy = self.graph.energy({**self.fixed, **self.values(leaves)})
            found = torch.autograd.grad(energy, leaves, torch.ones_like(energy), allow_unused=True)
        return energy.detach(), tuple(
            torch.zeros_like(x) if g is None else g for x, g in zip(point, found, strict=True)
        )

    def values(self, steps: Point) -> dict[str, Tensor]:
        """The values of the blocks that move."""
        lengths = self._lengths(steps).clamp(min=1e-12)
        stretch = (self.radius / lengths).clamp(min=1.0)
        out = {}
        for name, step in zip(self.names, steps, strict=True):
            domain = self._domain(name)
            own = torch.where(self.known[name], stretch[self.graph.variables[name].instance].to(step.dtype), 1.0)
            out[name] = domain.project(domain.retract(self.centre[name].to(step.dtype), own[:, None] * step))
        return out

    def _lengths(self, steps: Point) -> Tensor:
        square = torch.zeros(self.graph.num_instances, dtype=torch.float64)
        for name, step in zip(self.names, steps, strict=True):
            rows = torch.where(self.known[name], step.square().sum(1), 0.0)
            square = square.index_add(0, self.graph.variables[name].instance, rows.double())
        return (square + 1e-24).sqrt()

    def _domain(self, name: str) -> Continuous:
        domain = self.graph.variables[name].domain
        assert isinstance(domain, Continuous)
        return domain


def least_outside(
    graph: FactorGraph,
    target: Assignment,
    least: Mapping[str, Tensor],
    radius: float,
    starts: int,
    generator: Generator,
) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Low energies outside the ball of ``radius`` about the target: values of every block, and (B,) energies, a start each.

    The first start lies in the direction of ``least``, the values of least energy of all; the others are random, each
    scattered twice as far as the one before. In turns the continuous blocks descend (L-BFGS) and the discrete ones are
    minimised at the point found, which never raises the energy. Local minima; a point that bounds hold inside the ball has
    infinite energy.
    """
    dtype = precision(graph)
    moving = [n for n, v in graph.variables.items() if isinstance(v.domain, Continuous) and v.num_sites]
    known = {n: known_sites(graph, target, n) for n in moving}
    centre = {
        n: torch.where(known[n][:, None], target[n].to(dtype), least[n].to(dtype))
        if n in target
        else least[n].to(dtype)
        for n in moving
    }
    found = []
    for start in range(starts):
        fixed = {n: v for n, v in least.items() if n not in moving}
        values: dict[str, Tensor] = {n: least[n].to(dtype) for n in moving}
        if start:
            for n in moving:
                domain = graph.variables[n].domain
                assert isinstance(domain, Continuous)
                noise = torch.randn(centre[n].shape[0], domain.tangent_dim, generator=generator, dtype=dtype)
                own = torch.where(known[n][:, None], radius * 2.0**start * noise, 0.0)
                values[n] = domain.project(domain.retract(values[n], own))
        for _ in range(ROUNDS):
            ball = OutsideBall(graph, centre, fixed, known, radius)
            steps = tuple(ball._domain(n).local(centre[n], values[n]) for n in ball.names)
            steps = _off_centre(ball, steps, generator)
            options = DescentOptions(tolerance=SLOPE, max_iterations=ITERATIONS)
            values = ball.values(minimize_point(ball, steps, options).point)
            if not any(isinstance(v.domain, Discrete) and v.num_sites for v in graph.variables.values()):
                break
            again = dict(minimize(graph.condition(Assignment(values))).assignment.items())
            same = all(torch.equal(again[n], v) for n, v in fixed.items())
            fixed = {n: again[n] for n in fixed}
            if same:
                break
        energy = graph.energy({**fixed, **values})
        outside = distances(graph, target, values) >= radius * (1 - 1e-6)
        found.append(({**fixed, **values}, torch.where(outside & ~energy.isnan(), energy, torch.inf)))
    return found


def _off_centre(ball: OutsideBall, steps: Point, generator: Generator) -> Point:
    """Steps with a random direction where they have none."""
    short = ball._lengths(steps) < 1e-6
    if not bool(short.any()):
        return steps
    out = []
    for name, step in zip(ball.names, steps, strict=True):
        noise = torch.randn(step.shape, generator=generator, dtype=step.dtype)
        pick = short[ball.graph.variables[name].instance] & ball.known[name]
        out.append(torch.where(pick[:, None], ball.radius * noise, step))
    return tuple(out)

"""The descent on a free energy in many copies of a graph at once, and each instance's best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.descent.loop import DescentOptions, DescentState, PointFunction, begin_descent, descend
from ebmstruct.inference.latent.free_energy import (
    CopySum,
    FreeEnergy,
    first_states,
    free_energy,
    is_convex,
    soft_minimum,
)
from ebmstruct.inference.latent.integrals import LatentIntegral
from ebmstruct.inference.latent.starts import space_over
from ebmstruct.inference.latent.weighting import WeightedIntegral
from ebmstruct.inference.result import Budget, Query, Result, Status
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy

ROUNDS = 3
"""How often draws are made anew about the modes at the point to which the last ones have led."""


@dataclass(frozen=True, eq=False)
class Descended:
    """Each instance's best: values of all blocks, (B,) free energy, whether its descents were done, and how."""

    values: dict[str, Tensor]
    energy: Tensor
    done: Tensor
    stepped_out: Tensor
    integration: str
    stats: Mapping[str, Any] = field(default_factory=dict)

    def better(self, graph: FactorGraph, other: Descended) -> Descended:
        """The better of the two in each instance."""
        wins = (other.energy < self.energy) | (self.energy.isnan() & ~other.energy.isnan())
        values = {}
        for name, value in other.values.items():
            site = wins[graph.variables[name].instance].reshape(-1, *[1] * (value.dim() - 1))
            values[name] = torch.where(site, value, self.values[name])
        stats = dict(self.stats)
        if "error" in stats:
            stats["error"] = torch.where(wins, other.stats["error"], self.stats["error"])
        return Descended(
            values,
            torch.where(wins, other.energy, self.energy),
            self.done & other.done,
            self.stepped_out | other.stepped_out,
            self.integration if self.integration == other.integration else "laplace",
            stats,
        )


def descend_free_energy(
    graph: FactorGraph,
    query: Query,
    given: dict[str, Tensor],
    continuous: tuple[str, ...],
    count: int,
    real: Tensor,
    *,
    budget: Budget,
    options: DescentOptions,
    samples: int,
    generator: Generator,
) -> Descended:
    """Descend in ``count`` copies of a graph from the values ``given`` to all of them, copy after copy.

    continuous: the blocks that move.  real: (count, B) bool, the copies that count.
    samples: draws that correct Laplace's method, 0 for none.
    """
    copies = graph.repeat(count) if count > 1 else graph
    latent = {n: v for n, v in given.items() if n in query.sum_out}
    outer = {n: v for n, v in copies.complete({**first_states(copies), **given}).items() if n not in query.sum_out}
    function = free_energy(copies, query.sum_out, query.temperature, given=outer, latent=latent)
    space = space_over(copies, continuous, outer)
    run = _Run(space, budget, options)
    point = tuple(outer[n] for n in continuous)
    if continuous and is_convex(graph, query.sum_out) and (joint := run.joint(copies, query)) is not None:
        point = joint
    elif continuous:
        function, point = run.descend(function, point)
    values = {**space.fixed, **dict(zip(continuous, point, strict=True))}
    integration, error = function.integration, None
    with torch.no_grad():
        if samples and isinstance(function, CopySum) and function.drawable:
            energy, error, point = run.weighted(function, point, samples, generator)
            values |= dict(zip(continuous, point, strict=True))
            integration = "importance_weighted"
        else:
            energy = function(values)
        found = function.latents(values)
    energy = energy.detach().double().reshape(count, -1).masked_fill(~real, torch.inf)
    best = energy.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(0)
    rows = torch.arange(graph.num_instances)
    stats: dict[str, Any] = {"evaluations": run.evaluations, "copies": count}
    if error is not None:
        stats["error"] = error.reshape(count, -1)[best, rows]
    return Descended(
        _of_copy(graph, best, count, {**values, **found}),
        torch.where(real.any(0), energy[best, rows], torch.inf),
        run.done(count, graph.num_instances),
        torch.full((graph.num_instances,), run.stepped_out),
        integration,
        stats,
    )


def _of_copy(graph: FactorGraph, best: Tensor, count: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, block in graph.variables.items():
        parts = values[name].reshape(count, block.num_sites, *values[name].shape[1:])
        out[name] = parts[best[block.instance], torch.arange(block.num_sites)].detach()
    return out


class _Run:
    """One descent in the making: its clock and what it has counted."""

    def __init__(self, space: SmoothEnergy, budget: Budget, options: DescentOptions) -> None:
        self.space, self.budget, self.options = space, budget, options
        self.evaluations, self.stepped_out = 0, False
        self.finished: Tensor | None = None

    def done(self, count: int, instances: int) -> Tensor:
        """(B,) bool: whether all copies of an instance are done."""
        if self.finished is None:
            return torch.ones(instances, dtype=torch.bool)
        return self.finished.reshape(count, instances).all(0)

    def values(self, point: Point) -> dict[str, Tensor]:
        """The values of all blocks but the latents."""
        return {**self.space.fixed, **dict(zip(self.space.names, point, strict=True))}

    def stops(self) -> bool:
        """Whether the budget is over."""
        if self.budget.max_steps is not None and self.evaluations >= self.budget.max_steps:
            self.stepped_out = True
        return self.stepped_out or self.budget.expired

    def loop(self, function: PointFunction, state: DescentState) -> DescentState:
        """Trials until everything is done or the budget is over."""
        while not bool(state.done.all()) and not self.stops():
            state = descend(function, state, self.options)
            self.evaluations += 1
        return state

    def joint(self, copies: FactorGraph, query: Query) -> Point | None:
        """The point of least energy over outputs and latents together, of a quadratic energy; None where it is none.

        The integral over the latents then adds a constant, so that the point is that of least free energy too.
        """
        from ebmstruct.inference.solvers import Gaussian

        states = {n: v for n, v in self.space.fixed.items() if isinstance(copies.variables[n].domain, Discrete)}
        fixed = copies.condition(Assignment(states)) if states else copies
        if Gaussian().refuse(fixed, Query()) is not None:
            return None
        found = Gaussian().solve(fixed, Query(), budget=self.budget)
        assert isinstance(found, Result)
        self.finished = found.status <= int(Status.CONVERGED)
        return tuple(found.assignment[n] for n in self.space.names)

    def descend(self, function: FreeEnergy, point: Point) -> tuple[FreeEnergy, Point]:
        """The point of least free energy; modes of latents are looked for near those of the last point."""
        if not isinstance(function, CopySum) or function.exact:
            f = PointFunction(self.space, lambda p: function(self.values(p)))
            state = self.loop(f, begin_descent(f, point, self.options))
        else:
            function, state = self._following(function, point)
        self.finished = state.done
        return function, state.point

    def _following(self, function: CopySum, point: Point) -> tuple[CopySum, DescentState]:
        function = replace(function, anchor=function.modes(self.values(point)))
        state: DescentState | None = None
        while state is None or (not bool(state.done.all()) and not self.stops()):
            f = PointFunction(self.space, lambda p, g=function: g(self.values(p)))  # type: ignore[misc]
            state = begin_descent(f, point, self.options) if state is None else descend(f, state, self.options)
            self.evaluations += 1
            function = replace(function, anchor=function.modes(self.values(state.point)))
        return function, state

    def weighted(
        self, function: CopySum, point: Point, samples: int, generator: Generator
    ) -> tuple[Tensor, Tensor, Point]:
        """(B,) the free energy by weighted draws, its standard error, and the point that minimises it.

        The noise stays the same; about which modes and how wide it is laid is renewed after each descent.
        """
        assert isinstance(function.integral, LatentIntegral)
        integral, seed = function.integral, generator.initial_seed()
        for turn in range(ROUNDS):
            values = self.values(point)
            function = replace(function, anchor=function.modes(values))
            spread = function.spread(values)
            draws = WeightedIntegral.about(integral, spread, function.anchor, samples, Generator().manual_seed(seed))
            if turn == ROUNDS - 1 or not self.space.names or self.stops():
                break
            f = PointFunction(self.space, lambda p, d=draws, g=function: weighted_sum(g, d, self.values(p))[0])  # type: ignore[misc]
            with torch.enable_grad():
                state = self.loop(f, begin_descent(f, point, self.options))
            self.finished = state.done
            point = state.point
        energy, error = weighted_sum(function, draws, values, errors=True)
        assert error is not None
        return energy, error, point


def weighted_sum(
    function: CopySum, draws: WeightedIntegral, given: Mapping[str, Tensor], errors: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(B,) the free energy with weighted integrals in place of Laplace's, and its standard error where asked."""
    spread = function.spread(given)
    each = draws.free(spread).reshape(function.states.count, -1).masked_fill(~function.states.real, torch.inf)
    total = soft_minimum(each, function.temperature)
    if not errors:
        return total, None
    share = ((total - each) / function.temperature).exp().nan_to_num(0.0)
    return total, (share * draws.error(spread).reshape(share.shape).nan_to_num(0.0)).sum(0)

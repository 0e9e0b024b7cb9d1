"""Mirror descent on relaxed outputs: weights over states that gradients can move, rounded to states at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph, ResidualFactor
from ebmstruct.graph.relaxation import relaxation_refusal
from ebmstruct.inference.descent.multi_start import best_start, of_start, values_of_start
from ebmstruct.inference.descent.rounding import conditional_rounding
from ebmstruct.inference.descent.simplex_descent import (
    RelaxedEnergy,
    SimplexOptions,
    SimplexState,
    begin_simplex,
    leaning,
    spread_out,
    step_simplex,
)
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.penalties import penalised
from ebmstruct.inference.result import Answer, Ask, Budget, Query, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import clamped, open_continuous, starting_point
from ebmstruct.inference.solver import IterativeMinimizer, Progress

ROUNDINGS = ("conditional", "argmax")
DESCENT_SHARE = 0.75
"""The share of a deadline that the descent may use; the rest is for the rounding."""
LAST_WORDS = 0.4
"""How long the end takes, compared to the beginning."""


@dataclass(frozen=True, eq=False)
class MirrorState:
    """The relaxed energy of all starts, where the descents stand, and what they say of the graph's own instances.

    penalty: what stands for infinite entries.
    """

    function: RelaxedEnergy
    descent: SimplexState
    said: Progress
    penalty: float


@dataclass(frozen=True)
class MirrorDescent(IterativeMinimizer[MirrorState]):
    """Low energy over discrete blocks by entropic mirror descent on weights (Beck and Teboulle 2003), then rounded.

    Each site has weights over its states; all move at once along the gradient of the relaxed energy
    (``FactorGraph.relaxed_energy``), every instance with its own step size, which grows while the descent is as good
    as its model says and is halved otherwise. The main solver for energies that a network gives (``BlockFactor`` with
    ``relaxed=True``, as in structured prediction energy networks, Belanger and McCallum 2016); tables, chains, grids
    and residuals over clamped points may stand beside it or alone. Local minima; no bound.

    rounding: "conditional" fixes site after site at the state of least relaxed energy, which never raises an energy
    made of tables; "argmax" takes each site's heaviest state.  starts: descents, the first from nearly even weights
    (or leaning to ``init``), the others with normal noise of ``start_noise`` in the logarithms; the best is kept.
    tolerance: an instance is done where a step to the best vertex promises, or 20 steps have brought, less than this
    share of its energy.
    max_iterations: steps, after which it ends MAX_STEPS.
    Infinite entries of tables count as a large finite penalty (``stats["penalty"]``) until the answer is certified.
    Cost of a step: a relaxed energy with its gradient, and one energy.
    """

    name: ClassVar[str] = "mirror_descent"

    rounding: str = "conditional"
    starts: int = 1
    start_noise: float = 1.0
    tolerance: float = 1e-6
    max_iterations: int = 2000

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise GraphError(f"MirrorDescent: rounding {self.rounding!r}; legal are {ROUNDINGS}")
        if self.starts < 1:
            raise GraphError(f"MirrorDescent: starts must be at least 1; found {self.starts}")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask != Ask.MINIMIZE:
            return f"it only minimises; {query.ask} was asked"
        if query.sum_out:
            return "it cannot sum blocks out"
        if query.k > 1:
            return f"it finds one assignment; {query.k} were asked"
        open_points = [v.name for v in open_continuous(graph)]
        if open_points:
            return f"blocks {open_points} are continuous and not clamped; it moves weights of discrete blocks only"
        blocks = [v for v in graph.variables.values() if isinstance(v.domain, Discrete) and v.num_sites]
        if all(clamped(graph, v.name) for v in blocks):
            return "no discrete block is open: there is nothing to choose"
        for factor in graph.factors:
            if isinstance(factor, ResidualFactor) and factor.constraint:
                return f"factor {factor.label!r} is a constraint, whose relaxed energy has no gradient"
        return relaxation_refusal(graph)

    @property
    def options(self) -> SimplexOptions:
        """What the descent itself is told."""
        return SimplexOptions(self.tolerance, self.max_iterations)

    def begin(
        self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None
    ) -> MirrorState:
        fixed = starting_point(graph, init)
        soft, penalty = penalised(graph)
        copies = soft if self.starts == 1 else soft.repeat(self.starts)
        fixed = {n: v.repeat(self.starts, *[1] * (v.dim() - 1)) for n, v in fixed.items()}
        function = RelaxedEnergy.of(copies, fixed)
        logs = spread_out(function, self.starts, self.start_noise, default_generator(generator))
        if init is not None:
            logs = leaning(function, {n: v for n, v in init.items() if v.dim() == 1}, logs, self.starts)
        return self._state(graph, function, begin_simplex(function, logs, self.options), penalty)

    def step(self, graph: FactorGraph, query: Query, state: MirrorState) -> MirrorState:
        """One trial step of each instance that is not done."""
        descent = step_simplex(state.function, state.descent, self.options)
        return self._state(graph, state.function, descent, state.penalty)

    def progress(self, state: MirrorState) -> Progress:
        return state.said

    def _state(self, graph: FactorGraph, function: RelaxedEnergy, descent: SimplexState, penalty: float) -> MirrorState:
        values, energy = self._best(graph, function, descent.weights)
        nothing = torch.full((graph.num_instances,), -torch.inf, dtype=torch.float64)
        done = descent.done.reshape(self.starts, -1).all(0)
        return MirrorState(function, descent, Progress(values, energy, nothing, done), penalty)

    def _best(
        self, graph: FactorGraph, function: RelaxedEnergy, weights: tuple[Tensor, ...]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The states of the heaviest weights in each instance's best copy, and their energies in the graph itself."""
        states = function.states(weights)
        copied = function.graph.energy(states).double() if self.starts > 1 else torch.zeros(graph.num_instances)
        chosen = best_start(graph, self.starts, copied)
        values = values_of_start(graph, self.starts, chosen, states)
        return values, graph.energy(values).double()

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        budget = budget or Budget()
        descent_budget = budget if budget.deadline is None else budget.within(DESCENT_SHARE * budget.remaining)
        result, state = self.iterate(
            graph, query, init=init, budget=punctual(descent_budget, LAST_WORDS), generator=generator
        )
        descent, values, energy = state.descent, state.said.values, state.said.energy
        if self.rounding == "conditional" and not budget.expired:
            weights = conditional_rounding(state.function, descent.weights, punctual(budget, LAST_WORDS))
            values, energy = self._best(graph, state.function, weights)
        chosen = best_start(graph, self.starts, descent.energy)
        relaxed = of_start(self.starts, chosen, descent.energy)
        status, finished = result.status, result.status == int(Status.CONVERGED)
        status = torch.where(finished & descent.gave_up.reshape(self.starts, -1).any(0), int(Status.MAX_STEPS), status)
        stats: dict[str, Any] = {
            **result.stats,
            "relaxed_energy": relaxed,
            "rounded_energy": energy,
            "rounding_loss": energy - relaxed,
            "slack": of_start(self.starts, chosen, descent.slack),
            "penalty": state.penalty,
        }
        wins = energy < result.energy
        best = {
            name: torch.where(wins[graph.variables[name].instance].reshape(-1, *[1] * (v.dim() - 1)), v, old)
            for (name, v), old in zip(values.items(), (result.assignment[n] for n in values), strict=True)
        }
        lowest = torch.where(wins, energy, result.energy)
        return replace(result, assignment=Assignment(best), energy=lowest, status=status, stats=stats)

"""The augmented Lagrangian method: constraints met to their tolerance, by a sequence of unconstrained problems."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, FactorGraph, Real
from ebmstruct.graph.continuous import scattered
from ebmstruct.inference.descent.augmented import (
    Measured,
    augmented,
    constraints_of,
    inner_minimizers,
    measured,
    objective,
    reweighted,
    updated,
)
from ebmstruct.inference.descent.gradient_refusal import gradient_refusal
from ebmstruct.inference.descent.loop import falls_without_end
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Answer, Budget, Query, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import SmoothEnergy, open_continuous, precision, starting_point
from ebmstruct.inference.solver import IterativeMinimizer, Progress

ENOUGH = 0.1
"""An instance is feasible enough at this share of the factors' tolerance."""
LARGEST_PENALTY = 1e12
INFEASIBLE = 1e200
"""Assignments that break a constraint are ranked by this times their violation, behind all that do not."""
FIRST_TOLERANCE = 1e-3
"""Of the first inner problem; later ones are solved a hundred times more precisely each."""
INNER_STEPS = 200
"""After so many steps of the inner solver multipliers are updated although some instance is not done."""
SPARE_AFTER = 50
"""Steps in which least squares must have solved an inner problem; else L-BFGS goes on."""
LAST_WORDS = 1.5
"""How long the end takes, compared to the beginning."""
LOOK = 10
"""The best assignment so far is looked for at every so many steps of the inner solver."""


@dataclass(frozen=True, eq=False)
class AugmentedState:
    """Where the method stands; (B,) tensors have one entry an instance.

    values: where the present inner problem begins.  solver, inner: the inner solver and its state on the augmented graph
    ``made``, None until it has begun.  spare: the solver to go on with where that one is too slow.
    multipliers, penalty (B,): those of the present inner problem.
    last: (B,) how far the constraints were from being met after the last outer iteration, in units of their tolerances.
    stuck: (B,) outer iterations in a row without progress.  finished, infeasible, gave_up: (B,) how instances ended.
    tolerance: of the inner solver.  outer, steps, since: outer iterations, inner steps, and those of the present one.
    ranked: the best so far, ranked by energy or by violation.
    """

    values: dict[str, Tensor]
    solver: IterativeMinimizer[Any] | None
    spare: IterativeMinimizer[Any] | None
    made: FactorGraph | None
    inner: Any
    multipliers: dict[str, Tensor]
    penalty: Tensor
    first_penalty: Tensor
    last: Tensor
    stuck: Tensor
    retries: Tensor
    finished: Tensor
    infeasible: Tensor
    gave_up: Tensor
    tolerance: float
    ranked: Progress
    generator: Generator
    outer: int = 0
    steps: int = 0
    since: int = 0


@dataclass(frozen=True)
class AugmentedLagrangian(IterativeMinimizer[AugmentedState]):
    """Least energy under constraints by augmented Lagrangians (Hestenes 1969, Powell 1969, Rockafellar 1974).

    Equality and inequality ``ResidualFactor``s become penalties with multipliers, one for each entry of their residuals;
    the inner solver minimises, the multipliers follow, and where that brings too little the penalty of that instance
    grows (Nocedal and Wright 2006, ch. 17; Birgin and Martinez 2014). An instance ends CONVERGED where all its
    constraints are met to a tenth of their tolerance and the inner solver is done at its last tolerance; INFEASIBLE
    where the violation stays at a stationary positive value, ``retries`` scattered starts later still. That does not
    prove that no assignment exists; the least violation met comes back. Local minima; no bound.

    inner: an iterative minimiser of the penalised graph; None takes Levenberg-Marquardt where every factor is a residual
    (and L-BFGS where that is slow), else L-BFGS.  max_outer: outer iterations, after which an instance ends MAX_STEPS.
    Cost of a step: one of the inner solver's.
    """

    name: ClassVar[str] = "augmented_lagrangian"

    inner: IterativeMinimizer[Any] | None = None
    max_outer: int = 60
    retries: int = 1

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        reason = gradient_refusal(graph, query, constraints=True)
        if reason is not None:
            return reason
        if not constraints_of(graph):
            return "no factor is a constraint; lbfgs, and for residuals levenberg_marquardt, do without multipliers"
        if self.inner is None:
            return None
        zero = _zeros(graph, starting_point(graph, None))
        return self.inner.refuse(augmented(graph, zero, torch.ones(graph.num_instances)), Query())

    def begin(
        self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None
    ) -> AugmentedState:
        values = starting_point(graph, init)
        multipliers = _zeros(graph, values)
        one = torch.ones(graph.num_instances, dtype=torch.float64)
        none = torch.zeros_like(one).bool()
        found = measured(graph, values, multipliers, one)
        scale = objective(graph, values).abs().clamp(min=1.0) / found.square.clamp(min=1.0)
        penalty = (10 * scale).nan_to_num(nan=1.0, posinf=1.0).clamp(1e-3, 1e6)
        return AugmentedState(
            values,
            self.inner,
            None,
            None,
            None,
            multipliers,
            penalty,
            penalty,
            torch.full_like(one, torch.inf),
            none.long(),
            none.long(),
            none,
            none,
            none,
            FIRST_TOLERANCE,
            _ranked(graph, values, found.violation, none),
            default_generator(generator),
        )

    def step(self, graph: FactorGraph, query: Query, state: AugmentedState) -> AugmentedState:
        """One step of the inner solver, or, where it is done in all instances, new multipliers and penalties."""
        if state.solver is None or state.made is None:
            return _begun(graph, state)
        said = state.solver.progress(state.inner)
        if bool(said.done.all()):
            return self._outer(graph, state, said)
        if state.spare is not None and state.since >= SPARE_AFTER:
            return _begun(graph, replace(state, values=said.values, solver=state.spare, spare=None))
        if state.since >= INNER_STEPS:
            return self._outer(graph, state, said)
        solver = state.solver
        inner = solver.step(state.made, Query(), state.inner)
        state = replace(state, inner=inner, steps=state.steps + 1, since=state.since + 1)
        return state if state.steps % LOOK else _looked(graph, state, solver.progress(inner).values)

    def progress(self, state: AugmentedState) -> Progress:
        return state.ranked

    def _outer(self, graph: FactorGraph, state: AugmentedState, said: Progress) -> AugmentedState:
        """Judge what the inner solver found, and set it a new problem in the instances that go on."""
        found = measured(graph, said.values, state.multipliers, state.penalty)
        over = state.finished | state.infeasible | state.gave_up
        broken = ~(said.energy.isfinite() & found.progress.isfinite())
        endless = ~broken & falls_without_end(said.energy, precision(graph))
        met = said.done & ~endless & (found.progress <= ENOUGH) & (state.tolerance <= _last_tolerance(said.values))
        slow = found.progress > 0.25 * state.last
        stuck = torch.where((found.progress > 0.9 * state.last) & (found.violation > 1), state.stuck + 1, 0)
        hopeless = ~over & (stuck >= 3) & said.done
        if bool(hopeless.any()):
            hopeless &= _stationary(graph, said, found) | (state.penalty >= LARGEST_PENALTY)
        again = hopeless & (state.retries < self.retries)
        late = endless | torch.full_like(over, state.outer + 1 >= self.max_outer)
        state = _looked(graph, state, said.values, met & ~over)
        state = replace(
            state,
            multipliers=updated(graph, state.multipliers, state.penalty, found.residuals, ~over & ~broken),
            finished=state.finished | (~over & (met | broken)),
            infeasible=state.infeasible | (hopeless & ~again),
            gave_up=state.gave_up | (~over & late & ~met & ~broken & ~hopeless),
            stuck=torch.where(again, 0, stuck),
            retries=state.retries + again,
            last=torch.where(again, torch.inf, found.progress),
            penalty=torch.where(slow & ~over, (10 * state.penalty).clamp(max=LARGEST_PENALTY), state.penalty),
            tolerance=max(0.01 * state.tolerance, _last_tolerance(said.values)),
            outer=state.outer + 1,
        )
        values = said.values
        if bool(again.any()):
            state, values = _anew(graph, state, values, again)
        done = state.finished | state.infeasible | state.gave_up
        state = replace(state, values=values, ranked=replace(state.ranked, done=done))
        return state if bool(done.all()) else _begun(graph, state)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        result, state = self.iterate(graph, query, init=init, budget=punctual(budget, LAST_WORDS), generator=generator)
        if state.solver is not None and state.inner is not None:
            state = _looked(graph, state, state.solver.progress(state.inner).values)
        values = state.ranked.values
        status = torch.where(state.gave_up, int(Status.MAX_STEPS), result.status)
        status = torch.where(state.infeasible, int(Status.INFEASIBLE), status)
        feasible = state.ranked.energy < 0.5 * INFEASIBLE * 1e-30
        at_end = measured(graph, values, state.multipliers, state.penalty)
        trace = [e if e < INFEASIBLE * 1e-30 else float("inf") for e in result.stats["energy_trace"]]
        stats = {
            **result.stats,
            "energy_trace": trace,
            "outer_iterations": state.outer,
            "multipliers": state.multipliers,
            "penalty": state.penalty,
            "violation_in_tolerances": at_end.violation,
            "inner": "" if state.solver is None else state.solver.name,
        }
        energy = torch.where(feasible | state.ranked.energy.isnan(), state.ranked.energy, torch.inf)
        return replace(result, assignment=Assignment(values), energy=energy, status=status, stats=stats)


def _begun(graph: FactorGraph, state: AugmentedState) -> AugmentedState:
    """The inner solver at the beginning of the present problem."""
    made, solver, spare = state.made, state.solver, state.spare
    if made is None:
        made = augmented(graph, state.multipliers, state.penalty)
    else:
        made = reweighted(made, list(state.multipliers), state.multipliers, state.penalty)
    if solver is None:
        solver, spare = inner_minimizers(made)
    solver = _at_tolerance(solver, state.tolerance)
    inner = solver.begin(made, Query(), Assignment(state.values), None)
    return replace(state, solver=solver, spare=spare, made=made, inner=inner, since=0)


def _zeros(graph: FactorGraph, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """A multiplier of 0 for each entry of each constraint's residuals."""
    return {f.label: torch.zeros_like(f.residuals([values[n] for n in f.scope])) for f in constraints_of(graph)}


def _last_tolerance(values: dict[str, Tensor]) -> float:
    single = any(v.dtype == torch.float32 for v in values.values())
    return 1e-5 if single else 1e-8


def _at_tolerance(solver: IterativeMinimizer[Any], tolerance: float) -> IterativeMinimizer[Any]:
    """The solver told how precisely to solve: the largest gradient, or the relative decrease that goes with it."""
    if not dataclasses.is_dataclass(solver):
        return solver
    if hasattr(solver, "tolerance"):
        return dataclasses.replace(solver, tolerance=tolerance)
    if hasattr(solver, "relative_decrease"):
        return dataclasses.replace(solver, relative_decrease=max(1e-13, 10 * tolerance**2))
    return solver


def _ranked(graph: FactorGraph, values: dict[str, Tensor], violation: Tensor, done: Tensor) -> Progress:
    """What stands at ``values``: energies where they are feasible, else a number that ranks them by violation."""
    energy = graph.energy(values).detach().double()
    rank = torch.where(torch.isposinf(energy) & (violation > 0), INFEASIBLE * violation, energy)
    return Progress(values, rank, torch.full_like(rank, -torch.inf), done)


def _looked(
    graph: FactorGraph, state: AugmentedState, values: dict[str, Tensor], last: Tensor | None = None
) -> AugmentedState:
    """The state with its best replaced where ``values`` are better.

    last: (B,) instances that end here, which break their constraints less than what was better by a hair.
    """
    violation = measured(graph, values, state.multipliers, state.penalty).violation
    new, old = _ranked(graph, values, violation, state.ranked.done), state.ranked
    wins = (new.energy < old.energy) | (old.energy.isnan() & ~new.energy.isnan())
    if last is not None:
        wins |= last & (new.energy - old.energy <= 1e-4 * old.energy.abs().clamp(min=1.0))
    best = {}
    for name, value in new.values.items():
        site = wins[graph.variables[name].instance].reshape(-1, *[1] * (value.dim() - 1))
        best[name] = torch.where(site, value, old.values[name])
    return replace(state, ranked=replace(new, values=best, energy=torch.where(wins, new.energy, old.energy)))


def _stationary(graph: FactorGraph, said: Progress, found: Measured) -> Tensor:
    """(B,) bool: whether no small step lowers the sum of squares of what is broken, to a hundredth of its root."""
    multipliers = {label: torch.zeros_like(c) for label, c in found.residuals.items()}
    one = torch.ones_like(found.violation)
    energy = SmoothEnergy.of(augmented(graph, multipliers, one, objective=False), said.values)
    point = tuple(said.values[name] for name in energy.names)
    _, gradient = energy.with_gradient(point)
    moved = energy.retract(point, tuple(-g for g in gradient))
    kept = tuple(
        d.local(x, y) if isinstance(d, Real) else g
        for d, x, y, g in zip(energy.domains, point, moved, gradient, strict=True)
    )
    return energy.dot(kept, kept).sqrt() <= 1e-2 * (2 * found.square).sqrt()


def _anew(
    graph: FactorGraph, state: AugmentedState, values: dict[str, Tensor], again: Tensor
) -> tuple[AugmentedState, dict[str, Tensor]]:
    """Scattered starts, no multipliers and the first penalty in the instances ``again`` (B,)."""
    values = dict(values)
    for block in open_continuous(graph):
        assert isinstance(block.domain, Continuous)
        start = scattered(block.domain, block.num_sites, values[block.name].dtype, state.generator)
        values[block.name] = torch.where(again[block.instance][:, None], start, values[block.name])
    multipliers = {}
    for factor in constraints_of(graph):
        rows = again[graph.scope(factor)[0].instance[factor.index[0]]][:, None]
        multipliers[factor.label] = state.multipliers[factor.label].masked_fill(rows, 0.0)
    penalty = torch.where(again, state.first_penalty, state.penalty)
    return replace(state, multipliers=multipliers, penalty=penalty), values

"""Amortised inference: the answer of an energy model's own network, measured, with a solver behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.nested import named_solver, nested_minimum
from ebmstruct.inference.promise import Promise, SingleChanges
from ebmstruct.inference.refine import refine, refine_refusal
from ebmstruct.inference.result import Answer, Ask, Budget, Claim, Query, Result, Several, Status, Witness
from ebmstruct.inference.smooth_energy import clamped, open_continuous
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True, eq=False)
class _Answers:
    """What is known of a batch so far: values, energies, gaps, bounds, statuses, and what proves the bounds."""

    values: dict[str, Tensor]
    energy: Tensor
    gap: Tensor
    bound: Tensor
    status: Tensor
    witness: Witness | None = None


@dataclass(frozen=True)
class AmortisedInference(Solver):
    """Low energy in one look: the graph's guess is decoded and its gap measured; what is past tolerance is solved.

    An energy model whose graphs carry the guess of an inference network (``Amortised``; Tu and Gimpel 2018) is asked for
    nothing but that guess: the heaviest state of each discrete site, the value of each continuous one. Then the energy
    of the answer is computed, with what single changes still promise (``promise``): the gap of Frank and Wolfe, a bound
    on the true gap where the relaxed energy is convex and a first-order measure of it elsewhere. An instance whose gap is
    within tolerance is CONVERGED; the others, and they alone, go to the fallback, which begins where it would
    without a guess, so that the answer is never worse than its own.

    tolerance: the largest gap that is accepted, as a share of max(1, |energy|).
    fallback: a solver, or its name with ``fallback_options``; None leaves it to the engine.
    refine: cheap steps, at most, of instances whose gap is past tolerance. Each makes all changes that promise something,
    or, where they together do not lower the energy, the one that promises most, or none.
    bound: a solver, or its name, whose lower bound is asked for, in ``bound_steps`` steps; the gap is then the distance
    to that bound wherever this is less, and OPTIMAL can be proven.
    With open continuous blocks ``refine`` + 1 steps of a local minimiser are taken at the guessed states, and what they
    have gained counts as gap.
    Cost: one energy with its gradient, and one to certify; the fallback's for the instances that need it.
    """

    name: ClassVar[str] = "amortised"

    tolerance: float = 1e-3
    fallback: Solver | str | None = None
    fallback_options: Mapping[str, Any] = field(default_factory=dict)
    refine: int = 0
    bound: Solver | str | None = None
    bound_steps: int = 20

    def __post_init__(self) -> None:
        for name, least in (("tolerance", 0), ("refine", 0), ("bound_steps", 1)):
            if not getattr(self, name) >= least:
                raise GraphError(f"AmortisedInference: {name} must be at least {least}; found {getattr(self, name)}")
        if self.fallback_options and not isinstance(self.fallback, str):
            raise GraphError("AmortisedInference: fallback_options belong to a fallback that is given by its name")
        _ = self._behind, self._below

    @cached_property
    def _behind(self) -> Solver | None:
        return named_solver(self.fallback, self.fallback_options)

    @cached_property
    def _below(self) -> Solver | None:
        return named_solver(self.bound)

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.MINIMIZE:
            return f"it only minimises; {query.ask} was asked"
        if query.sum_out:
            return "it cannot sum blocks out"
        if query.k > 1:
            return f"it finds one assignment; {query.k} were asked"
        guess = graph.guess or {}
        silent = [n for n, v in graph.variables.items() if v.num_sites and n not in guess and not clamped(graph, n)]
        if silent:
            return (
                f"the graph carries no first guess for blocks {silent}; an energy model joined to an inference network "
                "(Amortised) gives one"
            )
        if open_continuous(graph):
            reason = refine_refusal(graph)
            if reason is not None:
                return reason
        return None if self._behind is None else self._behind.refuse(graph, query)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        """The decoded guess, where it is good enough; ``init`` is for the fallback alone."""
        budget = budget or Budget()
        found, guessed = self._measured(graph, decoded(graph), budget, generator)
        if self.bound is not None and not budget.expired:
            found = self._bounded(graph, found, budget, generator)
        accepted = found.energy.isfinite() & (found.gap <= self._limit(found.energy))
        measured = found.gap
        behind = "" if self._behind is None else self._behind.name
        if not bool(accepted.all()):
            found = replace(found, status=torch.where(accepted, int(Status.CONVERGED), int(Status.MAX_STEPS)))
            found, behind = self._fallen_back(graph, found, ~accepted, init, budget, generator)
        return Result(
            Assignment(found.values),
            found.energy,
            found.bound,
            found.status,
            solver=self.name,
            witness=found.witness,
            stats={"guess_energy": guessed, "measured_gap": measured, "fell_back": ~accepted, "fallback": behind},
        )

    def _limit(self, energy: Tensor) -> Tensor:
        """(B,) the largest gap that is accepted."""
        return self.tolerance * energy.abs().clamp(min=1.0)

    def _measured(
        self, graph: FactorGraph, values: dict[str, Tensor], budget: Budget, generator: Generator | None
    ) -> tuple[_Answers, Tensor]:
        """The decoded guess after the cheap steps, and the energy that it had before."""
        gained: Tensor | float = 0.0
        first: Tensor | None = None
        if open_continuous(graph):
            first = graph.energy(values)
            steps = replace(budget, max_steps=self.refine + 1)
            better_points = refine(graph, Assignment(values), steps, generator)
            values = {**values, **graph.complete(better_points.assignment)}
        look = SingleChanges(graph, {n: v for n, v in values.items() if v.is_floating_point()})
        now = look(values)
        if first is None:
            first = now.energy
        else:
            gained = first - now.energy
        for _ in range(self.refine):
            past = now.total > self._limit(now.energy)
            if budget.expired or not bool(past.any()):
                break
            values, now = changed(look, values, now, past)
        nothing = torch.full_like(now.energy, -torch.inf)
        status = torch.full_like(now.energy, int(Status.CONVERGED), dtype=torch.long)
        return _Answers(values, now.energy, now.total + gained, nothing, status), first

    def _bounded(self, graph: FactorGraph, found: _Answers, budget: Budget, generator: Generator | None) -> _Answers:
        """The same with the lower bounds of the bounding solver, and its answers where they are lower."""
        steps = replace(budget, max_steps=self.bound_steps)
        other = nested_minimum(graph, self._below, Assignment(found.values), steps, generator)
        if other is None:
            return found
        best = _lower(graph, found, other)
        gap = torch.minimum(found.gap, best.energy - other.lower_bound)
        return replace(best, gap=gap, bound=other.lower_bound, witness=other.witness)

    def _fallen_back(
        self,
        graph: FactorGraph,
        found: _Answers,
        wanted: Tensor,
        init: Assignment | None,
        budget: Budget,
        generator: Generator | None,
    ) -> tuple[_Answers, str]:
        """The same after the fallback has answered for the instances that are wanted, and its name."""
        if budget.expired:
            late = torch.where(wanted, int(Status.DEADLINE), found.status)
            return replace(found, status=late), ""
        part, instances = _part(graph.with_guess(None), wanted)
        if init is not None:
            init = Assignment({n: v[graph.variables[n].sites_of(instances)] for n, v in init.items()})
        solved = nested_minimum(part, self._behind, init, budget, generator)
        if solved is None:
            return found, ""
        whole = _spread(graph, found, solved, instances)
        best = _lower(graph, found, whole, wanted)
        bound = torch.where(wanted, torch.maximum(found.bound, whole.lower_bound), found.bound)
        status = torch.where(wanted, whole.status, found.status)
        witness: Witness | None = found.witness
        if bool((bound > found.bound).any()):  # certified for the part already; its record does not fit the whole graph
            claim = Claim(solved.solver)
            parts = () if witness is None else witness.parts if isinstance(witness, Several) else (witness,)
            witness = Several((*parts, claim)) if parts else claim
        return replace(best, bound=bound, status=status, witness=witness), solved.solver


def decoded(graph: FactorGraph) -> dict[str, Tensor]:
    """Values of every block by the graph's first guess: the heaviest legal state, or the value itself; evidence wins."""
    values: dict[str, Tensor] = {}
    for name, block in graph.variables.items():
        given = None if graph.guess is None else graph.guess.get(name)
        if not isinstance(block.domain, Discrete):
            if given is not None:
                values[name] = block.domain.project(given.detach())
            else:  # without sites, or clamped whole
                values[name] = block.domain.start(block.num_sites, torch.float64)
            continue
        if given is None:
            values[name] = torch.zeros(block.num_sites, dtype=torch.long)
            continue
        weights = given.detach().nan_to_num(nan=0.0)
        if graph.evidence is None and block.discrete.uniform and block.discrete.largest == 2:
            values[name] = (weights[:, 1] > weights[:, 0]).long()  # several times quicker than argmax over two columns
            continue
        if not block.discrete.uniform:
            there = torch.arange(weights.shape[1]) < block.state_counts[:, None]
            weights = weights.masked_fill(~there, -torch.inf)
        allowed = graph.allowed(name)
        if allowed is not None:
            weights = weights.masked_fill(~allowed, -torch.inf)
        values[name] = weights.argmax(1)
    return values if graph.evidence is None and len(values) == len(graph.variables) else graph.complete(values)


def changed(
    look: SingleChanges, values: dict[str, Tensor], now: Promise, moving: Tensor
) -> tuple[dict[str, Tensor], Promise]:
    """The moving instances after all changes that promise something, where that lowers them, else after the best one.

    moving: (B,) bool; where neither lowers an instance, and where it is not moving, it stays as it is.
    """
    every = now.energy.numel() == 1 or bool(moving.all())
    trial = dict(values)
    for name, gain in now.gains.items():
        change = gain > 0
        if not every:
            change = change & moving[look.graph.variables[name].instance]
        trial[name] = torch.where(change, now.states[name], values[name])
    there = look(trial)
    worse = moving & ~(there.energy <= now.energy)
    return (trial, there) if not bool(worse.any()) else _changed_singly(look, values, now, trial, worse)


def _changed_singly(
    look: SingleChanges, values: dict[str, Tensor], now: Promise, trial: dict[str, Tensor], worse: Tensor
) -> tuple[dict[str, Tensor], Promise]:
    """The trial, but where it is worse with the one change that promises most, or with none."""
    owners = {name: look.graph.variables[name].instance for name in now.gains}
    trial = dict(trial)
    most = torch.zeros_like(now.energy)
    for name, gain in now.gains.items():
        most = most.scatter_reduce(0, owners[name], gain, "amax")
    free = worse & (most > 0)
    for name, gain in now.gains.items():
        owner = owners[name]
        one = _first_of_each((gain >= most[owner]) & free[owner], owner, worse.numel())
        free = free & ~torch.zeros_like(free).index_fill(0, owner[one], True)
        alone = torch.where(one, now.states[name], values[name])
        trial[name] = torch.where(worse[owner], alone, trial[name])
    there = look(trial)
    kept = worse & ~(there.energy <= now.energy)
    if not bool(kept.any()):
        return trial, there
    for name, owner in owners.items():
        trial[name] = torch.where(kept[owner], values[name], trial[name])
    return trial, look(trial)


def _part(graph: FactorGraph, wanted: Tensor) -> tuple[FactorGraph, Tensor]:
    """The graph of the instances wanted, and (b,) which they are; the whole where a factor cannot be taken apart."""
    everything = torch.arange(graph.num_instances)
    if bool(wanted.all()):
        return graph, everything
    try:
        return graph.select(everything[wanted]), everything[wanted]
    except GraphError:
        return graph, everything


def _first_of_each(mask: Tensor, owner: Tensor, count: int) -> Tensor:
    """(n,) bool: of the sites in the mask only the first of each instance."""
    places = torch.arange(mask.numel())
    least = torch.full((count,), mask.numel()).scatter_reduce(0, owner, torch.where(mask, places, mask.numel()), "amin")
    return mask & (places == least[owner])


def _lower(graph: FactorGraph, found: _Answers, other: Result, where: Tensor | None = None) -> _Answers:
    """The answers with the values of another result in the instances in which it is lower."""
    wins = (other.energy < found.energy) | (found.energy.isnan() & ~other.energy.isnan())
    wins = wins if where is None else wins & where
    values = {}
    for name, value in found.values.items():
        site = wins[graph.variables[name].instance].reshape(-1, *[1] * (value.dim() - 1))
        values[name] = torch.where(site, other.assignment[name].to(value.dtype), value)
    return replace(found, values=values, energy=torch.where(wins, other.energy, found.energy))


def _spread(graph: FactorGraph, found: _Answers, part: Result, instances: Tensor) -> Result:
    """A result about some instances as one about all: the others keep what was found."""
    values = {}
    for name, value in found.values.items():
        sites = graph.variables[name].sites_of(instances)
        theirs = part.assignment.get(name)
        values[name] = value if theirs is None else value.index_copy(0, sites, theirs.to(value.dtype))
    return Result(
        Assignment(values),
        found.energy.index_copy(0, instances, part.energy),
        found.bound.index_copy(0, instances, part.lower_bound),
        found.status.index_copy(0, instances, part.status),
    )

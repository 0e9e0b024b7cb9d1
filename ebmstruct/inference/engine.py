"""Answers with their quality: choose a solver, run it, certify what it returned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError, InferenceFailed, SolverRefusal
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Result, Samples, Status
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.solvers import Exhaustive, VariableElimination
from ebmstruct.inference.structure import describe

TOLERANCE = 1e-6
"""OPTIMAL needs a gap of at most TOLERANCE * max(1, |energy|)."""

DEFAULT_SOLVERS: tuple[Solver, ...] = (VariableElimination(), Exhaustive())
"""Tried in this order: the first that does not refuse answers."""


@dataclass(frozen=True)
class Choice:
    """Which solver would answer a query, and why the others would not.

    structure: what was found in the graph, in a sentence.  refusals: solver name to its reason.
    """

    query: Query
    structure: str
    solver: Solver | None
    refusals: dict[str, str]
    cost: Cost | None

    def __str__(self) -> str:
        lines = [f"query:  {self.query.ask}", f"graph:  {self.structure}"]
        if self.solver is None:
            lines.append("chosen: none, every solver refuses")
        else:
            lines.append(f"chosen: {self.solver.name}" + (f" ({self.cost})" if self.cost else ""))
        lines += [f"refused by {name}: {reason}" for name, reason in self.refusals.items()]
        return "\n".join(lines)


def explain(graph: FactorGraph, query: Query | None = None, *, solvers: Sequence[Solver] | None = None) -> Choice:
    """Say which solver would answer ``query`` (minimise, by default) about ``graph``, at what cost, and why."""
    query = query or Query()
    refusals: dict[str, str] = {}
    for solver in solvers or DEFAULT_SOLVERS:
        reason = solver.refuse(graph, query)
        if reason is None:
            return Choice(query, describe(graph), solver, refusals, solver.cost(graph, query))
        refusals[solver.name] = reason
    return Choice(query, describe(graph), None, refusals, None)


def minimize(
    graph: FactorGraph,
    solver: Solver | None = None,
    *,
    init: Assignment | None = None,
    budget: Budget | None = None,
    sum_out: Sequence[str] = (),
    k: int = 1,
    temperature: float = 1.0,
    generator: Generator | None = None,
    throw: bool = False,
) -> Result:
    """Find an assignment of least energy, with its energy, lower bound, gap and status.

    solver: the one to use; without it the first that does not refuse (``explain`` says which).
    init: where iterative solvers start.  sum_out: blocks to sum out at ``temperature`` instead of minimising.
    k: how many best assignments to find (``Result.alternatives``).
    throw: raise InferenceFailed, with the result, unless every instance ended OPTIMAL or CONVERGED.
    Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.MINIMIZE, sum_out=tuple(sum_out), k=k, temperature=temperature)
    with torch.no_grad():
        answer = _ask(graph, query, solver, init, budget, generator)
        assert isinstance(answer, Result)
        result = certify(graph, answer) if not query.sum_out else answer
    if throw and bool((result.status > Status.CONVERGED).any()):
        worst = Status(int(result.status.max()))
        where = (result.status == worst).nonzero()[:, 0].tolist()
        raise InferenceFailed(f"instances {where[:10]} ended {worst.name}: {worst.message}", result)
    return result


def marginals(
    graph: FactorGraph,
    solver: Solver | None = None,
    *,
    temperature: float = 1.0,
    factors: Sequence[str] = (),
    budget: Budget | None = None,
    generator: Generator | None = None,
) -> Marginals:
    """Compute the probability of each state of each site under exp(-E / temperature).

    factors: labels of factors whose joint beliefs are wanted too.
    Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.MARGINALS, temperature=temperature, factors=tuple(factors))
    with torch.no_grad():
        answer = _ask(graph, query, solver, None, budget, generator)
    assert isinstance(answer, Marginals)
    return answer


def log_partition(graph: FactorGraph, solver: Solver | None = None, *, temperature: float = 1.0) -> Tensor:
    """(B,) log of the sum over assignments of exp(-E / temperature), differentiable in the factors' values.

    An infeasible instance has -inf. Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.LOG_PARTITION, temperature=temperature)
    return _choose(graph, query, solver).log_partition(graph, temperature)


def sample(
    graph: FactorGraph,
    solver: Solver | None = None,
    *,
    num_samples: int,
    temperature: float = 1.0,
    budget: Budget | None = None,
    generator: Generator | None = None,
) -> Samples:
    """Draw ``num_samples`` assignments of each instance from exp(-E / temperature).

    generator: the source of randomness; the same seed gives the same samples.
    Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.SAMPLE, temperature=temperature, num_samples=num_samples)
    with torch.no_grad():
        answer = _ask(graph, query, solver, None, budget, generator)
    assert isinstance(answer, Samples)
    return answer


def certify(graph: FactorGraph, proposed: Result) -> Result:
    """Recompute the energy of a proposed result, hold it against the bound, and set the status by that.

    OPTIMAL is given where the gap is within tolerance; a bound without a witness counts for nothing, and one that
    rounding put above the energy is lowered to it;
    an instance whose energy is NaN ends NONFINITE, one whose bound is +inf INFEASIBLE.
    """
    if graph.evidence is not None:
        proposed = replace(proposed, assignment=Assignment(graph.complete(proposed.assignment)))
    energy = graph.energy(proposed.assignment)
    if proposed.witness is None:
        proposed = replace(proposed, lower_bound=torch.full_like(energy, -torch.inf))
    if not proposed.alternatives and math.isfinite(float(energy.sum())):
        proven = energy - proposed.lower_bound <= TOLERANCE * energy.abs().clamp(min=1.0)
        if bool(proven.all()):  # by far the most frequent end, and control loops wait for it
            bound = torch.minimum(proposed.lower_bound, energy)
            return replace(proposed, energy=energy, lower_bound=bound, status=torch.zeros_like(proposed.status))
    return _certify_each(graph, proposed, energy)


def _certify_each(graph: FactorGraph, proposed: Result, energy: Tensor) -> Result:
    """The same where instances ended differently."""
    bound = torch.where(proposed.lower_bound.isnan(), -torch.inf, proposed.lower_bound)
    infeasible = torch.isposinf(bound) & ~torch.isfinite(energy)
    bound = torch.where(infeasible, bound, torch.minimum(bound, energy))
    proven = ((energy - bound) <= TOLERANCE * energy.abs().clamp(min=1.0)) & energy.isfinite()
    status = torch.where(proven, int(Status.OPTIMAL), proposed.status.clamp(min=int(Status.CONVERGED)))
    status = torch.where(infeasible, int(Status.INFEASIBLE), status)
    broken = energy.isnan() | torch.isneginf(energy)
    status = torch.where(broken, int(Status.NONFINITE), status)
    bound = torch.where(broken, -torch.inf, bound)
    alternatives = proposed.alternative_energies
    if proposed.alternatives:
        alternatives = torch.stack([graph.energy(y) for y in proposed.alternatives])
        assert proposed.alternative_energies is not None
        alternatives = torch.where(torch.isposinf(proposed.alternative_energies), torch.inf, alternatives)
    return replace(proposed, energy=energy, lower_bound=bound, status=status, alternative_energies=alternatives)


def _choose(graph: FactorGraph, query: Query, solver: Solver | None) -> Solver:
    for name, value, fine in (
        ("k", query.k, query.k >= 1),
        ("num_samples", query.num_samples, query.num_samples >= 1),
        ("temperature", query.temperature, 0 < query.temperature < math.inf),
    ):
        if not fine:
            legal = "a positive number" if name == "temperature" else "at least 1"
            raise GraphError(f"{query.ask} was asked with {name} {value}; legal is {legal}")
    if solver is not None:
        reason = solver.refuse(graph, query)
        if reason is not None:
            raise SolverRefusal(f"{solver.name} cannot {query.ask} here: {reason}", {solver.name: reason})
        return solver
    refusals: dict[str, str] = {}
    for candidate in DEFAULT_SOLVERS:
        reason = candidate.refuse(graph, query)
        if reason is None:
            return candidate
        refusals[candidate.name] = reason
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
    raise SolverRefusal(f"no solver can {query.ask} over {describe(graph)} ({reasons})", refusals)


def _ask(
    graph: FactorGraph,
    query: Query,
    solver: Solver | None,
    init: Assignment | None,
    budget: Budget | None,
    generator: Generator | None,
) -> Answer:
    return _choose(graph, query, solver).solve(graph, query, init=init, budget=budget, generator=generator)

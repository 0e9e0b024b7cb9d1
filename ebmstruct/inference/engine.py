"""Answers with their quality: choose a solver, run it, certify what it returned."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError, InferenceFailed, SolverRefusal
from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.inference.broken import broken_instances, marked, mended
from ebmstruct.inference.certificate import sums_squares, violation, witness_bound
from ebmstruct.inference.choice import Choice, choose, exact_at_once, explain_named
from ebmstruct.inference.clamping import tables_left, with_clamped
from ebmstruct.inference.latent.certifying import certify_free_energy
from ebmstruct.inference.portfolio import race
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Result, Samples, Status, SumOfSquares
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.solvers import SOLVERS, VariableElimination

logger = logging.getLogger("ebmstruct")

TOLERANCE = 1e-6
"""OPTIMAL needs a gap of at most TOLERANCE * max(1, |energy|)."""


def explain(
    graph: FactorGraph,
    query: Query | None = None,
    *,
    solvers: Sequence[Solver] | None = None,
    budget: Budget | None = None,
) -> Choice:
    """Say which solvers would answer ``query`` (minimise, by default) within ``budget``, at what cost, and why.

    solvers: the only ones to ask; the first that does not refuse answers.
    """
    query = query or Query()
    return choose(graph, query, budget) if solvers is None else explain_named(graph, query, solvers)


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

    solver: the one to use; without it the graph's structure and the budget decide, and hard graphs get a race of
    several (``explain`` says which).
    init: where iterative solvers start.  sum_out: blocks to sum out at ``temperature`` instead of minimising.
    k: how many best assignments to find (``Result.alternatives``).
    throw: raise InferenceFailed, with the result, unless every instance ended OPTIMAL or CONVERGED.
    Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.MINIMIZE, sum_out=tuple(sum_out), k=k, temperature=temperature)
    with torch.no_grad():
        answer = _ask(graph, query, solver, init, budget, generator)
        assert isinstance(answer, Result)
        summed = bool(query.sum_out)
        result = certify_free_energy(graph, query, answer, TOLERANCE) if summed else certify(graph, answer)
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
    init: Assignment | None = None,
    budget: Budget | None = None,
    generator: Generator | None = None,
) -> Marginals:
    """Compute the probability of each state of each site under exp(-E / temperature); means where it is continuous.

    factors: labels of factors whose joint beliefs are wanted too.  init: where iterative solvers start.
    Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.MARGINALS, temperature=temperature, factors=tuple(factors))
    with torch.no_grad():
        answer = _ask(graph, query, solver, init, budget, generator)
    assert isinstance(answer, Marginals)
    return answer


def log_partition(graph: FactorGraph, solver: Solver | None = None, *, temperature: float = 1.0) -> Tensor:
    """(B,) log of the sum over assignments of exp(-E / temperature), differentiable in the factors' values.

    An infeasible instance has -inf. Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.LOG_PARTITION, temperature=temperature)
    _check(query)
    tables = tables_left(graph)
    graph = graph if tables is None else tables
    one = _one(graph, query, solver)
    if one is None:
        choice = _chosen(graph, query, None)
        one = choice.entries[0].solver
        if type(one).log_partition is Solver.log_partition:
            raise SolverRefusal(
                f"no solver can compute an exact, differentiable log partition over {choice.structure}; "
                "bound_log_partition gives an interval that holds it",
                choice.refusals,
            )
    return one.log_partition(graph, temperature)


def bound_log_partition(
    graph: FactorGraph,
    solver: Solver | None = None,
    *,
    temperature: float = 1.0,
    budget: Budget | None = None,
    generator: Generator | None = None,
) -> Marginals:
    """The log partition with a status, not differentiable: exact where a solver can, else an interval that holds it.

    Where ``exact`` is False, ``stats`` has ``log_partition_lower`` and ``log_partition_upper``, (B,) each, as far as
    the solver gives them. Beliefs may be missing. Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.LOG_PARTITION, temperature=temperature)
    with torch.no_grad():
        answer = _ask(graph, query, solver, None, budget, generator)
    assert isinstance(answer, Marginals)
    return answer


def sample(
    graph: FactorGraph,
    solver: Solver | None = None,
    *,
    num_samples: int,
    temperature: float = 1.0,
    init: Assignment | None = None,
    budget: Budget | None = None,
    generator: Generator | None = None,
    quiet: bool = False,
) -> Samples:
    """Draw ``num_samples`` assignments of each instance from exp(-E / temperature).

    init: where chains start; without it they start apart from each other.
    generator: the source of randomness; the same seed gives the same samples.
    quiet: leave the warnings in the answer and out of the log, for whoever samples at every step of a training.
    Errors: SolverRefusal where no solver takes the graph.
    """
    query = Query(Ask.SAMPLE, temperature=temperature, num_samples=num_samples)
    with torch.no_grad():
        answer = _ask(graph, query, solver, init, budget, generator)
    assert isinstance(answer, Samples)
    for sentence in () if quiet else answer.warnings:
        logger.warning("%s: %s", answer.solver, sentence)
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
    broken = violation(graph, proposed.assignment)
    if any(isinstance(v.domain, Continuous) for v in graph.variables.values()):
        gone = torch.isposinf(energy) & (proposed.status <= int(Status.CONVERGED))
        status = proposed.status.masked_fill(gone, int(Status.INFEASIBLE))
        proposed = replace(proposed, violation=broken, status=status)
    if proposed.witness is None and sums_squares(graph):
        proposed = replace(proposed, witness=SumOfSquares(), lower_bound=witness_bound(graph, SumOfSquares()))
    if proposed.witness is None:
        proposed = replace(proposed, lower_bound=torch.full_like(energy, -torch.inf))
    if not proposed.alternatives and math.isfinite(float(energy.sum())):
        if proposed.witness is None:  # no bound, and so nothing to prove
            status = proposed.status.clamp(min=int(Status.CONVERGED))
            return replace(proposed, energy=energy, status=status)
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
        assert alternatives is not None
        alternatives = alternatives.clone()
        for slot in (~torch.isposinf(alternatives)).any(1).nonzero()[:, 0].tolist():  # slots that exist
            again = graph.energy(proposed.alternatives[slot])
            alternatives[slot] = torch.where(torch.isposinf(alternatives[slot]), torch.inf, again)
    return replace(proposed, energy=energy, lower_bound=bound, status=status, alternative_energies=alternatives)


def _check(query: Query) -> None:
    for name, value, fine in (
        ("k", query.k, query.k >= 1),
        ("num_samples", query.num_samples, query.num_samples >= 1),
        ("temperature", query.temperature, 0 < query.temperature < math.inf),
    ):
        if not fine:
            legal = "a positive number" if name == "temperature" else "at least 1"
            raise GraphError(f"{query.ask} was asked with {name} {value}; legal is {legal}")


def _one(graph: FactorGraph, query: Query, solver: Solver | None) -> Solver | None:
    """The solver that answers alone, where that is known without looking further: the one named, or the quickest."""
    if solver is None:
        return exact_at_once(graph, query)
    if not isinstance(solver, Solver):
        names = ", ".join(f"{cls.__name__}()" for cls in SOLVERS.values())
        raise GraphError(f"a solver is an object such as {names}; found {solver!r}")
    reason = solver.refuse(graph, query)
    if reason is not None:
        raise SolverRefusal(f"{solver.name} cannot {query.ask.phrase} here: {reason}", {solver.name: reason})
    return solver


def _chosen(graph: FactorGraph, query: Query, budget: Budget | None) -> Choice:
    choice = choose(graph, query, budget)
    if not choice.entries:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in choice.refusals.items())
        raise SolverRefusal(f"no solver can {query.ask.phrase} over {choice.structure} ({reasons})", choice.refusals)
    return choice


def _ask(
    graph: FactorGraph,
    query: Query,
    solver: Solver | None,
    init: Assignment | None,
    budget: Budget | None,
    generator: Generator | None,
) -> Answer:
    _check(query)
    tables = tables_left(graph)
    if tables is not None:
        return with_clamped(graph, _ask(tables, query, solver, init, budget, generator))
    one = _one(graph, query, solver)
    if not isinstance(one, VariableElimination):  # whose kernels live with such entries by themselves
        broken = broken_instances(graph)
        if broken is not None:
            sound = mended(graph, broken)
            return marked(_ask(sound, query, solver, init, budget, generator), broken)
    if one is None:
        choice = _chosen(graph, query, budget)
        if len(choice.entries) > 1:
            return race(graph, query, choice.entries, init=init, budget=budget, generator=generator)
        one = choice.entries[0].solver
    return one.solve(graph, query, init=init, budget=budget, generator=generator)

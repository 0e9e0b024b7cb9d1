"""Free energies held against a second way of summing: what the engine does with an answer of marginal MAP."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.clamping import tables_left
from ebmstruct.inference.latent.free_energy import is_linear, latent_blocks
from ebmstruct.inference.latent.linear_integral import LinearIntegral
from ebmstruct.inference.result import Ask, Query, Result, Status
from ebmstruct.inference.solver import Solver

MOST_OPERATIONS = 2e7
"""What the second sum may take; a longer one is not made."""


def certify_free_energy(graph: FactorGraph, query: Query, proposed: Result, tolerance: float) -> Result:
    """The answer with its free energy recomputed at its outputs where a second way is quick, and its status by that.

    Tables are summed by variable elimination or a junction tree with the outputs clamped, linear latents by their band;
    other free energies stay as the solver says. OPTIMAL needs a gap of at most ``tolerance`` * max(1, |F|).
    """
    energy = proposed.energy
    if proposed.integration == "exact":
        again = second_sum(graph, query, proposed.assignment)
        if again is not None:
            energy = torch.where(energy.isfinite() & ~again.isnan(), again, energy)
    bound = torch.minimum(proposed.lower_bound, energy)
    bound = bound if proposed.witness is not None else torch.full_like(energy, -torch.inf)
    lost = energy.isnan() | torch.isneginf(energy)
    proven = ((energy - bound) <= tolerance * energy.abs().clamp(min=1.0)) & energy.isfinite()
    status = torch.where(proposed.status == int(Status.OPTIMAL), int(Status.CONVERGED), proposed.status)
    status = torch.where(proven & (status == int(Status.CONVERGED)), int(Status.OPTIMAL), status)
    status = torch.where(lost, int(Status.NONFINITE), status)
    bound = torch.where(lost | bound.isnan(), -torch.inf, bound)
    return replace(proposed, energy=energy, lower_bound=bound, status=status)


def second_sum(graph: FactorGraph, query: Query, found: Assignment) -> Tensor | None:
    """(B,) the free energy at given outputs by a method of its own; None where there is none, or none that is quick."""
    discrete, continuous = latent_blocks(graph, query.sum_out)
    try:
        if continuous:
            if discrete or not is_linear(graph, continuous):
                return None
            values = {n: found[n] for n in graph.variables}
            integral = LinearIntegral.of(graph, continuous, query.temperature)
            return integral.free(values, integral.mode(values, values))
        fixed = graph.condition(Assignment({n: found[n] for n in graph.variables if n not in query.sum_out}))
        left = tables_left(fixed) or fixed
        solver = _summing(left)
        if solver is None:
            return None
        return -query.temperature * solver.log_partition(left, query.temperature)
    except (GraphError, SolverRefusal):  # a value that the evidence contradicts: the instance is infeasible
        return None


def _summing(graph: FactorGraph) -> Solver | None:
    from ebmstruct.inference.solvers import JunctionTree, VariableElimination

    query = Query(Ask.LOG_PARTITION)
    for solver in (VariableElimination(), JunctionTree()):
        if solver.refuse(graph, query) is None:
            cost = solver.cost(graph, query)
            return solver if cost is None or cost.operations <= MOST_OPERATIONS else None
    return None

"""What a mixed graph consists of: its discrete part, its residuals, and what is known of them beforehand."""

from __future__ import annotations

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Continuous, Discrete, FactorGraph, Real, ResidualFactor, Topology
from ebmstruct.inference.refine import refine_refusal
from ebmstruct.inference.result import Ask, Query
from ebmstruct.inference.smooth_energy import clamped, open_continuous


def discrete_blocks(graph: FactorGraph) -> tuple[str, ...]:
    """The names of the discrete blocks, clamped ones included."""
    return tuple(n for n, v in graph.variables.items() if isinstance(v.domain, Discrete))


def mixed_refusal(graph: FactorGraph, query: Query) -> str | None:
    """Why a graph has no discrete states to choose around a continuous minimum, in a sentence; None where it has."""
    if query.ask is not Ask.MINIMIZE or query.sum_out:
        return "it minimises, with no block summed out"
    if not open_continuous(graph):
        return "no continuous block is open; solvers of tables do without a continuous solve inside"
    if not any(graph.variables[n].num_sites and not clamped(graph, n) for n in discrete_blocks(graph)):
        return "no discrete block is open; continuous minimisers do without states to choose"
    try:
        graph.repeat(1)
    except GraphError as fault:
        return f"it works on copies of the graph, and that cannot be copied: {fault}"
    return refine_refusal(graph)


def discrete_part(graph: FactorGraph) -> FactorGraph:
    """The graph over the discrete blocks with those factors that look at nothing else, and the constant."""
    names = set(discrete_blocks(graph))
    factors = [f for f in graph.factors if names.issuperset(f.scope)]
    blocks = [v for n, v in graph.variables.items() if n in names]
    topology = graph.topology.derive("discrete part", lambda: Topology(blocks, factors))
    evidence = graph.evidence
    if evidence is not None:
        parts = (evidence.values, evidence.known, evidence.allowed)
        evidence = Assignment(*({k: v for k, v in p.items() if k in names} for p in parts))
    return FactorGraph((), factors, constant=graph.constant, evidence=evidence, topology=topology)


def never_negative(graph: FactorGraph) -> bool:
    """Whether every factor over a continuous block is a residual: the discrete part is then a lower bound."""
    return all(
        isinstance(f, ResidualFactor)
        for f in graph.factors
        if any(isinstance(v.domain, Continuous) for v in graph.scope(f))
    )


def quadratic_inside(graph: FactorGraph) -> bool:
    """Whether the energy is a quadratic function of free vectors once states are chosen, by the factors' own word."""
    for factor in graph.factors:
        if any(isinstance(v.domain, Continuous) and not clamped(graph, v.name) for v in graph.scope(factor)):
            affine = isinstance(factor, ResidualFactor) and factor.linear and not factor.constraint
            if not affine or not isinstance(factor, ResidualFactor) or factor.loss is not None:
                return False
    return all(isinstance(v.domain, Real) and not v.domain.bounded for v in open_continuous(graph))

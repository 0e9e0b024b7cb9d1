"""Clamp the continuous blocks, and tables remain: the discrete side of a mixed graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.assignment import Assignment, Values
from ebmstruct.graph.cells import cells_of
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.factor_graph import FactorGraph
from ebmstruct.graph.factors import Factor
from ebmstruct.graph.function_tables import FunctionTableFactor
from ebmstruct.graph.gaussians import GaussianFactor
from ebmstruct.graph.residuals import ResidualFactor
from ebmstruct.graph.tables import TableFactor
from ebmstruct.graph.topology import Topology
from ebmstruct.graph.variables import Variables


def tabulation_refusal(graph: FactorGraph) -> str | None:
    """Why a graph's factors do not become tables once its continuous blocks are clamped; None where they do."""
    for factor in graph.factors:
        domains = [v.domain for v in graph.scope(factor)]
        mixed = any(isinstance(d, Discrete) for d in domains) and not all(isinstance(d, Discrete) for d in domains)
        if mixed and not isinstance(factor, ResidualFactor | GaussianFactor | FunctionTableFactor):
            return (
                f"factor {factor.label!r} is a {type(factor).__name__} over discrete and continuous blocks; only "
                "residuals, Gaussians and tables by a function over both become tables"
            )
    return None


def tabulate(graph: FactorGraph, continuous: Values) -> FactorGraph:
    """The graph over the discrete blocks that is left when every continuous block is clamped to ``continuous``.

    Each row of a residual over discrete and continuous sites becomes a table over its discrete sites, a Gaussian one over
    the site that chooses it, and a function of continuous blocks one over each site of its block; what looks at continuous
    sites only becomes the constant. Energies agree with the graph's own, and are differentiable in the continuous values
    and in the factors' own. Evidence about discrete blocks is kept.
    Errors: GraphError where a factor of another kind joins both. Cost: a residual for each state of each row.
    """
    reason = tabulation_refusal(graph)
    if reason is not None:
        raise GraphError(f"the graph cannot be tabulated: {reason}")
    blocks = [v for v in graph.variables.values() if isinstance(v.domain, Discrete)]
    names = {v.name for v in blocks}
    values = {n: v for n, v in _with_evidence(graph, continuous).items() if n not in names}
    missing = [n for n in graph.variables if n not in names and n not in values]
    if missing:
        raise GraphError(f"to tabulate a graph every continuous block needs values; {missing} have none")
    constant = torch.zeros(graph.num_instances, dtype=torch.float64) if graph.constant is None else graph.constant
    factors: list[Factor] = []
    for factor in graph.factors:
        scope = graph.scope(factor)
        if all(n in names for n in factor.scope):
            factors.append(factor)
        elif not any(n in names for n in factor.scope):
            constant = constant + factor.instance_energies([values[n] for n in factor.scope], scope).double()
        elif isinstance(factor, FunctionTableFactor):
            tables = factor.table([values[n] for n in factor.scope[1:]], scope)
            factors.append(TableFactor(factor.scope[:1], factor.label, tables))
        else:
            if isinstance(factor, GaussianFactor):
                factors.append(_tabulated(factor, scope, values))
                continue
            assert isinstance(factor, ResidualFactor)
            factors.append(_table(graph, factor, scope, values))
    evidence = graph.evidence
    if evidence is not None:
        parts = (
            {k: v for k, v in p.items() if k in names} for p in (evidence.values, evidence.known, evidence.allowed)
        )
        evidence = Assignment(*parts)
    topology = graph.topology.derive("tabulated", lambda: Topology(blocks, factors))
    guess = None if graph.guess is None else {n: g for n, g in graph.guess.items() if n in names}
    return FactorGraph((), factors, constant=constant, evidence=evidence, topology=topology, guess=guess)


def _with_evidence(graph: FactorGraph, y: Values) -> dict[str, Tensor]:
    """Values of the continuous blocks, clamped sites at what they are clamped to."""
    out = dict(y.items())
    fixed = graph.evidence
    for name, value in fixed.values.items() if fixed is not None else ():
        known = fixed.known.get(name) if fixed is not None else None
        if known is None or name not in out:
            out[name] = value
        else:
            out[name] = torch.where(known.reshape(-1, *[1] * (value.dim() - 1)), value.to(out[name].dtype), out[name])
    return out


def _table(
    graph: FactorGraph, factor: ResidualFactor, scope: tuple[Variables, ...], values: Mapping[str, Tensor]
) -> TableFactor:
    cells = graph.topology.derive(("cells", factor.label), lambda: cells_of(factor.index, scope))
    spread = factor.with_rows(cells.row)
    sites = [
        cells.states[i] if i in cells.states else values[name][spread.index[i]] for i, name in enumerate(factor.scope)
    ]
    own = torch.arange(cells.row.numel(), device=cells.row.device).expand(len(sites), -1)
    energy = ResidualFactor.energies(_at(spread, own), sites, scope)
    names = tuple(factor.scope[i] for i in cells.states)[::-1]
    return TableFactor(names, factor.label, energy, index=cells.index, starts=cells.starts)


def _tabulated(factor: GaussianFactor, scope: tuple[Variables, ...], values: Mapping[str, Tensor]) -> TableFactor:
    anything = torch.zeros(0, dtype=torch.long)
    return factor.tabulated([values.get(n, anything) for n in factor.scope], scope)


def _at(factor: ResidualFactor, index: Tensor) -> ResidualFactor:
    """The factor with its sites laid out row by row."""
    import dataclasses

    return dataclasses.replace(factor, index=index)

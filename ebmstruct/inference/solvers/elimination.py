"""Exact inference on chains and forests by eliminating one site after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, ChainFactor, FactorGraph, TableFactor
from ebmstruct.inference.kernels.chains import chain
from ebmstruct.inference.kernels.forests import forest
from ebmstruct.inference.result import (
    Answer,
    Ask,
    Budget,
    Marginals,
    Query,
    Reparametrization,
    Result,
    Samples,
    Status,
)
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.structure import ChainFacts, ForestFacts, chain_facts, forest_facts, operations
from ebmstruct.inference.views.lines import ForestView, chain_view, forest_view


@dataclass(frozen=True)
class VariableElimination(Solver):
    """Exact minimisation, k best, log partition, marginals and samples of chains and forests of pairs.

    Min-sum elimination is the Viterbi algorithm on a chain (Viterbi 1967), sum-product elimination the
    forward-backward algorithm (Rabiner 1989, section III). Any mix of table and chain factors whose pairs form no
    cycle is taken, with evidence, infinite entries and mixed state counts.
    Cost: the sum over pairs of the product of their state counts, in one compiled pass. A graph with cycles, or
    with factors over three sites or more, is refused.
    """

    name: ClassVar[str] = "variable_elimination"

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.sum_out:
            return "it minimises over all sites, and this query sums some of them out"
        chain_reason = chain_facts(graph)
        if isinstance(chain_reason, ChainFacts):
            return self._refuse_beliefs(graph, query)
        forest_reason = forest_facts(graph)
        if isinstance(forest_reason, str):
            return forest_reason
        return self._refuse_beliefs(graph, query)

    @staticmethod
    def _refuse_beliefs(graph: FactorGraph, query: Query) -> str | None:
        for label in query.factors:
            factor = next((f for f in graph.factors if f.label == label), None)
            if factor is None:
                return f"no factor is labelled {label!r}; the labels are {[f.label for f in graph.factors]}"
            if not isinstance(factor, ChainFactor) and not (isinstance(factor, TableFactor) and factor.arity == 2):
                return f"joint beliefs are given for chains and tables of pairs; {label!r} is neither"
        return None

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        work, table = operations(graph)
        return Cost(work * max(query.k, query.num_samples if query.ask is Ask.SAMPLE else 1), table)

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        facts = chain_facts(graph)
        if isinstance(facts, ChainFacts):
            log_z = chain.log_partition(*chain_view(graph, facts, temperature).arguments)
        else:
            log_z = forest.log_partition(*forest_view(graph, _forest(graph), temperature).arguments)
        log_z = log_z.double()
        return log_z if graph.constant is None else log_z - graph.constant / temperature

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        facts = chain_facts(graph)
        if isinstance(facts, ChainFacts):
            return _solve_chain(graph, facts, query, budget or Budget(), generator)
        return _solve_forest(graph, _forest(graph), query, generator)


def _forest(graph: FactorGraph) -> ForestFacts:
    facts = forest_facts(graph)
    assert isinstance(facts, ForestFacts)
    return facts


def _solve_chain(
    graph: FactorGraph, facts: ChainFacts, query: Query, budget: Budget, generator: Generator | None
) -> Answer:
    minimising = query.ask is Ask.MINIMIZE
    view = chain_view(graph, facts, 1.0 if minimising else query.temperature)
    if minimising:
        found = chain.viterbi(*view.arguments, deadline=budget.deadline)
        several: tuple[Assignment, ...] = ()
        energies = None
        if query.k > 1:
            states, energies = chain.k_best(*view.arguments, k=query.k)
            several = tuple(Assignment({facts.block: s}) for s in states)
        bound = _with_constant(graph, found.lower_bound.double())
        status = torch.full_like(found.energy, int(Status.CONVERGED), dtype=torch.long)
        if budget.deadline is not None:
            status[~found.finished] = int(Status.DEADLINE)
        return Result(
            Assignment({facts.block: found.states}),
            _with_constant(graph, found.energy.double()),
            bound,
            status,
            solver=VariableElimination.name,
            witness=Reparametrization("chain", found.messages),
            alternatives=several,
            alternative_energies=energies,
        )
    if query.ask is Ask.SAMPLE:
        sites = graph.variables[facts.block].num_sites
        uniforms = torch.rand(query.num_samples, sites, dtype=torch.float64, generator=generator)
        states = chain.sample(*view.arguments, num_samples=query.num_samples, uniforms=uniforms)
        return _samples(graph, {facts.block: states})
    beliefs, pairs, log_z = chain.marginals(*view.arguments, pairwise=bool(query.factors))
    joint = {label: pairs for label in query.factors} if pairs is not None else {}
    return _marginals(graph, query, {facts.block: beliefs}, joint, log_z)


def _solve_forest(graph: FactorGraph, facts: ForestFacts, query: Query, generator: Generator | None) -> Answer:
    minimising = query.ask is Ask.MINIMIZE
    view = forest_view(graph, facts, 1.0 if minimising else query.temperature)
    if minimising:
        found = forest.minimize(*view.arguments)
        several: tuple[Assignment, ...] = ()
        energies = None
        if query.k > 1:
            states, energies = forest.k_best(*view.arguments, k=query.k)
            several = tuple(Assignment(_blocks(graph, s)) for s in states)
        bound = _with_constant(graph, found.energy.double())
        status = torch.full_like(found.energy, int(Status.CONVERGED), dtype=torch.long)
        return Result(
            Assignment(_blocks(graph, found.states)),
            bound,
            bound,
            status,
            solver=VariableElimination.name,
            witness=Reparametrization("forest", found.messages),
            alternatives=several,
            alternative_energies=energies,
        )
    if query.ask is Ask.SAMPLE:
        uniforms = torch.rand(query.num_samples, facts.num_states.size, dtype=torch.float64, generator=generator)
        states = forest.sample(*view.arguments, num_samples=query.num_samples, uniforms=uniforms)
        return _samples(graph, _blocks(graph, states))
    unary, edges, log_z = forest.marginals(*view.arguments)
    beliefs = {name: _padded(graph, facts, unary, name) for name in graph.variables}
    joint = {label: _edge_beliefs(graph, facts, view, edges, label) for label in query.factors}
    return _marginals(graph, query, beliefs, joint, log_z)


def _with_constant(graph: FactorGraph, energy: Tensor) -> Tensor:
    return energy if graph.constant is None else energy + graph.constant.double()


def _blocks(graph: FactorGraph, states: Tensor) -> dict[str, Tensor]:
    """States (..., n) of all sites, as values of each block."""
    sizes = [v.num_sites for v in graph.variables.values()]
    return dict(zip(graph.variables, states.split(sizes, -1), strict=True))


def _padded(graph: FactorGraph, facts: ForestFacts, flat: Tensor, name: str) -> Tensor:
    """(n, K) beliefs of one block from the flat ones; states that a site lacks have probability 0."""
    block = graph.variables[name]
    first = facts.site_offset[name]
    begin, end = int(facts.starts[first]), int(facts.starts[first + block.num_sites])
    out = flat.new_zeros(block.num_sites, block.discrete.largest)
    inside = torch.arange(out.shape[1]) < block.state_counts[:, None]
    out[inside] = flat[begin:end]
    return out


def _edge_beliefs(graph: FactorGraph, facts: ForestFacts, view: ForestView, flat: Tensor, label: str) -> Tensor:
    """(m, K, L) joint beliefs of a factor's pairs (for a chain (n, K, K)), from the flat ones of the forest's edges.

    ``flat`` holds each child's table (child states by parent states) in the order of the sites.
    """
    position = next(i for i, f in enumerate(graph.factors) if f.label == label)
    factor = graph.factors[position]
    pairs = facts.pairs
    here = (pairs.factor == position).nonzero()[0]
    scope = graph.scope(factor)
    chain_like = isinstance(factor, ChainFactor)
    rows = scope[0].num_sites if chain_like else here.size
    shape = (rows, scope[0].discrete.largest, scope[-1].discrete.largest)
    out = flat.new_zeros(shape)
    sizes = facts.num_states * facts.num_states[facts.parent] * (facts.parent >= 0)
    begins = sizes.cumsum() - sizes
    for row, edge in enumerate(here.tolist()):
        a, b = int(pairs.first[edge]), int(pairs.second[edge])
        child, parent = (a, b) if facts.parent[a] == b else (b, a)
        rows_here, columns = int(facts.num_states[child]), int(facts.num_states[parent])
        begin = int(begins[child])
        table = flat[begin : begin + rows_here * columns].reshape(rows_here, columns)
        target = b - facts.site_offset[factor.scope[0]] if chain_like else row
        table = table if child == a else table.T
        out[target, : table.shape[0], : table.shape[1]] = table
    return out


def _marginals(
    graph: FactorGraph, query: Query, beliefs: dict[str, Tensor], joint: dict[str, Tensor], log_z: Tensor
) -> Marginals:
    log_z = log_z.double()
    if graph.constant is not None:
        log_z = log_z - graph.constant / query.temperature
    status = torch.full_like(log_z, int(Status.OPTIMAL), dtype=torch.long)
    status = torch.where(torch.isneginf(log_z), int(Status.INFEASIBLE), status)
    status = torch.where(log_z.isnan(), int(Status.NONFINITE), status)
    return Marginals(beliefs, log_z, True, status, VariableElimination.name, joint)


def _samples(graph: FactorGraph, values: dict[str, Tensor]) -> Samples:
    count = next(iter(values.values())).shape[0]
    energy = torch.stack([graph.energy({n: v[s] for n, v in values.items()}) for s in range(count)])
    status = torch.where(energy[0].isfinite(), int(Status.OPTIMAL), int(Status.INFEASIBLE))
    status = torch.where(energy[0].isnan(), int(Status.NONFINITE), status)
    return Samples(values, energy, True, status, VariableElimination.name)

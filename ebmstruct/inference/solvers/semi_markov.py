"""Exact inference over segmentations by eliminating one segment after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph, SegmentFactor
from ebmstruct.inference.kernels.segments import segments
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
from ebmstruct.inference.views.segments import SegmentFacts, segment_facts, segment_view


@dataclass(frozen=True)
class SemiMarkovElimination(Solver):
    """Exact minimisation, log partition, marginals and samples of semi-Markov models (Sarawagi and Cohen 2004).

    Takes a graph of one ``SegmentFactor`` and any tables over single sites, with evidence and infinite entries.
    Beliefs are those of the block's states; ``factors=`` with the label of the segments gives (n, L, K), the probability of
    each segment by its first site, length and label.
    Cost: n K (L + K) for n sites, K labels and segments of at most L sites, in one compiled pass.
    """

    name: ClassVar[str] = "semi_markov"

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        facts = segment_facts(graph)
        if isinstance(facts, str):
            return facts
        if query.sum_out:
            return "it minimises over all sites, and this query sums some of them out"
        if query.k > 1:
            return f"it finds one segmentation; {query.k} were asked"
        label = graph.factors[facts.segments].label
        other = [x for x in query.factors if x != label]
        if other:
            return f"joint beliefs are those of the segments, labelled {label!r}; {other[0]!r} is another"
        return None

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        facts = segment_facts(graph)
        if isinstance(facts, str):
            return None
        factor = graph.factors[facts.segments]
        assert isinstance(factor, SegmentFactor)
        longest, width = factor.lengths.shape
        sites = graph.variables[facts.block].num_sites
        return Cost(float(sites * width * (longest + width) * query.num_samples), max(longest * width, width * width))

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        log_z = segments.log_partition(*segment_view(graph, _facts(graph), temperature).arguments).double()
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
        facts = _facts(graph)
        if query.ask is Ask.MINIMIZE:
            return _minimum(graph, facts, budget or Budget())
        if query.ask is Ask.SAMPLE:
            return _samples(graph, facts, query, generator)
        return _marginals(graph, facts, query)


def _facts(graph: FactorGraph) -> SegmentFacts:
    facts = segment_facts(graph)
    assert isinstance(facts, SegmentFacts)
    return facts


def _factor(graph: FactorGraph, facts: SegmentFacts) -> SegmentFactor:
    factor = graph.factors[facts.segments]
    assert isinstance(factor, SegmentFactor)
    return factor


def _minimum(graph: FactorGraph, facts: SegmentFacts, budget: Budget) -> Result:
    found = segments.viterbi(*segment_view(graph, facts).arguments, deadline=budget.deadline)
    constant = torch.zeros((), dtype=torch.float64) if graph.constant is None else graph.constant.double()
    status = torch.where(found.finished, int(Status.CONVERGED), int(Status.DEADLINE))
    return Result(
        Assignment({facts.block: _spelt(graph, facts, found.labels, found.begins)}),
        found.energy + constant,
        found.lower_bound + constant,
        status,
        solver=SemiMarkovElimination.name,
        witness=Reparametrization("segments", found.messages),
    )


def _spelt(graph: FactorGraph, facts: SegmentFacts, labels: Tensor, begins: Tensor) -> Tensor:
    """States of labels and beginnings; state 0 where an instance has no segmentation."""
    return _factor(graph, facts).spell(labels, begins).clamp(min=0)


def _marginals(graph: FactorGraph, facts: SegmentFacts, query: Query) -> Marginals:
    view = segment_view(graph, facts, query.temperature)
    found = segments.marginals(*view.arguments, joint=bool(query.factors))
    beliefs = found.begin.new_zeros(found.begin.shape[0], facts.num_states)
    first, inner = _factor(graph, facts).label_states.T
    real = inner >= 0
    beliefs[:, first] = found.begin
    beliefs[:, inner[real]] = found.inside[:, real]
    log_z = found.log_partition
    if graph.constant is not None:
        log_z = log_z - graph.constant / query.temperature
    status = torch.full_like(log_z, int(Status.OPTIMAL), dtype=torch.long)
    status = torch.where(torch.isneginf(log_z), int(Status.INFEASIBLE), status)
    status = torch.where(log_z.isnan(), int(Status.NONFINITE), status)
    joint = {label: found.segments for label in query.factors if found.segments is not None}
    return Marginals({facts.block: beliefs}, log_z, True, status, SemiMarkovElimination.name, joint)


def _samples(graph: FactorGraph, facts: SegmentFacts, query: Query, generator: Generator | None) -> Samples:
    sites, count = graph.variables[facts.block].num_sites, query.num_samples
    uniforms = torch.rand(count, sites, 2, dtype=torch.float64, generator=generator)
    labels, begins = segments.sample(*segment_view(graph, facts, query.temperature).arguments, uniforms)
    states = _spelt(graph, facts, labels, begins)
    energy = torch.stack([graph.energy({facts.block: y}) for y in states])
    status = torch.where(energy[0].isfinite(), int(Status.OPTIMAL), int(Status.INFEASIBLE))
    status = torch.where(energy[0].isnan(), int(Status.NONFINITE), status)
    return Samples({facts.block: states}, energy, True, status, SemiMarkovElimination.name)

"""A graph of segments laid out as the kernels of segments take it; differentiable in the factors' values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ebmstruct.graph import Discrete, FactorGraph, SegmentFactor, TableFactor
from ebmstruct.graph.factors import uniform_states
from ebmstruct.inference.views.lines import unary_rows


@dataclass(frozen=True)
class SegmentFacts:
    """A graph that is one sequence of segments an instance: positions (in ``graph.factors``) of its factors."""

    block: str
    num_states: int
    unaries: tuple[int, ...]
    segments: int


@dataclass(frozen=True, eq=False)
class SegmentView:
    """Energies divided by the temperature: the arguments of ``kernels.segments``, in their order."""

    begin: Tensor
    inside: Tensor
    lengths: Tensor
    transition: Tensor
    start: Tensor | None
    end: Tensor | None
    segments: Tensor | None
    offsets: Tensor

    @property
    def arguments(
        self,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
        """In the order in which the kernels take them."""
        ends = self.start, self.end, self.segments
        return self.begin, self.inside, self.lengths, self.transition, *ends, self.offsets


def segment_facts(graph: FactorGraph) -> SegmentFacts | str:
    """The sequence of segments that this graph is, or why it is none."""
    return graph.topology.derive("segments", lambda: _find(graph))


def _find(graph: FactorGraph) -> SegmentFacts | str:
    found = [i for i, f in enumerate(graph.factors) if isinstance(f, SegmentFactor)]
    if len(found) != 1:
        return f"it takes one factor of segments, and this graph has {len(found)}"
    if len(graph.variables) != 1:
        return f"it takes one block of variables, and this graph has {len(graph.variables)}"
    (block,) = graph.variables.values()
    unaries = []
    for position, factor in enumerate(graph.factors):
        if isinstance(factor, TableFactor) and factor.arity == 1:
            unaries.append(position)
        elif position != found[0]:
            return f"factor {factor.label!r} is neither its segments nor a table over single sites"
    states = uniform_states(block) if isinstance(block.domain, Discrete) else None
    assert states is not None, "SegmentFactor.check asks for it"
    return SegmentFacts(block.name, states, tuple(unaries), found[0])


def segment_view(graph: FactorGraph, facts: SegmentFacts, temperature: float = 1.0) -> SegmentView:
    """Lay out a sequence of segments. Cost: a copy of the energies of single sites."""
    block = graph.variables[facts.block]
    factor = graph.factors[facts.segments]
    assert isinstance(factor, SegmentFactor)
    parts = []
    for position in facts.unaries:
        table = graph.factors[position]
        assert isinstance(table, TableFactor)
        parts.append(unary_rows(table, block.num_sites, facts.num_states))
    unary = reduce(torch.add, parts) if parts else factor.lengths.new_zeros(block.num_sites, facts.num_states)
    allowed = graph.allowed(facts.block)
    if allowed is not None:
        unary = unary.masked_fill(~allowed, torch.inf)
    dtype = unary.dtype
    for value in factor.values():
        dtype = dtype if value is None else torch.promote_types(dtype, value.dtype)
    first, inner = factor.label_states.to(unary.device).T
    begin = unary.index_select(1, first)
    inside = unary.index_select(1, inner.clamp(min=0)).masked_fill(inner < 0, torch.inf)
    tables = (begin, inside, factor.lengths, factor.transition, factor.start, factor.end, factor.segments)
    scaled = [None if x is None else x.to(dtype) if temperature == 1.0 else x.to(dtype) / temperature for x in tables]
    return SegmentView(*scaled, block.offsets)  # type: ignore[arg-type, call-arg]

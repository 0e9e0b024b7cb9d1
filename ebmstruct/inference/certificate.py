"""Lower bounds re-computed from their witnesses, with no solver code."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Claim, Reparametrization, Result
from ebmstruct.inference.structure import ChainFacts, ForestFacts, chain_facts, forest_facts
from ebmstruct.inference.views import chain_view, forest_view


def bound(graph: FactorGraph, result: Result) -> Tensor:
    """(B,) float64: the lower bound on each instance's energy that the result's witness proves; -inf where none.

    Messages m move energy between terms without changing any total: along a chain
    E(y) = sum over t of [m(t-1, y(t-1)) + transition + emission(t, y(t)) - m(t, y(t))] + m(T, y(T)) + end, so the
    sum of the terms' own minima bounds E from below whatever the messages are (Wainwright, Jaakkola and Willsky 2005,
    section III). Wrong messages make a loose bound, never a false one. Cost: that of one elimination pass, in float64.
    """
    witness = result.witness
    if witness is None or isinstance(witness, Claim):
        return torch.full((graph.num_instances,), -torch.inf, dtype=torch.float64)
    constant = torch.zeros((), dtype=torch.float64) if graph.constant is None else graph.constant.double()
    with torch.no_grad():
        if witness.kind == "chain":
            facts = chain_facts(graph)
            return _chain_bound(graph, facts, witness) + constant if isinstance(facts, ChainFacts) else _none(graph)
        forest = forest_facts(graph)
        return _forest_bound(graph, forest, witness) + constant if isinstance(forest, ForestFacts) else _none(graph)


def _none(graph: FactorGraph) -> Tensor:
    return torch.full((graph.num_instances,), -torch.inf, dtype=torch.float64)


def _chain_bound(graph: FactorGraph, facts: ChainFacts, witness: Reparametrization) -> Tensor:
    view = chain_view(graph, facts)
    block = graph.variables[facts.block]
    emission, messages = view.emission.double(), witness.messages.double()
    if messages.shape != emission.shape:
        return _none(graph)
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    filled = block.lengths > 0
    first, last = block.offsets[:-1][filled], block.offsets[1:][filled] - 1
    head = emission[first] if view.start is None else emission[first] + view.start.double()
    out[filled] += _least(head, messages[first])
    tail = messages[last] if view.end is None else messages[last] + view.end.double()
    out[filled] += tail.amin(1)
    later = (block.instance.diff(prepend=torch.tensor([-1])) == 0).nonzero()[:, 0]
    for sites in later.split(max(1, (1 << 22) // facts.num_states**2)):
        tables = (view.transition[sites] if view.transition.dim() == 3 else view.transition).double()
        moved = (messages[sites - 1][:, :, None] + tables).amin(1) + emission[sites]
        out.index_add_(0, block.instance[sites], _least(moved, messages[sites]))
    return out.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _least(term: Tensor, message: Tensor) -> Tensor:
    """(rows,) min of term - message over states; a state that the term forbids does not count."""
    return torch.where(torch.isposinf(term), torch.inf, term - message).amin(1)


def _forest_bound(graph: FactorGraph, facts: ForestFacts, witness: Reparametrization) -> Tensor:
    view = forest_view(graph, facts)
    starts, states, parent = facts.starts, facts.num_states, facts.parent
    unary, tables, messages = view.unary.double(), view.tables.double(), witness.messages.double()
    sizes = [int(states[p]) if p >= 0 else 0 for p in parent.tolist()]
    if messages.numel() != sum(sizes):
        return _none(graph)
    incoming = unary.clone()
    parts = messages.split(sizes)
    for site, message in enumerate(parts):
        if parent[site] >= 0:
            incoming[starts[parent[site]] : starts[parent[site] + 1]] += message
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    for site, message in enumerate(parts):
        own = incoming[starts[site] : starts[site + 1]]
        if parent[site] < 0:
            out[facts.instance[site]] += own.min()
            continue
        rows, columns = int(states[site]), sizes[site]
        begin = int(view.table_start[site])
        table = tables[begin : begin + rows * columns]
        table = table.reshape(columns, rows).T if bool(view.transposed[site]) else table.reshape(rows, columns)
        out[facts.instance[site]] += _least((own[:, None] + table).amin(0)[None], message[None])[0]
    return out.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)

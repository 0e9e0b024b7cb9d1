"""Lower bounds re-computed from their witnesses, with no solver code."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph, Real, ResidualFactor
from ebmstruct.inference.clamping import tables_left
from ebmstruct.inference.least_squares.quadratic_bound import quadratic_bound
from ebmstruct.inference.result import (
    Claim,
    EliminationOrder,
    QuadraticMinimum,
    Reparametrization,
    Result,
    Several,
    SumOfSquares,
    Witness,
)
from ebmstruct.inference.structure import ChainFacts, ForestFacts, chain_facts, forest_facts
from ebmstruct.inference.views.lines import chain_view, forest_view
from ebmstruct.inference.views.segments import SegmentFacts, segment_facts, segment_view
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

LARGEST_TABLE = 1 << 28
"""Entries of the largest table that checking an elimination order may make; a larger one proves nothing here."""


def bound(graph: FactorGraph, result: Result) -> Tensor:
    """(B,) float64: the lower bound on each instance's energy that the result's witness proves; -inf where none.

    Messages m move energy between terms without changing any total: along a chain
    E(y) = sum over t of [m(t-1, y(t-1)) + transition + emission(t, y(t)) - m(t, y(t))] + m(T, y(T)) + end, so the
    sum of the terms' own minima bounds E from below whatever the messages are (Wainwright, Jaakkola and Willsky 2005,
    section III); the same holds over forests, and between the rows of tables and their sites (Werner 2007, section 3).
    Wrong messages make a loose bound, never a false one. An elimination order is checked by eliminating along it.
    Cost: that of one elimination pass, in float64.
    """
    return witness_bound(graph, result.witness)


def witness_bound(graph: FactorGraph, witness: Witness | None) -> Tensor:
    """The same for a witness by itself."""
    if isinstance(witness, Several):
        return torch.stack([witness_bound(graph, w) for w in (None, *witness.parts)]).amax(0)
    if witness is None or isinstance(witness, Claim):
        return _none(graph)
    if isinstance(witness, SumOfSquares):
        return _least_of_squares(graph) if sums_squares(graph) else _none(graph)
    if isinstance(witness, QuadraticMinimum):
        return quadratic_bound(graph)
    with torch.no_grad():
        tables = tables_left(graph)
        graph = graph if tables is None else tables
        if isinstance(witness, EliminationOrder) or witness.kind == "tables":
            if table_refusal(graph) is not None:
                return _none(graph)
            view = table_view(graph)
            if isinstance(witness, EliminationOrder):
                return _elimination_bound(view, witness.sites.cpu().numpy())
            return tables_bound(view, witness.messages.detach().cpu().double().numpy())
        constant = torch.zeros((), dtype=torch.float64) if graph.constant is None else graph.constant.double()
        if witness.kind == "chain":
            facts = chain_facts(graph)
            return _chain_bound(graph, facts, witness) + constant if isinstance(facts, ChainFacts) else _none(graph)
        if witness.kind == "segments":
            found = segment_facts(graph)
            return _segment_bound(graph, found, witness) + constant if isinstance(found, SegmentFacts) else _none(graph)
        forest = forest_facts(graph)
        return _forest_bound(graph, forest, witness) + constant if isinstance(forest, ForestFacts) else _none(graph)


def _none(graph: FactorGraph) -> Tensor:
    return torch.full((graph.num_instances,), -torch.inf, dtype=torch.float64)


def sums_squares(graph: FactorGraph) -> bool:
    """Whether every factor is a residual, whose energies are never negative."""
    return bool(graph.factors) and all(isinstance(f, ResidualFactor) for f in graph.factors)


def _least_of_squares(graph: FactorGraph) -> Tensor:
    zeros = torch.zeros(graph.num_instances, dtype=torch.float64)
    return zeros if graph.constant is None else zeros + graph.constant.detach().double()


def violation(graph: FactorGraph, y: Assignment) -> Tensor | None:
    """(B,) float64: by how much the worst constraint or bound of each instance is broken; None where there is none."""
    out: Tensor | None = None
    for name, block in graph.variables.items():
        if isinstance(block.domain, Real) and block.domain.bounded:
            outside = (y[name] - block.domain.project(y[name])).abs().amax(1)
            out = _worst(graph, out, block.instance, outside)
    for factor in graph.factors:
        if isinstance(factor, ResidualFactor) and factor.constraint:
            owner = factor.row_instance(graph.scope(factor))
            assert owner is not None
            out = _worst(graph, out, owner, factor.violations_of(factor.residuals([y[n] for n in factor.scope])))
    return out


def _worst(graph: FactorGraph, so_far: Tensor | None, owner: Tensor, rows: Tensor) -> Tensor:
    if so_far is None:
        so_far = torch.zeros(graph.num_instances, dtype=torch.float64)
    rows = rows.detach().double()
    return so_far.scatter_reduce(0, owner, torch.where(rows.isnan(), torch.inf, rows), "amax")


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


def _segment_bound(graph: FactorGraph, facts: SegmentFacts, witness: Reparametrization) -> Tensor:
    """E(y) = sum over segments of [m(before it) + step + segment - m(its end)] + m(end of all) + end: at each site at most
    one segment ends, so the least of the brackets, where it is negative, and the least last term bound E from below."""
    begin, inside, lengths, step, start, end, whole, offsets = segment_view(graph, facts).arguments
    sites, width = begin.shape
    messages = witness.messages.double()
    if messages.shape != begin.shape:
        return _none(graph)
    block = graph.variables[facts.block]
    entry = torch.full((sites, width), torch.inf, dtype=torch.float64)
    for rows in torch.arange(1, max(sites, 1)).split(max(1, (1 << 22) // width**2)):
        entry[rows] = (messages[rows - 1][:, :, None] + step.double()).amin(1)
    entry[block.first_sites] = 0.0 if start is None else start.double()
    position = torch.arange(sites) - offsets[:-1][block.instance]
    reached = torch.full((sites, width), torch.inf, dtype=torch.float64)
    within = torch.zeros(sites, width, dtype=torch.float64)
    for back in range(lengths.shape[0]):
        last = (position >= back).nonzero()[:, 0]
        at = last - back
        term = entry[at] + (within[last] + begin[at].double() + lengths[back].double())
        reached[last] = torch.minimum(reached[last], term if whole is None else term + whole[at, back].double())
        within[last] += inside[at].double()
    slack = torch.where(torch.isposinf(reached), torch.inf, reached - messages).amin(1).clamp(max=0.0)
    out = torch.zeros(graph.num_instances, dtype=torch.float64).index_add(0, block.instance, slack)
    tail = messages[block.last_sites] + (0.0 if end is None else end.double())
    out[block.lengths > 0] += tail.amin(1)
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


def tables_bound(view: TableView, messages: np.ndarray) -> Tensor:
    """(B,) float64: the sum over sites and rows of their minima, after each message went from its row to its site.

    messages: flat by ``TableView.message_ptr``. Whatever they are, no assignment has less energy; -inf where they are
    not finite. Cost: one look at each entry of each row's table.
    """
    pointer = view.message_ptr
    if messages.shape != (pointer[-1],) or not np.isfinite(messages).all():
        return torch.full((view.num_instances,), -torch.inf, dtype=torch.float64)
    unary, tables, weights = view.arrays
    out = view.constant.detach().numpy().copy()
    counts = view.num_states[view.row_sites]
    within = np.arange(messages.size) - np.repeat(pointer[:-1], counts)
    target = np.repeat(view.starts[view.row_sites], counts) + within
    moved = unary + np.bincount(target, messages, unary.size)
    if view.num_sites:
        out += np.bincount(view.instance, np.minimum.reduceat(moved, view.starts[:-1]), view.num_instances)
    for rows, shape in _alike(view):
        size = int(np.prod(shape))
        for some in np.array_split(rows, 1 + rows.size * size // (1 << 22)):
            term = tables[view.table_start[some][:, None] + np.arange(size)] * weights[some][:, None]
            term = term.reshape(-1, *shape)
            for slot, states in enumerate(shape):
                begin = pointer[view.row_ptr[some] + slot]
                part = messages[begin[:, None] + np.arange(states)]
                term = term - part.reshape(-1, *(states if i == slot else 1 for i in range(len(shape))))
            least = term.reshape(some.size, -1).min(1)
            out += np.bincount(view.row_instance[some], least, view.num_instances)
    return torch.from_numpy(np.nan_to_num(out, nan=-np.inf, posinf=np.inf, neginf=-np.inf))


def _alike(view: TableView) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Rows grouped by the shape of their tables."""
    groups = []
    for arity in np.unique(view.arity).tolist():
        rows = np.nonzero(view.arity == arity)[0]
        shapes = view.num_states[view.row_sites[view.row_ptr[rows][:, None] + np.arange(arity)]]
        found, of = np.unique(shapes, axis=0, return_inverse=True)
        groups += [(rows[of.reshape(-1) == i], tuple(s.tolist())) for i, s in enumerate(found)]
    return groups


def _elimination_bound(view: TableView, order: np.ndarray) -> Tensor:
    """The least energy, by bucket elimination (Dechter 1999) along an order of the open sites."""
    nothing = torch.full((view.num_instances,), -torch.inf, dtype=torch.float64)
    if order.shape != (view.num_sites,) or (np.sort(order) != np.arange(view.num_sites)).any():
        return nothing
    unary, tables, weights = view.arrays
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    buckets: list[list[tuple[tuple[int, ...], np.ndarray]]] = [[] for _ in range(order.size)]
    for site in range(order.size):
        buckets[rank[site]].append(((site,), unary[view.starts[site] : view.starts[site + 1]]))
    for row in range(view.num_rows):
        sites = tuple(view.row_sites[view.row_ptr[row] : view.row_ptr[row + 1]].tolist())
        begin, shape = view.table_start[row], tuple(view.num_states[list(sites)].tolist())
        table = tables[begin : begin + int(np.prod(shape))].reshape(shape) * weights[row]
        buckets[min(rank[list(sites)])].append((sites, table))
    out = view.constant.detach().numpy().copy()
    for step, site in enumerate(order.tolist()):
        scope = sorted({s for sites, _ in buckets[step] for s in sites}, key=lambda s: rank[s])
        if float(np.prod(view.num_states[scope].astype(float))) > LARGEST_TABLE or len(scope) > 60:
            return nothing
        total = _aligned_sum(buckets[step], scope, view.num_states).min(0)
        buckets[step] = []
        if len(scope) == 1:
            out[view.instance[site]] += total
        else:
            buckets[rank[scope[1]]].append((tuple(scope[1:]), total))
    return torch.from_numpy(out)


def _aligned_sum(parts: list[tuple[tuple[int, ...], np.ndarray]], scope: list[int], states: np.ndarray) -> np.ndarray:
    """The sum of tables over ``scope``; small ones are added first, so that large ones are passed over once."""
    place = {s: i for i, s in enumerate(scope)}
    total: np.ndarray = np.zeros((1,) * len(scope))
    for sites, table in sorted(parts, key=lambda p: p[1].size):
        order = sorted(range(len(sites)), key=lambda i: place[sites[i]])
        shape = [1] * len(scope)
        for i in order:
            shape[place[sites[i]]] = int(states[sites[i]])
        total = total + table.transpose(order).reshape(shape)
    return np.broadcast_to(total, [int(states[s]) for s in scope])

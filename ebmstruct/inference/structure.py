"""Facts of a topology: which blocks form a chain, which sites a forest, and in which order to eliminate them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import ChainFactor, Discrete, Factor, FactorGraph, TableFactor
from ebmstruct.graph.factors import uniform_states
from ebmstruct.inference.smooth_energy import clamped

Refusal = str


@dataclass(frozen=True)
class ChainFacts:
    """A graph that is one chain an instance: positions (in ``graph.factors``) of its unary and chain factors."""

    block: str
    num_states: int
    unaries: tuple[int, ...]
    chains: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of sites that a graph's factors join; sites of all discrete blocks numbered one block after the other.

    first, second: (edges,) sites.  factor: (edges,) position in ``graph.factors``.  start: (edges,) where the edge's
    table begins in that factor's flat table.  All numpy int64.
    """

    first: np.ndarray
    second: np.ndarray
    factor: np.ndarray
    start: np.ndarray


@dataclass(frozen=True, eq=False)
class ForestFacts:
    """A graph whose pairs form a forest, and an order in which children come before their parents.

    num_states, starts: (n,) and (n + 1,) state counts of the sites and where each begins in a flat vector of states.
    instance: (n,) the instance of each site.  parent: (n,) or -1.  order: (n,) sites, leaves first.
    pairs: what joins them.  twins: whether some pair is joined more than once.
    """

    num_states: np.ndarray
    starts: np.ndarray
    instance: np.ndarray
    parent: np.ndarray
    order: np.ndarray
    pairs: Pairs
    site_offset: dict[str, int]
    twins: bool


def chain_facts(graph: FactorGraph) -> ChainFacts | Refusal:
    """The chain that this graph is, or why it is none."""
    return graph.topology.derive("chain", lambda: _find_chain(graph))


def forest_facts(graph: FactorGraph) -> ForestFacts | Refusal:
    """The forest that this graph is, or why it is none."""
    return graph.topology.derive("forest", lambda: _find_forest(graph))


def joint_sizes(graph: FactorGraph) -> Tensor:
    """(B,) float64: log of the number of joint assignments of each instance's discrete sites, evidence apart."""

    def compute() -> Tensor:
        out = torch.zeros(graph.num_instances, dtype=torch.float64)
        for block in graph.variables.values():
            if isinstance(block.domain, Discrete):
                out.index_add_(0, block.instance.cpu(), block.state_counts.cpu().double().log())
        return out

    return graph.topology.derive("joint_sizes", compute)


def describe(graph: FactorGraph) -> str:
    """What is found in the graph, in one sentence."""
    sites = sum(v.num_sites for v in graph.variables.values())
    head = f"{_many(graph.num_instances, 'instance')}, {_many(sites, 'site')}, {_many(len(graph.factors), 'factor')}"
    if any(not isinstance(v.domain, Discrete) for v in graph.variables.values()):
        return f"{head}; {_kinds(graph)}"
    chain = chain_facts(graph)
    if isinstance(chain, ChainFacts):
        return f"{head}; a chain over {chain.block!r} with {chain.num_states} states"
    forest = forest_facts(graph)
    if isinstance(forest, ForestFacts):
        pairs, most = _many(forest.pairs.first.size, "pair"), forest.num_states.max(initial=0)
        return f"{head}; a forest of {pairs}, up to {most} states"
    return f"{head}; {forest}{_width(graph)}"


def _kinds(graph: FactorGraph) -> str:
    """What is open in a graph with continuous blocks, and what kinds of factors look at it."""
    coordinates = states = 0
    for block in graph.variables.values():
        if not clamped(graph, block.name):
            if isinstance(block.domain, Discrete):
                states += block.num_sites
            else:
                coordinates += block.num_sites * block.domain.tangent_dim
    smooth = [f for f in graph.factors if any(not isinstance(v.domain, Discrete) for v in graph.scope(f))]
    kinds = {type(f).__name__: sum(type(g) is type(f) for g in smooth) for f in smooth}
    found = ", ".join(f"{n} {name}" for name, n in kinds.items()) or "nothing"
    discrete = f" and {_many(states, 'discrete site')}" if states else ""
    return f"{_many(coordinates, 'continuous coordinate')}{discrete} open; over the continuous blocks {found}"


def _width(graph: FactorGraph) -> str:
    """A few words on how far from a forest a small graph of tables is: its width by the min-fill order."""
    import networkx

    from ebmstruct.inference.views.table_view import table_refusal, table_view

    if table_refusal(graph) is not None:
        return ""
    view = table_view(graph)
    if view.num_rows > 1000:
        return ""
    joined = networkx.Graph()
    joined.add_nodes_from(range(view.num_sites))
    for row in range(view.num_rows):
        joined.add_edges_from(itertools.combinations(view.row_sites[view.row_ptr[row] : view.row_ptr[row + 1]], 2))
    width, _ = networkx.approximation.treewidth_min_fill_in(joined) if view.num_sites else (0, None)
    return f"; width at most {width} by the min-fill order"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _find_chain(graph: FactorGraph) -> ChainFacts | Refusal:
    if len(graph.variables) != 1:
        return f"it has {len(graph.variables)} blocks of variables, and a chain is one"
    (block,) = graph.variables.values()
    states = uniform_states(block) if isinstance(block.domain, Discrete) else None
    if states is None:
        return f"block {block.name!r} is {block.domain}, and a chain needs one number of states"
    unaries, chains = [], []
    for position, factor in enumerate(graph.factors):
        if isinstance(factor, ChainFactor):
            chains.append(position)
        elif isinstance(factor, TableFactor) and factor.arity == 1:
            unaries.append(position)
        else:
            return f"factor {factor.label!r} is neither a chain nor a table over single sites"
    if not chains:
        return "no chain factor joins its sites"
    return ChainFacts(block.name, states, tuple(unaries), tuple(chains))


def _find_forest(graph: FactorGraph) -> ForestFacts | Refusal:
    blocks = list(graph.variables.values())
    for block in blocks:
        if not isinstance(block.domain, Discrete):
            return f"block {block.name!r} is {block.domain}; tables cannot be eliminated over real variables"
    sizes = [b.num_sites for b in blocks]
    offset = dict(
        zip(graph.variables, np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist() if sizes else [], strict=True)
    )
    parts: list[Pairs] = []
    for position, factor in enumerate(graph.factors):
        if isinstance(factor, TableFactor) and factor.arity == 1:
            continue
        found = _pairs_of(graph, factor, position, offset)
        if isinstance(found, str):
            return found
        parts.append(found)
    pairs = Pairs(*(np.concatenate([getattr(p, f) for p in parts] or [np.zeros(0, np.int64)]) for f in _PAIR_FIELDS))
    states = np.concatenate([b.state_counts.cpu().numpy() for b in blocks] or [np.zeros(0, np.int64)])
    instance = np.concatenate([b.instance.cpu().numpy() for b in blocks] or [np.zeros(0, np.int64)])
    return _order_forest(graph, states, instance, pairs, offset)


_PAIR_FIELDS = ("first", "second", "factor", "start")


def _pairs_of(graph: FactorGraph, factor: Factor, position: int, offset: dict[str, int]) -> Pairs | Refusal:
    scope = graph.scope(factor)
    if isinstance(factor, ChainFactor):
        (block,) = scope
        instance = block.instance.cpu().numpy()
        later = np.nonzero(np.diff(instance, prepend=-1) == 0)[0]
        table = factor.transition.shape[-1] ** 2 if factor.transition.dim() == 3 else 0
        sites = later + offset[block.name]
        return Pairs(sites - 1, sites, np.full(later.size, position), later * table)
    if not isinstance(factor, TableFactor):
        return f"factor {factor.label!r} is a {type(factor).__name__}, which has no tables to eliminate"
    if factor.arity != 2:
        return f"factor {factor.label!r} joins {factor.arity} sites at a time; chains and forests have pairs only"
    assert factor.index is not None
    index = factor.index.cpu().numpy()
    starts = factor.row_starts(scope)
    rows = np.broadcast_to(starts if isinstance(starts, int) else starts.cpu().numpy(), index.shape[1])
    first, second = index[0] + offset[factor.scope[0]], index[1] + offset[factor.scope[1]]
    return Pairs(first, second, np.full(first.size, position), np.array(rows, dtype=np.int64))


def _order_forest(
    graph: FactorGraph, states: np.ndarray, instance: np.ndarray, pairs: Pairs, offset: dict[str, int]
) -> ForestFacts | Refusal:
    n = states.size
    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    edges = np.sort(low * np.int64(max(n, 1)) + high)
    edges = edges[np.diff(edges, prepend=-1) > 0]
    a, b = edges // max(n, 1), edges % max(n, 1)
    if a.size > n:  # told without scipy, whose import takes longer than solving many a graph
        return f"its pairs form at least {_many(a.size - n + 1, 'cycle')}"
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    matrix = coo_array((np.ones(a.size), (a, b)), shape=(n, n)).tocsr()
    count, component = connected_components(matrix, directed=False) if n else (0, np.zeros(0, np.int64))
    if a.size != n - count:
        return f"its pairs form {_many(a.size - n + count, 'cycle')}"
    _, roots = np.unique(component, return_index=True)
    joined = coo_array(
        (np.ones(a.size + roots.size), (np.concatenate([a, np.full(roots.size, n)]), np.concatenate([b, roots]))),
        shape=(n + 1, n + 1),
    )
    order, parent = breadth_first_order(joined.tocsr(), n, directed=False)
    parent = parent[:n].astype(np.int64)
    parent[parent == n] = -1
    return ForestFacts(
        states,
        np.concatenate([[0], np.cumsum(states)]),
        instance,
        parent,
        order[1:][::-1].astype(np.int64),
        pairs,
        offset,
        twins=a.size != pairs.first.size,
    )


def operations(graph: FactorGraph) -> tuple[float, int]:
    """Elementary operations and largest table of one elimination pass over a chain or forest."""
    chain = chain_facts(graph)
    if isinstance(chain, ChainFacts):
        sites = graph.variables[chain.block].num_sites
        return float(sites * chain.num_states**2), chain.num_states**2
    forest = forest_facts(graph)
    if isinstance(forest, ForestFacts):
        inner = forest.parent >= 0
        work = forest.num_states[inner] * forest.num_states[forest.parent[inner]]
        return float(work.sum() + forest.num_states.sum()), int(work.max(initial=1))
    return math.inf, 0

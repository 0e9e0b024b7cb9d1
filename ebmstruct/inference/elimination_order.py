"""In which order to eliminate the sites of a graph of tables, so that the tables on the way stay small."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

Adjacency = tuple[np.ndarray, np.ndarray]

ENOUGH = 2e5
"""Entries of all tables of a connected component below which no better order is looked for."""
EFFORT = 1.5e7
"""Looks at neighbours that a search for a better order may take in all: some 30 ms. Counted, not timed, so that the same
graph always gets the same order."""
EFFORT_OF_A_CALL = 1e5
"""What trying one more order takes besides."""
LOOKS_PER_ENTRY = 0.15
"""Looks spent for each entry that the best order so far has, before the search is not worth its time."""
LARGEST_REPORTED = 62.0
"""log2 of the entries up to which sizes are told; beyond that an order is useless, and sizes would not fit a number."""
LARGEST_SEARCHED = 4000
"""Components of more sites get the quick orders only: the others' time grows with the square."""


@dataclass(frozen=True, eq=False)
class Elimination:
    """An order and what it makes; buckets are numbered by position in the order, each subtree being contiguous.

    order: (n,) sites.  parent: (n,) the bucket that a bucket's message goes to, -1 at roots.
    sep_ptr (n + 1,), sep: the buckets whose sites a bucket's message is over, last first.
    log_size: (n,) log2 of the entries of each bucket's table, its own site included.
    """

    order: np.ndarray
    parent: np.ndarray
    sep_ptr: np.ndarray
    sep: np.ndarray
    log_size: np.ndarray
    methods: tuple[str, ...] = field(default=())

    @property
    def log2_largest(self) -> float:
        """log2 of the entries of the largest table; 0 where there are no sites."""
        return float(self.log_size.max(initial=0.0))

    @property
    def operations(self) -> float:
        """Entries of all tables."""
        return float(np.exp2(self.log_size).sum())

    @property
    def width(self) -> int:
        """The most sites that a message is over: the width of the order."""
        return int(np.diff(self.sep_ptr).max(initial=0))


def elimination_order(
    num_states: np.ndarray,
    row_ptr: np.ndarray,
    row_sites: np.ndarray,
    *,
    limit: float = 27.0,
    effort: float = EFFORT,
    seed: int = 1,
) -> Elimination | str:
    """An order of small tables, or in a few words why there is none.

    num_states (n,), row_ptr (m + 1,), row_sites: state counts, and the sites of each row, as in a table view.
    limit: log2 of the entries of the largest table allowed.  effort: looks at neighbours that the search may take.
    Tried for each connected component: smallest table next, a front that sweeps over the component from several
    starts (on grids this finds a width of the shorter side, where min-fill finds half as much again), breadth-first,
    minimum fill and its randomised restarts; the order of the fewest entries in all wins. The search for a
    better order ends where it has taken its effort, or a tenth of what it could save. The same call gives the same order.
    """
    adjacency = adjacency_of(num_states.size, row_ptr, row_sites)
    log_card = np.log2(num_states.astype(np.float64))
    from ebmstruct.inference.kernels.elimination import elimination_order_numba as kernels

    order, count = kernels.min_weight(*adjacency, log_card, limit, effort)
    quick = _finish(order, adjacency, log_card, limit, ("min_weight",)) if count == order.size else None
    if quick is not None and quick.operations <= ENOUGH:
        return quick
    return _search(adjacency, log_card, quick, limit, effort, seed)


def adjacency_of(sites: int, row_ptr: np.ndarray, row_sites: np.ndarray) -> Adjacency:
    """Which sites share a row: pointers (n + 1,) and neighbours."""
    from scipy.sparse import coo_array

    arity = np.diff(row_ptr)
    first, second = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(arity).tolist():
        scopes = row_sites[(row_ptr[:-1][arity == size][:, None] + np.arange(size))]
        for i in range(size):
            for j in range(size):
                if i != j:
                    first.append(scopes[:, i])
                    second.append(scopes[:, j])
    a, b = np.concatenate(first), np.concatenate(second)
    joined = coo_array((np.ones(a.size, np.int8), (a, b)), shape=(sites, sites)).tocsr()
    joined.sum_duplicates()
    return joined.indptr.astype(np.int64), joined.indices.astype(np.int64)


def _finish(
    order: np.ndarray, adjacency: Adjacency, log_card: np.ndarray, limit: float, methods: tuple[str, ...]
) -> Elimination | None:
    """The same work with subtrees contiguous, so that messages wait for as short as possible."""
    from ebmstruct.inference.kernels.elimination import elimination_symbolic_numba as kernels

    parent, sep_ptr, _, _ = kernels.symbolic(order, *adjacency, log_card, limit + 1e-9)
    if not sep_ptr.size:
        return None
    order = order[kernels.postorder(parent)]
    parent, sep_ptr, sep, log_size = kernels.symbolic(order, *adjacency, log_card, limit + 1e-9)
    return Elimination(order, parent, sep_ptr, sep, log_size, methods)


@dataclass(frozen=True, eq=False)
class _Found:
    """The best order of a component so far: its total of entries, the log2 of its largest table, who found it."""

    order: np.ndarray
    total: float
    largest: float
    method: str


def _search(
    adjacency: Adjacency, log_card: np.ndarray, quick: Elimination | None, limit: float, effort: float, seed: int
) -> Elimination | str:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = log_card.size
    matrix = csr_array((np.ones(adjacency[1].size, np.int8), adjacency[1], adjacency[0]), shape=(n, n))
    count, component = connected_components(matrix, directed=False)
    by_component = np.argsort(component, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(component, minlength=count))])
    position = np.empty(n, np.int64)
    totals = np.full(count, np.inf)
    if quick is not None:
        position[quick.order] = np.arange(n)
        totals = np.bincount(component[quick.order], np.exp2(quick.log_size), count)
    parts, methods, widest, blocked = [], set(), 0.0, 0.0
    for c in np.argsort(-totals, kind="stable").tolist():
        members = by_component[bounds[c] : bounds[c + 1]]
        first = None
        if quick is not None:
            sizes = quick.log_size[position[members]]
            first = _Found(np.argsort(position[members]), totals[c], float(sizes.max()), "min_weight")
        if totals[c] > ENOUGH and (first is None or effort > 0):
            local = matrix[members][:, members]
            part = local.indptr.astype(np.int64), local.indices.astype(np.int64)
            found, looks = _improve(part, log_card[members], first, effort, seed)
            effort -= looks
        else:
            found = first
        if found is None:
            return (
                f"one of its connected parts has {members.size:,} sites, and every order tried has a table of more than "
                f"2^{min(limit, LARGEST_REPORTED):.0f} entries"
            )
        parts.append(members[found.order])
        methods.add(found.method)
        widest = max(widest, found.largest)
        blocked += found.total
    if widest > limit + 1e-9:
        return f"the best of the orders tried has a table of 2^{widest:.1f} entries"
    finished = _finish(np.concatenate(parts), adjacency, log_card, limit, tuple(sorted(methods)))
    assert finished is not None
    return finished


def _improve(
    adjacency: Adjacency, log_card: np.ndarray, first: _Found | None, effort: float, seed: int
) -> tuple[_Found | None, float]:
    """The best order of one connected component among those that the effort allows; and the looks it took."""
    from ebmstruct.inference.kernels.elimination.elimination_symbolic_numba import symbolic

    best, spent = first, 0.0
    for method, order, looks in _candidates(adjacency, log_card, seed):
        spent += looks + EFFORT_OF_A_CALL
        if order.size:
            _, sep_ptr, sep, log_size = symbolic(order, *adjacency, log_card, LARGEST_REPORTED)
            spent += 2 * sep.size + adjacency[1].size
            total = float(np.exp2(log_size).sum()) if sep_ptr.size else math.inf
            if sep_ptr.size and (best is None or total < best.total):
                best = _Found(order, total, float(log_size.max()), method)
        if spent > effort or (best is not None and spent > LOOKS_PER_ENTRY * best.total):
            break
    return best, spent


def _candidates(adjacency: Adjacency, log_card: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray, float]]:
    """Orders of one connected component and the looks they took, those that are quickly found first."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    from ebmstruct.inference.kernels.elimination import elimination_order_numba as kernels

    def sweep(start: int, eager: bool) -> tuple[str, np.ndarray, float]:
        return "sweep", *kernels.sweep_order(*adjacency, log_card, start, eager, LARGEST_REPORTED)

    n = log_card.size
    far = int(kernels.farthest(*adjacency, int(np.argmin(np.diff(adjacency[0])))))
    yield sweep(far, False)
    yield sweep(int(kernels.farthest(*adjacency, far)), False)
    if n > LARGEST_SEARCHED:
        return
    yield "min_fill", *kernels.min_fill(*adjacency, log_card, 0)
    yield sweep(far, True)
    matrix = csr_array((np.ones(adjacency[1].size, np.int8), adjacency[1], adjacency[0]), shape=(n, n))
    order = reverse_cuthill_mckee(matrix, symmetric_mode=True).astype(np.int64)
    yield "cuthill_mckee", order, 10.0 * n
    yield "cuthill_mckee", np.ascontiguousarray(order[::-1]), 0.0
    generator = np.random.default_rng(seed)
    for attempt in range(1, 200):
        yield "min_fill", *kernels.min_fill(*adjacency, log_card, seed * 1000 + attempt)
        if attempt % 4 == 0:
            yield sweep(int(generator.integers(n)), False)


def words(found: Elimination | str) -> str:
    """What was found, in a few words for people."""
    if isinstance(found, str):
        return found
    size = f"2^{found.log2_largest:.0f}" if math.isfinite(found.log2_largest) else "too many"
    return f"width {found.width}, largest table {size} entries"

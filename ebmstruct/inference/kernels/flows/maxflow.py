"""Least cuts: the drivers of the max-flow loops, for graphs and for grids."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

EXACT = 2.0**51
"""Sums of capacities stay below this many quanta, which float64 adds and subtracts exactly."""
KEPT = 1 << 26
"""Bytes of working memory that a thread keeps for its next cut: fresh memory costs more than the flow on it."""
_SPARE = threading.local()


@dataclass(frozen=True, eq=False)
class Cut:
    """A least cut of a graph, or where the work on it stopped.

    side: (n,) int8, 0 the source's, 1 the sink's, 2 either.  flow: (m,) float64, from the first node of each edge to its
    second.  finished: whether the flow is at its maximum; else the sides mean what the trees had reached.
    left: (2, m) float64, what each edge can still carry from first to second and back, in whole quanta; (2, 0) where
    not asked for.
    """

    side: np.ndarray
    flow: np.ndarray
    finished: bool
    left: np.ndarray


def minimum_cut(
    first: np.ndarray,
    second: np.ndarray,
    forth: np.ndarray,
    back: np.ndarray,
    excess: np.ndarray,
    *,
    residual: bool = False,
    expired: Callable[[], bool] | None = None,
) -> Cut:
    """A least cut of a graph: sides x minimising sum of excess+ * x + excess- * (1 - x) + cut capacities.

    first, second: (m,) nodes of each edge, two different ones.  forth, back: (m,) float64, not negative, perhaps
    infinite: paid where the first node is on the source's side and the second on the sink's, and the other way round.
    excess: (n,) finite float64: positive from the source (paid on the sink's side), negative to the sink.
    Integers are exact below 2**51 around any node; other capacities are rounded to multiples of a power of two, which
    is 2**-51 times the sum of capacities around the busiest node or less (of all excess, where some are infinite).
    residual: whether ``Cut.left`` is wanted.  expired: asked about every millisecond whether to stop.
    """
    from ebmstruct.inference.kernels.flows import maxflow_numba as kernels

    high, total, infinite, broken = kernels.measure(first, second, forth, back, excess)
    top = max(high, 2.0 * total + high) if infinite else high
    scale = 1.0 if not broken and top <= EXACT else 2.0 ** math.floor(math.log2(EXACT / max(top, 1e-290)))
    most = math.ceil(total * scale) + excess.size + 1.0 if infinite else math.inf
    sites, edges = excess.size, first.size
    side, flow, left = np.empty(sites, np.int8), np.empty(edges), np.empty((2, edges if residual else 0))
    with _memory(32 * (sites + edges) + 8 * (sites + 1)) as words:
        room, cap = words[: 4 * sites], words[4 * sites : 4 * (sites + edges)]
        node, arc = room.view(np.int32), cap.view(np.int32)
        queue, orphans = words[4 * (sites + edges) :].view(np.int32)[: 2 * (sites + 1)].reshape(2, -1)
        kernels.build(first, second, forth, back, excess, scale, most, room, node, arc, cap)
        state = np.zeros(4, np.int64)
        finished = _work(lambda: kernels.run(room, node, arc, cap, queue, orphans, state, kernels.CHUNK), expired)
        kernels.cut(node, side)
        kernels.flows(first, second, forth, scale, most, node, cap, flow, left)
    return Cut(side, flow, finished, left)


@dataclass(frozen=True, eq=False)
class GridCut:
    """A least cut of a grid: its labelling, and what proves it.

    states: (n,) int64.  energy, bound: of the labelling, and the greatest lower bound that the flow gives; they differ by
    rounding only where ``finished``.
    """

    states: np.ndarray
    energy: float
    bound: float
    finished: bool


def grid_cut(
    unary: np.ndarray,
    right: np.ndarray,
    down: np.ndarray,
    table: np.ndarray,
    width: int,
    across: np.ndarray,
    along: np.ndarray,
    *,
    expired: Callable[[], bool] | None = None,
) -> GridCut | None:
    """The least labelling of one binary grid; None where an energy is no finite number.

    unary (n, 2), right (n,), down (n,): of one floating-point type, as in a GridFactor.  table: (4,) float64; the
    weights times its excess b + c - a - d must not be negative.
    across, along: (pairs, 4) float64, filled with the reparametrisation that the flow is, row by row.
    """
    from ebmstruct.inference.kernels.flows import grid_capacities_numba as capacities
    from ebmstruct.inference.kernels.flows import maxflow_grid_numba as kernels

    sites = unary.shape[0]
    size = 8 * (sites + 2 * width)
    states = np.empty(sites, np.int64)
    with _memory(8 * size + 8 * (sites + 1)) as words:
        queue, orphans = words[size:].view(np.int32)[: 2 * (sites + 1)].reshape(2, -1)
        records = words.view(np.int32)[:size]
        seen: tuple[np.ndarray, np.ndarray] = (records, records)
        scale, run, layout = 1.0, kernels.run_int32, (8, 7)
        if not capacities.build(unary, right, down, table, width, scale, capacities.LIMIT, records):
            top = capacities.largest(unary, right, down, table)
            if not math.isfinite(top):
                return None
            seen = (words[:size], words[:size].view(np.int32))
            scale, run, layout = 2.0 ** math.floor(math.log2(EXACT / max(top, 1e-290))), kernels.run_float64, (16, 12)
            capacities.build(unary, right, down, table, width, scale, math.inf, seen[0])
        state = np.zeros(4, np.int64)
        finished = _work(lambda: run(*seen, width, queue, orphans, state, kernels.CHUNK), expired)
        energy, bound = capacities.close(*seen, *layout, unary, right, down, table, width, scale, states, across, along)
    return GridCut(states, energy, bound, finished)


@contextmanager
def _memory(size: int) -> Iterator[np.ndarray]:
    """Working memory of ``size`` bytes or more as float64, that begins with a cache line; what is in it is undefined."""
    spare: np.ndarray | None = getattr(_SPARE, "words", None)
    _SPARE.words = None  # whoever is called meanwhile, in this thread, gets memory of its own
    if spare is None or spare.nbytes < size:
        whole = np.empty(size // 8 + 9)
        spare = whole[-whole.ctypes.data % 64 // 8 :][: size // 8 + 1]
    try:
        yield spare
    finally:
        if spare.nbytes <= KEPT:
            _SPARE.words = spare


def _work(step: Callable[[], Any], expired: Callable[[], bool] | None) -> bool:
    """Call ``step`` until it says that it is done (True) or the time is up (False)."""
    while not step():
        if expired is not None and expired():
            return False
    return True

"""One instance with whole-number costs, for solvers that count in them, and what their bounds mean in energies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ebmstruct.inference.views.table_view import TableView

ROUNDING = 1e-12
"""What a bound gives up for float64 sums, relative to the sizes of the numbers that are added."""
FINEST = 1e-6
"""The least span of energies that is spread over all costs, relative to their size: below it nothing is gained."""


@dataclass(frozen=True, eq=False)
class IntegerProblem:
    """Functions over the open sites of one instance, with costs of 0 and more.

    sites: (n,) the sites' numbers in the view.  num_states: (n,).  scope_ptr, scope: the sites of each function, by
    their place in ``sites``.  cost_ptr, costs: each function's table, row-major; -1 forbids.
    first: (n,) states to begin with.  first_cost: what they cost; -1 where they are forbidden.
    An assignment of cost c has an energy of at least offset + c / scale, and of at most ``functions`` / scale more.
    """

    sites: np.ndarray
    num_states: np.ndarray
    scope_ptr: np.ndarray
    scope: np.ndarray
    cost_ptr: np.ndarray
    costs: np.ndarray
    first: np.ndarray
    first_cost: int
    offset: float
    scale: float

    @property
    def functions(self) -> int:
        """The number of functions."""
        return self.scope_ptr.size - 1

    @property
    def most(self) -> int:
        """A cost above that of every assignment that is not forbidden."""
        if not self.functions:
            return 1
        return int(np.maximum.reduceat(self.costs, self.cost_ptr[:-1]).clip(min=0).sum()) + 1

    def arrays(self) -> dict[str, np.ndarray]:
        """What a worker is given, as arrays by name."""
        bound = self.first_cost if self.first_cost >= 0 else self.most
        return {
            "num_states": self.num_states,
            "scope_ptr": self.scope_ptr,
            "scope": self.scope,
            "cost_ptr": self.cost_ptr,
            "costs": self.costs,
            "first": self.first,
            "below": np.asarray(bound),
            "has_first": np.asarray(self.first_cost >= 0),
        }

    def cost(self, states: np.ndarray) -> int:
        """The cost of an assignment (n,); -1 where it is forbidden."""
        if not self.functions:
            return 0
        counts = self.num_states[self.scope]
        owner = np.repeat(np.arange(self.functions), np.diff(self.scope_ptr))
        at = self.cost_ptr[:-1] + np.bincount(owner, states[self.scope] * self._strides(counts), self.functions)
        costs = self.costs[at.astype(np.int64)]
        return -1 if (costs < 0).any() else int(costs.sum())

    def _strides(self, counts: np.ndarray) -> np.ndarray:
        """How far an entry moves in its table when a slot's state rises by one."""
        stride = np.ones(self.scope.size, np.int64)
        arity = np.diff(self.scope_ptr)
        for place in range(2, int(arity.max(initial=0)) + 1):
            slot = self.scope_ptr[1:][arity >= place] - place
            stride[slot] = stride[slot + 1] * counts[slot + 1]
        return stride

    def bound(self, cost: float) -> float:
        """The energy below which no assignment lies, when none costs less than ``cost``."""
        return self.offset + cost / self.scale - ROUNDING * (abs(self.offset) + abs(cost / self.scale))


def integer_problem(view: TableView, b: int, first: np.ndarray, energy: float, top: int) -> IntegerProblem:
    """Round instance b's energies down to whole numbers of 1 / scale, so that ``first`` costs about ``top``.

    first: (n,) states of all open sites, of energy ``energy`` in instance b (inf where they are forbidden). No
    assignment that is better than it uses an entry which by itself lies higher above its table's least than the whole of
    ``first`` above the sum of all tables' least; such entries are forbidden, and all others fit below ``top``. Without
    a finite one the scale is set by the sum of the tables' ranges. The scale is a power of 2.
    """
    sites = np.nonzero(view.instance == b)[0]
    rows = np.nonzero(view.row_instance == b)[0]
    place = np.full(view.num_sites, -1)
    place[sites] = np.arange(sites.size)
    unary, tables, weights = view.arrays
    row_sizes, arity = view.row_sizes[rows], view.arity[rows]
    values = tables[_runs(view.table_start[rows], row_sizes)] * np.repeat(weights[rows], row_sizes)
    values = np.concatenate([unary[_runs(view.starts[:-1][sites], view.num_states[sites])], values])
    sizes = np.concatenate([view.num_states[sites], row_sizes]).astype(np.int64)
    scope = np.concatenate([np.arange(sites.size), place[view.row_sites[_runs(view.row_ptr[:-1][rows], arity)]]])
    begins = np.cumsum(sizes) - sizes
    least = np.minimum.reduceat(values, begins) if sizes.size else np.zeros(0)
    least = np.where(np.isfinite(least), least, 0.0)
    excess = values - np.repeat(least, sizes)
    cost_ptr = np.concatenate([[0], np.cumsum(sizes)])
    offset = float(view.constant[b]) + math.fsum(least)
    finite = np.isfinite(excess)
    if math.isfinite(energy):
        span = max(energy - offset, 0.0) * (1 + 1e-9) + ROUNDING * (abs(energy) + float(np.abs(least).sum()))
        finite &= excess <= span
        span = max(span, FINEST * max(1.0, abs(offset)))
    else:
        span = float(np.maximum.reduceat(np.where(finite, excess, 0.0), cost_ptr[:-1]).sum()) if sizes.size else 0.0
    scale = 2.0 ** math.floor(math.log2(top / span)) if span > 0 else 1.0
    costs = np.where(finite, np.floor(np.where(finite, excess, 0.0) * scale), -1).astype(np.int64)
    problem = IntegerProblem(
        sites=sites,
        num_states=view.num_states[sites],
        scope_ptr=np.concatenate([[0], np.cumsum(np.concatenate([np.ones(sites.size, np.int64), arity]))]),
        scope=scope.astype(np.int64),
        cost_ptr=cost_ptr.astype(np.int64),
        costs=costs,
        first=first[sites],
        first_cost=-1,
        offset=offset,
        scale=scale,
    )
    object.__setattr__(problem, "first_cost", problem.cost(problem.first) if math.isfinite(energy) else -1)
    return problem


def _runs(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """begin, begin + 1, ... of each run, one after the other."""
    return np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))

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
        total = 0
        for f in range(self.functions):
            at = 0
            for i in self.scope[self.scope_ptr[f] : self.scope_ptr[f + 1]]:
                at = at * int(self.num_states[i]) + int(states[i])
            cost = int(self.costs[self.cost_ptr[f] + at])
            if cost < 0:
                return -1
            total += cost
        return total

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
    tensor, starts = view.row_tables()
    values, unary = tensor.detach().numpy(), view.arrays[0]
    tables = [unary[view.starts[i] : view.starts[i + 1]] for i in sites]
    tables += [values[starts[r] : starts[r] + view.row_sizes[r]] for r in rows]
    scopes = [np.array([p]) for p in range(sites.size)]
    scopes += [place[view.row_sites[view.row_ptr[r] : view.row_ptr[r + 1]]] for r in rows]
    least = np.array([t.min() for t in tables]) if tables else np.zeros(0)
    least = np.where(np.isfinite(least), least, 0.0)
    excess = np.concatenate([t - low for t, low in zip(tables, least, strict=True)]) if tables else np.zeros(0)
    sizes = np.array([t.size for t in tables], dtype=np.int64)
    cost_ptr = np.concatenate([[0], np.cumsum(sizes)])
    offset = float(view.constant[b]) + math.fsum(least)
    finite = np.isfinite(excess)
    if math.isfinite(energy):
        span = max(energy - offset, 0.0) * (1 + 1e-9) + ROUNDING * (abs(energy) + float(np.abs(least).sum()))
        finite &= excess <= span
        span = max(span, FINEST * max(1.0, abs(offset)))
    else:
        span = float(np.maximum.reduceat(np.where(finite, excess, 0.0), cost_ptr[:-1]).sum()) if tables else 0.0
    scale = 2.0 ** math.floor(math.log2(top / span)) if span > 0 else 1.0
    costs = np.where(finite, np.floor(np.where(finite, excess, 0.0) * scale), -1).astype(np.int64)
    problem = IntegerProblem(
        sites=sites,
        num_states=view.num_states[sites],
        scope_ptr=np.concatenate([[0], np.cumsum([s.size for s in scopes], dtype=np.int64)]).astype(np.int64),
        scope=np.concatenate(scopes).astype(np.int64) if scopes else np.zeros(0, np.int64),
        cost_ptr=cost_ptr.astype(np.int64),
        costs=costs,
        first=first[sites],
        first_cost=-1,
        offset=offset,
        scale=scale,
    )
    object.__setattr__(problem, "first_cost", problem.cost(problem.first) if math.isfinite(energy) else -1)
    return problem

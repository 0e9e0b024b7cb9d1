"""The local-polytope linear program and its integer form, through the HiGHS solvers that scipy brings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.certificate import tables_bound
from ebmstruct.inference.kernels.search.icm import polished
from ebmstruct.inference.result import (
    Answer,
    Ask,
    Budget,
    Claim,
    Query,
    Reparametrization,
    Result,
    Several,
    Status,
    Witness,
)
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

TOLERANCE = 1e-7
"""What HiGHS lets each reduced cost be wrong by; a bound of the integer program gives that up once a site and row."""


@dataclass(frozen=True)
class LinearProgram(Solver):
    """Minimise over the local polytope: marginals of sites and of rows that agree with each other.

    This is the relaxation of Wainwright, Jaakkola and Willsky (2005).
    The dual values are messages that prove the bound, which is computed again from them in float64, so that it holds
    however exactly HiGHS worked. The assignment is rounded from the marginals and improved by a descent; where the
    relaxation is tight it is the optimum. Cost: a general linear program with a variable an entry and (arity) nonzeros
    each, far dearer than dual ascent; for graphs up to some hundred thousand entries. Each instance is solved by itself.
    max_nonzeros: larger programs are refused.
    """

    name: ClassVar[str] = "linear_program"

    max_nonzeros: int = 2_000_000

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return _refuse(graph, query, self.max_nonzeros)

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        return _cost(table_view(graph))

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        return _solve(table_view(graph), self.name, False, init, budget or Budget())


@dataclass(frozen=True)
class IntegerProgram(Solver):
    """The same program with whole sites: exact by branch and bound, where HiGHS gets there in time.

    The bound is HiGHS's own, less what its tolerances amount to, and is marked as a claim.
    Without a deadline it runs until it is done, which may be never.
    """

    name: ClassVar[str] = "integer_program"

    max_nonzeros: int = 2_000_000

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return _refuse(graph, query, self.max_nonzeros)

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        return _cost(table_view(graph))

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        return _solve(table_view(graph), self.name, True, init, budget or Budget())


@dataclass(frozen=True, eq=False)
class _Program:
    """minimise cost @ x, equalities @ x = right, x >= 0, for one instance.

    Columns are the states of its sites, then the entries of its rows that are not forbidden; equalities are its
    messages (entries with the state sum to the site's own) and then its sites (probabilities sum to 1).
    """

    sites: np.ndarray
    rows: np.ndarray
    cost: np.ndarray
    equalities: Any
    right: np.ndarray
    messages: np.ndarray


@dataclass(eq=False)
class _Found:
    """What a program ended with: site marginals, messages, bound."""

    status: Status
    marginals: np.ndarray | None
    messages: np.ndarray | None = None
    bound: float = -np.inf
    stats: dict[str, Any] = field(default_factory=dict)


def _refuse(graph: FactorGraph, query: Query, max_nonzeros: int) -> str | None:
    if query.ask is not Ask.MINIMIZE:
        return f"a linear program minimises, and this query asks for {query.ask}"
    if query.sum_out:
        return "it minimises over all sites, and this query sums some of them out"
    if query.k > 1:
        return "it gives one assignment, not the k best"
    reason = table_refusal(graph)
    if reason is None and (size := _nonzeros(table_view(graph))) > max_nonzeros:
        reason = f"the program would have {size:,} nonzeros, more than {max_nonzeros:,}"
    return reason


def _nonzeros(view: TableView) -> int:
    return int((view.row_sizes * view.arity).sum() + view.message_ptr[-1] + view.starts[-1])


def _cost(view: TableView) -> Cost:
    size = float(_nonzeros(view))
    return Cost(100 * size**1.5, int(view.row_sizes.max(initial=1)))


def _positions(view: TableView, chosen: np.ndarray, pointers: np.ndarray) -> np.ndarray:
    """Concatenated ranges pointers[j] ... pointers[j + 1] - 1 of the chosen j."""
    counts = pointers[chosen + 1] - pointers[chosen]
    shift = np.repeat(pointers[chosen] - (np.cumsum(counts) - counts), counts)
    return np.arange(int(counts.sum())) + shift


def _program(view: TableView, b: int, values: np.ndarray, starts: np.ndarray) -> _Program:
    from scipy.sparse import csr_array

    sites, rows = np.nonzero(view.instance == b)[0], np.nonzero(view.row_instance == b)[0]
    slots = _positions(view, rows, view.row_ptr)
    messages = _positions(view, slots, view.message_ptr)
    states = _positions(view, sites, view.starts)
    column = np.full(int(view.starts[-1]), -1)
    column[states] = np.arange(states.size)
    number = np.full(int(view.message_ptr[-1]), -1)
    number[messages] = np.arange(messages.size)
    entries = _positions(view, rows, np.concatenate([starts, [values.size]]))
    entries = entries[np.isfinite(values[entries])]
    row = np.searchsorted(starts, entries, side="right") - 1
    rest, parts = entries - starts[row], []
    for back in range(1, int(view.arity[rows].max(initial=0)) + 1):
        here = np.nonzero(view.arity[row] >= back)[0]
        slot = view.row_ptr[row[here] + 1] - back
        count = view.num_states[view.row_sites[slot]]
        parts.append((number[view.message_ptr[slot] + rest[here] % count], states.size + here, np.ones(here.size)))
        rest[here] //= count
    owner = np.repeat(slots, np.diff(view.message_ptr)[slots])
    own_state = view.starts[view.row_sites[owner]] + messages - view.message_ptr[owner]
    parts.append((np.arange(messages.size), column[own_state], -np.ones(messages.size)))
    which = np.repeat(np.arange(sites.size), view.num_states[sites])
    parts.append((messages.size + which, np.arange(states.size), np.ones(states.size)))
    i, j, v = (np.concatenate(p) for p in zip(*parts, strict=True))
    shape = (messages.size + sites.size, states.size + entries.size)
    right = np.concatenate([np.zeros(messages.size), np.ones(sites.size)])
    cost = np.concatenate([view.arrays[0][states], values[entries]])
    return _Program(sites, rows, cost, csr_array((v, (i, j)), shape=shape), right, messages)


def _run(program: _Program, states: int, integer: bool, budget: Budget) -> _Found:
    """Let HiGHS solve one program."""
    from scipy.optimize import Bounds, LinearConstraint, linprog, milp

    options: dict[str, Any] = {} if budget.deadline is None else {"time_limit": max(budget.remaining, 0.01)}
    # HiGHS's tolerances are absolute (1e-7 on a cost, 1e-6 on the gap at which a search ends): energies are scaled
    unit = float(np.abs(program.cost).max(initial=0.0)) / (1e3 if integer else 1.0) or 1.0
    if integer:
        whole = np.zeros(program.cost.size)
        whole[:states] = 1
        constraint = LinearConstraint(program.equalities, program.right, program.right)
        options["mip_rel_gap"] = 0.0
        got = milp(program.cost / unit, integrality=whole, bounds=Bounds(0, 1), constraints=constraint, options=options)
    else:
        got = linprog(
            program.cost / unit, A_eq=program.equalities, b_eq=program.right, bounds=(0, None), method="highs",
            options=options,
        )  # fmt: skip
    status = {0: Status.CONVERGED, 1: Status.DEADLINE, 2: Status.INFEASIBLE}.get(int(got.status), Status.MAX_STEPS)
    marginals = None if got.x is None else np.asarray(got.x)[:states]
    if status is Status.INFEASIBLE:
        return _Found(status, None, bound=np.inf)
    if integer:
        bound = getattr(got, "mip_dual_bound", None)
        if bound is None or not np.isfinite(bound):
            return _Found(status, marginals)
        terms = program.sites.size + program.rows.size
        return _Found(
            status, marginals, bound=float(bound) * unit - TOLERANCE * unit * terms - 1e-10 * abs(bound) * unit
        )
    duals = None if got.x is None else np.asarray(got.eqlin.marginals)[: program.messages.size] * unit
    return _Found(status, marginals, messages=duals if duals is not None and np.isfinite(duals).all() else None)


def _solve(view: TableView, name: str, integer: bool, init: Assignment | None, budget: Budget) -> Result:
    tables, starts = view.row_tables()
    values = tables.detach().numpy()
    constant = view.constant.detach().numpy()
    messages = np.zeros(int(view.message_ptr[-1]))
    bound, status = constant.copy(), np.full(view.num_instances, int(Status.CONVERGED))
    states = np.zeros(view.num_sites, np.int64) if init is None else view.compress(init.values)
    claimed = np.zeros(view.num_instances, np.bool_)
    for b in range(view.num_instances):
        if not np.isfinite(constant[b]):
            status[b] = int(Status.INFEASIBLE)
            continue
        program = _program(view, b, values, starts)
        if program.sites.size and not budget.expired:
            found = _run(program, int(view.num_states[program.sites].sum()), integer, budget)
            status[b] = int(found.status)
            if found.messages is not None:
                messages[program.messages] = found.messages
            if found.marginals is not None:
                _round(view, program.sites, found.marginals, states)
            bound[b] += found.bound
            claimed[b] = integer or found.status is Status.INFEASIBLE
        elif program.sites.size:
            status[b], bound[b] = int(Status.DEADLINE), -np.inf
    states = _improved(view, states, init, budget)
    if not integer:
        bound = np.where(
            claimed, np.where(status == int(Status.INFEASIBLE), np.inf, bound), tables_bound(view, messages).numpy()
        )
    energy = np.where(status == int(Status.INFEASIBLE), np.inf, view.energy(states))
    moved = Reparametrization("tables", torch.from_numpy(messages))
    witness: Witness = Claim("HiGHS") if integer else Several((moved, Claim("HiGHS"))) if claimed.any() else moved
    return Result(
        Assignment(view.expand(states)),
        torch.from_numpy(energy),
        torch.from_numpy(bound),
        torch.from_numpy(status),
        solver=name,
        witness=witness,
        stats={"nonzeros": _nonzeros(view)},
    )


def _round(view: TableView, sites: np.ndarray, marginals: np.ndarray, states: np.ndarray) -> None:
    """Give some sites their states of greatest marginal, in place."""
    begin = 0
    for site in sites:
        count = int(view.num_states[site])
        states[site] = int(marginals[begin : begin + count].argmax())
        begin += count


def _improved(view: TableView, states: np.ndarray, init: Assignment | None, budget: Budget) -> np.ndarray:
    """The states after a descent, or the given ones in instances where those are better."""
    out = polished(view, states, lambda: budget.expired)
    for other in (states, None if init is None else view.compress(init.values)):
        if other is not None:
            wins = view.energy(other) < view.energy(out)
            out = np.where(wins[view.instance], other, out)
    return out

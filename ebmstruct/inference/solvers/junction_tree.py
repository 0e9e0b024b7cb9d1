"""Exact inference on graphs of modest width, by eliminating one site after another (a junction tree of tables)."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, ChainFactor, FactorGraph, TableFactor
from ebmstruct.inference.elimination_order import elimination_order, words
from ebmstruct.inference.first_assignment import first_assignment
from ebmstruct.inference.kernels.elimination import elimination
from ebmstruct.inference.kernels.elimination.elimination import Buckets, LogSums, OutOfTime, Stop
from ebmstruct.inference.kernels.elimination.elimination_autograd import log_partition
from ebmstruct.inference.result import (
    Answer,
    Ask,
    Budget,
    EliminationOrder,
    Marginals,
    Query,
    Result,
    Samples,
    Status,
)
from ebmstruct.inference.solver import Cost, Solver
from ebmstruct.inference.views.joint_beliefs import joint_beliefs
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

_PER_ENTRY = {Ask.MINIMIZE: 0.65, Ask.LOG_PARTITION: 1.25, Ask.MARGINALS: 5.0, Ask.SAMPLE: 1.25}
"""Elementary operations an entry of a table; measured on the instances of the UAI competitions."""
_PER_BYTE = 0.08
"""Operations a byte of memory, which comes page by page."""
_PER_READ = 100.0
"""Operations to read one site of one assignment off the messages."""
_PER_BUCKET = 1000.0
_OPERATIONS_PER_SECOND = 4e8
_HOPE = 1.5
"""A pass that is expected to take so many times what is left is not begun."""
_DOUBT = 0.2
"""Where a pass is expected to take more of what is left than this, an assignment is found before it."""
_FIRST_SECONDS = 0.3
"""How long that takes at most, and at most a quarter of what is left."""
_LAST_SECONDS = 0.05
"""How long one is looked for after a deadline that came unexpectedly."""


@dataclass(frozen=True)
class JunctionTree(Solver):
    """Exact minimisation, k best, log partition, marginals and samples of any graph of tables of modest width.

    Takes tables over any number of sites, evidence, infinite entries, mixed state counts; several instances lie side by
    side and get an answer each. The order of elimination is searched for (``elimination_order``) and remembered with
    the topology. Cost: the entries of all tables, those of the largest being the product of the states of its sites:
    exponential in the width of the graph.

    max_table: entries of the largest table; it is never held whole.  max_memory: bytes for messages.
    It refuses graphs over either, blocks to sum out, and factors without tables. Source: Dechter 1999; Lauritzen and
    Spiegelhalter 1988.
    """

    name: ClassVar[str] = "junction_tree"

    max_table: int = 1 << 27
    max_memory: int = 1 << 30

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.sum_out:
            return "it minimises over all sites, and this query sums some of them out"
        reason = table_refusal(graph) or _refuse_labels(graph, query)
        if reason is not None:
            return reason
        found = self._buckets(graph)
        if isinstance(found, str):
            return f"{found}; its limit is {self.max_table:,} entries"
        needed = found.bytes_needed(_keeps(query), query.ask is Ask.MARGINALS)
        if needed > self.max_memory:
            return (
                f"its messages take {needed / 1e9:.2g} GB ({words(found.elimination)}); "
                f"its limit is {self.max_memory / 1e9:.2g} GB"
            )
        return None

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        if table_refusal(graph) is not None:
            return None
        found = self._buckets(graph)
        return None if isinstance(found, str) else _cost(found, query)

    def _buckets(self, graph: FactorGraph) -> Buckets | str:
        """The plan, or why there is none; remembered with the topology, as evidence leaves different structures."""
        with torch.no_grad():
            view = table_view(graph)
        digest = hashlib.blake2b(view.num_states.tobytes())
        for part in (view.row_ptr, view.row_sites, view.instance):
            digest.update(part.tobytes())
        key = self.max_table, view.num_instances, digest.digest()
        known: dict[object, Buckets | str] = graph.topology.derive("elimination_plans", dict)
        found = known.get(key)
        if found is None:
            limit = math.log2(self.max_table)
            order = elimination_order(view.num_states, view.row_ptr, view.row_sites, limit=limit)
            found = order if isinstance(order, str) else elimination.buckets_of(view, order)
            if len(known) >= 16:
                known.clear()
            known[key] = found
        return found

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        found = self._buckets(graph)
        if isinstance(found, str):
            raise SolverRefusal(f"{self.name} cannot sum over this graph: {found}", {self.name: found})
        view = table_view(graph)
        tables, _ = view.row_tables()
        bad = _undefined(view, tables.detach().numpy())
        unary, tables = view.unary / temperature, tables / temperature
        if tables.requires_grad or unary.requires_grad:
            needed = found.bytes_needed(True, True)
            if needed > self.max_memory:
                reason = f"gradients take {needed / 1e9:.2g} GB, over its limit of {self.max_memory / 1e9:.2g} GB"
                raise SolverRefusal(
                    f"{self.name} cannot differentiate its log partition: {reason}", {self.name: reason}
                )
        if bad is not None:
            mask = torch.from_numpy(bad[found.entry_instance])
            unary, tables = (
                unary.masked_fill(mask[: unary.numel()], 0.0),
                tables.masked_fill(mask[unary.numel() :], 0.0),
            )
        log_z = log_partition(unary, tables, found) - view.constant / temperature
        log_z = torch.where(torch.isneginf(log_z), -torch.inf, log_z)  # no gradient where nothing is feasible
        return log_z if bad is None else log_z.masked_fill(torch.from_numpy(bad), torch.nan)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        found = self._buckets(graph)
        assert isinstance(found, Buckets)
        budget = budget or Budget()
        run = _Run(graph, query, found, budget)
        expected = _cost(found, query, read=False).operations / _OPERATIONS_PER_SECOND
        if expected > _DOUBT * budget.remaining:
            run.prepare(init)
        if expected > _HOPE * budget.remaining:
            return run.late(init)  # the time is better spent otherwise
        try:
            return run.answer(generator)
        except OutOfTime:
            return run.late(init)


def _refuse_labels(graph: FactorGraph, query: Query) -> str | None:
    for label in query.factors:
        factor = next((f for f in graph.factors if f.label == label), None)
        if factor is None:
            return f"no factor is labelled {label!r}; the labels are {[f.label for f in graph.factors]}"
        if not isinstance(factor, ChainFactor | TableFactor):
            return f"joint beliefs are given for chains and tables; {label!r} is a {type(factor).__name__}"
    return None


def _keeps(query: Query) -> bool:
    """Whether all messages are kept."""
    return query.ask in (Ask.MARGINALS, Ask.SAMPLE) or query.k > 1


def _cost(found: Buckets, query: Query, read: bool = True) -> Cost:
    """Of the passes, and of ``read``ing assignments off them."""
    sites = found.card.size
    work = _PER_ENTRY[query.ask] * found.elimination.operations + _PER_BUCKET * sites
    work += _PER_BYTE * found.bytes_needed(_keeps(query), query.ask is Ask.MARGINALS)
    if read and query.ask is Ask.SAMPLE:
        work += _PER_READ * sites * query.num_samples
    if read and query.k > 1:
        work += _PER_READ * sites * min(query.k, found.assignments)
    return Cost(work, round(2.0**found.elimination.log2_largest))


def _undefined(view: TableView, tables: np.ndarray) -> np.ndarray | None:
    """(B,) bool: the instances that hold an energy that is NaN or -inf; None where none does. tables: of all rows."""
    unary, _, _ = view.arrays
    constant = view.constant.detach().numpy()
    if all(part.min(initial=0.0) > -np.inf for part in (unary, tables, constant)):
        return None
    bad = ~(constant > -np.inf)
    bad[np.repeat(view.instance, view.num_states)[~(unary > -np.inf)]] = True
    bad[np.repeat(view.row_instance, view.row_sizes)[~(tables > -np.inf)]] = True
    return bad


class _Run:
    """One query about one graph."""

    def __init__(self, graph: FactorGraph, query: Query, buckets: Buckets, budget: Budget) -> None:
        self.graph, self.query, self.buckets = graph, query, buckets
        with torch.no_grad():
            self.view = table_view(graph)
            tables = self.view.row_tables()[0].numpy()
        self.scale = 1.0 if query.ask is Ask.MINIMIZE else query.temperature
        self.unary, self.tables = self.view.arrays[0] / self.scale, tables / self.scale
        self.constant = self.view.constant.detach().numpy() / self.scale
        self.bad = _undefined(self.view, tables)
        if self.bad is not None:
            gone = self.bad[buckets.entry_instance]
            self.unary[gone[: self.unary.size]] = 0.0
            self.tables[gone[self.unary.size :]] = 0.0
        self.each: float | None = None
        self.first: np.ndarray | None = None
        self.budget, self.log_z = budget, np.full(self.view.num_instances, np.nan)
        self.stop: Stop | None = None if budget == Budget() else self.too_late
        self.stats = {
            "width": buckets.elimination.width,
            "log2_largest_table": buckets.elimination.log2_largest,
            "order": buckets.elimination.methods,
        }

    def prepare(self, init: Assignment | None, least: float = 0.0) -> np.ndarray:
        """The assignment that is given where the exact answer comes too late; looked for once, ``least`` seconds."""
        if self.first is not None:
            return self.first
        seconds = max(least, min(_FIRST_SECONDS, 0.25 * self.budget.remaining))
        states = None if init is None else self.view.compress(self.graph.complete(init))
        for allowed in (seconds, _LAST_SECONDS):  # loading compiled loops may take all of the first time
            within = Budget.after(allowed)
            states = first_assignment(self.view, states, functools.partial(getattr, within, "expired"))
            if np.isfinite(self.view.energy(states)[np.isfinite(self.constant)]).all():
                break
        assert states is not None
        self.first = states
        return states

    def too_late(self, entries: float) -> bool:
        """Whether the time is up, or will be well before so many entries of tables are handled."""
        ask = Ask.MINIMIZE if self.query.ask is Ask.MINIMIZE else Ask.LOG_PARTITION
        seconds = 0.8 * _PER_ENTRY[ask] * entries / _OPERATIONS_PER_SECOND
        return self.budget.expired or (seconds > 0.05 and seconds > self.budget.remaining)

    def answer(self, generator: Generator | None) -> Answer:
        """The exact answer; raises OutOfTime."""
        if self.query.ask is Ask.MINIMIZE:
            return self.least()
        if self.query.ask is Ask.LOG_PARTITION:
            log_z = elimination.log_partition(self.buckets, self.unary, self.tables, self.stop)
            return self.marginals({}, {}, log_z)
        sums = LogSums(self.buckets, self.unary, self.tables, self.stop)
        self.log_z = sums.log_z
        if self.query.ask is Ask.SAMPLE:
            shape = self.query.num_samples, sum(self.view.sizes)
            drawn = torch.rand(shape, dtype=torch.float64, generator=generator or torch.Generator().manual_seed(0))
            return self.samples(
                sums.sample(np.ascontiguousarray(drawn.numpy()[:, self.view.open_site])), True, sums.log_z
            )
        flat = sums.beliefs()
        unary, tables = flat[: self.unary.size], flat[self.unary.size :]
        feasible = np.isfinite(self.total(-sums.log_z).numpy())
        beliefs = self.view.expand_beliefs(torch.from_numpy(unary))
        if not feasible.all():
            for name, block in self.graph.variables.items():
                beliefs[name][~torch.from_numpy(feasible)[block.instance.cpu()]] = 0.0
        joint = {
            label: joint_beliefs(self.graph, self.view, unary, tables, feasible, label) for label in self.query.factors
        }
        return self.marginals(beliefs, joint, sums.log_z)

    def total(self, part: np.ndarray) -> Tensor:
        """Energies of the open part plus the constant; NaN where an instance holds an energy that is none."""
        whole = part + self.constant
        return torch.from_numpy(whole if self.bad is None else np.where(self.bad, np.nan, whole))

    def least(self) -> Result:
        if self.query.k > 1:
            return self.several()
        states, part = elimination.minimize(self.buckets, self.unary, self.tables, self.stop)
        bound = self.total(part)
        status = torch.full_like(bound, int(Status.CONVERGED), dtype=torch.long)
        return self.result(Assignment(self.view.expand(states)), bound, status)

    def several(self) -> Result:
        """The k best, or as many of them as the time allows: each still has its energy recomputed by the engine."""
        k = self.query.k
        states, parts, complete = elimination.k_best(
            self.buckets, self.unary, self.tables, min(k, self.buckets.assignments), self.stop, self.enough
        )
        energies = torch.full((k, self.view.num_instances), torch.inf, dtype=torch.float64)
        energies[: len(states)] = self.total(parts)
        if self.bad is not None:
            energies[:, torch.from_numpy(self.bad)] = torch.nan
        expanded = self.view.expand(states)
        rows = zip(*(v.unbind(0) for v in expanded.values()), strict=True)
        listed = [Assignment(dict(zip(expanded, row, strict=True))) for row in rows]
        if not listed:  # no variables
            listed = [Assignment({})] * len(states)
        missing = Assignment(self.view.expand(np.zeros(self.view.num_sites, np.int64)))
        listed += [missing] * (k - len(listed))
        ended = Status.CONVERGED if complete else Status.DEADLINE
        status = torch.full_like(energies[0], int(ended), dtype=torch.long)
        found = self.result(listed[0], energies[0], status)
        stats = {**self.stats, "alternatives": len(states), "alternatives_complete": complete}
        return replace(found, alternatives=tuple(listed), alternative_energies=energies, stats=stats)

    def enough(self, found: int) -> bool:
        """Whether so many assignments are all that there is time for, what the engine does with each included."""
        if self.budget.deadline is None:
            return self.budget.expired
        if self.each is None:
            example = Assignment(self.view.expand(np.zeros(self.view.num_sites, np.int64)))
            self.graph.energy(example)  # the first call prepares
            began = time.perf_counter()
            self.graph.energy(example)
            self.each = 1.4 * (time.perf_counter() - began) + 2e-5
        return self.budget.expired or found * self.each >= self.budget.remaining

    def result(self, assignment: Assignment, bound: Tensor, status: Tensor) -> Result:
        """An exact minimum, which is its own bound."""
        return Result(
            assignment,
            bound,
            bound,
            status,
            solver=JunctionTree.name,
            witness=EliminationOrder(torch.from_numpy(self.buckets.elimination.order)),
            stats=self.stats,
        )

    def marginals(self, beliefs: dict[str, Tensor], joint: dict[str, Tensor], log_z: np.ndarray) -> Marginals:
        total = self.total(-log_z).neg()
        status = torch.full_like(total, int(Status.OPTIMAL), dtype=torch.long)
        status = torch.where(torch.isneginf(total), int(Status.INFEASIBLE), status)
        status = torch.where(total.isnan(), int(Status.NONFINITE), status)
        return Marginals(beliefs, total, True, status, JunctionTree.name, joint, self.stats)

    def samples(self, states: np.ndarray, exact: bool, log_z: np.ndarray | None = None) -> Samples:
        energy = torch.from_numpy(np.stack([self.view.energy(s) for s in states]))
        status = torch.full((energy.shape[1],), int(Status.DEADLINE if log_z is None else Status.OPTIMAL))
        if log_z is not None:
            total = self.total(-log_z)
            status = torch.where(torch.isposinf(total), int(Status.INFEASIBLE), status)
            status = torch.where(total.isnan(), int(Status.NONFINITE), status)
        return Samples(self.view.expand(states), energy, exact, status, JunctionTree.name, self.stats)

    def late(self, init: Assignment | None) -> Answer:
        """What can be said where the deadline comes first: a legal assignment, and no bound but what it proves."""
        view, states = self.view, self.prepare(init, _LAST_SECONDS)
        energy = torch.from_numpy(view.energy(states))
        status = torch.full_like(energy, int(Status.DEADLINE), dtype=torch.long)
        if self.query.ask is Ask.MINIMIZE:
            bound = torch.full_like(energy, -torch.inf)
            chosen = Assignment(view.expand(states))
            return Result(chosen, energy, bound, status, solver=JunctionTree.name, stats=self.stats)
        if self.query.ask is Ask.SAMPLE:
            return self.samples(np.repeat(states[None], self.query.num_samples, 0), False)
        lower = -energy / self.query.temperature
        known = torch.from_numpy(~np.isnan(self.log_z))
        exact = self.total(-self.log_z).neg()
        value = torch.where(known, exact, lower)
        upper = torch.where(known, exact, torch.inf)
        stats = {**self.stats, "log_partition_lower": value, "log_partition_upper": upper}
        beliefs = {} if self.query.ask is Ask.LOG_PARTITION else view.expand_beliefs(torch.from_numpy(self.alone()))
        return Marginals(beliefs, value, False, status, JunctionTree.name, {}, stats)

    def alone(self) -> np.ndarray:
        """Probabilities of each site's states, flat, as if there were no tables over several sites."""
        if not self.unary.size:
            return np.zeros(0)
        begins, counts = self.view.starts[:-1], self.view.num_states
        weight = np.exp(np.repeat(np.minimum.reduceat(self.unary, begins), counts) - self.unary)
        return weight / np.repeat(np.add.reduceat(weight, begins), counts)

"""Exact inference on graphs of modest width, by eliminating one site after another (a junction tree of tables)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, ChainFactor, FactorGraph, TableFactor
from ebmstruct.inference.elimination_order import elimination_order, words
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

_PER_ENTRY = {Ask.MINIMIZE: 0.8, Ask.LOG_PARTITION: 1.5, Ask.MARGINALS: 4.0, Ask.SAMPLE: 1.5}
"""Elementary operations an entry of a table."""
_PER_BUCKET = 1000.0
_OPERATIONS_PER_SECOND = 4e8


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
        keep = query.ask in (Ask.MARGINALS, Ask.SAMPLE) or query.k > 1
        needed = found.bytes_needed(keep, query.ask is Ask.MARGINALS)
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
        try:
            if _cost(found, query).operations / _OPERATIONS_PER_SECOND > budget.remaining:
                raise OutOfTime
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


def _cost(found: Buckets, query: Query) -> Cost:
    entries, sites = found.elimination.operations, found.card.size
    work = _PER_ENTRY[query.ask] * entries + _PER_BUCKET * sites
    if query.k > 1 or query.ask is Ask.SAMPLE:
        work += 100.0 * sites * (query.k if query.ask is Ask.MINIMIZE else query.num_samples)
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
        self.stop: Stop | None = None if budget == Budget() else lambda: budget.expired
        self.stats = {
            "width": buckets.elimination.width,
            "log2_largest_table": buckets.elimination.log2_largest,
            "order": buckets.elimination.methods,
        }

    def answer(self, generator: Generator | None) -> Answer:
        """The exact answer; raises OutOfTime."""
        if self.query.ask is Ask.MINIMIZE:
            return self.least()
        if self.query.ask is Ask.LOG_PARTITION:
            log_z = elimination.log_partition(self.buckets, self.unary, self.tables, self.stop)
            return self.marginals({}, {}, log_z)
        sums = LogSums(self.buckets, self.unary, self.tables, self.stop)
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
        several: tuple[Assignment, ...] = ()
        energies = None
        if self.query.k > 1:
            found, parts = elimination.k_best(self.buckets, self.unary, self.tables, self.query.k, self.stop)
            several = tuple(Assignment(self.view.expand(s)) for s in found)
            energies = self.total(parts)
            states, bound = found[0], energies[0]
        else:
            states, part = elimination.minimize(self.buckets, self.unary, self.tables, self.stop)
            bound = self.total(part)
        return Result(
            Assignment(self.view.expand(states)),
            bound,
            bound,
            torch.full_like(bound, int(Status.CONVERGED), dtype=torch.long),
            solver=JunctionTree.name,
            witness=EliminationOrder(torch.from_numpy(self.buckets.elimination.order)),
            alternatives=several,
            alternative_energies=energies,
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
        view = self.view
        if init is not None:
            states = view.compress(self.graph.complete(init))
        else:
            width = max(1, int(view.num_states.max(initial=1)))
            padded = np.full((view.num_sites, width), np.inf)
            padded[np.arange(width) < view.num_states[:, None]] = view.arrays[0]
            states = padded.argmin(1)
        energy = torch.from_numpy(view.energy(states))
        status = torch.full_like(energy, int(Status.DEADLINE), dtype=torch.long)
        if self.query.ask is Ask.MINIMIZE:
            bound = torch.full_like(energy, -torch.inf)
            chosen = Assignment(view.expand(states))
            return Result(chosen, energy, bound, status, solver=JunctionTree.name, stats=self.stats)
        if self.query.ask is Ask.SAMPLE:
            return self.samples(np.repeat(states[None], self.query.num_samples, 0), False)
        alone = np.zeros(self.unary.size)
        alone[view.starts[:-1] + states] = 1.0
        beliefs = view.expand_beliefs(torch.from_numpy(alone))
        return Marginals(beliefs, -energy / self.query.temperature, False, status, JunctionTree.name, {}, self.stats)

"""Sum discrete blocks out of a graph of tables, one site after another: a graph of tables over the others is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, FactorGraph, TableFactor, Variables
from ebmstruct.inference.views.table_view import TableView, table_refusal, table_view

Scope = tuple[int, ...]
Stop = Callable[[], bool]


class OutOfTime(Exception):
    """The sum was stopped between two sites."""


@dataclass(frozen=True, eq=False)
class SumPlan:
    """In which order latent sites are summed out, and the largest table that this makes.

    order: open sites of the table view.  largest: entries of the largest table, the summed site included.
    operations: entries of all tables made.
    """

    order: tuple[int, ...]
    largest: float
    operations: float


def plan_sum(graph: FactorGraph, sum_out: Sequence[str], max_table: int) -> SumPlan | str:
    """The order that always takes the latent site whose table is the smallest next; or why there is none.

    Only latent sites are taken, so that what is left is over the others (constrained elimination, Dechter 1999,
    section 6). Cost: the neighbours of each latent site when its turn comes, squared.
    """
    reason = table_refusal(graph)
    if reason is not None:
        return reason
    view = table_view(graph)
    latent = _latent_sites(view, sum_out)
    neighbours: list[set[int]] = [set() for _ in range(view.num_sites)]
    for row in range(view.num_rows):
        sites = view.row_sites[view.row_ptr[row] : view.row_ptr[row + 1]].tolist()
        for site in sites:
            neighbours[site].update(sites)
    log_card = np.log2(view.num_states.astype(float))
    return _greedy(set(latent), neighbours, log_card, max_table)


def _greedy(left: set[int], neighbours: list[set[int]], log_card: np.ndarray, max_table: int) -> SumPlan | str:
    import heapq

    def size(site: int) -> float:
        return math.fsum(log_card[s] for s in neighbours[site] | {site})

    queue = [(size(site), site) for site in left]
    heapq.heapify(queue)
    order, largest, operations = [], 0.0, 0.0
    while queue:
        told, site = heapq.heappop(queue)
        if site not in left:
            continue
        now = size(site)
        if now > told + 1e-9:  # its neighbours have grown since
            heapq.heappush(queue, (now, site))
            continue
        if now > math.log2(max_table) + 1e-9:
            return f"summing out one site after another takes a table of 2^{now:.0f} entries, more than {max_table:,}"
        left.discard(site)
        order.append(site)
        largest, operations = max(largest, 2.0**now), operations + 2.0**now
        others = neighbours[site] - {site}
        for other in others:
            neighbours[other] |= others
            neighbours[other].discard(site)
            if other in left:
                heapq.heappush(queue, (size(other), other))
    return SumPlan(tuple(order), largest, operations)


def sum_out_tables(
    graph: FactorGraph, sum_out: Sequence[str], plan: SumPlan, temperature: float = 1.0, stop: Stop | None = None
) -> FactorGraph:
    """The graph of tables over the other blocks, whose energy is F(y) = -T log sum over h of exp(-E(y, h) / T).

    Blocks keep their names, sites and states; what evidence and infinite entries exclude is infinite. Everything is
    float64 and without gradients; instances do not influence each other. Source: Dechter 1999, sections 5 and 6.
    Errors: OutOfTime where ``stop`` says so between two sites.
    """
    view = table_view(graph)
    tables: list[tuple[Scope, np.ndarray] | None] = []
    at: list[set[int]] = [set() for _ in range(view.num_sites)]
    constant = view.constant.detach().numpy().copy()

    def add(scope: Scope, table: np.ndarray) -> None:
        for site in scope:
            at[site].add(len(tables))
        tables.append((scope, table))

    for scope, table in _parts(view):
        add(scope, table)
    for site in plan.order:
        if stop is not None and stop():
            raise OutOfTime
        chosen = [t for t in (tables[i] for i in sorted(at[site])) if t is not None]
        for number in list(at[site]):
            for other in tables[number][0]:  # type: ignore[index]  # those in ``at`` are there
                if other != site:
                    at[other].discard(number)
            tables[number] = None
        at[site].clear()
        scope = (site, *sorted({s for part, _ in chosen for s in part if s != site}))
        total = _soft_minimum(_sum(chosen, scope, view.num_states), temperature)
        if len(scope) == 1:
            constant[view.instance[site]] += float(total)
        else:
            add(scope[1:], total)
    kept = [t for t in tables if t is not None]
    return _graph_of(graph, view, set(sum_out), kept, constant)


def _latent_sites(view: TableView, sum_out: Sequence[str]) -> list[int]:
    first = dict(zip(view.names, np.cumsum([0, *view.sizes])[:-1].tolist(), strict=True))
    size = dict(zip(view.names, view.sizes, strict=True))
    inside = np.zeros(sum(view.sizes), np.bool_)
    for name in sum_out:
        if name not in first:
            raise GraphError(f"the block {name!r} to sum out does not exist; the graph's blocks are {list(view.names)}")
        inside[first[name] : first[name] + size[name]] = True
    found: list[int] = np.nonzero(inside[view.open_site])[0].tolist()
    return found


def _parts(view: TableView) -> list[tuple[Scope, np.ndarray]]:
    unary, tables, weights = view.arrays
    out: list[tuple[Scope, np.ndarray]] = []
    for site in range(view.num_sites):
        out.append(((site,), unary[view.starts[site] : view.starts[site + 1]]))
    for row in range(view.num_rows):
        sites = tuple(view.row_sites[view.row_ptr[row] : view.row_ptr[row + 1]].tolist())
        shape = tuple(view.num_states[list(sites)].tolist())
        begin = view.table_start[row]
        out.append((sites, tables[begin : begin + math.prod(shape)].reshape(shape) * weights[row]))
    return out


def _sum(parts: Sequence[tuple[Scope, np.ndarray]], scope: Scope, states: np.ndarray) -> np.ndarray:
    """The sum of tables over ``scope``, small ones first."""
    place = {s: i for i, s in enumerate(scope)}
    total: np.ndarray = np.zeros((1,) * len(scope))
    for sites, table in sorted(parts, key=lambda p: p[1].size):
        order = sorted(range(len(sites)), key=lambda i: place[sites[i]])
        shape = [1] * len(scope)
        for i in order:
            shape[place[sites[i]]] = int(states[sites[i]])
        total = total + table.transpose(order).reshape(shape)
    return np.broadcast_to(total, [int(states[s]) for s in scope])


def _soft_minimum(energy: np.ndarray, temperature: float) -> np.ndarray:
    """-T log sum exp(-energy / T) over axis 0; infinite where all entries are."""
    least = energy.min(0)
    shift = np.where(np.isfinite(least), least, 0.0)
    with np.errstate(divide="ignore"):
        found: np.ndarray = shift - temperature * np.log(np.exp((shift - energy) / temperature).sum(0))
    return found


def _graph_of(
    graph: FactorGraph,
    view: TableView,
    gone: set[str],
    kept: Sequence[tuple[Scope, np.ndarray]],
    constant: np.ndarray,
) -> FactorGraph:
    """The graph over the original sites and states of the blocks that are left."""
    blocks = [v for n, v in graph.variables.items() if n not in gone]
    layout = _Layout(view, graph)
    single = {v.name: torch.full((v.num_sites, v.discrete.largest), torch.inf, dtype=torch.float64) for v in blocks}
    joint: dict[tuple[str, ...], list[tuple[list[int], np.ndarray]]] = {}
    for name in single:
        single[name][layout.kept_of(name)] = 0.0
    for scope, table in kept:
        places = [layout.place(s) for s in scope]
        if len(scope) == 1:
            (name, at), states = places[0], layout.states(scope[0])
            single[name][at, states] += torch.from_numpy(table.copy())
        else:
            names = tuple(n for n, _ in places)
            joint.setdefault(names, []).append(([i for _, i in places], layout.full(scope, table)))
    factors = [_unary(v, single[v.name]) for v in blocks if v.num_sites]
    for names, rows in joint.items():
        factors.append(_rows(names, rows))
    left = FactorGraph(blocks, factors, constant=torch.from_numpy(constant))
    return left


def _unary(block: Variables, energies: Tensor) -> TableFactor:
    label = f"free energy of {block.name}"
    if block.discrete.uniform:
        return TableFactor((block.name,), label, energies)
    inside = torch.arange(energies.shape[1]) < block.state_counts[:, None]
    counts = block.state_counts
    return TableFactor((block.name,), label, energies[inside], starts=counts.cumsum(0) - counts)


def _rows(names: tuple[str, ...], rows: Sequence[tuple[list[int], np.ndarray]]) -> TableFactor:
    sizes = torch.tensor([t.size for _, t in rows])
    flat = torch.from_numpy(np.concatenate([t.reshape(-1) for _, t in rows]))
    index = torch.tensor([sites for sites, _ in rows]).T.contiguous()
    label = "free energy of " + ", ".join(names)
    return TableFactor(names, label, flat, index=index, starts=sizes.cumsum(0) - sizes)


@dataclass(frozen=True, eq=False)
class _Layout:
    """From open sites and states of a table view back to those of the graph."""

    view: TableView
    graph: FactorGraph

    def place(self, site: int) -> tuple[str, int]:
        """The block of an open site, and its number in it."""
        number = int(self.view.open_site[site])
        for name, size in zip(self.view.names, self.view.sizes, strict=True):
            if number < size:
                return name, number
            number -= size
        raise AssertionError

    def states(self, site: int) -> Tensor:
        """The states that an open site still has."""
        return torch.from_numpy(self.view.state[self.view.starts[site] : self.view.starts[site + 1]])

    def kept_of(self, name: str) -> tuple[Tensor, Tensor]:
        """Sites of a block and states that they may still take, the only ones of closed sites included."""
        view = self.view
        begin, size = sum(view.sizes[: view.names.index(name)]), self.graph.variables[name].num_sites
        site = np.concatenate([np.repeat(view.open_site, view.num_states), np.nonzero(view.closed >= 0)[0]])
        state = np.concatenate([view.state, view.closed[view.closed >= 0]])
        mine = (site >= begin) & (site < begin + size)
        return torch.from_numpy(site[mine] - begin), torch.from_numpy(state[mine])

    def full(self, scope: Scope, table: np.ndarray) -> np.ndarray:
        """A table over all states of its sites; 0 where a state is gone, which the site's own energies forbid."""
        counts = []
        for site in scope:
            name, at = self.place(site)
            counts.append(int(self.graph.variables[name].state_counts[at]))
        if tuple(counts) == table.shape:
            return table
        out = np.zeros(counts)
        out[np.ix_(*(self.states(s).numpy() for s in scope))] = table
        return out


def with_latents(graph: FactorGraph, found: Assignment, sum_out: Sequence[str]) -> FactorGraph:
    """The graph with the blocks that are not summed out clamped to what was found."""
    return graph.condition(Assignment({n: v for n, v in found.items() if n not in set(sum_out)}))

"""The enumeration oracle: answers by listing every assignment, written to be obviously right rather than quick."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import (
    Assignment,
    ChainFactor,
    Discrete,
    FactorGraph,
    GridFactor,
    SegmentFactor,
    TableFactor,
    Variables,
    potts_table,
)

States = tuple[int, ...]


@dataclass(frozen=True)
class Oracle:
    """All assignments of one instance with their energies, in the order of enumeration.

    states: one tuple an assignment: the states of the instance's discrete sites, block after block.
    """

    states: list[States]
    energies: list[float]

    @property
    def minimum(self) -> float:
        """The least energy; infinite where nothing is feasible."""
        return min(self.energies, default=math.inf)

    def log_partition(self, temperature: float = 1.0) -> float:
        """log of the sum of exp(-E / temperature)."""
        finite = [-e / temperature for e in self.energies if e != math.inf]
        if not finite:
            return -math.inf
        top = max(finite)
        return top + math.log(math.fsum(math.exp(x - top) for x in finite))

    def marginal(self, site: int, state: int, temperature: float = 1.0) -> float:
        """The probability that the instance's ``site`` takes ``state``."""
        return self.probability({site: state}, temperature)

    def probability(self, event: Mapping[int, int], temperature: float = 1.0) -> float:
        """The probability that several sites take the given states at once."""
        log_z = self.log_partition(temperature)
        pairs = zip(self.states, self.energies, strict=True)
        return math.fsum(
            math.exp(-e / temperature - log_z)
            for s, e in pairs
            if e != math.inf and all(s[i] == k for i, k in event.items())
        )


def oracle(graph: FactorGraph) -> list[Oracle]:
    """Enumerate each instance of a graph over discrete variables; for graphs of a few thousand assignments."""
    found: list[list[tuple[States, float]]] = [[] for _ in range(graph.num_instances)]
    for b in range(graph.num_instances):
        base = {name: torch.zeros(v.num_sites, dtype=torch.long) for name, v in graph.variables.items()}
        for states in itertools.product(*_choices(graph, b)):
            energy = float(graph.energy(_filled(graph, base, b, states))[b].detach())
            found[b].append((states, energy))
    return [Oracle([s for s, _ in rows], [e for _, e in rows]) for rows in found]


def sites_of(graph: FactorGraph, instance: int) -> Iterator[tuple[str, int]]:
    """The block and the site of each of an instance's discrete sites, in the oracle's order."""
    for name, block in graph.variables.items():
        for site in range(int(block.offsets[instance]), int(block.offsets[instance + 1])):
            yield name, site


def _choices(graph: FactorGraph, instance: int) -> list[list[int]]:
    out = []
    for name, site in sites_of(graph, instance):
        allowed = graph.allowed(name)
        count = int(graph.variables[name].state_counts[site])
        out.append([k for k in range(count) if allowed is None or bool(allowed[site, k])])
    return out


def _filled(graph: FactorGraph, base: Mapping[str, Tensor], instance: int, states: States) -> Assignment:
    values = {name: v.clone() for name, v in base.items()}
    for name in values:
        allowed = graph.allowed(name)
        if allowed is not None and allowed.numel():
            values[name] = allowed.long().argmax(1)
    for (name, site), state in zip(sites_of(graph, instance), states, strict=True):
        values[name][site] = state
    return Assignment(values)


def random_chain(
    lengths: list[int], num_states: int, generator: torch.Generator, *, forbid: float = 0.0, scale: float = 1.0
) -> FactorGraph:
    """A batch of chains with normal energies; each transition is forbidden with probability ``forbid``."""
    block = Variables.of_lengths("y", Discrete(num_states), lengths)

    def normal(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    transition = normal(num_states, num_states)
    banned = torch.rand(num_states, num_states, generator=generator) < forbid
    return FactorGraph(
        [block],
        [
            TableFactor(("y",), "emission", normal(block.num_sites, num_states)),
            ChainFactor(
                ("y",), "chain", transition.masked_fill(banned, torch.inf), normal(num_states), normal(num_states)
            ),
        ],
    )


def random_segments(
    sizes: list[int],
    num_labels: int,
    longest: int,
    generator: torch.Generator,
    *,
    forbid: float = 0.0,
    whole: bool = True,
    single: bool = False,
) -> FactorGraph:
    """A batch of segmentations with normal energies, each forbidden with probability ``forbid``.

    whole: with energies of every segment.  single: the first label has segments of one site only.
    """

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.masked_fill(torch.rand(*shape, generator=generator) < forbid, torch.inf)

    states = None
    if single:
        inner = torch.arange(2, 2 * num_labels).reshape(-1, 2) - 1
        states = torch.cat([torch.tensor([[0, -1]]), inner])
    block = Variables.of_lengths("y", Discrete(2 * num_labels - int(single)), sizes)
    unary = TableFactor(("y",), "emission", normal(block.num_sites, block.discrete.largest))
    ends = normal(2, num_labels)
    factor = SegmentFactor(
        ("y",),
        "segments",
        normal(longest, num_labels),
        normal(num_labels, num_labels),
        ends[0],
        ends[1],
        normal(block.num_sites, longest, num_labels) if whole else None,
        states,
    )
    return FactorGraph([block], [unary, factor])


def random_forest(
    sizes: list[int], most_states: int, generator: torch.Generator, *, forbid: float = 0.0, shared: bool = False
) -> FactorGraph:
    """A batch of random forests with mixed state counts, or with one number of states and one shared table."""
    n = sum(sizes)
    counts = torch.randint(1, most_states + 1, (n,), generator=generator)
    domain = Discrete(most_states) if shared else Discrete(counts)
    block = Variables.of_lengths("y", domain, sizes)
    counts = block.state_counts
    edges = []
    for begin, size in zip(block.offsets.tolist(), sizes, strict=False):
        for i in range(1, size):
            if float(torch.rand((), generator=generator)) < 0.8:
                j = int(torch.randint(0, i, (), generator=generator))
                pair = (begin + i, begin + j)
                edges.append(pair if float(torch.rand((), generator=generator)) < 0.5 else pair[::-1])
    index = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T.contiguous()

    def normal(count: int) -> Tensor:
        values = torch.randn(count, generator=generator, dtype=torch.float64)
        return values.masked_fill(torch.rand(count, generator=generator) < forbid, torch.inf)

    unary = TableFactor(("y",), "unary", normal(int(counts.sum())), starts=counts.cumsum(0) - counts)
    if shared:
        table = normal(most_states**2).reshape(most_states, most_states)
        return FactorGraph([block], [unary, TableFactor(("y", "y"), "pair", table, index=index)])
    cells = counts[index[0]] * counts[index[1]]
    pair_factor = TableFactor(("y", "y"), "pair", normal(int(cells.sum())), index=index, starts=cells.cumsum(0) - cells)
    return FactorGraph([block], [unary, pair_factor])


def random_graph(
    sizes: list[int],
    most_states: int,
    generator: torch.Generator,
    *,
    arities: tuple[int, ...] = (2, 3, 4),
    rows: int = 6,
    forbid: float = 0.0,
    scale: float = 1.0,
    blocks: int = 1,
) -> FactorGraph:
    """A batch of random graphs with cycles: mixed state counts, tables of several arities, some without any row.

    Each instance's sites are spread over ``blocks`` blocks; about ``rows`` rows an arity join sites of an instance at
    random; each entry is forbidden with probability ``forbid``.
    """

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def normal(count: int) -> Tensor:
        values = scale * torch.randn(count, generator=generator, dtype=torch.float64)
        return values.masked_fill(torch.rand(count, generator=generator) < forbid, torch.inf)

    names = [f"y{i}" for i in range(blocks)]
    owner = [[integer(0, blocks) for _ in range(size)] for size in sizes]
    made = {}
    for b, name in enumerate(names):
        lengths = [part.count(b) for part in owner]
        counts = torch.randint(1, most_states + 1, (sum(lengths),), generator=generator)
        made[name] = Variables.of_lengths(name, Discrete(counts), lengths)
    factors = []
    for name, block in made.items():
        counts = block.state_counts
        factors.append(
            TableFactor((name,), f"unary_{name}", normal(int(counts.sum())), starts=counts.cumsum(0) - counts)
        )
    found: dict[tuple[str, ...], list[list[int]]] = {}
    for instance in range(len(sizes)):
        sites = [
            (name, int(site))
            for name, block in made.items()
            for site in range(int(block.offsets[instance]), int(block.offsets[instance + 1]))
        ]
        for arity in arities:
            for _ in range(integer(0, rows + 1) if len(sites) >= arity else 0):
                chosen = [sites[i] for i in torch.randperm(len(sites), generator=generator)[:arity].tolist()]
                found.setdefault(tuple(n for n, _ in chosen), []).append([s for _, s in chosen])
    for i, (scope, index) in enumerate(sorted(found.items())):
        sites_of_rows = torch.tensor(index, dtype=torch.long).T.contiguous()
        cells = torch.ones(sites_of_rows.shape[1], dtype=torch.long)
        for name, row in zip(scope, sites_of_rows, strict=True):
            cells = cells * made[name].state_counts[row]
        tables = normal(int(cells.sum()))
        factors.append(TableFactor(scope, f"rows_{i}", tables, index=sites_of_rows, starts=cells.cumsum(0) - cells))
    return FactorGraph(list(made.values()), factors)


def random_grid(
    shapes: list[tuple[int, int]], num_states: int, generator: torch.Generator, *, integers: bool = False
) -> FactorGraph:
    """A batch of Potts grids (height, width) with random unary energies and weights; all integers where asked."""
    lengths = [h * w for h, w in shapes]
    block = Variables.of_lengths("y", Discrete(num_states), lengths)

    def draw(*shape: int) -> Tensor:
        values = torch.rand(*shape, generator=generator, dtype=torch.float64)
        return (values * 20).round() if integers else values

    grid = GridFactor(
        ("y",),
        "grid",
        potts_table(num_states, torch.float64),
        draw(sum(lengths)),
        draw(sum(lengths)),
        torch.tensor([w for _, w in shapes], dtype=torch.long),
    )
    return FactorGraph([block], [TableFactor(("y",), "unary", draw(sum(lengths), num_states)), grid])

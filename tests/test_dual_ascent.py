"""Dual ascent against enumeration: energies, bounds, witnesses, batches, deadlines."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import torch

import ebmstruct as es
from ebmstruct.graph import Assignment, Discrete, FactorGraph, GridFactor, TableFactor, Variables, union
from ebmstruct.inference.grid_ascent import _cut
from ebmstruct.inference.result import Ask, Budget, Query, Reparametrization, Result, Status
from ebmstruct.inference.solvers.dual_ascent import DualAscent
from ebmstruct.inference.views.grid_layout import DENSE, LINEAR, POTTS, WINDOW, GridLayout, grid_layout, table_kind
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.testing import oracle, random_chain, random_forest, random_graph, random_grid


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def proven(graph: FactorGraph, result: Result) -> np.ndarray:
    """(B,) the bound that the witness's messages prove, row by row with plain loops."""
    view = table_view(graph)
    unary, tables, weights = view.arrays
    assert isinstance(result.witness, Reparametrization) and result.witness.kind == "tables"
    messages = result.witness.messages.numpy()
    assert messages.dtype == np.float64 and messages.size == view.message_ptr[-1]
    out = view.constant.numpy().copy()
    sites = unary.copy()
    for row in range(view.num_rows):
        slots = range(view.row_ptr[row], view.row_ptr[row + 1])
        sizes = [int(view.num_states[view.row_sites[s]]) for s in slots]
        begin = view.table_start[row]
        left = weights[row] * tables[begin : begin + math.prod(sizes)].reshape(sizes)
        for d, slot in enumerate(slots):
            part = messages[view.message_ptr[slot] : view.message_ptr[slot + 1]]
            site = view.row_sites[slot]
            sites[view.starts[site] : view.starts[site + 1]] += part
            left = left - part.reshape([-1 if e == d else 1 for e in range(len(sizes))])
        out[view.row_instance[row]] += left.min()
    for site in range(view.num_sites):
        out[view.instance[site]] += sites[view.starts[site] : view.starts[site + 1]].min()
    return out


def check(graph: FactorGraph, result: Result, *, tight: bool = False) -> None:
    """Energy >= optimum >= bound, the witness proves the bound, and OPTIMAL means equal."""
    bounds = proven(graph, result)
    for b, truth in enumerate(oracle(graph)):
        energy, bound, best = float(result.energy[b]), float(result.lower_bound[b]), truth.minimum
        scale = max(1.0, abs(best)) if math.isfinite(best) else 1.0
        assert not math.isnan(energy) and not math.isnan(bound)
        assert energy >= best - 1e-6 * scale
        assert bound <= best + 1e-9 * scale
        if math.isfinite(best):
            assert abs(bounds[b] - bound) <= 1e-9 * scale
        if result.statuses[b] == Status.OPTIMAL:
            assert energy == pytest.approx(best, abs=1e-6 * scale)
        if tight:
            assert energy == pytest.approx(best, abs=1e-9 * scale) and bound == pytest.approx(best, abs=1e-9 * scale)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int) -> None:
    """Any arity, mixed state counts, several blocks, infinite entries: the optimum lies between bound and energy."""
    graph = random_graph(
        [4, 0, 1, 5], 3, generator(seed), forbid=(0.0, 0.1, 0.3)[seed % 3], blocks=1 + seed % 2, rows=4
    )
    check(graph, es.minimize(graph, DualAscent()))


@pytest.mark.parametrize("seed", range(8))
def test_trees_are_tight(seed: int) -> None:
    """On chains and forests the bound is the minimum, forbidden pairs or not."""
    for graph in (
        random_forest([5, 1, 6], 3, generator(seed)),
        random_chain([4, 6], 3, generator(seed), forbid=0.1),
    ):
        check(
            graph,
            es.minimize(graph, DualAscent()),
            tight=not seed % 2 or not bool(table_view(graph).constant.isinf().any()),
        )


@pytest.mark.parametrize("seed", range(10))
def test_small_grids(seed: int) -> None:
    """A batch of Potts grids, some of one row or one pixel: bounds hold; whole energies with small gaps are optimal."""
    graph = random_grid([(2, 3), (1, 4), (3, 2), (1, 1), (5, 1)], 3, generator(seed), integers=seed % 2 == 1)
    assert isinstance(grid_layout(graph), GridLayout)
    result = es.minimize(graph, DualAscent())
    assert result.stats["grid"]
    check(graph, result)
    assert float(result.gap[1]) <= 1e-9 and float(result.gap[3]) <= 1e-9 and float(result.gap[4]) <= 1e-9


def shaped(table: np.ndarray, seed: int, dtype: torch.dtype = torch.float64, negative: bool = False) -> FactorGraph:
    """Two small grids under a table of any kind."""
    draw = generator(seed)
    states = table.shape[0]
    block = Variables.of_lengths("y", Discrete(states), [6, 4])
    weights = torch.rand(2, 10, generator=draw, dtype=dtype) - (0.5 if negative else 0.0)
    unary = TableFactor(("y",), "unary", 3 * torch.rand(10, states, generator=draw, dtype=dtype))
    grid = GridFactor(("y",), "grid", torch.from_numpy(table).to(dtype), weights[0], weights[1], torch.tensor([3, 2]))
    return FactorGraph([block], [unary, grid], constant=torch.tensor([1.5, -2.0], dtype=torch.float64))


GAPS = np.abs(np.subtract.outer(np.arange(4), np.arange(4))).astype(float)
TABLES = {
    "potts": 0.5 + 2.0 * (GAPS > 0),
    "linear": np.minimum(GAPS, 2.0),
    "quadratic": GAPS**2,
    "dense": np.random.default_rng(0).normal(size=(4, 4)),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_table_kinds(name: str, negative: bool, dtype: torch.dtype) -> None:
    """Grids under every kind of table, weights of both signs: the same promises, and the general path agrees."""
    graph = shaped(TABLES[name], 3, dtype, negative)
    result = DualAscent().solve(graph, Query())
    assert isinstance(result, Result) and result.stats["grid"]
    view = table_view(graph)
    bounds = proven(graph, result)
    energies: dict[int, list[float]] = {b: [] for b in range(2)}
    for b, (first, count) in enumerate(((0, 6), (6, 4))):
        for states in itertools.product(range(4), repeat=count):
            labels = np.zeros(10, np.int64)
            labels[first : first + count] = states
            energies[b].append(view.energy(labels)[b])
        optimum = min(energies[b])
        assert float(result.energy[b]) >= optimum - 1e-6
        assert float(result.lower_bound[b]) <= optimum + 1e-9
        assert float(result.lower_bound[b]) == pytest.approx(bounds[b], abs=1e-9)
    by_tables = FactorGraph(
        list(graph.variables.values()),
        [*graph.factors, TableFactor(("y", "y"), "more", torch.zeros(1, 4, 4), index=torch.tensor([[0], [1]]))],
        constant=graph.constant,
    )
    general = DualAscent().solve(by_tables, Query())
    assert isinstance(general, Result) and not general.stats["grid"]
    assert torch.allclose(general.lower_bound, result.lower_bound, atol=2e-2 * float(result.energy.abs().max()))


def test_which_kind_a_table_is() -> None:
    """Potts, truncated linear and truncated quadratic tables are recognised, and nothing else is taken for them."""
    gaps = np.abs(np.subtract.outer(np.arange(30), np.arange(30))).astype(float)
    assert table_kind(1.0 * (gaps > 0), 32).kind == POTTS
    assert table_kind(np.minimum(0.3 * gaps, 1.0), 32).kind == LINEAR
    assert table_kind(np.minimum(gaps**2, 9.0), 32).kind == WINDOW
    assert table_kind(gaps**2, 32).kind == DENSE
    assert table_kind(-gaps, 32).kind == DENSE
    assert table_kind(0.0 * gaps, 32).kind == DENSE
    assert table_kind(1.0 * (gaps > 0), 32, shortcuts=False).kind == DENSE
    skewed = np.minimum(gaps, 2.0)
    skewed[3, 4] = 1.5
    assert table_kind(skewed, 32).kind == DENSE


def test_evidence_on_grids() -> None:
    """Clamped sites, allowed states and infinite energies stay on the grid path, with the same promises."""
    for seed in range(4):
        draw = generator(seed)
        graph = random_grid([(2, 3), (2, 2)], 3, draw)
        known = torch.rand(10, generator=draw) < 0.3
        states = torch.randint(0, 3, (10,), generator=draw)
        allowed = torch.rand(10, 3, generator=draw) < 0.7
        allowed[torch.arange(10), states] = True
        ban = torch.zeros(10, 3, dtype=torch.float64)
        ban[3, (states[3] + 1) % 3] = torch.inf
        for restricted in (
            graph.condition(Assignment({"y": states}, {"y": known})),
            graph.condition(Assignment({}, {}, {"y": allowed})),
            graph.condition(Assignment({"y": states}, {"y": known}, {"y": allowed})),
            graph.add(TableFactor(("y",), "ban", ban)),
        ):
            assert isinstance(grid_layout(restricted), GridLayout)
            result = es.minimize(restricted, DualAscent())
            assert result.stats["grid"]
            check(restricted, result)
            again = es.minimize(restricted, DualAscent(), init=Assignment({"y": 2 - states}))
            assert again.energy.tolist() == pytest.approx(result.energy.tolist(), abs=0.5)


def test_grids_that_are_none() -> None:
    """Pixels without a state left, rows of other kinds and many states go the general way."""
    graph = random_grid([(2, 3)], 3, generator(0))
    ban = torch.zeros(6, 3, dtype=torch.float64)
    ban[2] = torch.inf
    nowhere = graph.add(TableFactor(("y",), "ban", ban))
    assert isinstance(grid_layout(nowhere), str)
    assert es.minimize(nowhere, DualAscent()).statuses == [Status.INFEASIBLE]
    wide = random_grid([(2, 2)], 65, generator(0))
    assert isinstance(grid_layout(wide), str)
    result = es.minimize(wide, DualAscent())
    assert not result.stats["grid"] and float(result.lower_bound) <= float(result.energy)


def frustrated(sites: int, seed: int) -> FactorGraph:
    """Random pairs and triples of sites with three states, some entries forbidden."""
    draw = generator(seed)
    factors = [TableFactor(("y",), "unary", torch.randn(sites, 3, generator=draw, dtype=torch.float64))]
    for arity in (2, 3):
        index = torch.stack([torch.randperm(sites, generator=draw)[:arity] for _ in range(2 * sites)], 1)
        tables = torch.randn(2 * sites, *[3] * arity, generator=draw, dtype=torch.float64)
        tables[torch.rand(tables.shape, generator=draw) < 0.05] = torch.inf
        factors.append(TableFactor(("y",) * arity, f"of_{arity}", tables, index=index))
    return FactorGraph([Variables.of_lengths("y", Discrete(3), [sites])], factors)


def test_batch_equals_loop() -> None:
    """Instances do not feel their neighbours, on grids and on tables."""
    grids = [random_grid([shape], 4, generator(9)) for shape in ((5, 7), (8, 8), (3, 9))]
    graphs = [frustrated(sites, sites) for sites in (5, 7, 9)]
    for parts in (grids, graphs):
        whole = es.minimize(union(parts), DualAscent())
        alone = [es.minimize(part, DualAscent()) for part in parts]
        assert whole.energy.tolist() == pytest.approx([float(r.energy) for r in alone], rel=1e-12)
        assert whole.lower_bound.tolist() == pytest.approx([float(r.lower_bound) for r in alone], rel=1e-9)
        name = next(iter(whole.assignment))
        assert torch.equal(whole.assignment[name], torch.cat([r.assignment[name] for r in alone]))


def test_same_answer_twice() -> None:
    """Nothing is drawn at random."""
    graph = random_grid([(12, 12)], 6, generator(3))
    first, second = es.minimize(graph, DualAscent()), es.minimize(graph, DualAscent())
    assert torch.equal(first.assignment["y"], second.assignment["y"])
    assert torch.equal(first.lower_bound, second.lower_bound)


@pytest.mark.parametrize("size", [40, 500])
def test_deadline(size: int) -> None:
    """Cut short, it returns a legal labelling with a bound that its witness proves; larger grids are swept in bands."""
    graph = random_grid([(size, size)], 5, generator(1))
    es.minimize(graph, DualAscent(max_iterations=1))
    begin = time.monotonic()
    result = es.minimize(graph, DualAscent(tolerance=-1.0), budget=Budget.after(0.3))
    assert time.monotonic() - begin < 3.0  # laying out a graph of that size is part of it
    assert result.statuses[0] in (Status.DEADLINE, Status.OPTIMAL)
    assert float(result.lower_bound) <= float(result.energy)
    at_once = es.minimize(graph, DualAscent(), budget=Budget.after(0.0))
    assert at_once.statuses[0] == Status.DEADLINE and math.isfinite(float(at_once.lower_bound))
    if size < 100:
        assert proven(graph, result)[0] == pytest.approx(float(result.lower_bound), rel=1e-9)
        assert proven(graph, at_once)[0] == pytest.approx(float(at_once.lower_bound), rel=1e-9)


def test_bands_are_a_whole_pass() -> None:
    """Large grids cut into bands end where one kernel call ends."""
    graph = random_grid([(30, 20), (7, 9)], 4, generator(4))
    bands = np.array([[0, 30, 20, 0, 30], [600, 7, 9, 0, 7]])
    parts = _cut(bands, 100)
    assert sum(int(((p[:, 4] - p[:, 3]) * p[:, 2]).sum()) for p in parts) == 663
    whole = es.minimize(graph, DualAscent(max_iterations=6))
    import ebmstruct.inference.grid_ascent as module

    kept, module.STEP_SITES = module.STEP_SITES, 100
    try:
        cut = es.minimize(graph, DualAscent(max_iterations=6))
        midway = es.minimize(graph, DualAscent(), budget=Budget(max_steps=30))
    finally:
        module.STEP_SITES = kept
    assert torch.equal(whole.energy, cut.energy) and torch.equal(whole.lower_bound, cut.lower_bound)
    assert cut.stats["steps"] > whole.stats["steps"]
    assert proven(graph, midway).tolist() == pytest.approx(midway.lower_bound.tolist(), rel=1e-9)


def test_float32_bound_stays_below() -> None:
    """On grids solved to the end, with energies that float32 cannot hold, no bound lies above the energy found."""
    for seed in range(6):
        graph = random_grid([(16, 16)], 4, generator(seed))
        result = DualAscent().solve(graph, Query())
        assert isinstance(result, Result)
        energy = graph.energy(result.assignment)
        assert float(result.lower_bound) <= float(energy) + 1e-9 * float(energy)


def test_init_is_used() -> None:
    """A given labelling is where the search begins: with no pass left it is the answer."""
    graph = random_grid([(6, 6)], 3, generator(2))
    best = es.minimize(graph, DualAscent())
    again = es.minimize(graph, DualAscent(), init=best.assignment, budget=Budget(max_steps=0))
    assert float(again.energy) == float(best.energy)
    tables = random_graph([6], 3, generator(2))
    best = es.minimize(tables, DualAscent())
    again = es.minimize(tables, DualAscent(), init=best.assignment, budget=Budget(max_steps=0))
    assert float(again.energy) == pytest.approx(float(best.energy), abs=1e-12)


def test_infeasible_and_empty() -> None:
    """A contradiction that propagation finds ends INFEASIBLE; graphs without sites or rows are solved."""
    block = Variables.of_lengths("y", Discrete(2), [2, 1])
    wall = TableFactor(("y", "y"), "wall", torch.full((2, 2), torch.inf), index=torch.tensor([[0], [1]]))
    result = es.minimize(FactorGraph([block], [wall]), DualAscent())
    assert result.statuses == [Status.INFEASIBLE, Status.OPTIMAL]
    empty = FactorGraph([Variables.of_lengths("y", Discrete(2), [0])], [])
    assert es.minimize(empty, DualAscent()).statuses == [Status.OPTIMAL]


def test_refusals() -> None:
    """What it cannot do it refuses in a sentence."""
    graph = random_grid([(2, 2)], 2, generator(0))
    solver = DualAscent()
    assert solver.refuse(graph, Query()) is None
    for query in (Query(Ask.MARGINALS), Query(Ask.SAMPLE), Query(k=2), Query(sum_out=("y",))):
        assert solver.refuse(graph, query)
    with pytest.raises(es.SolverRefusal):
        es.marginals(graph, solver)


def test_passes_used_up() -> None:
    """Few passes end as MAX_STEPS, not as CONVERGED."""
    for graph in (random_grid([(20, 20)], 5, generator(5)), random_graph([12], 4, generator(5), rows=20)):
        result = es.minimize(graph, DualAscent(max_iterations=1))
        assert result.statuses[0] == Status.MAX_STEPS

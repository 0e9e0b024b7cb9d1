"""Exact least cuts: against enumeration, with a bound that the messages prove, and honest refusals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ebmstruct.graph import (
    Assignment,
    Discrete,
    FactorGraph,
    GridFactor,
    TableFactor,
    Variables,
    potts_table,
    union,
)
from ebmstruct.inference.engine import minimize
from ebmstruct.inference.result import Ask, Budget, Query, Reparametrization, Result, Status
from ebmstruct.inference.solvers.graph_cut import GraphCut
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.testing import oracle, random_graph, random_grid

DATA = os.environ.get("EBMSTRUCT_DATA")


def proven(graph: FactorGraph, result: Result) -> np.ndarray:
    """The bound that the messages of a result prove, by their definition: row by row, in plain numpy."""
    view = table_view(graph)
    assert isinstance(result.witness, Reparametrization) and result.witness.kind == "tables"
    messages = result.witness.messages.numpy()
    unary, tables, weights = view.arrays
    assert messages.dtype == np.float64 and messages.size == view.message_ptr[-1]
    moved, bound = unary.copy(), view.constant.numpy().copy()
    for r in range(view.num_rows):
        i, j = view.row_sites[view.row_ptr[r] : view.row_ptr[r + 1]]
        shape = view.num_states[i], view.num_states[j]
        begin = view.table_start[r]
        table = weights[r] * tables[begin : begin + shape[0] * shape[1]].reshape(shape)
        at, beside = (view.message_ptr[view.row_ptr[r] + k] for k in (0, 1))
        left, right = messages[at : at + shape[0]], messages[beside : beside + shape[1]]
        moved[view.starts[i] : view.starts[i + 1]] += left
        moved[view.starts[j] : view.starts[j + 1]] += right
        bound[view.row_instance[r]] += (table - left[:, None] - right).min()
    for i in range(view.num_sites):
        bound[view.instance[i]] += moved[view.starts[i] : view.starts[i + 1]].min()
    return bound


def random_cut(sizes: list[int], seed: int, *, forbid: float = 0.0) -> FactorGraph:
    """A random submodular binary graph; off-diagonal entries are forbidden with probability ``forbid``."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph(sizes, 2, generator, arities=(2,), rows=8)
    made = []
    for factor in graph.factors:
        if factor.label.startswith("rows"):
            assert isinstance(factor, TableFactor)
            tables, (one, two) = factor.tables.clone(), graph.scope(factor)
            assert factor.index is not None and factor.starts is not None
            for r, start in enumerate(factor.starts.tolist()):
                if one.state_counts[factor.index[0, r]] == two.state_counts[factor.index[1, r]] == 2:
                    a, b, c, d = tables[start : start + 4].tolist()
                    tables[start + 1] += max(0.0, a + d - b - c)
                    for entry in (1, 2):
                        if torch.rand((), generator=generator) < forbid:
                            tables[start + entry] = torch.inf
            factor = factor.with_values(tables)
        made.append(factor)
    return FactorGraph(list(graph.variables.values()), made)


@pytest.mark.parametrize("seed", range(15))
def test_exact(seed: int) -> None:
    """Random submodular graphs, also with hard constraints: least energies, with bounds that meet them."""
    graph = random_cut([5, 0, 1, 7], seed, forbid=(0.0, 0.3)[seed % 2])
    result = minimize(graph, GraphCut())
    least = torch.tensor([found.minimum for found in oracle(graph)], dtype=torch.float64)
    torch.testing.assert_close(result.energy, least, rtol=1e-12, atol=1e-12)
    assert result.statuses == [Status.OPTIMAL] * 4
    np.testing.assert_allclose(proven(graph, result), least, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("integers", [True, False])
def test_grids(integers: bool) -> None:
    """A batch of grids has the energies of the grids one by one, those of enumeration, and messages that prove them."""
    generator = torch.Generator().manual_seed(int(integers))
    shapes = [(3, 4), (1, 5), (4, 1), (2, 2)]
    graph = random_grid(shapes, 2, generator, integers=integers)
    result = minimize(graph, GraphCut())
    least = torch.tensor([found.minimum for found in oracle(graph)], dtype=torch.float64)
    torch.testing.assert_close(result.energy, least, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(proven(graph, result), least, rtol=1e-12, atol=1e-12)
    assert result.statuses == [Status.OPTIMAL] * 4
    single = random_grid([(5, 6)], 2, generator, integers=integers)
    alone = minimize(single, GraphCut())
    twice = minimize(union([single, single]), GraphCut())
    assert torch.equal(twice.assignment["y"], alone.assignment["y"].repeat(2))


def as_pairs(graph: FactorGraph) -> FactorGraph:
    """The same grid with its pairs written out."""
    (block,) = graph.variables.values()
    grid = next(f for f in graph.factors if isinstance(f, GridFactor))
    index, weights = grid.pairs(block)
    tables = weights[:, None, None] * grid.table
    rest = [f for f in graph.factors if f is not grid]
    return FactorGraph([block], [*rest, TableFactor(("y", "y"), "pairs", tables, index=index)])


def test_grid_equals_pairs() -> None:
    """The loop for grids and that for graphs agree, for uneven tables and several tables of single sites too."""
    generator = torch.Generator().manual_seed(0)
    graph = random_grid([(12, 9)], 2, generator)
    grid = next(f for f in graph.factors if isinstance(f, GridFactor))
    uneven = grid.with_values(torch.tensor([[1.0, 2.0], [0.5, 0.0]], dtype=torch.float64), grid.right, grid.down)
    shared = TableFactor(("y",), "shared", torch.tensor([0.25, 0.0], dtype=torch.float64))
    graph = FactorGraph([*graph.variables.values()], [graph.factors[0], shared, uneven], constant=torch.tensor([3.0]))
    one = minimize(graph, GraphCut())
    two = minimize(
        as_pairs(graph).condition(Assignment({}, allowed={"y": torch.ones(108, 2, dtype=torch.bool)})), GraphCut()
    )
    torch.testing.assert_close(one.energy, two.energy + 3.0, rtol=1e-12, atol=0)
    assert one.statuses == two.statuses == [Status.OPTIMAL]


def test_evidence() -> None:
    """Clamped pixels and infinite single energies close sites; the rest is solved exactly."""
    generator = torch.Generator().manual_seed(5)
    graph = random_grid([(3, 4)], 2, generator)
    known = torch.rand(12, generator=generator) < 0.4
    graph = graph.condition(Assignment({"y": torch.ones(12, dtype=torch.long)}, {"y": known}))
    result = minimize(graph, GraphCut())
    assert float(result.energy) == pytest.approx(oracle(graph)[0].minimum, rel=1e-12)
    unary = next(f for f in graph.factors if isinstance(f, TableFactor))
    forbidden = unary.tables.clone()
    forbidden[3, 0] = torch.inf
    plain = FactorGraph([*graph.variables.values()], graph.factors).with_values({unary.label: forbidden})
    result = minimize(plain, GraphCut())
    assert float(result.energy) == pytest.approx(oracle(plain)[0].minimum, rel=1e-12)
    assert result.statuses == [Status.OPTIMAL]


def test_infeasible() -> None:
    """A site without states makes its instance infeasible and leaves the other one alone."""
    graph = random_grid([(2, 2), (2, 2)], 2, torch.Generator().manual_seed(0))
    allowed = torch.ones(8, 2, dtype=torch.bool)
    allowed[0] = False
    result = minimize(graph.condition(Assignment({}, allowed={"y": allowed})), GraphCut())
    assert result.statuses == [Status.INFEASIBLE, Status.OPTIMAL]


@pytest.mark.parametrize("seed", range(20))
def test_solved_or_refused(seed: int) -> None:
    """Random pairs with many hard constraints: refused, or each instance is proven least or infeasible, never NaN."""
    graph = random_graph(
        [4, 3, 2], 2, torch.Generator().manual_seed(seed), arities=(2,), rows=3, forbid=0.3, blocks=1 + seed % 2
    )
    if GraphCut().refuse(graph, Query()) is not None:
        return
    result = minimize(graph, GraphCut())
    for found, energy, status in zip(oracle(graph), result.energy.tolist(), result.statuses, strict=True):
        if found.minimum == torch.inf:
            assert status is Status.INFEASIBLE
        else:
            assert status is Status.OPTIMAL and energy == pytest.approx(found.minimum, abs=1e-9)


def test_refusals() -> None:
    """Each thing that a cut cannot do is refused in a sentence with its number."""
    generator = torch.Generator().manual_seed(0)
    binary, triple = random_grid([(2, 2)], 2, generator), random_grid([(2, 2)], 3, generator)
    solver = GraphCut()
    assert solver.refuse(binary, Query()) is None
    for query in (Query(Ask.MARGINALS), Query(k=2), Query(sum_out=("y",))):
        assert solver.refuse(binary, query) is not None
    assert "3 open states" in str(solver.refuse(triple, Query()))
    allowed = torch.ones(4, 3, dtype=torch.bool)
    allowed[:, 2] = False
    assert solver.refuse(triple.condition(Assignment({}, allowed={"y": allowed})), Query()) is None
    block = Variables.of_lengths("y", Discrete(2), [4])
    apart = GridFactor(("y",), "grid", -potts_table(2), torch.ones(4), torch.ones(4), torch.tensor([2]))
    assert str(solver.refuse(FactorGraph([block], [apart]), Query())).startswith("4 of its pairs")
    pair = TableFactor(("y", "y"), "pair", -potts_table(2), index=torch.tensor([[0, 1], [1, 2]]))
    assert str(solver.refuse(FactorGraph([block], [pair]), Query())).startswith("2 of 2 pairs")
    three = TableFactor(("y",) * 3, "three", torch.randn(2, 2, 2), index=torch.tensor([[0], [1], [2]]))
    assert "joins 3 open sites" in str(solver.refuse(FactorGraph([block], [three]), Query()))


def test_deadline() -> None:
    """When the time is up the answer is a labelling with the bound of the flow so far, and it says DEADLINE."""
    graph = random_grid([(120, 120)], 2, torch.Generator().manual_seed(1))
    late = minimize(graph, GraphCut(), budget=Budget.after(-1.0))
    full = minimize(graph, GraphCut())
    assert late.statuses in ([Status.DEADLINE], [Status.OPTIMAL])
    assert float(late.lower_bound) <= float(full.energy) <= float(late.energy) + 1e-9
    np.testing.assert_allclose(proven(graph, late), late.lower_bound, rtol=1e-9)


def real_grid(name: str) -> tuple[FactorGraph, float]:
    """A stored grid and its least energy."""
    if DATA is None:
        pytest.skip("the stored grids are found through EBMSTRUCT_DATA, which is not set")
    stored = np.load(Path(DATA) / "vision/mrf" / f"{name}.npz")
    unary = stored["unary"]
    height, width, states = unary.shape
    right, down = np.zeros((2, height, width), np.float32)
    right[:, :-1], down[:-1] = stored["wh"], stored["wv"]
    block = Variables.of_lengths("y", Discrete(states), [height * width])

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    grid = GridFactor(
        ("y",), "grid", potts_table(states), tensor(right.ravel()), tensor(down.ravel()), torch.tensor([width])
    )
    energies = TableFactor(("y",), "unary", tensor(unary.reshape(-1, states)))
    return FactorGraph([block], [energies, grid]), float(stored["energy"])


@pytest.mark.parametrize(
    "name", ["bin_chelsea_128", "bin_chelsea_256", "bin_chelsea_512", "bin_coffee_128", "bin_coffee_512"]
)
def test_real_grids(name: str) -> None:
    """Grids from photographs: the stored optimum to the last unit, and a bound that the messages prove."""
    graph, least = real_grid(name)
    result = minimize(graph, GraphCut())
    assert float(result.energy) == least and result.statuses == [Status.OPTIMAL]
    if name.endswith("128"):
        np.testing.assert_allclose(proven(graph, result), [least], rtol=1e-12)
        pairs = minimize(as_pairs(graph), GraphCut())
        assert float(pairs.energy) == least and pairs.statuses == [Status.OPTIMAL]

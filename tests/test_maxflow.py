"""The max-flow loops: cuts equal flows, whichever records they work on, and an outside solver agrees."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_flow

from ebmstruct.inference.kernels.flows.maxflow import grid_cut, minimum_cut

Graph = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def random_network(sites: int, edges: int, seed: int) -> Graph:
    """Edges with integer capacities both ways, parallel ones among them, and excess of both signs."""
    generator = np.random.default_rng(seed)
    first = generator.integers(0, sites, edges)
    second = (first + generator.integers(1, sites, edges)) % sites
    forth, back = generator.integers(0, 12, (2, edges)).astype(float)
    return first, second, forth, back, generator.integers(-30, 31, sites).astype(float)


def cut_value(graph: Graph, side: np.ndarray) -> float:
    """What a cut pays."""
    first, second, forth, back, excess = graph
    sink = side == 1
    pays = excess[sink & (excess > 0)].sum() - excess[~sink & (excess < 0)].sum()
    pays += forth[~sink[first] & sink[second]].sum()
    return float(pays + back[sink[first] & ~sink[second]].sum())


def scipy_flow(graph: Graph) -> int:
    """The value of a maximum flow by scipy."""
    first, second, forth, back, excess = graph
    n = excess.size
    node = np.arange(n)
    rows = np.concatenate([first, second, np.full(n, n), node])
    columns = np.concatenate([second, first, node, np.full(n, n + 1)])
    capacity = np.concatenate([forth, back, np.maximum(excess, 0), np.maximum(-excess, 0)]).astype(np.int32)
    matrix = coo_array((capacity, (rows, columns)), shape=(n + 2, n + 2)).tocsr()
    return int(maximum_flow(matrix, n, n + 1).flow_value)


def check_flow(graph: Graph, flow: np.ndarray, value: float, rounding: float = 0.0) -> None:
    """The flow keeps to the capacities, and what it leaves at the nodes bounds every cut by ``value``."""
    first, second, forth, back, excess = graph
    assert (flow <= forth + rounding).all() and (flow >= -back - rounding).all()
    left = excess - np.bincount(first, flow, excess.size) + np.bincount(second, flow, excess.size)
    assert np.minimum(left, 0).sum() - np.minimum(excess, 0).sum() == pytest.approx(value, rel=1e-12, abs=rounding)


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs(seed: int) -> None:
    """On random graphs the cut pays what scipy's maximum flow carries, and the flow proves it."""
    sizes = [(2, 1), (5, 12), (40, 60), (40, 200), (300, 900)]
    graph = random_network(*sizes[seed % 5], seed)
    cut = minimum_cut(*graph)
    assert cut.finished
    assert cut_value(graph, cut.side) == scipy_flow(graph)
    assert cut_value(graph, np.where(cut.side == 2, 1, cut.side)) == scipy_flow(graph)
    check_flow(graph, cut.flow, cut_value(graph, cut.side))


def test_fractions() -> None:
    """Capacities that are no integers, and of very different sizes, end in a cut whose flow proves it least."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        first, second, forth, back, excess = random_network(100, 400, seed)
        forth, back = forth * generator.random(400) ** 9, back / 3
        graph = (first, second, forth, back, excess * np.pi)
        cut = minimum_cut(*graph)
        check_flow(graph, cut.flow, cut_value(graph, cut.side), 1e-10)


def test_infinite_capacities() -> None:
    """Arcs of infinite capacity are never cut, and their flow is finite: 0 must not part from 1, nor 1 from 2."""
    inf = np.inf
    graph = (np.array([0, 1]), np.array([1, 2]), np.array([inf, inf]), np.array([inf, 0.5]), np.array([3.0, 1, -2.25]))
    cut = minimum_cut(*graph)
    assert cut.side.tolist() == [0, 0, 0] and cut_value(graph, cut.side) == 2.25
    check_flow(graph, cut.flow, 2.25)


def test_no_nodes_no_edges() -> None:
    """Nothing to cut, and nodes without edges, which go where their excess says."""
    none = np.zeros(0, np.int64)
    empty = np.zeros(0)
    assert minimum_cut(none, none, empty, empty, empty).side.size == 0
    assert minimum_cut(none, none, empty, empty, np.array([1.0, -1.0, 0.0])).side.tolist() == [0, 1, 2]


def test_deadline() -> None:
    """A deadline in the past ends the work after its first part, with a flow that keeps to the capacities."""
    graph = random_network(30000, 90000, 0)
    cut = minimum_cut(*graph, expired=lambda: True)
    assert not cut.finished
    _, _, forth, back, _ = graph
    assert (cut.flow <= forth).all() and (cut.flow >= -back).all()


def grid_network(unary: np.ndarray, right: np.ndarray, down: np.ndarray, width: int) -> Graph:
    """The same Potts grid as a graph."""
    index = np.arange(len(unary)).reshape(-1, width)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    weights = np.concatenate([right.reshape(-1, width)[:, :-1].ravel(), down.reshape(-1, width)[:-1].ravel()])
    return first, second, weights, weights, unary[:, 1] - unary[:, 0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (2, 2), (9, 13), (40, 30)])
@pytest.mark.parametrize("kind", ["integers", "fractions"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grids(shape: tuple[int, int], kind: str, dtype: type) -> None:
    """The loop for grids finds cuts as cheap as that for graphs; in both kinds of records bound and energy agree."""
    generator = np.random.default_rng(sum(shape))
    sites = shape[0] * shape[1]
    whole = kind == "integers"
    unary = generator.integers(0, 20, (sites, 2)) if whole else 20 * generator.random((sites, 2))
    right, down = generator.integers(0, 9, (2, sites)) if whole else 9 * generator.random((2, sites))
    unary, right, down = unary.astype(dtype), right.astype(dtype), down.astype(dtype)
    across, along = np.empty((sites - shape[0], 4)), np.empty((sites - shape[1], 4))
    found = grid_cut(unary, right, down, np.array([0.0, 1, 1, 0]), shape[1], across, along)
    assert found is not None and found.finished
    wide = [x.astype(np.float64) for x in (unary, right, down)]
    graph = grid_network(*wide, shape[1])
    value = cut_value(graph, minimum_cut(*graph).side) + np.minimum(graph[4], 0).sum() + wide[0][:, 0].sum()
    assert found.energy == pytest.approx(value, rel=1e-12) and found.bound == pytest.approx(value, rel=1e-12)


def test_grids_with_other_tables() -> None:
    """Uneven tables: the bound that the flow proves meets the energy, which the general loop confirms elsewhere."""
    generator = np.random.default_rng(0)
    for table in ([0.0, 3, 1, 2], [1.0, 2, 0, 1], [5.0, 4, 2, -3], [-1.5, 2.25, 0, 0.125]):
        unary, (right, down) = generator.normal(size=(99, 2)), generator.random((2, 99))
        across, along = np.empty((99 - 9, 4)), np.empty((99 - 11, 4))
        found = grid_cut(unary, right, down, np.array(table), 11, across, along)
        assert found is not None and found.energy == pytest.approx(found.bound, rel=1e-12)


def test_grids_refuse_what_is_not_finite() -> None:
    """An infinite energy in a grid gives no cut, so that the caller takes the general loop."""
    unary = np.array([[0.0, np.inf], [1.0, 2.0]])
    out = np.empty((1, 4)), np.empty((0, 4))
    assert grid_cut(unary, np.ones(2), np.ones(2), np.array([0.0, 1, 1, 0]), 2, *out) is None

"""Relaxed energies: means over independent draws by enumeration, energies at whole states, gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.testing import random_chain, random_graph, random_grid


def random_weights(graph: es.FactorGraph, seed: int) -> dict[str, Tensor]:
    """Weights over the states that each site has."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, block in graph.variables.items():
        draw = torch.rand(block.num_sites, block.discrete.largest, dtype=torch.float64, generator=generator)
        draw = draw.masked_fill(torch.arange(draw.shape[1]) >= block.state_counts[:, None], 0.0)
        out[name] = draw / draw.sum(1, keepdim=True)
    return out


def mean_by_enumeration(graph: es.FactorGraph, weights: dict[str, Tensor]) -> Tensor:
    """(B,) the sum over all assignments of the probability times the energy; for one-block graphs."""
    ((name, block),) = graph.variables.items()
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    for b in range(graph.num_instances):
        sites = range(int(block.offsets[b]), int(block.offsets[b + 1]))
        for states in itertools.product(*(range(int(block.state_counts[s])) for s in sites)):
            y = torch.zeros(block.num_sites, dtype=torch.long)
            y[sites.start : sites.stop] = torch.tensor(states, dtype=torch.long)
            share = math.prod(float(weights[name][s, k]) for s, k in zip(sites, states, strict=True))
            out[b] += share * float(graph.energy({name: y})[b])
    return out


def graphs() -> list[es.FactorGraph]:
    """Chains, grids, flat tables with mixed state counts and arities, dense tables and shared ones."""
    g = torch.Generator().manual_seed(3)
    block = es.Variables.of_lengths("y", es.Discrete(3), [3, 2])
    index = torch.tensor([[0, 1, 3], [1, 2, 4]])
    dense = [
        es.TableFactor(("y",), "unary", torch.randn(5, 3, dtype=torch.float64, generator=g)),
        es.TableFactor(("y", "y"), "own", torch.randn(3, 3, 3, dtype=torch.float64, generator=g), index=index),
        es.TableFactor(("y", "y"), "shared", torch.randn(3, 3, dtype=torch.float64, generator=g), index=index),
        es.TableFactor(
            ("y", "y", "y"), "triple", torch.randn(3, 3, 3, generator=g), index=torch.tensor([[0], [2], [1]])
        ),
    ]
    return [
        random_chain([3, 1, 0, 4], 3, g),
        random_grid([(2, 3), (1, 2)], 2, g),
        random_graph([4, 3], 3, g, rows=5),
        es.FactorGraph([block], dense),
        es.FactorGraph([block], [es.ChainFactor(("y",), "own", torch.randn(5, 3, 3, generator=g))]),
    ]


@pytest.mark.parametrize("number", range(5))
def test_relaxed_energies(number: int) -> None:
    """The relaxed energy is the mean by enumeration, and at whole states the energy itself."""
    graph = graphs()[number]
    weights = random_weights(graph, number)
    torch.testing.assert_close(graph.relaxed_energy(weights), mean_by_enumeration(graph, weights), atol=1e-6, rtol=1e-6)
    states = {n: w.argmax(1) for n, w in weights.items()}
    torch.testing.assert_close(graph.relaxed_energy(states), graph.energy(states), atol=1e-6, rtol=1e-6)
    (name,) = weights
    leaf = weights[name].requires_grad_(True)
    (gradient,) = torch.autograd.grad(graph.relaxed_energy({name: leaf}).sum(), leaf)
    with torch.no_grad():
        step = torch.zeros_like(leaf)
        step[0, 0], step[0, -1] = 0.1, -0.1
        change = graph.relaxed_energy({name: leaf + step}) - graph.relaxed_energy({name: leaf})
    assert abs(float(change[0]) - float((gradient * step).sum())) < 1e-6


def test_infinite_entries() -> None:
    """An infinite entry counts where it has weight, and nothing where it has none."""
    graph = random_chain([3], 2, torch.Generator().manual_seed(0))
    chain = graph.factors[1]
    assert isinstance(chain, es.ChainFactor)
    graph = graph.with_values({"chain": [torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), None, None]})
    weights = torch.tensor([[0.5, 0.5]] * 3, dtype=torch.float64)
    assert float(graph.relaxed_energy({"y": weights})) == torch.inf
    whole = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    assert math.isfinite(float(graph.relaxed_energy({"y": whole})))


def test_residuals_over_states() -> None:
    """A residual over states and a point is the mean of its squares, as the tables that tabulation makes of it say."""
    x, y = es.Variables.of_lengths("x", es.Real(1), [1, 1]), es.Variables.of_lengths("y", es.Discrete(3), [2, 1])
    index = torch.tensor([[0, 0, 1], [0, 1, 2]])
    pull = es.ResidualFactor(("x", "y"), "pull", lambda x, s: x - s[:, None].to(x.dtype), index)
    graph = es.FactorGraph([x, y], [pull])
    point = torch.tensor([[0.3], [1.2]], dtype=torch.float64)
    tables = es.tabulate(graph, {"x": point})
    weights = random_weights(tables, 0)
    mixed = graph.relaxed_energy({"x": point, **weights})
    torch.testing.assert_close(mixed, tables.relaxed_energy(weights))


def test_functions_of_weights() -> None:
    """A BlockFactor says that it takes weights; whole states reach it as 0 and 1; one that takes states is refused."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2, 2])

    def energy(w: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return w[:, 1].reshape(2, 2).sum(1).square()

    deep = es.FactorGraph([block], [es.BlockFactor(("y",), "deep", energy, relaxed=True)])
    assert deep.energy({"y": torch.tensor([0, 1, 1, 1])}).tolist() == [1.0, 4.0]
    assert deep.relaxed_energy({"y": torch.full((4, 2), 0.5)}).tolist() == [1.0, 1.0]
    assert deep.repeat(2).num_instances == 4
    states = es.FactorGraph([block], [es.BlockFactor(("y",), "plain", lambda y, o: y.reshape(2, 2).sum(1).double())])
    with pytest.raises(es.GraphError, match="relaxed=True"):
        states.relaxed_energy({"y": torch.full((4, 2), 0.5)})


def test_evidence() -> None:
    """Clamped sites have weight 1 on their state, and weight on an excluded state is infinitely dear."""
    graph = random_chain([3], 2, torch.Generator().manual_seed(1))
    fixed = graph.condition(es.Assignment({"y": torch.tensor([1, 0, 0])}, {"y": torch.tensor([True, False, False])}))
    weights = torch.tensor([[0.5, 0.5]] * 3, dtype=torch.float64)
    clamped = weights.clone()
    clamped[0] = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(fixed.relaxed_energy({"y": weights}), graph.relaxed_energy({"y": clamped}))
    allowed = torch.tensor([[True, False], [True, True], [True, True]])
    narrow = graph.condition(es.Assignment({}, allowed={"y": allowed}))
    assert float(narrow.relaxed_energy({"y": weights})) == torch.inf
    with pytest.raises(es.GraphError, match="weights"):
        graph.relaxed_energy({"y": torch.ones(3, 3)})

"""The table view: the same energies over fewer sites, states and rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebmstruct.graph import Assignment, Discrete, FactorGraph, TableFactor, Variables
from ebmstruct.inference.views.table_view import table_refusal, table_view
from ebmstruct.testing import oracle, random_chain, random_graph, random_grid, sites_of


def check(graph: FactorGraph) -> None:
    """Every assignment of the view has its energy in the graph, and no finite assignment of the graph is missing."""
    view = table_view(graph)
    generator = np.random.default_rng(0)
    for _ in range(5):
        states = generator.integers(0, view.num_states) if view.num_sites else np.zeros(0, np.int64)
        values = view.expand(states)
        torch.testing.assert_close(torch.from_numpy(view.energy(states)), graph.energy(values))
        back = view.compress(values)
        assert (back == states).all()
    assert np.isfinite(view.unary.numpy()).all()
    for b, found in enumerate(oracle(graph)):
        sites = list(sites_of(graph, b))
        names, first = list(graph.variables), 0
        offset = {}
        for name in names:
            offset[name] = first
            first += graph.variables[name].num_sites
        for states, energy in zip(found.states, found.energies, strict=True):
            if energy == torch.inf:
                continue
            for (name, site), state in zip(sites, states, strict=True):
                number = offset[name] + site
                if view.closed[number] >= 0:
                    assert view.closed[number] == state
                else:
                    at = int(np.nonzero(view.open_site == number)[0][0])
                    assert state in view.state[view.starts[at] : view.starts[at + 1]]


@pytest.mark.parametrize("seed", range(12))
def test_energies_agree(seed: int) -> None:
    """Random graphs with mixed states, several blocks, arities to 4 and forbidden entries."""
    generator = torch.Generator().manual_seed(seed)
    forbid = (0.0, 0.1, 0.4)[seed % 3]
    graph = random_graph([5, 0, 4, 1], 3, generator, forbid=forbid, blocks=1 + seed % 2)
    check(graph)
    if seed % 2:
        name = next(iter(graph.variables))
        block = graph.variables[name]
        values = torch.zeros(block.num_sites, dtype=torch.long)
        known = torch.rand(block.num_sites, generator=generator) < 0.5
        check(graph.condition(Assignment({name: values}, {name: known})))


def test_chains_and_grids() -> None:
    """Implicit factors give the same energies as their pairs."""
    generator = torch.Generator().manual_seed(0)
    check(random_chain([4, 1, 0, 3], 3, generator, forbid=0.2))
    grid = random_grid([(2, 3), (1, 4), (3, 1)], 2, generator)
    check(grid)
    assert table_view(grid).num_rows == 7 + 3 + 2
    allowed = torch.rand(13, 2, generator=generator) < 0.7
    allowed[:, 0] = True
    check(grid.condition(Assignment({}, allowed={"y": allowed})))


def test_infeasible() -> None:
    """An instance without a finite assignment that propagation can see has an infinite constant; others do not."""
    generator = torch.Generator().manual_seed(1)
    graph = random_chain([3, 2], 2, generator)
    allowed = torch.ones(5, 2, dtype=torch.bool)
    allowed[1] = False
    view = table_view(graph.condition(Assignment({}, allowed={"y": allowed})))
    assert view.constant.tolist()[0] == float("inf") and view.constant.tolist()[1] < float("inf")


def test_gradients() -> None:
    """The view's tensors are differentiable in the factors' values, also through slicing and merging."""
    generator = torch.Generator().manual_seed(3)
    graph = random_graph([5], 3, generator, rows=8)
    values = {f.label: f.tables.requires_grad_() for f in graph.factors}
    known = torch.tensor([False, True, False, False, True])
    graph = graph.with_values(values).condition(Assignment({"y0": torch.zeros(5, dtype=torch.long)}, {"y0": known}))
    view = table_view(graph)
    states = torch.zeros(view.num_sites, dtype=torch.long)
    tables, starts = view.row_tables()
    energy = view.unary[torch.from_numpy(view.starts[:-1])].sum() + tables[torch.from_numpy(starts)].sum()
    energy = energy + view.constant.sum()
    direct = graph.energy(view.expand(states)).sum()
    torch.testing.assert_close(energy, direct)
    leaves = list(values.values())
    for a, b in zip(torch.autograd.grad(energy, leaves), torch.autograd.grad(direct, leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_refusals() -> None:
    """A chain has a table view."""
    assert table_refusal(random_chain([2], 2, torch.Generator())) is None


def test_merged_rows_are_propagated_through() -> None:
    """Two rows that each leave a state some support may leave it none together: the state is gone from the view."""
    block = Variables.of_lengths("y", Discrete(2), [2])
    first = torch.tensor([[torch.inf, 0.0], [1.0, 2.0]])
    second = torch.tensor([[0.0, torch.inf], [3.0, 4.0]])
    pair = torch.tensor([[0], [1]])
    graph = FactorGraph(
        [block], [TableFactor(("y", "y"), "a", first, index=pair), TableFactor(("y", "y"), "b", second, index=pair)]
    )
    view = table_view(graph)
    assert view.closed.tolist() == [1, -1] and view.num_rows == 0
    torch.testing.assert_close(view.unary, torch.tensor([4.0, 6.0], dtype=torch.float64))
    check(graph)

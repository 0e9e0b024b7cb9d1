"""Grid factors: the same energies as their pairs, through every operation on graphs."""

from __future__ import annotations

import pytest
import torch

from ebmstruct.errors import GraphError
from ebmstruct.graph import Discrete, FactorGraph, GridFactor, TableFactor, Variables, potts_table, union
from ebmstruct.testing import random_grid


def explicit(graph: FactorGraph) -> FactorGraph:
    """The same graph with a table for each pair."""
    unary, grid = graph.factors
    assert isinstance(grid, GridFactor)
    index, weights = grid.pairs(graph.variables["y"])
    pairs = TableFactor(("y", "y"), "pairs", weights[:, None, None] * grid.table, index=index)
    return FactorGraph(list(graph.variables.values()), [unary, pairs])


@pytest.fixture
def graph() -> FactorGraph:
    return random_grid([(2, 3), (3, 1), (1, 1)], 3, torch.Generator().manual_seed(0))


def test_energies_are_those_of_the_pairs(graph: FactorGraph) -> None:
    """Energies, rows and conditionals agree with explicit tables; the 2x3 image has 4 + 3 pairs, the 3x1 one 2."""
    other = explicit(graph)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        y = {"y": torch.randint(0, 3, (10,), generator=generator)}
        torch.testing.assert_close(graph.energy(y), other.energy(y))
        torch.testing.assert_close(graph.factor_energies(y)["grid"], other.factor_energies(y)["pairs"])
        torch.testing.assert_close(graph.conditionals("y", y), other.conditionals("y", y))
    assert graph.factor_energies(y)["grid"].shape == (9,)


def test_many_images_as_few(graph: FactorGraph) -> None:
    """A batch of many images, whose pairs are indexed, has the energies of the images one by one."""
    y = torch.randint(0, 3, (10,), generator=torch.Generator().manual_seed(3))
    many = graph.repeat(9)
    torch.testing.assert_close(many.energy({"y": y.repeat(9)}), graph.energy({"y": y}).repeat(9))


def test_repeat_union_scale(graph: FactorGraph) -> None:
    """Copies, unions and weights act on implicit pairs as on explicit ones."""
    y = torch.randint(0, 3, (10,), generator=torch.Generator().manual_seed(2))
    energy = graph.energy({"y": y})
    torch.testing.assert_close(graph.repeat(2).energy({"y": y.repeat(2)}), energy.repeat(2))
    torch.testing.assert_close(union([graph, graph]).energy({"y": y.repeat(2)}), energy.repeat(2))
    doubled = FactorGraph(list(graph.variables.values()), [f.scaled(2.0) for f in graph.factors])
    torch.testing.assert_close(doubled.energy({"y": y}), 2 * energy)


def test_weights_and_table_carry_gradients(graph: FactorGraph) -> None:
    """The energy is linear in the weights: a pair's gradient is its table entry."""
    grid = graph.factors[1]
    assert isinstance(grid, GridFactor)
    right = grid.right.clone().requires_grad_()
    again = graph.with_values({"grid": [grid.table, right, grid.down]})
    again.energy({"y": torch.tensor([0, 1, 1, 2, 2, 2, 0, 0, 0, 0])}).sum().backward()
    assert right.grad is not None and right.grad[:6].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table": potts_table(2)}, "table of shape"),
        ({"table": torch.full((3, 3), torch.inf)}, "must be finite"),
        ({"right": torch.zeros(4)}, "right of shape"),
        ({"down": torch.full((10,), torch.nan)}, "down holds a weight that is infinite or NaN"),
        ({"widths": torch.tensor([3])}, "widths must be long"),
        ({"widths": torch.tensor([4, 1, 1])}, "do not fill"),
        ({"scope": ("y", "y")}, "one block"),
    ],
)
def test_faults_are_told(graph: FactorGraph, change: dict[str, object], said: str) -> None:
    """Each wrong shape or value is one sentence that names the factor."""
    import dataclasses

    with pytest.raises(GraphError, match=said):
        FactorGraph(list(graph.variables.values()), [dataclasses.replace(graph.factors[1], **change)])


def test_mixed_states_are_refused() -> None:
    """A grid needs one number of states."""
    block = Variables.of_lengths("y", Discrete(torch.tensor([2, 3])), [2])
    zeros = torch.zeros(2)
    with pytest.raises(GraphError, match="one number of states"):
        FactorGraph([block], [GridFactor(("y",), "g", potts_table(2), zeros, zeros, torch.tensor([2]))])

"""Witnesses re-checked without solver code: any messages bound, an order proves the optimum, nonsense proves nothing."""

from __future__ import annotations

import pytest
import torch

from ebmstruct.graph import FactorGraph
from ebmstruct.inference import Claim, EliminationOrder, Reparametrization, Several, table_view, witness_bound
from ebmstruct.testing import oracle, random_graph, random_grid

GRAPHS = {
    "mixed": lambda g: random_graph([5, 0, 4, 1], 3, g),
    "forbidden": lambda g: random_graph([5, 4], 3, g, forbid=0.15, blocks=2),
    "grid": lambda g: random_grid([(2, 3), (1, 2)], 3, g),
}


def made(name: str) -> FactorGraph:
    return GRAPHS[name](torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", GRAPHS)
def test_any_messages_bound_from_below(name: str) -> None:
    """Whatever is moved between rows and sites, the sum of the minima never exceeds the least energy."""
    graph = made(name)
    least = torch.tensor([o.minimum for o in oracle(graph)], dtype=torch.float64)
    size = int(table_view(graph).message_ptr[-1])
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 0.1, 1.0, 10.0):
        messages = scale * torch.randn(size, dtype=torch.float64, generator=generator)
        assert (witness_bound(graph, Reparametrization("tables", messages)) <= least + 1e-9).all()


@pytest.mark.parametrize("name", GRAPHS)
def test_an_order_proves_the_optimum(name: str) -> None:
    """Eliminating along any order of the open sites gives the least energy of every instance."""
    graph = made(name)
    least = torch.tensor([o.minimum for o in oracle(graph)], dtype=torch.float64)
    order = torch.randperm(table_view(graph).num_sites, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(witness_bound(graph, EliminationOrder(order)), least)


@pytest.mark.parametrize(
    "witness",
    [
        None,
        Claim("somebody"),
        Reparametrization("tables", torch.zeros(3)),
        Reparametrization("chain", torch.zeros(3, 2)),
        Reparametrization("forest", torch.zeros(3)),
        EliminationOrder(torch.zeros(10, dtype=torch.long)),
        EliminationOrder(torch.arange(3)),
    ],
    ids=["none", "claim", "wrong size", "no chain", "no forest", "twice the same site", "too few sites"],
)
def test_nonsense_proves_nothing(witness: object) -> None:
    """A witness that does not fit the graph gives minus infinity, not an error."""
    assert torch.isneginf(witness_bound(made("mixed"), witness)).all()


def test_infinite_messages_prove_nothing() -> None:
    """Infinite or NaN messages would hide minus infinities, so they prove nothing."""
    graph = made("mixed")
    messages = torch.zeros(int(table_view(graph).message_ptr[-1]), dtype=torch.float64)
    for bad in (torch.inf, -torch.inf, torch.nan):
        messages[2] = bad
        assert torch.isneginf(witness_bound(graph, Reparametrization("tables", messages))).all()


def test_several_witnesses_prove_the_highest() -> None:
    """Of several witnesses each instance takes the one that proves most."""
    graph = made("mixed")
    weak = Reparametrization("tables", torch.zeros(int(table_view(graph).message_ptr[-1]), dtype=torch.float64))
    strong = EliminationOrder(torch.arange(table_view(graph).num_sites))
    both = witness_bound(graph, Several((weak, Claim("x"), strong)))
    torch.testing.assert_close(both, witness_bound(graph, strong))

"""The factor graph: energies by hand, clamping, copies, unions, conditionals, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

import ebmstruct as es
from ebmstruct.testing import random_chain, random_forest


def pair_graph() -> es.FactorGraph:
    """Two instances of two sites with 2 and 3 states; one table each, stored flat."""
    counts = torch.tensor([2, 3, 3, 2])
    block = es.Variables.of_lengths("y", es.Discrete(counts), [2, 2])
    pair = es.TableFactor(
        ("y", "y"), "pair", torch.arange(12.0), index=torch.tensor([[0, 2], [1, 3]]), starts=torch.tensor([0, 6])
    )
    return es.FactorGraph([block], [pair], constant=torch.tensor([100.0, 200.0]))


def test_flat_tables_are_row_major_over_each_rows_own_states() -> None:
    """Row 0 is 2 x 3, so (1, 2) is entry 5; row 1 is 3 x 2, so (2, 1) is entry 6 + 5; the constants are added."""
    energy = pair_graph().energy({"y": torch.tensor([1, 2, 2, 1])})
    assert energy.tolist() == [105.0, 211.0]


def test_shared_dense_and_flat_tables_agree() -> None:
    """One table for all rows, the same table written out for each row, and the flat layout give equal energies."""
    generator = torch.Generator().manual_seed(0)
    block = es.Variables.of_lengths("y", es.Discrete(3), [3, 2])
    index = torch.tensor([[0, 1, 3], [1, 2, 4]])
    table = torch.randn(3, 3, generator=generator)
    layouts = [
        es.TableFactor(("y", "y"), "pair", table, index=index),
        es.TableFactor(("y", "y"), "pair", table.expand(3, 3, 3).contiguous(), index=index),
        es.TableFactor(("y", "y"), "pair", table.reshape(-1), index=index, starts=torch.zeros(3, dtype=torch.long)),
    ]
    graphs = [es.FactorGraph([block], [f]) for f in layouts]
    for states in itertools.product(range(3), repeat=5):
        first, *others = (g.energy({"y": torch.tensor(states)}) for g in graphs)
        assert all(torch.equal(first, o) for o in others)


def test_three_sites_in_one_table() -> None:
    """A table over three sites of two blocks is indexed in the order of its scope."""
    a = es.Variables.of_lengths("a", es.Discrete(2), [1])
    b = es.Variables.of_lengths("b", es.Discrete(3), [2])
    table = torch.arange(18.0).reshape(3, 2, 3)
    index = torch.tensor([[1], [0], [0]])
    graph = es.FactorGraph([a, b], [es.TableFactor(("b", "a", "b"), "triple", table, index=index)])
    assert float(graph.energy({"a": torch.tensor([1]), "b": torch.tensor([2, 0])})) == float(table[0, 1, 2])
    assert es.minimize(graph).energy.tolist() == [0.0]


def test_residual_factors_are_half_squared_norms() -> None:
    """Two points pulled to a distance of (3, 4): 0.5 * 25 at equal points, 0 when they are that far apart."""
    block = es.Variables.of_lengths("p", es.Real(2), [2])
    pull = es.ResidualFactor(
        ("p", "p"),
        "pull",
        lambda a, b, wanted: b - a - wanted,
        index=torch.tensor([[0], [1]]),
        parameters=(torch.tensor([[3.0, 4.0]]),),
    )
    graph = es.FactorGraph([block], [pull])
    assert float(graph.energy({"p": torch.zeros(2, 2)})) == 12.5
    assert float(graph.energy({"p": torch.tensor([[0.0, 0.0], [3.0, 4.0]])})) == 0.0
    points = torch.zeros(2, 2, requires_grad=True)
    graph.energy({"p": points}).sum().backward()
    assert points.grad is not None and points.grad.tolist() == [[3.0, 4.0], [-3.0, -4.0]]
    assert graph.repeat(2).energy({"p": torch.zeros(4, 2)}).tolist() == [12.5, 12.5]
    assert es.minimize(graph).statuses == [es.Status.OPTIMAL]


@pytest.mark.parametrize("maker", [lambda g: random_chain([3, 0, 2], 3, g), lambda g: random_forest([3, 1, 4], 3, g)])
def test_conditionals_are_energies_of_changed_states(maker: Callable[[torch.Generator], es.FactorGraph]) -> None:
    """Differences within a row equal differences of the energy when one site changes; missing states are infinite."""
    graph = maker(torch.Generator().manual_seed(1))
    block = graph.variables["y"]
    y = {"y": torch.zeros(block.num_sites, dtype=torch.long)}
    rows = graph.conditionals("y", y)
    for site, count in enumerate(block.state_counts.tolist()):
        assert rows[site, count:].isinf().all()
        for k in range(count):
            changed = y["y"].clone()
            changed[site] = k
            there = graph.energy({"y": changed}).sum() - graph.energy(y).sum()
            assert float(rows[site, k] - rows[site, 0]) == pytest.approx(float(there), abs=1e-9)


@pytest.mark.parametrize("maker", [lambda g: random_chain([3, 0, 2], 3, g), lambda g: random_forest([3, 1, 4], 3, g)])
def test_copies_and_unions_keep_energies(maker: Callable[[torch.Generator], es.FactorGraph]) -> None:
    """repeat(3) has each instance's energy three times over; a union of two graphs has both graphs' energies."""
    generator = torch.Generator().manual_seed(2)
    graph, other = maker(generator), maker(generator)
    y = es.sample(graph, num_samples=3, generator=generator)
    copies = graph.repeat(3).energy({"y": y.values["y"].reshape(-1)})
    assert torch.allclose(copies.reshape(3, -1), y.energy)
    z = es.minimize(other).assignment["y"]
    if isinstance(graph.factors[1], es.TableFactor):
        both = es.union([graph, other]).energy({"y": torch.cat([y.values["y"][0], z])})
        assert torch.allclose(both, torch.cat([y.energy[0], other.energy({"y": z})]))


def test_condition_keeps_numbers_and_energies() -> None:
    """A clamped site counts with its clamped value whatever is passed, and evidence adds up until it clashes."""
    graph = random_chain([4], 3, torch.Generator().manual_seed(0))
    first = torch.tensor([True, False, False, False])
    clamped = graph.condition(es.Assignment({"y": torch.tensor([2, 0, 0, 0])}, known={"y": first}))
    y = torch.tensor([0, 1, 2, 0])
    assert torch.equal(clamped.energy({"y": y}), graph.energy({"y": torch.tensor([2, 1, 2, 0])}))
    more = clamped.condition(es.Assignment({"y": torch.tensor([0, 1, 0, 0])}, known={"y": first.roll(1)}))
    assert es.minimize(more).assignment["y"].tolist()[:2] == [2, 1]
    with pytest.raises(es.GraphError, match="site 0 of 'y' is clamped already"):
        clamped.condition(es.Assignment({"y": torch.tensor([1, 0, 0, 0])}, known={"y": first}))


def test_a_state_outside_an_allowed_set_is_infinite() -> None:
    """Allowed sets forbid: energies of other states are infinite, and inference never returns them."""
    graph = random_chain([3, 1], 3, torch.Generator().manual_seed(0))
    allowed = torch.ones(4, 3, dtype=torch.bool)
    allowed[1, 0] = False
    restricted = graph.condition(es.Assignment({}, allowed={"y": allowed}))
    assert restricted.energy({"y": torch.tensor([0, 0, 0, 0])}).isinf().tolist() == [True, False]


def test_with_values_shares_the_topology() -> None:
    """New tables keep the derived facts; an unknown label is refused with the legal ones."""
    graph = random_chain([3], 3, torch.Generator().manual_seed(0))
    changed = graph.with_values({"emission": torch.zeros(3, 3)})
    assert changed.topology is graph.topology
    with pytest.raises(
        es.GraphError, match=r"no factor is labelled \['emision'\]; the labels are \['emission', 'chain'\]"
    ):
        graph.with_values({"emision": torch.zeros(3, 3)})


Y = es.Variables.of_lengths("y", es.Discrete(2), [2, 1])
FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "shape": (lambda: [es.TableFactor(("y",), "u", torch.zeros(3, 5))], r"'u': tables of shape \(3, 5\); legal are"),
    "integers": (lambda: [es.TableFactor(("y",), "u", torch.zeros(3, 2).long())], "must be floating point"),
    "no index": (lambda: [es.TableFactor(("y", "y"), "p", torch.zeros(2, 2))], "needs an index"),
    "range": (
        lambda: [es.TableFactor(("y", "y"), "p", torch.zeros(2, 2), index=torch.tensor([[0], [7]]))],
        "site 7 of 'y' does not exist; it has sites 0 to 2",
    ),
    "two instances": (
        lambda: [es.TableFactor(("y", "y"), "p", torch.zeros(2, 2), index=torch.tensor([[0], [2]]))],
        "row 0 joins sites of different instances",
    ),
    "one site twice": (
        lambda: [es.TableFactor(("y", "y"), "p", torch.zeros(2, 2), index=torch.tensor([[0], [0]]))],
        "names site 0 of 'y' twice",
    ),
    "scope": (lambda: [es.TableFactor(("z",), "u", torch.zeros(3, 2))], r"has 'z' in its scope; .* \['y'\]"),
    "labels": (lambda: [es.TableFactor(("y",), "u", torch.zeros(2))] * 2, "used more than once"),
    "chain": (lambda: [es.ChainFactor(("y",), "c", torch.zeros(3, 3))], r"transition of shape \(3, 3\); legal are"),
    "ends": (lambda: [es.ChainFactor(("y",), "c", torch.zeros(2, 2), torch.zeros(3))], r"start of shape \(3,\)"),
    "starts": (
        lambda: [es.TableFactor(("y",), "u", torch.zeros(4), starts=torch.tensor([0, 1, 3]))],
        "a row's table ends at entry 5, but tables has 4 entries",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_graph_that_does_not_fit_is_refused(name: str) -> None:
    """Each fault is one GraphError that names the factor, what was found and what is legal."""
    make, message = FAULTS[name]
    with pytest.raises(es.GraphError, match=message):
        es.FactorGraph([Y], make())  # type: ignore[arg-type]


def test_blocks_must_agree_on_the_number_of_instances() -> None:
    """Two blocks of one graph have the same batch."""
    other = es.Variables.of_lengths("z", es.Discrete(2), [1])
    with pytest.raises(es.GraphError, match="'y' 2, 'z' 1"):
        es.FactorGraph([Y, other], [])


def test_missing_values_are_named() -> None:
    """An assignment without a block's values, or with too few, is refused."""
    graph = random_chain([3], 3, torch.Generator().manual_seed(0))
    with pytest.raises(es.GraphError, match="no values for block 'y'"):
        graph.energy({})
    with pytest.raises(es.GraphError, match="has 3 sites; found 2 values"):
        graph.energy({"y": torch.zeros(2, dtype=torch.long)})
    with pytest.raises(es.GraphError, match="clamps site 1 of 'y' to state 9; it has states 0 to 2"):
        graph.condition(es.Assignment({"y": torch.tensor([0, 9, 0])}))


def test_an_empty_graph_has_energy_zero() -> None:
    """No factors, no sites, no instances: energies are zero and everything is optimal."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [0, 2])
    result = es.minimize(es.FactorGraph([block], []))
    assert result.energy.tolist() == [0.0, 0.0]
    assert result.statuses == [es.Status.OPTIMAL] * 2
    assert es.log_partition(es.FactorGraph([block], [])).tolist() == pytest.approx([0.0, 2 * 0.6931471805599453])
    assert es.minimize(es.FactorGraph([es.Variables.of_lengths("y", es.Discrete(2), [])], [])).energy.shape == (0,)


def test_a_graph_moves_to_a_device() -> None:
    """A graph moved to the CPU is a graph with equal energies, evidence included."""
    graph = random_forest([3, 2], 3, torch.Generator().manual_seed(0))
    known = torch.tensor([True] + [False] * 4)
    clamped = graph.condition(es.Assignment({"y": torch.zeros(5, dtype=torch.long)}, known={"y": known}))
    moved = clamped.to("cpu")
    y = {"y": torch.zeros(5, dtype=torch.long)}
    assert torch.equal(moved.energy(y), clamped.energy(y))

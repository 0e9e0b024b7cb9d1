"""Mirror descent against enumeration; rounding never loses on tables; deep energies over labels; bad instances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.inference.descent.rounding import conditional_rounding
from ebmstruct.inference.descent.simplex_descent import RelaxedEnergy
from ebmstruct.inference.result import Budget
from ebmstruct.testing import oracle, random_chain, random_forest, random_graph, random_grid


def least(graph: es.FactorGraph) -> Tensor:
    """(B,) least energies by enumeration."""
    return torch.tensor([o.minimum for o in oracle(graph)], dtype=torch.float64)


def examples(seed: int) -> list[es.FactorGraph]:
    """Small graphs of every layout of tables."""
    g = torch.Generator().manual_seed(seed)
    return [
        random_chain([4, 0, 3], 3, g),
        random_grid([(2, 3), (2, 2)], 3, g),
        random_graph([5, 4], 3, g, rows=5),
        random_forest([6, 3], 2, g),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_against_enumeration(seed: int) -> None:
    """No energy is below the least; neither is a relaxed one, being a mean; several starts nearly always reach it."""
    close, count = 0, 0
    for graph in examples(seed):
        result = es.minimize(graph, es.MirrorDescent(starts=12, start_noise=3.0))
        truth = least(graph)
        assert bool((result.energy >= truth - 1e-9).all())
        assert bool((result.stats["relaxed_energy"] >= truth - 1e-9).all())
        torch.testing.assert_close(graph.energy(result.assignment), result.energy)
        close += int((result.energy <= truth + 1e-9).sum())
        count += truth.numel()
    assert close >= count - 1


@pytest.mark.parametrize("seed", range(5))
def test_rounding_never_raises_the_energy(seed: int) -> None:
    """From any weights whatever, conditional rounding of a table energy ends at or below the relaxed energy."""
    for graph in examples(seed):
        function = RelaxedEnergy.of(graph, {})
        g = torch.Generator().manual_seed(seed + 10)
        weights = tuple(
            torch.rand(legal.shape, dtype=torch.float64, generator=g).masked_fill(~legal, 0.0)
            for legal in function.legal
        )
        weights = tuple(w / w.sum(1, keepdim=True) for w in weights)
        rounded = conditional_rounding(function, weights, Budget())
        assert all(bool(((w == 0) | (w == 1)).all()) for w in rounded)
        assert bool((graph.energy(function.states(rounded)) <= function(weights) + 1e-9).all())
        result = es.minimize(graph, es.MirrorDescent())
        assert bool((result.stats["rounding_loss"] <= 1e-9).all())


def deep(instances: int, labels: int, seed: int) -> es.FactorGraph:
    """A structured prediction energy network over binary labels: scores and a global softplus layer."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(instances, labels, generator=g)
    layer = torch.randn(6, labels, generator=g)

    def energy(w: Tensor, s: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        y = w[:, 1].reshape(s.shape)
        return (s * y).sum(1) + torch.nn.functional.softplus(y @ layer.T).sum(1)

    block = es.Variables.of_lengths("y", es.Discrete(2), [labels] * instances)
    return es.FactorGraph([block], [es.BlockFactor(("y",), "deep", energy, (scores,), relaxed=True)])


def test_deep_energy() -> None:
    """Labels of a deep energy in float32: near enumeration, the loss of rounding is told, argmax is no better."""
    graph = deep(6, 7, 0)
    truth = least(graph)
    result = es.minimize(graph, es.MirrorDescent(starts=4))
    assert bool((result.energy >= truth - 1e-5).all())
    assert int((result.energy <= truth + 1e-4).sum()) >= 5
    loss = result.stats["rounded_energy"] - result.stats["relaxed_energy"]
    torch.testing.assert_close(result.stats["rounding_loss"], loss)
    plain = es.minimize(graph, es.MirrorDescent(starts=4, rounding="argmax"))
    assert bool((result.energy <= plain.energy + 1e-5).all())


def test_batch_equals_loop() -> None:
    """Each instance ends where it ends alone, whatever its neighbours."""
    g = torch.Generator().manual_seed(4)
    parts = [random_grid([(2, n)], 3, g) for n in (1, 3, 4)]
    together = es.minimize(es.graph.union(parts), es.MirrorDescent())
    alone = torch.cat([es.minimize(p, es.MirrorDescent()).energy for p in parts])
    torch.testing.assert_close(together.energy, alone)


def test_forbidden_states_and_evidence() -> None:
    """Infinite entries are avoided where they can be, evidence holds, and NaN entries harm their own instance only."""
    g = torch.Generator().manual_seed(2)
    graph = random_chain([4, 5], 3, g, forbid=0.2)
    result = es.minimize(graph, es.MirrorDescent(starts=8))
    assert bool(result.energy.isfinite().all()) and result.stats["penalty"] > 0
    known = torch.zeros(9, dtype=torch.bool)
    known[[0, 6]] = True
    fixed = random_chain([4, 5], 3, g).condition(es.Assignment({"y": torch.full((9,), 2)}, {"y": known}))
    clamped = es.minimize(fixed, es.MirrorDescent(starts=8))
    assert bool((clamped.assignment["y"][[0, 6]] == 2).all())
    torch.testing.assert_close(clamped.energy, least(fixed))
    block = es.Variables.of_lengths("y", es.Discrete(2), [1, 1])
    table = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    broken = es.minimize(es.FactorGraph([block], [es.TableFactor(("y",), "unary", table)]), es.MirrorDescent())
    assert [s.name for s in broken.statuses] == ["CONVERGED", "NONFINITE"]


def test_nan_functions() -> None:
    """A function that is NaN in one instance ends NONFINITE there, and the other instance is solved."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2, 2])

    def energy(w: Tensor, bad: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return -w[:, 1].reshape(2, 2).sum(1) + torch.where(bad > 0, torch.nan, 0.0)

    graph = es.FactorGraph([block], [es.BlockFactor(("y",), "f", energy, (torch.tensor([0.0, 1.0]),), relaxed=True)])
    result = es.minimize(graph, es.MirrorDescent())
    assert [s.name for s in result.statuses] == ["CONVERGED", "NONFINITE"] and float(result.energy[0]) == -2.0


def test_start_and_budgets() -> None:
    """A start is leant on; a deadline that is over still gives a whole answer; what it cannot take is refused."""
    graph = random_grid([(4, 4)], 3, torch.Generator().manual_seed(0))
    late = es.minimize(graph, es.MirrorDescent(), budget=es.Budget.after(0.0))
    assert late.statuses[0].name == "DEADLINE" and bool(late.energy.isfinite().all())
    states = torch.zeros(16, dtype=torch.long)
    begun = es.minimize(graph, es.MirrorDescent(), init=es.Assignment({"y": states}), budget=es.Budget(max_steps=0))
    assert bool(begun.energy <= graph.energy({"y": states}) + 1e-9)
    with pytest.raises(es.GraphError, match="rounding"):
        es.MirrorDescent(rounding="best")
    x = es.Variables.of_lengths("x", es.Real(1), [1])
    pull = es.ResidualFactor(("x",), "pull", lambda x: x, torch.tensor([[0]]))
    assert "'x'" in (es.MirrorDescent().refuse(es.FactorGraph([x], [pull]), es.Query()) or "")
    plain = es.BlockFactor(("y",), "plain", lambda y, o: y.sum()[None].double())
    only = es.FactorGraph([graph.variables["y"]], [plain])
    assert "relaxed=True" in (es.MirrorDescent().refuse(only, es.Query()) or "")


def test_states_and_points() -> None:
    """With the points clamped, residuals over states and points are relaxed and rounded like tables."""
    x, y = es.Variables.of_lengths("x", es.Real(1), [1, 1]), es.Variables.of_lengths("y", es.Discrete(3), [2, 1])
    index = torch.tensor([[0, 0, 1], [0, 1, 2]])
    pull = es.ResidualFactor(("x", "y"), "pull", lambda x, s: x - s[:, None].to(x.dtype), index)
    point = torch.tensor([[1.2], [2.4]], dtype=torch.float64)
    graph = es.FactorGraph([x, y], [pull]).condition(es.Assignment({"x": point}))
    result = es.minimize(graph, es.MirrorDescent())
    assert result.assignment["y"].tolist() == [1, 1, 2]

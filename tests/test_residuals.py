"""Residual factors: energies, robust losses, constraints, batches, and the tables that are left of mixed ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.inference.certificate import violation
from ebmstruct.inference.smooth_energy import SmoothEnergy, smooth_refusal, starting_point

LOSSES = [es.Huber(0.7), es.Cauchy(0.5), es.GemanMcClure(1.3), es.Tukey(0.9)]


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(lengths: list[int], seed: int = 0) -> es.FactorGraph:
    """States of two to four each, a point in the plane beside each, and a residual that looks at both and a neighbour."""
    n = sum(lengths)
    counts = torch.randint(2, 5, (n,), generator=torch.Generator().manual_seed(seed))
    state = es.Variables.of_lengths("z", es.Discrete(counts), lengths)
    point = es.Variables.of_lengths("x", es.Real(2), lengths)
    later = (point.instance.diff(prepend=torch.tensor([-1])) == 0).nonzero()[:, 0]
    index = torch.stack([later, later, later - 1, later - 1])
    return es.FactorGraph(
        [state, point],
        [
            es.ResidualFactor(
                ("z", "x", "z", "x"),
                "pair",
                lambda z, x, w, y, t: x * z[:, None] - y * (1 + w[:, None]) + t,
                index,
                (double(later.numel(), 2, seed=seed + 1),),
            ),
            es.ResidualFactor(("x",), "near", lambda x: x - 0.3, torch.arange(n)[None]),
            es.TableFactor(("z",), "unary", double(int(counts.sum()), seed=seed + 2), starts=counts.cumsum(0) - counts),
        ],
        constant=double(len(lengths), seed=seed + 3),
    )


def test_tabulated_energies() -> None:
    """With the continuous block clamped, the tables over the states have the graph's own energy, evidence or not."""
    graph = mixed([4, 1, 3])
    x = double(8, 2, seed=9)
    tables = es.tabulate(graph, {"x": x})
    assert list(tables.variables) == ["z"]
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        z = (torch.rand(8, generator=generator) * graph.variables["z"].state_counts).long()
        torch.testing.assert_close(tables.energy({"z": z}), graph.energy({"z": z, "x": x}))
    seen = es.Assignment({"z": torch.ones(8, dtype=torch.long)}, {"z": torch.arange(8) < 3})
    clamped = graph.condition(seen)
    torch.testing.assert_close(
        es.minimize(es.tabulate(clamped, {"x": x})).energy, es.minimize(tables.condition(seen)).energy
    )


def test_tabulated_gradient() -> None:
    """The tables are differentiable in the continuous values: the log partition's gradient is that of differences."""
    graph = mixed([3, 2])

    def free(x: Tensor) -> Tensor:
        return es.log_partition(es.tabulate(graph, {"x": x})).sum()

    assert torch.autograd.gradcheck(free, (double(5, 2).requires_grad_(True),), atol=1e-6)


def test_tabulate_refuses() -> None:
    """A function of whole blocks over both kinds is named; so is a block without values."""
    graph = mixed([2]).add(es.BlockFactor(("z", "x"), "deep", lambda z, x, o: x.sum()[None]))
    with pytest.raises(es.GraphError, match="'deep' is a BlockFactor over discrete and continuous"):
        es.tabulate(graph, {"x": double(2, 2)})
    with pytest.raises(es.GraphError, match=r"\['x'\] have none"):
        es.tabulate(mixed([2]), {})


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_robust_losses(loss: es.RobustLoss) -> None:
    """rho(0) = 0 with slope 1; the slope is the derivative of rho; near zero the energy is half the square."""
    s = torch.linspace(0, 3, 40, dtype=torch.float64)[1:].requires_grad_(True)
    (slope,) = torch.autograd.grad(loss.rho(s).sum(), s)
    torch.testing.assert_close(loss.slope(s.detach()), slope)
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(loss.rho(zero)) == 0.0 and float(loss.slope(zero)) == 1.0
    small = torch.tensor([1e-8], dtype=torch.float64)
    torch.testing.assert_close(loss.energy(small), 0.5 * small, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", [None, *LOSSES], ids=str)
def test_scaled_union_repeat(loss: es.RobustLoss | None) -> None:
    """Scaling multiplies energies, robust or not; a union and copies have the energies of their parts."""
    point = es.Variables.of_lengths("x", es.Real(2), [3, 1])
    factor = es.ResidualFactor(
        ("x",), "near", lambda x, t: 2 * x - t, torch.arange(4)[None], (double(4, 2),), loss=loss
    )
    graph = es.FactorGraph([point], [factor])
    x = double(4, 2, seed=5)
    energy = graph.energy({"x": x})
    scaled = es.FactorGraph([point], [factor.scaled(3.0)])
    torch.testing.assert_close(scaled.energy({"x": x}), 3 * energy)
    torch.testing.assert_close(graph.repeat(2).energy({"x": x.repeat(2, 1)}), energy.repeat(2))
    torch.testing.assert_close(es.union([graph, graph]).energy({"x": x.repeat(2, 1)}), energy.repeat(2))


def test_constraints() -> None:
    """Within the tolerance a constraint costs nothing, beyond it is infinite; the violation is the worst entry."""
    point = es.Variables.of_lengths("x", es.Real(2, lower=-5.0), [2, 1])
    level = es.ResidualFactor(("x",), "level", lambda x: x - 1, torch.arange(3)[None], constraint="inequality")
    unit = es.ResidualFactor(
        ("x",), "unit", lambda x: x.square().sum(1, keepdim=True) - 1, torch.arange(3)[None], constraint="equality"
    )
    graph = es.FactorGraph([point], [level, unit])
    legal = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]], dtype=torch.float64)
    assert graph.energy({"x": legal}).tolist() == [0.0, 0.0]
    broken = legal.clone()
    broken[1] = torch.tensor([1.5, 0.0])
    assert graph.energy({"x": broken}).tolist() == [torch.inf, 0.0]
    found = violation(graph, es.Assignment({"x": broken}))
    assert found is not None
    torch.testing.assert_close(found, torch.tensor([1.25, 0.0], dtype=torch.float64))
    broken[2] = torch.tensor([0.0, -5.5])
    found = violation(graph, es.Assignment({"x": broken}))
    assert found is not None and float(found[1]) == 5.5**2 - 1


def test_faults_are_told() -> None:
    """A wrong shape of residuals or parameters, or an unknown kind of constraint, is an error that names the factor."""
    point = es.Variables.of_lengths("x", es.Real(2), [2])
    index = torch.arange(2)[None]
    flat = es.FactorGraph([point], [es.ResidualFactor(("x",), "flat", lambda x: x.sum(1), index)])
    with pytest.raises(es.GraphError, match=r"'flat': the function returned shape \(2,\); \(2, r\) is needed"):
        flat.energy({"x": double(2, 2)})
    with pytest.raises(es.GraphError, match=r"'p': a parameter of shape \(3, 2\)"):
        es.FactorGraph([point], [es.ResidualFactor(("x",), "p", lambda x, t: x - t, index, (double(3, 2),))])
    with pytest.raises(es.GraphError, match="constraint 'equal'"):
        es.ResidualFactor(("x",), "c", lambda x: x, index, constraint="equal")
    with pytest.raises(es.GraphError, match="takes no robust loss"):
        es.ResidualFactor(("x",), "c", lambda x: x, index, constraint="equality", loss=es.Huber())


def test_smooth_energy() -> None:
    """The gradient by steps is that of differences through retract, zero at clamped sites, on a sphere of rotations."""
    turn = es.Variables.of_lengths("r", es.SO3(), [2, 1])
    shift = es.Variables.of_lengths("x", es.Real(3, lower=-9.0), [1, 1])
    rows = torch.tensor([[0, 1, 2], [0, 0, 1]])
    graph = es.FactorGraph(
        [turn, shift],
        [es.ResidualFactor(("r", "x"), "pull", lambda r, x, t: r[:, 1:] * x + r[:, :1] - t, rows, (double(3, 3),))],
    ).condition(es.Assignment({"r": es.SO3().start(3, torch.float64)}, {"r": torch.tensor([True, False, False])}))
    values = starting_point(graph, es.Assignment({"x": double(2, 3, seed=8)}))
    energy = SmoothEnergy.of(graph, values)
    point = tuple(values[n] for n in energy.names)
    at, gradient = energy.with_gradient(point)
    assert at.shape == (2,) and gradient[0].shape == (3, 3) and float(gradient[0][0].abs().max()) == 0.0
    direction = tuple(double(*g.shape, seed=11 + i) for i, g in enumerate(gradient))
    direction = (direction[0] * torch.tensor([[0.0], [1.0], [1.0]]), direction[1])
    ahead = energy(energy.retract(point, tuple(1e-6 * d for d in direction)))
    behind = energy(energy.retract(point, tuple(-1e-6 * d for d in direction)))
    torch.testing.assert_close(energy.dot(gradient, direction), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)


def test_no_gradient_is_told() -> None:
    """An energy that torch cannot differentiate is refused in a sentence that names its factor."""
    point = es.Variables.of_lengths("x", es.Real(1), [1])
    graph = es.FactorGraph([point], [es.BlockFactor(("x",), "outside", lambda x, o: x.detach().sum(1))])
    energy = SmoothEnergy.of(graph, starting_point(graph, None))
    with pytest.raises(es.SolverRefusal, match="'outside'"):
        energy.with_gradient((torch.zeros(1, 1),))
    assert smooth_refusal(graph) is None
    assert "discrete" in str(smooth_refusal(mixed([1])))

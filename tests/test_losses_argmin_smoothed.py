"""Fenchel-Young losses and perturb-and-MAP: against enumeration, closed forms, bounds and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.inference.sparse_mixture import sparse_mixture
from ebmstruct.testing import Oracle, oracle, random_chain, random_forest, random_graph, random_grid
from ebmstruct.testing.parametric import CASES, DISCRETE, Case, assert_gradient, gradient

GRAPHS = {
    "chain": lambda g: random_chain([3, 1, 4], 3, g),
    "constrained chain": lambda g: random_chain([3, 4], 3, g, forbid=0.2),
    "forest": lambda g: random_forest([4, 3, 1], 3, g),
    "grid": lambda g: random_grid([(2, 3), (2, 2)], 2, g),
    "cycles": lambda g: random_graph([4, 3], 3, g, rows=3, blocks=2),
}


def indicators(truth: Oracle, states: int) -> Tensor:
    """(A, n, K): the indicators of every assignment of an instance."""
    return torch.nn.functional.one_hot(torch.tensor(truth.states), states).double()


def certified(graph: es.FactorGraph, strength: float, found: Tensor, gap: Tensor, means: dict[str, Tensor]) -> None:
    """The value is that of the means' best mixture, by the gap over a list of all assignments (Frank and Wolfe 1956).

    found: (B,) values of least regularised energy. For the point m of the marginal polytope every mixture has a value of
    at least min_y [E(y) + strength m u(y)] - strength / 2 |m|^2, since the norm is convex.
    """
    states = max(v.discrete.largest for v in graph.variables.values())
    for b, truth in enumerate(oracle(graph)):
        parts = []
        for name, block in graph.variables.items():
            rows = means[name][int(block.offsets[b]) : int(block.offsets[b + 1])]
            parts.append(torch.nn.functional.pad(rows, (0, states - rows.shape[1])))
        mean = torch.cat(parts)
        slopes = torch.tensor(truth.energies, dtype=torch.float64) + strength * (indicators(truth, states) * mean).sum(
            (1, 2)
        )
        bound = float(slopes.min()) - 0.5 * strength * float(mean.square().sum())
        assert bound - 1e-9 <= float(found[b]) <= bound + 1e-6
        assert float(gap[b]) >= float(found[b]) - bound - 1e-9


@pytest.mark.parametrize("maker", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("strength", [0.3, 1.0, 5.0])
def test_a_sparse_mixture_is_the_best_of_all_distributions(maker: object, strength: float) -> None:
    """No distribution over a list of all assignments has a lower regularised energy, and the stated gap says as much."""
    assert callable(maker)
    graph = maker(torch.Generator().manual_seed(2))
    mixture = sparse_mixture(graph, strength=strength, tolerance=1e-9)
    assert torch.allclose(mixture.weights.sum(0), torch.ones(graph.num_instances, dtype=torch.float64))
    assert bool((mixture.weights >= 0).all())
    for name, mean in mixture.means.items():
        block = graph.variables[name]
        by_hand = torch.zeros_like(mean)
        for rows, weight in zip(mixture.assignments[name], mixture.weights, strict=True):
            by_hand[torch.arange(block.num_sites), rows] += weight[block.instance]
        assert torch.allclose(mean, by_hand)
    certified(graph, strength, mixture.value, mixture.gap, dict(mixture.means))
    energies = torch.stack(
        [graph.energy({n: v[s] for n, v in mixture.assignments.items()}) for s in range(len(mixture.weights))]
    )
    square = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, mean in mixture.means.items():
        square = square.index_add(0, graph.variables[name].instance, mean.square().sum(1))
    used = torch.where(mixture.weights > 0, mixture.weights * energies, 0.0).sum(0)
    assert torch.allclose(mixture.value, used + 0.5 * strength * square)


def test_a_single_site_is_sparsemax() -> None:
    """One site of K states: the loss of sparsemax in closed form (Martins and Astudillo 2016, equation 12)."""
    scores = torch.tensor([[1.2, 0.9, -0.5, 0.1], [3.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(4), [1, 1])
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "u", -scores)])
    target = es.Assignment({"y": torch.tensor([1, 0])})
    found = es.FenchelYoung()(graph, target).value
    ordered = scores.sort(1, descending=True).values
    sums = ordered.cumsum(1)
    for b, y in enumerate([1, 0]):
        support = max(k for k in range(1, 5) if 1 + k * float(ordered[b, k - 1]) > float(sums[b, k - 1]))
        threshold = (float(sums[b, support - 1]) - 1) / support
        inside = scores[b][scores[b] > threshold]
        by_hand = -float(scores[b, y]) + 0.5 * float((inside**2 - threshold**2).sum()) + 0.5
        assert float(found[b]) == pytest.approx(by_hand, abs=1e-9)
    assert float(found[1]) == 0.0  # its target lies below all others by more than 1


@pytest.mark.parametrize("case", DISCRETE.values(), ids=DISCRETE)
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_norm_is_never_negative_and_has_its_gradient(case: Case, temperature: float) -> None:
    """Values against the mixture of all assignments; gradients against differences; unknown sites make it smaller."""
    loss = es.FenchelYoung(temperature=temperature, tolerance=1e-10)
    graph, full = case.build(case.parameters), case.full()
    whole, some = loss(graph, full), loss(graph, case.partly())
    assert bool((whole.value >= 0).all()) and bool((some.value >= -1e-9).all())
    assert bool((whole.figures["duality_gap"] < 1e-6).all())
    free = graph.energy(full) + 0.5 * temperature * graph.variables["y"].lengths - whole.value
    mixture = sparse_mixture(graph, strength=temperature, tolerance=1e-10)
    certified(graph, temperature, free, mixture.gap, dict(mixture.means))
    for target in (full, case.partly()):
        assert_gradient(lambda p: loss(case.build(p), target).value, case.parameters)  # noqa: B023


def test_the_norm_with_unknown_sites_by_enumeration() -> None:
    """min over mixtures of completions less min over all mixtures; both checked against lists."""
    graph = random_chain([3, 4], 3, torch.Generator().manual_seed(7))
    known = torch.tensor([True, False, True, False, True, True, False])
    target = es.Assignment({"y": torch.tensor([0, 0, 2, 0, 1, 2, 0])}, known={"y": known})
    clamped = graph.condition(target)
    inner, outer = (sparse_mixture(g, tolerance=1e-10) for g in (clamped, graph))
    certified(graph, 1.0, outer.value, outer.gap, dict(outer.means))
    certified(clamped, 1.0, inner.value, inner.gap, dict(inner.means))
    value = es.FenchelYoung(tolerance=1e-10)(graph, target).value
    assert torch.allclose(value, inner.value - outer.value, atol=1e-8)


def test_the_entropy_is_the_likelihood() -> None:
    """T times the likelihood at temperature T, unknown sites summed out."""
    case = DISCRETE["chain"]
    for target in (case.full(), case.partly()):
        mine = es.FenchelYoung(regulariser="entropy", temperature=0.5)(case.build(case.parameters), target)
        exact = es.NegativeLogLikelihood(0.5)(case.build(case.parameters), target)
        assert torch.allclose(mine.value, 0.5 * exact.value)


SAMPLED = {
    "perturb-and-MAP": es.PerturbAndMap(num_samples=3, temperature=0.7),
    "gaussian": es.FenchelYoung(regulariser="perturbation", num_samples=3),
    "gumbel": es.FenchelYoung(regulariser="perturbation", num_samples=3, noise="gumbel"),
}


@pytest.mark.parametrize("loss", SAMPLED.values(), ids=SAMPLED)
@pytest.mark.parametrize("case", [*DISCRETE.values(), CASES["mixed"]], ids=[*DISCRETE, "mixed"])
def test_noisy_losses_have_their_gradient(loss: es.Loss, case: Case) -> None:
    """With the noise held, each draw is at least 0 and its gradient equals differences, also with unknown sites."""
    for target in (case.full(), case.partly()):
        assert bool((loss(case.build(case.parameters), target).value >= -1e-9).all())
        assert_gradient(lambda p: loss(case.build(p), target).value, case.parameters)  # noqa: B023


def test_one_gumbel_draw_by_enumeration() -> None:
    """A draw equals the noisy energy of the target less the least over a list of all assignments with the same numbers."""
    graph = random_chain([3, 2], 3, torch.Generator().manual_seed(3))
    target = es.Assignment({"y": torch.tensor([0, 1, 2, 2, 0])})
    found = es.PerturbAndMap(num_samples=2, temperature=0.5)(graph, target, generator=torch.Generator().manual_seed(8))
    even = torch.rand(10, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    noise = 0.5 * (-(-even.log()).log() - 0.5772156649015329)
    total = [0.0, 0.0]
    for copy in range(2):
        for b, truth in enumerate(oracle(graph)):
            first = 5 * copy + int(graph.variables["y"].offsets[b])
            noisy = {
                s: e - sum(float(noise[first + i, k]) for i, k in enumerate(s))
                for s, e in zip(truth.states, truth.energies, strict=True)
            }
            wanted = tuple(target["y"][graph.variables["y"].instance == b].tolist())
            total[b] += 0.5 * (noisy[wanted] - min(noisy.values()))
    assert found.value.tolist() == pytest.approx(total, abs=1e-9)


def test_independent_sites_give_the_likelihood_in_the_mean() -> None:
    """Without neighbours the bound is tight: the mean over 4000 draws is the likelihood, within 4 standard errors."""
    unary = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(3), [3])
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "u", unary)])
    target = es.Assignment({"y": torch.tensor([0, 1, 2])})
    draws = torch.tensor(
        [
            float(es.PerturbAndMap(num_samples=100)(graph, target, generator=torch.Generator().manual_seed(s)).value)
            for s in range(40)
        ]
    )
    exact = float(es.NegativeLogLikelihood()(graph, target).value)
    assert abs(float(draws.mean()) - exact) < 4 * float(draws.std()) / math.sqrt(40)


def test_the_bound_holds_on_a_grid() -> None:
    """With neighbours the mean lies above the likelihood (Hazan and Jaakkola 2012), by more than the noise."""
    graph = random_grid([(2, 3)], 2, torch.Generator().manual_seed(4))
    target = es.Assignment({"y": torch.tensor([0, 1, 1, 0, 0, 1])})
    draws = torch.tensor(
        [
            float(es.PerturbAndMap(num_samples=100)(graph, target, generator=torch.Generator().manual_seed(s)).value)
            for s in range(20)
        ]
    )
    exact = float(es.NegativeLogLikelihood()(graph, target).value)
    assert float(draws.mean()) - 4 * float(draws.std()) / math.sqrt(20) > exact


def test_tilted_points_by_hand() -> None:
    """On a quadratic the perturbation costs T^2 tr(A^-1) / 2 in the mean; its gradient pulls to the target and widens A."""
    stiff, block = torch.tensor([2.0], dtype=torch.float64), es.Variables.of_lengths("x", es.Real(2), [1, 1])

    def build(p: Tensor) -> es.FactorGraph:
        def pulled(x: Tensor) -> Tensor:
            return p[0].sqrt() * (x - p[1])

        return es.FactorGraph([block], [es.ResidualFactor(("x",), "pull", pulled, torch.tensor([[0, 1]]))])

    target = es.Assignment({"x": torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)})
    p = torch.cat([stiff, torch.tensor([0.5], dtype=torch.float64)])
    loss = es.FenchelYoung(regulariser="perturbation", num_samples=400, temperature=0.7)
    found = loss(build(p), target).value
    distance = (target["x"] - 0.5).square().sum(1)
    exact = 0.5 * 2.0 * distance + 0.5 * 0.7**2 * 2 / 2.0
    # a draw is exact - T n (target - p1) + T^2 (|n|^2 - 2) / 4 in distribution
    error = torch.sqrt((0.7**2 * distance + 0.7**4 / 4) / 400)
    assert bool(((found - exact).abs() < 4 * error).all())
    assert_gradient(lambda q: loss(build(q), target).value, p)
    slope = gradient(lambda q: loss(build(q), target).value, p)
    by_hand = [float(0.5 * distance.sum()) - 2 * 0.7**2 / 4, 2.0 * float((0.5 - target["x"]).sum())]
    assert slope.tolist() == pytest.approx(by_hand, abs=0.15)


def test_a_forbidden_target_is_infinitely_bad() -> None:
    """An infinite entry at the target makes every one of the losses infinite, in its own instance only."""
    table = torch.tensor([[0.0, math.inf], [0.0, 1.0]], dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(2), [1, 1])
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "u", table)])
    target = es.Assignment({"y": torch.tensor([1, 1])})
    for loss in (es.FenchelYoung(), es.PerturbAndMap(), es.FenchelYoung(regulariser="entropy")):
        assert loss(graph, target).value.isfinite().tolist() == [False, True]


def test_a_batch_equals_the_loop() -> None:
    """The sparse mixture of each instance is the same alone and in a union."""
    generator = torch.Generator().manual_seed(6)
    graphs = [random_forest([n], 3, generator) for n in (3, 1, 5)]
    together = sparse_mixture(es.union(graphs), tolerance=1e-10).value
    assert together.tolist() == pytest.approx(
        [float(sparse_mixture(g, tolerance=1e-10).value) for g in graphs], abs=1e-9
    )


def test_what_is_refused() -> None:
    """No discrete sites to regularise or perturb, rotations to tilt, and options out of range."""
    points = es.FactorGraph(
        [es.Variables.of_lengths("r", es.SO2(), [1])],
        [es.ResidualFactor(("r",), "f", lambda r: r - 1.0, torch.tensor([[0]]))],
    )
    target = es.Assignment({"r": torch.tensor([[1.0, 0.0]], dtype=torch.float64)})
    with pytest.raises(es.LossRefusal, match="there are none"):
        es.PerturbAndMap()(points, target)
    with pytest.raises(es.LossRefusal, match="there are none"):
        es.FenchelYoung()(points, target)
    with pytest.raises(es.LossRefusal, match="linear tilt means nothing"):
        es.FenchelYoung(regulariser="perturbation")(points, target)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        es.PerturbAndMap(num_samples=0)
    with pytest.raises(ValueError, match="regulariser"):
        es.FenchelYoung(regulariser="ridge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature must be a positive"):
        es.FenchelYoung(temperature=0.0)

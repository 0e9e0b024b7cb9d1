"""NUTS through the engine: moments, calibration, bounds, clamped sites, budgets, and instances that go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference import NUTS, Ask, Budget, Query, Status, marginals, sample
from ebmstruct.inference.sampling.markov import run_chains


def graph_of(energy: Callable[[Tensor], Tensor], dim: int, instances: int = 1, **bounds: float) -> FactorGraph:
    """Instances of one vector each, under ``energy`` of (B, d)."""
    block = es.Variables.of_lengths("x", es.Real(dim, **bounds), [1] * instances)
    return FactorGraph([block], [es.BlockFactor(("x",), "e", lambda x, offsets: energy(x))])


def normal(dim: int, condition: float) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A Gaussian energy in a turned frame, and its covariance."""
    frame, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    variance = torch.logspace(-math.log10(condition), 0, dim, dtype=torch.float64)
    precision = (frame / variance) @ frame.T
    return lambda x: 0.5 * ((x @ precision.to(x)) * x).sum(-1), (frame * variance) @ frame.T


def ring(x: Tensor) -> Tensor:
    """Mass at radius 2, of width 0.2."""
    return (((x * x).sum(-1) + 1e-12).sqrt() - 2.0) ** 2 / 0.08


def modes(x: Tensor) -> Tensor:
    """Two normal hills of width 0.6 at -1 and 1 of the first coordinate, the right one three times as heavy."""
    shift = torch.tensor([1.0, 0.0]).to(x)
    left, right = -((x + shift) ** 2).sum(-1) / 0.72, -((x - shift) ** 2).sum(-1) / 0.72
    return -torch.logaddexp(left, right + math.log(3.0))


def standard_errors(figures: list[float], truth: float) -> float:
    """How many standard errors the mean of some seeds' figures is off the truth."""
    found = torch.tensor(figures, dtype=torch.float64)
    return abs(float(found.mean()) - truth) / (float(found.std()) / math.sqrt(len(figures)))


def radius() -> float:
    """The mean radius of the ring, by quadrature."""
    r = torch.linspace(1e-3, 4, 20001, dtype=torch.float64)
    p = r * torch.exp(-((r - 2) ** 2) / 0.08)
    return float((r * p).sum() / p.sum())


def moments(seeds: int, dim: int, draws: int, limit: float = 3.0) -> None:
    """Of a Gaussian of condition number 100, the ring and two hills, over some seeds."""
    energy, covariance = normal(dim, 100.0)
    cases: list[tuple[FactorGraph, list[Callable[[Tensor], Tensor]], list[float]]] = [
        (
            graph_of(energy, dim),
            [lambda x: x[:, 0], lambda x: x[:, 0] ** 2, lambda x: x[:, 1] * x[:, 2], lambda x: (x * x).sum(-1)],
            [0.0, float(covariance[0, 0]), float(covariance[1, 2]), float(covariance.trace())],
        ),
        (graph_of(ring, 2), [lambda x: x.norm(dim=-1), lambda x: x[:, 0]], [radius(), 0.0]),
        (graph_of(modes, 2), [lambda x: x[:, 0], lambda x: x[:, 1] ** 2], [0.5, 0.36]),
    ]
    for graph, functions, truths in cases:
        found: list[list[float]] = [[] for _ in functions]
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            got = sample(graph, NUTS(warm_up=150, max_depth=8), num_samples=draws, generator=generator)
            x = got.values["x"][:, 0].double()
            for figures, function in zip(found, functions, strict=True):
                figures.append(float(function(x).mean()))
        assert max(standard_errors(f, truth) for f, truth in zip(found, truths, strict=True)) < limit


@pytest.mark.filterwarnings("ignore")
def test_moments() -> None:
    """Six seeds, twenty dimensions; with five degrees of freedom 5.9 is passed as often as 3.1 with many."""
    moments(6, 20, 400, 5.9)


@pytest.mark.slow
def test_moments_over_twenty_seeds() -> None:
    """Twenty seeds, a hundred dimensions."""
    moments(20, 100, 2000)


def calibration(instances: int, ranks: int, thinning: int) -> list[float]:
    """Chi-square figures of the ranks of three weights of a Bayesian logistic regression (Talts et al. 2018).

    Weights from the prior, data from the weights, draws from the posterior: the weight's rank among them is uniform.
    Every simulation is an instance. Eight bins: 7 degrees of freedom.
    """
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(instances, 3, generator=generator, dtype=torch.float64)
    features = torch.randn(instances, 12, 3, generator=generator, dtype=torch.float64)
    chance = torch.sigmoid((features @ truth[:, :, None])[..., 0])
    labels = (torch.rand(instances, 12, generator=generator, dtype=torch.float64) < chance).double()

    def energy(w: Tensor, x: Tensor, y: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        logit = (x @ w[:, :, None])[..., 0]
        return 0.5 * (w * w).sum(-1) + (torch.nn.functional.softplus(logit) - y * logit).sum(-1)

    block = es.Variables.of_lengths("w", es.Real(3), [1] * instances)
    graph = FactorGraph([block], [es.BlockFactor(("w",), "posterior", energy, (features, labels))])
    solver = NUTS(chains=1, warm_up=100)
    found = sample(graph, solver, num_samples=ranks * thinning, generator=generator)
    assert (found.status == int(Status.CONVERGED)).all()
    rank = (found.values["w"][thinning - 1 :: thinning] < truth).sum(0)
    out = []
    for column in rank.T:
        bins = torch.bincount(column * 8 // (ranks + 1), minlength=8).double()
        expected = instances / 8
        out.append(float(((bins - expected) ** 2 / expected).sum()))
    return out


def test_calibration() -> None:
    """Ranks of 256 simulations are uniform: chi-square below 24.3, which is passed once in a thousand (7 degrees)."""
    assert max(calibration(256, 15, 4)) < 24.3


@pytest.mark.slow
def test_calibration_of_many() -> None:
    """The same of 2000 simulations, with 31 draws each."""
    assert max(calibration(2000, 31, 4)) < 24.3


@pytest.mark.slow
def test_uncalibrated_draws_are_told() -> None:
    """The figure is above its limit where the draws are of another temperature, so it can tell."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(4000, generator=generator)
    draws = 0.9 * torch.randn(63, 4000, generator=generator)
    bins = torch.bincount((draws < truth).sum(0) * 8 // 64, minlength=8).double()
    assert float(((bins - 500) ** 2 / 500).sum()) > 24.3


def test_bounds_are_mirrors() -> None:
    """Exponential densities on [0, 1] and [0, inf): means by hand, no draw outside."""
    rate = torch.tensor([2.0, 3.0])
    block = es.Variables.of_lengths("x", es.Real(2, 0.0, (1.0, math.inf)), [1])
    graph = FactorGraph([block], [es.BlockFactor(("x",), "e", lambda x, offsets: (x * rate).sum(-1))])
    x = sample(graph, NUTS(warm_up=200), num_samples=8000).values["x"][:, 0]
    assert bool((x >= 0).all()) and bool((x[:, 0] <= 1).all())
    truth = torch.tensor([0.5 - math.exp(-2) / (1 - math.exp(-2)), 1 / 3])
    torch.testing.assert_close(x.mean(0), truth, atol=0.02, rtol=0.0)


def ragged() -> FactorGraph:
    """Instances of 2, 0 and 3 sites in two blocks of different widths, drawn to 1; the second block's last site clamped."""
    first = es.Variables.of_lengths("x", es.Real(2), [2, 0, 3])
    second = es.Variables.of_lengths("z", es.Real(1), [1, 2, 1])

    def energy(x: Tensor, z: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        total = torch.zeros(offsets[0].numel() - 1, dtype=x.dtype)
        for value, bounds in zip((x, z), offsets, strict=True):
            owner = torch.repeat_interleave(torch.arange(bounds.numel() - 1), bounds.diff())
            total = total.index_add(0, owner, 0.5 * (value - 1).square().sum(-1))
        return total

    graph = FactorGraph([first, second], [es.BlockFactor(("x", "z"), "e", energy)])
    known = torch.tensor([False, False, False, True])
    return graph.condition(Assignment({"z": torch.tensor([[0.0], [0.0], [0.0], [7.0]])}, {"z": known}))


def test_ragged_instances_and_clamped_sites() -> None:
    """Means 1 and variances 1 in every open site; clamped ones stay; two ways to ask for the means agree."""
    graph = ragged()
    found = sample(graph, NUTS(warm_up=100), num_samples=4000)
    assert found.statuses == [Status.CONVERGED] * 3 and found.chains == 4
    assert found.values["x"].shape == (4000, 5, 2) and found.values["z"].shape == (4000, 4, 1)
    assert (found.values["z"][:, 3] == 7.0).all()
    for value in (found.values["x"], found.values["z"][:, :3]):
        torch.testing.assert_close(value.mean(0), torch.ones_like(value[0]), atol=0.1, rtol=0.0)
        torch.testing.assert_close(value.var(0), torch.ones_like(value[0]), atol=0.2, rtol=0.0)
    means = marginals(graph, NUTS(warm_up=100, draws=1000))
    torch.testing.assert_close(means.means["x"], found.values["x"].double().mean(0))
    errors = means.stats["standard_error"]["x"]
    assert not means.exact and ((means.means["x"] - 1).abs() < 5 * errors).all()
    torch.testing.assert_close(
        means.covariances["x"], torch.eye(2, dtype=torch.float64).expand(5, 2, 2), atol=0.2, rtol=0.0
    )


def test_energies_are_those_of_the_draws() -> None:
    """What is recorded of a draw is its energy, at another temperature too; variances grow with the temperature."""
    graph = graph_of(lambda x: 0.5 * (x * x).sum(-1), 3, 2)
    found = sample(graph, NUTS(warm_up=100), num_samples=2000, temperature=4.0)
    for s in (0, 7, 1999):
        again = graph.energy({"x": found.values["x"][s]})
        torch.testing.assert_close(again.double(), found.energy[s], rtol=1e-5, atol=1e-5)
    assert 3.4 < float(found.values["x"].var()) < 4.6
    assert found.stats["hamiltonian"].shape == (2000, 2)


def test_same_seed_same_draws() -> None:
    """The generator decides everything."""
    graph = graph_of(ring, 2, 2)
    one, two, other = (
        sample(graph, NUTS(warm_up=20), num_samples=40, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one.values["x"], two.values["x"]) and not torch.equal(one.values["x"], other.values["x"])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_bad_instance_harms_nobody(poison: float) -> None:
    """An instance without a finite energy ends NONFINITE; its neighbours' draws are what they were without it."""
    place = torch.tensor([0.0, poison, 0.0])

    def energy(spoiled: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: 0.5 * (x * x).sum(-1) + spoiled.to(x).repeat(x.shape[0] // 3)

    bad, good = (
        sample(graph_of(energy(s), 2, 3), NUTS(warm_up=50, step_size=0.5), num_samples=200) for s in (place, 0 * place)
    )
    assert bad.statuses == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
    assert torch.equal(bad.values["x"][:, [0, 2]], good.values["x"][:, [0, 2]])
    assert bad.values["x"].isfinite().all()


def test_holes_count_as_divergences() -> None:
    """A normal density of which a half is forbidden by NaN: no draw in there, the rest right, divergences counted."""
    graph = graph_of(lambda x: torch.where(x[:, 0] < 0, math.nan, 0.5 * (x * x).sum(-1)), 2)
    init = Assignment({"x": torch.tensor([[1.0, 0.0]])})
    found = sample(graph, NUTS(warm_up=200), num_samples=8000, init=init)
    x = found.values["x"][:, 0]
    assert bool((x[:, 0] >= 0).all()) and int(found.stats["divergences"][0]) > 0
    assert abs(float(x[:, 0].mean()) - math.sqrt(2 / math.pi)) < 0.1
    assert any("divergences" in sentence for sentence in found.warnings)


def test_lost_chains_start_with_others() -> None:
    """Chains that start where the energy is NaN go on from where another of the instance stands."""
    graph = graph_of(lambda x: torch.where(x[:, 0] > 5, math.nan, 0.5 * (x * x).sum(-1)), 1)
    init = Assignment({"x": torch.tensor([0.0, 9.0, 9.0, 0.0])[:, None, None]})
    found = sample(graph, NUTS(warm_up=50), num_samples=400, init=init)
    assert found.statuses == [Status.CONVERGED] and found.by_chain("x").var(0).min() > 0.3


def test_budgets_end_early() -> None:
    """Steps and deadlines: the draws so far, then repeats of them; where there are none, where the chains stand."""
    graph = graph_of(lambda x: 0.5 * (x * x).sum(-1), 2, 2)
    some = sample(graph, NUTS(warm_up=10), num_samples=400, budget=Budget(max_steps=150))
    rounds = some.stats["rounds"]
    assert some.statuses == [Status.MAX_STEPS] * 2 and int(rounds.min()) > 0 and int(rounds.max()) < 100
    assert some.stats["gradients"] == 150 and some.values["x"].shape[0] == 400
    first = int(rounds[0]) * 4
    assert torch.equal(some.values["x"][first, 0], some.values["x"][first % (4 * int(rounds.max())), 0])
    none = sample(graph, NUTS(), num_samples=8, budget=Budget.after(0.0))
    assert none.statuses == [Status.DEADLINE] * 2 and none.values["x"].isfinite().all()
    torch.testing.assert_close(graph.energy({"x": none.values["x"][0]}).double(), none.energy[0])


def test_as_a_chain() -> None:
    """``init``, ``adapt`` and ``step`` in the loop of all samplers: variances of 1, 9 and 0.01 by instance."""
    scale = torch.tensor([1.0, 3.0, 0.1])
    graph = graph_of(lambda x: 0.5 * (x / scale).square().sum(-1), 3, 2)
    found = run_chains(
        NUTS(),
        graph,
        Query(Ask.SAMPLE, num_samples=1000),
        chains=4,
        burn_in=100,
        thinning=1,
        init=None,
        budget=None,
        generator=torch.Generator().manual_seed(0),
    )
    ratio = found.values["x"].flatten(0, 1).var(0) / scale**2
    assert ((ratio > 0.75) & (ratio < 1.3)).all()
    assert ((found.acceptance > 0.6) & (found.acceptance < 0.99)).all()


def test_refusals() -> None:
    """Each is a sentence that names the culprit and, for manifolds, what to take instead."""
    turn = FactorGraph(
        [es.Variables.of_lengths("r", es.SO3(), [1])], [es.BlockFactor(("r",), "e", lambda r, offsets: r[:, 0])]
    )
    graph = graph_of(ring, 2)
    states = FactorGraph([es.Variables.of_lengths("y", es.Discrete(2), [1])], [])
    draw = Query(Ask.SAMPLE)
    for sentence, one, query, solver in (
        ("take HMC", turn, draw, NUTS()),
        ("discrete", states, draw, NUTS()),
        ("minimize", graph, Query(), NUTS()),
        ("joint beliefs", graph, Query(Ask.MARGINALS, factors=("e",)), NUTS()),
        ("max_depth", graph, draw, NUTS(max_depth=0)),
        ("warm_up", graph, draw, NUTS(warm_up=-1)),
        ("step_size", graph, draw, NUTS(step_size=-1.0)),
    ):
        reason = solver.refuse(one, query)
        assert reason is not None and sentence in reason and "\n" not in reason
    assert NUTS().refuse(graph, draw) is None


def test_no_instances() -> None:
    """A batch of none has no draws and no faults."""
    found = sample(graph_of(ring, 2, 0), NUTS(warm_up=5), num_samples=8)
    assert found.values["x"].shape == (8, 0, 2) and found.status.shape == (0,)

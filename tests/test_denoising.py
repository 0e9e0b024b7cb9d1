"""Energies with noise levels, their loss and their sampler, against Gaussians whose every slope is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.energies.denoising import VectorNetwork
from ebmstruct.errors import GraphError, LossRefusal, SolverRefusal
from ebmstruct.graph import at_noise, noise_block, noise_levels

MEAN = torch.tensor([1.0, -0.5, 0.2])
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.2, 0.4]])


class BlurredGaussian(es.EnergyModel):
    """The exact energy of a Gaussian in three coordinates with noise added: what denoising should learn."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Any) -> es.FactorGraph:
        each = torch.arange(len(inputs) + 1)
        x, noise = es.Variables("x", es.Real(1), 3 * each), es.Variables("noise", es.NoiseLevel(0.05, 20.0), each)
        graph = es.FactorGraph([x, noise], [es.BlockFactor(("x", "noise"), "gaussian", self._energy)])
        return graph.condition(es.Assignment({"noise": torch.full((len(inputs), 1), 0.05).log()}))

    def _energy(self, x: Tensor, log_sigma: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        apart = x.reshape(-1, 3) - MEAN.to(x) - self.shift.to(x)
        root = ROOT.to(x)
        covariance = root @ root.T + log_sigma.to(x).exp().square()[:, :, None] * torch.eye(3).to(x)
        return 0.5 * (apart * torch.linalg.solve(covariance, apart)).sum(1)


def points(count: int, seed: int) -> Tensor:
    """(count, 3) of the Gaussian."""
    return MEAN + torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) @ ROOT.T


def target(graph: es.FactorGraph, rows: Tensor) -> es.Assignment:
    """Rows as values."""
    assert graph.evidence is not None
    return es.Assignment({"x": rows.reshape(-1, 1), "noise": graph.evidence.values["noise"]})


def test_draws_have_the_moments_of_the_gaussian() -> None:
    """With exact slopes, draws have its mean and covariance within three standard errors and the steps' bias."""
    graph = BlurredGaussian().graph([None] * 4000)
    for solver in (es.AnnealedLangevin(levels=200), es.AnnealedLangevin(levels=60, corrections=3, step=0.1)):
        drawn = es.sample(graph, solver, num_samples=1, generator=torch.Generator().manual_seed(0))
        rows = drawn.values["x"][0].reshape(-1, 3)
        assert torch.allclose(rows.mean(0), MEAN, atol=0.06)
        assert torch.allclose(rows.T.cov(), ROOT @ ROOT.T, atol=0.1)
        assert set(drawn.statuses) == {es.Status.CONVERGED} and not drawn.exact


def test_known_coordinates_keep_their_values_and_shift_the_others() -> None:
    """Given the first coordinate the others have their conditional mean."""
    graph = BlurredGaussian().graph([None] * 3000)
    values, known = torch.full((9000, 1), 2.5), torch.arange(9000) % 3 == 0
    given = graph.condition(es.Assignment({"x": values}, {"x": known}))
    solver = es.AnnealedLangevin(levels=100, corrections=4, step=0.2)
    drawn = es.sample(given, solver, num_samples=1, generator=torch.Generator().manual_seed(0))
    rows = drawn.values["x"][0].reshape(-1, 3)
    assert bool((rows[:, 0] == 2.5).all())
    covariance = ROOT @ ROOT.T
    expected = MEAN[1:] + covariance[1:, 0] / covariance[0, 0] * (2.5 - MEAN[0])
    assert torch.allclose(rows[:, 1:].mean(0), expected, atol=0.1)


def test_the_loss_is_least_at_the_truth() -> None:
    """The mean loss rises on both sides of the energy that the data come from."""
    model = BlurredGaussian()
    graph = model.graph([None] * 4000)
    rows = target(graph, points(4000, 1))

    def value(shift: float) -> float:
        with torch.no_grad():
            model.shift.fill_(shift)
        with torch.no_grad():
            return float(
                es.DenoisingScoreMatching()(graph, rows, generator=torch.Generator().manual_seed(2)).value.mean()
            )

    assert value(0.0) < min(value(0.3), value(-0.3))


def test_gradient_against_finite_differences() -> None:
    """The gradient of the loss by a parameter is that of its value."""
    model = BlurredGaussian().double()
    graph = model.graph([None] * 20)
    rows = target(graph, points(20, 1).double())

    def value() -> Tensor:
        return es.DenoisingScoreMatching()(graph, rows, generator=torch.Generator().manual_seed(2)).value.sum()

    value().backward()
    step = 1e-5
    with torch.no_grad():
        model.shift.add_(step)
        up = float(value())
        model.shift.sub_(2 * step)
        down = float(value())
    assert model.shift.grad is not None
    assert float(model.shift.grad) == pytest.approx((up - down) / (2 * step), rel=1e-4)


def test_levels_cover_every_share() -> None:
    """Among B levels there is one in each of B equal shares of the distribution."""
    levels = es.NoiseLevel(0.01, 10.0)
    drawn = es.DenoisingScoreMatching(width=None).drawn(levels, 100, torch.Generator().manual_seed(0)).log()
    share = (drawn - torch.tensor(0.01).log()) / torch.tensor(1000.0).log()
    assert torch.equal((share * 100).clamp(max=99.9).long().sort().values, torch.arange(100))
    narrow = es.DenoisingScoreMatching(center=0.3, width=0.5).drawn(levels, 1001, torch.Generator().manual_seed(0))
    assert float(narrow.median()) == pytest.approx(0.3, rel=0.02)
    assert float(narrow.log().std()) == pytest.approx(0.5, rel=0.02)


def test_parts_that_nobody_knows_are_not_scored() -> None:
    """The loss of a target without its last coordinate does not depend on what stands there."""
    model = BlurredGaussian()
    graph = model.graph([None] * 10)
    rows, known = points(10, 1), torch.tensor([True, True, False]).repeat(10)
    values = []
    for last in (0.0, 100.0):
        rows[:, 2] = last
        partly = es.Assignment(dict(target(graph, rows).values), {"x": known})
        values.append(es.DenoisingScoreMatching()(graph, partly, generator=torch.Generator().manual_seed(2)).value)
    assert torch.equal(*values)


def test_a_denoising_energy_learns_a_gaussian() -> None:
    """Trained by its loss, its slope is the one known, at levels from fine to coarse."""
    rows = points(2000, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = es.DenoisingEnergy(3, width=48, depth=1, lowest=0.1, highest=5.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 400)
    noise = torch.Generator().manual_seed(3)
    graph = model.graph([None] * 500)
    for _ in range(400):
        optimizer.zero_grad()
        own = rows[torch.randint(0, 2000, (500,), generator=noise)]
        es.DenoisingScoreMatching()(graph, target(graph, own), generator=noise).value.mean().backward()
        optimizer.step()
        slower.step()
    true = BlurredGaussian()
    for sigma in (0.3, 1.0, 3.0):
        level = torch.full((500,), sigma)
        x = (points(500, 5) + sigma * torch.randn(500, 3, generator=noise)).reshape(-1, 1).requires_grad_()
        found, wanted = (
            torch.autograd.grad(at_noise(m.graph([None] * 500), level).energy({"x": x}).sum(), x)[0]
            for m in (model, true)
        )
        error = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
        assert error < 0.2, (sigma, error)


def test_waves_beside_the_numbers() -> None:
    """Few numbers are told to the network as waves too, many are not, and the user may say otherwise."""
    for dim, octaves, entered in ((2, None, 2 * 7), (10, None, 10), (2, 0, 2), (10, 2, 10 * 5)):
        network = es.DenoisingEnergy(dim, width=8, depth=1, octaves=octaves).denoiser.network
        assert isinstance(network, VectorNetwork)
        assert network.enter.in_features == entered


def test_other_questions_are_about_the_lowest_level() -> None:
    """Energies, minima, sums and copies are those of the lowest level; at_noise changes only that."""
    model = BlurredGaussian().requires_grad_(False)
    graph = model.graph([None] * 2)
    assert noise_block(graph) is not None and noise_levels(graph).lowest == 0.05
    found = es.minimize(graph, es.LBFGS())
    assert torch.allclose(found.assignment["x"].reshape(-1, 3), MEAN.expand(2, 3), atol=1e-3)
    both = es.SumOfEnergies([model, model], [1.0, 0.5], ["a", "b"]).graph([None] * 2)
    x = points(2, 3).reshape(-1, 1)
    assert torch.allclose(both.energy({"x": x}), 1.5 * graph.energy({"x": x}))
    higher = at_noise(graph, torch.tensor([0.05, 2.0]))
    assert float(higher.energy({"x": x})[0]) == pytest.approx(float(graph.energy({"x": x})[0]))
    assert float(higher.energy({"x": x})[1]) < float(graph.energy({"x": x})[1])
    assert torch.equal(graph.repeat(2).energy({"x": x.repeat(2, 1)})[:2], graph.energy({"x": x}))


def test_refusals() -> None:
    """Graphs without noise levels, discrete outputs, bad options: a sentence each."""
    block = es.Variables.of_lengths("x", es.Real(1), [1])
    plain = es.FactorGraph([block], [es.BlockFactor(("x",), "e", lambda x, offsets: x.square().sum(1))])
    with pytest.raises(LossRefusal, match="no block of the graph holds noise levels; take score_matching"):
        es.DenoisingScoreMatching()(plain, es.Assignment({"x": torch.zeros(1, 1)}))
    with pytest.raises(SolverRefusal, match="no block of the graph holds noise levels"):
        es.sample(plain, es.AnnealedLangevin(), num_samples=1)
    graph = BlurredGaussian().graph([None])
    with pytest.raises(SolverRefusal, match="levels of at least 2"):
        es.sample(graph, es.AnnealedLangevin(levels=1), num_samples=1)
    with pytest.raises(SolverRefusal, match="it only draws samples"):
        es.minimize(graph, es.AnnealedLangevin())
    with pytest.raises(GraphError, match="noise levels must rise"):
        es.NoiseLevel(1.0, 0.5)
    with pytest.raises(ValueError, match="center must be above 0"):
        es.DenoisingScoreMatching(center=0.0)
    late = es.sample(graph, es.AnnealedLangevin(levels=2000), num_samples=1, budget=es.Budget.after(0.02))
    assert late.statuses == [es.Status.DEADLINE]


def test_double_precision() -> None:
    """A model in float64, as `train.precision: float64` leaves it, draws and scores values in float32."""
    for shape in (None, (1, 4, 4)):
        dim = 16 if shape else 2
        model = es.DenoisingEnergy(dim, shape=shape, width=8, depth=1, filters=2).double()
        graph = model.graph([None] * 3)
        drawn = es.sample(
            graph, es.AnnealedLangevin(levels=3), num_samples=1, generator=torch.Generator().manual_seed(0)
        )
        assert bool(drawn.energy.isfinite().all()) and drawn.values["x"].shape == (1, 3 * dim, 1)

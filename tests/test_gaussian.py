"""Quadratic energies against dense algebra and quadrature: minimum, marginals, log partition, gradients, samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.inference import certificate
from ebmstruct.inference.views import residual_view as views

FLOAT = torch.float64


@pytest.fixture(params=["bands", "sparse"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with normal equations in bands, and once more with a sparse matrix however small."""
    if request.param == "sparse":
        monkeypatch.setattr(views, "NARROW", -1)
        monkeypatch.setattr(views, "SPARSE_PENALTY", 0.0)
    return str(request.param)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tangled(sizes: list[int], seed: int) -> es.FactorGraph:
    """Two blocks of different dimension, joined at random; the design of the rows is a value of the factor."""
    g = generator(seed)
    x = es.Variables.of_lengths("x", es.Real(2), sizes)
    y = es.Variables.of_lengths("y", es.Real(1), sizes)
    first, second, a, b = [], [], [], []
    for offset, size in zip(x.offsets.tolist(), sizes, strict=False):
        for _ in range(3 * size):
            i, j = (torch.randint(size, (2,), generator=g) + offset).tolist()
            first.append(i)
            second.append(j)
    m = len(first)
    a = torch.randn(m, 2, 2, dtype=FLOAT, generator=g)
    b = torch.randn(m, 2, 1, dtype=FLOAT, generator=g)
    c = torch.randn(m, 2, dtype=FLOAT, generator=g)
    joint = es.ResidualFactor(("x", "y"), "joint", affine, torch.tensor([first, second]), (a, b, c), linear=True)
    sites = torch.arange(x.num_sites)
    prior_x = es.ResidualFactor(("x",), "prior x", lambda v: 0.5 * v, sites[None], linear=True)
    prior_y = es.ResidualFactor(("y",), "prior y", lambda v: v - 1.0, sites[None], linear=True)
    constant = torch.randn(len(sizes), dtype=FLOAT, generator=g)
    return es.FactorGraph([x, y], [joint, prior_x, prior_y], constant=constant)


def affine(x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (a @ x[:, :, None] + b @ y[:, :, None])[:, :, 0] - c


def dense(graph: es.FactorGraph) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (N,) of all coordinates of x then y, covariance (N, N), and (B,) log partitions, by dense algebra."""
    n = graph.variables["x"].num_sites
    split = lambda v: {"x": v[: 2 * n].reshape(n, 2), "y": v[2 * n :].reshape(n, 1)}  # noqa: E731
    zero = torch.zeros(3 * n, dtype=FLOAT)
    energy = lambda v: graph.energy(split(v)).sum()  # noqa: E731
    hessian = torch.autograd.functional.hessian(energy, zero)
    mean = torch.linalg.solve(hessian, -torch.autograd.functional.jacobian(energy, zero))
    least = graph.energy(split(mean))
    owner = torch.cat([graph.variables["x"].instance.repeat_interleave(2), graph.variables["y"].instance])
    log_z = []
    for b in range(graph.num_instances):
        mine = owner == b
        part = hessian[mine][:, mine]
        log_z.append(-least[b] + 0.5 * int(mine.sum()) * math.log(2 * math.pi) - 0.5 * torch.logdet(part))
    return mean, torch.linalg.inv(hessian), torch.stack(log_z)


def test_against_dense_algebra(layout: str) -> None:
    """Minimum with its proof, means, covariances of sites and log partition are those of dense algebra to 1e-8."""
    sizes = [5, 1, 8]
    graph = tangled(sizes, 0)
    assert (views.residual_view(graph).sparse is not None) == (layout == "sparse")
    mean, covariance, log_z = dense(graph)
    n = sum(sizes)
    least = es.minimize(graph, es.Gaussian())
    assert set(least.statuses) == {es.Status.OPTIMAL}
    torch.testing.assert_close(certificate.bound(graph, least), least.energy, rtol=1e-9, atol=1e-9)
    found = es.marginals(graph, es.Gaussian())
    for values in (least.assignment, found.means):
        torch.testing.assert_close(values["x"].reshape(-1), mean[: 2 * n], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(values["y"].reshape(-1), mean[2 * n :], rtol=1e-8, atol=1e-9)
    assert found.exact and set(found.statuses) == {es.Status.OPTIMAL}
    for i in range(n):
        torch.testing.assert_close(
            found.covariances["x"][i], covariance[2 * i : 2 * i + 2, 2 * i : 2 * i + 2], rtol=1e-7, atol=1e-9
        )
        torch.testing.assert_close(
            found.covariances["y"][i, 0, 0], covariance[2 * n + i, 2 * n + i], rtol=1e-7, atol=1e-9
        )
    torch.testing.assert_close(found.log_partition, log_z, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(es.log_partition(graph, es.Gaussian()), log_z, rtol=1e-9, atol=1e-8)


def test_gradient_of_log_partition(layout: str) -> None:
    """Derivatives by designs and data are those of central differences; a second derivative is refused."""
    graph = tangled([3, 2], 1)
    factor = graph.factors[0]
    assert isinstance(factor, es.ResidualFactor)
    for place, parameter in enumerate(factor.parameters):
        direction = torch.randn(parameter.shape, dtype=FLOAT, generator=generator(place))

        def value(step: Tensor, place: int = place, direction: Tensor = direction) -> Tensor:
            moved = [p + step * direction if i == place else p for i, p in enumerate(factor.parameters)]
            blocks = list(graph.variables.values())
            return es.log_partition(
                es.FactorGraph(blocks, [factor.with_values(tuple(moved)), *graph.factors[1:]]),
                es.Gaussian(),
                temperature=0.7,
            )

        step = torch.zeros((), dtype=FLOAT, requires_grad=True)
        slopes = torch.stack([torch.autograd.grad(v, step, retain_graph=True)[0] for v in value(step)])
        expected = (value(torch.tensor(1e-5)) - value(torch.tensor(-1e-5))) / 2e-5
        torch.testing.assert_close(slopes, expected, rtol=1e-5, atol=1e-6)
    (first,) = torch.autograd.grad(value(step).sum(), step, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first, step)


def test_temperature_and_quadrature() -> None:
    """In one dimension log partition, mean and variance at a temperature are those of numerical integration."""
    x = es.Variables.of_lengths("x", es.Real(1), [1])
    function = lambda v: torch.cat([v - 1.0, 2.0 * v + 0.5], 1)  # noqa: E731
    graph = es.FactorGraph([x], [es.ResidualFactor(("x",), "f", function, torch.tensor([[0]]), linear=True)])
    grid = torch.linspace(-30, 30, 200001, dtype=FLOAT)
    weights = (-(0.5 * function(grid[:, None]).square().sum(1)) / 2.5).exp()
    total = torch.trapezoid(weights, grid)
    mean = torch.trapezoid(weights * grid, grid) / total
    variance = torch.trapezoid(weights * (grid - mean) ** 2, grid) / total
    found = es.marginals(graph, es.Gaussian(), temperature=2.5)
    for value, expected in (
        (found.log_partition[0], total.log()),
        (found.means["x"][0, 0], mean),
        (found.covariances["x"][0, 0, 0], variance),
    ):
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)


def test_samples(layout: str) -> None:
    """Draws have the mean and the covariance of dense algebra, within their errors"""
    draws = 4000
    graph = tangled([2, 3], 2)
    mean, covariance, _ = dense(graph)
    found = es.sample(graph, es.Gaussian(), num_samples=draws, temperature=0.5, generator=generator(0))
    flat = torch.cat([found.values["x"].reshape(draws, -1), found.values["y"].reshape(draws, -1)], 1)
    deviation = (0.5 * covariance.diagonal() / draws).sqrt()
    assert bool(((flat.mean(0) - mean).abs() < 4.5 * deviation).all())
    error = (torch.cov(flat.T) / 0.5 - covariance).abs()
    scale = (covariance.diagonal()[:, None] * covariance.diagonal()).sqrt()
    assert float((error / scale).max()) < 6 / math.sqrt(draws) and found.exact
    torch.testing.assert_close(found.energy[7], graph.energy({k: v[7] for k, v in found.values.items()}))


def test_laplace() -> None:
    """Residuals that are not affine: the fit at the minimum, not exact; minima and samples are refused."""
    x = es.Variables.of_lengths("x", es.Real(1), [1])
    function = lambda v: torch.cat([10 * (v.exp() - 2.0), 0.1 * v], 1)  # noqa: E731
    graph = es.FactorGraph([x], [es.ResidualFactor(("x",), "f", function, torch.tensor([[0]]))])
    found = es.marginals(graph, es.Gaussian())
    grid = torch.linspace(-1, 2, 200001, dtype=FLOAT)
    weights = (-0.5 * function(grid[:, None]).square().sum(1)).exp()
    total = torch.trapezoid(weights, grid)
    assert not found.exact and found.statuses == [es.Status.CONVERGED]
    torch.testing.assert_close(found.log_partition[0], total.log(), rtol=0, atol=0.01)
    torch.testing.assert_close(found.means["x"][0, 0], torch.tensor(math.log(2.0), dtype=FLOAT), rtol=0, atol=1e-3)
    for ask in (
        lambda: es.minimize(graph, es.Gaussian()),
        lambda: es.sample(graph, es.Gaussian(), num_samples=1),
        lambda: es.log_partition(graph, es.Gaussian()),
    ):
        with pytest.raises(es.SolverRefusal, match="linear=True"):
            ask()


def test_improper_instances_stay_alone(layout: str) -> None:
    """An instance whose matrix is singular is told; the others are as they are alone."""
    sizes = [3, 2, 4]
    whole = tangled(sizes, 3)
    alone = es.marginals(whole, es.Gaussian())
    factors = [f for f in whole.factors if f.label != "prior x"]
    first = whole.factors[1]
    assert isinstance(first, es.ResidualFactor)
    joint = factors[0]
    assert isinstance(joint, es.ResidualFactor)
    mine = whole.variables["x"].instance[joint.index[0]] == 1
    design = torch.where(mine[:, None, None], 0.0, joint.parameters[0])
    kept = (whole.variables["x"].instance != 1).nonzero()[:, 0]
    factors[0] = joint.with_values((design, *joint.parameters[1:]))
    graph = es.FactorGraph(list(whole.variables.values()), [*factors, first.with_rows(kept)], constant=whole.constant)
    found = es.marginals(graph, es.Gaussian())
    assert [s is es.Status.NONFINITE for s in found.statuses] == [b == 1 for b in range(len(sizes))]
    assert bool(torch.isposinf(found.log_partition[1])) and bool(found.means["x"].isfinite().all())
    others = whole.variables["x"].instance != 1
    torch.testing.assert_close(found.means["x"][others], alone.means["x"][others], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.covariances["x"][others], alone.covariances["x"][others], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.log_partition[0], alone.log_partition[0])
    drawn = es.sample(graph, es.Gaussian(), num_samples=3)
    assert drawn.warnings and bool(drawn.values["x"].isfinite().all())


def test_long_chain() -> None:
    """A chain of 5,000 states ends where the gradient vanishes to 1e-8 of the diagonal, proven, in one or two steps."""
    n, g = 5000, generator(0)
    x = es.Variables.of_lengths("x", es.Real(2), [n])
    turn = torch.tensor([[1.0, 0.1], [-0.1, 1.0]], dtype=FLOAT)
    sites = torch.arange(n)
    z = torch.randn(n, 2, dtype=FLOAT, generator=g).cumsum(0)
    motion = lambda a, b: 30.0 * (b - a @ turn.T)  # noqa: E731
    factors = [
        es.ResidualFactor(("x", "x"), "motion", motion, torch.stack([sites[:-1], sites[1:]]), linear=True),
        es.ResidualFactor(("x",), "seen", lambda a, z: a - z, sites[None], (z,), linear=True),
    ]
    graph = es.FactorGraph([x], factors)
    found = es.minimize(graph, es.Gaussian())
    at = found.assignment["x"].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(graph.energy({"x": at}).sum(), at)
    assert float(slope.abs().max()) < 1e-8 * 1800 * float(at.detach().abs().max())
    assert found.statuses == [es.Status.OPTIMAL] and found.stats["steps"] <= 2
    torch.testing.assert_close(certificate.bound(graph, found), found.energy, rtol=1e-9, atol=1e-9)


def test_budget() -> None:
    """With no step allowed the start comes back, MAX_STEPS; with one it is the minimum."""
    graph = tangled([4, 2], 5)
    none = es.minimize(graph, es.Gaussian(), budget=es.Budget(max_steps=0))
    one = es.minimize(graph, es.Gaussian(), budget=es.Budget(max_steps=1))
    assert set(none.statuses) == {es.Status.MAX_STEPS} and set(one.statuses) == {es.Status.OPTIMAL}
    assert bool((one.energy <= none.energy).all())
    late = es.minimize(graph, es.Gaussian(), budget=es.Budget.after(0.0))
    assert set(late.statuses) == {es.Status.DEADLINE}

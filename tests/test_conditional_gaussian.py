"""Mixtures of Gaussians: exact marginals, log partitions and draws against dense algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, Discrete, FactorGraph, Real, ResidualFactor, TableFactor, Variables
from ebmstruct.inference import ConditionalGaussian, Gaussian, Status, log_partition, marginals, sample

NUMBER = torch.float64
T = 0.7


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=NUMBER)


def switching(lengths: list[int], data: Tensor) -> FactorGraph:
    """A chain of two numbers a site whose offset and gain a discrete state an instance chooses."""
    x = Variables.of_lengths("x", Real(2), lengths)
    z = Variables.of_lengths("z", Discrete(3), [1] * len(lengths))
    sites = torch.arange(x.num_sites)
    later = sites[(x.instance.diff(prepend=torch.tensor([-1])) == 0)]
    gain, table = 0.5 + normal(1, 3).abs(), normal(2, 3)
    return FactorGraph(
        [x, z],
        [
            ResidualFactor(("x", "x"), "moves", lambda a, b: 2 * (b - a), torch.stack([later - 1, later]), linear=True),
            ResidualFactor(
                ("x", "z"),
                "seen",
                lambda a, s, d: gain[s, None] * (a - d) + s[:, None],
                torch.stack([sites, x.instance]),
                (data,),
                linear=True,
            ),
            TableFactor(("z",), "prior", table.expand(len(lengths), 3)),
        ],
    )


def truth(graph: FactorGraph, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of one instance: log Z, the weights of the states, the mean and the covariance of all numbers together."""
    each, means, covariances = [], [], []
    for state in range(3):

        def energy(v: Tensor, s: int = state) -> Tensor:
            return graph.energy({"x": v.reshape(count, 2), "z": torch.tensor([s])})[0] / T

        origin = torch.zeros(2 * count, dtype=NUMBER)
        curvature = torch.autograd.functional.hessian(energy, origin)
        mean = -torch.linalg.solve(curvature, torch.autograd.functional.jacobian(energy, origin))
        each.append(-energy(mean) - 0.5 * torch.logdet(curvature / (2 * math.pi)))
        means.append(mean)
        covariances.append(curvature.inverse())
    log_each, stacked = torch.stack(each), torch.stack(means)
    weight = torch.softmax(log_each, 0)
    mean = (weight[:, None] * stacked).sum(0)
    apart = stacked - mean
    spread = torch.stack(covariances) + apart[:, :, None] * apart[:, None]
    return log_each.logsumexp(0), weight, mean, (weight[:, None, None] * spread).sum(0)


def test_is_the_dense_answer() -> None:
    """Log partition, beliefs, means and covariances of each instance are those of dense algebra, state by state."""
    lengths, data = [3, 1, 2], normal(3, 6, 2)
    graph = switching(lengths, data)
    found = marginals(graph, ConditionalGaussian(), temperature=T)
    assert found.exact and set(found.statuses) == {Status.OPTIMAL}
    torch.testing.assert_close(log_partition(graph, ConditionalGaussian(), temperature=T), found.log_partition)
    for b, (begin, size) in enumerate(zip((0, 3, 4), lengths, strict=True)):
        alone = switching([size], data[begin : begin + size])
        log_z, weight, mean, covariance = truth(alone, size)
        torch.testing.assert_close(found.log_partition[b], log_z, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(found.beliefs["z"][b], weight, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(found.means["x"][begin : begin + size].flatten(), mean, atol=1e-9, rtol=1e-9)
        for i in range(size):
            block = covariance[2 * i : 2 * i + 2, 2 * i : 2 * i + 2]
            torch.testing.assert_close(found.covariances["x"][begin + i], block, atol=1e-9, rtol=1e-9)


def test_draws() -> None:
    """Draws are independent and have the probabilities, means and covariances of the marginals."""
    graph, count = switching([3, 1, 2], normal(3, 6, 2)), 8000
    exact = marginals(graph, ConditionalGaussian(), temperature=T)
    found = sample(graph, ConditionalGaussian(), num_samples=count, temperature=T)
    assert found.exact and found.energy.shape == (count, 3)
    share = torch.nn.functional.one_hot(found.values["z"], 3).double().mean(0)
    assert ((share - exact.beliefs["z"]).abs() < 5 * (0.25 / count) ** 0.5).all()
    deviation = exact.covariances["x"].diagonal(dim1=1, dim2=2).sqrt()
    apart = found.values["x"] - exact.means["x"]
    assert (apart.mean(0) / deviation * count**0.5).abs().max() < 5
    covariance = torch.einsum("snd,sne->nde", apart, apart) / count
    assert (covariance - exact.covariances["x"]).abs().max() < 0.1 * exact.covariances["x"].abs().max()


def test_gradient() -> None:
    """The log partition is differentiable in the factors' values."""
    data = normal(4, 2, 2)
    leaf = data.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(log_partition(switching([2], leaf), ConditionalGaussian()).sum(), leaf)
    for i in range(2):
        step = torch.zeros_like(data)
        step[i, 0] = 1e-5
        rise = log_partition(switching([2], data + step), ConditionalGaussian()) - log_partition(
            switching([2], data - step), ConditionalGaussian()
        )
        assert abs(float(rise) / 2e-5 - float(found[i, 0])) < 1e-7


def test_agrees_with_gaussian_without_a_word() -> None:
    """Residuals that are affine once another block is clamped need no statement: one Gaussian, as Gaussian finds it."""
    x = Variables.of_lengths("x", Real(2), [2, 1])
    w = Variables.of_lengths("w", Real(2), [1, 1])
    index = torch.stack([torch.arange(3), x.instance])

    def graph(stated: bool) -> FactorGraph:
        both = ResidualFactor(("x", "w"), "seen", lambda a, b, d: a * b - d, index, (normal(5, 3, 2),), linear=stated)
        prior = ResidualFactor(("x",), "prior", lambda a: a, torch.arange(3)[None], linear=True)
        return FactorGraph([x, w], [both, prior]).condition(Assignment({"w": normal(6, 2, 2)}))

    found, told = marginals(graph(False), ConditionalGaussian()), marginals(graph(True), Gaussian())
    torch.testing.assert_close(found.log_partition, told.log_partition, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.means["x"], told.means["x"], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.covariances["x"], told.covariances["x"], atol=1e-9, rtol=1e-9)
    draws = sample(graph(False), ConditionalGaussian(), num_samples=3)
    assert draws.values["w"].shape == (3, 2, 2) and draws.values["x"].isfinite().all()


def test_bad_instances() -> None:
    """A NaN, and a number that nothing holds, end NONFINITE; the neighbour is as it is alone."""
    data = normal(7, 3, 2)
    data[0, 0] = torch.nan
    found = marginals(switching([1, 2], data), ConditionalGaussian(), temperature=T)
    alone = marginals(switching([2], data[1:]), ConditionalGaussian(), temperature=T)
    assert found.statuses == [Status.NONFINITE, Status.OPTIMAL]
    torch.testing.assert_close(found.means["x"][1:], alone.means["x"])
    loose = ResidualFactor(("x",), "loose", lambda a: 0 * a, torch.arange(1)[None])
    free = FactorGraph([Variables.of_lengths("x", Real(2), [1])], [loose])
    assert marginals(free, ConditionalGaussian()).statuses == [Status.NONFINITE]


def test_refusals() -> None:
    """What is not quadratic, bounded or too large is refused in a sentence."""
    x = Variables.of_lengths("x", Real(1), [1])
    bent = ResidualFactor(("x",), "bent", lambda a: a + a**2, torch.zeros(1, 1, dtype=torch.long))
    bounded = Variables.of_lengths("x", Real(1, lower=0.0), [1])
    flat = ResidualFactor(("x",), "flat", lambda a: a, torch.zeros(1, 1, dtype=torch.long), linear=True)
    for graph, solver, told in (
        (FactorGraph([x], [bent]), ConditionalGaussian(), "not quadratic"),
        (FactorGraph([bounded], [flat]), ConditionalGaussian(), "not quadratic"),
        (switching([3], normal(8, 3, 2)), ConditionalGaussian(max_dimension=2), "hang together"),
        (switching([3], normal(8, 3, 2)), ConditionalGaussian(max_states=2), "joint states"),
    ):
        with pytest.raises(SolverRefusal, match=told):
            marginals(graph, solver)

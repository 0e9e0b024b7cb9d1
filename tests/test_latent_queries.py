"""Latents given what is seen: chains, factor analysis, mixtures and linear systems, left to the engine."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, ChainFactor, Discrete, FactorGraph, Real, ResidualFactor, TableFactor, Variables
from ebmstruct.inference import Status, log_partition, marginals, minimize, sample
from ebmstruct.testing import oracle

NUMBER = torch.float64


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=NUMBER)


def test_hidden_chain() -> None:
    """States of a chain given seen symbols: the probabilities of the enumeration."""
    state, symbol = (Variables.of_lengths(n, Discrete(3), [4, 2]) for n in ("state", "symbol"))
    both = torch.arange(6).expand(2, -1)
    graph = FactorGraph(
        [state, symbol],
        [
            ChainFactor(("state",), "moves", normal(1, 3, 3), normal(2, 3)),
            TableFactor(("state", "symbol"), "shows", normal(3, 3, 3), index=both),
        ],
    )
    seen = graph.condition(Assignment({"symbol": torch.tensor([0, 2, 1, 1, 0, 2])}))
    found = marginals(seen)
    assert found.exact
    for b, one in enumerate(oracle(seen)):
        for i in range(int(state.lengths[b])):
            site = int(state.offsets[b]) + i
            for k in range(3):
                assert abs(float(found.beliefs["state"][site, k]) - one.marginal(i, k)) < 1e-10


def factor_analysis(loading: Tensor, rows: Tensor) -> FactorGraph:
    """Rows seen through a loading matrix and noise of 0.5; the seen block is clamped."""
    count, width = rows.shape
    factor = Variables.of_lengths("factor", Real(loading.shape[1]), [count])
    seen = Variables.of_lengths("seen", Real(width), [count])
    sites = torch.arange(count)
    graph = FactorGraph(
        [factor, seen],
        [
            ResidualFactor(
                ("factor", "seen"), "misfit", lambda f, x: (x - f @ loading.T) / 0.5, sites.expand(2, -1), linear=True
            ),
            ResidualFactor(("factor",), "prior", lambda f: f, sites[None], linear=True),
        ],
    )
    return graph.condition(Assignment({"seen": rows}))


def test_factor_analysis() -> None:
    """Means and covariances of the factors are those of the textbook, and draws have them."""
    loading, rows = normal(4, 5, 2), normal(5, 30, 5)
    graph = factor_analysis(loading, rows)
    found = marginals(graph)
    precision = torch.eye(2, dtype=NUMBER) + loading.T @ loading / 0.25
    mean = torch.linalg.solve(precision, loading.T @ rows.T / 0.25).T
    assert found.exact
    torch.testing.assert_close(found.means["factor"], mean, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(
        found.covariances["factor"], precision.inverse().expand(30, 2, 2), atol=1e-10, rtol=1e-10
    )
    draws = sample(graph, num_samples=4000, generator=torch.Generator().manual_seed(0))
    assert draws.exact
    spread = precision.inverse().diagonal().sqrt()
    assert ((draws.values["factor"].mean(0) - mean) / spread * 4000**0.5).abs().max() < 5


def test_loadings_and_then_factors() -> None:
    """The loading of one factor that marginal MAP finds is that of the largest eigenvector (Tipping and Bishop 1999)."""
    rows = normal(6, 300, 1) @ normal(7, 1, 4) + 0.5 * normal(8, 300, 4)
    loading = Variables.of_lengths("loading", Real(4), [1])
    factor = Variables.of_lengths("factor", Real(1), [300])
    sites = torch.arange(300)
    graph = FactorGraph(
        [loading, factor],
        [
            ResidualFactor(
                ("loading", "factor"),
                "misfit",
                lambda w, f, x: (x - w * f) / 0.5,
                torch.stack([0 * sites, sites]),
                (rows,),
            ),
            ResidualFactor(("factor",), "prior", lambda f: f, sites[None], linear=True),
        ],
    )
    found = minimize(graph, sum_out=("factor",))
    values, vectors = torch.linalg.eigh(rows.T @ rows / 300)
    expected = vectors[:, -1] * (values[-1] - 0.25).sqrt()
    estimate = found.assignment["loading"][0]
    assert found.integration == "exact" and found.statuses[0] is Status.CONVERGED
    torch.testing.assert_close(estimate * (estimate @ expected).sign(), expected, atol=1e-6, rtol=1e-6)
    known = graph.condition(Assignment({"loading": found.assignment["loading"]}))
    torch.testing.assert_close(
        found.energy, graph.energy(found.assignment) + 0.5 * 300 * _log_det(estimate), atol=1e-8, rtol=1e-10
    )
    assert marginals(known).means["factor"].shape == (300, 1)


def _log_det(loading: Tensor) -> Tensor:
    return (1 + loading.square().sum() / 0.25).log() - torch.log(torch.tensor(2 * torch.pi, dtype=NUMBER))


def mixture(data: Tensor) -> FactorGraph:
    """Two normal components of unit width, whose centres are a block of their own."""
    centre = Variables.of_lengths("centre", Real(1), [2])
    group = Variables.of_lengths("group", Discrete(2), [data.numel()])
    sites = torch.arange(data.numel())

    def distance(z: Tensor, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        return x - torch.where(z[:, None] == 0, a, b)

    index = torch.stack([sites, 0 * sites, 0 * sites + 1])
    return FactorGraph(
        [centre, group], [ResidualFactor(("group", "centre", "centre"), "distance", distance, index, (data,))]
    )


def test_mixture() -> None:
    """Centres by marginal MAP are a fixed point of expectation maximisation; labels have its responsibilities."""
    data = torch.cat([normal(9, 40, 1) - 2, normal(10, 60, 1) + 2])
    graph = mixture(data)
    found = minimize(graph, sum_out=("group",))
    centre = found.assignment["centre"]
    fitted = graph.condition(Assignment({"centre": centre}))
    belief = marginals(fitted).beliefs["group"]
    weight = torch.softmax(-0.5 * (data - centre.T).square(), 1)
    torch.testing.assert_close(belief, weight, atol=1e-10, rtol=1e-10)
    again = (weight * data).sum(0) / weight.sum(0)
    torch.testing.assert_close(again, centre[:, 0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.energy, -log_partition(fitted), atol=1e-8, rtol=1e-10)
    draws = sample(fitted, num_samples=2000, generator=torch.Generator().manual_seed(0))
    share = draws.values["group"].double().mean(0)
    assert ((share - weight[:, 1]).abs() < 5 * (weight[:, 1] * weight[:, 0] / 2000).sqrt() + 1e-3).all()


def test_states_of_a_linear_system() -> None:
    """States given measurements are those of a dense solve of the whole system."""
    count = 12
    state = Variables.of_lengths("state", Real(2), [count])
    sites, step = torch.arange(count), torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=NUMBER)
    seen = normal(11, count, 1)
    graph = FactorGraph(
        [state],
        [
            ResidualFactor(
                ("state", "state"),
                "moves",
                lambda a, b: (b - a @ step.T) / 0.2,
                torch.stack([sites[:-1], sites[1:]]),
                linear=True,
            ),
            ResidualFactor(("state",), "seen", lambda a, x: (a[:, :1] - x) / 0.5, sites[None], (seen,), linear=True),
            ResidualFactor(("state",), "start", lambda a: a, sites[None, :1], linear=True),
        ],
    )
    found = marginals(graph)

    def energy(v: Tensor) -> Tensor:
        return graph.energy({"state": v.reshape(count, 2)}).sum()

    origin = torch.zeros(2 * count, dtype=NUMBER)
    curvature = torch.autograd.functional.hessian(energy, origin)
    mean = -torch.linalg.solve(curvature, torch.autograd.functional.jacobian(energy, origin))
    torch.testing.assert_close(found.means["state"], mean.reshape(count, 2), atol=1e-9, rtol=1e-9)
    each = curvature.inverse().reshape(count, 2, count, 2)[sites, :, sites]
    torch.testing.assert_close(found.covariances["state"], each, atol=1e-9, rtol=1e-9)

"""Mixtures of Gaussians: densities, sums, conditionals and draws against dense linear algebra and enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.energies.mixture_fitting import fitted
from ebmstruct.inference.solvers.gaussian_mixture import GaussianMixture

KINDS = ("diagonal", "full", "low_rank")


def mixture(kind: str, *, sites: bool = True, dim: int = 3, components: int = 2) -> es.MixtureEnergy:
    """A mixture with random parameters, in double precision."""
    torch.manual_seed(0)
    model = es.MixtureEnergy(dim, components, covariance=kind, rank=2, sites=sites).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.5)
    return model.requires_grad_()


def dense(model: es.MixtureEnergy) -> tuple[Tensor, Tensor, Tensor]:
    """log shares (K,), means (K, D) and covariances (K, D, D) of a model."""
    graph = model.graph([None])
    (factor,) = [f for f in graph.factors if isinstance(f, es.GaussianFactor)]
    scale = factor.scale.detach()
    whole = scale @ scale.mT if scale.dim() == 3 else torch.diag_embed(scale.square())
    if factor.loading is not None:
        whole = whole + factor.loading.detach() @ factor.loading.detach().mT
    return model.logit.detach().log_softmax(0), model.mean.detach(), whole


def density(model: es.MixtureEnergy, x: Tensor, known: Tensor) -> Tensor:
    """(K,) log share plus the log density of the known coordinates of x (D,), by torch's distribution."""
    share, mean, whole = dense(model)
    if not bool(known.any()):
        return share
    part = torch.distributions.MultivariateNormal(mean[:, known], whole[:, known][:, :, known])
    return share + part.log_prob(x[known])


def conditioned(model: es.MixtureEnergy, x: Tensor, known: Tensor) -> es.FactorGraph:
    """The graph of points (B, D) of which some coordinates are known."""
    graph = model.graph([None] * len(x))
    return graph.condition(es.Assignment({"x": x.reshape(-1, 1)}, known={"x": known.reshape(-1)}))


POINTS = torch.tensor([[0.3, -1.0, 0.7], [1.2, 0.1, -0.4], [0.0, 0.5, 0.2], [-0.3, 0.9, 2.0]], dtype=torch.float64)
KNOWN = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 0, 0]]).bool()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_are_missing_are_summed_out(kind: str) -> None:
    """The log partition is the log density of what is known, its gradient that of differences; 0 with nothing known."""
    model = mixture(kind)
    found = es.log_partition(conditioned(model, POINTS, KNOWN))
    expected = [density(model, x, k).logsumexp(0) for x, k in zip(POINTS, KNOWN, strict=True)]
    torch.testing.assert_close(found.detach(), torch.stack(expected))
    whole = model.graph([None] * 4).condition(es.Assignment({"x": POINTS.reshape(-1, 1)}))
    everything = [density(model, x, k | True).logsumexp(0) for x, k in zip(POINTS, KNOWN, strict=True)]
    torch.testing.assert_close(es.log_partition(whole).detach(), torch.stack(everything))
    (slope,) = torch.autograd.grad(found.sum(), model.mean)
    with torch.no_grad():
        ends = []
        for step in (1e-6, -1e-6):
            model.mean[0, 1] += step
            ends.append(float(es.log_partition(conditioned(model, POINTS, KNOWN)).sum()))
            model.mean[0, 1] -= step
    assert float(slope[0, 1]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_marginals_given_some_coordinates(kind: str) -> None:
    """Beliefs, means and variances are those of the conditional mixture; draws have them; all known, nothing varies."""
    model = mixture(kind)
    graph = conditioned(model, POINTS, KNOWN)
    found = es.marginals(graph)
    _, mean, whole = dense(model)
    for b, (x, k) in enumerate(zip(POINTS, KNOWN, strict=True)):
        weights = torch.softmax(density(model, x, k), 0)
        torch.testing.assert_close(found.beliefs["z"][b], weights)
        first, second = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for share, m, c in zip(weights, mean, whole, strict=True):
            own, variance = x.clone(), torch.zeros(3, dtype=torch.float64)
            gain = c[~k][:, k] @ torch.linalg.inv(c[k][:, k]) if bool(k.any()) else c[~k][:, k]
            own[~k] = m[~k] + gain @ (x[k] - m[k])
            variance[~k] = (c[~k][:, ~k] - gain @ c[k][:, ~k]).diagonal()
            first, second = first + share * own, second + share * (variance + own.square())
        torch.testing.assert_close(found.means["x"].reshape(4, 3)[b], first)
        torch.testing.assert_close(
            found.covariances["x"].reshape(4, 3)[b], second - first.square(), atol=1e-9, rtol=1e-7
        )
    drawn = es.sample(graph, num_samples=4000, generator=torch.Generator().manual_seed(0))
    assert drawn.solver == "gaussian_mixture" and drawn.exact
    assert torch.equal(drawn.values["x"][:, :3, 0], POINTS[0].expand(4000, 3))
    torch.testing.assert_close(drawn.values["x"].mean(0), found.means["x"], atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.values["x"][..., 0].var(0), found.covariances["x"][:, 0, 0], atol=0.15, rtol=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_least_energy(kind: str) -> None:
    """The minimum over component and missing coordinates is no higher than at any draw, and flat where it is smooth."""
    graph = conditioned(mixture(kind), POINTS, KNOWN)
    found = es.minimize(graph)
    assert found.solver == "gaussian_mixture"
    drawn = es.sample(graph, num_samples=500, generator=torch.Generator().manual_seed(1))
    assert bool((found.energy <= drawn.energy + 1e-9).all())
    x = found.assignment["x"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(graph.energy({"x": x, "z": found.assignment["z"]}).sum(), x)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


@pytest.mark.parametrize("sites", [False, True])
def test_temperature_and_constants(sites: bool) -> None:
    """At another temperature the sum is the integral of the power of the density, by quadrature in one dimension."""
    model = mixture("full", sites=sites, dim=1)
    graph = model.graph([None])
    grid = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    many = model.graph([None] * len(grid))
    total = torch.zeros((), dtype=torch.float64)
    for z in range(2):
        energy = many.energy({"x": grid[:, None], "z": torch.full((len(grid),), z)}).detach()
        total = total + torch.trapezoid((-energy / 1.7).exp(), grid)
    assert float(es.log_partition(graph, temperature=1.7).detach()) == pytest.approx(math.log(float(total)), abs=1e-6)


def latent_class(generator: torch.Generator) -> es.FactorGraph:
    """Two instances: z of 3 states, a vector, and 2 columns of 3 states with tables of their own."""
    z = es.Variables.of_lengths("z", es.Discrete(3), [1, 1])
    x = es.Variables.of_lengths("x", es.Real(2), [1, 1])
    c = es.Variables.of_lengths("c", es.Discrete(3), [2, 2])

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]])
    return es.FactorGraph(
        [z, x, c],
        [
            es.GaussianFactor(("z", "x"), "x", normal(3, 2), normal(3, 2).exp()),
            es.TableFactor(("z",), "share", normal(2, 3)),
            es.TableFactor(("c",), "own", normal(4, 3)),
            es.TableFactor(("z", "c"), "columns", normal(4, 3, 3), rows),
        ],
    )


def test_columns_beside_a_vector() -> None:
    """With discrete columns all answers equal those of every component and column listed (conditional Gaussians)."""
    graph = latent_class(torch.Generator().manual_seed(0))
    known = es.Assignment({"c": torch.tensor([1, 0, 2, 2])}, known={"c": torch.tensor([True, False, False, True])})
    for own in (graph, graph.condition(known)):
        mine, other = es.marginals(own, GaussianMixture()), es.marginals(own, es.ConditionalGaussian())
        torch.testing.assert_close(mine.log_partition, other.log_partition)
        for name in ("z", "c"):
            torch.testing.assert_close(mine.beliefs[name], other.beliefs[name])
        torch.testing.assert_close(mine.means["x"], other.means["x"])
        torch.testing.assert_close(mine.covariances["x"], other.covariances["x"])
        drawn = es.sample(own, GaussianMixture(), num_samples=3000, generator=torch.Generator().manual_seed(0))
        shares = torch.nn.functional.one_hot(drawn.values["c"], 3).double().mean(0)
        torch.testing.assert_close(shares, mine.beliefs["c"], atol=0.04, rtol=0)
    whole = es.GaussianMixture().refuse(graph.add(es.BlockFactor(("c",), "f", lambda c, offsets: c)), es.Query())
    assert whole is not None and "BlockFactor" in whole


def test_one_bad_instance() -> None:
    """An instance at NaN is NONFINITE, one without a component left INFEASIBLE, and the others are as they were."""
    graph = mixture("diagonal").graph([None] * 3)
    allowed = torch.tensor([[True, True], [True, True], [False, False]])
    x = torch.tensor([0.1, 0.2, torch.nan, 0.1, 0.2, 0.3, 0.1, 0.2, 0.3], dtype=torch.float64)[:, None]
    for known in ({}, {"x": torch.arange(9) % 3 < 3}, {"x": torch.arange(9) != 8}):
        check_apart(graph.condition(es.Assignment({"x": x}, known, {"z": allowed})))


def check_apart(graph: es.FactorGraph) -> None:
    """The three instances end each in its own way."""
    found = es.marginals(graph, GaussianMixture())
    assert [s.name for s in found.statuses] == ["NONFINITE", "OPTIMAL", "INFEASIBLE"]
    assert bool(found.log_partition[1].isfinite())


@pytest.mark.parametrize("kind", KINDS)
def test_expectation_maximisation_finds_clusters(kind: str) -> None:
    """Rounds of EM find two planted clusters, means and all, and never a component that has shrunk to a point."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randint(0, 2, (400,), generator=generator)
    centres = torch.tensor([[2.0, -1.0, 0.0], [-2.0, 1.0, 1.0]], dtype=torch.float64)
    x = centres[z] + 0.3 * torch.randn(400, 3, generator=generator, dtype=torch.float64)
    x[0, 1] = torch.nan
    x[1:60] = x[1]
    found = fitted(x, 3, kind, 1, rounds=20, floor=1e-3, generator=generator)  # type: ignore[arg-type]
    assert float(torch.cdist(centres, found.mean).amin(1).max()) < 0.2
    assert all(bool(t.isfinite().all()) for t in (found.scale, found.mean, found.log_share))
    model = es.MixtureEnergy(3, 3, covariance=kind, rank=1, em=20).double()  # type: ignore[arg-type]
    graph = model.graph([None] * 400)
    assert model.initialises
    model.initialise(graph, es.Assignment({"x": x.nan_to_num(0.0)}), generator)
    with torch.no_grad():
        held = es.Assignment({"x": x.nan_to_num(0.0)})
        before = float(es.log_partition(es.MixtureEnergy(3, 3).double().graph([None] * 400).condition(held)).mean())
        after = float(es.log_partition(model.graph([None] * 400).condition(held)).mean())
    assert after > before + 2.0

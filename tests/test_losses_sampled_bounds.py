"""Bounded likelihoods: which way each bound points, that it is tight where it should be, and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph import GridFactor
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.learning.losses.partition_bounds import forest_bound, mean_field_bound, spanning_forests
from ebmstruct.testing import random_chain, random_forest
from ebmstruct.testing.mixed import switching_systems
from ebmstruct.testing.small_models import differences, gaussian, gradient, grid, small_rbm

GRAPHS: dict[str, Callable[[torch.Generator], es.FactorGraph]] = {
    "chain": lambda g: random_chain([3, 1, 4], 3, g),
    "constrained chain": lambda g: random_chain([3, 4], 3, g, forbid=0.2),
    "forest": lambda g: random_forest([4, 3, 1], 3, g),
    "grid": lambda g: grid(2, g),
    "rbm": lambda g: small_rbm(2, g),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_target(graph: es.FactorGraph, known: float = 1.0) -> es.Assignment:
    """A draw of the graph made hot, each site known with the given probability."""
    found = es.sample(graph, num_samples=1, temperature=3.0, generator=seeded(1))
    values = {n: v[0] for n, v in found.values.items()}
    if known == 1.0:
        return es.Assignment(values)
    source = seeded(2)
    return es.Assignment(values, known={n: torch.rand(v.shape[0], generator=source) < known for n, v in values.items()})


@pytest.mark.parametrize("maker", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_bounds_hold_log_z_between_them(maker: Callable[[torch.Generator], es.FactorGraph], temperature: float) -> None:
    """Mean field lies below log Z, spanning forests above, tighter after updates, and exact on forests."""
    graph = maker(seeded(0))
    truth = es.log_partition(graph, es.JunctionTree(), temperature=temperature)
    low = mean_field_bound(graph, temperature, None)
    loose, tight = forest_bound(graph, temperature, 0), forest_bound(graph, temperature, 30)
    assert bool((low <= truth + 1e-8).all()) and bool((truth <= tight + 1e-8).all())
    assert bool((tight <= loose + 1e-9).all())
    if spanning_forests(table_view(graph)).shape[0] == 1:
        assert torch.allclose(tight, truth)
    else:
        assert float((tight - truth).sum()) < 0.9 * float((loose - truth).sum())


def test_forests_cover_every_row() -> None:
    """On a grid two forests or more have every pair, each of them without a cycle."""
    view = table_view(grid(2, seeded(0)))
    forests = spanning_forests(view)
    assert forests.any(0).all() and (forests.sum(1) <= view.num_sites - 2).all()


@pytest.mark.parametrize("maker", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("known", [1.0, 0.5])
@pytest.mark.parametrize(
    "loss",
    [es.BoundedLikelihood(updates=0), es.BoundedLikelihood(bound="mean_field", latent_bound="exact", temperature=0.8)],
    ids=["tree_reweighted", "mean_field"],
)
def test_gradients_are_those_of_the_bounds(
    loss: es.BoundedLikelihood, maker: Callable[[torch.Generator], es.FactorGraph], known: float
) -> None:
    """Differences of the bounds themselves; at its optimum mean field does not feel its beliefs move."""
    graph = maker(seeded(0))
    target = drawn_target(graph, known)

    def value(g: es.FactorGraph) -> Tensor:
        return loss(g, target, solver=es.MeanField(tolerance=1e-13, max_iterations=20000)).value

    found, expected = gradient(value, graph), differences(value, graph, every=4)
    asked = ~expected.isnan()
    assert torch.allclose(found[asked], expected[asked], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["grid", "rbm"])
def test_the_upper_bound_of_the_loss(name: str) -> None:
    """With unknown sites forests and variational EM bound -log p from above; mean field with exact sums from below."""
    graph = GRAPHS[name](seeded(0))
    target = drawn_target(graph, 0.5)
    truth = es.NegativeLogLikelihood()(graph, target, solver=es.JunctionTree()).value
    above = es.BoundedLikelihood()(graph, target).value
    below = es.BoundedLikelihood(bound="mean_field", latent_bound="exact")(graph, target).value
    assert bool((above >= truth - 1e-8).all()) and bool((below <= truth + 1e-8).all())


@pytest.mark.parametrize("name", ["chain", "grid", "rbm"])
@pytest.mark.parametrize("known", [1.0, 0.5])
def test_annealed_estimates(name: str, known: float) -> None:
    """The value lies within 0.1 of -log p, and the mean of 8 gradients near the exact one."""
    graph = GRAPHS[name](seeded(0))
    target = drawn_target(graph, known)
    bound = "annealed_importance_sampling"
    loss = es.BoundedLikelihood(bound=bound, latent_bound=bound, particles=200)
    source = seeded(3)
    truth = es.NegativeLogLikelihood()(graph, target, solver=es.JunctionTree()).value
    assert torch.allclose(loss(graph, target, generator=source).value, truth, atol=0.1)
    exact = gradient(lambda g: es.NegativeLogLikelihood()(g, target, solver=es.JunctionTree()).value, graph)
    draws = torch.stack([gradient(lambda g: loss(g, target, generator=source).value, graph) for _ in range(8)])
    spread = draws.std(0) / 8**0.5
    assert bool(((draws.mean(0) - exact).abs() <= 5 * spread + 0.02).all())


def test_annealed_gaussians() -> None:
    """Real blocks: value and gradient near those of the exact likelihood."""
    graph = gaussian([2, 3], torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    target = es.Assignment({"x": torch.randn(5, 1, generator=seeded(2), dtype=torch.float64)})
    loss = es.BoundedLikelihood(bound="annealed_importance_sampling", particles=32)
    truth = es.NegativeLogLikelihood()(graph, target).value
    assert torch.allclose(loss(graph, target).value, truth, atol=0.2)
    exact = gradient(lambda g: es.NegativeLogLikelihood()(g, target).value, graph)
    assert torch.allclose(gradient(lambda g: loss(g, target).value, graph), exact, atol=0.4)


def test_hidden_states_of_a_mixed_graph() -> None:
    """Points known and modes hidden: the clamped phase is one of tables, bounded by mean field, near the exact sum."""
    made = switching_systems(2, 3, 2, seeded(0))
    target = es.Assignment({"x": made.y})
    bound = "annealed_importance_sampling"
    solver = es.AnnealedImportanceSampling(particles=8, temperatures=20, base_scale=1.0)
    by_field = es.BoundedLikelihood(bound=bound)(made.graph, target, solver=solver)
    exact = es.BoundedLikelihood(bound=bound, latent_bound="exact")(made.graph, target, solver=solver)
    assert bool((by_field.correct >= exact.correct - 1e-9).all())
    assert torch.allclose(by_field.correct, exact.correct, atol=0.5)


def test_grids_of_potts_models() -> None:
    """The factor for images: bounds on both sides of log Z for two pictures of unlike size."""
    right = torch.full((12 + 6,), 0.8, dtype=torch.float64)
    table = 1.0 - torch.eye(3, dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(3), [12, 6])
    unary = es.TableFactor(("y",), "unary", torch.randn(18, 3, generator=seeded(0), dtype=torch.float64))
    pictures = GridFactor(("y",), "grid", table, right, right, torch.tensor([4, 3]))
    graph = es.FactorGraph([block], [unary, pictures])
    truth = es.log_partition(graph, es.JunctionTree())
    assert bool((mean_field_bound(graph, 1.0, None) <= truth).all()) and bool(
        (forest_bound(graph, 1.0, 10) >= truth).all()
    )


def test_refusals() -> None:
    """Bounds of tables do not take points, nor forests rows of three sites; options are held to their ranges."""
    graph = gaussian([2], torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    target = es.Assignment({"x": torch.zeros(2, 1, dtype=torch.float64)})
    for bound in ("mean_field", "tree_reweighted"):
        with pytest.raises(es.LossRefusal, match="needs discrete variables"):
            es.BoundedLikelihood(bound=bound)(graph, target)
    block = es.Variables.of_lengths("y", es.Discrete(2), [3])
    triple = es.TableFactor(("y", "y", "y"), "triple", torch.zeros(1, 2, 2, 2), torch.tensor([[0], [1], [2]]))
    with pytest.raises(es.LossRefusal, match="rows of 3 sites"):
        es.BoundedLikelihood()(
            es.FactorGraph([block], [triple]), es.Assignment({"y": torch.zeros(3, dtype=torch.long)})
        )
    with pytest.raises(ValueError, match="particles"):
        es.BoundedLikelihood(particles=1)

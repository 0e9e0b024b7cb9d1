"""Losses by samples against exact gradients: contrastive divergence, sampled likelihood, expectation maximisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.inference.sampling.table_sweeps import TableSweeps
from ebmstruct.learning.losses.chains import Walk, draw_energies, walked
from ebmstruct.testing import oracle, random_chain, random_forest
from ebmstruct.testing.mixed import switching_systems
from ebmstruct.testing.small_models import differences, gaussian, gradient, grid, rbm, small_rbm

TABLES: dict[str, Callable[[torch.Generator], es.FactorGraph]] = {
    "chain": lambda g: random_chain([3, 1, 4], 3, g),
    "constrained chain": lambda g: random_chain([3, 4], 3, g, forbid=0.2),
    "forest": lambda g: random_forest([4, 3, 1], 3, g),
    "grid": lambda g: grid(2, g),
    "rbm": lambda g: small_rbm(2, g),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_target(graph: es.FactorGraph, seed: int, known: float = 1.0) -> es.Assignment:
    """A draw of the graph made hot, each site known with the given probability."""
    found = es.sample(graph, num_samples=1, temperature=3.0, generator=seeded(seed))
    values = {n: v[0] for n, v in found.values.items()}
    if known == 1.0:
        return es.Assignment(values)
    source = seeded(seed + 1)
    return es.Assignment(values, known={n: torch.rand(v.shape[0], generator=source) < known for n, v in values.items()})


def within_errors(draws: Tensor, exact: Tensor, errors: float = 4.0) -> None:
    """Means of rows of ``draws`` lie within standard errors of ``exact``; what is rarer than 1 in 500 may not be met."""
    spread = draws.std(0) / draws.shape[0] ** 0.5
    assert bool(((draws.mean(0) - exact).abs() <= errors * spread + 2e-3).all())


@pytest.mark.parametrize("maker", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("known", [1.0, 0.4])
def test_sweeps_leave_the_model_as_it_is(maker: Callable[[torch.Generator], es.FactorGraph], known: float) -> None:
    """Shares of states after 60 sweeps of 4000 chains are the marginals by enumeration, also with evidence."""
    graph = maker(seeded(0))
    if known < 1.0:
        graph = graph.condition(drawn_target(graph, 1, known))
    count = 4000
    start = es.sample(graph, num_samples=1, generator=seeded(2)).values
    begin = {n: v.expand(count, -1) for n, v in start.items()}
    found = TableSweeps.of(graph).run(begin, 60, 1.0, seeded(3))
    for b, truth in enumerate(oracle(graph)):
        at = 0
        for name, block in graph.variables.items():
            for site in range(int(block.offsets[b]), int(block.offsets[b + 1])):
                for state in range(int(block.state_counts[site])):
                    p = min(1.0, truth.marginal(at, state))
                    share = float((found[name][:, site] == state).double().mean())
                    assert abs(share - p) <= 4.5 * (p * (1 - p) / count) ** 0.5 + 1e-9
                at += 1


def test_instances_that_are_alike_become_lanes() -> None:
    """Unlike energies of single sites and unlike evidence do not keep instances from being lanes of one layout."""
    graph = random_chain([3, 3], 3, seeded(0))
    assert TableSweeps.of(graph).layout.alike
    assert not TableSweeps.of(random_chain([3, 4], 3, seeded(0))).layout.alike
    assert not TableSweeps.of(grid(2, seeded(0))).layout.alike  # each has pair tables of its own
    machine = small_rbm(3, seeded(1))
    held = machine.condition(es.Assignment({"v": torch.ones(12, dtype=torch.long)}))
    assert TableSweeps.of(machine).layout.alike and TableSweeps.of(held).independent
    assert not TableSweeps.of(machine).independent


@pytest.mark.parametrize("maker", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("known", [1.0, 0.5])
def test_gradient_of_contrastive_divergence(maker: Callable[[torch.Generator], es.FactorGraph], known: float) -> None:
    """With its negatives as they are, the gradient equals finite differences: chains of states do not move with 1e-6."""
    graph = maker(seeded(0))
    target = drawn_target(graph, 1, known)
    loss = es.ContrastiveDivergence(steps=3, chains=2, temperature=0.8, energy_decay=0.1)

    def value(g: es.FactorGraph) -> Tensor:
        return loss(g, target, generator=seeded(5)).value

    found, expected = gradient(value, graph), differences(value, graph)
    asked = ~expected.isnan()
    assert torch.allclose(found[asked], expected[asked], rtol=1e-4, atol=1e-6)


def model_gradient(graph: es.FactorGraph, target: es.Assignment, temperature: float = 1.0) -> Tensor:
    """The exact gradient of -log p(target)."""
    loss = es.NegativeLogLikelihood(temperature=temperature)
    return gradient(lambda g: loss(g, target, solver=es.JunctionTree()).value, graph)


@pytest.mark.parametrize("maker", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("known", [1.0, 0.5])
def test_sampled_likelihood_has_the_gradient_of_the_likelihood(
    maker: Callable[[torch.Generator], es.FactorGraph], known: float
) -> None:
    """The mean of 40 gradients is that of the exact likelihood within 4 standard errors."""
    graph = maker(seeded(0))
    target = drawn_target(graph, 1, known)
    loss = es.SampledLikelihood(samples=100)
    source = seeded(5)
    draws = [gradient(lambda g: loss(g, target, generator=source).value, graph) for _ in range(40)]
    within_errors(torch.stack(draws), model_gradient(graph, target))


def test_longer_chains_have_less_bias() -> None:
    """On a chain with strong ties the distance of CD-k's mean gradient from the likelihood's falls with k."""
    table = torch.tensor([[0.0, 1.5], [1.5, 0.0]], dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(2), [6])
    unary = torch.tensor([[0.0, 0.3]], dtype=torch.float64).repeat(6, 1)
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "unary", unary), es.ChainFactor(("y",), "pair", table)])
    target = es.Assignment({"y": torch.zeros(6, dtype=torch.long)})
    exact = model_gradient(graph, target)
    bias = []
    for steps in (1, 4, 16, 64):
        loss = es.ContrastiveDivergence(steps=steps, chains=20000)
        found = gradient(lambda g, own=loss: own(g, target, generator=seeded(1)).value, graph)
        bias.append(float((found - exact).norm() / exact.norm()))
    assert bias[0] > 2 * bias[1] > 3 * bias[2] and bias[3] < 0.03


def test_persistent_chains_reach_the_gradient_of_the_likelihood() -> None:
    """After 100 steps at fixed weights the mean gradient of persistent chains is exact; they began at noise."""
    graph = small_rbm(2, seeded(0))
    target = es.Assignment({"v": drawn_target(graph, 1)["v"]})
    loss = es.PersistentContrastiveDivergence(steps=2, chains=50, size=200, reinitialise=0.0)
    source, state, draws = seeded(3), None, []
    for step in range(400):
        found = loss(graph, target, generator=source, state=state)
        state = found.state
        if step >= 100 and step % 4 == 0:
            last, own = state, seeded(1000 + step)
            draws.append(gradient(lambda g, s=last, o=own: loss(g, target, generator=o, state=s).value, graph))
    within_errors(torch.stack(draws), model_gradient(graph, target), 5.0)


def test_gaussian_chains() -> None:
    """Langevin chains of a Gaussian: the mean gradient of long runs is that of the exact likelihood."""
    source = seeded(2)
    graph = gaussian([2, 3], torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    target = es.Assignment({"x": torch.randn(5, 1, generator=source, dtype=torch.float64)})
    exact = gradient(lambda g: es.NegativeLogLikelihood()(g, target).value, graph)
    for loss, errors in (
        (es.SampledLikelihood(samples=400), 4.0),
        (es.ContrastiveDivergence(steps=60, chains=100, sampler="mala", step_size=0.3), 4.0),
        (es.ContrastiveDivergence(steps=300, chains=100, step_size=0.02), 4.5),
    ):
        draws = [gradient(lambda g, o=loss: o(g, target, generator=source).value, graph) for _ in range(12)]
        within_errors(torch.stack(draws), exact, errors)


def test_gaussian_latents() -> None:
    """Points that the target does not know are drawn given it, exactly: the mean gradient is the marginal likelihood's."""
    source = seeded(2)
    graph = gaussian([3, 3], torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    known = torch.tensor([True, False, True, False, True, False])
    target = es.Assignment({"x": torch.randn(6, 1, generator=source, dtype=torch.float64)}, known={"x": known})
    exact = gradient(lambda g: es.NegativeLogLikelihood()(g, target).value, graph)
    for loss in (
        es.SampledLikelihood(samples=400),
        es.ContrastiveDivergence(steps=60, chains=100, sampler="mala", step_size=0.3),
    ):
        draws = [gradient(lambda g, o=loss: o(g, target, generator=source).value, graph) for _ in range(12)]
        within_errors(torch.stack(draws), exact, 4.5)


def test_negatives_of_points_count_as_given() -> None:
    """The gradient is E(target) - E(negative) with the negative held: those that the same noise leads to."""
    graph = gaussian([2, 2], torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    target = es.Assignment({"x": torch.tensor([[0.5], [1.0], [-1.0], [0.2]], dtype=torch.float64)})
    loss = es.ContrastiveDivergence(steps=4, chains=3)
    found = gradient(lambda g: loss(g, target, generator=seeded(7)).value, graph)
    begin = {"x": target["x"].expand(3, 4, 1)}
    negative = walked(graph, begin, 4, Walk(), temperature=1.0, generator=seeded(7))
    by_hand = gradient(lambda g: g.energy(target) - draw_energies(g, negative).mean(0), graph)
    assert torch.allclose(found, by_hand, rtol=1e-10)


@pytest.mark.parametrize("hidden", [(), ("mode",), ("x",), ("mode", "x")])
def test_mixed_graphs(hidden: tuple[str, ...]) -> None:
    """States and points in one graph: known, or hidden, each kind; values are finite and gradients flow."""
    made = switching_systems(2, 3, 2, seeded(0))
    states = torch.randint(2, (6,), generator=seeded(1))
    whole = {"x": made.y.clone(), "mode": states}
    target = es.Assignment({n: v for n, v in whole.items() if n not in hidden})
    for loss in (
        es.ContrastiveDivergence(steps=2, chains=3, step_size=0.05),
        es.PersistentContrastiveDivergence(steps=2, chains=3, size=30, step_size=0.05),
    ):
        found = gradient(lambda g, o=loss: o(g, target, generator=seeded(2)).value, made.graph)
        assert bool(found.isfinite().all()) and float(found.abs().sum()) > 0


def test_mixed_gradient_in_the_mean() -> None:
    """Two Gaussians, x given z about m_z: with z hidden the mean gradient is that of the mixture's -log p by hand.

    -log p(x) = log sum_z exp(-u_z) - log sum_z exp(-u_z - 0.5 ((x - m_z) / 0.7)^2), up to a constant.
    """
    x = es.Variables.of_lengths("x", es.Real(1), [1, 1])
    z = es.Variables.of_lengths("z", es.Discrete(2), [1, 1])
    seen = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    each = torch.arange(2)
    middles = torch.tensor([[-0.6, 0.8], [-0.6, 0.8]], dtype=torch.float64)
    prices = torch.tensor([[0.0, 0.5], [0.0, 0.5]], dtype=torch.float64)

    def apart(point: Tensor, state: Tensor, middle: Tensor) -> Tensor:
        return (point - middle.gather(1, state[:, None])) / 0.7

    def graph_of(m: Tensor, u: Tensor) -> es.FactorGraph:
        pull = es.ResidualFactor(("x", "z"), "pull", apart, torch.stack([each, each]), (m,), linear=True)
        return es.FactorGraph([x, z], [es.TableFactor(("z",), "price", u), pull])

    m, u = middles.clone().requires_grad_(), prices.clone().requires_grad_()
    inside = torch.logsumexp(-u - 0.5 * ((seen - m) / 0.7).square(), 1)
    exact = torch.autograd.grad((torch.logsumexp(-u, 1) - inside).sum(), (u, m))
    target = es.Assignment({"x": seen})
    for loss in (
        es.ContrastiveDivergence(steps=60, chains=100, step_size=0.4),
        es.SampledLikelihood(samples=400),
    ):
        draws = []
        for seed in range(8):
            own = seeded(seed)
            draws.append(gradient(lambda g, o=loss, s=own: o(g, target, generator=s).value, graph_of(middles, prices)))
        within_errors(torch.stack(draws), torch.cat([e.reshape(-1) for e in exact]), 5.0)


@pytest.mark.parametrize("name", ["rbm", "forest", "grid"])
def test_expectation_maximisation_is_the_likelihood_at_a_refresh(name: str) -> None:
    """Independent hidden sites: value and gradient are those of -log p. Others: the gradient in the mean."""
    graph = TABLES[name](seeded(0))
    exact_solver = es.JunctionTree()
    target = es.Assignment({"v": drawn_target(graph, 1)["v"]}) if name == "rbm" else drawn_target(graph, 1, 0.5)
    loss = es.ExpectationMaximisation(samples=200, free="exact")
    truth = es.NegativeLogLikelihood()(graph, target, solver=exact_solver).value
    if name == "rbm":
        assert torch.allclose(loss(graph, target, solver=exact_solver).value, truth)
        found = gradient(lambda g: loss(g, target, solver=exact_solver).value, graph)
        assert torch.allclose(found, model_gradient(graph, target), atol=1e-9)
        return
    source = seeded(3)
    draws = [gradient(lambda g: loss(g, target, generator=source, solver=exact_solver).value, graph) for _ in range(20)]
    within_errors(torch.stack(draws), model_gradient(graph, target))


def test_posteriors_are_kept_for_some_visits() -> None:
    """With refresh 3 two visits after the first reuse the posterior, whatever the weights; the bound is above -log p."""
    weights = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    bias = torch.zeros(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    first, second = rbm(2, weights, *bias), rbm(2, -weights, *bias)
    target = es.Assignment({"v": torch.tensor([1, 0, 1, 1, 0, 0, 1, 0])})
    loss = es.ExpectationMaximisation(refresh=3)
    state, gaps = None, []
    for graph in (first, second, second, second):
        found = loss(graph, target, state=state, examples=[7, 3])
        state = found.state
        gaps.append(
            (found.value - es.NegativeLogLikelihood()(graph, target, solver=es.JunctionTree()).value).min().item()
        )
    assert abs(gaps[0]) < 1e-9 and min(gaps[1], gaps[2]) > 0.1 and abs(gaps[3]) < 1e-9
    assert set(state["visits"]) == {3, 7}


def test_refusals_name_the_cause() -> None:
    """What no sampler takes, and terms through the sampler on states, are refused in a sentence."""
    graph = TABLES["chain"](seeded(0))
    target = drawn_target(graph, 1)
    with pytest.raises(es.LossRefusal, match="discrete, and gradients flow"):
        es.ContrastiveDivergence(sampler_gradient=1.0)(graph, target)
    with pytest.raises(es.LossRefusal, match="langevin does not take"):
        es.ContrastiveDivergence(sampler="langevin")(graph, target)
    with pytest.raises(es.LossRefusal, match="numbers of these instances are not known"):
        es.PersistentContrastiveDivergence(chains=2)(graph, target)
    with pytest.raises(es.LossRefusal, match="all have the same sizes"):
        es.PersistentContrastiveDivergence(buffer="shared")(graph, target)
    with pytest.raises(ValueError, match="reinitialise"):
        es.PersistentContrastiveDivergence(reinitialise=1.5)
    with pytest.raises(ValueError, match="sampler_gradient_steps"):
        es.ContrastiveDivergence(steps=2, sampler_gradient_steps=3)


def test_a_target_of_infinite_energy_has_an_infinite_loss() -> None:
    """Of a batch the instance whose target is forbidden has an infinite loss, and the other a finite one."""
    banned = torch.tensor([[0.0, torch.inf], [0.0, 0.0]], dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(2), [2, 2])
    graph = es.FactorGraph([block], [es.ChainFactor(("y",), "chain", banned)])
    target = es.Assignment({"y": torch.tensor([0, 1, 1, 0])})
    for loss in (
        es.ContrastiveDivergence(steps=3),
        es.PersistentContrastiveDivergence(size=10),
        es.SampledLikelihood(),
        es.BoundedLikelihood(),
    ):
        value = loss(graph, target).value
        assert bool(torch.isposinf(value[0])) and bool(value[1].isfinite()), loss.name
    longer = es.Variables.of_lengths("y", es.Discrete(2), [3, 3])
    graph = es.FactorGraph(
        [longer], [es.ChainFactor(("y",), "chain", banned.index_fill(1, torch.tensor([0]), torch.inf))]
    )
    known = torch.tensor([True, False, True, False, True, False])
    target = es.Assignment({"y": torch.tensor([0, 0, 1, 1, 1, 1])}, known={"y": known})
    for other in (
        es.SampledLikelihood(),
        es.ExpectationMaximisation(),
        es.BoundedLikelihood(),
        es.ContrastiveDivergence(),
    ):
        value = other(graph, target).value
        assert bool(torch.isposinf(value[0])) and bool(value[1].isfinite()), other.name


def test_an_energy_without_tables() -> None:
    """A function of whole blocks: Gibbs with gradients walks, hidden units given the visible ones too."""
    weight = torch.randn(4, 3, generator=seeded(0), dtype=torch.float64)

    def energy(v: Tensor, h: Tensor, w: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return -torch.einsum("bi,bij,bj->b", v.reshape(-1, 4).double(), w, h.reshape(-1, 3).double())

    v = es.Variables.of_lengths("v", es.Discrete(2), [4, 4])
    h = es.Variables.of_lengths("h", es.Discrete(2), [3, 3])
    inputs = (weight.expand(2, 4, 3).clone().requires_grad_(),)
    graph = es.FactorGraph([v, h], [es.BlockFactor(("v", "h"), "machine", energy, inputs)])
    target = es.Assignment({"v": torch.tensor([1, 0, 1, 1, 0, 0, 1, 0])})
    exact = rbm(2, weight, torch.zeros(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    truth = -model_gradient(exact, target).reshape(-1)[-48:].reshape(12, 4)[:, 3].reshape(4, 3)
    loss = es.ContrastiveDivergence(steps=150, chains=300, latent_steps=80)
    source, draws = seeded(1), []
    for _ in range(4):
        value = loss(graph, target, generator=source).value.sum()
        draws.append(torch.autograd.grad(value, inputs)[0].sum(0))
    assert torch.allclose(torch.stack(draws).mean(0), truth, atol=0.12)

"""Noise-contrastive estimation: its noise, its value by hand, gradients, latent sites, and the models that made data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.learning.checkpoint import load_tree, save_tree
from ebmstruct.learning.losses.noise import Noise, draw_states, perturb
from ebmstruct.learning.losses.noise_statistics import covariance, updated
from ebmstruct.learning.losses.output_energy import OutputEnergy
from ebmstruct.testing import random_segments

F64 = torch.float64
LOSSES = {
    "ranking": es.NoiseContrastiveEstimation(samples=4),
    "ranking fitted": es.NoiseContrastiveEstimation(samples=4, noise="fitted"),
    "ranking uniform": es.NoiseContrastiveEstimation(samples=4, noise="uniform"),
    "binary": es.NoiseContrastiveEstimation(form="binary", samples=4),
    "conditional": es.NoiseContrastiveEstimation(form="conditional", samples=4, flip=0.3),
    "conditional fitted": es.NoiseContrastiveEstimation(form="conditional", noise="fitted", samples=4),
}


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def ising(field: Tensor, coupling: Tensor, batch: int, constant: Tensor | None = None) -> es.FactorGraph:
    """Binary sites with fields (n,) and couplings (pairs,) of all pairs, the same for each instance."""
    n = field.numel()
    block = es.Variables.of_lengths("y", es.Discrete(2), [n] * batch)
    first, second = torch.triu_indices(n, n, 1)
    shift = n * torch.arange(batch)[:, None]
    index = torch.stack([(first + shift).reshape(-1), (second + shift).reshape(-1)])
    unary = torch.stack([torch.zeros_like(field), field], 1).repeat(batch, 1)
    agree = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=F64)
    tables = (coupling[:, None, None] * agree).repeat(batch, 1, 1)
    factors = [es.TableFactor(("y",), "field", unary), es.TableFactor(("y", "y"), "pair", tables, index=index)]
    return es.FactorGraph([block], factors, constant=None if constant is None else constant.expand(batch))


def mixed(w: Tensor, lengths: list[int], *, latent: bool = False, bound: float | None = None) -> es.FactorGraph:
    """Labels in a chain, with points that they pull; with ``latent`` also a hidden state that each label speaks to."""
    y = es.Variables.of_lengths("y", es.Discrete(3), lengths)
    z = es.Variables.of_lengths("z", es.Real(2, None if bound is None else -bound, bound), lengths)
    n = y.num_sites
    sites = torch.arange(n)
    factors: list[es.Factor] = [
        es.ChainFactor(("y",), "chain", w[0] * torch.eye(3, dtype=F64)),
        es.ResidualFactor(
            ("z", "y"),
            "pull",
            lambda p, s, v: (p - s[:, None]) * v,
            torch.stack([sites, sites]),
            (w[1].expand(n, 1),),
            linear=True,
        ),
    ]
    blocks = [y, z]
    if latent:
        blocks.append(es.Variables.of_lengths("h", es.Discrete(2), lengths))
        tie = w[2] * torch.tensor([[0.0, 1.0, 2.0], [1.5, 0.0, 0.5]], dtype=F64)
        factors.append(es.TableFactor(("h", "y"), "tie", tie, index=torch.stack([sites, sites])))
    return es.FactorGraph(blocks, factors)


def target_of(lengths: list[int], seed: int = 0) -> es.Assignment:
    """A random target of ``mixed``, its hidden states unknown."""
    n = sum(lengths)
    return es.Assignment({"y": torch.randint(3, (n,), generator=seeded(seed)), "z": normal(n, 2, seed=seed)})


@pytest.mark.parametrize("latent", [False, True], ids=["known", "latent"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_gradient_equals_finite_differences(loss: es.NoiseContrastiveEstimation, latent: bool) -> None:
    """Autograd agrees with central differences, the noise being the same."""
    start = torch.tensor([0.5, 1.2, 0.8], dtype=F64)
    target = target_of([3, 0, 2])
    bound = 5.0 if loss.noise == "uniform" else None

    def value(w: Tensor) -> Tensor:
        return loss(mixed(w, [3, 0, 2], latent=latent, bound=bound), target, generator=seeded(4)).value.sum()

    leaf = start.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(leaf), leaf)
    for i in range(3):
        step = 1e-6 * torch.nn.functional.one_hot(torch.tensor(i), 3)
        numeric = float(value(start + step) - value(start - step)) / 2e-6
        assert float(found[i]) == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_latent_sites_are_summed_out() -> None:
    """With hidden states the value is that of the graph in which their free energy stands as a table of the labels."""
    w = torch.tensor([0.5, 1.2, 0.8], dtype=F64)
    target = target_of([3, 2])
    tie = w[2] * torch.tensor([[0.0, 1.0, 2.0], [1.5, 0.0, 0.5]], dtype=F64)
    for loss in LOSSES.values():
        bound = 5.0 if loss.noise == "uniform" else None
        summed = mixed(w, [3, 2], bound=bound)
        summed = summed.add(es.TableFactor(("y",), "free", -(-tie).logsumexp(0).expand(5, 3)))
        own = loss(mixed(w, [3, 2], latent=True, bound=bound), target, generator=seeded(1)).value
        assert own.tolist() == pytest.approx(loss(summed, target, generator=seeded(1)).value.tolist(), rel=1e-10)


@pytest.mark.parametrize("kind", ["chain", "segments"])
def test_partly_known_sites(kind: str) -> None:
    """Where some labels of a chain are not known, the energy of the others is minus the log partition of the rest."""
    if kind == "chain":
        graph = es.FactorGraph(
            [es.Variables.of_lengths("y", es.Discrete(3), [4, 2])], [es.ChainFactor(("y",), "c", normal(3, 3, seed=2))]
        )
    else:
        graph = random_segments([4, 2], 2, 3, seeded(2))
    known = torch.tensor([True, False, True, False, False, True])
    drawn = es.sample(graph, num_samples=1, generator=seeded(3)).values["y"][0]
    target = es.Assignment({"y": torch.where(known, drawn, 9)}, known={"y": known})
    energy = OutputEnergy.of(graph, target, 0.7)
    assert energy.refuse(target) is None
    conditioned = graph.condition(es.Assignment({"y": torch.where(known, target["y"], 0)}, known={"y": known}))
    expected = -0.7 * es.log_partition(conditioned, temperature=0.7)
    assert torch.allclose(energy(energy.values(target)), expected)
    loss = es.NoiseContrastiveEstimation(temperature=0.7, samples=3)
    assert bool(loss(graph, target).value.isfinite().all())


def test_values_by_hand() -> None:
    """One site of two states under uniform noise: w = -E + log 2 for each, and the formulas of the docstring."""
    energy = torch.tensor([[0.3, 1.1]], dtype=F64)
    block = es.Variables.of_lengths("y", es.Discrete(2), [1])
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "t", energy)])
    target = es.Assignment({"y": torch.tensor([1])})
    loss = es.NoiseContrastiveEstimation(noise="uniform", samples=3)
    w = -energy[0] + math.log(2.0)
    noise = Noise(OutputEnergy.of(graph, target), {}, "uniform").draw(target.values, 3, seeded(9))["y"]
    drawn = w[noise]
    ranking = torch.logsumexp(torch.cat([w[1:], drawn]), 0) - w[1]
    binary = math.log1p(math.exp(math.log(3) - w[1])) + (drawn - math.log(3)).exp().log1p().sum()
    conditional = (drawn - w[1]).exp().log1p().mean()
    for form, value in (("ranking", ranking), ("binary", binary), ("conditional", conditional)):
        found = dataclasses.replace(loss, form=form)(graph, target, generator=seeded(9)).value  # type: ignore[arg-type]
        assert float(found) == pytest.approx(float(value), rel=1e-12)


def test_noise_has_the_density_that_it_states() -> None:
    """Draws of a block of three states come with their stated frequencies; the Gaussian's density is torch's own."""
    lengths = [2] * 50
    graph = mixed(torch.ones(3, dtype=F64), lengths)
    target = target_of(lengths)
    energy = OutputEnergy.of(graph, target)
    statistics = {n: updated(graph.variables[n], target[n], energy.outputs[n], None) for n in ("y", "z")}
    noise = Noise(energy, statistics, "fitted")
    drawn = noise.draw(target.values, 200, seeded(1))
    for place in range(2):  # sites are told apart by their place, all instances having two
        counts = torch.bincount(target["y"][place::2], minlength=3) + 1.0
        share = torch.bincount(drawn["y"][place::2], minlength=3) / 10000
        assert share.tolist() == pytest.approx((counts / counts.sum()).tolist(), abs=0.02)
        assert drawn["z"][place::2].mean(0).tolist() == pytest.approx(target["z"][place::2].mean(0).tolist(), abs=0.05)
    log = noise.log_density(drawn, 200)
    expected = torch.zeros(200 * 50, dtype=F64)
    for place in range(2):
        spread = torch.distributions.MultivariateNormal(
            statistics["z"]["mean"][place], covariance(statistics["z"])[place]
        )
        counts = statistics["y"]["counts"][place] + 1
        expected += spread.log_prob(drawn["z"][place::2]) + (counts / counts.sum()).log()[drawn["y"][place::2]]
    assert torch.allclose(log, expected)


def test_statistics_of_batches_are_those_of_all() -> None:
    """Counts, means and covariances after three batches are those of their union; places merge when sizes differ."""
    parts = [target_of([2] * k, seed=k) for k in (3, 5, 1)]
    held: dict[str, Mapping[str, Tensor] | None] = {"y": None, "z": None}
    for k, part in zip((3, 5, 1), parts, strict=True):
        graph = mixed(torch.ones(3, dtype=F64), [2] * k)
        for name in held:
            mask = torch.ones(2 * k, dtype=torch.bool)
            held[name] = updated(graph.variables[name], part[name], mask, held[name])
    z = torch.cat([p["z"] for p in parts])
    y = torch.cat([p["y"] for p in parts])
    assert held["z"] is not None and held["y"] is not None
    for place in range(2):
        assert torch.allclose(held["z"]["scatter"][place] / 9, torch.cov(z[place::2].T, correction=0))
        assert held["y"]["counts"][place].tolist() == torch.bincount(y[place::2], minlength=3).tolist()
    odd = target_of([1, 3], seed=9)
    graph = mixed(torch.ones(3, dtype=F64), [1, 3])
    whole = updated(graph.variables["z"], odd["z"], torch.ones(4, dtype=torch.bool), held["z"])
    everything = torch.cat([z, odd["z"]])
    assert whole["count"].tolist() == [22.0]
    assert torch.allclose(whole["mean"][0], everything.mean(0))
    assert torch.allclose(whole["scatter"][0] / 22, torch.cov(everything.T, correction=0))


def test_perturbations_are_as_likely_back_as_forth() -> None:
    """Flips change the stated number of sites, to each other state alike; steps stay inside bounds, and are symmetric."""
    y = es.Variables.of_lengths("y", es.Discrete(torch.tensor([3, 2, 3, 1, 3, 3])), [5, 1])
    x = es.Variables.of_lengths("x", es.Real(1, 0.0, 1.0), [1, 1])
    graph = es.FactorGraph([y, x], [])
    values = {"y": torch.tensor([0, 1, 2, 0, 1, 2]), "x": torch.tensor([[0.1], [0.8]], dtype=F64)}
    energy = OutputEnergy.of(graph, es.Assignment(values))
    statistics = {"x": {"count": torch.ones(1), "mean": torch.zeros(1, 1), "scatter": torch.ones(1, 1)}}
    moved = perturb(energy, values, 8000, seeded(1), flip=0.4, sigma=0.9, statistics=statistics)
    states, points = moved["y"].reshape(8000, 6), moved["x"].reshape(8000, 2)
    changed, moves = states != values["y"], points != values["x"].T
    flips = changed[:, :5].sum(1)
    assert set(flips.tolist()) == {0, 1, 2, 3} and not bool(changed[:, 3].any())
    assert bool(((flips > 0) | moves[:, 0]).all()) and bool((changed[:, 5] | moves[:, 1]).all())
    # of two coins, neither of which may leave all blocks where they are: 3/8 flips alone, 3/8 moves alone, 1/4 both
    both = ((flips > 0) & moves[:, 0]).double().mean().item()
    assert both == pytest.approx(0.25, abs=0.03)
    flipping = flips > 0
    share = changed[flipping][:, :5].double().mean(0)
    assert share[[0, 1, 2, 4]].tolist() == pytest.approx([0.5] * 4, abs=0.03)
    assert (states[flipping][:, 0] == 1).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert bool(((points >= 0) & (points <= 1)).all())
    # the kernel from 0.1 to near 0.8 and from 0.8 to near 0.1 has one density
    forth = ((points[:, 0] - 0.8).abs() < 0.1).double().mean()
    back = ((points[:, 1] - 0.1).abs() < 0.1).double().mean()
    assert abs(float(forth - back)) < 0.03 and float(forth) > 0.07


def test_ranking_by_neighbours_is_least_at_the_truth() -> None:
    """With the target drawn from the model, each of the S + 1 neighbours of the centre is the target as its weight says.

    By enumeration over 3 spins, 40,000 draws: the mean of the gradient by every field is 0 within four standard errors.
    """
    field, coupling = 0.6 * normal(3, seed=3), 0.5 * normal(3, seed=4)
    states = torch.cartesian_prod(*[torch.arange(2)] * 3)
    energies = ising(field, coupling, 8).energy({"y": states.reshape(-1)})
    n = 40000
    y = states[torch.multinomial((-energies).softmax(0), n, True, generator=seeded(5))]
    own = field.expand(n, 3).clone().requires_grad_()
    block = es.Variables.of_lengths("y", es.Discrete(2), [3] * n)
    unary = torch.stack([torch.zeros(3 * n, dtype=F64), own.reshape(-1)], 1)
    graph = ising(field, coupling, n)
    graph = es.FactorGraph([block], [es.TableFactor(("y",), "own", unary), graph.factors[1]])
    loss = es.NoiseContrastiveEstimation(samples=2, flip=0.5)
    value = loss(graph, es.Assignment({"y": y.reshape(-1)}), generator=seeded(7)).value
    (gradient,) = torch.autograd.grad(value.sum(), own)
    assert bool((gradient.mean(0).abs() <= 4 * gradient.std(0) / math.sqrt(n)).all())


@pytest.mark.parametrize("form", ["ranking", "conditional"])
def test_neighbours_connect_all_outputs(form: str) -> None:
    """Between two spins, and for one alone, both what they like and whether they like each other is learned within 0.2.

    Moves that always change one spin, or always two, would leave one of these unknown.
    """
    n = 4000
    block = es.Variables.of_lengths("y", es.Discrete(2), [2, 1] * (n // 2))
    first = torch.arange(n // 2)[None] * 3

    def graph(w: Tensor) -> es.FactorGraph:
        unary = torch.stack([torch.zeros_like(w[0]), w[0]]).expand(3 * n // 2, 2)
        pair = w[1] * torch.eye(2, dtype=F64)
        index = torch.cat([first, first + 1])
        return es.FactorGraph(
            [block], [es.TableFactor(("y",), "own", unary), es.TableFactor(("y", "y"), "pair", pair, index=index)]
        )

    planted = torch.tensor([0.7, -0.5], dtype=F64)
    y = es.sample(graph(planted), num_samples=1, generator=seeded(2)).values["y"][0]
    w = torch.zeros(2, dtype=F64, requires_grad=True)
    loss = es.NoiseContrastiveEstimation(form=form, samples=5, flip=1.0 if form == "conditional" else 0.1)  # type: ignore[arg-type]
    found = minimum(lambda: loss(graph(w), es.Assignment({"y": y}), generator=seeded(3)).value.mean(), w)
    assert found.tolist() == pytest.approx(planted.tolist(), abs=0.2)


def test_draws_never_take_a_weight_of_nothing() -> None:
    """States of weight 0 are never drawn, wherever they stand."""
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [2.0, 0.0, 0.0]], dtype=F64)
    for seed in range(50):
        assert draw_states(weights, seeded(seed)).tolist() == [1, 2, 0]


def minimum(objective: Callable[[], Tensor], w: Tensor) -> Tensor:
    """The parameters at which an objective is least, by L-BFGS."""
    optimizer = torch.optim.LBFGS([w], max_iter=40, line_search_fn="strong_wolfe", tolerance_grad=1e-8)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return w.detach()


@pytest.mark.parametrize("name", ["ranking", "ranking fitted", "binary", "conditional"])
def test_an_ising_model_is_learned(name: str) -> None:
    """From 2,500 draws of three coupled spins every parameter comes within 0.2 (three standard errors)."""
    field, coupling = 0.6 * normal(3, seed=3), 0.5 * normal(3, seed=4)
    states = torch.cartesian_prod(*[torch.arange(2)] * 3)
    energies = ising(field, coupling, 8).energy({"y": states.reshape(-1)})
    n = 2500
    y = states[torch.multinomial((-energies).softmax(0), n, True, generator=seeded(5))]
    w = torch.zeros(7, dtype=F64, requires_grad=True)
    loss = dataclasses.replace(LOSSES[name], samples=5)
    target = es.Assignment({"y": y.reshape(-1)})

    def objective() -> Tensor:
        graph = ising(w[:3], w[3:6], n, constant=w[6])
        return loss(graph, target, generator=seeded(6)).value.mean()

    found = minimum(objective, w)
    assert float((found[:6] - torch.cat([field, coupling])).abs().max()) < 0.2
    if name == "binary":  # it learns the normaliser too: constant = log Z
        assert float(found[6]) == pytest.approx(float((-energies).logsumexp(0)), abs=0.15)


@pytest.mark.parametrize("name", ["ranking", "ranking fitted", "binary", "conditional"])
def test_a_gaussian_is_learned(name: str) -> None:
    """From 4,000 draws the precision matrix of a Gaussian comes within 0.25 of every entry."""
    truth = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=F64)
    n = 4000
    x = normal(n, 2, seed=1) @ torch.linalg.cholesky(torch.linalg.inv(truth)).T
    block = es.Variables.of_lengths("x", es.Real(2), [1] * n)
    w = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=F64, requires_grad=True)

    def energy(v: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return 0.5 * (w[0] * v[:, 0] ** 2 + w[2] * v[:, 1] ** 2) + w[1] * v[:, 0] * v[:, 1]

    loss = dataclasses.replace(LOSSES[name], samples=5, sigma=0.5)

    def objective() -> Tensor:
        graph = es.FactorGraph([block], [es.BlockFactor(("x",), "e", energy)], constant=w[3].expand(n))
        return loss(graph, es.Assignment({"x": x}), generator=seeded(6)).value.mean()

    found = minimum(objective, w)
    assert found[:3].tolist() == pytest.approx([2.0, 0.8, 1.0], abs=0.25)
    if name == "binary":
        log_z = math.log(2 * math.pi) - 0.5 * float(torch.logdet(truth))
        assert float(found[3]) == pytest.approx(log_z, abs=0.1)


def test_the_objective_is_least_at_the_truth_for_each_input() -> None:
    """Ranking needs no normaliser for each x: a field that depends on x is learned from 2,000 instances, within 0.2."""
    n, truth = 2000, torch.tensor([1.0, -0.7], dtype=F64)
    x = normal(n, 2, seed=1)
    block = es.Variables.of_lengths("y", es.Discrete(2), [2] * n)

    def graph(w: Tensor) -> es.FactorGraph:
        field = (x * w[:2]).reshape(-1)
        unary = torch.stack([torch.zeros_like(field), field], 1)
        return es.FactorGraph(
            [block],
            [es.TableFactor(("y",), "field", unary), es.ChainFactor(("y",), "chain", w[2] * torch.eye(2, dtype=F64))],
        )

    planted = torch.cat([truth, torch.tensor([0.6], dtype=F64)])
    y = es.sample(graph(planted), num_samples=1, generator=seeded(2)).values["y"][0]
    w = torch.zeros(3, dtype=F64, requires_grad=True)
    loss = es.NoiseContrastiveEstimation(samples=5)
    found = minimum(lambda: loss(graph(w), es.Assignment({"y": y}), generator=seeded(3)).value.mean(), w)
    assert found.tolist() == pytest.approx(planted.tolist(), abs=0.2)


def test_state_goes_from_call_to_call(tmp_path: Path) -> None:
    """The statistics come back as state, of tensors only, and the same generator gives the same value."""
    w = torch.ones(3, dtype=F64)
    loss = es.NoiseContrastiveEstimation(samples=3, noise="fitted")
    first = loss(mixed(w, [2, 1]), target_of([2, 1]), generator=seeded(1))
    second = loss(mixed(w, [3]), target_of([3], 1), generator=seeded(1), state=first.state)
    assert second.state["z"]["count"].tolist() == [6.0] and float(second.state["y"]["counts"].sum()) == 6
    again = loss(mixed(w, [3]), target_of([3], 1), generator=seeded(1), state=first.state)
    assert again.value.tolist() == second.value.tolist()
    assert first.correct is not None and first.incorrect is not None
    save_tree(tmp_path / "state", {"state": first.state})
    loaded = load_tree(tmp_path / "state")["state"]
    resumed = loss(mixed(w, [3]), target_of([3], 1), generator=seeded(1), state=loaded)
    assert resumed.value.tolist() == second.value.tolist()
    assert loss(mixed(w, [2]), target_of([2]), generator=seeded(1)).value.shape == (1,)


def test_one_bad_instance_harms_no_other() -> None:
    """A target of NaN makes the loss of its own instance NaN, and leaves the others as they were."""
    w = torch.tensor([0.5, 1.2, 0.8], dtype=F64)
    target = target_of([2, 2, 1])
    z = target["z"].clone()
    z[2] = math.nan
    bad = es.Assignment({"y": target["y"], "z": z})
    for loss in (es.NoiseContrastiveEstimation(), es.NoiseContrastiveEstimation(form="binary", noise="uniform")):
        graph = mixed(w, [2, 2, 1], bound=None if loss.noise == "auto" else 5.0)
        value = loss(graph, bad, generator=seeded(1)).value
        assert bool(value[1].isnan()) and bool(value[[0, 2]].isfinite().all())


def test_forbidden_states_and_evidence() -> None:
    """Noise keeps to the states that the evidence allows; a forbidden target costs infinity, forbidden noise nothing."""
    block = es.Variables.of_lengths("y", es.Discrete(3), [2])
    table = torch.zeros(3, 3, dtype=F64)
    table[0, 1] = math.inf
    graph = es.FactorGraph([block], [es.ChainFactor(("y",), "c", table)])
    for loss in LOSSES.values():
        w = table.clone().requires_grad_()
        value = loss(graph.with_values({"c": (w, None, None)}), es.Assignment({"y": torch.tensor([1, 1])})).value
        assert bool(value.isfinite().all())
        assert bool(torch.autograd.grad(value.sum(), w)[0].isfinite().all())
        assert loss(graph, es.Assignment({"y": torch.tensor([0, 1])})).value.tolist() == [math.inf]
    allowed = torch.tensor([[True, True, False], [True, True, True]])
    narrow = graph.condition(es.Assignment({}, allowed={"y": allowed}))
    energy = OutputEnergy.of(narrow, es.Assignment({"y": torch.tensor([1, 1])}))
    drawn = Noise(energy, {}, "uniform").draw({"y": torch.tensor([1, 1])}, 100, seeded(1))["y"].reshape(100, 2)
    assert set(drawn[:, 0].tolist()) == {0, 1} and set(drawn[:, 1].tolist()) == {0, 1, 2}


def test_rotations_take_uniform_and_perturbed_noise() -> None:
    """The strength 2 of -2 cos(angle) on the circle is learned from 3,000 draws by both, within 0.3."""
    n = 3000
    angle = torch.distributions.VonMises(torch.zeros((), dtype=F64), torch.tensor(2.0, dtype=F64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a = angle.sample((n,))
    block = es.Variables.of_lengths("r", es.SO2(), [1] * n)
    for loss in (
        es.NoiseContrastiveEstimation(noise="uniform", samples=5),
        es.NoiseContrastiveEstimation(form="conditional", sigma=0.7, samples=5),
    ):
        w = torch.ones((), dtype=F64, requires_grad=True)
        graph = es.FactorGraph([block], [es.BlockFactor(("r",), "e", lambda r, o, w=w: -w * r[:, 0])])
        target = es.Assignment({"r": torch.stack([a.cos(), a.sin()], 1)})
        found = minimum(lambda: loss(graph, target, generator=seeded(3)).value.mean(), w)  # noqa: B023
        assert float(found) == pytest.approx(2.0, abs=0.3)
    assert "fitted" in str(es.NoiseContrastiveEstimation(noise="fitted").refuse(graph, target))


def test_refusals_and_options() -> None:
    """Noise without a density on a block, latent sites without a sum, and options that make no sense are refused."""
    x = es.Variables.of_lengths("x", es.Real(1), [1])
    pose = es.Variables.of_lengths("p", es.SE3(), [1])
    point = es.Assignment({"x": torch.zeros(1, 1), "p": es.SE3().start(1, F64)})
    uniform = es.NoiseContrastiveEstimation(noise="uniform")
    assert "volume is infinite" in str(uniform.refuse(es.FactorGraph([x], []), point))
    assert "volume is infinite" in str(uniform.refuse(es.FactorGraph([pose], []), point))
    assert "no open site" in str(uniform.refuse(es.FactorGraph([x], []), es.Assignment({})))
    bent = es.BlockFactor(("x", "p"), "bent", lambda a, p, o: (a[:, 0] * p[:, 0]).sin() + p[:, 0].square())
    some = es.Assignment({"x": torch.zeros(1, 1)})
    assert "not exact" in str(es.NoiseContrastiveEstimation().refuse(es.FactorGraph([x, pose], [bent]), some))
    for options in (
        {"form": "none"},
        {"noise": "none"},
        {"noise": "perturbed", "form": "binary"},
        {"samples": 0},
        {"flip": 0.0},
    ):
        with pytest.raises(ValueError, match="noise_contrastive_estimation"):
            es.NoiseContrastiveEstimation(**options)  # type: ignore[arg-type]

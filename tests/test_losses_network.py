"""Losses of inference networks: both gradients against finite differences, values by hand, and what they learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.learning.losses.inference_network import entropy, local_loss
from ebmstruct.testing import random_chain, random_grid

Build = Callable[[Tensor, Tensor], es.FactorGraph]


def label_set(theta: Tensor, phi: Tensor) -> es.FactorGraph:
    """Two instances of three labels under a bent function of weights; theta (6,) scores and (3,) coupling."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [3, 3])
    scores, coupling = theta[:6].reshape(2, 3), theta[6:]

    def energy(weights: Tensor, scores: Tensor, coupling: Tensor, offsets: object) -> Tensor:
        on = weights[:, 1].reshape(scores.shape)
        return (scores * on).sum(1) + torch.nn.functional.softplus((on * coupling).sum(1))

    logits = torch.stack([torch.zeros(6, dtype=torch.float64), phi[:6]], 1)
    factor = es.BlockFactor(("y",), "deep", energy, (scores, coupling.expand(2, 3)), relaxed=True)
    return es.FactorGraph([block], [factor], guess={"y": logits.softmax(1)})


def chain(theta: Tensor, phi: Tensor) -> es.FactorGraph:
    """Chains of 2 and 1 sites of three states; theta: 9 emissions, of the transition one entry that is not 0."""
    block = es.Variables.of_lengths("y", es.Discrete(3), [2, 1])
    transition = theta.new_zeros(9).index_put((torch.tensor([4]),), theta[8:].sum()[None]).reshape(3, 3)
    factors = [
        es.TableFactor(("y",), "emission", theta.reshape(3, 3)),
        es.ChainFactor(("y",), "chain", transition),
    ]
    return es.FactorGraph([block], factors, guess={"y": phi.reshape(3, 3).softmax(1)})


def mixed(theta: Tensor, phi: Tensor) -> es.FactorGraph:
    """A point pulled to theta by the state of a switch; the network guesses both."""
    x, z = es.Variables.of_lengths("x", es.Real(2), [1, 1]), es.Variables.of_lengths("z", es.Discrete(2), [1, 1])
    places = theta[:8].reshape(2, 2, 2)

    def residual(x: Tensor, z: Tensor, places: Tensor) -> Tensor:
        return x - places[torch.arange(z.shape[0]), z]

    index = torch.tensor([[0, 1], [0, 1]])
    pull = es.ResidualFactor(("x", "z"), "pull", residual, index=index, parameters=(places,))
    weights = phi[4:8].reshape(2, 2).softmax(1)
    return es.FactorGraph([x, z], [pull], guess={"x": phi[:4].reshape(2, 2), "z": weights})


BUILDS: dict[str, Build] = {"label set": label_set, "chain": chain, "mixed": mixed}


def target_of(graph: es.FactorGraph, known: bool = True) -> es.Assignment:
    """A target; without ``known`` the first site of its first block is latent."""
    values: dict[str, Tensor] = {}
    for name, block in graph.variables.items():
        if isinstance(block.domain, es.Discrete):
            values[name] = torch.arange(block.num_sites) % block.discrete.largest
        else:
            values[name] = 1.5 * torch.arange(block.num_sites * 2, dtype=torch.float64).reshape(-1, 2)
    first = next(n for n, v in graph.variables.items() if isinstance(v.domain, es.Discrete))
    mask = torch.arange(graph.variables[first].num_sites) > 0
    return es.Assignment(values, {} if known else {first: mask})


def hamming(graph: es.FactorGraph, target: es.Assignment) -> list[es.Factor]:
    """1 for each wrong state of the last block."""
    name = list(graph.variables)[-1]
    wrong = 1.0 - torch.nn.functional.one_hot(target[name], graph.variables[name].discrete.largest).double()
    return [es.TableFactor((name,), "cost", wrong)]


def differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Central differences of a scalar function."""
    step = 1e-5
    rows = torch.eye(at.numel(), dtype=at.dtype)
    return torch.stack([(function(at + step * r) - function(at - step * r)) / (2 * step) for r in rows])


def start(seed: int) -> tuple[Tensor, Tensor]:
    """Parameters of the energy and of the network."""
    generator = torch.Generator().manual_seed(seed)
    theta, phi = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    return theta, phi


def run(loss: es.Loss, build: Build, theta: Tensor, phi: Tensor, known: bool) -> Tensor:
    """The sum of the losses of a batch."""
    graph = build(theta, phi)
    target = target_of(graph, known)
    return loss(graph, target, cost=hamming(graph, target)).value.sum()


JOINT: dict[str, es.Loss] = {
    "margin": es.InferenceNetwork(weight=20.0, local_weight=0.0),
    "with local": es.InferenceNetwork(weight=20.0, local_weight=0.7),
    "slack": es.InferenceNetwork(weight=20.0, rescaled="slack", local_weight=0.3),
    "seal ranking": es.Seal(samples=4, weight=0.5),
    "seal margin": es.Seal(energy="margin", weight=0.5, cost_weight=20.0),
    "amortisation": es.Amortisation(),
    "mean field": es.Amortisation(temperature=0.6, local_weight=0.2),
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", JOINT)
def test_the_energy_sees_the_guess_held_fixed(name: str, build: str, known: bool) -> None:
    """By the energy's parameters the gradient is that of the value; amortisation gives them none at all."""
    theta, phi = start(5)
    loss, make = JOINT[name], BUILDS[build]
    if loss.refuse(make(theta, phi), target_of(make(theta, phi), known)) is not None:
        assert name == "seal ranking" and (not known or build == "mixed")
        return
    leaf = theta.clone().requires_grad_(True)
    value = run(loss, make, leaf, phi, known)
    if isinstance(loss, es.Amortisation):
        assert not value.requires_grad
        return
    value.backward()

    def of_energy(t: Tensor) -> Tensor:
        return run(loss, make, t, phi, known).detach()

    assert leaf.grad is not None and leaf.grad.abs().max() > 0
    torch.testing.assert_close(leaf.grad, differences(of_energy, theta), rtol=1e-4, atol=1e-8)


def network_objective(loss: es.Loss, graph: es.FactorGraph, target: es.Assignment, cost: Sequence[es.Factor]) -> Tensor:
    """What the network alone should minimise, written out by the relaxed energy of its guess."""
    assert graph.guess is not None
    energy = graph.relaxed_energy(graph.guess)
    if isinstance(loss, es.InferenceNetwork):
        costs = es.FactorGraph(tuple(graph.variables.values()), cost).relaxed_energy(graph.guess)
        correct = graph.energy(target).detach()
        up = costs * (1 - energy + correct) if loss.rescaled == "slack" else costs - energy / loss.weight
        return (-loss.weight * up + loss.local_weight * local_loss(graph, target)).sum()
    if isinstance(loss, es.Seal):
        return (local_loss(graph, target) + loss.weight * energy).sum()
    assert isinstance(loss, es.Amortisation)
    return (energy - loss.temperature * entropy(graph) + loss.local_weight * local_loss(graph, target)).sum()


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", JOINT)
def test_the_network_sees_the_energy_held_fixed(name: str, build: str) -> None:
    """By the network's parameters the gradient is that of its own objective: uphill on the hinge, downhill on E."""
    theta, phi = start(6)
    loss, make = JOINT[name], BUILDS[build]
    if loss.refuse(make(theta, phi), target_of(make(theta, phi))) is not None:
        return
    leaf = phi.clone().requires_grad_(True)
    run(loss, make, theta, leaf, True).backward()

    def own(p: Tensor) -> Tensor:
        graph = make(theta, p)
        target = target_of(graph)
        return network_objective(loss, graph, target, hamming(graph, target))

    assert leaf.grad is not None and leaf.grad.abs().max() > 0
    torch.testing.assert_close(leaf.grad, differences(own, phi), rtol=1e-4, atol=1e-8)


def test_values_by_hand() -> None:
    """One label, E = 2 y, guess 0.25 on y = 1, target 1: E* = 2, E(A) = 0.5, c(A) = 0.75; the hinge is 0.75 - 0.5 + 2."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [1])
    table = es.TableFactor(("y",), "u", torch.tensor([[0.0, 2.0]], dtype=torch.float64))
    weights = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    graph = es.FactorGraph([block], [table], guess={"y": weights})
    target = es.Assignment({"y": torch.tensor([1])})
    cost = [es.TableFactor(("y",), "cost", torch.tensor([[1.0, 0.0]], dtype=torch.float64))]
    log = float(torch.tensor(0.25).log())
    for loss, wanted in (
        (es.InferenceNetwork(local_weight=0.0), 2.25),
        (es.InferenceNetwork(), 2.25 - log),
        (es.InferenceNetwork(local_weight=0.0, rescaled="slack"), 0.75 * 2.5),
        (es.Seal(energy="margin"), 2.25 - log),
        (es.Seal(energy="fixed"), -log),
        (es.Amortisation(), 0.5),
    ):
        found = loss(graph, target, cost=cost)
        assert float(found.value.detach()) == pytest.approx(wanted, rel=1e-6)
        if found.correct is not None and found.incorrect is not None:
            assert (float(found.correct), float(found.incorrect)) == pytest.approx((2.0, 0.5))


def test_a_truncated_network_rests_where_the_hinge_is_zero() -> None:
    """With E* far below the guess the hinge is 0: in the original form the network has no gradient, here it goes on."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [1])
    table = es.TableFactor(("y",), "u", torch.tensor([[9.0, 0.0]], dtype=torch.float64))
    for truncated in (True, False):
        phi = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        graph = es.FactorGraph([block], [table], guess={"y": phi.softmax(0)[None]})
        loss = es.InferenceNetwork(local_weight=0.0, truncated=truncated)
        found = loss(graph, es.Assignment({"y": torch.tensor([1])})).value
        assert float(found.detach()) == 0.0
        found.sum().backward()
        assert phi.grad is not None and bool((phi.grad == 0).all()) is truncated


def test_one_step_moves_both_in_opposite_directions() -> None:
    """Along the joint gradient the energy raises E(A) and the network lowers it."""
    theta, phi = (p.requires_grad_(True) for p in start(7))
    run(es.InferenceNetwork(weight=5.0, local_weight=0.0), label_set, theta, phi, True).backward()
    assert theta.grad is not None and phi.grad is not None

    def energy(t: Tensor, p: Tensor) -> float:
        graph = label_set(t, p)
        assert graph.guess is not None
        return float(graph.relaxed_energy(graph.guess).sum())

    with torch.no_grad():
        here = energy(theta, phi)
        target = target_of(label_set(theta, phi))
        margin = float(label_set(theta, phi).energy(target).sum()) - here
        new = theta - 1e-3 * theta.grad
        assert float(label_set(new, phi).energy(target).sum()) - energy(new, phi) < margin


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_amortisation_learns_the_minimum_or_the_mean_field(temperature: float) -> None:
    """Free logits trained on a small grid: at temperature 0 its minimum, at 1 a free energy above -log Z and near it."""
    graph = random_grid([(2, 2), (2, 3)], 2, torch.Generator().manual_seed(1))
    phi = torch.zeros(10, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=0.1)
    nothing = es.Assignment({})
    for _ in range(150):
        optimizer.zero_grad()
        loss = es.Amortisation(temperature=temperature)(graph.with_guess({"y": phi.softmax(1)}), nothing).value
        loss.sum().backward()
        optimizer.step()
    if temperature == 0.0:
        torch.testing.assert_close(loss.detach(), es.minimize(graph).energy, atol=0.02, rtol=0)
    else:
        above = loss.detach() + es.log_partition(graph)
        assert (above > 0).all() and (above < 1.0).all()


def test_ranking_prefers_the_target_to_the_draws() -> None:
    """A network that always errs and an energy trained by ranking: the target ends below every draw."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [3])
    theta = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[0.7, 0.3]] * 3, dtype=torch.float64)
    target = es.Assignment({"y": torch.tensor([1, 1, 0])})
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    for _ in range(60):
        graph = es.FactorGraph([block], [es.TableFactor(("y",), "u", theta)], guess={"y": weights})
        optimizer.zero_grad()
        es.Seal(samples=5)(graph, target, generator=generator).value.sum().backward()
        optimizer.step()
    assert es.minimize(graph).assignment["y"].tolist() == [1, 1, 0]


def test_what_is_refused() -> None:
    """No guess, functions of states, and a ranking of what is not known are refused in a sentence."""
    plain = random_chain([2, 3], 2, torch.Generator().manual_seed(0))
    target = es.minimize(plain).assignment
    for loss in (es.InferenceNetwork(), es.Seal(), es.Amortisation()):
        with pytest.raises(es.LossRefusal, match=r"carries no first guess for blocks \['y'\]"):
            loss(plain, target)
    block = plain.variables["y"]
    even = {"y": torch.full((5, 2), 0.5)}
    hard = es.FactorGraph([block], [es.BlockFactor(("y",), "f", lambda y, o: y[:2].double())], guess=even)
    with pytest.raises(es.LossRefusal, match="takes states, not weights"):
        es.InferenceNetwork()(hard, target)
    partly = es.Assignment(target.values, {"y": torch.tensor([True, False, True, True, True])})
    with pytest.raises(es.LossRefusal, match="ranking needs a target that knows every site"):
        es.Seal()(plain.with_guess(even), partly)
    with pytest.raises(ValueError, match="local_weight must be at least 0; found -1"):
        es.InferenceNetwork(local_weight=-1)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        es.Seal(samples=0)


def test_forbidden_states_are_dear_not_infinite() -> None:
    """A chain with infinite transitions: the network's gradient is finite and leads away from what is forbidden."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2])
    transition = torch.tensor([[0.0, torch.inf], [0.0, 0.0]], dtype=torch.float64)
    phi = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    graph = es.FactorGraph(
        [block],
        [es.TableFactor(("y",), "u", torch.zeros(2, 2, dtype=torch.float64)), es.ChainFactor(("y",), "c", transition)],
        guess={"y": phi.softmax(1)},
    )
    es.Amortisation()(graph, es.Assignment({})).value.sum().backward()
    assert phi.grad is not None and phi.grad.isfinite().all()
    assert phi.grad[0, 0] > 0 and phi.grad[1, 1] > 0

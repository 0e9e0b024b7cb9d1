"""Tables by a function, the energy of a classifier and its input, and the loss that trains both sides of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ebmstruct as es
from ebmstruct.graph import tabulate
from ebmstruct.inference import MixedGibbs
from ebmstruct.learning.losses.hybrid import free_energy_graph
from ebmstruct.learning.losses.output_energy import OutputEnergy
from ebmstruct.testing import oracle

B, D, K = 5, 3, 4


def network() -> nn.Module:
    """A small smooth classifier."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), nn.SiLU(), nn.Linear(8, K)).double()


def model() -> es.JointClassifier:
    """Its energy, with a square of spread 2."""
    return es.JointClassifier(network(), D, K, spread=2.0)


def points(seed: int = 1) -> Tensor:
    """(B, D) inputs."""
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sites(x: Tensor) -> Tensor:
    """(B D, 1): one site for each number."""
    return x.reshape(-1, 1)


CLASSES = torch.tensor([0, 3, 1, 1, 2])


def test_energy_is_the_score_turned_round() -> None:
    """E(x, c) = -f_c(x) + |x|^2 / 8 with spread 2; given x the class is the softmax of f, and F(x) its log sum."""
    energy, x = model(), points()
    f = energy.scores.network(x)
    graph = energy.graph([None] * B)
    expected = -f[range(B), CLASSES] + x.square().sum(1) / 8
    assert torch.allclose(graph.energy({"x": sites(x), "class": CLASSES}), expected)
    given = graph.condition(es.Assignment({"x": sites(x)}))
    assert torch.allclose(es.marginals(given).beliefs["class"], f.softmax(1))
    assert torch.allclose(es.log_partition(given), f.logsumexp(1) - x.square().sum(1) / 8)
    found = es.minimize(given)
    assert found.statuses[0].name == "OPTIMAL" and torch.equal(found.assignment["class"], f.argmax(1))


def test_tables_by_a_function_become_tables() -> None:
    """Tabulated at x, the energies of all states are those of the graph; conditionals and relaxed energies too."""
    graph, x = model().graph([None] * B), points()
    left = tabulate(graph, {"x": sites(x)})
    for c in range(K):
        states = torch.full((B,), c)
        assert torch.allclose(left.energy({"class": states}), graph.energy({"x": sites(x), "class": states}))
    tables = left.factors[0].values()[0]
    assert tables is not None
    rows = graph.conditionals("class", {"x": sites(x), "class": CLASSES})
    assert torch.allclose(rows - rows[:, :1], tables - tables[:, :1])
    weights = torch.rand(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(1)
    mean = (
        weights * torch.stack([graph.energy({"x": sites(x), "class": torch.full((B,), c)}) for c in range(K)], 1)
    ).sum(1)
    assert torch.allclose(graph.relaxed_energy({"class": weights, "x": sites(x)}), mean)


def test_copies_selections_and_unions_keep_energies() -> None:
    """Repeated, scaled, taken apart and put together, instances keep their energies; inputs go along."""
    block = es.Variables.of_lengths("x", es.Real(D), [1] * B)
    c = es.Variables.of_lengths("class", es.Discrete(2), [1] * B)

    def table(x: Tensor, shift: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([x.sum(1) + shift, x.square().sum(1)], 1)

    shift = torch.arange(B, dtype=torch.float64)
    graph = es.FactorGraph([block, c], [es.FunctionTableFactor(("class", "x"), "table", table, (shift,))])
    x, states = points(), torch.tensor([0, 1, 0, 0, 1])
    energy = graph.energy({"x": x, "class": states})
    assert torch.allclose(energy, torch.where(states == 0, x.sum(1) + shift, x.square().sum(1)))
    twice = graph.repeat(2).energy({"x": x.repeat(2, 1), "class": states.repeat(2)})
    assert torch.allclose(twice, energy.repeat(2))
    some = torch.tensor([3, 1])
    assert torch.allclose(graph.select(some).energy({"x": x[some], "class": states[some]}), energy[some])
    joined, rows = es.union([graph.select(torch.tensor([0])), graph.select(some)]), torch.tensor([0, 3, 1])
    assert torch.allclose(joined.energy({"x": x[rows], "class": states[rows]}), energy[rows])
    assert torch.allclose(graph.factors[0].scaled(2.0).energies([states, x], graph.scope(graph.factors[0])), 2 * energy)


def test_what_does_not_fit_is_told() -> None:
    """The first block must be discrete, the others continuous, and the function must give (n, K)."""
    block = es.Variables.of_lengths("x", es.Real(D), [1] * B)
    c = es.Variables.of_lengths("class", es.Discrete(2), [1] * B)
    with pytest.raises(es.GraphError, match="first block of its scope must be discrete"):
        es.FactorGraph([block, c], [es.FunctionTableFactor(("x", "class"), "t", lambda x, o: x)])
    with pytest.raises(es.GraphError, match="behind 'class' must be continuous"):
        es.FactorGraph([c, block], [es.FunctionTableFactor(("class", "class"), "t", lambda x, o: x)])
    graph = es.FactorGraph([c, block], [es.FunctionTableFactor(("class", "x"), "t", lambda x, o: x)])
    with pytest.raises(es.GraphError, match=r"returned shape"):
        graph.energy({"x": points(), "class": CLASSES % 2})


def test_classes_and_points_are_drawn_together() -> None:
    """Gibbs and Hamiltonian moves in turns: shares of classes are those of two unit normals of weights 0.8 and 0.2."""
    c = es.Variables.of_lengths("class", es.Discrete(2), [1])
    x = es.Variables.of_lengths("x", es.Real(1), [1])
    mean, cost = torch.tensor([-1.0, 1.0], dtype=torch.float64), -torch.tensor([0.8, 0.2], dtype=torch.float64).log()

    def table(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return 0.5 * (x - mean).square() + cost

    graph = es.FactorGraph([c, x], [es.FunctionTableFactor(("class", "x"), "normal", table)])
    drawn = es.sample(graph, MixedGibbs(), num_samples=2000, generator=torch.Generator().manual_seed(0))
    assert abs(float((drawn.values["class"] == 0).double().mean()) - 0.8) < 0.05
    assert abs(float(drawn.values["x"].double().mean()) + 0.6) < 0.1


def test_hybrid_loss_is_the_likelihood_and_a_term_of_x() -> None:
    """-log p(c | x) + 0.5 times the denoising loss of F at x, both by hand with the same noise."""
    energy, x = model(), points()
    graph, target = energy.graph([None] * B), es.Assignment({"x": sites(x), "class": CLASSES})
    found = es.HybridLikelihood(weight=0.5, sigma=0.3)(graph, target, generator=torch.Generator().manual_seed(3))
    noise = torch.Generator().manual_seed(3)
    torch.randint(1, (1, B), generator=noise)
    e = torch.randn(B, D, generator=noise, dtype=torch.float64)
    moved = (x + 0.3 * e).requires_grad_()
    free = -energy.scores.network(moved).logsumexp(1) + moved.square().sum(1) / 8
    slope = torch.autograd.grad(free.sum(), moved)[0]
    answer = nn.functional.cross_entropy(energy.scores.network(x), CLASSES, reduction="none")
    assert torch.allclose(found.value, answer + 0.25 * (0.3 * slope - e).square().sum(1))
    assert torch.allclose(found.figures["conditional"], answer)
    plain = es.HybridLikelihood(weight=0.0)(graph, target).value
    assert torch.allclose(plain, answer)


@pytest.mark.parametrize("term", ["denoising", "sliced", "exact"])
def test_hybrid_gradients_equal_finite_differences(term: str) -> None:
    """The gradient by the weights is that of the value."""
    energy = model()
    target = es.Assignment({"x": sites(points()), "class": CLASSES})
    loss = es.HybridLikelihood(weight=0.7, generative=term)  # type: ignore[arg-type]

    def value() -> Tensor:
        noise = torch.Generator().manual_seed(5)
        return loss(energy.graph([None] * B), target, generator=noise).value.sum()

    value().backward()
    weight = next(energy.scores.network.parameters())
    for at in ((0, 0), (3, 2)):
        assert weight.grad is not None
        own = float(weight.grad[at])
        with torch.no_grad():
            weight[at] += 1e-5
            above = float(value())
            weight[at] -= 2e-5
            below = float(value())
            weight[at] += 1e-5
        assert abs((above - below) / 2e-5 - own) < 1e-4 * max(1.0, abs(own))


@pytest.mark.parametrize("term", ["persistent", "contrastive"])
def test_hybrid_chains_go_on(term: str) -> None:
    """Chains walk on the energy with the class summed out; a buffer goes from step to step, and energies can be copied."""
    energy = model()
    target = es.Assignment({"x": sites(points()), "class": CLASSES})
    loss = es.HybridLikelihood(weight=1.0, generative=term, steps=3, size=20)  # type: ignore[arg-type]
    generator, state = torch.Generator().manual_seed(0), None
    for _ in range(3):
        found = loss(copy.deepcopy(energy).graph([None] * B), target, generator=generator, state=state)
        state = found.state
        assert bool(found.value.isfinite().all())
    assert (state is not None) == (term == "persistent")
    graph = energy.graph([None] * B)
    free = free_energy_graph(OutputEnergy.of(graph, es.Assignment({"x": sites(points())})), ("x",))
    wanted = -energy.scores.network(points()).logsumexp(1) + points().square().sum(1) / 8
    assert torch.allclose(free.energy({"x": sites(points())}), wanted)
    assert torch.allclose(free.repeat(3).energy({"x": sites(points()).repeat(3, 1)}), wanted.repeat(3))


def test_hybrid_refuses_in_words() -> None:
    """Nothing to give, nothing left to tell, a block that is not there, an input that is not known."""
    c = es.Variables.of_lengths("class", es.Discrete(2), [1])
    x = es.Variables.of_lengths("x", es.Real(1), [1])
    table = es.TableFactor(("class",), "table", torch.zeros(1, 2))
    square = es.BlockFactor(("x",), "square", lambda x, o: x.square().sum(1))
    known = {"class": torch.tensor([0]), "x": torch.zeros(1, 1)}
    loss = es.HybridLikelihood()
    cases = [
        (es.FactorGraph([c], [table]), es.Assignment({"class": known["class"]}), loss, "no continuous block is open"),
        (es.FactorGraph([x], [square]), es.Assignment({"x": known["x"]}), loss, "nothing is left to tell"),
        (es.FactorGraph([c, x], [table, square]), es.Assignment({"class": known["class"]}), loss, "is to be given"),
        (
            es.FactorGraph([c, x], [table, square]),
            es.Assignment(known),
            es.HybridLikelihood(given="z"),
            "names block 'z'",
        ),
    ]
    for graph, target, own, sentence in cases:
        with pytest.raises(es.LossRefusal, match=sentence):
            own(graph, target)
    with pytest.raises(ValueError, match="legal are"):
        es.HybridLikelihood(generative="nothing")  # type: ignore[arg-type]


def test_brute_force_agrees() -> None:
    """Enumeration over the classes, x clamped, gives the same log partition and least energy."""
    graph = model().graph([None] * B).condition(es.Assignment({"x": sites(points())}))
    left = tabulate(graph, {"x": sites(points())})
    truth = torch.tensor([o.log_partition() for o in oracle(left)], dtype=torch.float64)
    assert torch.allclose(es.log_partition(graph), truth)

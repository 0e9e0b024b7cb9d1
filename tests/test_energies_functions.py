"""Energies made of functions and those with latent blocks: formulas by hand, free energies by enumeration, symmetry."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.energies import (
    AttentionEnergy,
    BoltzmannMachine,
    ConvolutionalEnergy,
    GaussianBoltzmannMachine,
    LabelSetEnergy,
    MixtureEnergy,
    ProductOfExperts,
    StudentTExpert,
)
from ebmstruct.energies.model import EnergyModel
from ebmstruct.errors import GraphError


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers in double precision."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scattered(model: EnergyModel) -> EnergyModel:
    """The model in double precision with random parameters, in evaluation mode."""
    for i, p in enumerate(model.double().parameters()):
        p.data = 0.7 * numbers(*p.shape, seed=i)
    return model.eval()


def plain(model: EnergyModel) -> dict[str, Tensor]:
    """The parameters by name, without a record."""
    return {k: v.detach() for k, v in model.named_parameters()}


def test_label_set() -> None:
    """E = sum of y_l (W x + b)_l + c softplus(C y + b), also where y lies between 0 and 1."""
    model, x = scattered(LabelSetEnergy(3, 4, hidden=5)), numbers(2, 3)
    p = plain(model)
    for y in (torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 1]]).double(), torch.rand(2, 4, dtype=torch.float64)):
        local = x @ p["local.weight"].T + p["local.bias"]
        joint = torch.nn.functional.softplus(y @ p["network.measure.weight"].T + p["network.measure.bias"])
        expected = (y * local).sum(1) + joint @ p["network.output.weight"][0]
        graph = model.graph(list(x))
        weights = torch.stack([1 - y.reshape(-1), y.reshape(-1)], 1)
        torch.testing.assert_close(graph.relaxed_energy({"y": weights}), expected)
        if bool(((y == 0) | (y == 1)).all()):
            torch.testing.assert_close(graph.energy({"y": y.reshape(-1).long()}), expected)


def test_joint_label_network_sees_features() -> None:
    """The energy of labels beyond their own depends on the features with ``both`` and not with ``labels``."""
    whole, none = torch.ones(4, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    for joint, depends in (("both", True), ("labels", False)):
        model = scattered(LabelSetEnergy(3, 4, joint=joint))  # type: ignore[arg-type]
        found = []
        for x in numbers(2, 3):
            terms = model.graph([x]).factor_energies({"y": whole})["labels"]
            found.append(float((terms - model.graph([x]).factor_energies({"y": none})["labels"]).detach()))
        assert (found[0] != found[1]) == depends


def test_experts_add_up() -> None:
    """A product of Student-t experts has the energy sum of a_j log(1 + (w_j (x - m))^2 / 2), and a spread adds a square."""
    model, x = scattered(ProductOfExperts(3, [StudentTExpert(3, 4), StudentTExpert(3, 2)], spread=2.0)), numbers(2, 3)
    p = plain(model)
    expected = x.square().sum(1) / 8
    for m in range(2):
        w, a, mean = (p[f"experts.{m}.expert.{n}"] for n in ("weight", "log_power", "mean"))
        expected = expected + ((1 + ((x - mean) @ w.T).square() / 2).log() * a.exp()).sum(1)
    graph = model.graph([None] * 2)
    torch.testing.assert_close(graph.energy({"x": x}), expected)
    assert [f.label for f in graph.factors] == ["expert0", "expert1", "spread"]


def test_student_t_density() -> None:
    """One expert in one dimension with a = 1 is a Cauchy density of scale sqrt 2: its samples have quartiles +- sqrt 2."""
    model = ProductOfExperts(1, [StudentTExpert(1, 1)])
    for p in model.parameters():
        p.data = torch.ones_like(p) if p.dim() == 2 else torch.zeros_like(p)
    x = torch.linspace(-400, 400, 200001)[:, None]
    with torch.no_grad():
        density = torch.exp(-model.graph([None] * len(x)).energy({"x": x}))
    assert float(density.sum() * 0.004) == pytest.approx(math.pi * math.sqrt(2), rel=5e-3)
    middle = density[(x[:, 0] > -math.sqrt(2)) & (x[:, 0] < math.sqrt(2))]
    assert float(middle.sum() / density.sum()) == pytest.approx(0.5, abs=5e-3)


def hidden_states(count: int) -> Tensor:
    """(2^count, count) every joint state of hidden units."""
    return torch.tensor(list(itertools.product((0, 1), repeat=count)))


@pytest.mark.parametrize("states", [2, 3])
def test_boltzmann_machine(states: int) -> None:
    """The joint energy is the formula; the free one, by its own form or summed out, is enumeration over hidden units."""
    joint = scattered(BoltzmannMachine(3, 4, states=states))
    free = scattered(BoltzmannMachine(3, 4, states=states, form="free"))
    p, v = plain(joint), torch.randint(0, states, (2, 3), generator=torch.Generator().manual_seed(0))
    bias, weight = p["visible_bias"], p["weight"]
    if states == 2:  # the state 0 has neither bias nor weights
        bias, weight = (torch.cat([torch.zeros_like(t), t], 1) for t in (bias, weight))
    units = torch.arange(3)

    def by_hand(v: Tensor, h: Tensor) -> float:
        return float(-bias[units, v].sum() - p["hidden_bias"] @ h - (weight[units, v] @ h).sum())

    graph = joint.graph([None] * 2)
    for h in hidden_states(4):
        expected = [by_hand(row, h.double()) for row in v]
        found = graph.energy({"v": v.reshape(-1), "h": h.repeat(2)})
        assert found.tolist() == pytest.approx(expected)
    expected = [-torch.tensor([-by_hand(row, h.double()) for h in hidden_states(4)]).logsumexp(0) for row in v]
    clamped = graph.condition(es.Assignment({"v": v.reshape(-1)}))
    assert (-es.log_partition(clamped)).tolist() == pytest.approx([float(e) for e in expected])
    assert free.graph([None] * 2).energy({"v": v.reshape(-1)}).tolist() == pytest.approx([float(e) for e in expected])
    logs = (es.log_partition(m.graph([None])) for m in (joint, free))
    assert float(next(logs).detach()) == pytest.approx(float(next(logs).detach()))


def test_gaussian_boltzmann_machine() -> None:
    """The joint energy, a sum of squares and tables, is the formula; its free energy is enumeration over hidden units."""
    joint, free = scattered(GaussianBoltzmannMachine(3, 4)), scattered(GaussianBoltzmannMachine(3, 4, form="free"))
    p, v = plain(joint), numbers(2, 3, seed=9)
    spread = p["log_spread"].exp()

    def by_hand(h: Tensor) -> Tensor:
        square = ((v - p["visible_bias"]) / spread).square().sum(1) / 2
        return square - p["hidden_bias"] @ h - (v / spread) @ p["weight"] @ h

    graph, energies = joint.graph([None] * 2), []
    for h in hidden_states(4):
        energies.append(by_hand(h.double()))
        torch.testing.assert_close(graph.energy({"v": v, "h": h.repeat(2)}).detach(), energies[-1])
    expected = -torch.logsumexp(-torch.stack(energies), 0)
    torch.testing.assert_close(free.graph([None] * 2).energy({"v": v}).detach(), expected)
    clamped = graph.condition(es.Assignment({"v": v}))
    torch.testing.assert_close(-es.log_partition(clamped).detach(), expected)
    h = hidden_states(4).double()  # given h, v is Gaussian with mean b + s W h, whose square is completed
    terms = h @ p["hidden_bias"] + h @ p["weight"].T @ (p["visible_bias"] / spread)
    terms = terms + (h @ p["weight"].T).square().sum(1) / 2
    log_z = terms.logsumexp(0) + spread.log().sum() + 1.5 * math.log(2 * math.pi)
    assert es.log_partition(graph).tolist() == pytest.approx([float(log_z)] * 2)


def test_mixture() -> None:
    """Summed over its components it is -log of a mixture of Gaussians, and log Z is 0."""
    model, x = scattered(MixtureEnergy(2, 3)), numbers(4, 2, seed=5)
    p = plain(model)
    parts = torch.distributions.Independent(torch.distributions.Normal(p["mean"], p["log_spread"].exp()), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=p["logit"]), parts)
    graph = model.graph([None] * 4)
    free = -es.log_partition(graph.condition(es.Assignment({"x": x}))).detach()
    torch.testing.assert_close(free, -mixture.log_prob(x))
    assert es.log_partition(graph).tolist() == pytest.approx([0.0] * 4, abs=1e-9)


def test_convolution() -> None:
    """The image network halves an odd image as often as it has layers; the square of all pixels is added."""
    model = scattered(ConvolutionalEnergy(2, 5, 7, filters=(3, 4), spread=0.5))
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.endswith("weight")}
    assert list(shapes.values()) == [(3, 2, 3, 3), (4, 3, 3, 3), (1, 4 * 2 * 2)]
    x = numbers(3, 2 * 5 * 7)
    graph = model.graph([None] * 3)
    terms = graph.factor_energies({"x": x})
    torch.testing.assert_close(terms["spread"], 2 * x.square().sum(1))
    assert isinstance(model, ConvolutionalEnergy)
    torch.testing.assert_close(terms["network"], model.network.layers(x.reshape(3, 2, 5, 7))[:, 0])
    with pytest.raises(GraphError, match="odd kernel"):
        ConvolutionalEnergy(1, 4, 4, kernel=2)


def test_convolution_is_smooth() -> None:
    """Second derivatives by pixels exist and are not zero, as score matching needs."""
    model, x = scattered(ConvolutionalEnergy(1, 3, 3, filters=(4,), spread=None)), numbers(1, 9).requires_grad_()
    (slope,) = torch.autograd.grad(model.graph([None]).energy({"x": x}).sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.square().sum(), x)
    assert float(curve.abs().sum()) > 0


def test_spectral_norm_bounds_layers() -> None:
    """With ``spectral`` every layer's matrix has a largest singular value of about 1, whatever its weights."""
    model = ConvolutionalEnergy(1, 4, 4, filters=(3,), spectral=True)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=3.0, generator=torch.Generator().manual_seed(0))
    for _ in range(50):  # each evaluation in training improves the estimate
        model.graph([None]).energy({"x": torch.zeros(1, 16)})
    layers = [m for m in model.eval().modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    norms = [float(torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2)) for m in layers]
    assert norms == pytest.approx([1.0, 1.0], rel=1e-3)


@pytest.mark.parametrize("kind", ["states", "dim"])
def test_attention_does_not_depend_on_order(kind: str) -> None:
    """Sites in another order, with their values, have the same energy; with positions they do not."""
    order = torch.tensor([2, 0, 3, 1])
    x, other = numbers(4, 3), numbers(2, 3, seed=3)
    y = torch.tensor([0, 1, 1, 0]) if kind == "states" else numbers(4, 2, seed=4)
    rest = torch.tensor([1, 0]) if kind == "states" else numbers(2, 2, seed=5)
    for positions in (False, True):
        model = scattered(AttentionEnergy(3, width=4, positions=positions, **{kind: 2}))  # type: ignore[arg-type]
        one = model.graph([x, other]).energy({"y": torch.cat([y, rest])})
        two = model.graph([x[order], other]).energy({"y": torch.cat([y[order], rest])})
        assert torch.allclose(one, two) != positions and torch.allclose(one[1], two[1])
    with pytest.raises(GraphError, match="states or dim"):
        AttentionEnergy(3)
    with pytest.raises(GraphError, match="multiple of the 3 heads"):
        AttentionEnergy(3, dim=1, width=4, heads=3)


def test_attention_takes_weights() -> None:
    """Weights of 0 and 1 are states, and the energy is smooth in weights between: its slope is the central difference."""
    model = scattered(AttentionEnergy(0, states=3, width=4))
    graph = model.graph([torch.zeros(n, 0, dtype=torch.float64) for n in (3, 2)])
    y = torch.tensor([0, 2, 1, 1, 0])
    whole = torch.nn.functional.one_hot(y, 3).double()
    torch.testing.assert_close(graph.relaxed_energy({"y": whole}), graph.energy({"y": y}))
    weights, step = torch.softmax(numbers(5, 3), 1).requires_grad_(), 1e-6 * numbers(5, 3, seed=1)
    (slope,) = torch.autograd.grad(graph.relaxed_energy({"y": weights}).sum(), weights)
    with torch.no_grad():
        change = graph.relaxed_energy({"y": weights + step}) - graph.relaxed_energy({"y": weights - step})
    assert float((slope * step).sum()) == pytest.approx(float(change.sum()) / 2, rel=1e-6)


def test_boltzmann_machine_is_learned_with_its_hidden_units_summed_out() -> None:
    """By the likelihood, with a target that does not know the hidden block, four units learn that the first two agree."""
    model = BoltzmannMachine(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    target = es.Assignment({"v": torch.tensor([0, 0, 1, 1])})
    for _ in range(150):
        optimizer.zero_grad()
        es.NegativeLogLikelihood()(model.graph([None] * 2), target).value.mean().backward()
        optimizer.step()
    agree = es.marginals(
        model.graph([None]).condition(
            es.Assignment({"v": torch.tensor([1, 0])}, known={"v": torch.tensor([True, False])})
        )
    )
    assert float(agree.beliefs["v"][1, 1]) > 0.9


def test_smooth_energies_are_sampled() -> None:
    """HMC runs on an image energy; a network of zero weights leaves a normal density, whose spread is found."""
    model = ConvolutionalEnergy(1, 2, 2, filters=(2,), spread=0.5)
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    drawn = es.sample(model.graph([None] * 8), es.HMC(), num_samples=300, generator=torch.Generator().manual_seed(0))
    assert float(drawn.values["x"].std()) == pytest.approx(0.5, rel=0.1)

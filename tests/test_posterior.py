"""Posteriors of weights: potentials and estimates of them, units, samplers against a long exact run, averaged graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmstruct as es
from ebmstruct.energies import Rows
from ebmstruct.errors import ConfigError, LossRefusal
from ebmstruct.inference import HMC, marginals, minimize
from ebmstruct.learning.posterior import AveragedModel, PosteriorOptions, WeightDraws, WeightLayout, sample_posterior
from ebmstruct.learning.posterior.options import SamplerName
from ebmstruct.learning.posterior.potential import Minibatches, Potential
from ebmstruct.learning.posterior.units import diagonal, found_centre, found_units


class Logistic(es.EnergyModel):
    """E(x, y) = -y (weight . x + bias)."""

    def __init__(self, features: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(()))

    def prepare(self, xs: Sequence[Any]) -> Rows:
        return Rows.of(xs)

    def forward(self, inputs: Rows) -> es.FactorGraph:
        score = inputs.features @ self.weight + self.bias
        block = es.Variables.of_lengths("y", es.Discrete(2), torch.ones(len(inputs), dtype=torch.long))
        table = torch.stack([torch.zeros_like(score), -score], 1)
        return es.FactorGraph([block], [es.TableFactor(("y",), "score", table)])


class Labels:
    """Encodes labels 0 and 1."""

    def encode(self, ys: Sequence[int], graph: es.FactorGraph, schema: object) -> es.Assignment:
        """The labels as states."""
        return es.Assignment({"y": torch.tensor(ys)})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: object) -> tuple[es.Factor, ...]:
        """None."""
        return ()


@dataclass(frozen=True)
class Pair:
    """A row and its label."""

    x: Tensor
    y: int


def made(rows: int = 60, features: int = 3, seed: int = 0) -> list[Pair]:
    """Rows of unequal scales, labels by a logistic model."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=generator) * torch.arange(1, features + 1)
    y = torch.rand(rows, generator=generator) < torch.sigmoid(x.sum(1) * 0.5)
    return [Pair(row, int(label)) for row, label in zip(x, y, strict=True)]


def potential_of(pairs: list[Pair], **options: Any) -> tuple[Potential, Logistic]:
    """The potential of a logistic model."""
    model = Logistic(pairs[0].x.numel())
    chosen = PosteriorOptions(name="sgld", **options)
    loss = es.NegativeLogLikelihood()
    return Potential(model, WeightLayout.of(model), Labels(), None, pairs, loss, chosen), model


def by_hand(pairs: list[Pair], weights: Tensor, spread: float, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """U of a Bayesian logistic regression, its gradient and its Hessian."""
    x = torch.stack([torch.cat([p.x, torch.ones(1)]) for p in pairs]).double()
    y = torch.tensor([p.y for p in pairs], dtype=torch.float64)
    score = x @ weights
    p = torch.sigmoid(score)
    value = (nn.functional.softplus(score) - score * y).sum() / temperature + weights.square().sum() / (2 * spread**2)
    slope = x.T @ (p - y) / temperature + weights / spread**2
    curvature = x.T @ ((p * (1 - p))[:, None] * x) / temperature + torch.eye(len(weights)).double() / spread**2
    return value, slope, curvature


WEIGHTS = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)


def test_potential_is_losses_and_prior() -> None:
    """U and its gradient are those of the formula, with a temperature and a spread; the model is left as it was."""
    pairs = made()
    potential, model = potential_of(pairs, prior_spread=2.0, temperature=0.5)
    value, slope = potential(WEIGHTS)
    expected, gradient, _ = by_hand(pairs, WEIGHTS, 2.0, 0.5)
    assert value == pytest.approx(float(expected), rel=1e-6)
    assert torch.allclose(slope, gradient, atol=1e-4)
    assert not model.weight.any() and model.weight.grad is None


@pytest.mark.parametrize("control", [True, False])
def test_minibatches_are_unbiased(control: bool) -> None:
    """The mean over all minibatches is U, with and without control variates; with them they agree near the centre."""
    potential, _ = potential_of(made(61))
    generator = torch.Generator().manual_seed(0)
    centre = WEIGHTS + 0.05
    batches = Minibatches(potential, centre, 10, generator, control=control)
    looks = [batches.by(i, WEIGHTS) for i in range(len(batches))]
    value, slope = potential(WEIGHTS)
    sizes = [len(b.positions) for b in batches.batches]
    assert len(batches) == 7 and sum(sizes) == 61 and max(sizes) - min(sizes) <= 1
    assert math.fsum(v for v, _ in looks) / 7 == pytest.approx(value, rel=1e-6)
    slopes = torch.stack([g for _, g in looks])
    assert torch.allclose(slopes.mean(0), slope, atol=1e-4)
    assert (float(slopes.std(0).max()) < 0.1 * float(slope.norm())) == control


def test_centre_and_units() -> None:
    """The centre is where the gradient vanishes; dense units whiten the Hessian there, diagonal ones have about the
    diagonal."""
    pairs = made(400)
    potential, model = potential_of(pairs)
    centre = found_centre(potential, WeightLayout.of(model).vector(model), 30)
    _, gradient, hessian = by_hand(pairs, centre, 1.0, 1.0)
    assert float(gradient.abs().max()) < 0.02
    factor = found_units(potential, centre, "dense").factor
    assert torch.allclose(factor.T @ hessian @ factor, torch.eye(4).double(), atol=0.02)
    assert torch.allclose(diagonal(potential, centre) / hessian.diagonal(), torch.ones(4).double(), atol=0.3)
    units = found_units(potential, centre, "diagonal")
    assert torch.allclose(units.scale, diagonal(potential, centre).rsqrt())


@pytest.fixture(scope="module")
def truth() -> tuple[list[Pair], Tensor, Tensor]:
    """Examples, and mean and standard deviation of the posterior by long chains of HMC on the formula."""
    pairs = made(120)
    x = torch.stack([torch.cat([p.x, torch.ones(1)]) for p in pairs]).double()
    y = torch.tensor([p.y for p in pairs], dtype=torch.float64)

    def energy(w: Tensor, offsets: object) -> Tensor:
        score = w @ x.T
        return (nn.functional.softplus(score) - score * y).sum(1) + w.square().sum(1) / 2

    block = es.Variables.of_lengths("w", es.Real(4), [1])
    graph = es.FactorGraph([block], [es.BlockFactor(("w",), "posterior", energy)])
    start = es.Assignment({"w": torch.zeros(1, 4, dtype=torch.float64)})
    sampler = HMC(step_size=0.1, leapfrog_steps=8, jitter=0.2, chains=64)
    drawn = es.sample(graph, sampler, num_samples=64_000, init=start).values["w"][:, 0]
    return pairs, drawn.mean(0), drawn.std(0)


@pytest.mark.parametrize(
    "name",
    [
        "sgld",
        "hmc",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("langevin", "underdamped_langevin", "mala", "nuts")),
    ],
)
def test_moments(truth: tuple[list[Pair], Tensor, Tensor], name: SamplerName) -> None:
    """Every sampler finds the means within 0.2 standard deviations and the variances within 30 %, in about a thousand
    steps; longer runs come closer (benchmarks/posterior.md)."""
    pairs, mean, spread = truth
    draws = 400 if name in ("nuts", "hmc") else 1600
    thinning = None if name in ("nuts", "hmc") else 2
    options = PosteriorOptions(name=name, draws=draws, thinning=thinning, burn_in=50)
    found = sample_posterior(Logistic(), Labels(), None, pairs, es.NegativeLogLikelihood(), options)
    assert len(found) == draws and found.facts["largest_r_hat"] < 1.05 and not found.warnings
    assert float(((found.mean - mean) / spread).abs().max()) < 0.2
    assert float((found.spread.square() / spread.square() - 1).abs().max()) < 0.3


def test_draws_repeat_and_seeds_differ() -> None:
    """The same seed gives the same draws, another one others; only the parameters named move."""
    pairs, loss = made(40), es.NegativeLogLikelihood()

    def drawn(seed: int) -> WeightDraws:
        options = PosteriorOptions(name="sgld", draws=8, burn_in=5, thinning=1, seed=seed, parameters=("bias",))
        return sample_posterior(Logistic(), Labels(), None, pairs, loss, options)

    one, two, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(one.values, two.values) and not torch.equal(one.values, other.values)
    assert one.layout.names == ("bias",) and one.values.shape == (8, 1)
    back = WeightDraws.from_tensors(one.tensors(), one.chains, one.facts)
    assert torch.equal(back.values, one.values) and back.by_chain().shape == (2, 4, 1)
    assert sorted(one.spaced(8).tolist()) == list(range(8)) and set(one.spaced(4).tolist()) == {0, 1, 2, 3}


def test_refusals() -> None:
    """A loss that is no likelihood, patterns that mean nothing and options that do not go together are told."""
    pairs = made(10)
    options = PosteriorOptions(name="sgld", draws=4, burn_in=1, thinning=1)
    with pytest.raises(LossRefusal, match=r"structured_hinge is no likelihood.*any_loss"):
        sample_posterior(Logistic(), Labels(), None, pairs, es.StructuredHinge(), options)
    with pytest.raises(ConfigError, match=r"wait\* means no trained weights; there are weight, bias"):
        WeightLayout.of(Logistic(), ("wait*",))
    with pytest.raises(ValueError, match="draws must be at least 1; found 0"):
        PosteriorOptions(name="sgld", draws=0)
    gibbs = PosteriorOptions(name="langevin", draws=4, burn_in=1, thinning=1, any_loss=True)
    assert len(sample_posterior(Logistic(), Labels(), None, pairs, es.Perceptron(), gibbs)) == 4


class Line(es.EnergyModel):
    """A real y about weight . x, with spread 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def prepare(self, xs: Sequence[Any]) -> Rows:
        return Rows.of(xs)

    def forward(self, inputs: Rows) -> es.FactorGraph:
        mean = (inputs.features @ self.weight)[:, None]
        block = es.Variables.of_lengths("y", es.Real(1), [1] * len(inputs))
        index = torch.arange(len(inputs))[None]
        return es.FactorGraph([block], [es.ResidualFactor(("y",), "apart", torch.sub, index, (mean,), linear=True)])


def test_real_outputs_have_the_spread_of_the_mixture() -> None:
    """A real output's mean is that of the draws' means, and its variance the mean variance plus that of the means."""
    values = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 2.0], [3.0, 2.0]])
    draws = WeightDraws(values, WeightLayout(("weight",), ((2,),)), 1)
    graph = AveragedModel(Line(), draws).graph([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])])
    found = marginals(graph)
    assert torch.allclose(found.means["y"][:, 0].double(), torch.tensor([2.0, 3.0]).double(), atol=1e-5)
    assert torch.allclose(found.covariances["y"][:, 0, 0].double(), torch.tensor([2.0, 3.0]).double(), atol=1e-4)
    assert torch.allclose(minimize(graph).assignment["y"][:, 0].double(), torch.tensor([2.0, 3.0]).double(), atol=1e-5)


def test_hard_rules_are_kept() -> None:
    """A pair that every draw forbids stays forbidden in the averaged graph, of chains and of tables."""
    step = torch.tensor([[0.0, math.inf], [0.0, 0.0]])

    class Ruled(es.EnergyModel):
        def __init__(self, chained: bool) -> None:
            super().__init__()
            self.weight, self.chained = nn.Parameter(torch.zeros(2)), chained

        def forward(self, inputs: Any) -> es.FactorGraph:
            block = es.Variables.of_lengths("y", es.Discrete(2), [2] * len(inputs))
            own = es.TableFactor(("y",), "own", self.weight.expand(2 * len(inputs), -1))
            first = 2 * torch.arange(len(inputs))
            rule: es.Factor = es.TableFactor(("y", "y"), "rule", step, torch.stack([first, first + 1]))
            return es.FactorGraph([block], [own, es.ChainFactor(("y",), "rule", step) if self.chained else rule])

    draws = WeightDraws(torch.tensor([[0.0, -1.0], [0.0, -3.0]]), WeightLayout(("weight",), ((2,),)), 1)
    for chained in (True, False):
        model = AveragedModel(Ruled(chained), draws)
        graph = model.graph([None, None])
        forbidden = graph.energy(es.Assignment({"y": torch.tensor([0, 1, 1, 1])}))
        assert forbidden[0] == math.inf and math.isfinite(float(forbidden[1]))
        beliefs = torch.stack([marginals(model.of_draw(s, [None, None])).beliefs["y"] for s in range(2)]).mean(0)
        if chained:
            assert torch.allclose(marginals(graph).beliefs["y"].double(), beliefs.double(), atol=1e-6)

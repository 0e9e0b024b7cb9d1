"""Energies of records that are trained by samples: ``generative.network`` and ``generative.convolutional``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import GraphError
from ebmstruct_generative import Convolutional, Network, RecordSchema
from ebmstruct_generative.records import RECORD


@dataclass(frozen=True)
class Point:
    """A record; nothing is given of it."""

    y: Tensor
    x: tuple[()] = ()


class Points:
    """Records are vectors already."""

    def encode(self, ys: Sequence[Tensor], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        return RecordSchema.values(schema, graph, torch.stack(list(ys)))

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> Sequence[es.Factor]:
        return ()


def test_formula() -> None:
    """The energy is the network's output plus |x|^2 / (2 spread^2), the same for a record in one site or in many."""
    schema = RecordSchema((3,))
    torch.manual_seed(0)
    model = Network(schema, width=8, spread=2.0, frequencies=4)
    net, x = model.network, torch.randn(5, 3)
    seen = torch.cat([x, (x @ net.waves).sin(), (x @ net.waves).cos()], 1)  # type: ignore[operator]
    expected = net.layers(seen)[:, 0] + x.square().sum(1) / 8.0
    torch.testing.assert_close(model.graph([()] * 5).energy({RECORD: x}).float(), expected)
    torch.manual_seed(0)
    apart = Network(schema, width=8, spread=2.0, frequencies=4, sites=True)
    torch.testing.assert_close(apart.graph([()] * 5).energy({RECORD: x.reshape(15, 1)}).float(), expected)


def test_spectral_normalisation_bounds_the_slope() -> None:
    """However large the weights grow, the network's slope stays below ``slope`` times that of the activations."""
    torch.manual_seed(0)
    model = Network(RecordSchema((5,)), width=16, spectral=True, slope=3.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(50.0)
    x = torch.randn(200, 5, requires_grad=True)
    for _ in range(20):  # the estimate of the largest singular value improves
        energy = model.network(x, ())
    (slope,) = torch.autograd.grad((energy - 0.5 * x.square().sum(1) / 1.5**2).sum(), x)
    assert float(slope.norm(dim=1).max()) < 3.0 * 1.13**2
    plain = Network(RecordSchema((5,)), width=16)
    with torch.no_grad():
        for weight in plain.parameters():
            weight.mul_(50.0)
    (steep,) = torch.autograd.grad(plain.network(x, ()).sum(), x)
    assert float(steep.norm(dim=1).max()) > 100.0


@pytest.mark.parametrize("activation", ["silu", "softplus", "gelu", "tanh"])
def test_smooth_activations(activation: Any) -> None:
    """With smooth activations the gradient has no jumps: finite differences of it agree with second derivatives."""
    torch.manual_seed(0)
    model = Network(RecordSchema((2,)), width=8, activation=activation).double()

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.grad(model.network(x, ()).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(slope, torch.randn(20, 2, dtype=torch.float64, requires_grad=True))


def test_learns_a_mixture() -> None:
    """Trained by persistent chains with fresh starts on three clusters of unequal weight, its draws have their shares."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[1.2, 0.0], [-0.8, 0.9], [-0.6, -1.1]])
    shares = torch.tensor([0.5, 0.3, 0.2])
    which = torch.multinomial(shares, 600, replacement=True, generator=generator)
    data = centres[which] + 0.15 * torch.randn(600, 2, generator=generator)
    schema = RecordSchema((2,))
    torch.manual_seed(0)
    model = Network(schema, width=32)
    loss = es.PersistentContrastiveDivergence(
        steps=5, step_size=0.005, size=300, reinitialise=0.0, restart_every=5, restart_scale=1.3
    )
    options = es.TrainingOptions(
        epochs=100, batch_size=150, optimizer="adam", lr=5e-3, schedule="linear", ema=0.98, clip=1.0
    )
    trace = es.fit(model, Points(), schema, [Point(row) for row in data], loss, options)
    sampler = es.Langevin(step_size=0.005, restart_every=5, restart_scale=1.3, chains=1, burn_in=200)
    drawn = es.sample(model.graph([()] * 1000), sampler, num_samples=1, generator=generator, quiet=True)
    distance = torch.cdist(drawn.values[RECORD][0].float(), centres)
    found = torch.bincount(distance.argmin(1), minlength=3) / 1000
    assert not trace.rollbacks
    assert float((found - which.bincount() / 600).abs().max()) < 0.08
    assert float((distance.amin(1) < 0.5).double().mean()) > 0.9


def test_parts_of_a_record_may_be_known() -> None:
    """With sites, a part that is given stays as it is and the others are drawn."""
    schema = RecordSchema((3,))
    model = Network(schema, width=8, sites=True)
    graph = model.graph([()] * 2)
    held = graph.condition(schema.values(graph, torch.tensor([[0.5, torch.nan, torch.nan], [torch.nan, 0.1, 0.2]])))
    drawn = (
        es.sample(held, es.Langevin(chains=1, burn_in=20), num_samples=1, quiet=True).values[RECORD][0].reshape(2, 3)
    )
    torch.testing.assert_close(drawn[0, 0], torch.tensor(0.5).to(drawn))
    torch.testing.assert_close(drawn[1, 1:], torch.tensor([0.1, 0.2]).to(drawn))


def test_convolutional_is_of_pictures() -> None:
    """Shapes come from the schema; records that are no pictures are refused, and so are options out of range."""
    model = Convolutional(RecordSchema((1, 8, 8)), filters=(4, 8))
    assert model.graph([()] * 3).energy({RECORD: torch.randn(3, 64)}).shape == (3,)
    with pytest.raises(GraphError, match=r"take generative\.network"):
        Convolutional(RecordSchema((64,)))
    with pytest.raises(GraphError, match="width and depth"):
        Network(RecordSchema((2,)), width=0)
    with pytest.raises(GraphError, match="activation must be one of silu"):
        Network(RecordSchema((2,)), activation="relu")  # type: ignore[arg-type]

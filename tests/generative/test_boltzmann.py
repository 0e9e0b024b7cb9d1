"""Energies of records with hidden units: what their formulas say, how training begins, what their draws look like."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import ConfigError, DataError
from ebmstruct.inference.latent.posterior import latent_posterior
from ebmstruct_generative.boltzmann import Boltzmann, DeepBoltzmann, GaussianBoltzmann
from ebmstruct_generative.experts import Experts
from ebmstruct_generative.mixture import Mixture
from ebmstruct_generative.records import RecordSchema

SCHEMA = RecordSchema((1, 2, 3), levels=(-1.0, -0.5, 0.5, 1.0))


@dataclass(frozen=True)
class Row:
    """A record; nothing is given."""

    y: Tensor
    x: None = None


class Records:
    """What training asks of a task."""

    def encode(self, ys: Any, graph: es.FactorGraph, schema: Any) -> es.Assignment:
        """The records, wherever the graph has them."""
        found: es.Assignment = schema.values(graph, torch.stack(list(ys)))
        return found

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> list[es.Factor]:
        """No output costs more."""
        return []


def test_units_of_records() -> None:
    """Numbers become the nearest levels and come back; what is missing is unknown; a vector is known whole or not."""
    x = torch.tensor([[-1.0, -0.4, 0.6, 1.2, torch.nan, 0.0]])
    four = Boltzmann(SCHEMA, hidden=3, units="levels")
    graph = four.graph([None])
    y = SCHEMA.values(graph, x)
    assert y["units"].tolist()[:4] == [0, 1, 2, 3] and y.known["units"].tolist() == [True] * 4 + [False, True]
    assert SCHEMA.vectors(graph, y)[0, :4].tolist() == [-1.0, -0.5, 0.5, 1.0]
    two = Boltzmann(SCHEMA, hidden=3)
    assert SCHEMA.values(two.graph([None]), x)["units"].tolist()[:4] == [0, 0, 1, 1]
    assert Boltzmann(SCHEMA, units="levels", levels=7).states == 7
    with pytest.raises(ConfigError, match=r"energy\.levels"):
        Boltzmann(RecordSchema((2,)), units="levels")
    with pytest.raises(DataError, match="one vector"):
        SCHEMA.values(GaussianBoltzmann(SCHEMA, hidden=2).graph([None]), x)
    assert not bool(SCHEMA.values(Mixture(SCHEMA, components=2).graph([None]), x).known["record"][4])


@pytest.mark.parametrize("states", [2, 3])
def test_deep_energy(states: int) -> None:
    """The energy of a deep machine is the formula with its offsets, but for a constant; log Z is enumeration's."""
    torch.manual_seed(0)
    model = es.DeepBoltzmannMachine(2, (3, 2), states=states).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
        model.visible_offset.uniform_()
    width = model.visible_bias.shape[1]
    graph, energies = model.graph([None]), []
    for y in itertools.product(range(states), range(states), *[(0, 1)] * 5):
        v, h1, h2 = (torch.tensor(part) for part in (y[:2], y[2:5], y[5:]))
        one = torch.nn.functional.one_hot(v, states)[:, -width:].double().flatten()
        low, high = one - model.visible_offset.flatten(), h1.double() - 0.5
        expected = -(one @ model.visible_bias.flatten()) - h1.double() @ model.biases[0] - h2.double() @ model.biases[1]
        expected = expected - low @ model.weights[0] @ high - high @ model.weights[1] @ (h2.double() - 0.5)
        energies.append(float(expected.detach()))
        if len(energies) == 1:  # all units off
            constant = (
                energies[0] if states == 2 else energies[0] + float((one @ model.visible_bias.flatten()).detach())
            )
            if states > 2:
                constant += float((one @ model.weights[0] @ high).detach())
        energies[-1] -= constant
        found = graph.energy({"v": v, "h1": h1, "h2": h2})
        assert float(found.detach()) == pytest.approx(energies[-1])
    log_z = (-torch.tensor(energies, dtype=torch.float64)).logsumexp(0)
    assert float(es.log_partition(graph).detach()) == pytest.approx(float(log_z))
    assert model.filters().shape == (3, 2)


@pytest.mark.parametrize("centred", [False, True])
def test_training_begins_at_the_data(centred: bool) -> None:
    """Before the first step each unit is on as often as in the data, whatever is centred, up to the first weights."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(500, 6, generator=generator) < torch.linspace(0.1, 0.9, 6)).float() * 2 - 1
    for model in (
        Boltzmann(SCHEMA, hidden=4, centred=centred, weight_spread=1e-4),
        DeepBoltzmann(SCHEMA, hidden=(4, 3), weight_spread=1e-4),
    ):
        graph = model.graph([None] * 500)
        assert model.initialises
        model.initialise(graph, SCHEMA.values(graph, x), generator)
        chance = es.marginals(model.graph([None]), es.JunctionTree()).beliefs["units"][:, 1]
        torch.testing.assert_close(chance.float(), (x > 0).float().mean(0), atol=2e-3, rtol=0)
    gaussian = GaussianBoltzmann(SCHEMA, hidden=2)
    gaussian.initialise(gaussian.graph([None] * 500), es.Assignment({"record": x}), generator)
    torch.testing.assert_close(gaussian.visible_bias.detach(), x.mean(0))


def bars(count: int, generator: torch.Generator) -> Tensor:
    """(count, 9) pictures of 3 x 3, in each of which one row or one column is on (1), and the rest off (-1)."""
    out = -torch.ones(count, 3, 3)
    for picture, at in zip(out, torch.randint(0, 6, (count,), generator=generator).tolist(), strict=True):
        (picture if at < 3 else picture.T)[at % 3] = 1.0
    return out.reshape(count, 9)


@pytest.mark.parametrize("kind", ["plain", "centred", "deep"])
def test_bars_are_learnt_and_drawn(kind: str) -> None:
    """Persistent chains learn bars, all six, drawn twenty times as often as by chance; hidden units are told."""
    generator, schema = torch.Generator().manual_seed(0), RecordSchema((1, 3, 3))
    data = bars(300, generator)
    torch.manual_seed(0)
    model: Any = {
        "plain": lambda: Boltzmann(schema, hidden=12, weight_spread=0.1),
        "centred": lambda: Boltzmann(schema, hidden=12, centred=True, weight_spread=0.1),
        "deep": lambda: DeepBoltzmann(schema, hidden=(12, 6), weight_spread=0.1),
    }[kind]()
    loss = es.PersistentContrastiveDivergence(chains=2, size=120, steps=3, reinitialise=0.0)
    options = es.TrainingOptions(
        epochs=100, batch_size=60, optimizer="sgd", lr=0.3, schedule="linear", average=50,
        checkpoint_s=None, keep_best=False,
    )  # fmt: skip
    es.fit(model, Records(), schema, [Row(y) for y in data], loss, options)
    graph = model.graph([None] * 200)
    drawn = es.sample(graph, es.BlockGibbs(chains=1), num_samples=1, generator=generator, quiet=True)
    found = schema.vectors(graph, es.Assignment({"units": drawn.values["units"][0]}))
    distance = torch.cdist(found, bars(200, generator).unique(dim=0))
    assert float((distance.amin(1) == 0).float().mean()) > 0.2  # of all pictures 1 % are bars
    assert len(distance.argmin(1)[distance.amin(1) == 0].unique()) == 6
    posterior = latent_posterior(model.graph([None] * 5), schema.values(model.graph([None] * 5), data[:5]))
    assert set(posterior) == ({"hidden"} if kind != "deep" else {"hidden1", "hidden2"})
    assert all(p.exact == (kind != "deep") for p in posterior.values())
    assert model.filters().shape == (12, 9)


@pytest.mark.parametrize("kind", ["student", "unigauss", "network"])
def test_products_of_experts(kind: Any) -> None:
    """Every kind is a smooth energy that score matching trains, and has its directions to show."""
    torch.manual_seed(0)
    schema = RecordSchema((3,))
    model = Experts(schema, kind=kind, count=4, width=5)
    x = torch.randn(8, 3)
    graph = model.graph([None] * 8)
    value = es.ScoreMatching()(graph, schema.values(graph, x), generator=torch.Generator().manual_seed(0)).value
    value.sum().backward()
    assert bool(value.isfinite().all()) and all(p.grad is not None for p in model.parameters())
    assert model.filters().shape == ((4, 3) if kind != "network" else (20, 3))


def test_unigauss_expert() -> None:
    """The energy is the formula."""
    torch.manual_seed(0)
    expert, x = es.UniGaussExpert(2, 3).double(), torch.randn(4, 2, dtype=torch.float64)
    a = torch.sigmoid(expert.logit)
    expected = -(1 - a + a * (-0.5 * (x @ expert.weight.T + expert.bias).square()).exp()).log().sum(1)
    torch.testing.assert_close(expert(x), expected)

"""Switches that keep trainings by samples stable: each does what docs/stability.md says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.inference import Query
from ebmstruct.inference.result import Ask
from ebmstruct.learning.losses.base import CLIPPED

WELLS = (0.3, 0.7)


def seeded(seed: int) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def two_wells(x: Tensor) -> Tensor:
    """(B,): normal densities about -2 and 2 of standard deviation 0.2, which hold the shares 0.3 and 0.7."""
    parts = [math.log(w) - 0.5 * ((x - m) / 0.2).square() for w, m in zip(WELLS, (-2.0, 2.0), strict=True)]
    return -torch.logaddexp(*parts)


def graph_of(function: Any, domain: es.Real, instances: int = 1, sites: int = 1) -> es.FactorGraph:
    """A block ``x``, and a function of its first coordinates (B * sites,) summed over the sites of an instance."""
    block = es.Variables.of_lengths("x", domain, [sites] * instances)

    def energy(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return function(x[:, 0]).reshape(-1, sites).sum(1)

    return es.FactorGraph([block], [es.BlockFactor(("x",), "energy", energy)])


def draws(graph: es.FactorGraph, sampler: es.Solver, count: int = 4000, temperature: float = 1.0) -> Tensor:
    """(S, n) draws of the first coordinate."""
    found = es.sample(graph, sampler, num_samples=count, temperature=temperature, generator=seeded(0), quiet=True)
    return found.values["x"][..., 0]


RESTARTING = es.Langevin(step_size=0.002, restart_every=5, restart_scale=2.0, chains=50, burn_in=200, thinning=5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_fresh_starts_find_the_shares_of_valleys(temperature: float) -> None:
    """Valleys of 30 and 70 percent, far apart: chains with fresh starts hold these shares, and others when warm."""
    graph = graph_of(two_wells, es.Real(1))
    line = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    p = torch.exp(-two_wells(line) / temperature)
    expected = float(p[line > 0].sum() / p.sum())
    assert abs(float((draws(graph, RESTARTING, temperature=temperature) > 0).double().mean()) - expected) < 0.03
    tested = es.MALA(step_size=0.01, restart_every=5, restart_scale=2.0, chains=50, burn_in=200, thinning=5)
    assert abs(float((draws(graph, tested, temperature=temperature) > 0).double().mean()) - expected) < 0.03
    stuck = draws(graph, replace(RESTARTING, restart_every=None))
    assert abs(float((stuck > 0).double().mean()) - 0.5) < 0.1  # where they began


def test_fresh_starts_between_bounds_and_beside_evidence() -> None:
    """Between bounds starts are uniform; sites that are known stay, and the others have the distribution given them."""
    box = graph_of(lambda x: -torch.log(0.1 + 1.8 * (x > 0.5).double() + 0 * x), es.Real(1, 0.0, 1.0))
    upper = float((draws(box, replace(RESTARTING, step_size=1e-6)) > 0.5).double().mean())
    assert abs(upper - 1.9 / 2.0) < 0.02
    pair = graph_of(two_wells, es.Real(1), instances=3, sites=2)
    known = es.Assignment({"x": torch.full((6, 1), -2.1)}, {"x": torch.tensor([True, False] * 3)})
    found = draws(pair.condition(known), RESTARTING)
    assert bool((found[:, ::2] == torch.tensor(-2.1)).all())
    assert abs(float((found[:, 1::2] > 0).double().mean()) - 0.7) < 0.04


def test_fresh_starts_are_refused_where_they_have_no_density() -> None:
    """One-sided bounds, manifolds and compiled steps are refused in a sentence."""
    query = Query(Ask.SAMPLE)
    one_sided = graph_of(two_wells, es.Real(1, lower=0.0))
    assert "two bounds or none" in str(RESTARTING.refuse(one_sided, query))
    assert "compiled" in str(replace(RESTARTING, compiled=True).refuse(graph_of(two_wells, es.Real(1)), query))
    assert "restart_every" in str(replace(RESTARTING, restart_every=0).refuse(graph_of(two_wells, es.Real(1)), query))


def test_persistent_chains_with_fresh_starts_learn_the_shares() -> None:
    """A depth of one of two far valleys is learnt by chains that get fresh starts, to the likelihood's 0.3; not without."""
    data = torch.where(torch.rand(200, generator=seeded(1)) < 0.3, -2.0, 2.0)
    data = (data + 0.2 * torch.randn(200, generator=seeded(2)))[:, None]
    share = float((data < 0).double().mean())

    def learnt(loss: es.Loss) -> float:
        depth, state, source = torch.zeros(1, requires_grad=True), None, seeded(3)
        for _ in range(60):
            held = depth
            graph = graph_of(
                lambda x, d=held: -torch.logaddexp(d - 0.5 * ((x + 2) / 0.2) ** 2, -0.5 * ((x - 2) / 0.2) ** 2),
                es.Real(1),
                instances=200,
            )
            found = loss(graph, es.Assignment({"x": data}), generator=source, state=state)
            state = found.state
            (gradient,) = torch.autograd.grad(found.value.mean(), depth)
            depth = (depth - 2.0 * gradient).detach().requires_grad_()
        return float(torch.sigmoid(depth.detach()))

    plain = es.PersistentContrastiveDivergence(steps=2, step_size=0.002, size=400, reinitialise=0.0)
    assert abs(learnt(replace(plain, restart_every=2, restart_scale=2.0)) - share) < 0.05
    assert abs(learnt(plain) - share) > 0.1


def test_samples_are_clipped() -> None:
    """On an energy that falls outwards samples end at the clip, known sites do not; the loss says how many do."""
    graph = graph_of(lambda x: -5.0 * x.square(), es.Real(1), instances=4)
    far = draws(graph, es.Langevin(step_size=0.1, clip_sample=1.5, chains=1, burn_in=50), count=20)
    assert float(far.abs().max()) == 1.5
    known = es.Assignment({"x": torch.full((4, 1), 9.0)}, {"x": torch.tensor([True, False, False, False])})
    held = draws(graph.condition(known), es.Langevin(step_size=0.1, clip_sample=1.5, chains=1, burn_in=50), count=20)
    assert bool((held[:, 0] == 9.0).all()) and float(held[:, 1:].abs().max()) == 1.5
    loss = es.ContrastiveDivergence(steps=50, step_size=0.1, clip_sample=1.5)
    found = loss(graph, es.Assignment({"x": torch.full((4, 1), 0.1)}), generator=seeded(0))
    assert found.figures[CLIPPED].tolist() == [1.0] * 4
    assert float(found.incorrect.min()) == float(found.incorrect.max()) == -5.0 * 1.5**2  # type: ignore[union-attr]


def test_gradients_and_steps_of_chains_are_clipped() -> None:
    """A chain of a loss on a slope of 1000 moves no further than its clips allow."""
    graph = graph_of(lambda x: 1000.0 * x, es.Real(1), instances=50)
    target = es.Assignment({"x": torch.zeros(50, 1)})

    def reached(**clips: Any) -> float:
        loss = es.ContrastiveDivergence(steps=1, step_size=0.01, noise_scale=1e-9, **clips)
        found = loss(graph, target, generator=seeded(0))
        return float(found.incorrect.mean()) / 1000.0  # type: ignore[union-attr]

    assert reached() == pytest.approx(-10.0, rel=1e-4)
    assert reached(clip_gradient=3.0) == pytest.approx(-0.03, rel=1e-4)
    assert reached(clip_step=0.5) == pytest.approx(-0.5, rel=1e-4)


def test_noise_on_the_data() -> None:
    """Targets at 0 get a mean energy of x^2 that is the variance of the noise; what is known for certain gets none."""
    graph = graph_of(lambda x: x.square(), es.Real(1), instances=4000)
    loss = es.PersistentContrastiveDivergence(data_noise=0.3, size=4000)
    found = loss(graph, es.Assignment({"x": torch.zeros(4000, 1)}), generator=seeded(0))
    assert float(found.correct.mean()) == pytest.approx(0.09, rel=0.1)  # type: ignore[union-attr]
    known = es.Assignment({"x": torch.full((4000, 1), 2.0)}, {"x": torch.arange(4000) < 2000})
    target = es.Assignment({"x": torch.full((4000, 1), 2.0)})
    half = loss(graph.condition(known), target, generator=seeded(0))
    assert bool((half.correct[:2000] == 4.0).all()) and not bool((half.correct[2000:] == 4.0).any())  # type: ignore[index]


def test_the_energies_square_keeps_their_level() -> None:
    """With energy_decay the mean energies of data and samples are drawn to 0; without nothing holds them."""

    def level(decay: float) -> float:
        offset, state, source = torch.full((1,), 3.0, requires_grad=True), None, seeded(0)
        loss = es.PersistentContrastiveDivergence(energy_decay=decay, step_size=0.1, size=100)
        for _ in range(60):
            held = offset
            graph = graph_of(lambda x, o=held: 0.01 * x.square() + o, es.Real(1), instances=50)
            found = loss(graph, es.Assignment({"x": torch.zeros(50, 1)}), generator=source, state=state)
            state = found.state
            (gradient,) = torch.autograd.grad(found.value.mean(), offset)
            offset = (offset - 0.1 * gradient).detach().requires_grad_()
        return float(offset.detach())

    assert abs(level(0.1)) < 0.3 and level(0.0) == pytest.approx(3.0, abs=1e-5)


def test_steps_and_noise_apart() -> None:
    """noise_scale is the noise's own standard deviation, whatever the step."""
    graph = graph_of(lambda x: 0.0 * x, es.Real(1), instances=5000)
    target = es.Assignment({"x": torch.zeros(5000, 1)})
    loss = es.PersistentContrastiveDivergence(steps=4, step_size=7.0, noise_scale=0.1, size=5000, reinitialise=0.0)
    first = loss(graph, target, generator=seeded(0))
    rows = first.state["rows"]
    moved = first.state["pending"]["x"][:, 0, 0] - first.state["buffer"]["values"]["x"][rows][:, 0, 0]
    assert float(moved.std()) == pytest.approx(0.1 * 4**0.5, rel=0.05)


def test_options_that_only_langevin_has_are_refused_beside_other_samplers() -> None:
    """Clips and fresh starts beside HMC, or beside the terms through the sampler, are refused and named."""
    graph = graph_of(two_wells, es.Real(1), instances=2)
    target = es.Assignment({"x": torch.zeros(2, 1)})
    for options in ({"sampler": "hmc"}, {"entropy": 0.1, "neighbours": "batch"}):
        loss = es.ContrastiveDivergence(clip_sample=1.0, restart_every=3, **options)  # type: ignore[arg-type]
        with pytest.raises(es.LossRefusal, match="clip_sample and restart_every"):
            loss(graph, target)

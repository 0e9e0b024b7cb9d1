"""Tempering: both modes of mixtures far apart, moments of spins against elimination, manifolds, deadlines and seeds."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph import Assignment, BlockFactor, Discrete, FactorGraph, Real, TableFactor, Variables
from ebmstruct.inference.diagnostics import by_chain, diagnose, mcse_mean
from ebmstruct.inference.result import Ask, Budget, Query, Samples, Status
from ebmstruct.inference.sampling.temperature_ladder import Ladder
from ebmstruct.inference.solver import Solver
from ebmstruct.testing import oracle, random_graph, sites_of

SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_modes(apart: float, dim: int = 2, instances: int = 1, bad: Tensor | None = None) -> FactorGraph:
    """Unit normals ``apart`` from each other along the first axis, with the shares 0.3 and 0.7."""
    centres = torch.zeros(2, dim, dtype=torch.float64)
    centres[:, 0] = torch.tensor([-apart / 2, apart / 2])
    added = torch.zeros(instances, dtype=torch.float64) if bad is None else bad

    def energy(x: Tensor, added: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return added - torch.logsumexp(SHARES.log() - 0.5 * (x[:, None] - centres).square().sum(-1), 1)

    block = Variables.of_lengths("x", Real(dim), [1] * instances)
    return FactorGraph([block], [BlockFactor(("x",), "mixture", energy, inputs=(added,))])


def off(samples: Samples, figure: Tensor, truth: float) -> float:
    """By how many of its standard errors the mean of a figure (S,) is off."""
    error = float(mcse_mean(by_chain(samples, figure.double()[:, None])))
    return abs(float(figure.double().mean()) - truth) / error


def test_both_modes_are_found() -> None:
    """Modes ten apart: the share of the heavy one is within 3 standard errors; a single temperature is told to disagree."""
    graph = two_modes(10.0)
    samples = es.sample(graph, es.ReplicaExchange(), num_samples=2000, generator=seeded(0))
    x = samples.values["x"][:, 0]
    assert off(samples, x[:, 0] > 0, 0.7) < 3 and off(samples, x[:, 0], 10.0 * (0.7 - 0.5)) < 3
    assert off(samples, x[:, 1].square(), 1.0) < 3 and samples.warnings == ()
    assert min(samples.stats["swap_acceptance"]) > 0.2 and 0.6 < float(samples.stats["acceptance"]) < 0.95
    torch.testing.assert_close(graph.energy({"x": samples.values["x"][7]}), samples.energy[7])
    single = es.ReplicaExchange(replicas=1, warm_up=200)
    start = Assignment({"x": torch.tensor([[-5.0, 0.0]], dtype=torch.float64)})
    stuck = es.sample(graph, single, num_samples=400, init=start, generator=seeded(0))
    assert (stuck.values["x"][:, 0, 0] < 0).all(), "one temperature never crosses"
    apart = es.sample(graph, single, num_samples=800, generator=seeded(4))
    assert any("disagree" in w for w in apart.warnings) and diagnose(apart).worst_r_hat > 1.5


@pytest.mark.slow
def test_both_modes_over_twenty_seeds() -> None:
    """Modes twenty apart, twenty seeds: the mean share is within 3 standard errors of 0.7, and each within 4 of its own."""
    graph, shares = two_modes(20.0), []
    for seed in range(20):
        samples = es.sample(graph, es.ReplicaExchange(), num_samples=2000, generator=seeded(seed))
        shares.append(float((samples.values["x"][:, 0, 0] > 0).double().mean()))
        assert off(samples, samples.values["x"][:, 0, 0] > 0, 0.7) < 4
    found = torch.tensor(shares, dtype=torch.float64)
    assert abs(float(found.mean()) - 0.7) < 3 * float(found.std()) / 20**0.5 and float(found.std()) < 0.1


def test_mixed_graphs() -> None:
    """A switch that sets where a number lies, ten apart: shares, means and spreads are those of the mixture."""
    switch, number = Variables.of_lengths("k", Discrete(2), [1]), Variables.of_lengths("x", Real(1), [1])

    def energy(k: Tensor, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return 0.5 * (x[:, 0] - 10.0 * k).square() + k * math.log(3.0)

    graph = FactorGraph([switch, number], [BlockFactor(("k", "x"), "mixture", energy)])
    samples = es.sample(graph, es.ReplicaExchange(), num_samples=2000, generator=seeded(1))
    k, x = samples.values["k"][:, 0], samples.values["x"][:, 0, 0]
    assert off(samples, k, 0.25) < 3.5 and off(samples, x, 2.5) < 3.5
    assert off(samples, (x - 10.0 * k).square(), 1.0) < 3.5


def test_states_without_tables() -> None:
    """States of any energy, at another temperature: shares of enumeration, by flips alone."""
    graph = random_graph([4, 0, 3], 3, seeded(2), rows=2, scale=1.5)
    samples = es.sample(graph, es.ReplicaExchange(replicas=4), num_samples=4000, temperature=1.3, generator=seeded(1))
    for b, truth in enumerate(oracle(graph)):
        for i, (block, site) in enumerate(sites_of(graph, b)):
            share = float((samples.values[block][:, site] == 0).double().mean())
            assert share == pytest.approx(truth.marginal(i, 0, 1.3), abs=0.05)


def test_rotations() -> None:
    """Two equal wells on the circle, and the uniform density on rotations: half in each well; E[w^2] of quaternions 1/4."""
    circle, turn = Variables.of_lengths("a", es.SO2(), [1]), Variables.of_lengths("r", es.SO3(), [1])

    def energy(a: Tensor, r: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return -8.0 * a[:, 0].square() + 0.0 * r[:, 0]

    graph = FactorGraph([circle, turn], [BlockFactor(("a", "r"), "wells", energy)])
    samples = es.sample(graph, es.ReplicaExchange(replicas=4), num_samples=2000, generator=seeded(0))
    a, r = samples.values["a"][:, 0], samples.values["r"][:, 0]
    assert off(samples, a[:, 0] > 0, 0.5) < 3.5 and off(samples, r[:, 0].square(), 0.25) < 3.5
    assert (r.norm(dim=1) - 1).abs().max() < 1e-6


def test_bounds() -> None:
    """exp(-x) between 0 and 1: the mean is 1 - 1 / (e - 1); nothing lies outside."""
    block = Variables.of_lengths("x", Real(1, 0.0, 1.0), [1])
    graph = FactorGraph([block], [BlockFactor(("x",), "slope", lambda x, offsets: x[:, 0])])
    samples = es.sample(graph, es.ReplicaExchange(replicas=2), num_samples=2000, generator=seeded(0))
    x = samples.values["x"][:, 0, 0]
    assert float(x.min()) >= 0 and float(x.max()) <= 1 and off(samples, x, 1 - 1 / (math.e - 1)) < 3.5


def test_seeds_budgets_and_bad_instances() -> None:
    """Same seed, same draws; budgets are told and kept; an instance of NaN harms no other."""
    graph = two_modes(6.0, instances=3, bad=torch.tensor([0.0, math.nan, 0.0], dtype=torch.float64))
    solver = es.ReplicaExchange(warm_up=100)
    one, two = (es.sample(graph, solver, num_samples=40, generator=seeded(5)) for _ in range(2))
    assert torch.equal(one.values["x"], two.values["x"])
    assert one.statuses == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
    assert one.energy[:, [0, 2]].isfinite().all() and one.values["x"].isfinite().all()
    early = es.sample(graph, solver, num_samples=40, budget=Budget(max_steps=103))
    assert early.statuses[0] is Status.MAX_STEPS and early.stats["distinct"] == 12 and early.energy.shape == (40, 3)
    for seconds in (0.0, 0.2):
        begun = time.monotonic()
        late = es.sample(graph, es.ReplicaExchange(), num_samples=10**6, budget=Budget.after(seconds))
        assert time.monotonic() - begun < seconds + 1.0 and late.statuses[0] is Status.DEADLINE


def test_refusals() -> None:
    """Other questions, wrong options and constraints are refused in a sentence."""
    graph, ask = two_modes(1.0), Query(Ask.SAMPLE, num_samples=2)
    assert es.ReplicaExchange().refuse(graph, Query()) and es.ReplicaExchange(hot=0.5).refuse(graph, ask)
    assert es.ReplicaExchange(chains=0).refuse(graph, ask) and es.ReplicaExchange().refuse(graph, ask) is None
    pinned = es.ResidualFactor(("x",), "pin", lambda x: x - 1.0, index=torch.zeros(1, 1).long(), constraint="equality")
    assert "pin" in str(es.ReplicaExchange().refuse(graph.add(pinned), ask))


def test_ladder() -> None:
    """Exchanges: sure where heat holds the lower energy; every rung is held once; gaps widen where all is taken."""
    ladder = Ladder.of(1.0, 8.0, 2, 4, 3)
    torch.testing.assert_close(ladder.temperatures[:, 0], torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64))
    energy = torch.tensor([50.0, -50.0, 50.0, -50.0], dtype=torch.float64)[None, :, None].expand(2, 4, 3)
    after, chance = ladder.exchanged(energy, seeded(0))
    assert after.holder[0, :, 0].tolist() == [1, 0, 3, 2] and chance[[0, 2]].min() == 1.0 and chance[1].isnan().all()
    back, chance = after.exchanged(energy, seeded(0))
    assert back.holder.sort(1).values[0, :, 0].tolist() == [0, 1, 2, 3] and float(back.acceptance[0, 0]) == 1.0
    wide = ladder.spread(torch.ones(3, 3, dtype=torch.float64), 0.5, 1e9)
    assert (wide.temperatures[1:] > ladder.temperatures[1:]).all() and (wide.temperatures[0] == 1.0).all()
    assert float(ladder.spread(torch.ones(3, 3).double(), 5.0, 10.0).temperatures.max()) == pytest.approx(10.0)


def ising(side: int, strength: float, field: float) -> FactorGraph:
    """A square grid of spins, -strength s s' for neighbours and -field s for each, as tables."""
    sites = torch.arange(side * side).reshape(side, side)
    right = torch.stack([sites[:, :-1].reshape(-1), sites[:, 1:].reshape(-1)])
    down = torch.stack([sites[:-1].reshape(-1), sites[1:].reshape(-1)])
    table = strength * torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    block = Variables.of_lengths("s", Discrete(2), [side * side])
    fields = torch.tensor([field, -field], dtype=torch.float64).expand(side * side, 2).contiguous()
    pair = TableFactor(("s", "s"), "pair", table, index=torch.cat([right, down], 1))
    return FactorGraph([block], [TableFactor(("s",), "field", fields), pair])


def magnetisation(side: int, strength: float, field: float) -> tuple[float, float]:
    """Mean and mean square of the sum of spins, from derivatives of the exact log Z by the field."""
    step = 1e-3
    low, middle, high = (
        float(es.log_partition(ising(side, strength, field + h), es.JunctionTree())) for h in (-step, 0.0, step)
    )
    mean = (high - low) / (2 * step)
    return mean, (high - 2 * middle + low) / step**2 + mean**2


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        es.BlockGibbs(),
        es.ParallelTempering(),
        es.GibbsWithGradients(chains=8, thinning=18),
        es.ReplicaExchange(replicas=4),
    ],
    ids=lambda s: s.name,
)
def test_magnetisation_over_twenty_seeds(solver: Solver) -> None:
    """A 6 x 6 grid of spins near its critical coupling: both moments within 3 standard errors over twenty seeds."""
    side, strength, field = 6, 0.35, 0.05
    graph, found = ising(side, strength, field), []
    for seed in range(20):
        samples = es.sample(graph, solver, num_samples=1000, generator=seeded(seed))
        total = (2.0 * samples.values["s"].double() - 1.0).sum(1)
        found.append(torch.stack([total.mean(), total.square().mean()]))
    moments = torch.stack(found)
    error = moments.std(0) / 20**0.5
    assert ((moments.mean(0) - torch.tensor(magnetisation(side, strength, field))).abs() < 3 * error).all()

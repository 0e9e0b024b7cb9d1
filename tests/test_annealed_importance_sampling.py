"""Annealed importance sampling: intervals against enumeration and closed forms, deadlines, seeds, and bad instances."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, BlockFactor, Discrete, FactorGraph, Real, ResidualFactor, TableFactor, Variables
from ebmstruct.inference.annealed.importance import log_mean, next_beta
from ebmstruct.inference.result import Ask, Budget, Query, Status
from ebmstruct.testing import oracle, random_graph, sites_of


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def machine(seed: int, visible: int, hidden: int, scale: float) -> FactorGraph:
    """A restricted Boltzmann machine: every visible unit joined to every hidden one by -w v h."""
    units = [Variables.of_lengths("v", Discrete(2), [visible]), Variables.of_lengths("h", Discrete(2), [hidden])]
    index = torch.cartesian_prod(torch.arange(visible), torch.arange(hidden)).T.contiguous()
    tables = torch.zeros(visible * hidden, 2, 2, dtype=torch.float64)
    tables[:, 1, 1] = normal(seed, visible * hidden, scale=scale)
    bias = [TableFactor((n,), f"bias_{n}", normal(seed + 1, k, 2)) for n, k in (("v", visible), ("h", hidden))]
    return FactorGraph(units, [*bias, TableFactor(("v", "h"), "weights", tables, index=index)])


def ising(seed: int, height: int, width: int, strength: float, field: float = 0.1) -> FactorGraph:
    """A grid of spins with couplings ``strength`` (rising energy where neighbours differ) and small random fields."""
    sites = torch.arange(height * width).reshape(height, width)
    right = torch.stack([sites[:, :-1].reshape(-1), sites[:, 1:].reshape(-1)])
    down = torch.stack([sites[:-1].reshape(-1), sites[1:].reshape(-1)])
    table = strength * torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    block = Variables.of_lengths("s", Discrete(2), [height * width])
    fields = TableFactor(("s",), "field", normal(seed, height * width, 2, scale=field))
    return FactorGraph([block], [fields, TableFactor(("s", "s"), "pair", table, index=torch.cat([right, down], 1))])


def enumerable(number: int) -> FactorGraph:
    """One of a hundred models that can be listed: random graphs, Boltzmann machines, Ising grids weak and strong."""
    kind = number % 4
    if kind == 0:
        return random_graph([6], 3, seeded(number), forbid=0.2 * (number % 8 == 4), scale=1.0 + number % 3)
    if kind == 1:
        return machine(number, 6, 3, 0.5 + number % 3)
    strength = (0.2, 0.44, 0.8, 1.5, -0.6)[number // 4 % 5]
    return ising(number, 3, 3, strength) if kind == 2 else ising(number, 2, 4, strength, field=1.0)


def covered(numbers: range) -> tuple[int, int, float]:
    """How many intervals hold the truth, of how many, and their mean width."""
    held, seen, width = 0, 0, 0.0
    for number in numbers:
        graph = enumerable(number)
        truth = oracle(graph)[0].log_partition()
        found = es.bound_log_partition(graph, es.AnnealedImportanceSampling(), generator=seeded(number))
        low, high = found.stats["log_partition_interval"][:, 0].tolist()
        if truth == -math.inf:
            continue
        held, seen, width = held + (low <= truth <= high), seen + 1, width + high - low
    return held, seen, width / max(1, seen)


def test_intervals_hold_the_truth() -> None:
    """Twelve models that can be listed: every interval holds log Z, and they are 0.15 wide in the mean."""
    held, seen, width = covered(range(12))
    assert held == seen >= 11 and width < 0.25


@pytest.mark.slow
def test_intervals_of_a_hundred_models() -> None:
    """At least 95 of a hundred intervals hold log Z, and they are not uselessly wide."""
    held, seen, width = covered(range(110))
    assert seen >= 100 and held >= 0.95 * seen and width < 0.25


def test_marginals_are_weighted() -> None:
    """Weighted shares of states are the marginals of enumeration to 0.1, closed sites and infeasible instances too."""
    graph = random_graph([5, 0, 4], 3, seeded(3), forbid=0.1, scale=1.5, blocks=2)
    found = es.marginals(graph, es.AnnealedImportanceSampling(particles=1000), temperature=1.3)
    for b, truth in enumerate(oracle(graph)):
        for i, (block, site) in enumerate(sites_of(graph, b)):
            for k in range(int(graph.variables[block].state_counts[site])):
                exact = 0.0 if truth.minimum == math.inf else truth.marginal(i, k, 1.3)
                assert float(found.beliefs[block][site, k]) == pytest.approx(exact, abs=0.1)
    assert not found.exact and (found.stats["effective_samples"] > 200).all()


def gaussian(dim: int, instances: int, scale: float) -> tuple[FactorGraph, float, Tensor, Tensor]:
    """Correlated normal densities about 0, 1, ...; their log Z, means and precision."""
    root = normal(1, dim, dim)
    precision = (root @ root.T / dim + 0.3 * torch.eye(dim, dtype=torch.float64)) / scale**2
    centre = torch.arange(instances, dtype=torch.float64)[:, None].expand(-1, dim)

    def energy(x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        apart = x - centre.repeat(x.shape[0] // instances, 1)
        return 0.5 * ((apart @ precision) * apart).sum(-1)

    block = Variables.of_lengths("x", Real(dim), [1] * instances)
    log_z = 0.5 * dim * math.log(2 * math.pi) - 0.5 * float(torch.logdet(precision))
    return FactorGraph([block], [BlockFactor(("x",), "normal", energy)]), log_z, centre, precision


@pytest.mark.parametrize(("dim", "scale"), [(2, 1.0), (5, 3.0), (20, 0.1)])
def test_normal_densities(dim: int, scale: float) -> None:
    """The interval holds log Z of Gaussians far and near; means and covariances are those of the density."""
    graph, log_z, centre, precision = gaussian(dim, 2, scale)
    found = es.marginals(graph, es.AnnealedImportanceSampling(), generator=seeded(0))
    low, high = found.stats["log_partition_interval"]
    assert ((low <= log_z) & (log_z <= high)).all() and float((high - low).max()) < 0.5
    covariance = torch.linalg.inv(precision)
    error = (found.means["x"] - centre).abs() / covariance.diagonal().sqrt()
    assert float(error.max()) < 5 / 100**0.5
    spread = found.covariances["x"].diagonal(dim1=1, dim2=2) / covariance.diagonal()
    assert float(spread.log().abs().mean()) < 0.25


@pytest.mark.slow
def test_intervals_of_normal_densities() -> None:
    """Over 20 seeds and two instances each, at least 38 of 40 intervals hold the log Z of 10-d Gaussians."""
    graph, log_z, _, _ = gaussian(10, 2, 2.0)
    held = 0
    for seed in range(20):
        found = es.bound_log_partition(graph, es.AnnealedImportanceSampling(), generator=seeded(seed))
        low, high = found.stats["log_partition_interval"]
        held += int(((low <= log_z) & (log_z <= high)).sum())
    assert held >= 38


def test_bounds_and_temperature() -> None:
    """exp(-x^2 / 2 T) between -1 and 2 and from 0 up: uniform and half-normal starts, integrals by the error function."""
    temperature = 1.7
    box = Variables.of_lengths("x", Real(1, -1.0, 2.0), [2])
    ray = Variables.of_lengths("z", Real(1, 0.0), [1])
    factors = [ResidualFactor((n,), n, lambda v: v, index=torch.arange(k)[None]) for n, k in (("x", 2), ("z", 1))]
    graph = FactorGraph([box, ray], factors)
    unit = float(graph.energy({"x": torch.ones(2, 1).double(), "z": torch.ones(1, 1).double()})) / 3  # of x = 1
    wide = math.sqrt(temperature / (2 * unit))

    def share(x: float) -> float:
        return 0.5 * (1 + math.erf(x / wide / math.sqrt(2)))

    whole = math.log(wide * math.sqrt(2 * math.pi))
    log_z = 2 * (whole + math.log(share(2.0) - share(-1.0))) + whole + math.log(0.5)
    found = es.bound_log_partition(graph, es.AnnealedImportanceSampling(), temperature=temperature)
    low, high = (float(end) for end in found.stats["log_partition_interval"])
    assert low <= log_z <= high and high - low < 0.3


def test_two_modes_and_mixed_graphs() -> None:
    """A switch and a number: log Z of a mixture of normals 10 apart is the log of its two integrals; shares as theirs."""
    switch, number = Variables.of_lengths("k", Discrete(2), [1]), Variables.of_lengths("x", Real(1), [1])

    def energy(k: Tensor, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return 0.5 * (x[:, 0] - 10.0 * k).square() + k * math.log(3.0)

    graph = FactorGraph([switch, number], [BlockFactor(("k", "x"), "mixture", energy)])
    found = es.marginals(graph, es.AnnealedImportanceSampling(base_scale=10.0, particles=1000), generator=seeded(0))
    low, high = (float(end) for end in found.stats["log_partition_interval"])
    assert low <= 0.5 * math.log(2 * math.pi) + math.log(4 / 3) <= high and high - low < 1.0
    assert float(found.beliefs["k"][0, 1]) == pytest.approx(0.25, abs=0.1)


def test_states_without_tables() -> None:
    """A function of whole blocks, three sites of which two want to be on: the path by flips finds its log Z."""
    block = Variables.of_lengths("y", Discrete(2), [3, 3])

    def two_on(y: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return 2.0 * (y.reshape(-1, 3).sum(1).double() - 2.0) ** 2

    graph = FactorGraph([block], [BlockFactor(("y",), "two", two_on)])
    graph = graph.condition(Assignment({"y": torch.ones(6, dtype=torch.long)}, {"y": torch.arange(6) == 5}))
    found = es.bound_log_partition(graph, es.AnnealedImportanceSampling(particles=500), generator=seeded(0))
    low, high = found.stats["log_partition_interval"]
    log_z = torch.tensor([math.log(3 + 4 * math.exp(-2) + math.exp(-8)), math.log(2 + 2 * math.exp(-2))])
    assert ((low <= log_z) & (log_z <= high)).all() and float((high - low).max()) < 0.5


def test_seeds_schedules_and_budgets() -> None:
    """Same seed, same answer; a schedule is obeyed; budgets of steps and of time are told and kept."""
    graph = ising(0, 3, 3, 0.4)
    solver = es.AnnealedImportanceSampling()
    one, two = (es.bound_log_partition(graph, solver, generator=seeded(3)) for _ in range(2))
    assert torch.equal(one.log_partition, two.log_partition) and one.statuses == [Status.CONVERGED]
    given = es.bound_log_partition(
        graph, es.AnnealedImportanceSampling(schedule=(0.0, 0.3, 0.6, 1.0)), generator=seeded(1)
    )
    assert given.stats["temperatures"] == 3 and given.statuses == [Status.CONVERGED]
    few = es.bound_log_partition(graph, solver, budget=Budget(max_steps=5))
    assert few.stats["temperatures"] == 5 and few.statuses == [Status.MAX_STEPS]
    truth = oracle(graph)[0].log_partition()
    for found in (given, few):
        low, high = found.stats["log_partition_interval"][:, 0].tolist()
        assert low <= truth <= high
    large = ising(1, 60, 60, 0.44)
    es.bound_log_partition(large, es.AnnealedImportanceSampling(particles=4), budget=Budget(max_steps=1))
    for seconds in (0.0, 0.05, 0.3):
        begun = time.monotonic()
        found = es.bound_log_partition(large, solver, budget=Budget.after(seconds))
        assert time.monotonic() - begun < seconds + 1.5 and found.statuses == [Status.DEADLINE]
        assert found.log_partition.isfinite().all() and not found.stats["log_partition_interval"].isnan().any()
    smooth, _, _, _ = gaussian(20, 2, 1.0)
    begun = time.monotonic()
    found = es.bound_log_partition(smooth, solver, budget=Budget.after(0.1))
    assert time.monotonic() - begun < 1.6 and set(found.statuses) == {Status.DEADLINE}
    assert not found.log_partition.isnan().any()


def test_one_bad_instance_harms_nobody() -> None:
    """An energy that is NaN, one that is minus infinity, and a sound one: two NONFINITE, and a true log Z."""
    block = Variables.of_lengths("x", Real(1), [1, 1, 1])
    fault = torch.tensor([math.nan, -math.inf, 0.0], dtype=torch.float64)

    def energy(x: Tensor, added: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        return 0.5 * x[:, 0] ** 2 + added

    graph = FactorGraph([block], [BlockFactor(("x",), "broken", energy, inputs=(fault,))])
    found = es.marginals(graph, es.AnnealedImportanceSampling(), generator=seeded(0))
    assert found.statuses == [Status.NONFINITE, Status.NONFINITE, Status.CONVERGED]
    assert float(found.log_partition[2]) == pytest.approx(0.5 * math.log(2 * math.pi), abs=0.1)
    assert found.means["x"].isfinite().all()


def test_refusals() -> None:
    """What it cannot do it refuses in a sentence: minima, constraints, manifolds, wrong options."""
    graph = ising(0, 2, 2, 0.1)
    solver = es.AnnealedImportanceSampling()
    assert solver.refuse(graph, Query()) and solver.refuse(graph, Query(Ask.SAMPLE))
    assert solver.refuse(graph, Query(Ask.MARGINALS, factors=("pair",)))
    ask = Query(Ask.LOG_PARTITION)
    assert es.AnnealedImportanceSampling(schedule=(0.0, 0.5)).refuse(graph, ask)
    assert es.AnnealedImportanceSampling(particles=1).refuse(graph, ask)
    assert es.AnnealedImportanceSampling(conditional_ess=1.0).refuse(graph, ask)
    turning = FactorGraph([Variables.of_lengths("r", es.SO3(), [1])], [])
    with pytest.raises(SolverRefusal, match="SO3"):
        es.bound_log_partition(turning, solver)


def test_log_means() -> None:
    """Equal weights: no error; log-normal ones: the interval holds the mean in 97 of 100; all zero: nothing is known."""
    even = log_mean(torch.full((50, 2), -3.0))
    assert even.value.tolist() == [-3.0, -3.0] and even.error.tolist() == [0.0, 0.0]
    held = torch.zeros(())
    for seed in range(5):
        found = log_mean(1.5 * normal(seed, 256, 200))
        held = held + ((found.lower <= 1.125) & (found.upper >= 1.125)).double().mean() / 5
    assert float(held) >= 0.97
    none = log_mean(torch.full((5, 1), -torch.inf))
    assert none.value.tolist() == [-math.inf] and none.upper.tolist() == [math.inf] and none.effective.tolist() == [0.0]
    one = log_mean(torch.tensor([[0.0], [-torch.inf], [-torch.inf]]))
    assert one.lower[0] < -1.09 < one.upper[0] and float(one.effective) == pytest.approx(1.0)


def test_steps_of_equal_conditional_size() -> None:
    """Two kinds of particles, potentials 0 and -10: the step at which half of the weight is left is found."""
    potential = torch.tensor([[0.0], [-10.0]], dtype=torch.float64)
    beta = next_beta(torch.zeros(1).double(), torch.zeros(2, 1).double(), potential, 0.8)
    u = math.exp(-10.0 * float(beta))
    assert (1 + u) ** 2 / (2 * (1 + u * u)) == pytest.approx(0.8, abs=1e-6)
    assert float(next_beta(torch.zeros(1).double(), torch.zeros(2, 1).double(), 1e-3 * potential, 0.8)) == 1.0

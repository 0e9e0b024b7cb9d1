"""Annealing and parallel tempering: small optima, batches, seeds, barriers."""

from __future__ import annotations

import pytest
import torch

import ebmstruct as es
from ebmstruct.graph import Assignment, Discrete, FactorGraph, GridFactor, TableFactor, Variables, potts_table, union
from ebmstruct.inference.result import Ask, Budget, Query, Status
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.solvers.annealing import Annealing
from ebmstruct.inference.solvers.gibbs import BlockGibbs
from ebmstruct.inference.solvers.tempering import ParallelTempering
from ebmstruct.testing import oracle, random_chain, random_graph, random_grid, sites_of

MINIMIZERS: tuple[Solver, ...] = (
    Annealing(sweeps=500),
    Annealing(sweeps=500, schedule="linear"),
    ParallelTempering(sweeps=300),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("solver", MINIMIZERS, ids=lambda s: f"{s.name}-{getattr(s, 'schedule', '')}")
@pytest.mark.parametrize("seed", range(4))
def test_small_graphs(solver: Solver, seed: int) -> None:
    """Mixed states, arities to 4, forbidden entries, empty instances: never below the least energy, and it is found."""
    graph = random_graph([5, 0, 4, 1], 3, seeded(seed), forbid=(0.0, 0.15)[seed % 2], blocks=1 + seed % 2)
    result = es.minimize(graph, solver, generator=seeded(2))
    assert torch.equal(graph.energy(result.assignment), result.energy)
    for b, truth in enumerate(oracle(graph)):
        assert float(result.energy[b]) == pytest.approx(truth.minimum)


@pytest.mark.parametrize("solver", MINIMIZERS[::2], ids=lambda s: s.name)
def test_seeds_batches_and_budgets(solver: Solver) -> None:
    """Same seed, same answer; a batch reaches what its parts reach; no budget at all still gives an assignment."""
    parts = [random_grid([(4, 4)], 3, seeded(s)) for s in range(3)]
    batch = union(parts)
    one, two = (es.minimize(batch, solver, generator=seeded(3)) for _ in range(2))
    assert torch.equal(one.assignment["y"], two.assignment["y"])
    torch.testing.assert_close(one.energy, torch.cat([es.minimize(p, solver).energy for p in parts]))
    nothing = es.minimize(batch, solver, budget=Budget(max_steps=0))
    assert bool(nothing.energy.isfinite().all()) and nothing.statuses[0] is Status.MAX_STEPS
    for query in (Query(Ask.MARGINALS), Query(k=2), Query(sum_out=("y",))):
        assert solver.refuse(batch, query)


@pytest.mark.parametrize("solver", MINIMIZERS[::2], ids=lambda s: s.name)
def test_infeasible_and_clamped(solver: Solver) -> None:
    """An instance that the tables show infeasible is told so; a clamped graph keeps its only assignment."""
    graph = random_chain([3, 2], 2, seeded(1))
    allowed = torch.ones(5, 2, dtype=torch.bool)
    allowed[1] = False
    result = es.minimize(graph.condition(Assignment({}, allowed={"y": allowed})), solver)
    assert result.statuses[0] is Status.INFEASIBLE and float(result.energy[1]) < float("inf")
    values = {"y": torch.ones(5, dtype=torch.long)}
    assert torch.equal(es.minimize(graph.condition(Assignment(values)), solver).energy, graph.energy(values))


def magnet(side: int, coupling: float) -> FactorGraph:
    """A ferromagnet on a grid without field: two valleys of equal weight, and a high barrier between them."""
    block = Variables.of_lengths("y", Discrete(2), [side * side])
    ones = torch.ones(side * side, dtype=torch.float64)
    grid = GridFactor(("y",), "grid", coupling * potts_table(2, torch.float64), ones, ones, torch.tensor([side]))
    return FactorGraph([block], [grid])


def test_tempering_crosses_barriers() -> None:
    """In a cold ferromagnet Gibbs stays in the valley it starts in, tempering visits both about equally often."""
    graph = magnet(5, 1.6)
    start = Assignment({"y": torch.zeros(25, dtype=torch.long)})
    query = Query(Ask.SAMPLE, num_samples=800)
    still = BlockGibbs(chains=1, thinning=1, sweeps=800, patience=1).solve(
        graph, query, init=start, generator=seeded(0)
    )
    moving = ParallelTempering(thinning=2).solve(graph, query, init=start, generator=seeded(0))
    up = lambda samples: float((samples.values["y"].double().mean(1) > 0.5).double().mean())  # noqa: E731
    assert up(still) < 0.05
    assert 0.3 < up(moving) < 0.7
    assert min(moving.stats["swap_acceptance"]) > 0.1


@pytest.mark.parametrize("forbid", [0.0, 0.1])
def test_tempered_samples_have_the_right_marginals(forbid: float) -> None:
    """Marginals of samples at two temperatures are those of enumeration, within four standard errors."""
    graph = random_graph([4, 3], 3, seeded(5), forbid=forbid, rows=3)
    for temperature in (1.0, 2.0):
        samples = es.sample(
            graph, ParallelTempering(replicas=6), num_samples=2000, temperature=temperature, generator=seeded(1)
        )
        assert not samples.exact
        for b, truth in enumerate(oracle(graph)):
            worth = max(20.0, float(samples.stats["effective_samples"][b]) / 2)
            for i, (block, site) in enumerate(sites_of(graph, b)):
                share = float((samples.values[block][:, site] == 0).double().mean())
                exact = truth.marginal(i, 0, temperature)
                assert abs(share - exact) < 4 * (max(exact * (1 - exact), 1e-3) / worth) ** 0.5


def test_a_ladder_of_one_temperature_is_allowed() -> None:
    """One replica is plain Gibbs; its answer is a legal one."""
    block = Variables.of_lengths("y", Discrete(2), [1])
    graph = FactorGraph([block], [TableFactor(("y",), "u", torch.tensor([[0.0, 1.0]], dtype=torch.float64))])
    assert float(es.minimize(graph, ParallelTempering(replicas=1)).energy) == 0.0
    assert es.sample(graph, ParallelTempering(replicas=1), num_samples=3).values["y"].shape == (3, 1)

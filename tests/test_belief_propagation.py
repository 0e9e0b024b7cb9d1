"""Belief propagation: exact on forests, and honest about the rest."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.graph import Assignment, Discrete, FactorGraph, GridFactor, TableFactor, Variables
from ebmstruct.inference import Budget, Status, marginals, minimize, sample
from ebmstruct.inference.result import Marginals
from ebmstruct.inference.solvers.belief_propagation import SCHEDULES, BeliefPropagation
from ebmstruct.testing import oracle, random_chain, random_forest, random_graph, random_grid, sites_of

DATA = os.environ.get("EBMSTRUCT_DATA")


def check_exact(graph: FactorGraph, found: Marginals, temperature: float = 1.0) -> None:
    """Every belief and every log partition is the oracle's."""
    assert found.exact
    for b, truth in enumerate(oracle(graph)):
        if not np.isfinite(truth.minimum):
            assert found.log_partition[b] == -torch.inf and found.statuses[b] is Status.INFEASIBLE
            continue
        assert float(found.log_partition[b]) == pytest.approx(truth.log_partition(temperature), abs=1e-10)
        for place, (name, site) in enumerate(sites_of(graph, b)):
            for state in range(int(graph.variables[name].state_counts[site])):
                assert float(found.beliefs[name][site, state]) == pytest.approx(
                    truth.marginal(place, state, temperature), abs=1e-10
                )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("seed", range(6))
def test_exact_on_forests(schedule: str, seed: int) -> None:
    """On forests with mixed states and forbidden entries marginals, log Z and decodings are those of enumeration."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_forest([5, 0, 4, 1], 3, generator, forbid=(0.0, 0.1, 0.3)[seed % 3])
    solver = BeliefPropagation(schedule=schedule)
    temperature = (1.0, 0.3)[seed % 2]
    check_exact(graph, marginals(graph, solver, temperature=temperature), temperature)
    result = minimize(graph, solver)
    for energy, truth in zip(result.energy.tolist(), oracle(graph), strict=True):
        assert energy == pytest.approx(truth.minimum, abs=1e-10)


def test_a_tree_of_triples_is_exact() -> None:
    """Two rows of three sites that share one site form a forest, and damping only slows it down."""
    generator = torch.Generator().manual_seed(3)
    block = Variables.of_lengths("y", Discrete(3), [5])
    index = torch.tensor([[0, 4], [1, 2], [2, 3]])
    tables = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)
    graph = FactorGraph([block], [TableFactor(("y", "y", "y"), "triples", tables, index=index)])
    for damping in (0.0, 0.5):
        check_exact(graph, marginals(graph, BeliefPropagation(damping=damping, tolerance=1e-13)))


def test_ties_are_decoded_together() -> None:
    """Where all states are as good alone, the decoding still agrees along every edge: an Ising chain has energy 0."""
    block = Variables.of_lengths("y", Discrete(2), [6])
    index = torch.stack([torch.arange(5), torch.arange(1, 6)])
    table = 1 - torch.eye(2, dtype=torch.float64)
    graph = FactorGraph([block], [TableFactor(("y", "y"), "pair", table, index=index)])
    assert minimize(graph, BeliefPropagation()).energy.tolist() == [0.0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("seed", range(9))
def test_any_graph(schedule: str, seed: int) -> None:
    """With cycles, rows of up to four sites and forbidden entries: no NaN, beliefs sum to 1, exactness is not claimed."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([5, 0, 4, 1], 3, generator, forbid=(0.0, 0.1, 0.4)[seed % 3], blocks=1 + seed % 2)
    solver = BeliefPropagation(schedule=schedule, max_iterations=50, damping=0.3)
    found = marginals(graph, solver)
    truths = oracle(graph)
    assert not found.log_partition.isnan().any()
    if found.exact:
        check_exact(graph, found)
    for name, belief in found.beliefs.items():
        assert not belief.isnan().any()
        sums = belief.sum(1)
        dead = found.status[graph.variables[name].instance] == int(Status.INFEASIBLE)
        torch.testing.assert_close(sums, torch.where(dead, 0.0, 1.0).double())
    result = minimize(graph, solver)
    for b, truth in enumerate(truths):
        assert not np.isnan(float(result.energy[b]))
        assert float(result.energy[b]) >= truth.minimum - 1e-9
        if found.statuses[b] is Status.INFEASIBLE or result.statuses[b] is Status.INFEASIBLE:
            assert truth.minimum == np.inf


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_batch_equals_the_loop(schedule: str) -> None:
    """Instances side by side get the answers that they get alone."""
    shapes = [(3, 4), (2, 2), (4, 3)]
    whole = random_grid(shapes, 3, torch.Generator().manual_seed(5))
    solver = BeliefPropagation(schedule=schedule, max_iterations=30)
    together, best = marginals(whole, solver), minimize(whole, solver)
    for b in range(3):
        alone = one_instance(whole, b, shapes)
        got = marginals(alone, solver)
        assert float(got.log_partition[0]) == pytest.approx(float(together.log_partition[b]), abs=1e-10)
        assert int(got.stats["iterations"][0]) == int(together.stats["iterations"][b])
        assert float(minimize(alone, solver).energy[0]) == pytest.approx(float(best.energy[b]), abs=1e-10)


def one_instance(graph: FactorGraph, b: int, shapes: list[tuple[int, int]]) -> FactorGraph:
    """Instance b of a batch of grids, by itself."""
    block = graph.variables["y"]
    span = slice(int(block.offsets[b]), int(block.offsets[b + 1]))
    unary, grid = graph.factors
    assert isinstance(unary, TableFactor) and isinstance(grid, GridFactor)
    width = torch.tensor([shapes[b][1]])
    own = GridFactor(("y",), "grid", grid.table, grid.right[span], grid.down[span], width)
    block = Variables.of_lengths("y", block.domain, [shapes[b][0] * shapes[b][1]])
    return FactorGraph([block], [TableFactor(("y",), "unary", unary.tables[span]), own])


def test_evidence_and_init() -> None:
    """Evidence is kept, and an initial assignment that is better than what is found is the answer."""
    generator = torch.Generator().manual_seed(0)
    graph = random_graph([6], 3, generator, arities=(2,))
    truth = oracle(graph)[0]
    best = torch.tensor(truth.states[int(np.argmin(truth.energies))])
    init = Assignment({"y0": best})
    result = minimize(graph, BeliefPropagation(), init=init, budget=Budget(max_steps=0))
    assert float(result.energy[0]) == pytest.approx(truth.minimum)
    fixed = graph.condition(Assignment({"y0": best}, {"y0": torch.arange(6) < 2}))
    assert marginals(fixed, BeliefPropagation()).beliefs["y0"][0, int(best[0])] == 1.0


def test_budget() -> None:
    """A deadline that has passed and a budget of steps end as such, with an answer."""
    graph = random_grid([(6, 6)], 2, torch.Generator().manual_seed(1))
    assert marginals(graph, BeliefPropagation(), budget=Budget.after(0.0)).statuses == [Status.DEADLINE]
    found = marginals(graph, BeliefPropagation(), budget=Budget(max_steps=2))
    assert found.statuses == [Status.MAX_STEPS] and int(found.stats["iterations"][0]) == 2


def test_refusals() -> None:
    """What messages do not answer is refused in a sentence; illegal options are told at once."""
    graph = random_chain([3], 2, torch.Generator().manual_seed(0))
    for ask in (
        lambda: sample(graph, BeliefPropagation(), num_samples=1),
        lambda: minimize(graph, BeliefPropagation(), k=2),
        lambda: minimize(graph, BeliefPropagation(), sum_out=["y"]),
        lambda: marginals(graph, BeliefPropagation(), factors=["chain"]),
    ):
        with pytest.raises(SolverRefusal):
            ask()
    with pytest.raises(GraphError, match="damping"):
        BeliefPropagation(damping=1.0)
    with pytest.raises(GraphError, match="residual"):
        BeliefPropagation(schedule="best")


@pytest.mark.skipif(DATA is None, reason="EBMSTRUCT_DATA does not say where the instances are")
def test_known_failures() -> None:
    """Flooding converges on Segmentation_11 to marginals that are wrong by 0.31 on average; on Grids_12 nothing does."""
    assert DATA is not None
    graph, truth = read_uai(Path(DATA) / "mrf/uai_segmentation/Segmentation_11.uai.gz")
    found = marginals(graph, BeliefPropagation(schedule="flooding"))
    assert found.statuses == [Status.CONVERGED] and not found.exact and float(found.stats["residual"][0]) < 1e-8
    assert (found.beliefs["x"] - truth).abs().amax(1).mean() == pytest.approx(0.31, abs=0.01)
    graph, _ = read_uai(Path(DATA) / "mrf/uai_grids/Grids_12.uai.gz")
    for schedule in SCHEDULES:
        assert marginals(graph, BeliefPropagation(schedule=schedule)).statuses == [Status.MAX_STEPS]


def read_uai(path: Path) -> tuple[FactorGraph, torch.Tensor]:
    """A model of binary sites without evidence, and its true marginals (n, 2)."""
    words = iter(gzip.decompress(path.read_bytes()).split())
    next(words)
    n = int(next(words))
    counts = [int(next(words)) for _ in range(n)]
    assert set(counts) == {2}
    scopes = [[int(next(words)) for _ in range(int(next(words)))] for _ in range(int(next(words)))]
    found: dict[int, tuple[list[list[int]], list[float]]] = {}
    for scope in scopes:
        values = [float(next(words)) for _ in range(int(next(words)))]
        rows, tables = found.setdefault(len(scope), ([], []))
        rows.append(scope)
        tables.extend(values)
    factors = [
        TableFactor(
            ("x",) * arity,
            f"arity{arity}",
            -torch.tensor(tables, dtype=torch.float64).log().reshape(-1, *[2] * arity),
            index=torch.tensor(rows).T.contiguous(),
        )
        for arity, (rows, tables) in sorted(found.items())
        if arity
    ]
    marginals_of = path.with_name(path.name.replace(".uai.gz", ".marginals.json.gz"))
    truth = json.loads(gzip.decompress(marginals_of.read_bytes()))["marginals"]
    return FactorGraph([Variables.of_lengths("x", Discrete(2), [n])], factors), torch.tensor(truth).double()

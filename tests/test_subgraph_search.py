"""Subgraph search: small graphs are solved, energies are true, hard constraints are met, seeds decide."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import ebmstruct as es
from ebmstruct.graph import Assignment, Discrete, FactorGraph, TableFactor, Variables, union
from ebmstruct.inference.kernels.search import subgraph_growth_numba as growth
from ebmstruct.inference.kernels.search import subgraph_search_numba as kernels
from ebmstruct.inference.local_moves import lay_out, seed_state
from ebmstruct.inference.result import Ask, Budget, Query, Status
from ebmstruct.inference.solvers.subgraph_search import SubgraphSearch
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.run.formats import read_model
from ebmstruct.testing import oracle, random_chain, random_graph, random_grid

QUICK = SubgraphSearch(patience=5)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(10))
def test_small_graphs_are_solved(seed: int) -> None:
    """Mixed states, arities to 4, forbidden entries, several blocks and instances: the least energy is found."""
    forbid = (0.0, 0.1, 0.3)[seed % 3]
    graph = random_graph([6, 0, 5, 1], 3, seeded(seed), forbid=forbid, blocks=1 + seed % 2)
    result = es.minimize(graph, QUICK, generator=seeded(1))
    assert torch.equal(graph.energy(result.assignment), result.energy)
    for b, truth in enumerate(oracle(graph)):
        assert float(result.energy[b]) == pytest.approx(truth.minimum)
        if truth.minimum < float("inf"):
            assert result.statuses[b] in (Status.CONVERGED, Status.OPTIMAL)


def test_chains_and_grids() -> None:
    """Implicit factors and one-site, empty and longer instances."""
    for graph in (
        random_chain([5, 1, 0, 3], 3, seeded(0), forbid=0.2),
        random_grid([(3, 3), (1, 4), (1, 1)], 2, seeded(1)),
    ):
        result = es.minimize(graph, QUICK)
        for b, truth in enumerate(oracle(graph)):
            assert float(result.energy[b]) == pytest.approx(truth.minimum)


def test_moves_are_exact() -> None:
    """A move over all sites of a graph whose tables fit finds the least energy, and reports the fall truly."""
    for seed in range(20):
        graph = random_graph([7], 3, seeded(seed), rows=4)
        view = table_view(graph)
        if not view.num_sites:
            continue
        problem = lay_out(view)
        work = growth.make_work(view.num_sites, int(view.starts[-1]), 3, 1 << 12, 1 << 14)
        moves = growth.Moves(growth.FULL, 3, 12.0, 12.0, 5.0, 5.0, 2.0, 0.0)
        x = np.zeros(view.num_sites, np.int64)
        before = view.energy(x)[0]
        everywhere = np.arange(view.num_sites)
        gain, idle = kernels.descend(problem, work, x, x, everywhere, moves, seed_state(None)[0], 1e6, -1)
        assert view.energy(x)[0] == pytest.approx(oracle(graph)[0].minimum)
        assert gain == pytest.approx(before - view.energy(x)[0])
        assert idle == -1 and (work.position == -1).all()


def test_crossover_takes_what_helps() -> None:
    """Two separate pairs of sites, each labelling good in one: the crossover is good in both."""
    block = Variables.of_lengths("y", Discrete(2), [4])
    table = torch.tensor([[2.0, 9.0], [9.0, 0.0]], dtype=torch.float64)
    pair = TableFactor(("y", "y"), "pair", table, index=torch.tensor([[0, 2], [1, 3]]))
    view = table_view(FactorGraph([block], [pair]))
    work = growth.make_work(4, 8, 2, 16, 64)
    x, other = np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1])
    gain, components = kernels.crossover(lay_out(view), work, x, other)
    assert x.tolist() == [1, 1, 1, 1] and (gain, components) == (2.0, 2)


def test_a_search_may_start_infeasible() -> None:
    """A ring of unequal neighbours in three states: all-equal starts break every row, and the answer breaks none."""
    n = 30
    block = Variables.of_lengths("y", Discrete(3), [n])
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    table = torch.where(torch.eye(3, dtype=torch.bool), torch.inf, 0.0).double()
    cost = TableFactor(("y",), "cost", torch.arange(3, dtype=torch.float64).repeat(n, 1))
    graph = FactorGraph([block], [cost, TableFactor(("y", "y"), "unequal", table, index=ring)])
    start = Assignment({"y": torch.zeros(n, dtype=torch.long)})
    result = es.minimize(graph, QUICK, init=start)
    assert float(result.energy) == n / 2  # alternate 0 and 1


def test_infeasible_and_empty() -> None:
    """What the tables show infeasible is told so; a graph without open sites is answered at once."""
    graph = random_chain([3, 2], 2, seeded(1))
    allowed = torch.ones(5, 2, dtype=torch.bool)
    allowed[1] = False
    result = es.minimize(graph.condition(Assignment({}, allowed={"y": allowed})), QUICK)
    assert result.statuses[0] is Status.INFEASIBLE and float(result.energy[1]) < float("inf")
    clamped = graph.condition(Assignment({"y": torch.zeros(5, dtype=torch.long)}))
    assert torch.equal(es.minimize(clamped, QUICK).energy, clamped.energy({"y": torch.zeros(5, dtype=torch.long)}))
    odd = Variables.of_lengths("y", Discrete(2), [3])
    table = torch.where(torch.eye(2, dtype=torch.bool), torch.inf, 0.0).double()
    triangle = TableFactor(("y", "y"), "unequal", table, index=torch.tensor([[0, 1, 2], [1, 2, 0]]))
    hopeless = es.minimize(FactorGraph([odd], [triangle]), QUICK)
    assert float(hopeless.energy) == float("inf") and not hopeless.energy.isnan().any()


def test_seeds_and_batches() -> None:
    """The same seed gives the same answer; instances of a batch reach what each reaches alone."""
    parts = [random_grid([(5, 5)], 2, seeded(s)) for s in range(3)]
    batch = union(parts)
    one, two = (es.minimize(batch, QUICK, generator=seeded(3)) for _ in range(2))
    assert torch.equal(one.assignment["y"], two.assignment["y"])
    alone = torch.cat([es.minimize(p, QUICK, generator=seeded(3)).energy for p in parts])
    torch.testing.assert_close(one.energy, alone)


def test_adopt_takes_a_better_labelling() -> None:
    """A search told of the optimum has it; told of something worse it keeps what it has; states are not changed."""
    graph = random_grid([(4, 4), (2, 3)], 2, seeded(0))
    best = es.minimize(graph, QUICK)
    fresh = QUICK.begin(graph, Query(), None, seeded(0))
    before = fresh.found_energy.copy()
    told = QUICK.adopt(graph, fresh, best.assignment)
    torch.testing.assert_close(QUICK.progress(told).energy, best.energy)
    assert (fresh.found_energy == before).all()
    worse = QUICK.adopt(graph, told, {"y": 1 - best.assignment["y"]})
    torch.testing.assert_close(QUICK.progress(worse).energy, best.energy)


def test_steps_do_not_change_their_state() -> None:
    """Stepping twice from one state gives the same state twice."""
    graph = random_grid([(8, 8)], 3, seeded(0))
    state = QUICK.begin(graph, Query(), None, seeded(0))
    for _ in range(4):
        one, two = QUICK.step(graph, Query(), state), QUICK.step(graph, Query(), state)
        assert (one.current == two.current).all() and (one.found_energy == two.found_energy).all()
        state = one


def test_many_states_and_large_graphs_take_the_other_paths() -> None:
    """Forty states a site (moves over some of them), and a graph larger than a region."""
    wide = random_chain([6, 4], 40, seeded(0))
    exact = es.minimize(wide)
    found = es.minimize(wide, SubgraphSearch(patience=10))
    torch.testing.assert_close(found.energy, exact.energy)
    large = random_grid([(20, 20)], 2, seeded(1))
    short = SubgraphSearch(patience=3, region=50, step_ms=1.0)
    assert float(es.minimize(large, short).energy) <= float(es.minimize(large, QUICK).energy) * 1.02


def test_budget_and_refusals() -> None:
    """A spent budget still gives a legal assignment; what it cannot do it refuses in a sentence."""
    graph = random_grid([(6, 6)], 3, seeded(0))
    result = es.minimize(graph, QUICK, budget=Budget(max_steps=0))
    assert result.statuses == [Status.MAX_STEPS] and bool(result.energy.isfinite().all())
    for query in (Query(Ask.MARGINALS), Query(k=2), Query(sum_out=("y",)), Query(Ask.SAMPLE)):
        assert QUICK.refuse(graph, query)


@pytest.mark.slow
def test_real_instances_reach_what_is_known() -> None:
    """Spin glasses of 40 x 40: within 0.1 % of the best known energy in a few seconds."""
    folder = os.environ.get("EBMSTRUCT_DATA")
    if folder is None:
        pytest.skip("EBMSTRUCT_DATA does not name the folder of the data")
    index = json.loads((Path(folder) / "mrf" / "index.json").read_text())["instances"]
    for name in ("uai_grids_map/GridsMAP_18.uai.gz", "uai_grids_map/GridsMAP_24.uai.gz"):
        graph = read_model(Path(folder) / "mrf" / name).graph
        known = index[name]["map_energy"]
        result = es.minimize(graph, SubgraphSearch(patience=10**6), budget=Budget.after(5.0))
        assert float(result.energy) <= known + 1e-3 * abs(known)

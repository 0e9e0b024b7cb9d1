"""Mini-buckets: intervals that hold log Z, lower bounds below the optimum, and exactness where nothing is split."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.graph import Discrete, FactorGraph, TableFactor, Variables, union
from ebmstruct.inference import Ask, Budget, Marginals, Query, Status, marginals, minimize
from ebmstruct.inference.kernels.elimination import mini_bucket
from ebmstruct.inference.result import Claim, EliminationOrder, Result
from ebmstruct.inference.solvers.mini_bucket import MiniBucket
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.testing import oracle, random_chain, random_graph, random_grid


def interval(graph: FactorGraph, solver: MiniBucket, temperature: float = 1.0) -> Marginals:
    """The answer to a log partition query."""
    answer = solver.solve(graph, Query(Ask.LOG_PARTITION, temperature=temperature))
    assert isinstance(answer, Marginals)
    return answer


@pytest.mark.parametrize("max_table", (1, 9, 1 << 16))
@pytest.mark.parametrize("seed", range(9))
def test_bounds_hold(seed: int, max_table: int) -> None:
    """lower <= log Z <= upper and bound <= optimum <= energy at every budget; with room for all tables they are equal."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([6, 0, 4, 1], 3, generator, forbid=(0.0, 0.1, 0.3)[seed % 3], blocks=1 + seed % 2)
    temperature = (1.0, 0.4)[seed % 2]
    found, result = interval(graph, MiniBucket(max_table), temperature), minimize(graph, MiniBucket(max_table))
    lower, upper = found.stats["log_partition_lower"].tolist(), found.stats["log_partition_upper"].tolist()
    if max_table == 1 << 16:
        assert found.exact and isinstance(result.witness, EliminationOrder)
    for b, truth in enumerate(oracle(graph)):
        log_z = truth.log_partition(temperature)
        assert lower[b] <= log_z + 1e-9 and log_z <= upper[b] + 1e-9
        assert float(result.lower_bound[b]) <= truth.minimum + 1e-9 and truth.minimum <= float(result.energy[b]) + 1e-9
        if found.exact and np.isfinite(log_z):
            assert float(found.log_partition[b]) == pytest.approx(log_z, abs=1e-9)
            assert float(result.energy[b]) == pytest.approx(truth.minimum, abs=1e-9)
        if found.statuses[b] is Status.INFEASIBLE:
            assert truth.minimum == np.inf
        assert not np.isnan(float(found.log_partition[b]))


def test_more_memory_is_tighter() -> None:
    """On a 6x6 grid the upper bound falls as tables may grow, until it is log Z."""
    graph = random_grid([(6, 6)], 2, torch.Generator().manual_seed(0))
    upper = [float(interval(graph, MiniBucket(1 << k)).stats["log_partition_upper"][0]) for k in (2, 4, 12)]
    assert upper[0] > upper[1] > upper[2]
    assert interval(graph, MiniBucket(1 << 12)).exact and not interval(graph, MiniBucket(4)).exact
    assert isinstance(minimize(graph, MiniBucket(4)).witness, Claim)


def test_a_batch_equals_the_loop() -> None:
    """Instances side by side get the bounds that they get alone; one that is not split stays exact."""
    graphs = [random_grid([s], 3, torch.Generator().manual_seed(i)) for i, s in enumerate([(4, 4), (1, 5), (3, 5)])]
    together, best = interval(union(graphs), MiniBucket(30)), minimize(union(graphs), MiniBucket(30))
    for b, graph in enumerate(graphs):
        alone = interval(graph, MiniBucket(30))
        for key in ("log_partition_lower", "log_partition_upper"):
            assert float(alone.stats[key][0]) == pytest.approx(float(together.stats[key][b]), abs=1e-9)
        assert float(minimize(graph, MiniBucket(30)).lower_bound[0]) == pytest.approx(float(best.lower_bound[b]))
    assert together.statuses == [Status.CONVERGED, Status.OPTIMAL, Status.CONVERGED]


def test_a_passed_deadline_still_bounds() -> None:
    """Without any time left nothing is multiplied, and the bounds hold all the same."""
    graph = random_grid([(3, 3)], 2, torch.Generator().manual_seed(3))
    truth = oracle(graph)[0]
    found = MiniBucket().solve(graph, Query(Ask.LOG_PARTITION), budget=Budget.after(0.0))
    assert isinstance(found, Marginals)
    assert float(found.stats["log_partition_lower"][0]) <= truth.log_partition()
    assert float(found.stats["log_partition_upper"][0]) >= truth.log_partition() and not found.exact
    assert float(minimize(graph, MiniBucket(), budget=Budget.after(0.0)).lower_bound[0]) <= truth.minimum


def test_refusals() -> None:
    """Marginals and several assignments are refused, and so is a budget of no entries."""
    graph = random_chain([3], 2, torch.Generator().manual_seed(0))
    with pytest.raises(SolverRefusal):
        marginals(graph, MiniBucket())
    with pytest.raises(SolverRefusal):
        minimize(graph, MiniBucket(), k=2)
    with pytest.raises(GraphError):
        MiniBucket(0)


@pytest.mark.parametrize("ask", (Ask.LOG_PARTITION, Ask.MINIMIZE))
def test_deadlines_are_kept(ask: Ask) -> None:
    """On a graph that takes minutes the deadline holds, and the bounds are finite and no worse than term by term."""
    generator = torch.Generator().manual_seed(0)
    index = torch.combinations(torch.arange(150)).T.contiguous()
    table = torch.randn(index.shape[1] * 16, generator=generator, dtype=torch.float64)
    starts = 16 * torch.arange(index.shape[1])
    block = Variables.of_lengths("y", Discrete(4), [150])
    graph = FactorGraph([block], [TableFactor(("y", "y"), "pair", table, index=index, starts=starts)])
    MiniBucket().solve(graph, Query(ask), budget=Budget.after(0.01))  # compiles
    began = time.monotonic()
    found = MiniBucket().solve(graph, Query(ask), budget=Budget.after(1.0))
    assert time.monotonic() - began < 2.0  # 1.02 on a machine that does nothing else
    loosest = mini_bucket.term_by_term(table_view(graph), 1.0, largest_score=ask is Ask.MINIMIZE)
    if isinstance(found, Marginals):
        lower, upper = (float(found.stats[f"log_partition_{end}"][0]) for end in ("lower", "upper"))
        assert -np.inf < lower < upper < loosest[0] and not found.exact
    else:
        assert isinstance(found, Result)
        assert -loosest[0] < float(found.lower_bound[0]) < float(found.energy[0]) < np.inf


@pytest.mark.parametrize("looks", (0, 3, 20, 60, 150))
def test_cut_short_anywhere(looks: int) -> None:
    """An elimination that is stopped after any number of looks at the clock still bounds log Z and the minimum."""
    for seed in range(4):
        graph = random_graph([6, 4], 3, torch.Generator().manual_seed(seed), forbid=0.1 * (seed % 2))
        view, left = table_view(graph), iter(range(looks))
        for largest, max_table in ((False, 9), (True, 1 << 16)):
            found = mini_bucket.eliminate(
                view, 1.0, max_table, largest_score=largest, stop=lambda left=left: next(left, None) is None
            )
            for b, truth in enumerate(oracle(graph)):
                assert found.bound[b] >= (-truth.minimum if largest else truth.log_partition()) - 1e-9

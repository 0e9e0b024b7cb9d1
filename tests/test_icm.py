"""Descent by single changes: it ends where no change of one site helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebmstruct.graph import Assignment, FactorGraph, union
from ebmstruct.inference.engine import minimize
from ebmstruct.inference.kernels.search.icm import polish
from ebmstruct.inference.result import Ask, Budget, Query, Status
from ebmstruct.inference.solvers.icm import ICM
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.testing import oracle, random_chain, random_graph, random_grid


def stuck(graph: FactorGraph, values: dict[str, torch.Tensor]) -> bool:
    """Whether no change of one site lowers its instance's energy."""
    energy = graph.energy(values)
    for name in graph.variables:
        block = graph.variables[name]
        others = graph.conditionals(name, values)
        own = others.gather(1, values[name][:, None])[:, 0]
        if bool((others.amin(1) < own - 1e-9)[energy[block.instance].isfinite()].any()):
            return False
    return True


@pytest.mark.parametrize("seed", range(12))
def test_local_minima(seed: int) -> None:
    """Any arity, mixed state counts, several blocks, forbidden entries: never below the least energy, and stuck."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([5, 0, 4, 1], 3, generator, forbid=(0.0, 0.1)[seed % 2], blocks=1 + seed % 2)
    result = minimize(graph, ICM())
    for found, energy, status in zip(oracle(graph), result.energy.tolist(), result.statuses, strict=True):
        assert energy >= found.minimum - 1e-9
        assert status in (Status.CONVERGED, Status.INFEASIBLE, Status.OPTIMAL)
        assert status is not Status.INFEASIBLE or found.minimum == torch.inf
    assert stuck(graph, dict(result.assignment.items()))


def test_restarts_and_seeds() -> None:
    """Restarts find the least energy of small graphs; the same seed gives the same answer."""
    generator = torch.Generator().manual_seed(0)
    graph = random_graph([8], 3, generator, arities=(2, 3), rows=10)
    once, often = minimize(graph, ICM()), minimize(graph, ICM(restarts=60))
    assert float(often.energy) <= float(once.energy)
    assert float(often.energy) == pytest.approx(oracle(graph)[0].minimum)
    answers = [minimize(graph, ICM(restarts=3), generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert all(torch.equal(answers[0].assignment[n], answers[1].assignment[n]) for n in graph.variables)


def test_batch_equals_loop() -> None:
    """Instances side by side end as each does alone."""
    generator = torch.Generator().manual_seed(1)
    graphs = [random_grid([(4, 5)], 3, generator) for _ in range(3)]
    alone = torch.cat([minimize(g, ICM()).assignment["y"] for g in graphs])
    table = graphs[0].factors[1]
    assert all(torch.equal(g.factors[1].table, table.table) for g in graphs)
    assert torch.equal(minimize(union(graphs), ICM()).assignment["y"], alone)


def test_init_and_evidence() -> None:
    """It starts where it is told to, and leaves clamped sites alone; a least assignment is kept."""
    graph = random_grid([(3, 3)], 2, torch.Generator().manual_seed(2))
    found = oracle(graph)[0]
    best = torch.tensor(found.states[int(np.argmin(found.energies))])
    result = minimize(graph, ICM(), init=Assignment({"y": best}))
    assert torch.equal(result.assignment["y"], best)
    known = torch.arange(9) < 4
    clamped = graph.condition(Assignment({"y": 1 - best}, {"y": known}))
    assert torch.equal(minimize(clamped, ICM()).assignment["y"][:4], 1 - best[:4])


def test_hard_constraints() -> None:
    """A chain whose own minima are forbidden is mended."""
    graph = random_chain([30], 4, torch.Generator().manual_seed(3), forbid=0.2)
    assert torch.isfinite(minimize(graph, ICM(restarts=5)).energy).all()


def test_infeasible() -> None:
    """An instance with a site without states is told to be infeasible."""
    graph = random_grid([(2, 2), (2, 2)], 3, torch.Generator().manual_seed(0))
    allowed = torch.ones(8, 3, dtype=torch.bool)
    allowed[0] = False
    result = minimize(graph.condition(Assignment({}, allowed={"y": allowed})), ICM())
    assert result.statuses == [Status.INFEASIBLE, Status.CONVERGED]


def test_pieces_equal_the_whole() -> None:
    """Descent in pieces of a few visits ends as in one go."""
    view = table_view(random_grid([(9, 9)], 4, torch.Generator().manual_seed(4)))
    whole, pieces = np.zeros(81, np.int64), np.zeros(81, np.int64)
    assert polish(view, whole) == -1
    dirty, at = np.ones(81, np.bool_), 0
    while at >= 0:
        at = polish(view, pieces, dirty=dirty, begin=at, visits=7)
    assert (whole == pieces).all()


def test_budget_and_refusals() -> None:
    """A budget of steps holds, and other questions are refused."""
    graph = random_grid([(3, 3)], 3, torch.Generator().manual_seed(5))
    assert minimize(graph, ICM(restarts=50), budget=Budget(max_steps=2)).statuses == [Status.MAX_STEPS]
    for query in (Query(Ask.SAMPLE), Query(k=2), Query(sum_out=("y",))):
        assert ICM().refuse(graph, query) is not None

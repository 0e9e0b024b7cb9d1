"""Roof duality: labels that a least assignment shares, a bound below it, and answers that are never better than true."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebmstruct.graph import Assignment, FactorGraph, TableFactor, union
from ebmstruct.inference.engine import minimize
from ebmstruct.inference.kernels.flows.roof import persistent, roof_dual
from ebmstruct.inference.result import Ask, Budget, Query, Reparametrization, Status
from ebmstruct.inference.solvers.roof_duality import RoofDuality
from ebmstruct.inference.views.table_view import TableView, table_view
from ebmstruct.testing import Oracle, oracle, random_chain, random_graph, random_grid


def sharing(
    graph: FactorGraph, view: TableView, found: list[Oracle], states: np.ndarray, which: np.ndarray
) -> list[int]:
    """For each instance how many of its least assignments have these states at the open sites ``which``."""
    (block,) = graph.variables.values()
    out = []
    for b, answers in enumerate(found):
        begin = int(block.offsets[b])
        count = 0
        for assignment, energy in zip(answers.states, answers.energies, strict=True):
            if energy <= answers.minimum + 1e-9:
                sites = np.nonzero(which & (view.instance == b))[0]
                own = [view.state[view.starts[i] + states[i]] for i in sites]
                count += all(assignment[view.open_site[i] - begin] == k for i, k in zip(sites, own, strict=True))
        out.append(count)
    return out


@pytest.mark.parametrize("seed", range(24))
def test_labels_and_bound(seed: int) -> None:
    """Random pairs of any kind: bound <= least energy <= energy; some least assignment shares all the labels at once,
    and every one shares the strong labels; where all sites are labelled the answer is least."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([6, 0, 1, 5], 2, generator, arities=(2,), rows=7, forbid=(0.0, 0.15)[seed % 2], scale=2.0)
    if seed % 3 == 0:
        graph = FactorGraph(
            list(graph.variables.values()),
            [f.with_values(f.tables.round()) for f in graph.factors if isinstance(f, TableFactor)],
        )
    found = oracle(graph)
    result = minimize(graph, RoofDuality())
    view = table_view(graph)
    roof = roof_dual(view)
    every = sharing(graph, view, found, roof.states, roof.states >= 0)
    strong = sharing(graph, view, found, roof.states, roof.strong)
    for b, answers in enumerate(found):
        if answers.minimum == torch.inf:
            continue
        least = sum(e <= answers.minimum + 1e-9 for e in answers.energies)
        assert every[b] >= 1 and strong[b] == least
        assert float(result.lower_bound[b]) <= answers.minimum + 1e-9 <= float(result.energy[b]) + 2e-9
        if float(result.stats["labelled"][b]) == 1.0:
            assert float(result.energy[b]) == pytest.approx(answers.minimum)
            assert result.statuses[b] is Status.OPTIMAL
    assert (persistent(view) == roof.states).all()


def test_submodular_up_to_flips() -> None:
    """Pairs that reward differing, on a graph without odd cycles, are labelled entirely, ties included."""
    generator = torch.Generator().manual_seed(0)
    graph = random_grid([(3, 4), (2, 2)], 2, generator, integers=True)
    grid = graph.factors[1]
    graph = graph.with_values({"grid": [-grid.table, grid.right, grid.down]})
    result = minimize(graph, RoofDuality())
    assert torch.equal(result.stats["labelled"], torch.ones(2, dtype=torch.float64))
    assert result.energy.tolist() == [found.minimum for found in oracle(graph)]
    assert result.statuses == [Status.OPTIMAL] * 2
    flat = graph.with_values({"unary": torch.zeros(16, 2, dtype=torch.float64)})
    tied = minimize(flat, RoofDuality())
    assert tied.statuses == [Status.OPTIMAL] * 2 and float(tied.stats["strong"].sum()) == 0


def test_bound_is_that_of_the_messages() -> None:
    """The bound equals the sum of the terms' minima after the messages, done here with plain numpy."""
    graph = random_graph([12], 2, torch.Generator().manual_seed(3), arities=(2,), rows=40)
    result, view = minimize(graph, RoofDuality()), table_view(graph)
    assert isinstance(result.witness, Reparametrization)
    unary, tables, weights = view.arrays
    messages = result.witness.messages.numpy().reshape(-1, 2, 2)
    moved, bound = unary.reshape(-1, 2).copy(), float(view.constant[0])
    for r, (i, j) in enumerate(view.row_sites.reshape(-1, 2)):
        moved[i] += messages[r, 0]
        moved[j] += messages[r, 1]
        table = weights[r] * tables[view.table_start[r] :][:4].reshape(2, 2)
        bound += (table - messages[r, 0][:, None] - messages[r, 1]).min()
    assert bound + moved.min(1).sum() == pytest.approx(float(result.lower_bound), abs=1e-9)


def test_batch_equals_loop() -> None:
    """Instances do not influence each other's labels and bounds."""
    generator = torch.Generator().manual_seed(1)
    parts = [random_grid([(3, 3)], 2, generator) for _ in range(3)]
    parts = [g.with_values({"grid": [-g.factors[1].table, g.factors[1].right, g.factors[1].down]}) for g in parts]
    joint = minimize(union(parts), RoofDuality())
    alone = [minimize(g, RoofDuality()) for g in parts]
    torch.testing.assert_close(joint.lower_bound, torch.cat([a.lower_bound for a in alone]), rtol=1e-12, atol=0)
    torch.testing.assert_close(joint.energy, torch.cat([a.energy for a in alone]), rtol=1e-12, atol=0)
    assert torch.equal(joint.stats["labelled"], torch.cat([a.stats["labelled"] for a in alone]))


def test_hard_constraints() -> None:
    """A binary chain with forbidden transitions has no cycle: solved exactly or infeasible."""
    for seed in range(6):
        graph = random_chain([6, 4], 2, torch.Generator().manual_seed(seed), forbid=0.3)
        result = minimize(graph, RoofDuality())
        for found, energy, status in zip(oracle(graph), result.energy.tolist(), result.statuses, strict=True):
            feasible = found.minimum != torch.inf
            assert status is (Status.OPTIMAL if feasible else Status.INFEASIBLE)
            assert energy == pytest.approx(found.minimum) if feasible else energy == torch.inf


def test_init_deadline_and_refusals() -> None:
    """It can start somewhere, ends in time, repeats itself, and refuses what it cannot do."""
    generator = torch.Generator().manual_seed(2)
    graph = random_graph([10], 2, generator, arities=(2,), rows=40)
    (name,) = graph.variables
    start = Assignment({name: torch.zeros(10, dtype=torch.long)})
    assert float(minimize(graph, RoofDuality(starts=1), init=start).energy) < torch.inf
    one, two = (minimize(graph, RoofDuality(), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.assignment[name], two.assignment[name])
    large = random_grid([(150, 150)], 2, generator)
    late = minimize(large, RoofDuality(), budget=Budget.after(-1.0))
    assert float(late.lower_bound) <= float(minimize(large, RoofDuality()).energy) <= float(late.energy) + 1e-9
    triple = random_grid([(2, 2)], 3, generator)
    assert "3 open states" in str(RoofDuality().refuse(triple, Query()))
    assert (persistent(table_view(triple)) == -1).all()
    for query in (Query(Ask.MARGINALS), Query(k=2), Query(sum_out=(name,))):
        assert RoofDuality().refuse(graph, query) is not None

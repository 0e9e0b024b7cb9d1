"""toulbar2 and CP-SAT in their processes: energies, bounds, deadlines and refusals."""

from __future__ import annotations

import importlib.util
import time

import numpy as np
import pytest
import torch

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Discrete, FactorGraph, TableFactor, Variables, union
from ebmstruct.inference import Budget, Claim, Status, marginals, minimize
from ebmstruct.inference.outside.problem import integer_problem
from ebmstruct.inference.outside.process import run
from ebmstruct.inference.solvers.cp_sat import CPSAT
from ebmstruct.inference.solvers.toulbar2 import Toulbar2
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.testing import oracle, random_graph, random_grid

LIBRARIES = {"toulbar2": "pytoulbar2", "cp_sat": "ortools"}
Outside = Toulbar2 | CPSAT


@pytest.fixture(
    params=[Toulbar2(), Toulbar2(vac=0, rasps=False), Toulbar2(vns=True), CPSAT(), CPSAT(linked=False)],
    ids=["toulbar2", "toulbar2-plain", "toulbar2-vns", "cp_sat", "cp_sat-clauses"],
)
def solver(request: pytest.FixtureRequest) -> Outside:
    """Each outside solver that is installed, with each kind of option."""
    made: Outside = request.param
    pytest.importorskip(LIBRARIES[made.name])
    return made


@pytest.mark.parametrize("seed", (0, 1, 4, 6))
def test_optima(solver: Outside, seed: int) -> None:
    """Small graphs with rows of any arity and forbidden entries are solved and proven, the bound below the optimum."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([6, 0, 1], 3, generator, rows=4, forbid=(0.0, 0.1)[seed % 2], blocks=1 + seed % 2)
    result = minimize(graph, solver, budget=Budget.after(60))
    assert isinstance(result.witness, Claim) and solver.name.replace("_", "-").lower() in result.witness.by.lower()
    assert result.stats["failures"] == {}
    for b, truth in enumerate(oracle(graph)):
        if truth.minimum == np.inf:
            assert result.statuses[b] is Status.INFEASIBLE
            continue
        assert float(result.energy[b]) == pytest.approx(truth.minimum, abs=1e-9)
        assert float(result.lower_bound[b]) <= truth.minimum + 1e-12
        if not (isinstance(solver, Toulbar2) and solver.vns):
            assert result.statuses[b] is Status.OPTIMAL


def test_infeasible(solver: Outside) -> None:
    """Three sites of two states that must all differ have no assignment: INFEASIBLE, which propagation cannot see."""
    block = Variables.of_lengths("y", Discrete(2), [3])
    differ = torch.zeros(2, 2, dtype=torch.float64).fill_diagonal_(torch.inf)
    pairs = TableFactor(("y", "y"), "differ", differ, index=torch.tensor([[0, 1, 0], [1, 2, 2]]))
    result = minimize(FactorGraph([block], [pairs]), solver, budget=Budget.after(60))
    assert result.statuses == [Status.INFEASIBLE] and result.energy.tolist() == [torch.inf]


def test_batch_and_init(solver: Outside) -> None:
    """A batch is solved instance by instance; beginning at the optimum only proves it."""
    graphs = [random_grid([s], 2, torch.Generator().manual_seed(i)) for i, s in enumerate([(3, 3), (2, 4)])]
    both = union(graphs)
    optimum = torch.tensor([o.minimum for o in oracle(both)], dtype=torch.float64)
    first = minimize(both, solver, budget=Budget.after(60))
    torch.testing.assert_close(first.energy, optimum, atol=1e-9, rtol=0)
    again = minimize(both, solver, init=first.assignment, budget=Budget.after(60))
    torch.testing.assert_close(again.energy, optimum, atol=1e-9, rtol=0)
    assert bool((again.lower_bound <= optimum + 1e-12).all())


def test_deadline(solver: Outside) -> None:
    """A hard instance ends at the deadline with an assignment, and leaves the given one where nothing better came."""
    tables = torch.randn(80 * 79 // 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = TableFactor(("y", "y"), "pairs", tables, index=torch.triu_indices(80, 80, 1))
    graph = FactorGraph([Variables.of_lengths("y", Discrete(2), [80])], [pairs])
    began = time.monotonic()
    result = minimize(graph, solver, budget=Budget.after(1.5))
    assert time.monotonic() - began < 3.5
    assert bool(result.energy.isfinite().all()) and result.statuses == [Status.DEADLINE]
    late = minimize(graph, solver, init=result.assignment, budget=Budget.after(0.0))
    assert float(late.energy[0]) <= float(result.energy[0])


def test_refusals(solver: Outside) -> None:
    """Only least energies are asked for, one assignment, and tables that can be handed over."""
    graph = random_grid([(2, 2)], 2, torch.Generator().manual_seed(0))
    with pytest.raises(SolverRefusal):
        marginals(graph, solver)
    with pytest.raises(SolverRefusal):
        minimize(graph, solver, k=2)
    with pytest.raises(SolverRefusal, match="entries"):
        minimize(graph, type(solver)(max_entries=3))


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its wheel a solver refuses and names the extra that brings it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    graph = random_grid([(2, 2)], 2, torch.Generator().manual_seed(0))
    for made, extra in ((Toulbar2(), "toulbar2"), (CPSAT(), "cpsat")):
        with pytest.raises(SolverRefusal, match=rf"ebmstruct\[{extra}\]"):
            minimize(graph, made)


@pytest.mark.parametrize("seed", range(6))
def test_whole_numbers(seed: int) -> None:
    """Costs never promise more than energies: offset + cost / scale <= energy <= that + functions / scale.

    An assignment that is forbidden by its cost is no better than the first one.
    """
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([5], 3, generator, forbid=(0.0, 0.1)[seed % 2])
    view = table_view(graph)
    if not np.isfinite(float(view.constant[0])):
        return
    draw = np.random.default_rng(seed)
    first = draw.integers(0, view.num_states)
    energy = float(view.energy(first)[0])
    problem = integer_problem(view, 0, first, energy, 1 << 20)
    for _ in range(50):
        states = draw.integers(0, view.num_states)
        cost, own = problem.cost(states[problem.sites]), float(view.energy(states)[0])
        if cost < 0:
            assert own >= energy - 1e-9
        else:
            assert problem.bound(cost) <= own + 1e-9
            assert own <= problem.offset + (cost + problem.functions) / problem.scale + 1e-9


def test_a_worker_that_fails_says_why() -> None:
    """A worker that ends by a fault leaves its complaint as the last line."""
    pytest.importorskip("pytoulbar2")
    lines = run("toulbar2_worker", {"nothing": np.zeros(1)}, {}, Budget.after(30))
    assert lines[-1].startswith("failed: ") and "vac" in lines[-1]

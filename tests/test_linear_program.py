"""The linear and the integer program: bounds below the optimum, and the optimum where they are tight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, union
from ebmstruct.inference import Budget, Reparametrization, Status, marginals, minimize
from ebmstruct.inference.solvers.linear_program import IntegerProgram, LinearProgram
from ebmstruct.inference.views.table_view import table_view
from ebmstruct.testing import oracle, random_chain, random_forest, random_graph, random_grid


@pytest.mark.parametrize("solver", (LinearProgram(), IntegerProgram()))
@pytest.mark.parametrize("seed", range(9))
def test_bounds(solver: LinearProgram | IntegerProgram, seed: int) -> None:
    """bound <= optimum <= energy for rows of any arity with forbidden entries; the integer program ends at both."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([5, 0, 4, 1], 3, generator, rows=4, forbid=(0.0, 0.1, 0.3)[seed % 3], blocks=1 + seed % 2)
    result = minimize(graph, solver)
    for b, truth in enumerate(oracle(graph)):
        assert float(result.lower_bound[b]) <= truth.minimum + 1e-9
        assert float(result.energy[b]) >= truth.minimum - 1e-9
        if truth.minimum == np.inf:
            assert result.energy[b] == torch.inf
        elif isinstance(solver, IntegerProgram):
            assert result.statuses[b] is Status.OPTIMAL
            assert float(result.energy[b]) == pytest.approx(truth.minimum, abs=1e-9)


def test_tight_on_forests() -> None:
    """On forests the relaxation is tight (Wainwright and Jordan 2008), and its messages prove the optimum."""
    graph = random_forest([7, 4], 3, torch.Generator().manual_seed(1))
    result = minimize(graph, LinearProgram())
    assert result.statuses == [Status.OPTIMAL] * 2 and isinstance(result.witness, Reparametrization)
    assert result.witness.messages.shape == (int(table_view(graph).message_ptr[-1]),)
    torch.testing.assert_close(result.energy, torch.tensor([o.minimum for o in oracle(graph)], dtype=torch.float64))


def test_messages_prove_the_bound() -> None:
    """Adding the messages to sites and taking them off rows by hand gives the bound; energies change nowhere."""
    graph = random_grid([(3, 3)], 3, torch.Generator().manual_seed(4))
    result = minimize(graph, LinearProgram())
    assert isinstance(result.witness, Reparametrization)
    view, messages = table_view(graph), result.witness.messages.numpy()
    values, starts = view.row_tables()
    unary = view.arrays[0].copy()
    total = float(view.constant[0])
    for row in range(view.num_rows):
        i, j = view.row_sites[view.row_ptr[row] : view.row_ptr[row + 1]]
        k, m = view.num_states[i], view.num_states[j]
        first, second = (messages[view.message_ptr[2 * row + s] : view.message_ptr[2 * row + s + 1]] for s in (0, 1))
        table = values[starts[row] : starts[row] + k * m].reshape(k, m).numpy()
        total += (table - first[:, None] - second).min()
        unary[view.starts[i] : view.starts[i + 1]] += first
        unary[view.starts[j] : view.starts[j + 1]] += second
    total += sum(unary[view.starts[i] : view.starts[i + 1]].min() for i in range(view.num_sites))
    assert total == pytest.approx(float(result.lower_bound[0]), abs=1e-9)


def test_a_batch_equals_the_loop() -> None:
    """Each instance is a program of its own."""
    graphs = [random_grid([s], 2, torch.Generator().manual_seed(i)) for i, s in enumerate([(3, 3), (2, 4)])]
    for solver in (LinearProgram(), IntegerProgram()):
        together = minimize(union(graphs), solver)
        for b, graph in enumerate(graphs):
            alone = minimize(graph, solver)
            assert float(alone.energy[0]) == pytest.approx(float(together.energy[b]))
            assert float(alone.lower_bound[0]) == pytest.approx(float(together.lower_bound[b]), abs=1e-6)


def test_init_deadline_and_refusals() -> None:
    """A passed deadline leaves the initial assignment; large programs and other questions are refused."""
    graph = random_forest([6], 3, torch.Generator().manual_seed(0))
    truth = oracle(graph)[0]
    init = Assignment({"y": torch.tensor(truth.states[int(np.argmin(truth.energies))])})
    for solver in (LinearProgram(), IntegerProgram()):
        result = minimize(graph, solver, init=init, budget=Budget.after(0.0))
        assert float(result.energy[0]) == pytest.approx(truth.minimum)
        assert result.statuses[0] in (Status.DEADLINE, Status.OPTIMAL)
    chain = random_chain([3], 2, torch.Generator().manual_seed(0))
    with pytest.raises(SolverRefusal, match="nonzeros"):
        minimize(chain, LinearProgram(max_nonzeros=5))
    with pytest.raises(SolverRefusal):
        marginals(chain, LinearProgram())
    with pytest.raises(SolverRefusal):
        minimize(chain, IntegerProgram(), k=2)

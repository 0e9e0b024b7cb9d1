"""Mean field: the lower bound holds, and beliefs are probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.graph import Assignment, Discrete, FactorGraph, TableFactor, Variables, union
from ebmstruct.inference import Budget, Status, marginals, minimize, sample
from ebmstruct.inference.solvers.mean_field import MeanField
from ebmstruct.testing import oracle, random_forest, random_graph, random_grid


@pytest.mark.parametrize("seed", range(18))
def test_the_bound_holds(seed: int) -> None:
    """The reported log partition is never above the true one, with rows of any arity and forbidden entries."""
    generator = torch.Generator().manual_seed(seed)
    forbid = (0.0, 0.1, 0.3)[seed % 3]
    graph = random_graph([5, 0, 4, 1], 3, generator, rows=3, forbid=forbid, blocks=1 + seed % 2)
    temperature = (1.0, 0.25)[seed % 2]
    found = marginals(graph, MeanField(restarts=2), temperature=temperature)
    assert not found.exact and found.stats["log_partition_bound"] == "lower"
    for b, truth in enumerate(oracle(graph)):
        assert not np.isnan(float(found.log_partition[b]))
        assert float(found.log_partition[b]) <= truth.log_partition(temperature) + 1e-10
        if found.statuses[b] is Status.INFEASIBLE:
            assert truth.minimum == np.inf
        elif forbid == 0:
            assert float(found.log_partition[b]) > -truth.minimum / temperature - 5  # not far below the best state
    for name, belief in found.beliefs.items():
        dead = found.status[graph.variables[name].instance] == int(Status.INFEASIBLE)
        torch.testing.assert_close(belief.sum(1), torch.where(dead, 0.0, 1.0).double())


@pytest.mark.parametrize("seed", range(9))
def test_minimising(seed: int) -> None:
    """Annealed energies are at least the optimum, and there is no bound but where an instance is infeasible."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([5, 0, 4, 1], 3, generator, forbid=(0.0, 0.1, 0.4)[seed % 3])
    result = minimize(graph, MeanField())
    for b, truth in enumerate(oracle(graph)):
        assert float(result.energy[b]) >= truth.minimum - 1e-9
        assert result.lower_bound[b] == -torch.inf or truth.minimum == np.inf


def test_independent_sites_are_exact() -> None:
    """Without rows the bound is log Z and the beliefs are the marginals: 1 / (1 + exp(-1)) for energies 0 and 1."""
    block = Variables.of_lengths("y", Discrete(2), [2])
    unary = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    found = marginals(FactorGraph([block], [TableFactor(("y",), "unary", unary)]), MeanField())
    one = 1 + np.exp(-1)
    assert float(found.beliefs["y"][0, 0]) == pytest.approx(1 / one, abs=1e-12)
    assert float(found.log_partition[0]) == pytest.approx(np.log(one) + np.log(2), abs=1e-12)


def test_hard_rows_are_respected() -> None:
    """Two sites that must differ: the beliefs put nothing on equal states, and the bound is one state's energy."""
    block = Variables.of_lengths("y", Discrete(2), [2])
    table = torch.tensor([[torch.inf, 0.0], [0.5, torch.inf]], dtype=torch.float64)
    pair = TableFactor(("y", "y"), "differ", table, index=torch.tensor([[0], [1]]))
    found = marginals(FactorGraph([block], [pair]), MeanField())
    assert found.beliefs["y"].tolist() == [[1.0, 0.0], [0.0, 1.0]] and found.log_partition.tolist() == [0.0]


def test_a_batch_equals_the_loop() -> None:
    """Instances side by side get the answers that they get alone, restarts included."""
    sizes, seeds = [(3, 4), (2, 2), (4, 3)], MeanField(restarts=3)
    alone = [random_grid([s], 3, torch.Generator().manual_seed(i)) for i, s in enumerate(sizes)]
    for first, second in ((0, 1), (1, 2)):
        pair = union([alone[first], alone[second]])
        together = marginals(pair, seeds)
        own = torch.cat([marginals(alone[i], seeds).log_partition for i in (first, second)])
        torch.testing.assert_close(together.log_partition, own, atol=1e-10, rtol=0)
        energies = torch.cat([minimize(alone[i], seeds).energy for i in (first, second)])
        torch.testing.assert_close(minimize(pair, seeds).energy, energies)


def test_same_seed_same_answer() -> None:
    """Restarts are drawn from the generator: the same seed gives the same bound, and more starts none that is lower."""
    graph = random_grid([(5, 5)], 3, torch.Generator().manual_seed(2))
    found = [marginals(graph, MeanField(restarts=4), generator=torch.Generator().manual_seed(9)) for _ in range(2)]
    assert torch.equal(found[0].log_partition, found[1].log_partition)
    assert float(found[0].log_partition[0]) >= float(marginals(graph, MeanField()).log_partition[0])


def test_init_budget_and_refusals() -> None:
    """A better initial assignment is kept, a passed deadline is told, and other questions are refused."""
    graph = random_forest([6], 3, torch.Generator().manual_seed(0))
    truth = oracle(graph)[0]
    init = Assignment({"y": torch.tensor(truth.states[int(np.argmin(truth.energies))])})
    assert float(minimize(graph, MeanField(), init=init).energy[0]) == pytest.approx(truth.minimum)
    assert marginals(graph, MeanField(), budget=Budget.after(0.0)).statuses == [Status.DEADLINE]
    for ask in (
        lambda: sample(graph, MeanField(), num_samples=1),
        lambda: minimize(graph, MeanField(), k=2),
        lambda: marginals(graph, MeanField(), factors=["pair"]),
    ):
        with pytest.raises(SolverRefusal):
            ask()
    with pytest.raises(GraphError):
        MeanField(damping=-0.1)
    with pytest.raises(GraphError):
        MeanField(restarts=0)

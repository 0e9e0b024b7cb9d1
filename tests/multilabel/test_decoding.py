"""Decoders of label sets against enumeration of all sets, and what they refuse."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.inference import Ask, Query, Status
from ebmstruct.testing import oracle, random_chain, sites_of


def independent(chances: Tensor, lengths: list[int]) -> es.FactorGraph:
    """Labels that are in the set with these chances, independently."""
    block = es.Variables.of_lengths("labels", es.Discrete(2), lengths)
    table = torch.stack([-torch.log1p(-chances.double()), -chances.double().log()], dim=1)
    return es.FactorGraph([block], [es.TableFactor(("labels",), "evidence", table)])


def f1(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """2 |both| / (|a| + |b|), 1 where both are empty."""
    size = sum(a) + sum(b)
    return 2 * sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 1.0


def best_by_enumeration(weights: dict[tuple[int, ...], float], at_least: int) -> float:
    """The greatest expected F1 of any set of at least so many labels."""
    sets = [s for s in weights if sum(s) >= at_least]
    return max(sum(w * f1(s, t) for t, w in weights.items()) for s in sets)


def weights_of(graph: es.FactorGraph, instance: int) -> dict[tuple[int, ...], float]:
    """Every set of an instance with its probability under exp(-E)."""
    block = next(iter(graph.variables.values()))
    lengths = block.lengths.tolist()
    out: dict[tuple[int, ...], float] = {}
    energies = {}
    for states in itertools.product((0, 1), repeat=lengths[instance]):
        values = torch.zeros(block.num_sites, dtype=torch.long)
        first = int(block.offsets[instance])
        values[first : first + len(states)] = torch.tensor(states, dtype=torch.long)
        energies[states] = float(graph.energy({block.name: values})[instance])
    total = sum(torch.exp(torch.tensor(-e, dtype=torch.float64)).item() for e in energies.values())
    for states, energy in energies.items():
        out[states] = torch.exp(torch.tensor(-energy, dtype=torch.float64)).item() / total
    return out


@pytest.mark.parametrize("at_least", [0, 1, 3])
def test_expected_f1_is_the_best_of_all_sets(at_least: int) -> None:
    """On ragged batches of independent labels no set of those allowed has a greater expected F1, by enumeration."""
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 5, 8, 0, 7, 2]
    chances = torch.rand(sum(lengths), generator=generator) ** 2
    chances = chances.clamp(1e-6, 1 - 1e-6)
    graph = independent(chances, lengths)
    found = es.minimize(graph, es.ExpectedF1(at_least=at_least))
    for b, n in enumerate(lengths):
        weights = weights_of(graph, b)
        want = best_by_enumeration(weights, min(at_least, n))
        first = int(graph.variables["labels"].offsets[b])
        mine = tuple(found.assignment["labels"][first : first + n].tolist())
        assert sum(mine) >= min(at_least, n)
        assert float(found.stats["expected_f1"][b]) == pytest.approx(want, abs=1e-12)
        assert sum(w * f1(mine, t) for t, w in weights.items()) == pytest.approx(want, abs=1e-12)
    assert found.status.tolist() == [int(Status.CONVERGED)] * len(lengths)
    torch.testing.assert_close(found.energy, graph.energy(found.assignment))


def test_expected_f1_of_certain_and_impossible_labels() -> None:
    """Chances of 0 and 1 are told apart without a NaN: the set is what is certain."""
    block = es.Variables.of_lengths("labels", es.Discrete(2), [3])
    table = torch.tensor([[torch.inf, 0.0], [0.0, torch.inf], [0.0, torch.inf]])
    graph = es.FactorGraph([block], [es.TableFactor(("labels",), "evidence", table)])
    found = es.minimize(graph, es.ExpectedF1())
    assert found.assignment["labels"].tolist() == [1, 0, 0] and float(found.stats["expected_f1"]) == 1.0


@pytest.mark.parametrize("at_least", [0, 2])
def test_draws_are_decoded_best(at_least: int) -> None:
    """From draws of dependent labels no set has a greater mean F1 over those very draws, by enumeration."""
    from ebmstruct.inference.kernels.sets.expected_f1_numba import from_draws

    generator = torch.Generator().manual_seed(1)
    lengths = [6, 0, 4, 7]
    draws = (torch.rand(40, sum(lengths), generator=generator) < 0.3).to(torch.uint8)
    draws[:, 1] = 1 - draws[:, 0]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    states, value = torch.zeros(sum(lengths), dtype=torch.long), torch.zeros(len(lengths), dtype=torch.float64)
    from_draws(draws.numpy(), offsets.numpy(), at_least, states.numpy(), value.numpy())
    for b, n in enumerate(lengths):
        own = [tuple(row) for row in draws[:, offsets[b] : offsets[b + 1]].tolist()]
        sets = [s for s in itertools.product((0, 1), repeat=n) if sum(s) >= min(at_least, n)]
        want = max(sum(f1(s, t) for t in own) / len(own) for s in sets)
        mine = tuple(states[offsets[b] : offsets[b + 1]].tolist())
        assert sum(f1(mine, t) for t in own) / len(own) == pytest.approx(want, abs=1e-12)
        assert float(value[b]) == pytest.approx(want, abs=1e-12)


def test_draws_see_what_marginals_do_not() -> None:
    """Of two labels that exclude each other draws choose one where the independent programme puts both or none.

    One of a, b always holds, with chance 0.5 each. By hand: {a} has expected F1 1/2, {a, b} has 2/3. With c certain
    as well: {a, c} has (1 + 1/2) / 2 = 3/4, {a, b, c} has 4/5.
    """
    block = es.Variables.of_lengths("labels", es.Discrete(2), [3])
    pair = es.TableFactor(("labels", "labels"), "either", 30 * torch.eye(2), index=torch.tensor([[0], [1]]))
    certain = es.TableFactor(("labels",), "certain", torch.tensor([[0.0, 0.0], [0.0, 0.0], [30.0, 0.0]]))
    graph = es.FactorGraph([block], [pair, certain])
    found = es.minimize(graph, es.ExpectedF1(samples=2000), generator=torch.Generator().manual_seed(0))
    assert found.assignment["labels"].tolist() == [1, 1, 1]
    assert float(found.stats["expected_f1"]) == pytest.approx(0.8, abs=1e-6)
    alone = es.minimize(graph, es.ExpectedF1())
    assert float(alone.stats["expected_f1"]) == pytest.approx((1 + 2 * 0.8 + 0.5) / 4, abs=1e-6)


def test_threshold_takes_what_passes() -> None:
    """Labels at or above the threshold are in, and the most probable ones where too few pass."""
    graph = independent(torch.tensor([0.9, 0.3, 0.29, 0.1, 0.2, 0.05]), [3, 0, 2, 1])
    cases = [(0.3, 0, [1, 1, 0, 0, 0, 0]), (0.3, 1, [1, 1, 0, 0, 1, 1]), (0.95, 2, [1, 1, 0, 1, 1, 1])]
    for value, least, want in cases:
        found = es.minimize(graph, es.Threshold(value, at_least=least))
        assert found.assignment["labels"].tolist() == want
        torch.testing.assert_close(found.energy, graph.energy(found.assignment))
    assert es.minimize(graph, es.Threshold()).assignment["labels"].tolist() == [1, 0, 0, 0, 0, 0]


def test_marginals_are_those_of_the_whole_graph() -> None:
    """Where labels interact the probabilities are marginals of the joint, as enumerated, and evidence is kept."""
    generator = torch.Generator().manual_seed(2)
    graph = random_chain([4, 3], 2, generator)
    name = next(iter(graph.variables))
    fixed = torch.tensor([1, 0, 0, 0, 0, 0, 0])
    graph = graph.condition(es.Assignment({name: fixed}, {name: torch.tensor([True] + [False] * 6)}))
    found = es.minimize(graph, es.Threshold(0.4))
    truth = oracle(graph)
    for b in range(2):
        for i, (_, site) in enumerate(sites_of(graph, b)):
            assert float(found.stats["probability"][site]) == pytest.approx(truth[b].marginal(i, 1), abs=1e-9)
    assert int(found.assignment[name][0]) == 1
    for solver in (es.ExpectedF1(), es.ExpectedF1(samples=50)):
        assert int(es.minimize(graph, solver).assignment[name][0]) == 1


def test_hidden_blocks_are_completed() -> None:
    """A block beside the labels is summed out, and ends at its least energy given the set."""
    blocks = [
        es.Variables.of_lengths("kind", es.Discrete(3), [1, 1]),
        es.Variables.of_lengths("labels", es.Discrete(2), [2, 2]),
    ]
    index = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]])
    tables = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    graph = es.FactorGraph(blocks, [es.TableFactor(("kind", "labels"), "pairs", tables, index)])
    found = es.minimize(graph, es.ExpectedF1())
    given = es.minimize(graph.condition(es.Assignment({"labels": found.assignment["labels"]})))
    torch.testing.assert_close(found.energy, given.energy)
    assert found.assignment["kind"].tolist() == given.assignment["kind"].tolist()


def test_batch_equals_loop() -> None:
    """Every instance gets the set that it gets alone."""
    lengths = [5, 3, 0, 6]
    chances = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(3))
    for solver in (es.ExpectedF1(), es.Threshold(0.4)):
        whole = es.minimize(independent(chances, lengths), solver).assignment["labels"].tolist()
        parts = [es.minimize(independent(c, [len(c)]), solver) for c in chances.split(lengths)]
        assert whole == [s for part in parts for s in part.assignment["labels"].tolist()]


def test_one_broken_instance_harms_no_other() -> None:
    """A NaN leaves its instance NONFINITE, an impossible one ends INFEASIBLE, and the others keep their sets."""
    table = torch.tensor([[0.0, -1.0], [0.0, torch.nan], [torch.inf, torch.inf], [0.0, -2.0]])
    block = es.Variables.of_lengths("labels", es.Discrete(2), [1, 1, 1, 1])
    graph = es.FactorGraph([block], [es.TableFactor(("labels",), "evidence", table)])
    for solver in (es.ExpectedF1(), es.Threshold()):
        found = es.minimize(graph, solver)
        assert [s.name for s in found.statuses] == ["CONVERGED", "NONFINITE", "INFEASIBLE", "CONVERGED"]
        assert found.assignment["labels"][[0, 3]].tolist() == [1, 1]


def test_refusals() -> None:
    """Other queries, other graphs and inner solvers that do not exist are refused in a sentence."""
    graph = independent(torch.tensor([0.5]), [1])
    three = es.FactorGraph([es.Variables.of_lengths("y", es.Discrete(3), [2])], [])
    for solver in (es.ExpectedF1(), es.Threshold()):
        assert "sample is asked" in str(solver.refuse(graph, Query(Ask.SAMPLE)))
        assert "not the 2 best" in str(solver.refuse(graph, Query(k=2)))
        assert "summed out" in str(solver.refuse(graph, Query(sum_out=("labels",))))
        assert "two states a site" in str(solver.refuse(three, Query()))
    with pytest.raises(SolverRefusal, match="no solver 'nobody' to ask inside"):
        es.minimize(graph, es.Threshold(inner="nobody"))
    with pytest.raises(SolverRefusal, match="mirror_descent cannot compute marginals inside"):
        es.minimize(graph, es.Threshold(inner="mirror_descent"))
    with pytest.raises(GraphError, match="legal are"):
        es.Threshold(1.5)
    with pytest.raises(GraphError, match="legal are"):
        es.ExpectedF1(samples=-1)


def test_energies_of_whole_sets_are_drawn() -> None:
    """Marginals of a function of whole sets need one that takes weights, which is said with a way out; draws do not."""

    def energy(weights: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        inside = weights[:, 1].reshape(-1, 40)
        return 5 * (inside.sum(1) - 2) ** 2 - 5 * inside[:, 0]

    graph = es.FactorGraph(
        [es.Variables.of_lengths("labels", es.Discrete(2), [40, 40])],
        [es.BlockFactor(("labels",), "set", energy, relaxed=True)],
    )
    rigid = es.FactorGraph(list(graph.variables.values()), [replace(graph.factors[0], relaxed=False)])
    with pytest.raises(SolverRefusal, match="samples above 0"):
        es.minimize(rigid, es.ExpectedF1())
    assert es.minimize(graph, es.ExpectedF1()).stats["by"] == "relaxed_mean_field"
    found = es.minimize(graph, es.ExpectedF1(samples=20), generator=torch.Generator().manual_seed(0))
    assert found.assignment["labels"].reshape(2, 40)[:, 0].tolist() == [1, 1]
    assert found.stats["by"] == "gibbs_with_gradients"


def test_relaxed_mean_field_is_mean_field_on_tables() -> None:
    """On weakly coupled tables both find the one fixed point; without coupling it is exact; evidence is kept."""
    graph = random_chain([5, 3], 2, torch.Generator().manual_seed(4))
    weak = es.FactorGraph(list(graph.variables.values()), [f.scaled(0.3) for f in graph.factors])
    mine, theirs = es.marginals(weak, es.RelaxedMeanField(tolerance=1e-9)), es.marginals(weak, es.MeanField())
    name = next(iter(graph.variables))
    torch.testing.assert_close(mine.beliefs[name], theirs.beliefs[name], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mine.log_partition, theirs.log_partition.double(), atol=1e-8, rtol=1e-8)
    assert (mine.log_partition <= es.log_partition(weak) + 1e-9).all() and not mine.exact
    chances = torch.tensor([0.9, 0.2, 0.5])
    alone = es.marginals(independent(chances, [2, 1]), es.RelaxedMeanField())
    torch.testing.assert_close(alone.beliefs["labels"][:, 1], chances.double(), atol=1e-4, rtol=1e-4)
    fixed = es.Assignment({name: torch.ones(8, dtype=torch.long)}, {name: torch.arange(8) == 2})
    assert es.marginals(weak.condition(fixed), es.RelaxedMeanField()).beliefs[name][2].tolist() == [0.0, 1.0]


def test_relaxed_mean_field_of_a_network_is_stationary() -> None:
    """Each weight is the logistic function of minus the relaxed energy's own gradient there, to the tolerance."""
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(5))

    def energy(weights: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        inside = weights[:, 1].reshape(-1, 5).float()
        return torch.nn.functional.softplus(inside @ weight.T).sum(1)

    block = es.Variables.of_lengths("labels", es.Discrete(2), [5, 5])
    graph = es.FactorGraph([block], [es.BlockFactor(("labels",), "set", energy, relaxed=True)])
    found = es.marginals(graph, es.RelaxedMeanField(tolerance=1e-5))
    p = found.beliefs["labels"][:, 1].float().requires_grad_(True)
    energy(torch.stack([1 - p, p], dim=1), ()).sum().backward()
    torch.testing.assert_close(p.detach(), torch.sigmoid(-p.grad), atol=3e-5, rtol=0)  # type: ignore[operator]
    assert found.statuses == [Status.CONVERGED] * 2

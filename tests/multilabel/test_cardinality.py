"""Energies of counts: the factor against its definition, and the solver against enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import GraphError, SolverRefusal
from ebmstruct.inference import Ask, Query, Status
from ebmstruct.testing import oracle

LENGTHS = [4, 0, 1, 5]


def graph_of(tables: Tensor, seed: int = 0, scale: float = 1.0) -> es.FactorGraph:
    """Random scores of ragged sets, with an energy of their count."""
    generator = torch.Generator().manual_seed(seed)
    unary = scale * torch.randn(sum(LENGTHS), 2, generator=generator, dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(2), LENGTHS)
    return es.FactorGraph([block], [es.TableFactor(("y",), "evidence", unary), es.CountFactor(("y",), "size", tables)])


TABLES = {
    "shared": torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64),
    "long": torch.tensor([0.1, 0.7, -1.0, 0.0, 2.0, 1.0, 3.0, 0.0], dtype=torch.float64),
    "each": torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    "forbidden": torch.tensor([torch.inf, 0.0, torch.inf, 0.5], dtype=torch.float64),
    "one": torch.tensor([0.7], dtype=torch.float64),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("evidence", [False, True])
def test_answers_are_those_of_enumeration(kind: str, evidence: bool) -> None:
    """Minimum, log partition, marginals and draws of ragged sets, some clamped, one empty and perhaps impossible."""
    graph = graph_of(TABLES[kind])
    if evidence:
        known = torch.tensor([True, False, False, True, False, True, False, False, False, False])
        graph = graph.condition(es.Assignment({"y": torch.tensor([1, 0, 0, 0, 0, 1, 0, 0, 0, 0])}, {"y": known}))
    truth = oracle(graph)
    solver = es.Cardinality()
    best, found = es.minimize(graph, solver), es.marginals(graph, solver, temperature=1.0)
    drawn = es.sample(graph, solver, num_samples=4000, generator=torch.Generator().manual_seed(3))
    assert found.exact and drawn.exact
    log_z = es.log_partition(graph, solver)
    for b, one in enumerate(truth):
        if one.minimum == float("inf"):
            assert best.statuses[b] is Status.INFEASIBLE and log_z[b] == -torch.inf
            continue
        assert float(best.energy[b]) == pytest.approx(one.minimum, abs=1e-9) and best.statuses[b] is Status.OPTIMAL
        assert float(log_z[b]) == pytest.approx(one.log_partition(), abs=1e-9)
        first = int(graph.variables["y"].offsets[b])
        for i in range(LENGTHS[b]):
            want = one.marginal(i, 1)
            assert float(found.beliefs["y"][first + i, 1]) == pytest.approx(want, abs=1e-9)
            assert float(drawn.values["y"][:, first + i].double().mean()) == pytest.approx(want, abs=0.035)
        assert drawn.energy[:, b].isfinite().all()


def test_gradients_are_finite_differences() -> None:
    """The log partition's gradient in scores and count energies, in float64."""
    graph = graph_of(TABLES["each"], seed=2)
    unary, table = graph.factors[0].values()[0], graph.factors[1].values()[0]
    assert unary is not None and table is not None

    def value(scores: Tensor, counts: Tensor) -> Tensor:
        return es.log_partition(graph.with_values({"evidence": scores, "size": counts}), es.Cardinality())

    inputs = (unary.clone().requires_grad_(True), table.clone().requires_grad_(True))
    assert torch.autograd.gradcheck(value, inputs)


def test_the_factor_is_its_definition() -> None:
    """Conditionals, relaxed energies at states, copies, unions and scales follow from the energies of counts."""
    graph = graph_of(TABLES["each"], seed=4)
    y = torch.randint(0, 2, (10,), generator=torch.Generator().manual_seed(5))
    quick = graph.conditionals("y", {"y": y})
    for site, instance in enumerate(graph.variables["y"].instance.tolist()):
        energies = []
        for state in (0, 1):
            changed = y.clone()
            changed[site] = state
            energies.append(graph.energy({"y": changed})[instance])
        torch.testing.assert_close(quick[site, 1] - quick[site, 0], energies[1] - energies[0])
    weights = torch.nn.functional.one_hot(y, 2).double()
    torch.testing.assert_close(graph.relaxed_energy({"y": weights}), graph.energy({"y": y}))
    twice = graph.repeat(2).energy({"y": y.repeat(2)})
    torch.testing.assert_close(twice, graph.energy({"y": y}).repeat(2))
    both = es.union([graph, graph_of(TABLES["each"], seed=4)])
    torch.testing.assert_close(both.energy({"y": y.repeat(2)}), twice)
    draws = torch.rand(10, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    draws = draws / draws.sum(1, keepdim=True)
    sure = es.FactorGraph([graph.variables["y"]], [graph.factors[1]])
    want = torch.zeros(4, dtype=torch.float64)
    for code in range(2**5):
        states = torch.tensor([(code >> i) & 1 for i in range(5)])
        chance = draws[5:][torch.arange(5), states].prod()
        whole = torch.cat([torch.zeros(5, dtype=torch.long), states])
        want[3] += chance * sure.energy({"y": whole})[3]
    torch.testing.assert_close(sure.relaxed_energy({"y": draws})[3], want[3])


def test_refusals_and_faults() -> None:
    """What it does not take is refused in a sentence, and tables that do not fit are a fault."""
    graph = graph_of(TABLES["shared"])
    assert "not the 2 best" in str(es.Cardinality().refuse(graph, Query(k=2)))
    assert "joint beliefs" in str(es.Cardinality().refuse(graph, Query(Ask.MARGINALS, factors=("size",))))
    pair = graph.add(es.TableFactor(("y", "y"), "pair", torch.eye(2), index=torch.tensor([[0], [1]])))
    with pytest.raises(SolverRefusal, match="'pair' is a TableFactor"):
        es.minimize(pair, es.Cardinality())
    with pytest.raises(GraphError, match="counts the sites of one block"):
        graph_of(torch.zeros(3, 2))
    with pytest.raises(GraphError, match="counts state 2"):
        es.FactorGraph(list(graph.variables.values()), [es.CountFactor(("y",), "size", torch.zeros(3), 2)])


@pytest.mark.parametrize("kind", ["shared", "each", "forbidden"])
@pytest.mark.parametrize("at_least", [0, 1])
def test_the_best_set_is_exact_with_counts(kind: str, at_least: int) -> None:
    """With an energy of counts no set has a greater expected F1 than the one decoded, by enumeration of all sets."""
    graph = graph_of(TABLES[kind], seed=7)
    found = es.minimize(graph, es.ExpectedF1(at_least=at_least))
    offsets = graph.variables["y"].offsets.tolist()
    for b, n in enumerate(LENGTHS):
        sets = list(itertools.product((0, 1), repeat=n))
        energies = []
        for own in sets:
            y = torch.zeros(sum(LENGTHS), dtype=torch.long)
            y[offsets[b] : offsets[b] + n] = torch.tensor(own, dtype=torch.long)
            energies.append(graph.energy({"y": y})[b])
        chances = torch.softmax(-torch.stack(energies), 0)
        if not bool(chances.isfinite().all()):  # the empty instance, whose one set is forbidden
            assert found.statuses[b] is Status.INFEASIBLE
            continue
        legal = [s for s in sets if sum(s) >= min(at_least, n)]
        means = [sum(float(c) * f1(s, t) for c, t in zip(chances, sets, strict=True)) for s in legal]
        mine = tuple(found.assignment["y"][offsets[b] : offsets[b + 1]].tolist())
        assert float(found.stats["expected_f1"][b]) == pytest.approx(max(means), abs=1e-9)
        assert means[legal.index(mine)] == pytest.approx(max(means), abs=1e-9)


def f1(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """2 |both| / (|a| + |b|), 1 where both are empty."""
    size = sum(a) + sum(b)
    return 2 * sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 1.0

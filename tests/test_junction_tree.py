"""The junction tree: exact answers on any small graph, held against enumeration; real models against stored answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, Discrete, FactorGraph, TableFactor, Variables, union
from ebmstruct.inference.elimination_order import Elimination, elimination_order
from ebmstruct.inference.engine import log_partition, marginals, minimize, sample
from ebmstruct.inference.kernels.elimination import elimination, elimination_torch
from ebmstruct.inference.result import Ask, Budget, EliminationOrder, Marginals, Query, Result, Samples, Status
from ebmstruct.inference.solvers.junction_tree import JunctionTree
from ebmstruct.inference.views.table_view import TableView, table_view
from ebmstruct.testing import oracle, random_chain, random_graph, random_grid, sites_of

SOLVER = JunctionTree()
CASES = range(12)


def case(seed: int, sizes: list[int] | None = None) -> FactorGraph:
    """Mixed states, arities to 4, one block or two, some entries forbidden, an empty instance and one of one site."""
    generator = torch.Generator().manual_seed(seed)
    forbid = (0.0, 0.15, 0.5)[seed % 3]
    graph = random_graph(sizes or [6, 0, 5, 1], 3, generator, forbid=forbid, blocks=1 + seed % 2, rows=3)
    if seed % 4 == 3:
        name, block = next(iter(graph.variables.items()))
        known = torch.rand(block.num_sites, generator=generator) < 0.4
        graph = graph.condition(Assignment({name: torch.zeros(block.num_sites, dtype=torch.long)}, {name: known}))
    return graph


@pytest.mark.parametrize("seed", CASES)
def test_minimum(seed: int) -> None:
    """The energy found is the least one and its own bound; an instance without assignments ends INFEASIBLE."""
    graph = case(seed)
    result = minimize(graph, SOLVER)
    for b, truth in enumerate(oracle(graph)):
        if math.isinf(truth.minimum):
            assert result.statuses[b] is Status.INFEASIBLE
            assert result.energy[b] == torch.inf and result.lower_bound[b] == torch.inf
        else:
            assert result.statuses[b] is Status.OPTIMAL
            assert float(result.energy[b]) == pytest.approx(truth.minimum, abs=1e-10)
    assert isinstance(result.witness, EliminationOrder)
    assert sorted(result.witness.sites.tolist()) == list(range(table_view(graph).num_sites))


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_log_partition_and_marginals(seed: int, temperature: float) -> None:
    """log Z and every probability agree with enumeration to 1e-10, at any temperature; infeasible instances are 0."""
    graph = case(seed)
    found = marginals(graph, SOLVER, temperature=temperature)
    alone = log_partition(graph, SOLVER, temperature=temperature)
    assert found.exact
    for b, truth in enumerate(oracle(graph)):
        expected = truth.log_partition(temperature)
        assert float(found.log_partition[b]) == pytest.approx(expected, abs=1e-10)
        assert float(alone[b]) == pytest.approx(expected, abs=1e-10)
        assert found.statuses[b] is (Status.INFEASIBLE if math.isinf(expected) else Status.OPTIMAL)
        for i, (name, site) in enumerate(sites_of(graph, b)):
            row = found.beliefs[name][site].tolist()
            for k, p in enumerate(row):
                right = truth.marginal(i, k, temperature) if math.isfinite(expected) else 0.0
                assert p == pytest.approx(right, abs=1e-10)


@pytest.mark.parametrize("seed", CASES)
def test_joint_beliefs(seed: int) -> None:
    """The joint beliefs of every factor's rows, of any arity, agree with enumeration, evidence and all."""
    graph = case(seed, [5, 4])
    labels = [f.label for f in graph.factors]
    found = marginals(graph, SOLVER, factors=labels)
    truths = oracle(graph)
    number = {place: (b, i) for b in range(2) for i, place in enumerate(sites_of(graph, b))}
    for factor in graph.factors:
        assert isinstance(factor, TableFactor)
        joint = found.factor_beliefs[factor.label]
        rows = factor.num_rows(graph.scope(factor))
        index = torch.arange(rows)[None] if factor.index is None else factor.index
        assert joint.shape[0] == rows
        for row in range(rows):
            places = [number[name, int(site)] for name, site in zip(factor.scope, index[:, row], strict=True)]
            truth = truths[places[0][0]]
            for states in np.ndindex(*joint.shape[1:]):
                event = {i: k for (_, i), k in zip(places, states, strict=True)}
                right = truth.probability(event) if math.isfinite(truth.minimum) else 0.0
                assert float(joint[(row, *states)]) == pytest.approx(right, abs=1e-10)


def test_joint_beliefs_of_a_chain() -> None:
    """Entry t of a chain's beliefs is the edge from t - 1 to t; first sites have zeros."""
    graph = random_chain([4, 1, 3], 3, torch.Generator().manual_seed(0), forbid=0.2)
    joint = marginals(graph, SOLVER, factors=["chain"]).factor_beliefs["chain"]
    assert joint.shape == (8, 3, 3)
    assert not joint[[0, 4, 5]].any()
    truth = oracle(graph)[2]
    for before, after in np.ndindex(3, 3):
        expected = truth.probability({1: before, 2: after})
        assert float(joint[7, before, after]) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", CASES)
def test_k_best(seed: int) -> None:
    """The k least energies come in order, each with a different assignment; missing ones are infinite."""
    graph = case(seed, [4, 0, 3])
    k = 30
    result = minimize(graph, SOLVER, k=k)
    assert result.alternative_energies is not None and len(result.alternatives) == k
    for b, truth in enumerate(oracle(graph)):
        finite = sorted(e for e in truth.energies if e < math.inf)[:k]
        finite += [math.inf] * (k - len(finite))
        assert result.alternative_energies[:, b].tolist() == pytest.approx(finite, abs=1e-10)
        seen = set()
        for rank, assignment in enumerate(result.alternatives):
            if finite[rank] < math.inf:
                seen.add(tuple(int(assignment[name][site]) for name, site in sites_of(graph, b)))
                assert float(graph.energy(assignment)[b]) == pytest.approx(finite[rank], abs=1e-10)
        assert len(seen) == sum(e < math.inf for e in finite)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_samples(seed: int) -> None:
    """Frequencies of draws are the marginals within five standard deviations; the same seed gives the same draws."""
    graph = case(seed)
    count = 4000
    drawn = sample(graph, SOLVER, num_samples=count, generator=torch.Generator().manual_seed(1))
    again = sample(graph, SOLVER, num_samples=count, generator=torch.Generator().manual_seed(1))
    found = marginals(graph, SOLVER)
    for name, block in graph.variables.items():
        values = drawn.values[name]
        assert torch.equal(values, again.values[name])
        for site in range(block.num_sites):
            if found.statuses[int(block.instance[site])] is not Status.OPTIMAL:
                continue
            p = found.beliefs[name][site]
            frequency = torch.bincount(values[:, site], minlength=p.numel()) / count
            assert bool(((frequency - p).abs() <= 5 * (p * (1 - p) / count).sqrt() + 1e-12).all())
    for s in range(3):
        expected = graph.energy({n: v[s] for n, v in drawn.values.items()})
        feasible = torch.isfinite(found.log_partition)
        torch.testing.assert_close(drawn.energy[s][feasible], expected[feasible])


def ask(graph: FactorGraph, kind: Ask) -> dict[str, Tensor]:
    """What the solver says about a graph, as tensors over instances or sites."""
    answer = SOLVER.solve(graph, Query(kind))
    if isinstance(answer, Result):
        return {"energy": answer.energy, "bound": answer.lower_bound, **answer.assignment.values}
    assert isinstance(answer, Marginals)
    return {"log_z": answer.log_partition, **answer.beliefs}


@pytest.mark.parametrize("kind", [Ask.MINIMIZE, Ask.MARGINALS])
def test_batch_equals_loop(kind: Ask) -> None:
    """A batch answers as each of its instances alone."""
    parts = [
        random_grid([shape], 2, torch.Generator().manual_seed(i)) for i, shape in enumerate([(3, 4), (5, 2), (1, 1)])
    ]
    whole = ask(union(parts), kind)
    single = [ask(part, kind) for part in parts]
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, torch.cat([s[name] for s in single]), atol=1e-12, rtol=1e-12)


def prepared(graph: FactorGraph) -> tuple[TableView, elimination.Buckets]:
    view = table_view(graph)
    order = elimination_order(view.num_states, view.row_ptr, view.row_sites)
    assert isinstance(order, Elimination)
    return view, elimination.buckets_of(view, order)


@pytest.mark.parametrize("seed", range(6))
def test_twin(seed: int) -> None:
    """The loops and their torch twin agree, where tables span several blocks and small ones are merged as well."""
    generator = torch.Generator().manual_seed(seed)
    if seed < 3:
        graph = random_graph([16], 3 + seed, generator, rows=12, forbid=0.1 * seed, arities=(2, 3))
    else:
        graph = random_grid([((13, 13), (9, 9), (5, 30))[seed - 3]], (2, 3, 4)[seed - 3], generator)
    view, buckets = prepared(graph)
    unary, tables = view.unary, view.row_tables()[0]
    assert seed < 3 or buckets.elimination.log2_largest > 11
    log_z = elimination.log_partition(buckets, unary.numpy(), tables.numpy())
    torch.testing.assert_close(
        torch.from_numpy(log_z), elimination_torch.log_partition(unary, tables, buckets), atol=1e-10, rtol=0
    )
    states, least = elimination.minimize(buckets, unary.numpy(), tables.numpy())
    torch.testing.assert_close(
        torch.from_numpy(least), elimination_torch.minimum(unary, tables, buckets), atol=1e-10, rtol=0
    )
    if math.isfinite(least[0]):
        assert view.energy(states)[0] == pytest.approx(least[0] + float(view.constant[0]), abs=1e-9)
    leaf = [x.clone().requires_grad_() for x in (unary, tables)]
    elimination_torch.log_partition(leaf[0], leaf[1], buckets).sum().backward()
    flat = elimination.LogSums(buckets, unary.numpy(), tables.numpy()).beliefs()
    expected = torch.cat([x.grad for x in leaf if x.grad is not None]).neg()
    torch.testing.assert_close(torch.from_numpy(flat), expected, atol=1e-10, rtol=0)


def test_states_beyond_a_byte() -> None:
    """Sites of 300 states: recorded choices take two bytes."""
    block = Variables.of_lengths("y", Discrete(300), [3])
    generator = torch.Generator().manual_seed(0)
    index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    table = torch.rand(3, 300, 300, generator=generator, dtype=torch.float64)
    graph = FactorGraph([block], [TableFactor(("y", "y"), "pair", table, index=index)])
    best = (table[0][:, :, None] + table[1][None] + table[2].T[:, None, :]).min()
    result = minimize(graph, JunctionTree(max_table=1 << 25))
    assert float(result.energy[0]) == pytest.approx(float(best), abs=1e-12)
    assert result.statuses == [Status.OPTIMAL]


def differentiable(seed: int, rows: int, forbid: float = 0.0) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """log Z of all instances as a function of a small graph's tables, and these tables."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([4, 2], 2, generator, rows=rows, forbid=forbid, arities=(2, 3))
    factors = [f for f in graph.factors if isinstance(f, TableFactor)]
    values = [f.tables.clone().requires_grad_() for f in factors]

    def log_z(*given: Tensor) -> Tensor:
        tables = {f.label: x for f, x in zip(factors, given, strict=True)}
        return log_partition(graph.with_values(tables), SOLVER, temperature=0.7)

    return log_z, values


def test_gradients() -> None:
    """First and second derivatives of log Z in all tables agree with finite differences."""
    log_z, values = differentiable(0, 1)
    assert sum(v.numel() for v in values) > 20
    assert torch.autograd.gradcheck(log_z, values)
    assert torch.autograd.gradgradcheck(log_z, values, fast_mode=True)


def test_gradients_with_forbidden_entries() -> None:
    """Gradients are finite where entries are infinite, minus the probabilities over T, and 0 at what is forbidden."""
    log_z, values = differentiable(0, 3, forbid=0.15)
    log_z(*values).sum().backward()
    for value in values:
        assert value.grad is not None
        assert bool(value.grad.isfinite().all())
        assert not value.grad[value.isinf()].any()
    first = torch.autograd.grad(log_z(*values).sum(), values, create_graph=True)
    for a, value in zip(first, values, strict=True):
        assert value.grad is not None
        torch.testing.assert_close(a.detach(), value.grad, atol=1e-12, rtol=0)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), values)
    assert all(bool(x.isfinite().all()) for x in second)


def test_infeasible_beside_feasible() -> None:
    """Constraints that contradict each other only around a cycle: -inf, INFEASIBLE, zeros; the neighbour is untouched."""
    unequal = torch.tensor([[torch.inf, 0.0], [0.0, torch.inf]], dtype=torch.float64)
    index = torch.tensor([[0, 1, 2, 3], [1, 2, 0, 4]])
    block = Variables.of_lengths("y", Discrete(2), [3, 2])
    graph = FactorGraph([block], [TableFactor(("y", "y"), "pair", unequal, index=index)])
    result = minimize(graph, SOLVER, k=3)
    assert result.statuses == [Status.INFEASIBLE, Status.OPTIMAL]
    assert result.lower_bound.tolist() == [math.inf, 0.0]
    found = marginals(graph, SOLVER, factors=["pair"])
    assert found.statuses == [Status.INFEASIBLE, Status.OPTIMAL]
    assert found.log_partition.tolist() == [-math.inf, pytest.approx(math.log(2))]
    assert not found.beliefs["y"][:3].any() and not found.factor_beliefs["pair"][:3].any()
    assert found.beliefs["y"][3:].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    drawn = sample(graph, SOLVER, num_samples=2)
    assert drawn.statuses == [Status.INFEASIBLE, Status.OPTIMAL]
    tables = unequal.clone().requires_grad_()
    log_z = log_partition(graph.with_values({"pair": tables}), SOLVER)
    log_z.sum().backward()
    assert tables.grad is not None and tables.grad.tolist() == [[0.0, -0.5], [-0.5, 0.0]]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_values_that_are_no_energies(value: float) -> None:
    """An instance that holds NaN or minus infinity ends NONFINITE, and its neighbour is untouched."""
    graph = random_grid([(3, 3), (3, 3)], 2, torch.Generator().manual_seed(0))
    unary = graph.factors[0]
    assert isinstance(unary, TableFactor)
    tables = unary.tables.clone()
    tables[0, 1] = value
    graph = graph.with_values({"unary": tables})
    result = minimize(graph, SOLVER)
    assert result.statuses[1] is Status.OPTIMAL
    found = marginals(graph, SOLVER)
    assert found.statuses == [Status.NONFINITE, Status.OPTIMAL]
    assert torch.isfinite(log_partition(graph, SOLVER)).tolist() == [False, True]


def test_refusals() -> None:
    """Refusals are sentences: over budget they name the table or the memory, else what cannot be done."""
    wide = random_grid([(12, 12)], 3, torch.Generator().manual_seed(0))
    reason = JunctionTree(max_table=1 << 12).refuse(wide, Query())
    assert reason is not None and "2^" in reason and "4,096 entries" in reason
    reason = JunctionTree(max_memory=1 << 16).refuse(wide, Query(Ask.MARGINALS))
    assert reason is not None and "width" in reason and "GB" in reason
    with pytest.raises(SolverRefusal, match="cannot differentiate"):
        tables = wide.factors[0].values()[0]
        assert tables is not None
        JunctionTree(max_memory=1 << 16).log_partition(wide.with_values({"unary": tables.clone().requires_grad_()}))
    small = random_grid([(2, 2)], 2, torch.Generator().manual_seed(0))
    assert "sums some of them out" in str(SOLVER.refuse(small, Query(sum_out=("y",))))
    assert "no factor is labelled 'x'" in str(SOLVER.refuse(small, Query(Ask.MARGINALS, factors=("x",))))
    assert "GridFactor" in str(SOLVER.refuse(small, Query(Ask.MARGINALS, factors=("grid",))))
    cost = SOLVER.cost(wide, Query())
    assert cost is not None and round(math.log(cost.largest_table, 3), 6) in (12, 13)
    assert "largest table" in str(cost)
    assert SOLVER.cost(small, Query(Ask.MARGINALS)) is not None


def test_deadline() -> None:
    """A deadline that has passed: a legal assignment with status DEADLINE, no bound; marginals that are not exact."""
    graph = random_grid([(14, 14)], 2, torch.Generator().manual_seed(0))
    late = Budget(deadline=time.monotonic() - 1.0)
    result = minimize(graph, SOLVER, budget=late)
    assert result.statuses == [Status.DEADLINE] and result.lower_bound.tolist() == [-math.inf]
    assert bool(result.energy.isfinite().all())
    start = Assignment({"y": torch.ones(196, dtype=torch.long)})
    begun = minimize(graph, SOLVER, budget=late, init=start)
    assert torch.equal(begun.assignment["y"], start["y"])
    found = marginals(graph, SOLVER, budget=late)
    assert not found.exact and found.statuses == [Status.DEADLINE]
    assert float(found.log_partition[0]) <= float(log_partition(graph, SOLVER)[0])
    drawn = sample(graph, SOLVER, num_samples=3, budget=late)
    assert isinstance(drawn, Samples) and not drawn.exact and drawn.statuses == [Status.DEADLINE]


def test_stopping_between_buckets() -> None:
    """A pass that is told to stop does so between two buckets."""
    graph = random_grid([(16, 16)], 2, torch.Generator().manual_seed(0))
    view, buckets = prepared(graph)
    calls: list[int] = []

    def stop(entries: float) -> bool:
        calls.append(1)
        return len(calls) > 1

    with pytest.raises(elimination.OutOfTime):
        elimination.minimize(buckets, view.unary.numpy(), view.row_tables()[0].numpy(), stop)
    assert len(calls) == 2


def test_orders_are_remembered() -> None:
    """Other values over the same topology use the same plan; other evidence gets its own."""
    graph = random_grid([(4, 4)], 2, torch.Generator().manual_seed(0))
    plan = SOLVER._buckets(graph)
    tables = graph.factors[0].values()[0]
    assert tables is not None
    assert SOLVER._buckets(graph.with_values({"unary": tables + 1.0})) is plan
    known = torch.arange(16) < 4
    fixed = graph.condition(Assignment({"y": torch.zeros(16, dtype=torch.long)}, {"y": known}))
    other = SOLVER._buckets(fixed)
    assert isinstance(other, elimination.Buckets) and other.card.size == 12


def test_empty_graph() -> None:
    """A graph without a single site has energy 0 and log Z 0."""
    block = Variables.of_lengths("y", Discrete(2), [0, 0])
    graph = FactorGraph([block], [TableFactor(("y",), "unary", torch.zeros(0, 2, dtype=torch.float64))])
    assert minimize(graph, SOLVER).energy.tolist() == [0.0, 0.0]
    assert marginals(graph, SOLVER).log_partition.tolist() == [0.0, 0.0]
    assert sample(graph, SOLVER, num_samples=2).values["y"].shape == (2, 0)


def test_more_alternatives_than_there_are() -> None:
    """A million best of a few assignments costs next to nothing: slots that do not exist share one assignment."""
    graph = random_chain([3, 2], 2, torch.Generator().manual_seed(0))
    result = SOLVER.solve(graph, Query(k=1_000_000))
    assert isinstance(result, Result) and result.alternative_energies is not None
    assert len(result.alternatives) == 1_000_000 and result.alternative_energies.shape == (1_000_000, 2)
    assert result.alternative_energies.isfinite().sum(0).tolist() == [8, 4]
    assert len({id(y) for y in result.alternatives}) == 9


def test_k_best_stops_at_the_deadline() -> None:
    """A list cut short by the deadline begins with the proven best, says so, and is as good as the full one so far."""
    graph = random_grid([(6, 6)], 3, torch.Generator().manual_seed(1))
    minimize(graph, SOLVER, k=3)
    full = minimize(graph, SOLVER, k=20).alternative_energies
    short = SOLVER.solve(graph, Query(k=1 << 20), budget=Budget.after(0.5))
    assert isinstance(short, Result) and short.alternative_energies is not None and full is not None
    assert short.statuses == [Status.DEADLINE] and not short.stats["alternatives_complete"]
    found = short.stats["alternatives"]
    assert 1 <= found < 1 << 20
    shown = min(found, 20)
    torch.testing.assert_close(short.alternative_energies[:shown], full[:shown])
    assert float(short.lower_bound[0]) == pytest.approx(float(full[0, 0]))


@pytest.mark.parametrize("hard", [False, True])
def test_late_sums_are_honest(hard: bool) -> None:
    """Where the time is too short, log Z is a finite lower bound, and beliefs are those of sites by themselves."""
    graph = random_grid([(11, 11)], 3, torch.Generator().manual_seed(2))
    if hard:  # neighbours must differ
        sites = torch.arange(121).reshape(11, 11)
        pairs = (
            torch.cat([sites[:, :-1].flatten(), sites[:-1].flatten()]),
            torch.cat([sites[:, 1:].flatten(), sites[1:].flatten()]),
        )
        table = torch.zeros(3, 3).fill_diagonal_(torch.inf)
        differ = TableFactor(("y", "y"), "differ", table, index=torch.stack(pairs))
        graph = FactorGraph(list(graph.variables.values()), [*graph.factors, differ])
    found = marginals(graph, SOLVER, budget=Budget.after(0.1))
    assert not found.exact and found.statuses == [Status.DEADLINE]
    assert math.isfinite(float(found.log_partition[0]))
    assert bool((found.log_partition <= found.stats["log_partition_upper"]).all())
    (beliefs,) = found.beliefs.values()
    torch.testing.assert_close(beliefs.sum(1), torch.ones(121, dtype=torch.float64))
    assert float(beliefs.max()) < 1.0

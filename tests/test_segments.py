"""Segments: energies by hand, and the semi-Markov solver and its kernels against enumeration and their torch twin."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph, SegmentFactor, TableFactor, Variables, union
from ebmstruct.inference import (
    Ask,
    Budget,
    Query,
    Reparametrization,
    SemiMarkovElimination,
    Status,
    engine,
    witness_bound,
)
from ebmstruct.inference.kernels.segments import segments, segments_torch
from ebmstruct.inference.views.segments import SegmentFacts, segment_facts, segment_view
from ebmstruct.testing import oracle, random_segments

CASES: list[dict[str, Any]] = [
    {"num_labels": 2, "longest": 3},
    {"num_labels": 3, "longest": 2, "single": True},
    {"num_labels": 2, "longest": 4, "whole": False, "forbid": 0.15},
    {"num_labels": 1, "longest": 2, "forbid": 0.3},
    {"num_labels": 2, "longest": 1, "whole": False},
]


def made(case: dict[str, Any], seed: int = 0, sizes: tuple[int, ...] = (4, 0, 1, 3)) -> FactorGraph:
    """A random batch of one of the cases."""
    return random_segments(list(sizes), generator=torch.Generator().manual_seed(seed), **case)


def arguments(graph: FactorGraph, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """What the kernels take."""
    facts = segment_facts(graph)
    assert isinstance(facts, SegmentFacts)
    found = segment_view(graph, facts).arguments
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in found)


def by_hand() -> tuple[FactorGraph, SegmentFactor]:
    """Three sites and two, two labels, segments of at most two sites; energies that are powers of ten."""
    block = Variables.of_lengths("y", Discrete(4), [3, 0, 2])
    factor = SegmentFactor(
        ("y",),
        "segments",
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[10.0, 20.0], [30.0, 40.0]]),
        torch.tensor([100.0, 200.0]),
        torch.tensor([1000.0, 2000.0]),
        10000 * torch.arange(20.0).reshape(5, 2, 2),
    )
    return FactorGraph([block], [factor]), factor


def test_energies_by_hand() -> None:
    """[AA][B] costs start A 100 + length 3 + segment (0, 2, A) + step AB 20 + length 2 + segment (2, 1, B) + end B 2000."""
    graph, factor = by_hand()
    y = torch.tensor([0, 1, 2, 2, 3])  # A begins, A goes on, B begins; B begins, B goes on
    found = graph.energy({"y": y})
    assert found.tolist() == [100 + 3 + 20000 + 20 + 2 + 90000 + 2000, 0.0, 200 + 4 + 150000 + 2000]
    assert graph.factor_energies({"y": y})["segments"][[1, 4]].tolist() == [0.0, 0.0]
    assert factor.spell(*factor.read(y)).tolist() == y.tolist()
    labels, begins = factor.read(y)
    assert labels.tolist() == [0, 0, 1, 1, 1] and begins.tolist() == [True, False, True, True, False]
    for illegal in ([1, 0, 0], [0, 3, 0], [0, 1, 1]):  # goes on from nothing, from another label, for too long
        assert graph.energy({"y": torch.tensor([*illegal, 0, 0])})[0] == math.inf


def test_conditionals_are_energies() -> None:
    """Each entry is the energy of that state with all else fixed, up to a constant of the site."""
    graph = made(CASES[0])
    y = torch.tensor([0, 1, 2, 0, 2, 2, 0, 0])
    table = graph.conditionals("y", {"y": y})
    for site in range(8):
        instance = int(graph.variables["y"].instance[site])
        row = []
        for state in range(4):
            changed = y.clone()
            changed[site] = state
            row.append(float(graph.energy({"y": changed})[instance]))
        alike = torch.tensor(row, dtype=torch.float64)
        torch.testing.assert_close(table[site] - table[site].min(), alike - alike.min())


def test_gradients_of_the_energy() -> None:
    """The energy is linear in every table: its gradient counts what the segmentation uses."""
    graph, factor = by_hand()
    tables = [torch.zeros_like(v).requires_grad_() for v in factor.values() if v is not None]
    graph.with_values({"segments": tables}).energy({"y": torch.tensor([0, 1, 2, 2, 3])}).sum().backward()
    lengths, transition, start, end, whole = (torch.as_tensor(t.grad) for t in tables)
    assert lengths.tolist() == [[0, 1], [1, 1]] and transition.tolist() == [[0, 1], [0, 0]]
    assert start.tolist() == [1, 1] and end.tolist() == [0, 2] and whole.sum() == 3


def test_copies_unions_and_weights() -> None:
    """Repeated, joined and scaled graphs have the energies of their parts; infinite entries stay."""
    one, other = made(CASES[1], 1, (3, 2)), made(CASES[1], 2, (2,))
    shared = {f.label: f for f in one.factors}
    factor = other.factors[1]
    assert isinstance(factor, SegmentFactor) and isinstance(shared["segments"], SegmentFactor)
    alike = dataclasses.replace(shared["segments"], segments=factor.segments)
    other = FactorGraph(list(other.variables.values()), [other.factors[0], alike])
    a, b = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 0])
    both = union([one, other]).energy({"y": torch.cat([a, b])})
    torch.testing.assert_close(both, torch.cat([one.energy({"y": a}), other.energy({"y": b})]))
    twice = one.repeat(2).energy({"y": torch.cat([a, a])})
    torch.testing.assert_close(twice, one.energy({"y": a}).repeat(2))
    scaled = FactorGraph(list(one.variables.values()), [f.scaled(2.0) for f in one.factors])
    torch.testing.assert_close(scaled.energy({"y": a}), 2 * one.energy({"y": a}))
    different = dataclasses.replace(alike, lengths=alike.lengths + 1)
    with pytest.raises(GraphError, match="the same lengths"):
        union([one, FactorGraph(list(other.variables.values()), [other.factors[0], different])])


def test_faults_are_told() -> None:
    """Tables of wrong shapes and states that are named twice or not at all are errors that say what is legal."""
    block = Variables.of_lengths("y", Discrete(3), [2])
    good: dict[str, Any] = {
        "lengths": torch.zeros(2, 2),
        "transition": torch.zeros(2, 2),
        "states": torch.tensor([[0, -1], [1, 2]]),
    }
    FactorGraph([block], [SegmentFactor(("y",), "s", **good)])
    changes: list[tuple[dict[str, Any], str]] = [
        ({"states": None}, "each of the block's 3 states once"),
        ({"states": torch.tensor([[0, -1], [1, 1]])}, "each of the block's 3 states once"),
        ({"transition": torch.zeros(3, 3)}, r"transition of shape \(3, 3\); legal is \(2, 2\)"),
        ({"segments": torch.zeros(2, 1, 2)}, r"legal is \(2, 2, 2\)"),
        ({"lengths": torch.zeros(2)}, r"legal is \(L, K\)"),
    ]
    for change, said in changes:
        with pytest.raises(GraphError, match=said):
            FactorGraph([block], [SegmentFactor(("y",), "s", **{**good, **change})])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_against_enumeration(case: dict[str, Any], dtype: torch.dtype) -> None:
    """Least energy, bound, log partition and beliefs of states are those of the enumeration."""
    graph = made(case)
    tables = {f.label: [None if v is None else v.to(dtype) for v in f.values()] for f in graph.factors}
    graph = graph.with_values(tables)
    truth = oracle(graph)
    close: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-10} if dtype is torch.float64 else {"atol": 1e-5, "rtol": 1e-5}
    result = es.minimize(graph)
    assert result.solver == "semi_markov"
    least = torch.tensor([o.minimum for o in truth], dtype=torch.float64)
    torch.testing.assert_close(result.energy, least, **close)
    torch.testing.assert_close(result.lower_bound, least, **close)
    assert [s is Status.OPTIMAL for s in result.statuses] == least.isfinite().tolist()
    torch.testing.assert_close(witness_bound(graph, result.witness), least, **close)
    found = es.marginals(graph, factors=("segments",))
    log_z = torch.tensor([o.log_partition() for o in truth], dtype=torch.float64)
    torch.testing.assert_close(found.log_partition, log_z, **close)
    torch.testing.assert_close(es.log_partition(graph, temperature=0.5)[0].item(), truth[0].log_partition(0.5), **close)
    block = graph.variables["y"]
    for b, one in enumerate(truth):
        for i in range(int(block.lengths[b])):
            row = found.beliefs["y"][int(block.offsets[b]) + i]
            for state in range(row.numel()):
                probability = one.marginal(i, state) if one.minimum < math.inf else 0.0
                assert abs(float(row[state]) - probability) < close["atol"]


@pytest.mark.parametrize("case", CASES[:3])
def test_beliefs_of_segments(case: dict[str, Any]) -> None:
    """The belief of a segment is the weight of the assignments that spell it."""
    graph = made(case, 3, (4, 2))
    factor = graph.factors[1]
    assert isinstance(factor, SegmentFactor)
    found = es.marginals(graph, factors=("segments",)).factor_beliefs["segments"]
    truth = oracle(graph)[0]
    log_z = truth.log_partition()
    expected = torch.zeros_like(found[:4])
    for states, energy in zip(truth.states, truth.energies, strict=True):
        if energy == math.inf:
            continue
        labels, begins = factor.read(torch.tensor(states))
        heads = [*begins.nonzero()[:, 0].tolist(), 4]
        for at, stop in zip(heads, heads[1:], strict=False):
            expected[at, stop - at - 1, labels[at]] += math.exp(-energy - log_z)
    torch.testing.assert_close(found[:4], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_gradients(case: dict[str, Any]) -> None:
    """First derivatives by the kernel are the twin's and those of finite differences; second ones are the twin's."""
    inputs = list(arguments(made(case, 1, (3, 0, 2))))
    places = [i for i, x in enumerate(inputs[:-1]) if x is not None]

    def gradients(function: Any) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() if i in places else x for i, x in enumerate(inputs)]
        weights = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
        value = function(*leaves)
        total = (torch.where(value.isfinite(), value, 0.0) * weights).sum()
        return list(torch.autograd.grad(total, [leaves[i] for i in places], materialize_grads=True))

    for mine, theirs in zip(gradients(segments.log_partition), gradients(segments_torch.log_partition), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)
    if case.get("forbid"):
        return
    leaves = [inputs[i].clone().requires_grad_() for i in places]

    def value(*changed: Tensor) -> Tensor:
        given = list(inputs)
        for i, x in zip(places, changed, strict=True):
            given[i] = x
        given[1] = given[1].masked_fill(inputs[1].isinf(), torch.inf)
        return segments.log_partition(*given)

    soft = [torch.where(x.isinf(), 0.0, x).detach().requires_grad_() for x in leaves]
    assert torch.autograd.gradcheck(value, soft, atol=1e-7)
    assert torch.autograd.gradgradcheck(value, soft, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_twin(case: dict[str, Any]) -> None:
    """The torch twin gives the same least energies, marginals and samples."""
    graph = made(case, 4, (9, 0, 1, 14))
    inputs = arguments(graph)
    mine = segments.viterbi(*inputs)
    labels, begins, energy, messages = segments_torch.viterbi(*inputs)
    torch.testing.assert_close(mine.energy, energy)
    torch.testing.assert_close(mine.messages, messages)
    finite = energy.isfinite()[graph.variables["y"].instance]
    assert torch.equal(mine.labels[finite], labels[finite]) and torch.equal(mine.begins[finite], begins[finite])
    for a, b in zip(segments.marginals(*inputs, joint=True), segments_torch.marginals(*inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
    uniforms = torch.rand(5, 24, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for a, b in zip(segments.sample(*inputs, uniforms=uniforms), segments_torch.sample(*inputs, uniforms), strict=True):
        assert torch.equal(a, b)


def test_samples() -> None:
    """Of 4,000 draws each segmentation has its probability, within five standard errors."""
    graph = made(CASES[0], 5, (3,))
    truth = oracle(graph)[0]
    found = es.sample(graph, num_samples=4000, generator=torch.Generator().manual_seed(0))
    assert found.exact and found.energy.isfinite().all()
    rows = [tuple(r) for r in found.values["y"].tolist()]
    for states, energy in zip(truth.states, truth.energies, strict=True):
        p = math.exp(-energy - truth.log_partition()) if energy < math.inf else 0.0
        assert abs(rows.count(states) / 4000 - p) <= 5 * math.sqrt(p * (1 - p) / 4000)


def test_evidence() -> None:
    """A clamped label, a forced beginning and states excluded: answers are those of the enumeration of what is left."""
    graph = made(CASES[0], 6, (4, 3))
    fixed = graph.condition(Assignment({"y": torch.full((7,), 3)}, {"y": torch.tensor([False, True] + [False] * 5)}))
    allowed = torch.ones(7, 4, dtype=torch.bool)
    allowed[3, [1, 3]] = False  # site 3 begins a segment
    allowed[5, :2] = False
    fixed = fixed.condition(Assignment({}, allowed={"y": allowed}))
    truth = oracle(fixed)
    result, found = es.minimize(fixed), es.marginals(fixed)
    assert result.energy.tolist() == pytest.approx([o.minimum for o in truth])
    assert found.log_partition.tolist() == pytest.approx([o.log_partition() for o in truth])
    assert int(result.assignment["y"][1]) == 3 and int(result.assignment["y"][3]) % 2 == 0


def test_infeasible_and_broken_instances() -> None:
    """A forbidden instance ends INFEASIBLE, one with NaN NONFINITE, and their neighbours as if they were alone."""
    graph = made(CASES[0], 7, (3, 2, 3))
    emission = graph.factors[0].values()[0]
    assert emission is not None
    emission = emission.clone()
    emission[3] = torch.inf
    whole = graph.factors[1].values()
    spoiled = whole[4].clone() if whole[4] is not None else None
    assert spoiled is not None
    spoiled[4, 1, 0] = torch.nan  # reaches beyond instance 1: not read
    spoiled[5, 1, 0] = torch.nan
    broken = graph.with_values({"emission": emission, "segments": [*whole[:4], spoiled]})
    result, found = es.minimize(broken), es.marginals(broken)
    assert result.statuses == [Status.OPTIMAL, Status.INFEASIBLE, Status.NONFINITE] == found.statuses
    assert torch.equal(result.energy[0], es.minimize(graph).energy[0])
    log_z = es.log_partition(broken)
    assert torch.equal(log_z[0], es.log_partition(graph)[0]) and log_z[1] == -math.inf and log_z[2].isnan()
    inputs = arguments(broken)
    assert segments.viterbi(*inputs).energy[2].isnan() and segments_torch.log_partition(*inputs)[2].isnan()


def test_batch_equals_loop() -> None:
    """An instance does not depend on its neighbours, bit for bit."""
    graph = made(CASES[0], 8, (5, 2, 7))
    inputs = arguments(graph)
    whole = segments.marginals(*inputs, joint=True)
    for b, (low, high) in enumerate(((0, 5), (5, 7), (7, 14))):
        part: list[Any] = [x[low:high] if i in (0, 1, 6) else x for i, x in enumerate(inputs[:-1])]
        alone = segments.marginals(*part, offsets=torch.tensor([0, high - low]), joint=True)
        assert torch.equal(alone.log_partition, whole.log_partition[b : b + 1])
        assert torch.equal(alone.begin, whole.begin[low:high]) and torch.equal(alone.inside, whole.inside[low:high])
        assert alone.segments is not None and whole.segments is not None
        assert torch.equal(alone.segments, whole.segments[low:high])
    assert torch.equal(es.minimize(graph).energy, engine.minimize(graph, SemiMarkovElimination()).energy)


def test_tampered_messages_prove_nothing() -> None:
    """Any other messages prove a lower bound, or none, and never one above the least energy."""
    graph = made(CASES[0], 9, (6, 3))
    result = es.minimize(graph)
    assert isinstance(result.witness, Reparametrization)
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        wrong = result.witness.messages + torch.randn(
            result.witness.messages.shape, generator=draw, dtype=torch.float64
        )
        assert (witness_bound(graph, Reparametrization("segments", wrong)) < result.energy - 1e-6).all()
    assert (witness_bound(graph, Reparametrization("segments", wrong[:-1])) == -math.inf).all()
    assert (witness_bound(graph, Reparametrization("segments", wrong * torch.nan)) == -math.inf).all()


def test_deadline() -> None:
    """Past its deadline the search ends with a legal segmentation, without a bound, and says so."""
    graph = random_segments([30, 400], 3, 6, torch.Generator().manual_seed(0))
    late = es.minimize(graph, budget=Budget(deadline=time.monotonic() - 1.0))
    best = es.minimize(graph)
    assert late.statuses == [Status.DEADLINE] * 2 and (late.lower_bound == -math.inf).all()
    assert late.energy.isfinite().all() and (late.energy >= best.energy - 1e-9).all()
    assert best.statuses == [Status.OPTIMAL] * 2


def test_choice_and_refusals() -> None:
    """The engine chooses it for segments; other graphs and questions get a sentence."""
    graph = made(CASES[0])
    choice = es.explain(graph)
    assert choice.solver is not None and choice.solver.name == "semi_markov" and "segments" not in choice.refusals
    assert choice.cost is not None and choice.cost.operations == 8 * 2 * (3 + 2)
    solver = SemiMarkovElimination()
    for query in (Query(k=2), Query(sum_out=("y",)), Query(Ask.MARGINALS, factors=("emission",))):
        assert solver.refuse(graph, query)
    pair = TableFactor(("y", "y"), "pair", torch.zeros(4, 4), index=torch.tensor([[0], [1]]))
    assert "neither its segments" in str(solver.refuse(graph.add(pair), Query()))
    chain = FactorGraph(list(graph.variables.values()), [graph.factors[0]])
    assert "one factor of segments" in str(solver.refuse(chain, Query()))


def test_operators_are_traceable() -> None:
    """The registered operators have fake rules, so that torch's tools can trace through them."""
    inputs = arguments(made(CASES[0]))
    kept = torch.ops.ebmstruct.segments_forward.default(*inputs)
    torch.library.opcheck(
        torch.ops.ebmstruct.segments_forward.default, inputs, test_utils=("test_schema", "test_faketensor")
    )
    weight = torch.ones_like(kept[0])
    torch.library.opcheck(
        torch.ops.ebmstruct.segments_backward.default,
        (*inputs, *kept, weight, -1.0, True),
        test_utils=("test_schema", "test_faketensor"),
    )

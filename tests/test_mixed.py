"""Mixed graphs against an oracle: every joint state, with a dense continuous solve by numpy and scipy inside."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import (
    Assignment,
    BlockFactor,
    Discrete,
    Factor,
    FactorGraph,
    Huber,
    Real,
    ResidualFactor,
    TableFactor,
    Variables,
)
from ebmstruct.inference import (
    Alternating,
    Ask,
    BranchAndBound,
    Budget,
    Gaussian,
    LevenbergMarquardt,
    MixedEnumeration,
    MixedGibbs,
    Query,
    Solver,
    Status,
    marginals,
    minimize,
    sample,
)
from ebmstruct.testing.mixed import Associations, SwitchingSystems, associations, switching_systems

Array = np.ndarray
SIZE = 10
"""Instances of a batch."""


def least_switching(made: SwitchingSystems, instance: int) -> float:
    """The least energy of one instance: for each sequence of modes a dense linear least squares problem."""
    modes, n = made.width.numel(), made.y.shape[0] // made.graph.num_instances
    drive, offset, width = made.drive.numpy(), made.offset.numpy(), made.width.numpy()
    y = made.y.numpy()[instance * n : (instance + 1) * n]
    unary, switch = made.unary.numpy()[instance * n : (instance + 1) * n], made.switch.numpy()
    best = math.inf
    for z in itertools.product(range(modes), repeat=n):
        discrete = sum(unary[t, z[t]] for t in range(n)) + sum(switch[z[t - 1], z[t]] for t in range(1, n))
        if discrete >= best:
            continue
        a, b = np.zeros((4 * n - 2, 2 * n)), np.zeros(4 * n - 2)
        for t in range(n):
            a[2 * t : 2 * t + 2, 2 * t : 2 * t + 2] = np.eye(2) / made.seen
            b[2 * t : 2 * t + 2] = y[t] / made.seen
        for t in range(1, n):
            row, mode = 2 * n + 2 * (t - 1), z[t]
            a[row : row + 2, 2 * t : 2 * t + 2] = np.eye(2) / width[mode]
            a[row : row + 2, 2 * t - 2 : 2 * t] = -drive[mode] / width[mode]
            b[row : row + 2] = offset[mode] / width[mode]
        x = np.linalg.lstsq(a, b, rcond=None)[0]
        best = min(best, discrete + 0.5 * float(((a @ x - b) ** 2).sum()))
    return best


def least_association(made: Associations, instance: int) -> float:
    """The least energy of one instance: for each labelling least squares over poses, from several starts."""
    count = made.graph.num_instances
    m, n, k = made.at.numel() // count, made.step.shape[0] // count + 1, made.landmarks.shape[0]
    own = slice(instance * m, (instance + 1) * m)
    at, z, cost = made.at.numpy()[own] - instance * n, made.z.numpy()[own], made.cost.numpy()[own]
    step, prior = made.step.numpy()[instance * (n - 1) : (instance + 1) * (n - 1)], made.prior.numpy()[instance]
    seen, moved, known = made.widths
    size = prior.size

    def apart(a: float) -> float:
        return math.atan2(math.sin(a), math.cos(a))

    def from_body(angle: float, v: Array) -> Array:
        c, s = math.cos(angle), math.sin(angle)
        return np.array([c * v[0] + s * v[1], -s * v[0] + c * v[1]])

    def residuals(flat: Array, labels: tuple[int, ...]) -> Array:
        pose = flat.reshape(n, size)
        angle = pose[:, 2] if size == 3 else np.zeros(n)
        out = [(pose[0, :2] - prior[:2]) / known]
        if size == 3:
            out.append(np.array([apart(pose[0, 2] - prior[2])]) / known)
        for t in range(1, n):
            out.append((from_body(angle[t - 1], pose[t, :2] - pose[t - 1, :2]) - step[t - 1, :2]) / moved)
            if size == 3:
                out.append(np.array([apart(angle[t] - angle[t - 1] - step[t - 1, 2])]) / moved)
        for j, label in enumerate(labels):
            if label < k:
                out.append((from_body(angle[at[j]], made.landmarks.numpy()[label] - pose[at[j], :2]) - z[j]) / seen)
        return np.concatenate(out)

    best = math.inf
    for labels in itertools.product(range(k + 1), repeat=m):
        clash = any(at[i] == at[j] and labels[i] == labels[j] < k for i, j in itertools.combinations(range(m), 2))
        discrete = sum(cost[j, label] for j, label in enumerate(labels))
        if not clash and discrete < best:
            best = min(best, discrete + least_squares(residuals, labels, np.zeros(n * size), size))
    return best


def least_squares(residuals: object, labels: tuple[int, ...], zero: Array, size: int) -> float:
    """Half the least sum of squares: one dense solve where poses are positions, else MINPACK from several starts."""
    from scipy.optimize import least_squares as minpack

    assert callable(residuals)
    if size == 2:
        b = residuals(zero, labels)
        a = np.stack([residuals(column, labels) - b for column in np.eye(zero.size)], 1)
        x = np.linalg.lstsq(a, -b, rcond=None)[0]
        return 0.5 * float(((a @ x + b) ** 2).sum())
    rng = np.random.default_rng(0)
    starts = [zero, *(rng.normal(size=zero.size) for _ in range(3))]
    return min(float(minpack(residuals, s, args=(labels,), method="lm", xtol=1e-10, ftol=1e-10).cost) for s in starts)


def problems(kind: str, seed: int, size: int = SIZE) -> tuple[FactorGraph, list[float]]:
    """A batch of problems of one kind, and their least energies by the oracle."""
    generator = torch.Generator().manual_seed(seed)
    if kind.startswith("switching"):
        made = switching_systems(size, *((6, 3) if seed % 2 else (8, 2)), generator)
        return made.graph, [least_switching(made, i) for i in range(size)]
    shape = ((3, 5, 2) if size == SIZE else (3, 5, 1)) if kind == "turning" else ((4, 6, 2) if seed % 2 else (4, 4, 3))
    found = associations(size, *shape, generator, turning=kind == "turning")
    return found.graph, [least_association(found, i) for i in range(size)]


def hits(graph: FactorGraph, least: list[float], solver: Solver) -> int:
    """How many instances end at the least energy, to 1e-6; none may end below."""
    energy = minimize(graph, solver).energy
    wanted = torch.tensor(least, dtype=torch.float64)
    slack = 1e-6 * wanted.abs().clamp(min=1.0)
    assert (energy >= wanted - slack).all()
    return int((energy <= wanted + slack).sum())


def batches(*, slow: bool) -> Iterator[tuple[str, int, int]]:
    """Kind, seed and size: 200 instances under ``slow``, else 10."""
    if slow:
        yield from (("switching", s, SIZE) for s in range(10))
        yield from (("plane", s, SIZE) for s in range(5))
        yield from (("turning", s, SIZE) for s in range(5))
    else:
        yield from (("switching", 0, 4), ("plane", 0, 4), ("turning", 0, 2))


def test_solvers_find_the_minimum() -> None:
    """Ten graphs: enumeration, alternation and, where it applies, branch and bound find what the oracle finds."""
    for kind, seed, size in batches(slow=False):
        graph, least = problems(kind, seed, size)
        for solver in (MixedEnumeration(), Alternating(), BranchAndBound()):
            if solver.refuse(graph, Query()) is None:
                assert hits(graph, least, solver) == size, (kind, solver.name)
            else:
                assert kind == "turning" and solver.name == "branch_and_bound"


@pytest.mark.slow
def test_two_hundred_graphs() -> None:
    """200 mixed graphs: the oracle's minimum in at least 99 % by enumeration and by alternation; proofs are right."""
    found: Counter[str] = Counter()
    for kind, seed, size in batches(slow=True):
        graph, least = problems(kind, seed, size)
        for solver in (MixedEnumeration(), Alternating()):
            found[solver.name] += hits(graph, least, solver)
        if kind != "turning":
            assert hits(graph, least, BranchAndBound()) == size
    assert found["mixed_enumeration"] >= 198 and found["alternating"] >= 198, found


def alone(graph: FactorGraph, instance: int) -> FactorGraph:
    """One instance of a graph by itself, its sites numbered from 0."""
    first = {n: int(v.offsets[instance]) for n, v in graph.variables.items()}
    blocks = [Variables.of_lengths(n, v.domain, [int(v.lengths[instance])]) for n, v in graph.variables.items()]
    factors: list[Factor] = []
    for factor in graph.factors:
        own = graph.variables[factor.scope[0]]
        if isinstance(factor, ResidualFactor):
            part = factor.with_rows((own.instance[factor.index[0]] == instance).nonzero()[:, 0])
            factors.append(dataclasses.replace(part, index=_shifted(part.index, factor.scope, first)))
        elif isinstance(factor, TableFactor) and factor.index is not None:
            index = factor.index[:, own.instance[factor.index[0]] == instance]
            factors.append(dataclasses.replace(factor, index=_shifted(index, factor.scope, first)))
        elif isinstance(factor, TableFactor):
            factors.append(dataclasses.replace(factor, tables=factor.tables[own.instance == instance]))
        else:
            factors.append(factor)
    return FactorGraph(blocks, factors)


def _shifted(index: Tensor, scope: tuple[str, ...], first: dict[str, int]) -> Tensor:
    return index - torch.tensor([[first[n]] for n in scope])


@pytest.mark.parametrize("solver", [MixedEnumeration(), Alternating(), BranchAndBound()], ids=lambda s: s.name)
def test_batch_equals_one_by_one(solver: Solver) -> None:
    """Energies of a batch are those of its instances by themselves, to 1e-8."""
    generator = torch.Generator().manual_seed(4)
    graphs = [
        switching_systems(2, 5, 3, generator).graph,
        associations(2, 3, 4, 2, generator, turning=False).graph,
        associations(2, 3, 3, 2, generator, turning=True).graph,
    ]
    for graph in graphs:
        if solver.refuse(graph, Query()) is not None:
            continue
        batch = minimize(graph, solver)
        single = [minimize(alone(graph, b), solver) for b in range(graph.num_instances)]
        torch.testing.assert_close(batch.energy, torch.cat([r.energy for r in single]), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(batch.status, torch.cat([r.status for r in single]))


def test_proofs() -> None:
    """Energies quadratic inside are proven; others have the bound that no square is negative; k best are in order."""
    generator = torch.Generator().manual_seed(5)
    graph = switching_systems(3, 5, 2, generator).graph
    for solver in (MixedEnumeration(), BranchAndBound()):
        assert (minimize(graph, solver).status == int(Status.OPTIMAL)).all()
    several = minimize(graph, MixedEnumeration(), k=4)
    assert several.alternative_energies is not None and (several.alternative_energies.diff(dim=0) >= 0).all()
    assert len({tuple(y["mode"][:5].tolist()) for y in several.alternatives}) == 4
    turning = associations(2, 3, 4, 2, generator, turning=True).graph
    found = minimize(turning, MixedEnumeration())
    assert (found.status == int(Status.CONVERGED)).all() and found.gap.isfinite().all() and (found.gap > 0).all()


@pytest.mark.parametrize("solver", [MixedEnumeration(), Alternating(), BranchAndBound()], ids=lambda s: s.name)
def test_evidence(solver: Solver) -> None:
    """Clamped sites and allowed states are kept, and the energy is the least among what they leave."""
    graph = switching_systems(2, 4, 3, torch.Generator().manual_seed(6)).graph
    known = torch.tensor([True, False, False, False] * 2)
    allowed = torch.ones(8, 3, dtype=torch.bool)
    allowed[1::4, 2] = False
    allowed[2::4, :2] = False
    clamp = Assignment({"mode": torch.full((8,), 1)}, {"mode": known}, {"mode": allowed})
    clamp_x = Assignment({"x": torch.ones(8, 2, dtype=torch.float64)}, {"x": known})
    held = graph.condition(clamp).condition(clamp_x)
    found = minimize(held, solver)
    mode = found.assignment["mode"]
    assert (mode[known] == 1).all() and allowed.gather(1, mode[:, None]).all() and (mode[2::4] == 2).all()
    assert torch.equal(found.assignment["x"][known], torch.ones(2, 2, dtype=torch.float64))
    energies = []
    for states in itertools.product([1], [0, 1], [2], range(3)):
        states_of_both = torch.tensor(states * 2)
        inside = graph.condition(clamp_x).condition(Assignment({"mode": states_of_both}))
        energies.append(minimize(inside, LevenbergMarquardt()).energy)
    torch.testing.assert_close(found.energy, torch.stack(energies).amin(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [MixedEnumeration(), Alternating(), BranchAndBound()], ids=lambda s: s.name)
def test_one_bad_instance(solver: Solver) -> None:
    """An observation that is NaN, and tables that forbid everything: statuses say so, neighbours are as without them."""
    made = switching_systems(4, 4, 2, torch.Generator().manual_seed(7))
    y, unary = made.y.clone(), made.unary.clone()
    y[5], unary[8] = torch.nan, torch.inf
    values: dict[str, Any] = {"observation": [(y,)], "unary": unary}
    broken = made.graph.with_values(values)
    good, bad = minimize(made.graph, solver), minimize(broken, solver)
    assert [s.name for s in bad.statuses[1:3]] == ["NONFINITE", "INFEASIBLE"]
    torch.testing.assert_close(bad.energy[[0, 3]], good.energy[[0, 3]], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(bad.status[[0, 3]], good.status[[0, 3]])


@pytest.mark.parametrize("solver", [MixedEnumeration(), Alternating(), BranchAndBound()], ids=lambda s: s.name)
def test_budgets(solver: Solver) -> None:
    """A deadline that has passed, and one step: an assignment with its energy, a status, and a bound that holds."""
    graph = switching_systems(2, 7, 3, torch.Generator().manual_seed(8)).graph
    least = minimize(graph, BranchAndBound()).energy
    for budget in (Budget.after(0.0), Budget(max_steps=1)):
        found = minimize(graph, solver, budget=budget)
        assert found.energy.isfinite().all() and (found.energy >= least - 1e-6).all()
        assert (found.lower_bound <= least + 1e-9).all()
        assert (found.status >= int(Status.MAX_STEPS)).all()


def test_refusals() -> None:
    """Each refusal is a sentence that says what is in the way."""
    graph = switching_systems(1, 20, 3, torch.Generator().manual_seed(9)).graph
    plain = graph.condition(Assignment({"mode": torch.zeros(20, dtype=torch.long)}))
    tables = graph.condition(Assignment({"x": torch.zeros(20, 2, dtype=torch.float64)}))
    turning = associations(1, 3, 4, 2, torch.Generator().manual_seed(9), turning=True).graph
    cases: list[tuple[Solver, FactorGraph, Query, str]] = [
        (MixedEnumeration(), graph, Query(), "joint states"),
        (MixedEnumeration(), plain, Query(), "no discrete block is open"),
        (Alternating(), tables, Query(), "no continuous block is open"),
        (Alternating(), graph, Query(k=2), "finds one assignment"),
        (BranchAndBound(), turning, Query(), "linear=True"),
        (MixedGibbs(), plain, Query(Ask.SAMPLE), "no discrete block is open"),
        (MixedGibbs(), graph, Query(), "draws samples"),
        (MixedGibbs(step_size=-1.0), graph, Query(Ask.SAMPLE), "step_size"),
    ]
    for solver, case, query, part in cases:
        reason = solver.refuse(case, query)
        assert reason is not None and part in reason and "\n" not in reason, (solver, reason)
    with pytest.raises(GraphError, match="starts"):
        Alternating(starts=0)


def kinked(kind: str) -> FactorGraph:
    """A point on a line that states push about: seen by a function of whole blocks, a robust loss, or a constraint."""
    x, s = Variables.of_lengths("x", Real(1), [1, 1]), Variables.of_lengths("s", Discrete(3), [2, 2])
    push = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    both = torch.stack([torch.arange(4) // 2, torch.arange(4)])

    def pushed(at: Tensor, state: Tensor, value: Tensor) -> Tensor:
        return at - push[state, None] - value

    value = torch.tensor([[0.3], [-0.2], [1.0], [0.4]], dtype=torch.float64)
    loss = Huber(0.5) if kind == "robust" else None
    cost = torch.tensor([0.1, 0.3, 0.0], dtype=torch.float64)
    factors: list[Factor] = [
        ResidualFactor(("x", "s"), "push", pushed, both, (value,), loss=loss),
        TableFactor(("s",), "cost", cost.expand(4, 3).contiguous()),
    ]
    if kind == "function":
        factors.append(
            BlockFactor(("x",), "deep", lambda at, offsets: (at[:, 0] ** 2 + 1).sqrt() + 0.1 * at[:, 0] ** 4)
        )
    if kind == "constraint":
        factors.append(
            ResidualFactor(("x",), "at least", lambda at: 1.5 - at, torch.arange(2)[None], constraint="inequality")
        )
    return FactorGraph([x, s], factors)


@pytest.mark.parametrize("kind", ["function", "robust", "constraint"])
def test_other_energies_inside(kind: str) -> None:
    """L-BFGS, robust least squares and augmented Lagrangians inside: the minimum over a grid of points and all states."""
    graph = kinked(kind)
    line = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    copies = graph.repeat(line.numel())
    least = torch.full((2,), torch.inf, dtype=torch.float64)
    for states in itertools.product(range(3), repeat=2):
        values = {"x": line.repeat_interleave(2)[:, None], "s": torch.tensor(states).repeat(2 * line.numel())}
        least = torch.minimum(least, copies.energy(values).reshape(-1, 2).amin(0))
    for solver in (MixedEnumeration(), Alternating()):
        found = minimize(graph, solver)
        torch.testing.assert_close(found.energy, least, rtol=1e-5, atol=1e-5)
        assert found.violation is None or (found.violation <= 1e-6).all()


def exact_moments(graph: FactorGraph, times: int, modes: int, temperature: float) -> tuple[Tensor, Tensor]:
    """(n, modes) beliefs and (n, 2) means of a switching system: all modes listed, the Gaussian integrals exact."""
    logs, means = [], []
    listed = list(itertools.product(range(modes), repeat=times))
    for states in listed:
        inside = graph.condition(Assignment({"mode": torch.tensor(states * graph.num_instances)}))
        found = marginals(inside, Gaussian(), temperature=temperature)
        logs.append(found.log_partition)
        means.append(found.means["x"])
    weight = torch.stack(logs).softmax(0).repeat_interleave(times, 1)
    beliefs = torch.nn.functional.one_hot(torch.tensor(listed).repeat(1, graph.num_instances), modes)
    return (weight[:, :, None] * beliefs).sum(0), (weight[:, :, None] * torch.stack(means)).sum(0)


@pytest.mark.parametrize("seeds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_gibbs_moments(seeds: int) -> None:
    """Beliefs and means of small switching systems within three standard errors of the truth, in the mean of all seeds.

    The standard error is that of the runs about each other over 20 seeds; of one run the stated one, four times.
    """
    temperature = 1.3
    graph = switching_systems(2, 3, 2, torch.Generator().manual_seed(11), noise=1.2, seen=1.0).graph
    beliefs, means = exact_moments(graph, 3, 2, temperature)
    sampler = MixedGibbs(draws=400 if seeds == 1 else 500, burn_in=150)
    runs = [
        marginals(graph, sampler, temperature=temperature, generator=torch.Generator().manual_seed(s))
        for s in range(seeds)
    ]
    assert all(not r.exact and (r.status == int(Status.CONVERGED)).all() for r in runs)
    apart = torch.stack([r.means["x"] - means for r in runs])
    shares = torch.stack([r.beliefs["mode"] - beliefs for r in runs])
    if seeds == 1:
        assert (apart[0].abs() < 4 * runs[0].stats["standard_error"]["x"] + 0.02).all()
        assert (shares[0].abs() < 0.08).all() and float(runs[0].stats["r_hat"]["x"].max()) < 1.1
        return
    for off in (apart, shares):
        error = off.std(0) / seeds**0.5
        assert (off.mean(0).abs() <= 3 * error + 1e-3).all(), off.mean(0) / error


def test_gibbs_draws() -> None:
    """Draws have the energies that they say, repeat by the seed, keep evidence, and end early with a status."""
    graph = associations(2, 3, 4, 2, torch.Generator().manual_seed(12), turning=True).graph
    known = torch.tensor([True, False, False, False] * 2)
    held = graph.condition(Assignment({"label": torch.full((8,), 1)}, {"label": known}))
    sampler = MixedGibbs(burn_in=20, chains=2)
    for joint in (True, False):
        sampler = dataclasses.replace(sampler, joint=joint)
        first, again = (sample(held, sampler, num_samples=10, generator=torch.Generator().manual_seed(3)) for _ in "ab")
        assert torch.equal(first.values["label"], again.values["label"]) and first.energy.isfinite().all()
        assert (first.values["label"][:, known] == 1).all() and first.chains == 2
        for s in (0, 9):
            torch.testing.assert_close(held.energy({n: v[s] for n, v in first.values.items()}), first.energy[s])
    late = sample(held, sampler, num_samples=10, budget=Budget.after(0.0))
    assert (late.status == int(Status.DEADLINE)).all() and late.energy.shape == (10, 2)

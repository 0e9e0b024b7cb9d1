"""Bad energies times every solver: each refuses in a sentence, or answers with a status and leaves the neighbours alone.

Each problem is a batch of two: the first instance is bad, the second is sound. Whoever answers must say of the first
what is wrong, without a crash and without a silent NaN, and of the second what it would say of it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.errors import SolverRefusal
from ebmstruct.inference import Ask, Marginals, Query, Result, Samples, engine
from ebmstruct.inference.solvers import SOLVERS

OUTSIDE = ("toulbar2", "cp_sat")
NAMES = [None, *(n for n in SOLVERS if n not in OUTSIDE)]
Problem = Callable[[], es.FactorGraph]


def block(dim: int = 2, sites: tuple[int, int] = (2, 2)) -> es.Variables:
    return es.Variables.of_lengths("x", es.Real(dim), list(sites))


def targets(bad: float) -> Tensor:
    t = torch.tensor([[0.5, -1.0], [1.0, 2.0], [0.3, 0.1], [-0.7, 0.4]], dtype=torch.float64)
    t[0, 1] = bad
    return t


def pull(bad: float, linear: bool) -> es.FactorGraph:
    """Residuals of which one row's target is not finite."""

    def residual(x: Tensor, t: Tensor) -> Tensor:
        return x - t if linear else x + 0.1 * x.sin() - t

    index = torch.arange(4)[None]
    return es.FactorGraph(
        [block()], [es.ResidualFactor(("x",), "pull", residual, index, (targets(bad),), linear=linear)]
    )


def network(bad: float) -> es.FactorGraph:
    """A smooth function of whole blocks, one of whose inputs is not finite."""

    def energy(x: Tensor, w: Tensor, offsets: Any) -> Tensor:
        return (x.reshape(-1, 4) * w).sum(1).sin() + 0.5 * x.reshape(-1, 4).square().sum(1)

    inputs = torch.tensor([[bad, 1.0, 0.0, 0.5], [1.0, -1.0, 0.2, 0.3]], dtype=torch.float64)
    return es.FactorGraph([block()], [es.BlockFactor(("x",), "network", energy, (inputs,))])


def edge() -> es.FactorGraph:
    """Finite at the start, and NaN beyond a wall towards which the first instance is pulled."""

    def energy(x: Tensor, a: Tensor, offsets: Any) -> Tensor:
        y = x.reshape(-1, 4)
        return (1 - a * y.sum(1)).sqrt() + 0.5 * (y - a[:, None]).square().sum(1)

    inputs = torch.tensor([3.0, 0.0], dtype=torch.float64)
    return es.FactorGraph([block()], [es.BlockFactor(("x",), "edge", energy, (inputs,))])


def singular() -> es.FactorGraph:
    """The first instance's residuals leave a direction free; the second's do not."""

    def residual(x: Tensor, t: Tensor, free: Tensor) -> Tensor:
        return torch.stack([x[:, 0] + x[:, 1] - t[:, 0], free * (x[:, 0] - t[:, 1])], 1)

    free = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    index = torch.arange(4)[None]
    return es.FactorGraph(
        [block()], [es.ResidualFactor(("x",), "flat", residual, index, (targets(0.0), free), linear=True)]
    )


def contradiction() -> es.FactorGraph:
    """The first instance's points must be at two places at once; the second's must be at one."""
    first = torch.tensor([[0.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    second = torch.tensor([[1.0], [1.0], [0.0], [0.0]], dtype=torch.float64)

    def here(x: Tensor, t: Tensor) -> Tensor:
        return x[:, :1] - t

    index = torch.arange(4)[None]
    return es.FactorGraph(
        [block()],
        [
            es.ResidualFactor(("x",), "pull", lambda x, t: x - t, index, (targets(0.2),)),
            es.ResidualFactor(("x",), "first", here, index, (first,), constraint="equality"),
            es.ResidualFactor(("x",), "second", here, index, (second,), constraint="equality"),
        ],
    )


def torn() -> es.FactorGraph:
    """A mixed graph whose first instance has a target that is NaN."""
    state = es.Variables.of_lengths("z", es.Discrete(2), [2, 2])

    def residual(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return x - t - z[:, None]

    index = torch.arange(4).expand(2, -1)
    tie = es.ResidualFactor(("x", "z"), "tie", residual, index, (targets(torch.nan),), linear=True)
    return es.FactorGraph([block(), state], [tie])


PROBLEMS: dict[str, Problem] = {
    "nan residual": lambda: pull(torch.nan, False),
    "nan linear residual": lambda: pull(torch.nan, True),
    "infinite residual": lambda: pull(torch.inf, False),
    "nan network": lambda: network(torch.nan),
    "infinite network": lambda: network(torch.inf),
    "nan beyond an edge": edge,
    "singular": singular,
    "contradiction": contradiction,
    "nan mixed": torn,
}
QUERIES = (Query(Ask.MINIMIZE), Query(Ask.MARGINALS), Query(Ask.LOG_PARTITION), Query(Ask.SAMPLE, num_samples=8))
SOUND = ("nan beyond an edge", "singular")
"""Problems whose first instance may be answered well."""


def ask(graph: es.FactorGraph, solver: Any, query: Query) -> Any:
    generator, budget = torch.Generator().manual_seed(5), es.Budget(max_steps=60)
    if query.ask is Ask.MINIMIZE:
        return engine.minimize(graph, solver, budget=budget, generator=generator)
    if query.ask is Ask.MARGINALS:
        return engine.marginals(graph, solver, budget=budget, generator=generator)
    if query.ask is Ask.LOG_PARTITION:
        return engine.bound_log_partition(graph, solver, budget=budget, generator=generator)
    return engine.sample(graph, solver, num_samples=query.num_samples, budget=budget, generator=generator)


def check_second(found: Any) -> None:
    """The sound instance has numbers, and no status that says otherwise."""
    assert es.Status(int(found.status[1])) not in (es.Status.NONFINITE, es.Status.INFEASIBLE)
    if isinstance(found, Result):
        assert bool(found.energy[1].isfinite()) and bool(found.assignment["x"][2:].isfinite().all())
    elif isinstance(found, Marginals):
        assert not bool(found.log_partition[1].isnan())
        assert all(bool(m[2:].isfinite().all()) for m in found.means.values())
    else:
        assert isinstance(found, Samples)
        assert bool(found.energy[:, 1].isfinite().all()) and bool(found.values["x"][:, 2:].isfinite().all())


def check_first(name: str, found: Any) -> None:
    """The bad instance is not passed off as well answered, and a NaN comes with the status that says so."""
    status = es.Status(int(found.status[0]))
    if name not in SOUND:
        assert status in (es.Status.NONFINITE, es.Status.INFEASIBLE), status
    numbers = found.log_partition[:1] if isinstance(found, Marginals) else found.energy.reshape(-1, 2)[:, 0]
    if bool(numbers.isnan().any()):
        assert status is es.Status.NONFINITE


@pytest.mark.parametrize("solver_name", NAMES, ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_bad_instances(name: str, solver_name: str | None) -> None:
    """Every query to every solver, and to the engine's own choice."""
    graph = PROBLEMS[name]()
    solver = None if solver_name is None else SOLVERS[solver_name]()
    for query in QUERIES:
        reason = None if solver is None else solver.refuse(graph, query)
        if reason is not None:
            assert reason.strip() and "\n" not in reason
            continue
        try:
            found = ask(graph, solver, query)
        except SolverRefusal as refusal:
            assert str(refusal).strip()
            continue
        check_first(name, found)
        check_second(found)


def test_no_gradient() -> None:
    """Where torch cannot differentiate an energy every solver refuses or answers; none crashes."""

    def outside(x: Tensor, offsets: Any) -> Tensor:
        return torch.from_numpy(x.detach().numpy().reshape(-1, 4).sum(1) ** 2)

    graph = es.FactorGraph([block()], [es.BlockFactor(("x",), "outside", outside)])
    for name in NAMES:
        solver = None if name is None else SOLVERS[name]()
        for query in QUERIES:
            if solver is not None and solver.refuse(graph, query) is not None:
                continue
            try:
                ask(graph, solver, query)
            except SolverRefusal as refusal:
                assert "outside" in str(refusal) or "no solver" in str(refusal)

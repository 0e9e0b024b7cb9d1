"""A race of solvers: the best answer of any, the highest bound of any, stopped when they meet or time is up."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference import (
    Budget,
    EliminationOrder,
    IterativeMinimizer,
    Progress,
    Query,
    Reparametrization,
    Status,
    certify,
    table_view,
    witness_bound,
)
from ebmstruct.inference.portfolio import Board, Entry, race
from ebmstruct.inference.result import Witness
from ebmstruct.testing import oracle, random_grid


@dataclass(frozen=True)
class Guessing(IterativeMinimizer[tuple[Tensor, FactorGraph, Generator]]):
    """Random states, forever; no bound."""

    name: ClassVar[str] = "guessing"
    steps: int = 1000
    seconds: float = 0.0

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return None

    def begin(self, graph, query, init, generator):
        start = torch.zeros(graph.variables["y"].num_sites, dtype=torch.long) if init is None else init["y"]
        return start, graph, generator

    def step(self, graph, query, state):
        time.sleep(self.seconds)
        block = graph.variables["y"]
        drawn = torch.randint(0, block.discrete.largest, (block.num_sites,), generator=state[2])
        return drawn, graph, state[2]

    def progress(self, state):
        energy = state[1].energy({"y": state[0]})
        return Progress({"y": state[0]}, energy, torch.full_like(energy, -torch.inf), energy > torch.inf)


@dataclass(frozen=True)
class Bounding(IterativeMinimizer[FactorGraph]):
    """A bound and no search: weak (zero messages) or exact (an order), at once."""

    name: ClassVar[str] = "bounding"
    exact: bool = False

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        return None

    def begin(self, graph, query, init, generator):
        return graph

    def step(self, graph, query, state):
        return state

    def progress(self, state):
        y = {"y": torch.zeros(state.variables["y"].num_sites, dtype=torch.long)}
        bound = witness_bound(state, self.witness(state))
        return Progress(y, state.energy(y), bound, bound > -torch.inf)

    def witness(self, state: FactorGraph) -> Witness:
        view = table_view(state)
        if self.exact:
            return EliminationOrder(torch.arange(view.num_sites))
        return Reparametrization("tables", torch.zeros(int(view.message_ptr[-1]), dtype=torch.float64))


@pytest.fixture
def graph() -> FactorGraph:
    return random_grid([(2, 3), (3, 3)], 2, torch.Generator().manual_seed(0))


def least(graph: FactorGraph) -> Tensor:
    return torch.tensor([o.minimum for o in oracle(graph)], dtype=torch.float64)


@pytest.mark.parametrize("seconds", [None, 20.0], ids=["in turn", "side by side"])
def test_it_stops_when_the_gap_closes(graph: FactorGraph, seconds: float | None) -> None:
    """A searcher and a solver with an exact bound end together, long before the deadline, with a proof."""
    begin = time.monotonic()
    found = certify(
        graph,
        race(
            graph,
            Query(),
            [Entry(Bounding(exact=True)), Entry(Guessing())],
            budget=Budget.after(seconds),
            generator=torch.Generator().manual_seed(0),
        ),
    )
    assert time.monotonic() - begin < 15
    torch.testing.assert_close(found.energy, least(graph))
    assert found.statuses == [Status.OPTIMAL] * 2
    assert found.solver == "guessing+bounding"


def test_the_deadline_ends_it(graph: FactorGraph) -> None:
    """Members that never finish are stopped in time; what came out is legal, bounded and honest."""
    budget = Budget.after(0.3)
    found = certify(graph, race(graph, Query(), [Entry(Bounding()), Entry(Guessing(seconds=0.01))], budget=budget))
    assert -0.2 < budget.remaining < 0.1
    assert all(s in (Status.DEADLINE, Status.OPTIMAL) for s in found.statuses)
    assert (found.energy >= least(graph) - 1e-9).all() and (found.lower_bound <= least(graph) + 1e-9).all()
    torch.testing.assert_close(witness_bound(graph, found.witness), found.lower_bound)


def test_nothing_found_is_not_an_end(graph: FactorGraph) -> None:
    """While only forbidden assignments are known the race goes on, although infinity less a bound is no number."""
    board = Board(graph)
    board.publish("x", Progress({}, torch.tensor([torch.inf, 0.0]), torch.tensor([-5.0, 0.0]), torch.ones(2) > 0))
    assert not board.closed()
    board.publish("y", Progress({}, torch.tensor([torch.inf, 0.0]), torch.tensor([torch.inf, 0.0]), torch.ones(2) > 0))
    assert board.closed()


def test_too_late_is_answered_too(graph: FactorGraph) -> None:
    """A deadline that has passed before the race begins still gives a legal assignment with its energy."""
    found = certify(graph, race(graph, Query(), [Entry(Bounding()), Entry(Guessing())], budget=Budget.after(-1.0)))
    assert found.energy.isfinite().all() and (found.energy >= least(graph) - 1e-9).all()
    torch.testing.assert_close(witness_bound(graph, found.witness), found.lower_bound)


def test_without_a_deadline_the_seed_decides(graph: FactorGraph) -> None:
    """In turn, with a budget of steps, the same seed gives the same answer and another seed may not."""

    def run(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return race(graph, Query(), [Entry(Guessing())], budget=Budget(max_steps=3), generator=generator).assignment[
            "y"
        ]

    assert torch.equal(run(1), run(1))
    assert any(not torch.equal(run(1), run(s)) for s in range(2, 8))


def test_a_later_member_begins_with_the_best_so_far(graph: FactorGraph) -> None:
    """In turn, the second member never does worse than the first."""
    start = Assignment({"y": torch.ones(15, dtype=torch.long)})
    found = race(graph, Query(), [Entry(Guessing()), Entry(Guessing())], init=start, budget=Budget(max_steps=0))
    torch.testing.assert_close(found.energy, graph.energy(start))


def test_long_work_talks(graph: FactorGraph, caplog: pytest.LogCaptureFixture) -> None:
    """After a second the log says how far the race is."""
    with caplog.at_level(logging.INFO, logger="ebmstruct"):
        race(graph, Query(), [Entry(Bounding()), Entry(Guessing(seconds=0.05))], budget=Budget.after(2.2))
    assert any("energy" in r.message and "bound" in r.message for r in caplog.records)


def test_a_fault_in_a_member_is_not_swallowed(graph: FactorGraph) -> None:
    """An exception in a thread reaches the caller."""

    @dataclass(frozen=True)
    class Broken(Guessing):
        def step(self, graph, query, state):
            raise ArithmeticError("broken on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        race(graph, Query(), [Entry(Broken()), Entry(Guessing(seconds=0.01))], budget=Budget.after(0.5))

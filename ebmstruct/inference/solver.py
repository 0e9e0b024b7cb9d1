"""What a solver is, and the one loop that iterative solvers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.result import Answer, Budget, Query, Result, Status, Witness


@dataclass(frozen=True)
class Cost:
    """What answering is expected to cost: elementary operations, and the largest table in entries."""

    operations: float
    largest_table: int

    def __str__(self) -> str:
        return f"about {self.operations:.2g} operations, largest table {self.largest_table:,} entries"


class Solver(ABC):
    """A frozen object that answers queries about graphs, or says in one sentence why it refuses.

    Solvers keep no state between calls and propose only: the engine recomputes energies and checks bounds.
    """

    name: ClassVar[str]

    @abstractmethod
    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        """Why this solver cannot answer, in one sentence; None if it can."""

    @abstractmethod
    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        """Answer a query that was not refused."""

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        """(B,) log of the sum of exp(-E / temperature), differentiable in the factors' values."""
        raise SolverRefusal(
            f"{self.name} does not compute a differentiable log partition", {self.name: "it only minimises"}
        )

    def least_energy(self) -> Solver | None:
        """What to ask in this solver's place where low energies or sums are meant, as losses do; itself.

        A decoder, whose answers serve a task's metric, gives the solver that it asks inside, or None: the engine chooses.
        """
        return self

    def cost(self, graph: FactorGraph, query: Query) -> Cost | None:
        """What ``solve`` is expected to cost; None where it cannot be said."""
        return None


@dataclass(frozen=True, eq=False)
class Progress:
    """Where an iterative minimiser stands after a step; B-sized tensors, one entry an instance.

    values: the current assignment.  done: instances with nothing left to do.
    """

    values: dict[str, Tensor]
    energy: Tensor
    lower_bound: Tensor
    done: Tensor


S = TypeVar("S")


class IterativeMinimizer(Solver, Generic[S]):
    """A minimiser that works in steps; this class owns stopping, the deadline, and the best answer so far.

    A subclass gives ``begin``, ``step`` (each a few milliseconds at most), and ``progress``.
    """

    @abstractmethod
    def begin(self, graph: FactorGraph, query: Query, init: Assignment | None, generator: Generator | None) -> S:
        """The state before the first step; it must hold a legal assignment already."""

    @abstractmethod
    def step(self, graph: FactorGraph, query: Query, state: S) -> S:
        """The state after one more step."""

    @abstractmethod
    def progress(self, state: S) -> Progress:
        """Values, energy and bound of a state."""

    def witness(self, state: S) -> Witness | None:
        """What proves the lower bound of the final state."""
        return None

    def iterate(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> tuple[Result, S]:
        """Run steps until all instances are done or the budget ends; keep each instance's best assignment."""
        budget = budget or Budget()
        state = self.begin(graph, query, init, generator)
        best = self.progress(state)
        trace: list[float] = []
        stop = Status.CONVERGED
        while not bool(best.done.all()):
            if budget.expired:
                stop = Status.DEADLINE
                break
            if budget.max_steps is not None and len(trace) >= budget.max_steps:
                stop = Status.MAX_STEPS
                break
            state = self.step(graph, query, state)
            best = better(graph, best, self.progress(state))
            trace.append(float(best.energy.sum()))
        status = torch.where(best.done, int(Status.CONVERGED), int(stop))
        result = Result(
            Assignment(best.values),
            best.energy,
            best.lower_bound,
            status,
            solver=self.name,
            witness=self.witness(state),
            stats={"steps": len(trace), "energy_trace": trace},
        )
        return result, state

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        return self.iterate(graph, query, init=init, budget=budget, generator=generator)[0]


def better(graph: FactorGraph, old: Progress, new: Progress) -> Progress:
    """Per instance the assignment of lower energy and the higher bound; ``done`` is the new one's."""
    wins = (new.energy < old.energy) | (old.energy.isnan() & ~new.energy.isnan())
    if not bool(wins.any()):  # most steps of a search
        return Progress(old.values, old.energy, torch.maximum(old.lower_bound, new.lower_bound), new.done)
    if bool(wins.all()):
        return Progress(new.values, new.energy, torch.maximum(old.lower_bound, new.lower_bound), new.done)
    values: dict[str, Any] = {}
    for name, value in new.values.items():
        site = wins[graph.variables[name].instance]
        values[name] = torch.where(site.reshape(-1, *[1] * (value.dim() - 1)), value, old.values[name])
    return Progress(
        values,
        torch.where(wins, new.energy, old.energy),
        torch.maximum(old.lower_bound, new.lower_bound),
        new.done,
    )

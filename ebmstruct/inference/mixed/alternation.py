"""Block coordinate descent of mixed graphs, walker by walker, and the search about its fixed points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.graph.tabulation import tabulate, tabulation_refusal
from ebmstruct.inference.mixed.copies import (
    MOST_STEPS,
    Solved,
    Values,
    copies_at_once,
    copies_of,
    picked,
    solve_copies,
    split,
)
from ebmstruct.inference.mixed.moves import Moves, moves_of
from ebmstruct.inference.mixed.starts import mixed_starts
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Budget, Query, Result, Status
from ebmstruct.inference.sampling.markov import default_generator

GROUP = 32
"""So many moves are tried from where a walker stands, before the best of them is made."""
SMALLER = 4
"""With a deadline so many times fewer copies are solved together."""
LAST_WORDS = 0.1
"""What putting an answer together takes, as a share of the first rounds."""
HURRY_SECONDS = 0.05
"""With less time than this there is one start, so that one answer is there in time."""
GAIN = 1e-9
"""A relative decrease of the energy that counts as one."""


class Alternations:
    """W walkers for each instance of a graph, where they stand; every method changes that.

    values: block name to (W, n, ...).  energy: (W, B) float64, infinite where it is none.
    """

    def __init__(self, graph: FactorGraph, values: Values, budget: Budget, pace: Budget | None = None) -> None:
        self.graph, self.budget = graph, budget
        self.pace = punctual(budget, LAST_WORDS) if pace is None else pace
        self.values = dict(values)
        self.count = next(iter(self.values.values())).shape[0]
        self.copies = copies_of(graph, self.count)
        self.energy = torch.full((self.count, graph.num_instances), torch.inf, dtype=torch.float64)
        self.tables = tabulation_refusal(graph) is None
        self.rounds = self.solves = 0
        self.stopped: Status | None = None

    def over(self) -> bool:
        """Whether the budget is; it counts rounds, of a table solve or of a group of moves."""
        if self.pace.expired:
            self.stopped = Status.DEADLINE
        elif self.budget.max_steps is not None and self.rounds >= self.budget.max_steps:
            self.stopped = Status.MAX_STEPS
        return self.stopped is not None

    def refine(self, most: int | None) -> None:
        """Move the points of all walkers to a minimum at their states."""
        states, points = split(self.graph, self.values)
        solved = solve_copies(self.graph, self.count, states, points, self.budget, most)
        self.solves += self.count
        energy = solved.energy.nan_to_num(nan=torch.inf, neginf=torch.inf)
        self._take(solved.values, energy, (energy <= self.energy) | ~self.energy.isfinite())

    def _take(self, values: Values, energy: Tensor, taken: Tensor) -> None:
        self.energy = torch.where(taken, energy, self.energy)
        for name, old in self.values.items():
            mask = taken[:, self.graph.variables[name].instance]
            self.values[name] = torch.where(mask.reshape(mask.shape + (1,) * (old.dim() - 2)), values[name], old)

    def choose_states(self, generator: Generator | None) -> None:
        """The best states at the present points, whatever they were."""
        states, points = split(self.graph, self.values)
        tables = tabulate(self.copies, {n: v.flatten(0, 1) for n, v in points.items()})
        found = least_of_tables(tables, {n: v.flatten(0, 1) for n, v in states.items()}, self.budget, generator)
        energy = found.energy.reshape(self.energy.shape).nan_to_num(nan=torch.inf, neginf=torch.inf)
        fresh = {n: found.assignment[n].reshape(v.shape) for n, v in states.items()}
        lower = energy < self.energy - GAIN * self.energy.abs().clamp(min=1.0)
        self._take({**points, **fresh}, energy, lower | ~self.energy.isfinite())

    def alternate(self, most: int, generator: Generator | None) -> None:
        """States, then points, again and again, until no walker gets lower."""
        if not self.tables:
            return
        for _ in range(most):
            if self.over():
                return
            before = self.energy
            self.choose_states(generator)
            if not bool((self.energy < before).any()):
                return
            self.refine(MOST_STEPS)
            self.rounds += 1

    def begin(self, generator: Generator | None) -> None:
        """From points and states that do not belong together: even walkers keep their points, odd ones their states."""
        kept = {n: v for n, v in split(self.graph, self.values)[0].items()}
        if self.tables:
            self.choose_states(generator)
            odd = torch.arange(self.count) % 2 == 1
            for name, states in kept.items():
                self.values[name] = torch.where(odd[:, None], states, self.values[name])
            self.energy = torch.full_like(self.energy, torch.inf)
        self.refine(MOST_STEPS)

    def kicked(self, moves: Moves, draws: Tensor) -> Alternations:
        """Alternations that stand where some random sites of these are in other states; draws: (W, c, 2) in [0, 1)."""
        states, points = split(self.graph, self.values)
        others = moves.parted(moves.kicked(moves.joined(states), draws))
        fresh = Alternations(self.graph, {**points, **others}, self.budget, self.pace)
        fresh.rounds, fresh.solves = self.rounds, self.solves
        fresh.refine(MOST_STEPS)
        return fresh

    def take_lower(self, other: Alternations) -> None:
        """Stand where the other walkers stand, each of them that is lower."""
        self._take(other.values, other.energy, other.energy < self.energy)
        self.rounds, self.solves, self.stopped = other.rounds, other.solves, other.stopped

    def best(self, count: int) -> Alternations:
        """The lowest ``count`` walkers of each instance, by themselves."""
        energy, order = self.energy.sort(dim=0, stable=True)
        chosen = Alternations(self.graph, picked(self.graph, self.values, order[:count]), self.budget, self.pace)
        chosen.energy = energy[:count]
        chosen.rounds, chosen.solves, chosen.stopped = self.rounds, self.solves, self.stopped
        return chosen

    def search(self, moves: Moves, alternations: int, generator: Generator | None) -> None:
        """Make moves that lower the energy, the points solved again for each, until no move does in any walker."""
        idle, position = 0, 0
        groups = -(-moves.count // GROUP)
        while idle < groups and not self.over():
            before = self.energy
            self._group(moves, position * GROUP, min(moves.count, (position + 1) * GROUP))
            self.rounds += 1
            position = (position + 1) % groups
            improved = bool((self.energy < before).any())
            idle = 0 if improved else idle + 1
            if improved and position == 0:
                self.alternate(alternations, generator)

    def _group(self, moves: Moves, begin: int, end: int) -> None:
        states, points = split(self.graph, self.values)
        current = moves.joined(states)
        trial = moves.applied(current, begin, end)
        timed = self.budget.deadline is not None
        at_once = max(1, copies_at_once(self.copies) // (SMALLER if timed else 1))
        best: Solved | None = None
        for first in range(0, end - begin, at_once):
            if best is not None and self.budget.expired:
                break
            part = trial[first : first + at_once]
            here = {n: v.flatten(1, 2) for n, v in moves.parted(part).items()}
            there = {n: v.flatten(0, 1).expand(part.shape[0], *v.flatten(0, 1).shape) for n, v in points.items()}
            solved = solve_copies(self.copies, part.shape[0], here, there, self.budget)
            self.solves += part.shape[0] * self.count
            least, copy = solved.energy.nan_to_num(nan=torch.inf, neginf=torch.inf).min(0)
            values = picked(self.copies, solved.values, copy)
            shaped = {n: v.reshape(self.values[n].shape) for n, v in values.items()}
            energy = least.reshape(self.energy.shape)
            lower = energy < self.energy - GAIN * self.energy.abs().clamp(min=1.0)
            self._take(shaped, energy, lower)
            best = solved


def least_of_tables(tables: FactorGraph, init: Values, budget: Budget, generator: Generator | None) -> Result:
    """Least energy of a graph of tables: exact where the engine has one solver for it, else by a search from ``init``."""
    from ebmstruct.inference.choice import choose
    from ebmstruct.inference.solvers import SOLVERS

    inner = Budget(budget.deadline, None, budget.stopped)
    choice = choose(tables, Query(), inner)
    solver = choice.solver
    if len(choice.entries) != 1 or solver is None:
        solver = SOLVERS["subgraph_search"]()
        if solver.refuse(tables, Query()) is not None:
            solver = SOLVERS["icm"]()
    answer = solver.solve(tables, Query(), init=Assignment(dict(init)), budget=inner, generator=generator)
    assert isinstance(answer, Result)
    return answer


@dataclass(frozen=True)
class Effort:
    """How much a search does: starts, walkers that search about their fixed points, kicks of so many sites, moves."""

    starts: int
    searches: int
    kicks: int
    kicked: int
    max_moves: int
    max_rounds: int
    start_distance: float


def lowest(
    graph: FactorGraph, init: Assignment | None, effort: Effort, budget: Budget, generator: Generator | None
) -> Alternations:
    """The lowest walker of each instance, by itself: alternation from several starts, then the search and its kicks."""
    generator = default_generator(generator)
    count = 1 if budget.remaining < HURRY_SECONDS else effort.starts
    starts = mixed_starts(graph, init, count, effort.start_distance, generator)
    walkers = Alternations(graph, starts, budget)
    walkers.begin(generator)
    walkers.alternate(effort.max_rounds, generator)
    if effort.searches and not walkers.over():
        walkers = walkers.best(effort.searches)
        moves = moves_of(graph, effort.max_moves)
        walkers.search(moves, effort.max_rounds, generator)
        for _ in range(effort.kicks):
            draws = torch.rand(walkers.count, effort.kicked, 2, dtype=torch.float64, generator=generator)
            if walkers.over():
                break
            other = walkers.kicked(moves, draws)
            other.search(moves, effort.max_rounds, generator)
            walkers.take_lower(other)
    best = walkers.best(1)
    if not best.over():
        best.refine(None)
    return best

"""Joint states of the discrete blocks in the order of their discrete energy, and the best of their continuous minima."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.inference.latent.configurations import configurations
from ebmstruct.inference.latent.starts import scattered_copies
from ebmstruct.inference.mixed.copies import MOST_STEPS, Solved, copies_at_once, copies_of, picked, solve_copies, split
from ebmstruct.inference.mixed.parts import discrete_blocks, discrete_part, never_negative, quadratic_inside
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Budget, Claim, Result, Status
from ebmstruct.inference.smooth_energy import open_continuous, starting_point

LAST_WORDS = 0.2
"""What putting an answer together takes, as a share of the preparation."""
SMALLER = 4
"""With a deadline so many times fewer copies are solved together."""
KEPT = 32
"""So many of the best joint states of each instance are kept, to be solved again."""


class Enumerated:
    """One enumeration in the making, over all instances of a graph.

    order: (C, B) joint states by rising discrete energy ``floor`` (C, B), infinite where the discrete part forbids one.
    energy: (L, B) the best total energies so far, rising; values: block name to (L, n, ...).
    bound: (B,) the least bound of those solved.  exact: whether each continuous solve finds the true minimum.
    """

    def __init__(self, graph: FactorGraph, k: int, init: Assignment | None, budget: Budget) -> None:
        self.graph, self.k, self.budget, self.init = graph, k, budget, init
        self.exact, self.squares = quadratic_inside(graph), never_negative(graph)
        self.pace = punctual(budget, LAST_WORDS)
        self.stopped: Status | None = None
        self.batches = self.solves = 0
        self.joint = configurations(graph, discrete_blocks(graph))
        self.floor, self.order = self._ordered()
        values = starting_point(graph, init)
        self.start = {n: v for n, v in values.items() if isinstance(graph.variables[n].domain, Continuous)}
        count = graph.num_instances
        self.energy = torch.full((max(k, 1 if self.exact else KEPT), count), torch.inf, dtype=torch.float64)
        self.values = {
            n: v[:1].expand(self.energy.shape[0], *v.shape[1:]).clone()
            for n, v in {**self.joint.values, **{n: v[None] for n, v in self.start.items()}}.items()
        }
        self.bound = torch.full((count,), torch.inf, dtype=torch.float64)
        self.cut = torch.zeros(count, dtype=torch.bool)
        self.broken = torch.zeros(count, dtype=torch.bool)
        self.position = 0

    def _ordered(self) -> tuple[Tensor, Tensor]:
        """Discrete energies of all joint states, those of an instance rising, and the numbers of the states."""
        part = discrete_part(self.graph)
        total, at_once = self.joint.count, copies_at_once(part)
        floors = []
        for begin in range(0, total, at_once):
            states = {n: v[begin : begin + at_once] for n, v in self.joint.values.items()}
            times = min(at_once, total - begin)
            copies = copies_of(part, times)
            energy = copies.energy({n: v.flatten(0, 1) for n, v in states.items()})
            floors.append(energy.detach().reshape(times, -1))
        floor = torch.cat(floors).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        floor = floor.masked_fill(~self.joint.real, torch.inf)
        return floor.sort(dim=0, stable=True)

    @property
    def worthwhile(self) -> Tensor:
        """(C', B) bool: joint states from the present position on that may be among the best."""
        floor = self.floor[self.position :]
        return (floor < self.energy[self.k - 1]) if self.squares else ~torch.isposinf(floor)

    def enumerate(self) -> None:
        """Solve joint states until no further one can be among the best, or the budget ends; at least one batch."""
        total, at_once = self.joint.count, copies_at_once(self.graph)
        if self.budget.deadline is not None:
            at_once = max(1, at_once // SMALLER)
        while self.position < total:
            todo = self.worthwhile
            if not bool(todo.any()):
                return
            if self.batches and self._over():
                return
            times = min(at_once, total - self.position) if self.batches else 1
            self._solve(todo[:times])
            self.position += times

    def _over(self) -> bool:
        if self.pace.expired:
            self.stopped = Status.DEADLINE
        elif self.budget.max_steps is not None and self.batches >= self.budget.max_steps:
            self.stopped = Status.MAX_STEPS
        return self.stopped is not None

    def _solve(self, todo: Tensor) -> None:
        """The next joint states; copies that have nothing to do stand where the best is."""
        times = todo.shape[0]
        number = self.order[self.position : self.position + times]
        states = picked(self.graph, self.joint.values, number)
        points = {n: v.expand(times, *v.shape).clone() for n, v in self.start.items()}
        if self.batches:
            for part in (states, points):
                for name, value in part.items():
                    idle = ~todo[:, self.graph.variables[name].instance]
                    shape = idle.shape + (1,) * (value.dim() - 2)
                    part[name] = torch.where(idle.reshape(shape), self.values[name][0], value)
        solved = self._run(states, points)
        floor = self.floor[self.position : self.position + times]
        bound = torch.maximum(solved.bound, floor) if self.squares else solved.bound
        bound = torch.where(solved.energy.isnan(), -torch.inf, bound)
        self.bound = torch.minimum(self.bound, torch.where(todo, bound, torch.inf).amin(0))
        self.solves += int(todo.sum())
        self._keep(solved, todo)

    def _run(self, states: dict[str, Tensor], points: dict[str, Tensor], most: int | None = MOST_STEPS) -> Solved:
        times = next(iter(points.values())).shape[0]
        solved = solve_copies(self.graph, times, states, points, self.budget, most)
        self.batches += 1
        self.cut |= solved.late.any(0)
        self.broken |= solved.energy.isnan().any(0)
        return solved

    def _keep(self, solved: Solved, todo: Tensor) -> None:
        """Take what was found in among the best; of one joint state more than once only the best where k > 1."""
        energy = torch.where(solved.energy.isnan() | ~todo, torch.inf, solved.energy)
        both = torch.cat([self.energy, energy])
        kept, copy = both.sort(dim=0, stable=True)
        copy = copy[: self.energy.shape[0]]
        self.energy = kept[: self.energy.shape[0]]
        joined = {n: torch.cat([v, solved.values[n].to(v.dtype)]) for n, v in self.values.items()}
        self.values = picked(self.graph, joined, copy)

    def polish(self, count: int, starts: int, distance: float, generator: Generator | None) -> None:
        """Solve the ``count`` best joint states again, from where others of the best ended and from scattered starts.

        Each keeps the better of what it had and what is found, so that k best stay k different joint states.
        """
        count = min(count, self.energy.shape[0], self.joint.count)
        if self.stopped or not count:
            return
        names = [v.name for v in open_continuous(self.graph)]
        scattered = scattered_copies(self.graph, names, self.init, starts + 1, distance, generator)
        around = scattered_copies(self.graph, names, self._best_point(), starts + 1, distance, generator)
        for begin in range(2 * starts):
            if self._over():
                return
            states, points = split(self.graph, {n: v[:count] for n, v in self.values.items()})
            source = around if begin % 2 else scattered
            others = {n: source[n][1 + begin // 2].expand_as(v).clone() for n, v in points.items()}
            if begin < 2:  # where the best ended, and where the neighbour in the ranking did
                others = {n: (v[:1].expand_as(v) if begin else v.roll(1, 0)).clone() for n, v in points.items()}
            self._improve(self._run(states, others), count)

    def finish(self) -> None:
        """Solve the k best from where they are until they are done, without a limit of steps."""
        if self._over():
            return
        count = min(self.k, self.energy.shape[0])
        solved = self._run(*split(self.graph, {n: v[:count] for n, v in self.values.items()}), None)
        self._improve(solved, count)

    def _best_point(self) -> Assignment:
        return Assignment({n: self.values[n][0] for n in self.start})

    def _improve(self, solved: Solved, count: int) -> None:
        fresh = torch.where(solved.energy.isnan(), torch.inf, solved.energy)
        won = (fresh < self.energy[:count]) & self.energy[:count].isfinite()
        energy = self.energy.clone()
        energy[:count] = torch.where(won, fresh, energy[:count])
        values = {}
        for name, value in self.values.items():
            mask = won[:, self.graph.variables[name].instance]
            mask = mask.reshape(mask.shape + (1,) * (value.dim() - 2))
            values[name] = torch.cat([torch.where(mask, solved.values[name], value[:count]), value[count:]])
        self.energy, order = energy.sort(dim=0, stable=True)
        self.values = picked(self.graph, values, order)

    def result(self) -> Result:
        """The best, with k - 1 alternatives; the bound holds up to what was left out."""
        bound = self.bound
        if self.position < self.joint.count:
            left = self.floor[self.position] if self.squares else torch.full_like(bound, -torch.inf)
            bound = torch.minimum(bound, left)
        late = self.worthwhile.any(0) if self.position < self.joint.count else torch.zeros_like(self.cut)
        late = late | self.cut
        status = torch.full(bound.shape, int(Status.CONVERGED), dtype=torch.long)
        status = torch.where(
            late, int(self.stopped or (Status.DEADLINE if self.budget.expired else Status.MAX_STEPS)), status
        )
        nowhere = torch.isposinf(self.energy[0])
        status = torch.where(nowhere & ~late, int(Status.INFEASIBLE), status)
        status = torch.where(nowhere & self.broken, int(Status.NONFINITE), status)
        energy = torch.where(nowhere & self.broken, torch.nan, self.energy[0])
        found = [Assignment({n: v[i] for n, v in self.values.items()}) for i in range(self.k)]
        return Result(
            found[0],
            energy,
            bound,
            status,
            witness=Claim("enumeration"),
            alternatives=tuple(found) if self.k > 1 else (),
            alternative_energies=self.energy[: self.k] if self.k > 1 else None,
            stats={"batches": self.batches, "solves": self.solves, "joint_states": self.joint.count},
        )

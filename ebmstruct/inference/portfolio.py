"""Several minimisers on one graph: the best answer of any, the highest bound of any, until they meet or time is up."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.kernels.search.icm import polish
from ebmstruct.inference.result import (
    Budget,
    Query,
    Result,
    Several,
    SingleWitness,
    Status,
    Witness,
)
from ebmstruct.inference.solver import IterativeMinimizer, Progress, Solver, better
from ebmstruct.inference.views.table_view import table_refusal, table_view

logger = logging.getLogger("ebmstruct")

CLOSED = 1e-9
"""Work stops where the gap is at most CLOSED * max(1, |energy|), well inside the engine's tolerance."""
TALK_SECONDS = 1.0
"""When a race first says how far it is; each later word comes after half as long again."""
RESERVE = 0.03
"""Part of the remaining time kept for the last witness and for certifying, up to RESERVE_SECONDS."""
RESERVE_SECONDS = 0.1


@dataclass(frozen=True)
class Entry:
    """A solver in a race, and how long it waits at most before it starts, so that it can begin with a good answer.

    Where there is less than ten times that until the deadline it waits a tenth of what there is.
    """

    solver: Solver
    wait_s: float = 0.0


@dataclass
class Board:
    """The best that the members of a race have found so far, shared between their threads."""

    graph: FactorGraph
    best: Progress | None = None
    version: int = 0
    bounds: dict[str, Tensor] = field(default_factory=dict)
    witnesses: dict[str, Witness] = field(default_factory=dict)
    finders: dict[str, float] = field(default_factory=dict)
    failed: bool = False
    ended: Status = Status.CONVERGED
    lock: threading.Lock = field(default_factory=threading.Lock)

    def publish(self, name: str, found: Progress) -> None:
        """Take over what a member has, where it is better."""
        with self.lock:
            self.bounds[name] = found.lower_bound
            if self.best is None:
                self.best, self.version = found, 1
                self.finders[name] = float(found.energy.sum())
                return
            if bool((found.energy < self.best.energy).any()):
                self.version += 1
                self.finders[name] = float(torch.minimum(found.energy, self.best.energy).sum())
            self.best = better(self.graph, self.best, found)

    def closed(self) -> bool:
        """Whether every instance's best energy meets the highest bound."""
        with self.lock:
            if self.best is None:
                return False
            energy, bound = self.best.energy, self.best.lower_bound
            met = energy.isfinite() & (energy - bound <= CLOSED * energy.abs().clamp(min=1.0))
            return bool((met | torch.isposinf(bound)).all())

    def over(self) -> bool:
        """Whether no member need go on: the gap has closed, or one of them has failed."""
        return self.failed or self.closed()

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """Whatever ends the block early (a fault in a member, an interruption) ends all members."""
        try:
            yield
        except BaseException:
            self.failed = True
            raise

    def assignment(self) -> Assignment | None:
        """The best assignment so far."""
        with self.lock:
            return None if self.best is None else Assignment(dict(self.best.values))

    def talk(self, seconds: float) -> None:
        """Say on the log how far the race is."""
        with self.lock:
            if self.best is not None:
                energy, bound = float(self.best.energy.sum()), float(self.best.lower_bound.sum())
                logger.info("%5.1f s  energy %.6g  bound %.6g  gap %.3g", seconds, energy, bound, energy - bound)


def race(
    graph: FactorGraph,
    query: Query,
    entries: Sequence[Entry],
    *,
    init: Assignment | None = None,
    budget: Budget | None = None,
    generator: Generator | None = None,
) -> Result:
    """Minimise with several solvers; each instance's best assignment, and a witness of its highest bound.

    With a deadline the members run side by side in threads, each beginning with the best assignment found by then.
    Without one they run in turn, each to its own end, so that the same seed gives the same answer.
    """
    budget = budget or Budget()
    board, began = Board(graph), time.monotonic()
    inner = replace(budget, stopped=board.over)
    if budget.deadline is not None:
        spare = min(RESERVE * max(budget.remaining, 0.0), RESERVE_SECONDS)
        inner = replace(inner, deadline=budget.deadline - spare)
    seeds = [_seeded(generator) for _ in entries]
    if budget.deadline is None:
        for entry, seed in zip(entries, seeds, strict=True):
            if not board.closed():
                _take_part(entry.solver, graph, query, board, init, inner, seed)
                if time.monotonic() - began > TALK_SECONDS:
                    board.talk(time.monotonic() - began)
    else:
        _side_by_side(graph, query, entries, seeds, board, init, inner, began)
    if board.best is None:  # the time was up before anybody began: some legal assignment is due all the same
        _take_part(entries[0].solver, graph, query, board, init, replace(inner, max_steps=0), seeds[0])
        _descend(graph, board)
    return _summary(board, entries, time.monotonic() - began)


def _descend(graph: FactorGraph, board: Board) -> None:
    """One sweep of single changes over the best so far: next to nothing in time, and far better than a first guess."""
    if table_refusal(graph) is not None:
        return
    view, best = table_view(graph), board.best
    assert best is not None
    states = view.compress(best.values)
    polish(view, states, visits=view.num_sites)
    values = view.expand(states)
    board.publish("icm", replace(best, values=values, energy=graph.energy(values)))


def _seeded(generator: Generator | None) -> Generator:
    """A generator for one member, drawn from the caller's."""
    seed = 0 if generator is None else int(torch.randint(0, 1 << 62, (), generator=generator))
    return Generator().manual_seed(seed)


def _side_by_side(
    graph: FactorGraph,
    query: Query,
    entries: Sequence[Entry],
    seeds: Sequence[Generator],
    board: Board,
    init: Assignment | None,
    budget: Budget,
    began: float,
) -> None:
    pool = ThreadPoolExecutor(len(entries), thread_name_prefix="ebmstruct-race")
    total = budget.remaining
    waiting = sorted(zip(entries, seeds, strict=True), key=lambda pair: pair[0].wait_s)
    running: set[Future[None]] = set()
    speak = began + TALK_SECONDS
    with pool, board.stopping():
        while running or waiting:
            now = time.monotonic()
            while waiting and (now - began >= min(waiting[0][0].wait_s, 0.1 * total) or not running):
                entry, seed = waiting.pop(0)
                if budget.expired:
                    board.ended = Status.DEADLINE
                else:
                    running.add(pool.submit(_take_part, entry.solver, graph, query, board, init, budget, seed))
            timeout = TALK_SECONDS
            if waiting:
                timeout = min(timeout, max(0.0, began + min(waiting[0][0].wait_s, 0.1 * total) - now))
            finished, running = wait(running, timeout=timeout, return_when=FIRST_COMPLETED)
            for one in finished:
                one.result()
            now = time.monotonic()
            if now > speak:
                board.talk(now - began)
                speak = now + 0.5 * (now - began)


def _take_part(
    solver: Solver,
    graph: FactorGraph,
    query: Query,
    board: Board,
    init: Assignment | None,
    budget: Budget,
    generator: Generator,
) -> None:
    """Run one member until it is done, the gap has closed, or the time is up."""
    start = board.assignment() or init
    if not isinstance(solver, IterativeMinimizer):
        found = solver.solve(graph, query, init=start, budget=budget, generator=generator)
        assert isinstance(found, Result)
        _post(solver.name, board, found)
        return
    state = solver.begin(graph, query, start, generator)
    adopt = getattr(solver, "adopt", None)
    seen, steps = 0, 0
    while True:
        found_now = solver.progress(state)
        board.publish(solver.name, found_now)
        if bool(found_now.done.all()):
            break
        if budget.expired:
            board.ended = Status.DEADLINE
            break
        if budget.max_steps is not None and steps >= budget.max_steps:
            board.ended = max(board.ended, Status.MAX_STEPS)
            break
        if adopt is not None and board.version != seen:
            seen = board.version
            current = board.assignment()
            assert current is not None
            state = adopt(graph, state, dict(current.values))
        state = solver.step(graph, query, state)
        steps += 1
    with board.lock:
        needed = board.best is None or bool((found_now.lower_bound >= board.best.lower_bound).any())
    witness = solver.witness(state) if needed else None
    if witness is not None:
        with board.lock:
            board.witnesses[solver.name] = witness


def _post(name: str, board: Board, found: Result) -> None:
    done = found.status <= int(Status.CONVERGED)
    if not bool(done.all()) and int(found.status[~done].min()) <= int(Status.DEADLINE):
        board.ended = Status.DEADLINE
    if found.witness is not None:
        board.witnesses[name] = found.witness
    bound = found.lower_bound if found.witness is not None else torch.full_like(found.lower_bound, -torch.inf)
    board.publish(name, Progress(graph_values(board.graph, found), found.energy, bound, done))


def graph_values(graph: FactorGraph, found: Result) -> dict[str, Tensor]:
    """The values of every block in a result, clamped ones included."""
    return graph.complete(found.assignment)


def _summary(board: Board, entries: Sequence[Entry], seconds: float) -> Result:
    best = board.best
    assert best is not None
    parts: list[SingleWitness] = []
    bound = torch.full_like(best.lower_bound, -torch.inf)
    contributors = []
    strongest_first = sorted(board.witnesses, key=lambda n: float(board.bounds[n].nan_to_num(neginf=-1e300).sum()))[
        ::-1
    ]
    for name in strongest_first:
        witness = board.witnesses[name]
        if bool((board.bounds[name] > bound).any()):
            contributors.append(name)
            bound = torch.maximum(bound, board.bounds[name])
            parts += witness.parts if isinstance(witness, Several) else (witness,)
    winner = min(board.finders, key=lambda n: board.finders[n])
    ended = Status.CONVERGED if board.closed() else board.ended
    status = torch.full_like(best.energy, int(ended), dtype=torch.long)
    names = [winner, *(n for n in contributors if n != winner)]
    return Result(
        Assignment(best.values),
        best.energy,
        bound,
        status,
        solver="+".join(names),
        witness=None if not parts else parts[0] if len(parts) == 1 else Several(tuple(parts)),
        stats={"seconds": seconds, "members": [e.solver.name for e in entries], "bounds": dict(board.bounds)},
    )

"""Exact inference by bucket elimination: the plan of a structure, and its numeric passes over given energies.

The energies are those of a table view, flat float64: ``unary`` of the open sites, ``tables`` of the rows one after another
(``TableView.row_tables``). A plan depends on structure only. Entries may be +inf. Source: Dechter 1999
(bucket elimination), sections 3 to 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ebmstruct.inference.elimination_order import Elimination
from ebmstruct.inference.views.table_view import TableView

Stop = Callable[[float], bool]
"""Whether to stop before so many entries of tables are handled, which nothing can interrupt."""
AT_ONCE = 2_000_000
"""Entries handled between two looks at the clock, unless one table has more: some ten milliseconds."""


BELIEFS_FACTOR = 3.0
"""How much longer an entry takes on the way down than on the way up."""
K_BEST_SECONDS = 0.005
"""About how long the list of the k best grows between two looks at the clock."""


class OutOfTime(Exception):
    """The pass was stopped between two buckets."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """The plan of an elimination over a view's structure; positions are places in the order.

    card, instance (n,): by position.  unary (n,), table (m,): where energies begin, the tables behind all unaries.
    row_ptr, rows: the rows that each bucket adds up.  scope_ptr, scope: the positions of each row.
    child_ptr, children.  size (n,): entries of each message.  entries: of all unaries and tables.
    """

    elimination: Elimination
    num_instances: int
    card: np.ndarray
    instance: np.ndarray
    size: np.ndarray
    unary: np.ndarray
    table: np.ndarray
    row_ptr: np.ndarray
    rows: np.ndarray
    scope_ptr: np.ndarray
    scope: np.ndarray
    child_ptr: np.ndarray
    children: np.ndarray
    entries: int
    row_entries: np.ndarray

    @cached_property
    def assignments(self) -> int:
        """The most joint assignments that an instance has, up to 2**62."""
        logs = np.bincount(self.instance, np.log2(self.card), self.num_instances)
        if logs.max(initial=0.0) > 61.5:
            return 1 << 62
        products = [
            int(np.prod(self.card[self.instance == b])) for b in np.nonzero(logs > logs.max(initial=0.0) - 1e-6)[0]
        ]
        return max(products, default=1)

    @cached_property
    def roots(self) -> np.ndarray:
        """Buckets that send nothing on."""
        return np.nonzero(self.elimination.parent < 0)[0]

    @cached_property
    def entry_instance(self) -> np.ndarray:
        """(entries,) the instance of each unary energy, then of each entry of a table."""
        unaries = np.empty(self.entries - int(self.row_entries.sum()), np.int64)
        order = np.argsort(self.unary)
        unaries[:] = np.repeat(self.instance[order], self.card[order])
        first = self.scope[self.scope_ptr[:-1]]
        return np.concatenate([unaries, np.repeat(self.instance[first], self.row_entries)])

    @cached_property
    def scratch(self) -> int:
        """Room for merged tables."""
        from ebmstruct.inference.kernels.elimination import elimination_tables_numba as tables

        whole = self.size * self.card
        whole = whole[whole > tables.BLOCK]
        return tables.GROUPS * int(np.minimum(np.maximum(whole // 32, 64), tables.MERGED).max(initial=0))

    @cached_property
    def choice_sizes(self) -> np.ndarray:
        """(n,) bytes that the states which make each message take."""
        wide = np.where(self.card > 256, 2 * self.size, self.size)
        return np.where(self.card == 2, 2 * (-(-self.size // 16)), wide)

    def places(self, keep: bool) -> tuple[np.ndarray, int]:
        """Where each message lies in memory, and the length of memory; ``keep`` all messages or free those read."""
        from ebmstruct.inference.kernels.elimination.elimination_symbolic_numba import place_messages

        begin = self.entries + self.scratch
        place, length = place_messages(self.elimination.parent, self.size, keep)
        return place + begin, begin + int(length)

    def bytes_needed(self, keep: bool, beliefs: bool = False) -> int:
        """Bytes that a pass takes: with all messages kept, or freed and states recorded; ``beliefs`` come on top."""
        length = 8 * self.places(keep)[1] + (0 if keep else int(self.choice_sizes.sum()))
        return length + (8 * self.places(False)[1] if beliefs else 0)


def buckets_of(view: TableView, elimination: Elimination) -> Buckets:
    """Lay the rows and sites of a view out over the buckets of an order. Cost: linear, plus a sort of the rows."""
    order, parent = elimination.order, elimination.parent
    n = order.size
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    scope = position[view.row_sites]
    first = np.minimum.reduceat(scope, view.row_ptr[:-1]) if view.num_rows else np.zeros(0, np.int64)
    inner = np.nonzero(parent >= 0)[0]
    log_card = np.log2(view.num_states[order].astype(np.float64))
    starts = np.cumsum(view.row_sizes) - view.row_sizes
    unaries = int(view.starts[-1])
    return Buckets(
        elimination=elimination,
        num_instances=view.num_instances,
        card=view.num_states[order],
        instance=view.instance[order],
        size=np.rint(np.exp2(elimination.log_size - log_card)).astype(np.int64),
        unary=view.starts[:-1][order],
        table=starts + unaries,
        row_ptr=np.concatenate([[0], np.cumsum(np.bincount(first, minlength=n))]),
        rows=np.argsort(first, kind="stable"),
        scope_ptr=view.row_ptr,
        scope=scope,
        child_ptr=np.concatenate([[0], np.cumsum(np.bincount(parent[inner], minlength=n))]),
        children=inner[np.argsort(parent[inner], kind="stable")],
        entries=unaries + int(view.row_sizes.sum()),
        row_entries=view.row_sizes,
    )


class _Pass:
    """Memory filled with energies, ready for one pass up and what follows it."""

    def __init__(self, buckets: Buckets, unary: np.ndarray, tables: np.ndarray, keep: bool, stop: Stop | None) -> None:
        from ebmstruct.inference.kernels.elimination import elimination_tables_numba as kernels

        self.buckets, self.stop = buckets, stop
        place, length = buckets.places(keep)
        self.memory = np.empty(length)
        self.memory[: unary.size] = unary
        self.memory[unary.size : buckets.entries] = tables
        found = buckets.elimination
        self.plan = kernels.Plan(
            buckets.card, found.sep_ptr, found.sep, buckets.size, place, buckets.unary, buckets.row_ptr, buckets.rows,
            buckets.scope_ptr, buckets.scope, buckets.table, buckets.child_ptr, buckets.children,
        )  # fmt: skip
        self.work = self._room(kernels)

    def _room(self, kernels: Any) -> Any:
        b = self.buckets
        axes = b.elimination.width + 1
        inputs = int((np.diff(b.row_ptr) + np.diff(b.child_ptr)).max(initial=0)) + 2
        entries = max(kernels.BLOCK, int(b.card.max(initial=1))) + 32

        def whole(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.int64)

        return kernels.Work(
            slot=whole(b.card.size), dims=whole(axes), counter=whole(axes), place=whole(inputs), here=whole(inputs),
            stride=whole(inputs, axes), moved=whole(inputs), fold=whole(inputs), fold_card=whole(inputs, axes),
            fold_stride=whole(inputs, axes), group=whole(inputs), group_place=whole(kernels.GROUPS),
            group_size=whole(kernels.GROUPS), inside=np.zeros((kernels.GROUPS, axes), np.bool_),
            scratch=np.array([b.entries]), block=np.zeros(entries), other=np.zeros(entries),
            period=np.zeros(256),
        )  # fmt: skip

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Ranges of buckets of some ten milliseconds; raises OutOfTime where ``stop`` says so between two."""
        for begin, end, entries in self._parts():
            self._ask(entries)
            yield begin, end

    def _parts(self) -> Iterator[tuple[int, int, float]]:
        running = np.cumsum(self.buckets.size * self.buckets.card)
        begin = 0
        while begin < running.size:
            done = running[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(running, done + AT_ONCE, side="right")))
            yield begin, end, float(running[end - 1] - done)
            begin = end

    def _ask(self, entries: float) -> None:
        if self.stop is not None and self.stop(entries):
            raise OutOfTime

    def totals(self) -> np.ndarray:
        """(B,) the sum over an instance's roots of what they send."""
        b = self.buckets
        return np.bincount(b.instance[b.roots], self.memory[self.plan.message[b.roots]], b.num_instances)

    def least(self, record: bool) -> tuple[np.ndarray, np.ndarray]:
        """The min-sum pass; what was recorded and where each bucket's part begins."""
        from ebmstruct.inference.kernels.elimination.elimination_passes_numba import least

        sizes = self.buckets.choice_sizes if record else np.zeros_like(self.buckets.size)
        place = np.cumsum(sizes) - sizes
        choice = np.zeros(int(sizes.sum()), np.uint8)
        for begin, end in self.ranges():
            least(begin, end, self.plan, self.work, self.memory, choice, place, record)
        return choice, place

    def log_sums(self) -> np.ndarray:
        """The sum-product pass; (B,) log partitions."""
        from ebmstruct.inference.kernels.elimination.elimination_passes_numba import log_sums

        for begin, end in self.ranges():
            log_sums(begin, end, self.plan, self.work, self.memory)
        return -self.totals()

    def beliefs(self) -> np.ndarray:
        """(entries,) probabilities of all states of sites, then of all entries of tables; after ``log_sums``."""
        from ebmstruct.inference.kernels.elimination.elimination_passes_numba import beliefs

        place, length = self.buckets.places(False)  # going down they come and go as messages do going up
        out = np.zeros(length)
        roots = self.buckets.roots
        out[place[roots]] = self.memory[self.plan.message[roots]] < np.inf
        for begin, end, entries in reversed(list(self._parts())):
            self._ask(BELIEFS_FACTOR * entries)
            beliefs(begin, end, self.plan, self.work, self.memory, out, place)
        return out[: self.buckets.entries]

    def by_site(self, states: np.ndarray) -> np.ndarray:
        """States (..., n) by position, as states by site."""
        out = np.empty_like(states)
        out[..., self.buckets.elimination.order] = states
        return out


def minimize(
    buckets: Buckets, unary: np.ndarray, tables: np.ndarray, stop: Stop | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) states of least energy, and (B,) that energy; +inf where nothing is feasible. Raises OutOfTime."""
    from ebmstruct.inference.kernels.elimination.elimination_read_numba import trace

    run = _Pass(buckets, unary, tables, False, stop)
    choice, place = run.least(True)
    states = np.zeros(buckets.card.size, np.int64)
    trace(run.plan, choice, place, states)
    return run.by_site(states), run.totals()


def k_best(
    buckets: Buckets,
    unary: np.ndarray,
    tables: np.ndarray,
    k: int,
    stop: Stop | None = None,
    enough: Callable[[int], bool] | None = None,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """(f, n) states of the least energies of each instance in rising order, (f, B) those energies, and whether all came.

    f is k, or less where no instance has so many assignments, or where ``enough``, asked every few milliseconds with
    the number found so far, ended the search: the last is False then. It is 1 at least. Slots that an instance does not
    have hold energy +inf and states 0. Raises OutOfTime before the first is found.
    """
    run = _Pass(buckets, unary, tables, True, stop)
    run.least(False)
    totals = run.totals()
    ends = np.concatenate([[0], np.cumsum(np.bincount(buckets.instance, minlength=buckets.num_instances))])
    backwards = np.argsort(buckets.instance[::-1], kind="stable")
    listed = [_Ranked(run, buckets.card.size - 1 - backwards[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    going = [one for one, total in zip(listed, totals, strict=True) if total < np.inf]
    states = np.zeros((1, buckets.card.size), np.int64)
    done, step, complete = 0, 1, True
    while done < k and going:
        began = time.perf_counter()
        done = min(done + step, k)
        if done > states.shape[0]:
            more = max(done - states.shape[0], states.shape[0])
            states = np.concatenate([states, np.zeros((more, states.shape[1]), np.int64)])
        going = [one for one in going if one.extend(done, states)]
        if going and done < k and enough is not None and enough(done):
            complete = False
            break
        step = step if time.perf_counter() - began > K_BEST_SECONDS else 2 * step
    found = max([1, *(one.found for one in listed)])
    energies = np.full((found, len(listed)), np.inf)
    for b, one in enumerate(listed):
        energies[: one.found, b] = totals[b] + one.above[: one.found]
    return run.by_site(states[:found]), energies, complete


class _Ranked:
    """The list of the least assignments of one instance, as far as it was made."""

    def __init__(self, run: _Pass, buckets: np.ndarray) -> None:
        self.run, self.buckets, self.found = run, buckets, 0
        self.above = np.zeros(1)
        room = 64
        self.queue: Any = (np.empty(room), np.empty(room, np.int64), np.empty((room, 3), np.int64), 0, 0)

    def extend(self, last: int, states: np.ndarray) -> bool:
        """Make the list ``last`` long, in the instance's columns of ``states``; whether there may be more."""
        from ebmstruct.inference.kernels.elimination import elimination_read_numba as read

        if last > self.above.size:
            self.above = np.concatenate([self.above, np.zeros(max(last, 2 * self.above.size) - self.above.size)])
        run = self.run
        self.found, self.queue = read.k_best(
            self.found, last, run.plan, run.memory, self.buckets, states, self.above, self.queue
        )
        return self.found == last


class LogSums:
    """All messages of the sum-product pass: log_z (B,), and on demand what can be read off them. Raises OutOfTime."""

    def __init__(self, buckets: Buckets, unary: np.ndarray, tables: np.ndarray, stop: Stop | None = None) -> None:
        self._run = _Pass(buckets, unary, tables, True, stop)
        self.log_z = self._run.log_sums()

    def beliefs(self) -> np.ndarray:
        """(entries,) probabilities of all states of sites, then of the entries of all tables; 0 where infeasible."""
        return self._run.beliefs()

    def sample(self, uniforms: np.ndarray) -> np.ndarray:
        """(S, n) exact draws; uniforms (S, n) in [0, 1) draw each site."""
        from ebmstruct.inference.kernels.elimination import elimination_read_numba as read

        run = self._run
        states = np.zeros(uniforms.shape, np.int64)
        read.sample(run.plan, run.memory, uniforms, run.buckets.elimination.order, states)
        return run.by_site(states)


def log_partition(buckets: Buckets, unary: np.ndarray, tables: np.ndarray, stop: Stop | None = None) -> np.ndarray:
    """(B,) log of the sum over assignments of exp(-energy). Raises OutOfTime."""
    return _Pass(buckets, unary, tables, False, stop).log_sums()

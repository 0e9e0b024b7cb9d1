"""SplitElimination under a table budget: buckets too large for it are split, which gives a bound instead of the value."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ebmstruct.inference.views.table_view import TableView

KEPT_BYTES = 1 << 28
"""The most memory for functions that are kept for decoding; later buckets are decided by the rows alone."""


class Stopped(Exception):
    """The time was up in the middle of a bucket."""


class Function:
    """Values over some sites: scores -E / T, where -inf forbids. One axis a site, in the order of ``sites``.

    Those of a row share its table, and are multiplied out when somebody looks at them. top: the greatest value.
    """

    __slots__ = ("_found", "raw", "scale", "shape", "sites", "size", "top")

    def __init__(
        self, sites: tuple[int, ...], raw: np.ndarray, shape: tuple[int, ...], top: float, scale: float = 1.0
    ) -> None:
        self.sites, self.raw, self.shape, self.top, self.scale = sites, raw, shape, top, scale
        self.size = raw.size
        self._found: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """The scores, of shape ``shape``."""
        if self._found is None:
            own = self.raw if self.scale == 1.0 else self.raw * self.scale
            self._found = own.reshape(self.shape)
        return self._found


@dataclass(eq=False)
class SplitElimination:
    """What an elimination ended with.

    bound: (B,) above log Z / above the greatest score.  split: (B,) bool, whether some bucket was split.
    complete: whether all sites were eliminated; else the rest was bounded term by term.
    order: sites as they were eliminated.  kept: each site's bucket as it was when the site was eliminated, for
    decoding; None where memory ran out.  largest: entries of the largest table.
    """

    bound: np.ndarray
    split: np.ndarray
    complete: bool = True
    order: list[int] = field(default_factory=list)
    kept: list[list[Function] | None] = field(default_factory=list)
    largest: int = 1


def row_tops(view: TableView, temperature: float) -> np.ndarray:
    """(m,) the greatest score of each row; rows that share a table share the look at it."""
    if not view.num_rows:
        return np.zeros(0)
    _, tables, weights = view.arrays
    pairs, at = np.unique(
        np.stack([view.table_start, view.table_start + view.row_sizes], 1), axis=0, return_inverse=True
    )
    padded = np.append(tables, 0.0)  # an end may be the array's own
    low = np.minimum.reduceat(padded, pairs.reshape(-1))[::2][at.reshape(-1)]
    high = np.maximum.reduceat(padded, pairs.reshape(-1))[::2][at.reshape(-1)]
    scale = -weights / temperature
    return np.asarray(np.where(weights > 0, low, np.where(weights < 0, high, 0.0)) * scale)


def term_by_term(view: TableView, temperature: float, *, largest_score: bool) -> np.ndarray:
    """(B,) the bound that needs no elimination: every site by itself, every row at its greatest score."""
    out = -view.constant.detach().numpy() / temperature
    out += _sites_alone(view, -view.arrays[0] / temperature, np.ones(view.num_sites, np.bool_), largest_score)
    return np.asarray(out + np.bincount(view.row_instance, row_tops(view, temperature), view.num_instances))


def _sites_alone(view: TableView, scores: np.ndarray, which: np.ndarray, largest_score: bool) -> np.ndarray:
    """(B,) what the sites ``which`` add to the bound, each by its own scores (starts[-1],) only."""
    if not view.num_sites:
        return np.zeros(view.num_instances)
    top = np.maximum.reduceat(scores, view.starts[:-1])
    if not largest_score:
        level = np.where(np.isfinite(top), top, 0.0)
        mass = np.add.reduceat(np.exp(scores - np.repeat(level, view.num_states)), view.starts[:-1])
        with np.errstate(divide="ignore"):
            top = level + np.log(mass)
    return np.bincount(view.instance[which], top[which], view.num_instances)


def eliminate(
    view: TableView, temperature: float, max_table: int, *, largest_score: bool, stop: Callable[[], bool]
) -> SplitElimination:
    """Eliminate all sites, each time the one with the smallest table over it and its neighbours.

    A bucket whose table would exceed ``max_table`` entries is split into mini-buckets (Dechter and Rish 2003), which
    are eliminated one by one: by maximum where ``largest_score`` (temperature is then 1), else by the power sums of
    Hoelder's inequality with equal weights (Liu and Ihler 2011). Before that, mini-buckets are made to
    agree on the site's marginal scores, which moves values between them and keeps their sum (Ihler et al. 2012).
    When ``stop`` says so, what is left is bounded term by term, at once: valid, and loose.
    """
    work = _Elimination(view, temperature, max_table, largest_score, stop)
    try:
        work.lay_out()
        work.run()
    except Stopped:
        work.close()
    return work.out


class _Elimination:
    """An elimination on its way. single: flat scores of single sites.  at: each site's functions of several sites."""

    def __init__(
        self, view: TableView, temperature: float, max_table: int, largest_score: bool, stop: Callable[[], bool]
    ) -> None:
        self.view, self.temperature, self.max_table = view, temperature, max_table
        self.largest_score, self.stop = largest_score, stop
        self.out = SplitElimination(
            -view.constant.detach().numpy() / temperature, np.zeros(view.num_instances, np.bool_)
        )
        self.single = -view.arrays[0] / temperature
        self.tops = row_tops(view, temperature)
        self.at: list[dict[int, Function]] = []
        self.live = np.ones(view.num_rows, np.bool_)
        self.messages: dict[int, Function] = {}
        self.number = view.num_rows
        self.done = np.zeros(view.num_sites, np.bool_)
        self.logs = np.log2(np.maximum(view.num_states, 1)).tolist()
        self.states: list[int] = view.num_states.tolist()
        self.starts: list[int] = view.starts.tolist()
        self.kept_bytes = 0

    def lay_out(self) -> None:
        """Every row as a function, at each of its sites."""
        view = self.view
        _, tables, weights = view.arrays
        self.at = [{} for _ in range(view.num_sites)]
        ends, sites = view.row_ptr.tolist(), view.row_sites.tolist()
        begins, sizes = view.table_start.tolist(), view.row_sizes.tolist()
        scales, tops = (-weights / self.temperature).tolist(), self.tops.tolist()
        for row in range(view.num_rows):
            if not row % 256:
                self.look()
            own = tuple(sites[ends[row] : ends[row + 1]])
            raw = tables[begins[row] : begins[row] + sizes[row]]
            function = Function(own, raw, tuple([self.states[s] for s in own]), tops[row], scales[row])
            for site in own:
                self.at[site][row] = function

    def look(self) -> None:
        """Leave where the time is up."""
        if self.stop():
            raise Stopped

    def run(self) -> None:
        """Eliminate site after site."""
        queue = []
        for i in range(self.view.num_sites):
            self.look()
            queue.append((_joint_size(self.at, i, self.logs), i))
        heapq.heapify(queue)
        while queue:
            size, site = heapq.heappop(queue)
            if self.done[site]:
                continue
            now = _joint_size(self.at, site, self.logs)
            if now > size:
                heapq.heappush(queue, (now, site))
                continue
            touched = self.bucket(site)
            if self.max_table == 1:  # functions stay apart, whatever the order
                continue
            for other in touched:
                self.look()
                heapq.heappush(queue, (_joint_size(self.at, other, self.logs), other))

    def bucket(self, site: int) -> set[int]:
        """Eliminate one site; the sites of the messages that this made. Nothing has changed where it is ``Stopped``."""
        out, instance = self.out, self.view.instance[site]
        bucket = self.at[site]
        own = self.single[self.starts[site] : self.starts[site + 1]]
        functions = [Function((site,), own, own.shape, 0.0), *bucket.values()]
        parts = _partition(functions, self.states, self.max_table, self.look)
        combined = [_sum(p, self.states, self.look) for p in parts]
        messages = _messages(combined, site, self.largest_score, self.look)
        out.largest = max(out.largest, *(f.size for f in combined))
        out.split[instance] |= len(parts) > 1
        out.order.append(site)
        if self.largest_score:
            self.kept_bytes += sum(8 * f.size for f in functions)
            out.kept.append(functions if self.kept_bytes <= KEPT_BYTES else None)
        self.done[site] = True
        touched: set[int] = set()
        for key, function in list(bucket.items()):
            for other in function.sites:
                del self.at[other][key]
                touched.add(other)
            if key < self.live.size:
                self.live[key] = False
            else:
                del self.messages[key]
        touched.discard(site)
        for message in messages:
            if not message.sites:
                out.bound[instance] += message.top
            elif len(message.sites) == 1:
                (other,) = message.sites
                self.single[self.starts[other] : self.starts[other + 1]] += message.values
            else:
                self.messages[self.number] = message
                for other in message.sites:
                    self.at[other][self.number] = message
                self.number += 1
        return touched

    def close(self) -> None:
        """Bound what is left: every site by its own scores, every function at its greatest value."""
        out, view = self.out, self.view
        out.complete = False
        out.bound += _sites_alone(view, self.single, ~self.done, self.largest_score)
        out.bound += np.bincount(view.row_instance[self.live], self.tops[self.live], view.num_instances)
        for message in self.messages.values():
            out.bound[view.instance[message.sites[0]]] += message.top
        out.split[view.instance[~self.done]] = True


def decode(view: TableView, elimination: SplitElimination, rest: np.ndarray) -> np.ndarray:
    """(n,) states: in reverse order each site's best, given the sites eliminated after it; exact where none split.

    Sites that were not eliminated keep their state in ``rest`` (n,).
    """
    best = rest.copy()
    for site, functions in zip(reversed(elimination.order), reversed(elimination.kept), strict=True):
        score = np.zeros(view.num_states[site])
        for function in functions or []:
            score = score + function.values[tuple(slice(None) if s == site else best[s] for s in function.sites)]
        best[site] = int(score.argmax())
    return best


def _joint_size(at: list[dict[int, Function]], site: int, logs: list[float]) -> float:
    """log2 of the number of entries over a site and all sites that it shares functions with."""
    sites: set[int] = {site}
    for function in at[site].values():
        sites.update(function.sites)
    return float(sum(logs[s] for s in sites))


def _partition(
    functions: list[Function], states: list[int], max_table: int, look: Callable[[], None]
) -> list[list[Function]]:
    """Groups of functions whose joint tables stay within the budget, largest first; a single one may exceed it."""
    groups: list[tuple[set[int], list[Function]]] = []
    sizes: list[int] = []
    for function in sorted(functions, key=lambda f: -f.size):
        look()
        best, most, larger = -1, -1, 0
        for i, (sites, _) in enumerate(groups):
            added = [s for s in function.sites if s not in sites]
            size = sizes[i]
            for s in added:
                size *= states[s]
            shared = len(function.sites) - len(added)
            if shared > most and (not added or size <= max_table):
                best, most, larger = i, shared, size
                if not added:
                    break
        if best < 0:
            groups.append((set(function.sites), [function]))
            sizes.append(function.size)
        else:
            groups[best][0].update(function.sites)
            groups[best][1].append(function)
            sizes[best] = larger
    return [g for _, g in groups]


def _sum(functions: list[Function], states: list[int], look: Callable[[], None]) -> Function:
    """One function over all sites of several."""
    if len(functions) == 1:
        return functions[0]
    sites = tuple(dict.fromkeys(s for f in functions for s in f.sites))
    place = {s: i for i, s in enumerate(sites)}
    total = np.zeros(tuple([states[s] for s in sites]))
    for function in functions:
        look()
        order = sorted(range(len(function.sites)), key=lambda i: place[function.sites[i]])
        shape = [1] * len(sites)
        for s, count in zip(function.sites, function.shape, strict=True):
            shape[place[s]] = count
        total += function.values.transpose(order).reshape(shape)
    return Function(sites, total, total.shape, 0.0)


def _messages(parts: list[Function], site: int, largest_score: bool, look: Callable[[], None]) -> list[Function]:
    """What mini-buckets say of their other sites once ``site`` is eliminated from each."""
    axes = [f.sites.index(site) for f in parts]
    tables = [np.moveaxis(f.values, a, 0).reshape(f.shape[a], -1) for f, a in zip(parts, axes, strict=True)]
    shift: list[np.ndarray] | None = None
    if len(parts) > 1:
        own = []
        for table in tables:
            look()
            own.append(table.max(1) if largest_score else _log_sum(table, 1, 1.0))
        dead = np.isneginf(own).any(0)
        own = [np.where(dead, 0.0, o) for o in own]
        mean = np.where(dead, -np.inf, sum(own) / len(own))
        shift = [mean - o for o in own]
    weight = 1.0 / len(parts)
    out = []
    for i, (function, axis) in enumerate(zip(parts, axes, strict=True)):
        look()
        table = tables[i] if shift is None else tables[i] + shift[i][:, None]
        values = table.max(0) if largest_score else _log_sum(table, 0, weight)
        rest = function.sites[:axis] + function.sites[axis + 1 :]
        shape = function.shape[:axis] + function.shape[axis + 1 :]
        out.append(Function(rest, values, shape, float(values.max())))
    return out


def _log_sum(table: np.ndarray, axis: int, weight: float) -> np.ndarray:
    """weight * log of the sum of exp(table / weight) along an axis; -inf where all entries are."""
    top = table.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp((table - top) / weight).sum(axis))
    return np.asarray(weight * total + top.squeeze(axis))

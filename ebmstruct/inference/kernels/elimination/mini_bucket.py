"""SplitElimination under a table budget: buckets too large for it are split, which gives a bound instead of the value."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ebmstruct.inference.views.table_view import TableView

KEPT_BYTES = 1 << 28
"""The most memory for functions that are kept for decoding; later buckets are decided by the rows alone."""


@dataclass(eq=False)
class Function:
    """Values over some sites: scores -E / T, where -inf forbids. One axis a site, in the order of ``sites``."""

    sites: tuple[int, ...]
    values: np.ndarray


@dataclass(eq=False)
class SplitElimination:
    """What an elimination ended with.

    bound: (B,) above log Z / above the greatest score.  split: (B,) bool, whether some bucket was split.
    order: sites as they were eliminated.  kept: each site's bucket as it was when the site was eliminated, for
    decoding; None where memory ran out.  largest: entries of the largest table.
    """

    bound: np.ndarray
    split: np.ndarray
    order: list[int] = field(default_factory=list)
    kept: list[list[Function] | None] = field(default_factory=list)
    largest: int = 1


def functions_of(view: TableView, temperature: float) -> list[Function]:
    """Every site's and every row's energies as scores."""
    unary = view.arrays[0]
    out = [Function((i,), -unary[view.starts[i] : view.starts[i + 1]] / temperature) for i in range(view.num_sites)]
    values, starts = view.row_tables()
    flat = -values.detach().numpy() / temperature
    for row in range(view.num_rows):
        sites = tuple(view.row_sites[view.row_ptr[row] : view.row_ptr[row + 1]].tolist())
        table = flat[starts[row] : starts[row] + view.row_sizes[row]]
        out.append(Function(sites, table.reshape(view.num_states[list(sites)])))
    return out


def eliminate(
    view: TableView, temperature: float, max_table: int, *, largest_score: bool, stop: Callable[[], bool]
) -> SplitElimination:
    """Eliminate all sites, each time the one with the smallest table over it and its neighbours.

    A bucket whose table would exceed ``max_table`` entries is split into mini-buckets (Dechter and Rish 2003), which
    are eliminated one by one: by maximum where ``largest_score`` (temperature is then 1), else by the power sums of
    Hoelder's inequality with equal weights (Liu and Ihler 2011). Before that, mini-buckets are made to
    agree on the site's marginal scores, which moves values between them and keeps their sum (Ihler et al. 2012).
    After ``stop`` says so, nothing is multiplied any more: the rest is quick, and the bound loose.
    """
    states = view.num_states
    out = SplitElimination(-view.constant.detach().numpy() / temperature, np.zeros(view.num_instances, np.bool_))
    at: list[dict[int, Function]] = [{} for _ in range(view.num_sites)]
    number = 0
    for function in functions_of(view, temperature):
        for site in function.sites:
            at[site][number] = function
        number += 1
    logs = np.log2(np.maximum(states, 1)).tolist()
    queue = [(_joint_size(at, i, logs), i) for i in range(view.num_sites)]
    heapq.heapify(queue)
    done = np.zeros(view.num_sites, np.bool_)
    kept_bytes = 0
    while queue:
        size, site = heapq.heappop(queue)
        if done[site]:
            continue
        now = _joint_size(at, site, logs)
        if now > size:
            heapq.heappush(queue, (now, site))
            continue
        done[site] = True
        bucket = list(at[site].items())
        for key, function in bucket:
            for other in function.sites:
                del at[other][key]
        functions = [f for _, f in bucket]
        out.order.append(site)
        if largest_score:
            kept_bytes += sum(f.values.nbytes for f in functions)
            out.kept.append(functions if kept_bytes <= KEPT_BYTES else None)
        parts = _partition(functions, states, 1 if stop() else max_table)
        if len(parts) > 1:
            out.split[view.instance[site]] = True
        combined = [_sum(p, states) for p in parts]
        out.largest = max(out.largest, *(f.values.size for f in combined))
        touched: set[int] = set()
        for message in _messages(combined, site, largest_score):
            if not message.sites:
                out.bound[view.instance[site]] += float(message.values)
                continue
            for other in message.sites:
                at[other][number] = message
                touched.add(other)
            number += 1
        for other in touched:
            heapq.heappush(queue, (_joint_size(at, other, logs), other))
    return out


def decode(view: TableView, elimination: SplitElimination) -> np.ndarray:
    """(n,) states: in reverse order each site's best, given the sites eliminated after it; exact where none split."""
    best = np.zeros(view.num_sites, np.int64)
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


def _partition(functions: list[Function], states: np.ndarray, max_table: int) -> list[list[Function]]:
    """Groups of functions whose joint tables stay within the budget, largest first; a single one may exceed it."""
    groups: list[tuple[set[int], list[Function]]] = []
    for function in sorted(functions, key=lambda f: -f.values.size):
        best, most = -1, -1
        for i, (sites, _) in enumerate(groups):
            union = sites.union(function.sites)
            if len(union) == len(sites) or float(np.prod(states[list(union)], dtype=np.float64)) <= max_table:
                shared = len(sites.intersection(function.sites))
                if shared > most:
                    best, most = i, shared
        if best < 0:
            groups.append((set(function.sites), [function]))
        else:
            groups[best][0].update(function.sites)
            groups[best][1].append(function)
    return [g for _, g in groups]


def _sum(functions: list[Function], states: np.ndarray) -> Function:
    """One function over all sites of several."""
    if len(functions) == 1:
        return functions[0]
    sites = tuple(dict.fromkeys(s for f in functions for s in f.sites))
    place = {s: i for i, s in enumerate(sites)}
    total = np.zeros(tuple(states[list(sites)].tolist()))
    for function in functions:
        order = sorted(range(len(function.sites)), key=lambda i: place[function.sites[i]])
        shape = [1] * len(sites)
        for s, count in zip(function.sites, function.values.shape, strict=True):
            shape[place[s]] = count
        total += function.values.transpose(order).reshape(shape)
    return Function(sites, total)


def _messages(parts: list[Function], site: int, largest_score: bool) -> list[Function]:
    """What mini-buckets say of their other sites once ``site`` is eliminated from each."""
    axes = [f.sites.index(site) for f in parts]
    tables = [np.moveaxis(f.values, a, 0).reshape(f.values.shape[a], -1) for f, a in zip(parts, axes, strict=True)]
    if len(parts) > 1:
        own = [t.max(1) if largest_score else _log_sum(t, 1, 1.0) for t in tables]
        dead = np.isneginf(own).any(0)
        own = [np.where(dead, 0.0, o) for o in own]
        mean = np.where(dead, -np.inf, sum(own) / len(own))
        tables = [t + (mean - o)[:, None] for t, o in zip(tables, own, strict=True)]
    weight = 1.0 / len(parts)
    out = []
    for function, axis, table in zip(parts, axes, tables, strict=True):
        values = table.max(0) if largest_score else _log_sum(table, 0, weight)
        rest = function.sites[:axis] + function.sites[axis + 1 :]
        shape = function.values.shape[:axis] + function.values.shape[axis + 1 :]
        out.append(Function(rest, values.reshape(shape)))
    return out


def _log_sum(table: np.ndarray, axis: int, weight: float) -> np.ndarray:
    """weight * log of the sum of exp(table / weight) along an axis; -inf where all entries are."""
    top = table.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp((table - top) / weight).sum(axis))
    return np.asarray(weight * total + top.squeeze(axis))

"""The functions of ``forest.py`` in plain torch, one site at a time: any device, any number of derivatives.

Slow where the loops are quick, and plain enough to test them against. Everything is in float64 where the device has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebmstruct.inference.kernels.chains.chain_plan_torch import log_sum, wide_type


class _Forest(NamedTuple):
    """Energies of the sites and of their edges to their parents, cut into tensors; and the plan, as numbers."""

    unary: tuple[Tensor, ...]
    tables: list[Tensor | None]  # (states, states of the parent)
    parent: list[int]
    order: list[int]
    instance: list[int]
    instances: int


def _forest(
    unary: Tensor,
    tables: Tensor,
    num_states: Tensor,
    starts: Tensor,
    parent: Tensor,
    order: Tensor,
    table_start: Tensor,
    transposed: Tensor,
    instance: Tensor,
    num_instances: int,
) -> _Forest:
    wide = tables.to(wide_type(tables))
    above, sizes = parent.tolist(), num_states.tolist()
    cut: list[Tensor | None] = []
    for i, (p, begin, turned) in enumerate(zip(above, table_start.tolist(), transposed.tolist(), strict=True)):
        if p < 0:
            cut.append(None)
            continue
        table = wide[begin : begin + sizes[i] * sizes[p]]
        cut.append(table.view(sizes[p], sizes[i]).T if turned else table.view(sizes[i], sizes[p]))
    split = unary.to(wide_type(unary)).split(sizes)
    return _Forest(split, cut, above, order.tolist(), instance.tolist(), num_instances)


def _up(
    forest: _Forest, reduce: Callable[[Tensor, int], Tensor]
) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
    """Energies of subtrees by the state of their root, messages, and a total for each instance."""
    inside = list(forest.unary)
    messages: list[Tensor | None] = [None] * len(inside)
    like = forest.unary[0] if forest.unary else torch.zeros(0, dtype=torch.float64)
    totals = [like.new_zeros(()) for _ in range(forest.instances)]
    for i in forest.order:
        p, table = forest.parent[i], forest.tables[i]
        if table is None:
            totals[forest.instance[i]] = totals[forest.instance[i]] + reduce(inside[i], 0)
        else:
            message = reduce(inside[i][:, None] + table, 0)
            messages[i] = message
            inside[p] = inside[p] + message
    return inside, messages, totals


def _free_energy(values: Tensor, dim: int) -> Tensor:
    return -log_sum(-values, dim)


def _undefined(forest: _Forest) -> Tensor:
    """(B,) bool: whether an instance reads NaN or -inf."""
    bad = [False] * forest.instances
    for values, table, b in zip(forest.unary, forest.tables, forest.instance, strict=True):
        fine = bool((values > -torch.inf).all()) and (table is None or bool((table > -torch.inf).all()))
        bad[b] = bad[b] or not fine
    return torch.tensor(bad, dtype=torch.bool)


def _stack(values: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(values) if values else like.new_zeros(0, dtype=wide_type(like))


def _log_z(totals: list[Tensor], like: Tensor) -> Tensor:
    """Minus the totals; -inf is a constant there, so that the trees that still have configurations get no gradient."""
    total = -_stack(totals, like)
    return torch.where(total == -torch.inf, -torch.inf, total)


def log_partition(unary: Tensor, tables: Tensor, *plan: Tensor | int) -> Tensor:
    """Log of the sum over all configurations of exp(-energy), (B,); see ``forest.log_partition``."""
    forest = _forest(unary, tables, *plan)  # type: ignore[arg-type]
    total = _log_z(_up(forest, _free_energy)[2], unary)
    return total.masked_fill(_undefined(forest).to(unary.device), torch.nan)


def marginals(unary: Tensor, tables: Tensor, *plan: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """Marginals of sites and edges, flat, and log Z; differentiable where gradients are on."""
    again = torch.is_grad_enabled()
    forest = _forest(unary, tables, *plan)  # type: ignore[arg-type]
    bad = _undefined(forest).tolist()
    with torch.enable_grad():
        sites = [x if x.requires_grad else x.detach().requires_grad_() for x in forest.unary]
        edges = [None if x is None else x + torch.zeros_like(x, requires_grad=True) for x in forest.tables]
        log_z = _log_z(_up(forest._replace(unary=tuple(sites), tables=edges), _free_energy)[2], unary)
        inputs = [*sites, *(x for x in edges if x is not None)]
        grads: list[Tensor | None] = [None] * len(inputs)
        if inputs:
            grads = list(torch.autograd.grad(log_z.sum(), inputs, create_graph=again, allow_unused=True))
    owners = [*forest.instance, *(b for b, x in zip(forest.instance, edges, strict=True) if x is not None)]
    shares = []
    for x, g, b in zip(inputs, grads, owners, strict=True):
        share = torch.zeros_like(x) if g is None else -g
        shares.append((torch.full_like(share, torch.nan) if bad[b] else share).reshape(-1))
    empty = unary.new_zeros(0)
    flat = torch.cat([empty, *(x.to(unary.dtype) for x in shares[: len(sites)])])
    joint = torch.cat([empty, *(x.to(unary.dtype) for x in shares[len(sites) :])])
    log_z = log_z.masked_fill(torch.tensor(bad, dtype=torch.bool, device=unary.device), torch.nan)
    return flat, joint, log_z if again else log_z.detach()


def minimize(unary: Tensor, tables: Tensor, *plan: Tensor | int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, energy, lower bound and messages; see ``forest.minimize``."""
    forest = _forest(unary.detach(), tables.detach(), *plan)  # type: ignore[arg-type]
    inside, messages, totals = _up(forest, lambda values, dim: values.amin(dim))
    states = [0] * len(inside)
    energies = [torch.zeros_like(x) for x in totals]
    for i in reversed(forest.order):
        p, table = forest.parent[i], forest.tables[i]
        pull = torch.zeros_like(inside[i]) if table is None else table[:, states[p]]
        states[i] = int((inside[i] + pull).argmin())
        energies[forest.instance[i]] = energies[forest.instance[i]] + (forest.unary[i] + pull)[states[i]]
    bad = _undefined(forest).to(unary.device)
    bound, value = _stack(totals, unary), _stack(energies, unary)
    record = torch.cat([_stack([], unary), *(m for m in messages if m is not None)])
    bound = torch.minimum(bound, value).masked_fill(bad, torch.nan)
    chosen = torch.tensor(states, dtype=torch.long, device=unary.device)
    return chosen, value.masked_fill(bad, torch.nan), bound, record


def k_best(unary: Tensor, tables: Tensor, *plan: Tensor | int, k: int) -> tuple[Tensor, Tensor]:
    """States (k, n) and energies (k, B), by keeping whole configurations; see ``forest.k_best``."""
    forest = _forest(unary.detach(), tables.detach(), *plan)  # type: ignore[arg-type]
    n = len(forest.unary)
    Choice = tuple[float, dict[int, int]]
    lists: list[list[list[Choice]]] = [
        [[(value, {i: y})] for y, value in enumerate(values.tolist())] for i, values in enumerate(forest.unary)
    ]
    tops: list[list[Choice]] = [[(0.0, {})] for _ in range(forest.instances)]

    def join(ours: list[Choice], theirs: list[Choice]) -> list[Choice]:
        sums = [(a + b, {**x, **y}) for a, x in ours for b, y in theirs if a + b < torch.inf]
        return sorted(sums, key=lambda choice: choice[0])[:k]

    for i in forest.order:
        p, table = forest.parent[i], forest.tables[i]
        if table is None:
            tops[forest.instance[i]] = join(tops[forest.instance[i]], [c for rows in lists[i] for c in rows])
            continue
        cells = table.tolist()
        for x in range(len(lists[p])):
            sent = [(value + cells[y][x], choice) for y, rows in enumerate(lists[i]) for value, choice in rows]
            lists[p][x] = join(lists[p][x], sorted(sent, key=lambda choice: choice[0])[:k])
    states = torch.zeros((k, n), dtype=torch.long)
    energies = torch.full((k, forest.instances), torch.inf, dtype=torch.float64)
    for b, top in enumerate(tops):
        for r, (value, choice) in enumerate(top):
            energies[r, b] = value
            for i, y in choice.items():
                states[r, i] = y
    energies = energies.masked_fill(_undefined(forest), torch.nan).to(wide_type(unary))
    return states.to(unary.device), energies.to(unary.device)


def sample(unary: Tensor, tables: Tensor, *plan: Tensor | int, num_samples: int, uniforms: Tensor) -> Tensor:
    """States (S, n); see ``forest.sample``."""
    forest = _forest(unary.detach(), tables.detach(), *plan)  # type: ignore[arg-type]
    inside, _, totals = _up(forest, _free_energy)
    bad = _undefined(forest).tolist()
    states = torch.zeros((num_samples, len(inside)), dtype=torch.long, device=unary.device)
    for i in reversed(forest.order):
        if bad[forest.instance[i]] or not bool(totals[forest.instance[i]] < torch.inf):
            continue
        table = forest.tables[i]
        value = inside[i].expand(num_samples, -1)
        if table is not None:
            value = value + table.T[states[:, forest.parent[i]]]
        running = (value.amin(1, keepdim=True) - value).exp().cumsum(1)
        target = uniforms[:, i : i + 1].to(running) * running[:, -1:]
        states[:, i] = (running <= target).sum(1).clamp(max=running.shape[1] - 1)
    return states

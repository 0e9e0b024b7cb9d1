"""The sums and minima of ``elimination.py`` in plain torch, one bucket at a time: any number of derivatives.

Slow where the loops are quick, and plain enough to test them against. A bucket's table is held whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebmstruct.inference.kernels.chains.chain_plan_torch import log_sum
from ebmstruct.inference.kernels.elimination.elimination import Buckets


def log_partition(unary: Tensor, tables: Tensor, buckets: Buckets) -> Tensor:
    """(B,) log of the sum over assignments of exp(-energy), -inf where there is none; differentiable."""
    total = -_up(unary, tables, buckets, lambda values: -log_sum(-values, -1))
    return torch.where(total == -torch.inf, -torch.inf, total)


def minimum(unary: Tensor, tables: Tensor, buckets: Buckets) -> Tensor:
    """(B,) the least energy, +inf where nothing is feasible."""
    return _up(unary, tables, buckets, lambda values: values.amin(-1))


def _up(unary: Tensor, tables: Tensor, buckets: Buckets, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """(B,) the sums of what the roots of each instance send on."""
    found = buckets.elimination
    sep_ptr, sep, card = found.sep_ptr.tolist(), found.sep.tolist(), buckets.card.tolist()
    memory = torch.cat([unary, tables])
    messages: list[Tensor] = []
    totals = [unary.new_zeros(()) for _ in range(buckets.num_instances)]
    for i, states in enumerate(card):
        axes = [*sep[sep_ptr[i] : sep_ptr[i + 1]], i]
        begin = int(buckets.unary[i])
        total = memory[begin : begin + states]
        for row in buckets.rows[buckets.row_ptr[i] : buckets.row_ptr[i + 1]].tolist():
            scope = buckets.scope[buckets.scope_ptr[row] : buckets.scope_ptr[row + 1]].tolist()
            begin = int(buckets.table[row])
            table = memory[begin : begin + int(buckets.row_entries[row])]
            total = total + _spread(table.reshape([card[p] for p in scope]), scope, axes)
        for child in buckets.children[buckets.child_ptr[i] : buckets.child_ptr[i + 1]].tolist():
            total = total + _spread(messages[child], sep[sep_ptr[child] : sep_ptr[child + 1]], axes)
        messages.append(reduce(total.expand([card[p] for p in axes])))
        if found.parent[i] < 0:
            owner = int(buckets.instance[i])
            totals[owner] = totals[owner] + messages[i]
    return torch.stack(totals) if totals else unary.new_zeros(0)


def _spread(table: Tensor, scope: list[int], axes: list[int]) -> Tensor:
    """A table over ``scope`` with its dimensions in the order of ``axes``, and size 1 at those it lacks."""
    order = sorted(range(len(scope)), key=lambda slot: axes.index(scope[slot]))
    return table.permute(order).reshape([table.shape[scope.index(p)] if p in scope else 1 for p in axes])

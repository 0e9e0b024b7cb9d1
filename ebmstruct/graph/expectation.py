"""Means of tables under weights over the states of independent sites."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def expected(tables: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """(m,) the mean entry of each row's table: the sum over states of the entry times the product of their weights.

    tables: (m, K_1, ..., K_arity), or (K_1, ..., K_arity) shared by all rows.  weights: (m, K_i) for each place.
    An infinite entry makes the mean infinite where it has any weight, and counts nothing where it has none.
    Cost: a pass over all tables.
    """
    dtype = weights[0].dtype
    infinite = tables.isinf()
    if not bool(infinite.any()):
        return _contracted(tables.to(dtype), weights)
    mean = _contracted(tables.masked_fill(infinite, 0.0).to(dtype), weights)
    return mean.masked_fill(_contracted(infinite.to(dtype), [w.detach() for w in weights]) > 0, torch.inf)


def _contracted(tables: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The sum of products, place after place from the last."""
    if tables.dim() == len(weights):  # shared
        out = torch.tensordot(weights[-1], tables, ([1], [tables.dim() - 1]))
    else:
        out = _last(tables, weights[-1])
    for weight in reversed(weights[:-1]):
        out = _last(out, weight)
    return out


def _last(tables: Tensor, weight: Tensor) -> Tensor:
    """(m, K_1, ..., K_i-1): the sum over the last place."""
    if tables.dim() == 2:
        return (tables * weight).sum(1)
    return (tables @ weight.reshape(weight.shape[0], *[1] * (tables.dim() - 3), weight.shape[1], 1))[..., 0]

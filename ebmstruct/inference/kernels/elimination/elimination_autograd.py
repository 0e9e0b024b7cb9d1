"""The log partition of ``elimination.py`` as an operation of torch: analytic gradients, and any further derivative."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from ebmstruct.inference.kernels import recorded
from ebmstruct.inference.kernels.elimination import elimination, elimination_torch
from ebmstruct.inference.kernels.elimination.elimination import Buckets


def log_partition(unary: Tensor, tables: Tensor, buckets: Buckets) -> Tensor:
    """(B,) log of the sum over assignments of exp(-energy), differentiable any number of times.

    Gradients are minus the probabilities of the entries, from the compiled loops. Where a derivative of those is wanted
    (``create_graph``) the plain torch twin computes them, at many times the cost, with each bucket's table held
    whole. Memory: all messages, where a gradient may be asked for.
    """
    if torch.is_grad_enabled() and (unary.requires_grad or tables.requires_grad):
        found: Tensor = _LogPartition.apply(unary, tables, buckets)  # type: ignore[no-untyped-call]
        return found
    return torch.from_numpy(elimination.log_partition(buckets, unary.detach().numpy(), tables.detach().numpy()))


class _LogPartition(Function):
    @staticmethod
    def forward(ctx: Any, unary: Tensor, tables: Tensor, buckets: Buckets) -> Tensor:
        ctx.sums = elimination.LogSums(buckets, unary.detach().numpy(), tables.detach().numpy())
        ctx.buckets = buckets
        ctx.save_for_backward(unary, tables)
        return torch.from_numpy(ctx.sums.log_z.copy())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unary, tables = ctx.saved_tensors
        if torch.is_grad_enabled():
            twin = functools.partial(elimination_torch.log_partition, buckets=ctx.buckets)
            return (*recorded.gradients(twin, (unary, tables), ctx.needs_input_grad, grad), None)
        share = ctx.sums.beliefs()
        share *= -np.append(grad.numpy(), 0.0)[ctx.buckets.entry_instance]
        flat = torch.from_numpy(share)
        return flat[: unary.numel()], flat[unary.numel() :], None

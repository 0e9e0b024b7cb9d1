"""Gradients of the chain operators: analytic, and where they are to be differentiated again, by the torch twin."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ebmstruct.inference.kernels import recorded as recording
from ebmstruct.inference.kernels.chains import chain_ops

_ops = torch.ops.ebmstruct
_PLAIN = (Tensor, torch.nn.Parameter)


class LogPartition(Function):
    @staticmethod
    def forward(ctx: Any, *chain: Any) -> Tensor:
        log_z, kept = operator("forward", chain[0])(*chain, True)
        ctx.save_for_backward(*chain, kept)
        return log_z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(recording.gradients(_twin().log_partition, saved[:5], ctx.needs_input_grad, grad))
        pairs = 0 if not ctx.needs_input_grad[1] else 1 if saved[1].dim() == 2 else 2
        parts = operator("backward", saved[0])(*saved, grad.contiguous(), -1.0, pairs)
        return _wanted(ctx.needs_input_grad, *parts)


class Energy(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, *chain: Any) -> Tensor:
        ctx.save_for_backward(states, *chain)
        return operator("energy", chain[0])(states, *chain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, *chain = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return (None, *recording.gradients(functools.partial(_twin().energy, states), chain, needed, grad))
        emission, transition, _, _, offsets = chain
        parts = operator("energy_backward", emission)(states, emission, transition, offsets, grad.contiguous())
        return (None, *_wanted(needed, *parts))


def recorded(chain: tuple[Tensor | None, ...]) -> bool:
    """Whether a gradient may be asked for."""
    if not torch.is_grad_enabled():
        return False
    emission, transition, start, end, _ = chain
    return (
        emission.requires_grad  # type: ignore[union-attr]
        or transition.requires_grad  # type: ignore[union-attr]
        or (start is not None and start.requires_grad)
        or (end is not None and end.requires_grad)
    )


def operator(name: str, tensor: Tensor) -> Any:
    """The registered operator where something traces through it, else its function, which spares the dispatcher.

    On a sentence of a few words the way through the dispatcher and back takes longer than the loops.
    """
    if torch.compiler.is_compiling() or type(tensor) not in _PLAIN:
        return getattr(_ops, "chain_" + name).default
    return getattr(chain_ops, name)


def _wanted(
    needed: tuple[bool, ...], unary: Tensor, table: Tensor, first: Tensor, last: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of emission, transition, start and end that are needed, then None for offsets."""
    parts = [x if need else None for x, need in zip((unary, table, first, last), needed, strict=False)]
    return (*parts, None)


def _twin() -> Any:
    from ebmstruct.inference.kernels.chains import chain_torch

    return chain_torch

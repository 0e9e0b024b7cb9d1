"""Gradients of the chain operators: analytic, once, and refused a second time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ebmstruct.errors import GraphError
from ebmstruct.inference.kernels import chain_ops

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
        pairs = 0 if not ctx.needs_input_grad[1] else 1 if saved[1].dim() == 2 else 2
        parts = _below_autograd(operator("backward", saved[0]), *saved, grad.contiguous(), -1.0, pairs)
        return _wanted(ctx.needs_input_grad, (grad, *saved[:4]), *parts)


class Energy(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, *chain: Any) -> Tensor:
        ctx.save_for_backward(states, *chain)
        return operator("energy", chain[0])(states, *chain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, emission, transition, _, _, offsets = ctx.saved_tensors
        parts = _below_autograd(
            operator("energy_backward", emission), states, emission, transition, offsets, grad.contiguous()
        )
        return (None, *_wanted(ctx.needs_input_grad[1:], (grad,), *parts))


class _Once(Function):
    """Passes a gradient on, and refuses to be differentiated with respect to what it came from."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *sources: Tensor | None) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise GraphError(
            "a second derivative of a compiled chain kernel was asked for: its gradient cannot be differentiated; "
            "use ebmstruct.inference.kernels.chain_torch, the same functions in plain torch, which can"
        )


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


def _below_autograd(operator: Any, *arguments: Any) -> tuple[Tensor, ...]:
    """The operator's result, without a record: with create_graph, a backward pass runs with gradients on."""
    if not torch.is_grad_enabled():
        return operator(*arguments)
    with torch.no_grad():
        return operator(*arguments)


def _wanted(
    needed: tuple[bool, ...],
    sources: tuple[Tensor | None, ...],
    unary: Tensor,
    table: Tensor,
    first: Tensor,
    last: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients of emission, transition, start and end that are needed, then None for offsets."""
    parts = [x if need else None for x, need in zip((unary, table, first, last), needed, strict=False)]
    if torch.is_grad_enabled():
        parts = [None if part is None else _Once.apply(part, *sources) for part in parts]
    return (*parts, None)

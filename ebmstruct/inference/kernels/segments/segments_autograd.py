"""Gradients of the log partition of segmentations: analytic, and by the torch twin where they are differentiated again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ebmstruct.inference.kernels import recorded as recording
from ebmstruct.inference.kernels.segments import segments_ops

_ops = torch.ops.ebmstruct
_PLAIN = (Tensor, torch.nn.Parameter)
INPUTS = 8
SEGMENTS = 6


class LogPartition(Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        log_z, entry, ahead = operator("forward", inputs[0])(*inputs)
        ctx.save_for_backward(*inputs, log_z, entry, ahead)
        return log_z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():
            from ebmstruct.inference.kernels.segments import segments_torch

            return tuple(recording.gradients(segments_torch.log_partition, saved[:INPUTS], needed, grad))
        found = operator("backward", saved[0])(*saved, grad.contiguous(), -1.0, needed[SEGMENTS])
        return (*(x if need else None for x, need in zip(found, needed, strict=False)), None)


def operator(name: str, tensor: Tensor) -> Any:
    """The registered operator where something traces through it, else its function."""
    if torch.compiler.is_compiling() or type(tensor) not in _PLAIN:
        return getattr(_ops, "segments_" + name).default
    return getattr(segments_ops, name)

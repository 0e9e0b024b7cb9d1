"""Gradients of compiled functions with a record of how they were made, so that they can be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(
    twin: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The gradients of ``twin(*inputs)``, in plain torch, weighted by ``grad``; None at inputs that are not needed.

    For the backward pass of a compiled function under ``create_graph``: its own gradients come from loops that torch
    cannot look into, and the twin's do not. Cost: the twin's, there and back.
    """
    places = [i for i, (x, need) in enumerate(zip(inputs, needed, strict=False)) if need and x is not None]
    wanted = [x for i, x in enumerate(inputs) if i in places and x is not None]
    with torch.enable_grad():
        value = twin(*inputs)
        if not value.requires_grad:
            found: Sequence[Tensor | None] = [None] * len(wanted)
        else:
            found = torch.autograd.grad(value, wanted, grad, create_graph=True, allow_unused=True)
    out: list[Tensor | None] = [None] * len(inputs)
    for place, x, part in zip(places, wanted, found, strict=True):
        out[place] = torch.zeros_like(x) if part is None else part
    return out

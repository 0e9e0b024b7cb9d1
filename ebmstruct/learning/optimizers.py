"""Optimisers that torch does not have, or has only in a slow form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowAdaGrad(torch.optim.Optimizer):
    """AdaGrad (Duchi, Hazan and Singer 2011, diagonal form) whose steps cost as much as the rows they touch.

    A sparse gradient moves only its rows; a dense one moves everything, as in torch's Adagrad. Rows without a
    gradient stay as they are to the bit, so that a table of a million rows costs nothing but its memory.

    lr: step size. initial_accumulator: where the sums of squared gradients start; the larger, the smaller the first
    steps. It is in units of squared gradients: a loss averaged over 32 sentences has gradients 32 times, squares
    1,024 times smaller than a summed one. weight_decay: adds weight_decay * w to the gradient of touched entries.
    l1: soft-thresholds touched entries by their step size times l1 (the proximal step, Duchi and Singer 2009). Both are
    lazy: a row pays when it is touched, so frequent features pay more than in the exact objective.

    The accumulators are in ``state_dict``, under ``sum`` of each parameter.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        *,
        initial_accumulator: float = 1e-3,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        options = {"initial_accumulator": initial_accumulator, "weight_decay": weight_decay, "l1": l1, "eps": eps}
        if lr <= 0 or min(options.values()) < 0:
            raise ValueError(f"lr must be above 0 and the other options at least 0; found {dict(lr=lr, **options)}")
        super().__init__(params, {"lr": lr, **options})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient; the closure, if any, recomputes and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["sum"] = torch.full_like(parameter, group["initial_accumulator"])
                if parameter.grad.is_sparse:
                    _move_rows(parameter, state["sum"], group)
                else:
                    _move(parameter, state["sum"], parameter.grad, group)
        return loss


def _move(weight: Tensor, total: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
    """One step of entries that have a dense gradient, in place."""
    if group["weight_decay"]:
        gradient = gradient.add(weight, alpha=group["weight_decay"])
    total.addcmul_(gradient, gradient)
    step = torch.sqrt(total).add_(group["eps"])
    weight.addcdiv_(gradient, step, value=-group["lr"])
    if group["l1"]:
        threshold = group["lr"] * group["l1"] / step
        weight.copy_(weight.sign() * (weight.abs() - threshold).clamp_(min=0.0))


def _move_rows(weight: Tensor, total: Tensor, group: dict[str, Any]) -> None:
    """One step of the rows of a sparse gradient, in place."""
    rows, values = _distinct_rows(weight.grad)
    part, sums = weight.index_select(0, rows), total.index_select(0, rows)
    _move(part, sums, values, group)
    weight.index_copy_(0, rows, part)
    total.index_copy_(0, rows, sums)


def each_row_once(gradient: Tensor) -> bool:
    """Whether the rows of a sparse gradient are distinct.

    Autograd loses the mark that a tensor is coalesced; ascending rows show that it is, which is far cheaper to see
    than to sort them again.
    """
    rows = gradient._indices()[0]
    return gradient.sparse_dim() == 1 and bool((rows[1:] > rows[:-1]).all())


def _distinct_rows(gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows and values of a sparse gradient, each row once."""
    assert gradient is not None
    if each_row_once(gradient):
        return gradient._indices()[0], gradient._values()
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()

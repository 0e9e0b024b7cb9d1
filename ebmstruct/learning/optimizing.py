"""Optimisers, step-size schedules and weight averages, made from the training options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.sparse import SparseLinear
from ebmstruct.learning.optimizers import RowAdaGrad
from ebmstruct.learning.options import TrainingOptions


class Optimizers:
    """Several optimisers of disjoint parameters, stepped as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts; a group's step size is the schedule's times its ``scale``."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parts."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step of each part; only a lone part takes a closure."""
        for part in self.parts:
            if closure is None:
                part.step()
            else:
                part.step(closure)

    def state_dict(self) -> list[dict[str, Any]]:
        """The states of all parts, in their order."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Take over what ``state_dict`` gave."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def make_optimizer(model: nn.Module, options: TrainingOptions) -> Optimizers:
    """The optimiser that the options name; tables with sparse gradients always go to AdaGrad on touched rows."""
    tables = [m for m in model.modules() if isinstance(m, SparseLinear)]
    for table in tables:
        table.sparse = options.optimizer != "lbfgs"
    parameters = [p for p in model.parameters() if p.requires_grad]
    if options.optimizer == "lbfgs":
        # ten pairs, not torch's hundred: a history of a hundred hashed tables would fill the memory
        lbfgs = torch.optim.LBFGS(parameters, lr=options.lr, max_iter=5, history_size=10, line_search_fn="strong_wolfe")
        return Optimizers([lbfgs])
    rows = {id(table.weight) for table in tables}
    if options.optimizer == "adagrad":
        rows = {id(p) for p in parameters}
    sparse, dense = [p for p in parameters if id(p) in rows], [p for p in parameters if id(p) not in rows]
    parts: list[torch.optim.Optimizer] = []
    if dense:
        parts.append(_dense_optimizer(dense, options))
    if sparse:
        part = RowAdaGrad(
            sparse, options.lr, initial_accumulator=options.initial_accumulator, weight_decay=options.sparse_decay
        )
        if options.sparse_lr is not None and options.optimizer != "adagrad":
            part.param_groups[0]["scale"] = options.sparse_lr / options.lr
        parts.append(part)
    return Optimizers(parts)


def _dense_optimizer(parameters: list[nn.Parameter], options: TrainingOptions) -> torch.optim.Optimizer:
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, foreach=True)
    if options.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=options.lr, weight_decay=options.weight_decay, foreach=True)
    return torch.optim.SGD(parameters, lr=options.lr, weight_decay=options.weight_decay)


def rate_at(done: float, options: TrainingOptions) -> float:
    """The step size when the fraction ``done`` of all steps is behind: warm-up, then the schedule."""
    low = options.final_lr_fraction
    if done < options.warmup:
        return options.lr * max(done / options.warmup, 1e-3)
    left = 1.0 - (done - options.warmup) / (1.0 - options.warmup)
    if options.schedule == "linear":
        return options.lr * (low + (1 - low) * left)
    if options.schedule == "cosine":
        return options.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (1 - left))))
    return options.lr


class Averager:
    """The running mean of a model's floating-point weights over steps (Polyak and Juditsky 1992)."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = [p for p in model.parameters() if p.is_floating_point()]
        self.mean = [p.detach().clone() for p in self.weights]
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Count the present weights in."""
        self.count += 1
        for mean, weight in zip(self.mean, self.weights, strict=True):
            mean.lerp_(weight, 1.0 / self.count)

    @torch.no_grad()
    def swap_in(self) -> list[Tensor]:
        """Put the mean in the model; returns the weights that were there."""
        kept = [w.detach().clone() for w in self.weights]
        for weight, mean in zip(self.weights, self.mean, strict=True):
            weight.copy_(mean)
        return kept

    @torch.no_grad()
    def swap_back(self, kept: Sequence[Tensor]) -> None:
        """Put back what ``swap_in`` returned."""
        for weight, value in zip(self.weights, kept, strict=True):
            weight.copy_(value)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"count": self.count, "mean": self.mean}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.count = int(state["count"])
        for mean, value in zip(self.mean, state["mean"], strict=True):
            mean.copy_(value)

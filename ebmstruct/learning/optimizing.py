"""Optimisers, step-size schedules, weight averages and gradient norms, made from the training options."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.sparse import SparseLinear
from ebmstruct.learning.optimizers import RowAdaGrad, each_row_once
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
    if options.schedule == "inverse_sqrt":
        return options.lr * max(low, math.sqrt(options.warmup / done))
    return options.lr


class Averager:
    """The running mean of a model's floating-point weights over steps.

    decay: none: all steps count the same (Polyak and Juditsky 1992). Else the newest weights count at least 1 - decay: an
    exponential moving average, which starts as the plain mean of the first 1 / (1 - decay) steps and so owes nothing to
    the weights of the beginning. Buffers (running statistics of a normalisation) are the model's own.
    """

    def __init__(self, model: nn.Module, decay: float | None = None) -> None:
        self.weights = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
        self.mean = [p.detach().clone() for p in self.weights]
        self.least = 0.0 if decay is None else 1.0 - decay
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Count the present weights in."""
        self.count += 1
        part = max(self.least, 1.0 / self.count)
        for mean, weight in zip(self.mean, self.weights, strict=True):
            mean.lerp_(weight, part)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The mean is in the model, and what was there comes back; without a step counted nothing changes."""
        if not self.count:
            yield
            return
        kept = [w.detach().clone() for w in self.weights]
        self.put_in()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self.weights, kept, strict=True):
                    weight.copy_(value)

    @torch.no_grad()
    def put_in(self) -> None:
        """Leave the mean in the model for good; without a step counted nothing changes."""
        if self.count:
            for weight, mean in zip(self.weights, self.mean, strict=True):
                weight.copy_(mean)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"count": self.count, "mean": self.mean}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.count = int(state["count"])
        for mean, value in zip(self.mean, state["mean"], strict=True):
            mean.copy_(value)


def gradient_norm(model: nn.Module, clip: float | None) -> float:
    """The norm of the gradient of all parameters, which is scaled down to ``clip`` where it is larger."""
    gradients = [_whole(p) for p in model.parameters() if p.grad is not None]
    if not gradients:
        return 0.0
    norm = float(torch.stack([g.norm() for g in gradients]).norm())
    if clip is not None and norm > clip:
        for g in gradients:
            g.mul_(clip / norm)
    return norm


def _whole(parameter: nn.Parameter) -> Tensor:
    """The entries of a gradient; those of a sparse one with every row once, as a sum of several batches has not."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient
    if not each_row_once(gradient):
        parameter.grad = gradient = gradient.coalesce()
    return gradient._values()


def decay_penalty(model: nn.Module, weight_decay: float) -> float:
    """0.5 * weight_decay * |w|^2, whose gradient is added to the parameters' own."""
    if not weight_decay:
        return 0.0
    total = 0.0
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.grad.add_(p, alpha=weight_decay)
                total += 0.5 * weight_decay * float(p.square().sum())
    return total

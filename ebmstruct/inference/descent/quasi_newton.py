"""The memory of L-BFGS, each instance with its own, and the direction that it gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.inference.descent.packing import Packing


@dataclass(frozen=True, eq=False)
class Memory:
    """The last m steps of each instance and the changes of gradient along them, newest last.

    steps, changes: stacks of m vectors (``Packing``), zero in slots not used yet.
    steps_changes, changes_changes: (B, m, m), their inner products: [i, j] is step i times change j (right for
    i <= j only), change i times change j.  scale: (B,) gamma, the inverse curvature to begin from.
    """

    steps: Tensor
    changes: Tensor
    steps_changes: Tensor
    changes_changes: Tensor
    scale: Tensor

    @classmethod
    def empty(cls, packing: Packing, count: int, gradient: Tensor) -> Memory:
        """No steps yet; the scale makes the first step at most 1 long."""
        square = gradient.new_zeros(packing.num_instances, count, count)
        norm = packing.dot(gradient, gradient).sqrt()
        stack = packing.empty_stack(count, gradient)
        return cls(stack, stack, square, square, 1 / norm.clamp(min=1.0))


def remember(packing: Packing, memory: Memory, step: Tensor, change: Tensor, taken: Tensor, idle: Tensor) -> Memory:
    """The memory with one more step in the instances ``taken`` (B,) whose curvature along it is positive.

    idle: (B,) instances whose memory nobody will ask for again.
    """
    curvature, square = packing.dot(step, change), packing.dot(change, change)
    length = packing.dot(step, step)
    rounding = 10 * torch.finfo(step.dtype).eps
    taken = taken & (curvature > rounding * (square * length).sqrt()) & (square > 0)
    if not bool(taken.any()):
        return memory
    pick = packing.spread(taken)
    step, change = torch.where(pick, step, 0.0), torch.where(pick, change, 0.0)
    steps, changes = packing.pushed(memory.steps, step), packing.pushed(memory.changes, change)
    if not bool((taken | idle).all()):
        stacked = packing.spread_stack(taken[:, None])
        steps = torch.where(stacked, steps, memory.steps)
        changes = torch.where(stacked, changes, memory.changes)
    along, across = packing.dots(steps, change), packing.dots(changes, change)
    inner = torch.cat([memory.changes_changes[:, 1:, 1:], across[:, None, :-1]], 1)
    rows = taken[:, None, None]
    return Memory(
        steps,
        changes,
        torch.where(rows, _with_column(memory.steps_changes, along), memory.steps_changes),
        torch.where(rows, torch.cat([inner, across[:, :, None]], 2), memory.changes_changes),
        torch.where(taken, curvature / square, memory.scale),
    )


def _with_column(square: Tensor, column: Tensor) -> Tensor:
    """(B, m, m) moved up and left by one, with a last column."""
    inner = torch.nn.functional.pad(square[:, 1:, 1:], (0, 0, 0, 1))
    return torch.cat([inner, column[:, :, None]], 2)


def forget(packing: Packing, memory: Memory, gone: Tensor, gradient: Tensor) -> Memory:
    """The memory with nothing left in the instances ``gone`` (B,), which begin anew from ``gradient``."""
    keep, stacked = ~gone, packing.spread_stack(~gone[:, None])
    norm = packing.dot(gradient, gradient).sqrt()
    return Memory(
        torch.where(stacked, memory.steps, 0.0),
        torch.where(stacked, memory.changes, 0.0),
        torch.where(keep[:, None, None], memory.steps_changes, 0.0),
        torch.where(keep[:, None, None], memory.changes_changes, 0.0),
        torch.where(gone, 1 / norm.clamp(min=1.0), memory.scale),
    )


def restricted(packing: Packing, memory: Memory, free: Tensor) -> Memory:
    """The memory seen by the ``free`` entries (a vector of 0 and 1) only; steps without curvature there do not count.

    Cost: all m * m inner products anew.
    """
    steps, changes = packing.masked_stack(memory.steps, free), packing.masked_stack(memory.changes, free)
    along, across = packing.gram(steps, changes), packing.gram(changes, changes)
    curvature, square = along.diagonal(0, 1, 2), across.diagonal(0, 1, 2)
    valid = curvature > 1e-8 * square
    both = valid[:, :, None] & valid[:, None, :]
    stacked = packing.spread_stack(valid)
    newest = torch.where(valid, torch.arange(valid.shape[1]) + 1, 0).amax(1)
    at = (newest - 1).clamp(min=0)[:, None]
    scale = (curvature.gather(1, at) / square.gather(1, at).clamp(min=torch.finfo(square.dtype).tiny))[:, 0]
    return Memory(
        torch.where(stacked, steps, 0.0),
        torch.where(stacked, changes, 0.0),
        torch.where(both, along, 0.0),
        torch.where(both, across, 0.0),
        torch.where(newest > 0, scale, memory.scale),
    )


def direction(packing: Packing, memory: Memory, gradient: Tensor) -> Tensor:
    """The vector -H g, with H the inverse Hessian of limited memory BFGS.

    H by its compact form (Byrd, Nocedal and Schnabel 1994, theorem 2.2), so that the cost is a few passes over the
    stacks and a triangular solve of size m for each instance, whatever the number of instances.
    """
    upper = memory.steps_changes.triu()
    diagonal = upper.diagonal(0, 1, 2)
    unused = torch.diag_embed((diagonal == 0).to(upper.dtype))
    upper = upper + unused
    gamma = memory.scale[:, None]
    a, b = packing.dots(memory.steps, gradient), packing.dots(memory.changes, gradient)
    u = torch.linalg.solve_triangular(upper, a[:, :, None], upper=True)
    middle = diagonal[:, :, None] * u + gamma[:, :, None] * (memory.changes_changes @ u - b[:, :, None])
    w = torch.linalg.solve_triangular(upper.mT, middle, upper=False)
    out = packing.spread(memory.scale) * gradient + packing.combine(memory.steps, w[:, :, 0])
    return -(out - packing.combine(memory.changes, gamma * u[:, :, 0]))

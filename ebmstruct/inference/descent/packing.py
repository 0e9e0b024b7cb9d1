"""Steps of all blocks as one vector, so that vector algebra is written once for any number of blocks and instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.inference.smooth_energy import Step


@dataclass(frozen=True, eq=False)
class Packing:
    """How the steps (n, t) of several blocks lie in one vector, and sums of such vectors instance by instance.

    Where all instances have equally many sites of each block, a vector is (B, D), a row an instance; otherwise it is
    flat, (N,), instance after instance: ``owner`` (N,) long holds the instance of each entry, ``offsets`` (B + 1,) where
    each begins, and ``order`` (N,) the place of each entry among those of all blocks, None for a single block.
    A stack of m vectors is (B, m, D) or (m, N).
    """

    shapes: tuple[tuple[int, int], ...]
    num_instances: int
    owner: Tensor | None
    offsets: Tensor | None = None
    order: Tensor | None = None
    inverse: Tensor | None = None

    @classmethod
    def of(cls, steps: Sequence[Tensor], instances: Sequence[Tensor | None], num_instances: int) -> Packing:
        """The packing of steps; instances: (n,) long of each block, or None where site b belongs to instance b."""
        shapes = tuple((s.shape[0], s.shape[1]) for s in steps)
        if all(_even(i, n, num_instances) for i, (n, _) in zip(instances, shapes, strict=True)):
            return cls(shapes, num_instances, None)
        owners = []
        for instance, (n, t) in zip(instances, shapes, strict=True):
            sites = torch.arange(n) if instance is None else instance
            owners.append(sites.repeat_interleave(t))
        owner, order = torch.cat(owners), None
        if bool((owner.diff() < 0).any()):
            owner, order = owner.sort(stable=True)
        offsets = torch.searchsorted(owner, torch.arange(num_instances + 1))
        return cls(shapes, num_instances, owner, offsets, order, None if order is None else order.argsort())

    def pack(self, steps: Sequence[Tensor]) -> Tensor:
        """The vector of the steps of all blocks."""
        shape = (self.num_instances, -1) if self.owner is None else (-1,)
        parts = [s.reshape(shape) for s in steps]
        vector = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return vector if self.order is None else vector[self.order]

    def unpack(self, vector: Tensor) -> Step:
        """The steps of all blocks, from their vector."""
        if self.inverse is not None:
            vector = vector[self.inverse]
        if len(self.shapes) == 1:
            return (vector.reshape(self.shapes[0]),)
        if self.owner is None:
            widths = [n * t // max(1, self.num_instances) for n, t in self.shapes]
        else:
            widths = [n * t for n, t in self.shapes]
        return tuple(p.reshape(s) for p, s in zip(vector.split(widths, -1), self.shapes, strict=True))

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """(B,) inner products of two vectors."""
        product = a * b
        if self.owner is None:
            return product.sum(1)
        return torch.segment_reduce(product, "sum", offsets=self.offsets)

    def largest(self, a: Tensor) -> Tensor:
        """(B,) the largest absolute entry, 0 where an instance has none; NaN where one is NaN."""
        if self.owner is None:
            return a.abs().amax(1) if a.shape[1] else a.new_zeros(self.num_instances)
        return a.new_zeros(self.num_instances).scatter_reduce(0, self.owner, a.abs(), "amax")

    def spread(self, rows: Tensor) -> Tensor:
        """The entry of ``rows`` (B,) that belongs to each entry of a vector, in a shape that broadcasts."""
        return rows[:, None] if self.owner is None else rows[self.owner]

    def spread_stack(self, rows: Tensor) -> Tensor:
        """The same for a stack of m vectors, from (B, m) or (B, 1)."""
        return rows[:, :, None] if self.owner is None else rows.T[:, self.owner]

    def empty_stack(self, count: int, like: Tensor) -> Tensor:
        """A stack of ``count`` vectors of zeros."""
        shape = (like.shape[0], count, like.shape[1]) if self.owner is None else (count, like.shape[0])
        return like.new_zeros(shape)

    def pushed(self, stack: Tensor, vector: Tensor) -> Tensor:
        """The stack without its first vector and with another at its end."""
        if self.owner is None:
            return torch.cat([stack[:, 1:], vector[:, None]], 1)
        return torch.cat([stack[1:], vector[None]])

    def masked_stack(self, stack: Tensor, mask: Tensor) -> Tensor:
        """The stack with each vector multiplied by ``mask``, a vector."""
        return stack * (mask[:, None] if self.owner is None else mask)

    def dots(self, stack: Tensor, vector: Tensor) -> Tensor:
        """(B, m) inner products of a stack's vectors with one vector."""
        if self.owner is None:
            return (stack @ vector[:, :, None])[:, :, 0]
        rows = [torch.segment_reduce(row, "sum", offsets=self.offsets) for row in stack * vector]
        return torch.stack(rows, 1)

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, m, m) inner products of the vectors of two stacks; cost m * m inner products."""
        if self.owner is None:
            return a @ b.mT
        return torch.stack([self.dots(a, vector) for vector in b], 2)

    def combine(self, stack: Tensor, weights: Tensor) -> Tensor:
        """The sum of a stack's vectors with ``weights`` (B, m)."""
        if self.owner is None:
            return (weights[:, None, :] @ stack)[:, 0]
        out = torch.zeros_like(stack[0])
        for weight, row in zip(weights.T, stack, strict=True):
            out.addcmul_(weight[self.owner], row)
        return out


def _even(instance: Tensor | None, sites: int, num_instances: int) -> bool:
    if not sites or not num_instances or sites % num_instances:
        return False
    if instance is None:
        return True
    each = sites // num_instances
    return torch.equal(instance, torch.arange(num_instances).repeat_interleave(each))

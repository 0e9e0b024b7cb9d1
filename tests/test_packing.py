"""Vectors of steps: flat and dense packings say the same as sums site by site, and L-BFGS directions as its recursion."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebmstruct.inference.descent.packing import Packing
from ebmstruct.inference.descent.quasi_newton import Memory, direction, remember


def blocks(lengths: list[list[int]], dims: list[int]) -> tuple[Packing, list[Tensor]]:
    """A packing of blocks with the given sites of each instance, and the instances of their sites."""
    instances = [torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n)) for n in lengths]
    steps = [torch.zeros(i.numel(), d, dtype=torch.float64) for i, d in zip(instances, dims, strict=True)]
    return Packing.of(steps, instances, len(lengths[0])), instances


LAYOUTS = {
    "even": ([[2, 2, 2], [1, 1, 1]], [3, 2]),
    "ragged": ([[2, 0, 3]], [2]),
    "two ragged": ([[2, 0, 3], [1, 4, 0]], [2, 1]),
}


def normal(packing: Packing, generator: torch.Generator) -> list[Tensor]:
    """Steps of normal numbers."""
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in packing.shapes]


@pytest.mark.parametrize("name", LAYOUTS)
def test_packing(name: str) -> None:
    """Packing and unpacking undo each other; inner products, largest entries and combinations are those of the sites."""
    packing, instances = blocks(*LAYOUTS[name])
    g = torch.Generator().manual_seed(0)
    a, b = normal(packing, g), normal(packing, g)
    for x, y in zip(packing.unpack(packing.pack(a)), a, strict=True):
        assert torch.equal(x, y)
    dot = torch.zeros(3, dtype=torch.float64)
    largest = torch.zeros(3, dtype=torch.float64)
    for x, y, i in zip(a, b, instances, strict=True):
        dot = dot.index_add(0, i, (x * y).sum(1))
        largest = largest.scatter_reduce(0, i, x.abs().amax(1), "amax")
    va, vb = packing.pack(a), packing.pack(b)
    torch.testing.assert_close(packing.dot(va, vb), dot)
    torch.testing.assert_close(packing.largest(va), largest)
    stack = packing.pushed(packing.pushed(packing.empty_stack(3, va), va), vb)
    torch.testing.assert_close(packing.dots(stack, vb)[:, 1], dot)
    torch.testing.assert_close(packing.gram(stack, stack)[:, 1, 2], dot)
    weights = torch.randn(3, 3, generator=g, dtype=torch.float64)
    mixed = packing.spread(weights[:, 1]) * va + packing.spread(weights[:, 2]) * vb
    torch.testing.assert_close(packing.combine(stack, weights), mixed)


@pytest.mark.parametrize("name", LAYOUTS)
def test_direction_is_that_of_the_two_loop_recursion(name: str) -> None:
    """The compact form gives, in each instance, what Nocedal's recursion gives, whatever steps each has taken."""
    packing, _ = blocks(*LAYOUTS[name])
    g = torch.Generator().manual_seed(1)
    gradient = packing.pack(normal(packing, g))
    memory = Memory.empty(packing, 4, gradient)
    none = torch.zeros(3, dtype=torch.bool)
    kept: list[list[tuple[Tensor, Tensor]]] = [[], [], []]
    for _ in range(7):
        step = packing.pack(normal(packing, g))
        change = step * (1 + torch.rand(step.shape, generator=g, dtype=torch.float64))
        taken = torch.rand(3, generator=g) < 0.7
        memory = remember(packing, memory, step, change, taken, none)
        for b in range(3):
            if bool(taken[b]) and float(packing.dot(step, step)[b]) > 0:
                kept[b] = [*kept[b], (step, change)][-4:]
    found = direction(packing, memory, gradient)
    for b in range(3):
        q, alphas = gradient, []
        for s, y in reversed(kept[b]):
            alphas.append(packing.dot(s, q)[b] / packing.dot(s, y)[b])
            q = q - alphas[-1] * y
        r = memory.scale[b] * q
        for (s, y), alpha in zip(kept[b], reversed(alphas), strict=True):
            r = r + (alpha - packing.dot(y, r)[b] / packing.dot(s, y)[b]) * s
        mine = packing.spread(torch.arange(3) == b).expand_as(gradient)
        torch.testing.assert_close(found[mine], -r[mine])

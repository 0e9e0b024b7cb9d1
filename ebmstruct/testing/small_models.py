"""Small models with shared tables, grids and Gaussians for tests of losses; gradients as vectors, and by differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ebmstruct.graph import Discrete, FactorGraph, Real, ResidualFactor, TableFactor, Variables


def rbm(count: int, weights: Tensor, visible: Tensor, hidden: Tensor) -> FactorGraph:
    """``count`` instances of a restricted Boltzmann machine: E = -v b - h c - v W h, all tables shared.

    weights: (V, H).  visible, hidden: (V,) and (H,).
    """
    many, few = weights.shape
    v = Variables.of_lengths("v", Discrete(2), [many] * count)
    h = Variables.of_lengths("h", Discrete(2), [few] * count)

    def single(name: str, bias: Tensor, size: int) -> TableFactor:
        index = torch.arange(size * count)[None]
        table = torch.stack([torch.zeros_like(bias), -bias], 1).reshape(-1)
        return TableFactor((name,), name, table, index, 2 * torch.arange(size).repeat(count))

    i, j = torch.meshgrid(torch.arange(many), torch.arange(few), indexing="ij")
    i, j = i.reshape(-1), j.reshape(-1)
    base = torch.arange(count)[:, None]
    index = torch.stack([(base * many + i).reshape(-1), (base * few + j).reshape(-1)])
    zero = torch.zeros(many * few, 3, dtype=weights.dtype)
    pair = torch.cat([zero, -weights.reshape(-1, 1)], 1).reshape(-1)
    starts = (4 * torch.arange(many * few)).repeat(count)
    return FactorGraph(
        [v, h],
        [
            single("v", visible, many),
            single("h", hidden, few),
            TableFactor(("v", "h"), "pair", pair, index, starts),
        ],
    )


def small_rbm(count: int, generator: torch.Generator, scale: float = 1.0) -> FactorGraph:
    """4 visible and 3 hidden units with normal weights."""

    def normal(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    return rbm(count, normal(4, 3), normal(4), normal(3))


def grid(count: int, generator: torch.Generator, side: int = 3) -> FactorGraph:
    """``count`` grids of side * side sites of two states, each with energies of its own."""
    sites = side * side
    block = Variables.of_lengths("y", Discrete(2), [sites] * count)
    at = torch.arange(sites).reshape(side, side)
    across, down = torch.stack([at[:, :-1], at[:, 1:]]), torch.stack([at[:-1], at[1:]])
    pairs = torch.cat([across.reshape(2, -1), down.reshape(2, -1)], 1)
    index = torch.cat([pairs + sites * b for b in range(count)], 1)
    return FactorGraph(
        [block],
        [
            TableFactor(("y",), "unary", torch.randn(sites * count, 2, generator=generator, dtype=torch.float64)),
            TableFactor(
                ("y", "y"), "pair",
                0.7 * torch.randn(index.shape[1], 2, 2, generator=generator, dtype=torch.float64), index,
            ),
        ],
    )  # fmt: skip


def gaussian(lengths: Sequence[int], stiffness: Tensor, middle: Tensor) -> FactorGraph:
    """Chains of points, E = 0.5 sum (a (x_i - m))^2 + 0.5 sum (0.5 (x_i - x_{i+1}))^2; a: (1,), m: (1,)."""
    block = Variables.of_lengths("x", Real(1), lengths)
    every = torch.arange(block.num_sites)
    inner = (block.instance[1:] == block.instance[:-1]).nonzero()[:, 0]
    rows = torch.ones(block.num_sites, 1, dtype=torch.float64)
    return FactorGraph(
        [block],
        [
            ResidualFactor(
                ("x",), "unary", lambda x, a, m: a * (x - m), every[None],
                (stiffness * rows, middle * rows), linear=True,
            ),
            ResidualFactor(("x", "x"), "pair", lambda x, y: 0.5 * (x - y), torch.stack([inner, inner + 1]), linear=True),
        ],
    )  # fmt: skip


def leaves_of(graph: FactorGraph) -> tuple[FactorGraph, list[Tensor]]:
    """The graph with fresh tables that gather gradients, and these tables."""
    tensors: list[Tensor] = []

    def leaf(value: Tensor | None) -> Tensor | None:
        if value is None or not value.is_floating_point():
            return value
        tensors.append(value.detach().clone().requires_grad_())
        return tensors[-1]

    leaves: dict[str, list[Any]] = {}
    for factor in graph.factors:
        held: tuple[Any, ...] = factor.values()
        leaves[factor.label] = [tuple(map(leaf, v)) if isinstance(v, tuple) else leaf(v) for v in held]
    return graph.with_values(leaves), tensors


def gradient(loss: Callable[[FactorGraph], Tensor], graph: FactorGraph) -> Tensor:
    """The gradient of a loss's sum by all tables of a graph, as one vector."""
    with_leaves, tensors = leaves_of(graph)
    found = torch.autograd.grad(loss(with_leaves).sum(), tensors, allow_unused=True)
    parts = [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]
    return torch.cat([p.reshape(-1) for p in parts])


def differences(loss: Callable[[FactorGraph], Tensor], graph: FactorGraph, every: int = 3) -> Tensor:
    """Central differences of the same, in every ``every``-th entry; NaN in the others."""
    with_leaves, tensors = leaves_of(graph)
    out = []
    with torch.no_grad():
        for tensor in tensors:
            flat, part = tensor.reshape(-1), torch.full((tensor.numel(),), torch.nan, dtype=torch.float64)
            for i in range(0, flat.numel(), every):
                if not bool(flat[i].isfinite()):
                    continue
                kept, ends = float(flat[i]), []
                for shift in (1e-6, -1e-6):
                    flat[i] = kept + shift
                    ends.append(float(loss(with_leaves.with_values({})).sum()))
                flat[i] = kept
                part[i] = (ends[0] - ends[1]) / 2e-6
            out.append(part)
    return torch.cat(out)

"""The gradient of a Gaussian log partition in the values of factors.

log Z = -min E / T - log det H / 2 + constant. The first part's gradient is that of E at the minimum, held fixed (the
envelope theorem); the second's is tr(H^-1 dH) / 2 = sum over rows of <J S, dJ>, where S holds the covariances of the
row's own unknowns, which the selected inverse gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebmstruct.graph import FactorGraph, ResidualFactor
from ebmstruct.inference.least_squares.linearization import ResidualRows
from ebmstruct.inference.least_squares.loop import LeastSquares
from ebmstruct.inference.least_squares.precision import Precision


class _Value(torch.autograd.Function):
    """A value with the first derivatives of a stand-in, whose second derivatives would be wrong and are refused."""

    @staticmethod
    def forward(ctx: Any, stand_in: list[Tensor], value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.stand_in, ctx.inputs = stand_in, inputs
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (stand_in,) = ctx.stand_in
        found = torch.autograd.grad(stand_in, ctx.inputs, grad, retain_graph=True, allow_unused=True)
        return (None, None, *found)


def differentiable_log_partition(
    graph: FactorGraph, run: LeastSquares, factor: Precision, value: Tensor, temperature: float
) -> Tensor:
    """``value`` (B,) with its first derivatives in the factors' values, at the minimum that ``run`` has found."""
    inputs = _inputs(graph)
    if not inputs or not torch.is_grad_enabled():
        return value
    at = {n: v.detach() for n, v in run.progress().values.items()}
    stand_in = -graph.energy(at) / temperature
    for rows in run.all_rows():
        part = _half_trace(graph, rows, factor, at)
        if part is not None:
            stand_in = stand_in - part
    if not stand_in.requires_grad:
        return value
    stand_in = torch.where(torch.from_numpy(factor.proper), stand_in, 0.0)
    result: Tensor = _Value.apply([stand_in], value, *inputs)
    return result


def _inputs(graph: FactorGraph) -> list[Tensor]:
    """The values of factors, and the constant, of which somebody wants derivatives."""
    found: list[Tensor | None] = [graph.constant]
    for factor in graph.factors:
        for value in factor.values():
            found.extend(value if isinstance(value, tuple) else (value,))
    return [v for v in found if v is not None and v.requires_grad]


def _half_trace(graph: FactorGraph, rows: ResidualRows, factor: Precision, at: dict[str, Tensor]) -> Tensor | None:
    """(B,) of gradient tr(H^-1 dH) / 2, by one factor's rows; None where its derivatives depend on no value."""
    source = next(f for f in graph.factors if f.label == rows.factor.label)
    assert isinstance(source, ResidualFactor)
    jacobian = _recorded_jacobian(source, rows, at)
    if not jacobian.requires_grad:
        return None
    columns = rows.places.columns
    covariance = torch.from_numpy(factor.covariance(columns[:, :, None], columns[:, None, :])).to(jacobian)
    open_ones = torch.from_numpy((columns >= 0).astype(np.float64)).to(jacobian)
    weighed = (jacobian.detach() * open_ones[:, None]) @ covariance
    each = (weighed * jacobian).sum((1, 2)).double()
    owner = torch.from_numpy(rows.places.owner)
    return each.new_zeros(graph.num_instances).index_add(0, owner, each)


def _recorded_jacobian(source: ResidualFactor, rows: ResidualRows, at: dict[str, Tensor]) -> Tensor:
    """(m, r, T) derivatives by the moving places, with a record of how they depend on the factor's values."""
    sites = [at[n][i] for n, i in zip(source.scope, source.index, strict=True)]
    moving = rows.places.slots
    if source.jacobian is not None:
        found = source.jacobian(*sites, *source.parameters)
        parts: Sequence[Tensor] = [p for p in (found[s] for s in moving) if p is not None]
        return torch.cat(list(parts), 2)
    sites = [s.requires_grad_(True) if i in moving else s for i, s in enumerate(sites)]
    residual = source.function(*sites, *source.parameters)
    leaves = [sites[s] for s in moving]
    columns = []
    for k in range(residual.shape[1]):
        seed = torch.zeros_like(residual)
        seed[:, k] = 1.0
        found = torch.autograd.grad(residual, leaves, seed, create_graph=True, allow_unused=True)
        columns.append(
            torch.cat([torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)], 1)
        )
    return torch.stack(columns, 1)

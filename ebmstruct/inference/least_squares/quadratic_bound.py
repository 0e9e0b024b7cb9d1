"""The least value of a quadratic energy, re-computed with scipy and with no solver code.

Rows that are affine in the continuous sites are differentiated by differences, which are exact for them: one more
evaluation of a factor for each coordinate of its scope. E(x) - g^T H^-1 g / 2 is then the least value, from any x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Continuous, Discrete, FactorGraph, Real, ResidualFactor

Array = np.ndarray


def quadratic_bound(graph: FactorGraph) -> Tensor:
    """(B,) float64: the least energy over the open continuous blocks, everything else clamped; -inf where it is unproven.

    It is proven where all factors over those blocks are affine residuals without loss or constraint over ``Real``, their
    differences bear out that they are affine, and the normal equations are not singular. Cost: one sparse factor.
    """
    nothing = torch.full((graph.num_instances,), -torch.inf, dtype=torch.float64)
    values = _base(graph)
    if values is None:
        return nothing
    factors = [f for f in graph.factors if isinstance(f, ResidualFactor)]
    unknowns = _Unknowns(graph)
    with torch.no_grad():
        jacobian = _jacobian(graph, factors, values, unknowns)
        first = _residuals(factors, values)
        step, _ = _solution(jacobian, first, unknowns, graph)
        values = unknowns.moved(values, step)
        second = _residuals(factors, values)
        step, proven = _solution(jacobian, second, unknowns, graph)
        gradient = jacobian.T @ second
        below = 0.5 * np.bincount(unknowns.owner, -np.nan_to_num(gradient) * step, graph.num_instances)
        change = np.abs(jacobian @ unknowns.last - (second - first))
        scale = 1.0 + np.abs(first) + np.abs(second)
        rows = _row_owners(graph, factors, values)
        affine = np.ones(graph.num_instances, bool)
        affine[rows[~(change <= 1e-6 * scale)]] = False
        energy = graph.energy(values).cpu().numpy()
    good = proven & affine & np.isfinite(energy)
    return torch.where(torch.from_numpy(good), torch.from_numpy(energy - np.maximum(below, 0.0)), nothing)


def _base(graph: FactorGraph) -> dict[str, Tensor] | None:
    """A point to differentiate at; None where the energy is not a quadratic of the open blocks."""
    out: dict[str, Tensor] = {}
    for name, block in graph.variables.items():
        fixed = graph.evidence.get(name) if graph.evidence is not None else None
        mask = graph.evidence.known.get(name) if graph.evidence is not None else None
        if isinstance(block.domain, Discrete):
            if block.num_sites and (fixed is None or (mask is not None and not bool(mask.all()))):
                return None
            out[name] = torch.zeros(0, dtype=torch.long) if fixed is None else fixed
        else:
            zero = torch.zeros(block.num_sites, block.domain.dim, dtype=torch.float64)
            whole = fixed is not None and (mask is None or bool(mask.all()))
            if not whole and not isinstance(block.domain, Real):
                return None
            if fixed is not None:
                zero = fixed.double() if mask is None else torch.where(mask[:, None], fixed.double(), zero)
            out[name] = zero
    for factor in graph.factors:
        moves = any(isinstance(v.domain, Continuous) for v in graph.scope(factor))
        if moves and not (
            isinstance(factor, ResidualFactor) and factor.linear and factor.loss is None and not factor.constraint
        ):
            return None
    return out


class _Unknowns:
    """The coordinates of the open sites, in the order of the blocks. owner: (N,) instances; last: (N,) the last step."""

    def __init__(self, graph: FactorGraph) -> None:
        self.place: dict[str, Array] = {}
        owners, count = [np.zeros(0, np.int64)], 0
        for name, block in graph.variables.items():
            if isinstance(block.domain, Discrete):
                continue
            free = np.ones(block.num_sites, bool)
            if graph.evidence is not None and name in graph.evidence.values:
                known = graph.evidence.known.get(name)
                free[:] = False if known is None else ~known.numpy()
            place = np.full((block.num_sites, block.domain.dim), -1)
            size = int(free.sum()) * block.domain.dim
            place[free] = count + np.arange(size).reshape(-1, block.domain.dim)
            count += size
            self.place[name] = place
            owners.append(np.repeat(block.instance.numpy()[free], block.domain.dim))
        self.owner = np.concatenate(owners)
        self.last = np.zeros(count)

    def moved(self, values: dict[str, Tensor], step: Array) -> dict[str, Tensor]:
        """The values after a step."""
        self.last = step
        padded = np.append(step, 0.0)
        return {n: v + torch.from_numpy(padded[self.place[n]]) if n in self.place else v for n, v in values.items()}


def _residuals(factors: list[ResidualFactor], values: dict[str, Tensor]) -> Array:
    parts = [f.residuals([values[n] for n in f.scope]).double().reshape(-1).numpy() for f in factors]
    return np.concatenate([np.zeros(0), *parts])


def _row_owners(graph: FactorGraph, factors: list[ResidualFactor], values: dict[str, Tensor]) -> Array:
    """The instance of each residual."""
    out = [np.zeros(0, np.int64)]
    for factor in factors:
        width = factor.residuals([values[n] for n in factor.scope]).shape[1]
        out.append(np.repeat(graph.scope(factor)[0].instance[factor.index[0]].numpy(), width))
    return np.concatenate(out)


def _jacobian(graph: FactorGraph, factors: list[ResidualFactor], values: dict[str, Tensor], unknowns: _Unknowns) -> Any:
    """The sparse derivatives of all residuals by all unknowns."""
    from scipy.sparse import csc_matrix

    entries, rows, columns, begin = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for factor in factors:
        sites = [values[n][i] for n, i in zip(factor.scope, factor.index, strict=True)]
        base = factor.function(*sites, *factor.parameters).double()
        at = begin + np.arange(base.numel()).reshape(base.shape)
        begin += base.numel()
        for slot, name in enumerate(factor.scope):
            if name not in unknowns.place:
                continue
            place = unknowns.place[name][factor.index[slot].numpy()]
            for k in range(place.shape[1]):
                trial = list(sites)
                trial[slot] = sites[slot].clone()
                trial[slot][:, k] += 1.0
                change = (factor.function(*trial, *factor.parameters).double() - base).numpy()
                free = place[:, k] >= 0
                entries.append(change[free].reshape(-1))
                rows.append(at[free].reshape(-1))
                columns.append(np.repeat(place[free, k], base.shape[1]))
    shape = (begin, unknowns.owner.size)
    return csc_matrix((np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


def _solution(jacobian: Any, residual: Array, unknowns: _Unknowns, graph: FactorGraph) -> tuple[Array, Array]:
    """The step to the minimum, and (B,) whether it is one; steps of 0 where it is not."""
    matrix, right = (jacobian.T @ jacobian).tocsc(), -(jacobian.T @ residual)
    proven = np.ones(graph.num_instances, bool)
    step = _positive_solution(matrix, right)
    if step is not None:
        return step, proven
    step = np.zeros(unknowns.owner.size)
    for b in range(graph.num_instances):
        mine = np.nonzero(unknowns.owner == b)[0]
        found = _positive_solution(matrix[mine][:, mine].tocsc(), right[mine])
        proven[b] = found is not None
        step[mine] = 0.0 if found is None else found
    return step, proven


def _positive_solution(matrix: Any, right: Array) -> Array | None:
    """The solution of a symmetric system; None unless the matrix is positive definite."""
    from scipy.sparse.linalg import splu

    if not matrix.shape[0]:
        return right.copy()
    if not (np.isfinite(matrix.data).all() and np.isfinite(right).all()):
        return None
    try:
        factor = splu(matrix, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError:
        return None
    diagonal = np.empty(right.size)
    diagonal[factor.perm_c] = matrix.diagonal()
    if (factor.perm_r != factor.perm_c).any() or not (factor.U.diagonal() > 1e-14 * diagonal).all():
        return None
    return factor.solve(right)

"""Residuals of factors and their derivatives by steps, many rows at once."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Continuous, FactorGraph, Real, ResidualFactor
from ebmstruct.inference.views.residual_view import ResidualView, RowPlaces

Array = np.ndarray
COPIES = 4096
"""Up to so many rows, copies included, one pass over copies is quicker than several passes."""
FORWARD = 6
"""So many times more residuals than coordinates make forward differentiation the cheaper one."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Residuals (m, r) of a factor's rows at a point, with what their derivatives need.

    sites: the values in each place of the scope, (m, d); those that move lead to ``residual`` by a record, if one was kept.
    """

    residual: Tensor
    sites: tuple[Tensor, ...]
    recorded: bool

    @cached_property
    def numbers(self) -> Array:
        """(m, r) float64."""
        return numbers(self.residual)


@dataclass(frozen=True, eq=False)
class ResidualRows:
    """The rows of one residual factor, ready to be evaluated again and again.

    index: for each moving place (m,) long sites.  fixed: the values in the places that do not move.
    """

    factor: ResidualFactor
    places: RowPlaces
    domains: tuple[Continuous, ...]
    index: tuple[Tensor, ...]
    fixed: dict[int, Tensor]

    @property
    def constant(self) -> bool:
        """Whether the derivatives are the same everywhere: affine, over vector spaces, by its author's word."""
        return self.factor.linear and all(isinstance(d, Real) for d in self.domains)

    def take(self, rows: Array) -> ResidualRows:
        """Some of the rows only."""
        at = torch.from_numpy(rows).to(self.factor.index.device)
        fixed = {slot: value[at] for slot, value in self.fixed.items()}
        index = tuple(i[at] for i in self.index)
        return dataclasses.replace(
            self, factor=self.factor.with_rows(at), places=self.places.take(rows), index=index, fixed=fixed
        )

    def evaluate(self, point: Sequence[Tensor], *, record: bool) -> Evaluation:
        """Residuals at a point; ``record``: keep what backward differentiation needs, for a call of ``jacobian``."""
        factor = self.factor
        record = record and factor.jacobian is None
        moving = [point[b].index_select(0, i) for b, i in zip(self.places.blocks, self.index, strict=True)]
        if record:
            for value in moving:
                value.requires_grad_(True)
        sites = self._sites(moving)
        with torch.set_grad_enabled(record):
            residual = factor.function(*sites, *factor.parameters)
        if residual.dim() != 2 or residual.shape[0] != factor.index.shape[1]:
            factor.residuals(sites)  # raises, saying what is wrong
        return Evaluation(residual, sites, record)

    def _sites(self, moving: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if not self.fixed:
            return tuple(moving)
        values = dict(self.fixed)
        values.update(zip(self.places.slots, moving, strict=True))
        return tuple(values[slot] for slot in range(len(self.factor.scope)))

    def jacobian(self, at: Evaluation) -> Array:
        """(m, r, T) float64: the derivatives of residuals by steps of the moving places, side by side.

        By the factor's own ``jacobian`` where it has one. Else backward, one residual after another, or forward, one
        coordinate after another, where these are far fewer (torch's forward rules cost many times as much); of few rows
        as many copies as needed go in one pass. Where a derivative is not defined (NaN) it counts as zero.
        """
        rows, columns = at.residual.shape[0], self.places.columns.shape[1]
        out = np.empty((rows, at.residual.shape[1], columns))
        if self.factor.jacobian is not None:
            self._by_author(at, out)
        elif _forward_is_cheaper(at.residual.shape[1], columns):
            self._forward(at, out)
        elif at.recorded and not _in_copies(*at.residual.shape):
            self._backward(at, out)
        else:
            self._backward_in_copies(at, out)
        if not np.isfinite(out).all():
            out[~np.isfinite(out)] = 0.0
        return out

    def _spans(self) -> list[tuple[int, Continuous, slice]]:
        out, begin = [], 0
        for slot, domain in zip(self.places.slots, self.domains, strict=True):
            out.append((slot, domain, slice(begin, begin + domain.tangent_dim)))
            begin += domain.tangent_dim
        return out

    def _by_author(self, at: Evaluation, out: Array) -> None:
        assert self.factor.jacobian is not None
        found = self.factor.jacobian(*at.sites, *self.factor.parameters)
        for slot, domain, span in self._spans():
            part = found[slot]
            differential = domain.differential(at.sites[slot])
            if part is None:
                out[:, :, span] = 0.0
            else:
                out[:, :, span] = numbers(part if differential is None else part @ differential)

    def _backward(self, at: Evaluation, out: Array) -> None:
        residual = at.residual
        leaves = [at.sites[slot] for slot in self.places.slots]
        if not residual.requires_grad:
            out[:] = 0.0
            return
        spans = self._spans()
        differentials = [d.differential(x.detach()) for (_, d, _), x in zip(spans, leaves, strict=True)]
        count = residual.shape[1]
        for k in range(count):
            seed = torch.ones_like(residual)
            if count > 1:
                seed.zero_()[:, k] = 1.0
            found = torch.autograd.grad(residual, leaves, seed, retain_graph=k + 1 < count, allow_unused=True)
            for (_, _, span), g, differential in zip(spans, found, differentials, strict=True):
                if g is None:
                    out[:, k, span] = 0.0
                else:
                    out[:, k, span] = numbers(g if differential is None else (g[:, None] @ differential)[:, 0])

    def needs_record(self, at: Evaluation) -> bool:
        """Whether ``jacobian`` asks for a record, by the shape of what was found."""
        width = at.residual.shape[1]
        return not (
            self.factor.jacobian is not None
            or _forward_is_cheaper(width, self.places.columns.shape[1])
            or _in_copies(*at.residual.shape)
        )

    def _backward_in_copies(self, at: Evaluation, out: Array) -> None:
        """One backward pass over as many copies of the rows as there are residuals, each copy for one of them."""
        rows, count = at.residual.shape
        sites = [s.detach().repeat(count, *[1] * (s.dim() - 1)) for s in at.sites]
        parameters = [p.repeat(count, *[1] * (p.dim() - 1)) for p in self.factor.parameters]
        leaves = [sites[slot].requires_grad_(True) for slot in self.places.slots]
        with torch.enable_grad():
            residual = self.factor.function(*sites, *parameters)
        if not residual.requires_grad:
            out[:] = 0.0
            return
        seed = torch.eye(count, dtype=residual.dtype, device=residual.device).repeat_interleave(rows, 0)
        found = torch.autograd.grad(residual, leaves, seed, allow_unused=True)
        for (_, domain, span), g, x in zip(self._spans(), found, leaves, strict=True):
            differential = domain.differential(x.detach())
            if g is None:
                out[:, :, span] = 0.0
            else:
                part = g if differential is None else (g[:, None] @ differential)[:, 0]
                out[:, :, span] = numbers(part).reshape(count, rows, -1).swapaxes(0, 1)

    def _forward(self, at: Evaluation, out: Array) -> None:
        """Forward, over one copy of the rows for each coordinate; copies go together where they are few."""
        _load_forward_rules()
        rows, columns = at.residual.shape[0], out.shape[2]
        together = max(1, COPIES // max(1, rows))
        sites = [s.detach() for s in at.sites]
        directions = self._directions(sites)
        for first in range(0, columns, together):
            count = min(together, columns - first)
            trial = [s.repeat(count, *[1] * (s.dim() - 1)) for s in sites]
            parameters = [p.repeat(count, *[1] * (p.dim() - 1)) for p in self.factor.parameters]
            inputs = [*trial, *parameters]
            with torch.no_grad(), forward_ad.dual_level():
                for place, value in enumerate(inputs):
                    if place in directions:
                        tangent = directions[place][first : first + count].reshape(value.shape)
                        inputs[place] = forward_ad.make_dual(value, tangent)
                    elif value.is_floating_point():  # torch takes a hundred times as long where one side has no tangent
                        inputs[place] = forward_ad.make_dual(value, torch.zeros_like(value))
                found = forward_ad.unpack_dual(self.factor.function(*inputs)).tangent
            span = slice(first, first + count)
            out[:, :, span] = 0.0 if found is None else numbers(found).reshape(count, rows, -1).transpose(1, 2, 0)

    def _directions(self, sites: Sequence[Tensor]) -> dict[int, Tensor]:
        """For each moving place (T, m, d): how it moves by a unit of each of the coordinates."""
        out, columns = {}, self.places.columns.shape[1]
        for slot, domain, span in self._spans():
            x = sites[slot]
            differential = domain.differential(x)
            if differential is None:
                differential = torch.eye(domain.dim, dtype=x.dtype, device=x.device).expand(x.shape[0], -1, -1)
            out[slot] = x.new_zeros(columns, *x.shape)
            out[slot][span] = differential.permute(2, 0, 1)
        return out


def _forward_is_cheaper(residuals: int, columns: int) -> bool:
    return residuals > FORWARD * columns


def _in_copies(rows: int, residuals: int) -> bool:
    return residuals > 1 and rows * residuals <= COPIES


@functools.cache
def _load_forward_rules() -> None:
    """torch loads its rules of forward differentiation at their first use, with a warning about its own scripts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def prepare(graph: FactorGraph, view: ResidualView, values: dict[str, Tensor]) -> list[ResidualRows]:
    """The rows of every factor that acts on an unknown; ``values``: of every block that does not move."""
    out = []
    for factor in graph.factors:
        if not isinstance(factor, ResidualFactor) or factor.label not in view.rows or factor.constraint:
            continue
        places = view.rows[factor.label]
        index = tuple(factor.index[slot] for slot in places.slots)
        fixed = {s: values[n][factor.index[s]] for s, n in enumerate(factor.scope) if s not in places.slots}
        parameters = tuple(p.detach() for p in factor.parameters)
        plain = dataclasses.replace(factor, parameters=parameters)
        out.append(ResidualRows(plain, places, tuple(view.domains[b] for b in places.blocks), index, fixed))
    return out


def check_differentiable(rows: Sequence[ResidualRows], at: Sequence[Evaluation]) -> None:
    """Raise SolverRefusal where no residual depends on the unknowns in a way that torch can differentiate."""
    if rows and not any(
        r.factor.jacobian is not None or e.residual.requires_grad for r, e in zip(rows, at, strict=True)
    ):
        labels = [r.factor.label for r in rows]
        raise SolverRefusal(
            f"the residuals of {labels} do not depend on the values in a way that torch can differentiate; write them in "
            "torch operations, without detach or numpy, or give the factor a jacobian"
        )


def numbers(tensor: Tensor) -> Array:
    """A tensor as float64 numbers on the host; shares memory where it can."""
    tensor = tensor.detach()
    return tensor.cpu().double().numpy()

"""Gaussians of which a discrete site chooses one: the normalised densities that mixtures are made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.continuous import Real
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.factors import Factor, uniform_states
from ebmstruct.graph.tables import TableFactor
from ebmstruct.graph.variables import Variables

ENTRIES = 1 << 22
"""Entries of intermediate arrays; more instances than that allows are taken piece by piece."""


@dataclass(frozen=True, eq=False)
class GaussianFactor(Factor):
    """E(z, x) = -log N(x; mean_z, C_z): a Gaussian over all of an instance's continuous sites, one for each state of z.

    scope: (z, x). z has one site of K states an instance; x has s sites of ``Real(d)`` an instance, D = s d numbers.
    mean: (K, D).
    scale: (K, D), standard deviations, for C = diag(scale^2); or (K, D, D), lower triangular, for C = scale scale^T.
    loading: (K, D, R) or None; with standard deviations, C = diag(scale^2) + loading loading^T (factor analysers;
    Ghahramani and Hinton 1996).
    All three are shared by the instances. The density is normalised, so the log partition over x is 0 for every z.
    Cost: O(D) a state, O(D R) with loadings, O(D^2) with a triangle.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("mean", "scale", "loading")

    mean: Tensor
    scale: Tensor
    loading: Tensor | None = None

    def points(self, x: Tensor) -> Tensor:
        """(B, D) the numbers of each instance, from values (n, d) of the block."""
        return x.reshape(-1, self.mean.shape[1])

    def log_densities(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """(B, K) float64: log N of points (B, D) under each state; of the known (D,) bool coordinates alone where given."""
        x, mean, scale = x.double(), self.mean.double(), self.scale.double()
        loading = None if self.loading is None else self.loading.double()
        if known is not None:
            x, mean = x[:, known], mean[:, known]
            loading = None if loading is None else loading[:, known]
            if scale.dim() == 2:
                scale = scale[:, known]
            else:
                rows = scale[:, known]
                scale = torch.linalg.cholesky(rows @ rows.mT)
        if scale.dim() == 2 and loading is None:
            return _diagonal(x, mean, scale)
        piece = max(1, ENTRIES // max(1, mean.numel()))
        parts = [
            _triangle(part, mean, scale) if loading is None else _loaded(part, mean, scale, loading)
            for part in x.split(piece)
        ]
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        return -self.log_densities(self.points(values[1])).gather(1, values[0][:, None])[:, 0]

    def relaxed_energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        """(B,) the mean energy where z has weights (B, K)."""
        return -(self.log_densities(self.points(values[1])) * values[0]).sum(1)

    def conditionals(self, block: str, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        return -self.log_densities(self.points(values[1]))

    def tabulated(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> TableFactor:
        """What is left over z where x is known: a table (B, K)."""
        return TableFactor((self.scope[0],), self.label, -self.log_densities(self.points(values[1])))

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return None

    def check(self, variables: Sequence[Variables]) -> None:
        chosen, x = self._blocks(variables)
        states, count = uniform_states(chosen), chosen.num_instances
        if states is None or chosen.num_sites != count or not bool((chosen.lengths == 1).all()):
            raise GraphError(
                f"factor {self.label!r}: block {chosen.name!r} needs one site of one size in each instance"
            )
        assert isinstance(x.domain, Real)
        dim = self.mean.shape[-1]
        if self.mean.dim() != 2 or self.mean.shape[0] != states:
            raise GraphError(
                f"factor {self.label!r}: mean of shape {tuple(self.mean.shape)}; legal is ({states}, D), a row a state"
            )
        if not bool((x.lengths * x.domain.dim == dim).all()):
            raise GraphError(
                f"factor {self.label!r}: its Gaussians have {dim} numbers, and block {x.name!r} has other numbers of sites "
                f"of {x.domain.dim} in some instance"
            )
        rank = None if self.loading is None else self.loading.shape[-1]
        legal = ((states, dim), (states, dim, dim)) if rank is None else ((states, dim),)
        if tuple(self.scale.shape) not in legal or (
            self.loading is not None and self.loading.shape != (states, dim, rank)
        ):
            raise GraphError(
                f"factor {self.label!r}: scale of shape {tuple(self.scale.shape)}; legal are {legal}, and a loading "
                f"({states}, {dim}, R) beside standard deviations only"
            )

    def _blocks(self, variables: Sequence[Variables]) -> tuple[Variables, Variables]:
        fine = len(variables) == 2 and isinstance(variables[0].domain, Discrete)
        if not fine or not isinstance(variables[1].domain, Real) or variables[1].domain.bounded:
            raise GraphError(
                f"factor {self.label!r}: the scope of Gaussians is a discrete block and a Real one without bounds; found "
                f"{[str(v.domain) for v in variables]}"
            )
        return variables[0], variables[1]

    def repeat(self, times: int, variables: Sequence[Variables]) -> GaussianFactor:
        return self

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> GaussianFactor:
        return self

    def concatenate(self, others: Sequence[Self], variables: Sequence[Sequence[Variables]]) -> GaussianFactor:
        for other in others:
            for mine, its in zip(self.values(), other.values(), strict=True):
                if mine is not its and (mine is None or its is None or not torch.equal(mine, its)):
                    raise GraphError(f"factor {self.label!r}: a union needs the same Gaussians in every part")
        return self

    def widened(self, factor: float) -> GaussianFactor:
        """The same with every standard deviation multiplied."""
        loading = None if self.loading is None else self.loading * factor
        return dataclasses.replace(self, scale=self.scale * factor, loading=loading)


def _diagonal(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """(B, K) log densities; squares are taken about the middle of the means, so that little cancels."""
    middle = mean.detach().mean(0)
    x, mean, precision = x - middle, mean - middle, spread.reciprocal().square()
    square = x.square() @ precision.T - 2 * x @ (mean * precision).T + (mean.square() * precision).sum(1)
    return -0.5 * square - spread.log().sum(1) - 0.5 * math.log(2 * math.pi) * x.shape[1]


def _triangle(x: Tensor, mean: Tensor, triangle: Tensor) -> Tensor:
    """(B, K) log densities by the lower factors (K, D, D) of the covariances."""
    apart = (x[None] - mean[:, None]).mT
    square = torch.linalg.solve_triangular(triangle, apart, upper=False).square().sum(1)
    constant = triangle.diagonal(dim1=1, dim2=2).abs().log().sum(1) + 0.5 * math.log(2 * math.pi) * x.shape[1]
    return (-0.5 * square - constant[:, None]).T


def _loaded(x: Tensor, mean: Tensor, spread: Tensor, loading: Tensor) -> Tensor:
    """(B, K) log densities with covariances diag(spread^2) + loading loading^T, by the matrix inversion lemma."""
    apart = (x[None] - mean[:, None]) / spread[:, None]
    scaled = loading / spread[..., None]
    inner = torch.eye(loading.shape[2], dtype=x.dtype, device=x.device) + scaled.mT @ scaled
    triangle = torch.linalg.cholesky(inner)
    seen = torch.linalg.solve_triangular(triangle, (apart @ scaled).mT, upper=False)
    square = apart.square().sum(2) - seen.square().sum(1)
    log_det = spread.log().sum(1) + triangle.diagonal(dim1=1, dim2=2).log().sum(1)
    return (-0.5 * square - (log_det + 0.5 * math.log(2 * math.pi) * x.shape[1])[:, None]).T

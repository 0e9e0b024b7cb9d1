"""Gaussians of several clusters of which only some coordinates are known: densities, conditional means and draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebmstruct import Factor, Variables
from ebmstruct.errors import GraphError


@dataclass(frozen=True, eq=False)
class ClusterGaussian(Factor):
    """E(z, x) = |W_z (x - m_z)|^2 / 2 over a cluster z and d real sites x, the same for every instance.

    scope: (cluster block, number block); instance b has one cluster site and d number sites.
    mean: (K, d).  whitening: (K, d, d) lower triangular W; the covariance of cluster k is (W_k^T W_k)^-1.
    """

    value_fields = ("mean", "whitening")

    mean: Tensor
    whitening: Tensor

    def energies(self, values: Sequence[Tensor], variables: Sequence[Variables]) -> Tensor:
        z, x = values
        apart = x.reshape(z.shape[0], -1) - self.mean[z]
        return 0.5 * (self.whitening[z] @ apart[:, :, None])[:, :, 0].square().sum(1)

    def row_instance(self, variables: Sequence[Variables]) -> Tensor | None:
        return variables[0].instance

    def check(self, variables: Sequence[Variables]) -> None:
        clusters, d = self.mean.shape
        sizes = [v.lengths.unique().tolist() for v in variables]
        if self.whitening.shape != (clusters, d, d) or not all(
            s in ([], [n]) for s, n in zip(sizes, (1, d), strict=True)
        ):
            raise GraphError(
                f"factor {self.label!r}: every instance needs 1 cluster site and {d} number sites, and the whitening shape "
                f"{(clusters, d, d)}; found {sizes} and {tuple(self.whitening.shape)}"
            )

    def repeat(self, times: int, variables: Sequence[Variables]) -> ClusterGaussian:
        return self

    def select(self, instances: Tensor, variables: Sequence[Variables]) -> ClusterGaussian:
        return self

    def concatenate(self, others: Sequence[Any], variables: Sequence[Sequence[Variables]]) -> ClusterGaussian:
        if any(o.mean is not self.mean or o.whitening is not self.whitening for o in others):
            raise GraphError(f"factor {self.label!r}: a union needs the same clusters in every part")
        return self


@dataclass(frozen=True, eq=False)
class Gaussians:
    """K Gaussians over d numbers, in float64. mean: (K, d).  whitening: (K, d, d) lower triangular."""

    mean: Tensor
    whitening: Tensor

    @classmethod
    def of(cls, factor: ClusterGaussian) -> Gaussians:
        """Those of a factor, in float64."""
        return cls(factor.mean.double(), factor.whitening.double())

    @cached_property
    def root(self) -> Tensor:
        """(K, d, d) lower triangular L, the covariance being L L^T."""
        eye = torch.eye(self.mean.shape[1], dtype=torch.float64, device=self.mean.device)
        return torch.linalg.solve_triangular(self.whitening, eye.expand_as(self.whitening), upper=False)

    @cached_property
    def covariance(self) -> Tensor:
        """(K, d, d)."""
        return self.root @ self.root.mT

    @cached_property
    def log_scale(self) -> Tensor:
        """(K,) half the log determinant of the covariance."""
        return -self.whitening.diagonal(dim1=1, dim2=2).abs().log().sum(1)

    def log_integrals(self, x: Tensor, known: Tensor, temperature: float = 1.0) -> Tensor:
        """(B, K) log of the integral of exp(-|W (x - m)|^2 / 2T) over the coordinates that are not known.

        x: (B, d), anything where not known.  known: (B, d) bool.
        Cost: K d^2 a row, and K d^3 for each pattern of known coordinates.
        """
        out = x.new_zeros(len(x), len(self.mean), dtype=torch.float64)
        for rows, mask in patterns(known):
            open_count = int((~mask).sum())
            constant = 0.5 * open_count * math.log(2 * math.pi * temperature)
            if open_count == x.shape[1]:
                value = (constant + self.log_scale).expand(len(rows), -1)
            else:
                part = self.of_known(mask)
                white = part.whitened(x[rows])
                value = constant - 0.5 * white.square().sum(2) / temperature + self.log_scale - part.log_scale
            out = out.index_copy(0, rows, value)
        return out

    def distances(self, x: Tensor, known: Tensor) -> Tensor:
        """(B, K) the least |W (x - m)|^2 / 2 over the coordinates that are not known; arguments and cost as above."""
        out = x.new_zeros(len(x), len(self.mean), dtype=torch.float64)
        for rows, mask in patterns(known):
            if bool(mask.any()):
                out = out.index_copy(0, rows, 0.5 * self.of_known(mask).whitened(x[rows]).square().sum(2))
        return out

    def of_known(self, mask: Tensor) -> Known:
        """What is needed once only the coordinates of a mask (d,) are known."""
        both = mask[:, None] & mask[None, :]
        eye = torch.eye(len(mask), dtype=torch.float64, device=mask.device)
        factor = torch.linalg.cholesky(torch.where(both, self.covariance, eye))
        return Known(self, mask, factor)

    def variances(self, mask: Tensor) -> Tensor:
        """(K, d) of each coordinate once those of a mask (d,) are known, whose own are 0."""
        between = torch.where(mask[:, None], self.covariance, 0.0)
        told = torch.cholesky_solve(between, self.of_known(mask).factor)
        found = self.covariance.diagonal(dim1=1, dim2=2) - (between * told).sum(1)
        return torch.where(mask, 0.0, found.clamp(min=0))

    def draw(self, cluster: Tensor, noise: Tensor) -> Tensor:
        """(B, d) a draw for each cluster (B,), from standard normal noise (B, d)."""
        return self.mean[cluster] + (self.root[cluster] @ noise[:, :, None])[:, :, 0]

    def corrected(self, x: Tensor, draws: Tensor, cluster: Tensor, known: Tensor) -> Tensor:
        """(B, d) draws moved so that they are draws given the known coordinates of x (Matheron's rule); or, where draws
        are the means, the conditional means.
        """
        out = draws
        for rows, mask in patterns(known):
            if not bool(mask.any()):
                continue
            own = cluster[rows]
            apart = torch.where(mask, x[rows] - draws[rows], 0.0)
            part = self.of_known(mask)
            solved = torch.cholesky_solve(apart[:, :, None], part.factor[own])
            solved = torch.where(mask[:, None], solved, 0.0)
            moved = draws[rows] + (self.covariance[own] @ solved)[:, :, 0]
            out = out.index_copy(0, rows, torch.where(mask, x[rows], moved))
        return out


@dataclass(frozen=True, eq=False)
class Known:
    """The Gaussians of some coordinates. mask: (d,) which.  factor: (K, d, d) Cholesky factor of their covariance, the
    identity at the others.
    """

    all: Gaussians
    mask: Tensor
    factor: Tensor

    @property
    def log_scale(self) -> Tensor:
        """(K,) half the log determinant of the covariance of the known coordinates."""
        return self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def whitened(self, x: Tensor) -> Tensor:
        """(B, K, d) distances from the means in standard deviations; 0 at other coordinates."""
        apart = torch.where(self.mask, x[:, None] - self.all.mean, 0.0)
        found = torch.linalg.solve_triangular(self.factor, apart.permute(1, 2, 0), upper=False)
        return found.permute(2, 0, 1)


def patterns(known: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each different row of a mask (B, d), as the numbers of the rows that are like it, and the row."""
    if bool(known.all()):
        yield torch.arange(len(known), device=known.device), known.new_ones(known.shape[1])
        return
    found, which = torch.unique(known, dim=0, return_inverse=True)
    order = torch.argsort(which, stable=True)
    ends = torch.bincount(which, minlength=len(found)).cumsum(0).tolist()
    begin = 0
    for mask, end in zip(found, ends, strict=True):
        yield order[begin:end], mask
        begin = end

"""The Gaussians of a mixture given some of their coordinates: means, roots of covariances, and draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import GaussianFactor


@dataclass(frozen=True, eq=False)
class Conditional:
    """K Gaussians over the coordinates that b instances with the same known coordinates do not know; float64.

    known: (D,) bool.  x: (b, D), meaningful where known.  mean: (K, b, D), the known coordinates as they are.
    spread: (K, D) standard deviations of independent parts, 0 where known.  root: (K, D, R) whose product with standard
    normal numbers is the rest, or None: the covariance is diag(spread^2) + root root^T, whatever x is.
    """

    known: Tensor
    x: Tensor
    mean: Tensor
    spread: Tensor
    root: Tensor | None

    def draw(self, component: Tensor, generator: Generator) -> Tensor:
        """(b, D) a draw of each instance from its component (b,)."""
        rows = torch.arange(component.shape[0])
        out = self.mean[component, rows]
        noise = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        out = out + noise * self.spread[component]
        if self.root is not None:
            further = torch.randn(out.shape[0], self.root.shape[2], generator=generator, dtype=torch.float64)
            for k in component.unique().tolist():
                mine = component == k
                out[mine] += further[mine] @ self.root[k].T
        return out

    def covariance(self) -> Tensor:
        """(K, D, D)."""
        out = torch.diag_embed(self.spread.square())
        return out if self.root is None else out + self.root @ self.root.mT


def conditional(factor: GaussianFactor, x: Tensor, known: Tensor) -> Conditional:
    """The Gaussians of a factor given the known (D,) coordinates of points x (b, D)."""
    x, mean, scale = x.double(), factor.mean.double(), factor.scale.double()
    full = torch.where(known, x, mean[:, None])
    if scale.dim() == 2 and factor.loading is None:
        return Conditional(known, x, full, torch.where(known, 0.0, scale), None)
    if factor.loading is not None:
        return _loaded(known, x, mean, scale, factor.loading.double(), full)
    open_ = ~known
    covariance = scale @ scale.mT
    root = torch.zeros_like(scale)
    inner = covariance[:, open_][:, :, open_]
    if bool(known.any()) and bool(open_.any()):
        seen = torch.linalg.cholesky(covariance[:, known][:, :, known])
        cross = torch.linalg.solve_triangular(seen, covariance[:, known][:, :, open_], upper=False)
        apart = torch.linalg.solve_triangular(seen, (x[None, :, known] - mean[:, None, known]).mT, upper=False)
        full[:, :, open_] = mean[:, None, open_] + (cross.mT @ apart).mT
        inner = inner - cross.mT @ cross
    at = open_.nonzero()[:, 0]
    if at.numel():
        jitter = 1e-12 * inner.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        factorised = torch.linalg.cholesky(inner + jitter * torch.eye(at.numel(), dtype=inner.dtype))
        root[:, at[:, None], at[None]] = factorised
    return Conditional(known, x, full, torch.zeros_like(mean), root)


def _loaded(known: Tensor, x: Tensor, mean: Tensor, spread: Tensor, loading: Tensor, full: Tensor) -> Conditional:
    """With factor analysers: the factors' posterior given what is known carries over to what is not."""
    seen = torch.where(known[:, None], loading / spread[..., None], 0.0)
    inner = torch.linalg.cholesky(torch.eye(loading.shape[2], dtype=x.dtype) + seen.mT @ seen)
    apart = torch.where(known, (x[None] - mean[:, None]) / spread[:, None], 0.0)
    factors = torch.cholesky_solve((apart @ seen).mT, inner).mT
    open_ = ~known
    moved = full + torch.where(open_, factors @ loading.mT, 0.0)
    # the factors' posterior covariance is (L L^T)^-1, of which L^-T is a root
    roots = torch.linalg.solve_triangular(
        inner.mT, torch.eye(loading.shape[2], dtype=x.dtype).expand_as(inner), upper=True
    )
    root = torch.where(open_[:, None], loading @ roots, 0.0)
    return Conditional(known, x, moved, torch.where(known, 0.0, spread), root)


def alike(known: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Instances that know the same coordinates, from (B, D) bool: which coordinates (D,), and which instances (b,)."""
    if not known.shape[0]:
        return
    if bool((known == known[:1]).all()):
        yield known[0], torch.arange(known.shape[0])
        return
    patterns, which = known.unique(dim=0, return_inverse=True)
    order = which.argsort(stable=True)
    yield from zip(patterns, order.split(which.bincount(minlength=patterns.shape[0]).tolist()), strict=True)

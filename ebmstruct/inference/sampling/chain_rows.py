"""The open coordinates of many chains as one vector, those of a chain side by side, for kernels that move chains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.graph import Real
from ebmstruct.inference.sampling.compiled import Compiled
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy


@dataclass(frozen=True, eq=False)
class ChainRows:
    """How the points of a graph's instances lie in one vector (N,); an instance (a chain) owns start[r] : start[r + 1].

    base: (M,) all coordinates of all open blocks, one block after the other, clamped sites included.
    order: (N,) long, where each entry lies among those; None where they are the same.
    program: energies and gradients as a compiled program, where there is one.
    """

    smooth: SmoothEnergy
    start: np.ndarray
    base: Tensor
    order: Tensor | None
    program: Compiled | None = None

    @classmethod
    def of(cls, smooth: SmoothEnergy, point: Point) -> ChainRows:
        """The layout of a point; what is clamped stays as it is there."""
        owners, free = [], []
        for x, instance, moving in zip(point, smooth.instances, smooth.moving, strict=True):
            sites, width = x.shape
            owner = torch.arange(sites) if instance is None else instance.cpu()
            owners.append(owner.repeat_interleave(width))
            free.append(torch.ones(sites * width, dtype=torch.bool) if moving is None else _wide(moving, width))
        owner, kept = torch.cat(owners), torch.cat(free).nonzero()[:, 0]
        order = kept[owner[kept].argsort(stable=True)]
        counts = torch.bincount(owner[kept], minlength=smooth.graph.num_instances)
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).numpy()
        same = order.numel() == owner.numel() and bool((order.diff() == 1).all())
        base = torch.cat([x.detach().reshape(-1) for x in point])
        return cls(smooth, start, base, None if same else order.to(base.device))

    @property
    def owner(self) -> np.ndarray:
        """(N,) the chain of each entry."""
        return np.repeat(np.arange(self.start.size - 1), np.diff(self.start))

    @property
    def vector(self) -> np.ndarray:
        """(N,) the entries of ``base``, in memory of their own."""
        flat = self.base if self.order is None else self.base[self.order]
        out: np.ndarray = flat.cpu().numpy().copy()
        return out

    def points(self, vectors: Tensor) -> Point:
        """(..., n, d) of each block, from vectors (..., N)."""
        if self.order is None:
            full = vectors
        else:
            full = self.base.expand(*vectors.shape[:-1], -1).clone()
            full[..., self.order] = vectors
        if len(self.smooth.names) == 1:
            return (full.unflatten(-1, self._shapes()[0]),)
        parts = full.split([n * d for n, d in self._shapes()], -1)
        return tuple(p.unflatten(-1, s) for p, s in zip(parts, self._shapes(), strict=True))

    def _shapes(self) -> list[tuple[int, int]]:
        blocks = (self.smooth.graph.variables[n] for n in self.smooth.names)
        return [(b.num_sites, d.dim) for b, d in zip(blocks, self.smooth.domains, strict=True)]

    def evaluate(self, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """(R,) energies as float64, and the gradient (N,) in the point's own precision."""
        if self.program is None:
            energy, parts = self.smooth.with_gradient(point)
        else:
            energy, *rest = self.program(*point)
            parts = tuple(rest)
        flat = parts[0].reshape(-1) if len(parts) == 1 else torch.cat([g.reshape(-1) for g in parts])
        if self.order is not None:
            flat = flat[self.order]
        return energy.double().cpu().numpy(), flat.contiguous().cpu().numpy()

    def walls(self) -> np.ndarray:
        """(2, N) float64: lower and upper bounds of each entry; (2, 0) where nothing is bounded."""
        domains = [d for d in self.smooth.domains if isinstance(d, Real)]
        if not any(d.bounded for d in domains):
            return np.zeros((2, 0))
        sides: list[list[Tensor]] = [[], []]
        for name, domain in zip(self.smooth.names, domains, strict=True):
            for side, bound in zip(sides, domain.bounds(torch.float64), strict=True):
                side.append(bound.repeat(self.smooth.graph.variables[name].num_sites))
        flat = torch.stack([torch.cat(side) for side in sides])
        out: np.ndarray = (flat if self.order is None else flat[:, self.order.cpu()]).numpy()
        return out


def _wide(moving: Tensor, width: int) -> Tensor:
    return moving.cpu().expand(-1, width).reshape(-1)

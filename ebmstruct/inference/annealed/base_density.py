"""Densities of real blocks whose integrals are known: uniform between bounds, else normal, cut off at a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Real
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy, Step


@dataclass(frozen=True, eq=False)
class BaseDensity:
    """Independent coordinates, one density for each of the (n, d) of every open block, normalised.

    mean, scale: of the normal ones.  lower, upper: (d,) bounds, infinite where there is none.  Coordinates with two
    finite bounds are uniform..
    """

    mean: tuple[Tensor, ...]
    scale: tuple[Tensor, ...]
    lower: tuple[Tensor, ...]
    upper: tuple[Tensor, ...]

    @classmethod
    def of(cls, smooth: SmoothEnergy, mean: Sequence[Tensor], scale: Sequence[Tensor]) -> BaseDensity:
        """The density about ``mean`` (n, d) with ``scale`` (n, d), inside the bounds of the blocks."""
        bounds = [d.bounds(m.dtype) for d, m in zip(smooth.domains, mean, strict=True) if isinstance(d, Real)]
        return cls(tuple(mean), tuple(scale), tuple(b[0] for b in bounds), tuple(b[1] for b in bounds))

    def repeat(self, times: int) -> BaseDensity:
        """The density of ``times`` copies of every instance, copy after copy."""
        return BaseDensity(
            tuple(m.repeat(times, 1) for m in self.mean),
            tuple(s.repeat(times, 1) for s in self.scale),
            self.lower,
            self.upper,
        )

    def draw(self, smooth: SmoothEnergy, held: Sequence[Tensor], generator: Generator) -> Point:
        """A point; clamped sites keep what ``held`` (n, d) says."""
        out = []
        for m, s, lower, upper, old, moving in zip(
            self.mean, self.scale, self.lower, self.upper, held, smooth.moving, strict=True
        ):
            u = torch.rand(m.shape, dtype=torch.float64, generator=generator)
            below, above = _shares(m, s, lower, upper)
            x = m + s * torch.special.ndtri((below + (above - below) * u).clamp(1e-15, 1 - 1e-15)).to(m.dtype)
            flat = _flat(lower, upper)
            if bool(flat.any()):
                width = torch.where(flat, upper - lower, 0.0)
                x = torch.where(flat, lower.nan_to_num(0.0, 0.0, 0.0) + width * u.to(m.dtype), x)
            x = torch.minimum(torch.maximum(x, lower), upper)
            out.append(x if moving is None else torch.where(moving, x, old))
        return tuple(out)

    def log_density(self, smooth: SmoothEnergy, point: Sequence[Tensor]) -> Tensor:
        """(N,) float64, sums over the coordinates of an instance's open sites."""
        total: Tensor | None = None
        rows = zip(point, self.mean, self.scale, self.lower, self.upper, smooth.moving, smooth.instances, strict=True)
        for x, m, s, lower, upper, moving, instance in rows:
            below, above = _shares(m, s, lower, upper)
            z = ((x - m) / s).double()
            own = (
                -0.5 * z * z - 0.5 * math.log(2 * math.pi) - s.double().log() - (above - below).clamp(min=1e-300).log()
            )
            flat = _flat(lower, upper)
            if bool(flat.any()):
                own = torch.where(flat, -(upper - lower).double().log(), own)
            part = (own if moving is None else torch.where(moving, own, 0.0)).sum(1)
            if instance is not None:
                part = part.new_zeros(smooth.graph.num_instances).index_add(0, instance, part)
            total = part if total is None else total + part
        assert total is not None
        return total

    def gradient(self, point: Sequence[Tensor]) -> Step:
        """Of the log density, (n, d) for each block."""
        out = []
        for x, m, s, lower, upper in zip(point, self.mean, self.scale, self.lower, self.upper, strict=True):
            pull = (m - x) / (s * s)
            out.append(torch.where(_flat(lower, upper), torch.zeros_like(pull), pull))
        return tuple(out)


def _flat(lower: Tensor, upper: Tensor) -> Tensor:
    return lower.isfinite() & upper.isfinite()


def _shares(m: Tensor, s: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """(n, d) twice, float64: the normal's shares below its bounds; 0 and 1 where there is none."""
    return torch.special.ndtr(((lower - m) / s).double()), torch.special.ndtr(((upper - m) / s).double())

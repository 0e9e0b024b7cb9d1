"""Gabor functions fitted to filters: how much of each is one wave under one bell, where it lies, how fine, how turned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 40
LOWEST_SPREAD, HIGHEST_SPREAD, HIGHEST_FREQUENCY, OUTSIDE = 0.4, 8.0, 0.7, 3.0


@dataclass(frozen=True, eq=False)
class Gabors:
    """What fits each of n filters best, A exp(-u^2 / 2a^2 - v^2 / 2b^2) cos(2 pi f u + phase).

    r2: (n,) the share of a filter's squares that its Gabor function holds.  frequency: (n,) where the filter's spectrum is
    largest, in cycles a pixel; the f of a single edge may be anything, since sin(2 pi f u) is nearly u under a small bell.
    orientation: (n,) of the wave's crests, in degrees from 0 to 180, 0 being horizontal.  x, y: (n,) the middle, in pixels.
    """

    r2: Tensor
    frequency: Tensor
    orientation: Tensor
    x: Tensor
    y: Tensor


def fitted(filters: Tensor) -> Gabors:
    """Fit filters (n, s, s), all at once: least squares by Levenberg and Marquardt's steps, the best of four starts.

    Starts: at the largest square of a filter, or the middle of its squares, with the frequency and the direction that its
    spectrum has most of. Amplitude and phase enter linearly, as a cosine and a sine. The bell's spreads stay between 0.4
    and 8 pixels, frequencies up to 0.7 cycles a pixel (Jones and Palmer 1987 fitted receptive fields so).
    Cost: about a second for 200 filters of 12 x 12.
    """
    size = filters.shape[1]
    shapes = filters.double().flatten(1)
    shapes = shapes / shapes.norm(dim=1, keepdim=True).clamp_min(1e-12)
    starts = _starts(shapes.reshape(-1, size, size))
    grid = torch.arange(size, dtype=torch.float64)
    ys, xs = (g.flatten() for g in torch.meshgrid(grid, grid, indexing="ij"))
    count, each = starts.shape[:2]
    wanted = shapes.repeat_interleave(each, 0)
    found, error = _descend(starts.reshape(count * each, -1), wanted, xs, ys, size)
    best = error.reshape(count, each).min(1)
    chosen = found.reshape(count, each, -1)[torch.arange(count), best.indices]
    x, y, turn = chosen[:, :3].unbind(1)
    crests = (torch.rad2deg(turn) + 90) % 180
    return Gabors(1 - best.values, starts[:, 0, 5], crests, x, y)


def _starts(shapes: Tensor) -> Tensor:
    """(n, 4, 8): x, y, turn, two spreads, frequency, and the weights of cosine and sine."""
    count, size = shapes.shape[:2]
    square = shapes.square().flatten(1)
    peak = square.argmax(1)
    places = torch.arange(size * size)
    middle = torch.stack([square @ (places % size).double(), square @ (places // size).double()], 1)
    peaks = torch.stack([peak % size, peak // size], 1).double()
    fine = 4 * size
    spectrum = torch.fft.fft2(shapes, s=(fine, fine)).abs().flatten(1)
    largest = spectrum.argmax(1)
    ky, kx = ((k + fine // 2) % fine - fine // 2 for k in (largest // fine, largest % fine))
    turn, frequency = torch.atan2(ky.double(), kx.double()), torch.hypot(kx.double(), ky.double()) / fine
    out = torch.zeros(count, 4, 8, dtype=torch.float64)
    for j, (place, spread) in enumerate(((peaks, 2.0), (peaks, 1.2), (middle, 2.0), (middle, 3.0))):
        out[:, j, :2] = place
        out[:, j, 2], out[:, j, 5] = turn, frequency
        out[:, j, 3:5] = spread
        out[:, j, 6] = 0.3
    return out


def _gabor(p: Tensor, xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
    """(m, P) values of Gabor functions p (m, 8) at P places, and (m, P, 8) their derivatives."""
    x, y, turn, a, b, frequency, even, odd = (c[:, None] for c in p.unbind(1))
    cos, sin = torch.cos(turn), torch.sin(turn)
    dx, dy = xs - x, ys - y
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    bell = torch.exp(-0.5 * (u / a).square() - 0.5 * (v / b).square())
    phase = 2 * math.pi * frequency * u
    c, s = bell * torch.cos(phase), bell * torch.sin(phase)
    value = even * c + odd * s
    swung = odd * c - even * s  # the derivative by the phase
    by_u = 2 * math.pi * frequency * swung - value * u / a.square()
    by_v = -value * v / b.square()
    parts = (
        -by_u * cos + by_v * sin, -by_u * sin - by_v * cos, by_u * v - by_v * u, value * u.square() / a**3,
        value * v.square() / b**3, 2 * math.pi * u * swung, c, s,
    )  # fmt: skip
    return value, torch.stack(parts, 2)


def _descend(p: Tensor, wanted: Tensor, xs: Tensor, ys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Levenberg and Marquardt's steps from p (m, 8), each row by itself; where they end, and the squared errors (m,)."""
    _, jacobian = _gabor(p, xs, ys)
    linear = torch.linalg.lstsq(jacobian[..., 6:], wanted[..., None]).solution[..., 0]
    p = torch.cat([p[:, :6], linear.nan_to_num()], 1)
    value, jacobian = _gabor(p, xs, ys)
    error, damping = (wanted - value).square().sum(1), torch.full((len(p),), 1e-2, dtype=p.dtype)
    for _ in range(STEPS):
        normal = jacobian.mT @ jacobian
        right = jacobian.mT @ (wanted - value)[..., None]
        weight = damping[:, None] * normal.diagonal(dim1=1, dim2=2) + 1e-9
        step = torch.linalg.solve(normal + torch.diag_embed(weight), right)[..., 0]
        trial = _bounded(p + step, size)
        moved, bent = _gabor(trial, xs, ys)
        after = (wanted - moved).square().sum(1)
        better = after < error
        p, error = torch.where(better[:, None], trial, p), torch.where(better, after, error)
        value, jacobian = torch.where(better[:, None], moved, value), torch.where(better[:, None, None], bent, jacobian)
        damping = torch.where(better, damping / 3, damping * 4).clamp(1e-9, 1e9)
    return p, error


def _bounded(p: Tensor, size: int) -> Tensor:
    place = p[:, :2].clamp(-OUTSIDE, size + OUTSIDE)
    spreads = p[:, 3:5].clamp(LOWEST_SPREAD, HIGHEST_SPREAD)
    return torch.cat([place, p[:, 2:3], spreads, p[:, 5:6].clamp(0.0, HIGHEST_FREQUENCY), p[:, 6:]], 1)

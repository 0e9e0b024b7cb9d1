"""Energies of noised vectors: how far a vector lies from what a denoiser makes of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import Assignment, BlockFactor, FactorGraph, NoiseLevel, Real, Variables

FREQUENCIES = 8
"""Pairs of sine and cosine that tell the noise level to the network."""


class DenoisingEnergy(EnergyModel):
    """E(x, sigma) = |x - D(x, sigma)|^2 / (2 sigma^2) over vectors that carry normal noise of standard deviation sigma.

    D is a network in the preconditioned form of Karras et al. (2022), so that its output has unit size at every level. The
    model's score, -dE/dx, is that of a density, which that of a denoiser alone need not be (Salimans and Ho 2021);
    training by ``DenoisingScoreMatching`` makes D(x, sigma) the mean of the clean vector (Vincent 2011; Alain and Bengio
    2014). The energy's level at different noise levels means nothing.

    dim: d. The block ``block`` has d sites of one number for each instance, so that any part of a vector may be known. The
    block ``noise`` has one site an instance, clamped at the lowest level.
    spread: the standard deviation of the data's numbers.  lowest, highest: noise levels; the lowest should be below the
    finest detail that counts, the highest about the data's diameter.
    width, depth: of the network: ``depth`` residual blocks of two layers.  dropout: in each of them.
    classes: how many classes an input may be of; 0 for none. An input is then the class of an instance, or None.
    Cost: one pass through the network, and twice that for a slope.
    """

    def __init__(
        self,
        dim: int,
        *,
        spread: float = 1.0,
        lowest: float = 0.02,
        highest: float = 5.0,
        width: int = 128,
        depth: int = 3,
        dropout: float = 0.0,
        classes: int = 0,
        block: str = "x",
        noise: str = "noise",
    ) -> None:
        super().__init__()
        self.denoiser = Denoiser(dim, spread=spread, width=width, depth=depth, dropout=dropout, classes=classes)
        self.dim, self.levels, self.classes = dim, NoiseLevel(lowest, highest), classes
        self.block, self.noise = block, noise

    def forward(self, inputs: Any) -> FactorGraph:
        count, device = len(inputs), self.device
        each = torch.arange(count + 1, device=device)
        x, level = Variables(self.block, Real(1), each * self.dim), Variables(self.noise, self.levels, each)
        known: tuple[Tensor, ...] = ()
        if self.classes:  # the last row of the embedding is that of no class
            known = (torch.tensor([self.classes if c is None else c for c in inputs], device=device, dtype=torch.long),)
        factor = BlockFactor((self.block, self.noise), "denoiser", self.denoiser, known)
        lowest = self.levels.start(count, torch.float32).to(device)
        return FactorGraph([x, level], [factor]).condition(Assignment({self.noise: lowest}))


class Denoiser(nn.Module):
    """(B,) energies |x - D(x, sigma)|^2 / (2 sigma^2) of x (B d, 1) and log sigma (B, 1)."""

    def __init__(self, dim: int, *, spread: float, width: int, depth: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.dim, self.spread = dim, spread
        self.enter = nn.Linear(dim, width)
        self.level = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.class_of = nn.Embedding(classes + 1, width) if classes else None
        self.blocks = nn.ModuleList(_Residual(width, dropout) for _ in range(depth))
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.linspace(-3, 3, FREQUENCIES), persistent=False)

    def forward(self, x: Tensor, log_sigma: Tensor, *rest: Any) -> Tensor:
        """(B,): the last of ``rest`` are offsets; before them stands the class (B,), where there are classes."""
        rows, sigma = x.reshape(-1, self.dim), log_sigma.exp()
        total = (sigma.square() + self.spread**2).sqrt()
        answer = self._network(rows / total, log_sigma, rest[0] if self.class_of is not None else None)
        # x - D = (sigma / total)^2 x - (sigma spread / total) answer, and that is divided by sigma
        return 0.5 * (sigma / total.square() * rows - self.spread / total * answer).square().sum(1)

    def _network(self, x: Tensor, log_sigma: Tensor, classes: Tensor | None) -> Tensor:
        assert isinstance(self.frequencies, Tensor)
        angle = 0.25 * log_sigma.to(x.dtype) * self.frequencies.to(x.dtype)
        told = self.level(torch.cat([angle.sin(), angle.cos()], 1))
        if classes is not None and self.class_of is not None:
            told = told + self.class_of(classes)
        hidden = self.enter(x)
        for block in self.blocks:
            hidden = block(hidden, told)
        return self.leave(nn.functional.silu(hidden))


class _Residual(nn.Module):
    """h + W2 silu(W1 silu(h) + told)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second, self.told = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.second.bias)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        """(B, width) of (B, width) and what is told of level and class (B, width)."""
        inner = nn.functional.silu(self.first(nn.functional.silu(hidden)) + self.told(told))
        out: Tensor = hidden + self.second(self.dropout(inner))
        return out

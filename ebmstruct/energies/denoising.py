"""Energies of noised vectors: how far a vector lies from what a denoiser makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.denoising_pictures import PictureNetwork
from ebmstruct.energies.model import EnergyModel
from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, BlockFactor, FactorGraph, NoiseLevel, Real, Variables

FREQUENCIES = 8
"""Pairs of sine and cosine that tell the noise level to the network."""
FEW = 4
"""Vectors of so many numbers are also told to the network as waves."""


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
    shape: (channels, height, width) where the vector is a picture: the network is then a `PictureNetwork`, which from few
    pictures learns far more of what is common to all.
    width, depth: of the network: ``depth`` residual blocks of two layers; of a network of pictures the blocks stand where
    the picture is smallest, and ``width`` is that of its dense layers.  filters: channels of pictures at full size.
    dropout: in each block.  octaves: so many sines and cosines of each number, of angles that double, stand beside it at
    the entrance of a dense network, without which it takes very long to learn narrow modes (Tancik et al. 2020); none: 3
    for up to 4 numbers, where there is room for them, and 0 for more.
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
        shape: Sequence[int] | None = None,
        filters: int = 16,
        width: int = 128,
        depth: int = 3,
        dropout: float = 0.0,
        octaves: int | None = None,
        classes: int = 0,
        block: str = "x",
        noise: str = "noise",
    ) -> None:
        super().__init__()
        if not (0 < spread < math.inf and 0 <= dropout < 1 and min(width, depth, filters) >= 1):
            raise GraphError(
                "a denoiser needs a positive spread, width, depth and filters of at least 1, and dropout below 1; "
                f"found {spread}, {width}, {depth}, {filters} and {dropout}"
            )
        network: nn.Module
        if shape is None:
            waves = octaves if octaves is not None else (3 if dim <= FEW else 0)
            network = VectorNetwork(dim, told=width, width=width, depth=depth, dropout=dropout, octaves=waves)
        elif math.prod(shape) != dim:
            raise GraphError(f"a picture of shape {tuple(shape)} has {math.prod(shape)} numbers; found dim {dim}")
        else:
            network = PictureNetwork(shape, told=width, filters=filters, depth=depth, dropout=dropout, bottom=width)
        self.denoiser = Denoiser(network, dim, told=width, spread=spread, classes=classes)
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
    """(B,) energies |x - D(x, sigma)|^2 / (2 sigma^2) of x (B d, 1) and log sigma (B, 1).

    network: the answer (B, d), of unit size, to scaled vectors (B, d) and what is told of level and class (B, ``told``).
    """

    def __init__(self, network: nn.Module, dim: int, *, told: int, spread: float, classes: int) -> None:
        super().__init__()
        self.network, self.dim, self.spread = network, dim, spread
        self.level = nn.Sequential(nn.Linear(2 * FREQUENCIES, told), nn.SiLU(), nn.Linear(told, told))
        self.class_of = nn.Embedding(classes + 1, told) if classes else None
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.linspace(-3, 3, FREQUENCIES), persistent=False)

    def forward(self, x: Tensor, log_sigma: Tensor, *rest: Any) -> Tensor:
        """(B,): the last of ``rest`` are offsets; before them stands the class (B,), where there are classes."""
        kind = next(self.parameters()).dtype
        rows, log_sigma = x.reshape(-1, self.dim).to(kind), log_sigma.to(kind)
        sigma = log_sigma.exp()
        total = (sigma.square() + self.spread**2).sqrt()
        told = self._told(log_sigma, rest[0] if self.class_of is not None else None)
        answer = self.network(rows / total, told)
        # x - D = (sigma / total)^2 x - (sigma spread / total) answer, and that is divided by sigma
        return 0.5 * (sigma / total.square() * rows - self.spread / total * answer).square().sum(1)

    def _told(self, log_sigma: Tensor, classes: Tensor | None) -> Tensor:
        assert isinstance(self.frequencies, Tensor)
        angle = 0.25 * log_sigma * self.frequencies.to(log_sigma.dtype)
        told: Tensor = self.level(torch.cat([angle.sin(), angle.cos()], 1))
        if classes is not None and self.class_of is not None:
            told = told + self.class_of(classes)
        return told


class VectorNetwork(nn.Module):
    """(B, d) of noised vectors (B, d) and what is told of level and class (B, told): residual blocks of dense layers.

    octaves: sines and cosines of each number at the angles 1, 2, 4 ... times it.
    """

    def __init__(self, dim: int, *, told: int, width: int, depth: int, dropout: float, octaves: int) -> None:
        super().__init__()
        self.octaves = octaves
        self.enter = nn.Linear(dim * (1 + 2 * octaves), width)
        self.blocks = nn.ModuleList(_Residual(width, told, dropout) for _ in range(depth))
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """The network's answer, of the shape of x."""
        angles = [x * 2.0**octave for octave in range(self.octaves)]
        hidden = self.enter(torch.cat([x, *(a.sin() for a in angles), *(a.cos() for a in angles)], 1))
        for block in self.blocks:
            hidden = block(hidden, told)
        out: Tensor = self.leave(nn.functional.silu(hidden))
        return out


class _Residual(nn.Module):
    """h + W2 silu(W1 silu(h) + told)."""

    def __init__(self, width: int, told: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second, self.told = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(told, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.second.bias)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        """(B, width) of (B, width) and what is told of level and class (B, told)."""
        inner = nn.functional.silu(self.first(nn.functional.silu(hidden)) + self.told(told))
        out: Tensor = hidden + self.second(self.dropout(inner))
        return out

"""Convolutional energies of images: densities over pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ebmstruct.energies.experts import Spread, vectors
from ebmstruct.energies.model import EnergyModel
from ebmstruct.errors import GraphError
from ebmstruct.graph import BlockFactor, FactorGraph


class ImageNetwork(nn.Module):
    """(B,) energies of images (C, H, W): convolutions that halve the image each, then a linear layer.

    filters: channels after each convolution.  kernel: pixels, odd.  spectral: every layer is divided by an estimate of its
    largest singular value (Miyato et al. 2018), so that the energy's slope is bounded; in training the estimate is
    improved at each evaluation, in evaluation it is fixed. The activation SiLU is smooth: the energy has derivatives of
    every order, as score matching and Hamiltonian moves need.
    """

    def __init__(self, shape: tuple[int, int, int], filters: Sequence[int], kernel: int, spectral: bool) -> None:
        super().__init__()
        if kernel % 2 == 0 or not filters:
            raise GraphError(
                f"an odd kernel and at least one layer are needed; found kernel {kernel}, filters {filters}"
            )
        channels, height, width = shape
        norm = spectral_norm if spectral else _plain
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *filters)):
            layers += [norm(nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2)), nn.SiLU()]
            height, width = (height + 1) // 2, (width + 1) // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), norm(nn.Linear(filters[-1] * height * width, 1, bias=False)))
        self.shape = shape

    def forward(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of x (B, C H W)."""
        weight = next(self.parameters())
        out: Tensor = self.layers(x.to(weight.dtype).reshape(-1, *self.shape))[:, 0]
        return out


class ConvolutionalEnergy(EnergyModel):
    """E(x) = network(x) + |x|^2 / (2 spread^2) over images (Xie et al. 2016; Du and Mordatch 2019).

    channels, height, width: of an image, which is one site of ``Real(channels * height * width)``, row after row and
    channel after channel.  filters, kernel, spectral: of `ImageNetwork`.
    spread: None leaves the square out; a density over unbounded pixels needs it.
    An input may be anything: only how many there are counts.
    Inference: minimisers and samplers of smooth energies. Cost: that of the network.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        filters: Sequence[int] = (16, 32),
        kernel: int = 3,
        spectral: bool = False,
        spread: float | None = 1.0,
        block: str = "x",
    ) -> None:
        super().__init__()
        self.network = ImageNetwork((channels, height, width), filters, kernel, spectral)
        self.spread = None if spread is None else Spread(spread)
        self.dim, self.block = channels * height * width, block

    def forward(self, inputs: Any) -> FactorGraph:
        block = vectors(self.block, self.dim, len(inputs), self.device)
        factors = [BlockFactor((self.block,), "network", self.network)]
        if self.spread is not None:
            factors.append(BlockFactor((self.block,), "spread", self.spread))
        return FactorGraph([block], factors)


def _plain(layer: nn.Module) -> nn.Module:
    return layer

"""A convolutional network that takes noise out of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ebmstruct.errors import GraphError

SMALLEST = 4
"""Pictures are halved until their shorter side is no longer than this."""


class PictureNetwork(nn.Module):
    """(B, C H W) of noised pictures (B, C H W) and what is told of level and class (B, told): a U with a dense bottom.

    The picture is halved, with twice the channels each time, until its shorter side has at most ``SMALLEST`` pixels; there
    one layer sees all of it; then it is doubled again, and what stood at each size on the way down is added (after
    Ronneberger et al. 2015, and with noise levels Ho et al. 2020). Convolutions share what they learn between places, so
    that few pictures go farther than with dense layers; each pixel also has a learned value of its own at the entrance.
    Smooth throughout: it has derivatives of every order.

    shape: (C, H, W).  filters: channels at full size.  depth: residual blocks at the smallest size.  dropout: in each of
    the blocks.  bottom: width of the dense layer.
    Cost: O(H W filters^2 (2 + depth)) multiplications, nine of them each.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        told: int,
        filters: int = 16,
        depth: int = 2,
        dropout: float = 0.0,
        bottom: int = 128,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise GraphError(f"pictures have a shape (channels, height, width), all above 0; found {tuple(shape)}")
        self.shape = tuple(shape)
        channels, height, width = self.shape
        sizes = [(height, width)]
        while min(sizes[-1]) > SMALLEST:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        wide = [filters * 2**i for i in range(len(sizes))]
        self.enter = nn.Conv2d(channels, filters, 3, padding=1)
        self.places = nn.Parameter(torch.zeros(1, filters, height, width))
        self.before = nn.ModuleList(PictureBlock(w, told, dropout) for w in wide[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(wide))
        self.middle = nn.ModuleList(PictureBlock(wide[-1], told, dropout) for _ in range(max(1, depth)))
        numbers = wide[-1] * sizes[-1][0] * sizes[-1][1]
        self.gather, self.spread = nn.Linear(numbers, bottom), nn.Linear(bottom, numbers)
        self.whole, self.whole_told = nn.Linear(bottom, bottom), nn.Linear(told, bottom)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(wide))
        self.after = nn.ModuleList(PictureBlock(w, told, dropout) for w in wide[:-1])
        self.leave = nn.Conv2d(filters, channels, 3, padding=1)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """The network's answer, of the shape of x."""
        hidden = self.enter(x.reshape(-1, *self.shape)) + self.places
        kept: list[Tensor] = []
        for block, down in zip(self.before, self.down, strict=True):
            hidden = block(hidden, told)
            kept.append(hidden)
            height, width = hidden.shape[2:]
            hidden = down(nn.functional.pad(hidden, (0, width % 2, 0, height % 2)))
        hidden = self.middle[0](hidden, told)
        hidden = hidden + self._whole(hidden, told)
        for block in list(self.middle)[1:]:
            hidden = block(hidden, told)
        for block, up in reversed(list(zip(self.after, self.up, strict=True))):
            old = kept.pop()
            hidden = block(old + up(hidden)[:, :, : old.shape[2], : old.shape[3]], told)
        out: Tensor = self.leave(nn.functional.silu(hidden)).flatten(1)
        return out

    def _whole(self, hidden: Tensor, told: Tensor) -> Tensor:
        """What all places together say to each."""
        seen = nn.functional.silu(self.gather(hidden.flatten(1)) + self.whole_told(told))
        seen = nn.functional.silu(self.whole(seen) + seen)
        return self.spread(seen).reshape(hidden.shape)  # type: ignore[no-any-return]


class PictureBlock(nn.Module):
    """h + W2 * silu(W1 * silu(h) + told), with convolutions of 3 x 3 pixels."""

    def __init__(self, filters: int, told: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(filters, filters, 3, padding=1) for _ in range(2))
        self.told, self.dropout = nn.Linear(told, filters), nn.Dropout(dropout)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]
        with torch.no_grad():  # nearly the identity at first
            self.second.weight.mul_(0.1)

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        """(B, filters, H, W) of (B, filters, H, W) and (B, told)."""
        inner = nn.functional.silu(self.first(nn.functional.silu(hidden)) + self.told(told)[:, :, None, None])
        out: Tensor = hidden + self.second(self.dropout(inner))
        return out

"""Encoders: networks that turn the features of each site, and of those around it, into a vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils.rnn import PackedSequence

from ebmstruct.errors import GraphError


class ContextEncoder(nn.Module, ABC):
    """A network that looks at the sites around each site, and so must know where each instance begins."""

    @abstractmethod
    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """(n, D) vectors of sites with features x (n, F); instance b owns the sites offsets[b] ... offsets[b + 1] - 1."""


def encoded(encoder: nn.Module | None, x: Tensor, offsets: Tensor) -> Tensor:
    """(n, D) what an encoder makes of x (n, F): any torch module that works row by row, or a `ContextEncoder`."""
    if encoder is None:
        return x
    out: Tensor = encoder(x, offsets) if isinstance(encoder, ContextEncoder) else encoder(x)
    return out


class WindowEncoder(ContextEncoder):
    """A residual layer over a window: each site's vector plus a maxout of its own and its neighbours' vectors.

    x_i + dropout(norm(maxout(W [x_{i-w} ... x_{i+w}]))), with zeros beyond the ends of an instance (Collobert et al. 2011;
    maxout: Goodfellow et al. 2013). Several of them in an `EncoderStack` see further. Cost O(n width^2 (2 window + 1)).
    """

    def __init__(self, width: int, window: int = 1, pieces: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width * (2 * window + 1), width * pieces)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.window, self.pieces = window, pieces

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        return self.mixed(x, neighbours(offsets, self.window))

    def mixed(self, x: Tensor, around: Tensor) -> Tensor:
        """(n, width) of x (n, width); around: (n, 2 window + 1) rows of each site's neighbours, n for none."""
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
        h = self.linear(embedding(around, padded).flatten(1))
        out: Tensor = x + self.dropout(self.norm(maxout(h, self.pieces)))
        return out


class RecurrentEncoder(ContextEncoder):
    """LSTMs over each instance in both directions, on the flat layout: nothing is padded (Huang, Xu and Yu 2015).

    size: of the features.  width: of the vectors that come out, half for each direction; by default that of the features.
    """

    def __init__(self, size: int, width: int | None = None, depth: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        width = size if width is None else width
        if width % 2:
            raise GraphError(f"width: found {width}; a recurrent encoder needs an even one, half for each direction")
        between = dropout if depth > 1 else 0.0
        self.lstm = nn.LSTM(size, width // 2, depth, bidirectional=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.width = width

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        if not len(x):
            return x.new_zeros(0, self.width)
        order, sizes = packed_order(offsets)
        packed = PackedSequence(x[order], sizes)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        out: Tensor = self.dropout(self.lstm(packed)[0].data[back])
        return out


class EncoderStack(ContextEncoder):
    """Several encoders one after another, those with and those without context."""

    def __init__(self, *encoders: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        for encoder in self.encoders:
            x = encoded(encoder, x, offsets)
        return x


def maxout(x: Tensor, pieces: int) -> Tensor:
    """(n, d) the largest of each unit's pieces; x: (n, pieces * d)."""
    return reduce(torch.maximum, x.chunk(pieces, dim=1))


def neighbours(offsets: Tensor, window: int) -> Tensor:
    """(n, 2 window + 1) long: the sites around each site, and n where the instance has none there. O(n window)."""
    lengths, n = offsets.diff(), int(offsets[-1])
    low = torch.repeat_interleave(offsets[:-1], lengths)[:, None]
    high = torch.repeat_interleave(offsets[1:], lengths)[:, None]
    step = torch.arange(-window, window + 1, device=offsets.device)
    sites = torch.arange(n, device=offsets.device)[:, None] + step
    return torch.where((sites < low) | (sites >= high), n, sites)


def packed_order(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Sites by their place in the instance, longer instances first, and how many instances have each place (on the CPU).

    This is the order in which torch's recurrent layers take sequences of different lengths. O(n log n).
    """
    lengths = offsets.diff()
    rank = torch.empty_like(lengths)
    rank[torch.argsort(lengths, descending=True, stable=True)] = torch.arange(lengths.numel(), device=offsets.device)
    instance_rank = torch.repeat_interleave(rank, lengths)
    place = torch.arange(instance_rank.numel(), device=offsets.device) - torch.repeat_interleave(offsets[:-1], lengths)
    order = torch.argsort(place * lengths.numel() + instance_rank)
    return order, torch.bincount(place).cpu()

"""Semi-Markov chains: energies of whole segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.encoders import encoded
from ebmstruct.energies.inputs import Sites
from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import Discrete, FactorGraph, SegmentFactor, TableFactor, Variables


class SegmentEnergy(EnergyModel):
    """A semi-Markov conditional random field (Sarawagi and Cohen 2004): segments of K labels, scored as wholes.

    E(x, s) = sum over sites t of (W h_t + b)[state] + sum over segments (first i, l sites, label k) of
    (length[l, k] + (V m_il)[k] + A[label before, k]) + start[first label] + end[last label],
    with h = encoder(x) and m_il = [mean, last - first] of h over the segment's sites: what is not a sum over sites.

    width: of the vectors h.  labels: K.  max_length: L, sites of the longest segment; longer ones are forbidden.
    pooled: whether segments have the energy V m, which starts at zero.  encoder, block: as for `ChainEnergy`.
    The block has 2 K states: 2 k begins a segment of label k and 2 k + 1 continues one (`SegmentFactor.spell`).
    An input is a tensor (n, F).  Inference: exact, by the kernel of segments.
    Cost of the energy O(n K width), with ``pooled`` O(n L K width).
    """

    def __init__(
        self,
        width: int,
        labels: int,
        max_length: int,
        *,
        encoder: nn.Module | None = None,
        pooled: bool = True,
        block: str = "y",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(width, 2 * labels)
        self.lengths = nn.Parameter(torch.zeros(max_length, labels))
        self.transition = nn.Parameter(torch.zeros(labels, labels))
        self.start = nn.Parameter(torch.zeros(labels))
        self.end = nn.Parameter(torch.zeros(labels))
        self.pooled = nn.Linear(2 * width, labels, bias=False) if pooled else None
        if self.pooled is not None:
            nn.init.zeros_(self.pooled.weight)
        self.block = block

    def prepare(self, xs: Sequence[Any]) -> Sites:
        return Sites.of(xs)

    def forward(self, inputs: Sites) -> FactorGraph:
        sites = inputs.to(self.device)
        h = encoded(self.encoder, sites.features, sites.offsets)
        longest, labels = self.lengths.shape
        segments = None if self.pooled is None else self.pooled(segment_vectors(h, sites.offsets, longest))
        block = Variables(self.block, Discrete(2 * labels), sites.offsets)
        factor = SegmentFactor((self.block,), "segment", self.lengths, self.transition, self.start, self.end, segments)
        return FactorGraph([block], [TableFactor((self.block,), "site", self.output(h)), factor])


def segment_vectors(h: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """(n, L, 2 D): the mean of h (n, D) over the segment of each length that begins at each site, and last less first.

    Zero where a segment would reach beyond its instance. By sums of prefixes: O(n L D).
    """
    n = h.shape[0]
    first = torch.arange(n, device=h.device)[:, None]
    beyond = first + torch.arange(1, longest + 1, device=h.device)
    inside = beyond <= torch.repeat_interleave(offsets[1:], offsets.diff())[:, None]
    beyond = beyond.clamp(max=n)
    # in double precision, since differences of long sums lose digits
    sums = torch.cat([h.new_zeros(1, h.shape[1], dtype=torch.float64), h.double().cumsum(0)])
    mean = (sums[beyond] - sums[first]) / (beyond - first)[..., None]
    slope = h[beyond - 1] - h[first]
    return torch.cat([mean.to(h.dtype), slope], 2) * inside[..., None]

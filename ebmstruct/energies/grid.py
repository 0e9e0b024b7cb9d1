"""Grids of pixels: energies of pixels, and of neighbours that may differ where the image does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebmstruct.energies.encoders import encoded
from ebmstruct.energies.inputs import Sites
from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import Discrete, FactorGraph, GridFactor, TableFactor, Variables, potts_table


@dataclass(frozen=True, eq=False)
class Images:
    """Images with F features a pixel, row after row.  sites: the pixels.  widths: (B,) long, pixels in a row of each."""

    sites: Sites
    widths: Tensor

    @classmethod
    def of(cls, xs: Sequence[Any]) -> Images:
        """From tensors (F, H, W), which may differ in H and W."""
        widths = torch.tensor([x.shape[2] for x in xs], dtype=torch.long)
        return cls(Sites.of([torch.as_tensor(x).flatten(1).T for x in xs]), widths)

    def __len__(self) -> int:
        return len(self.sites)

    def select(self, positions: Sequence[int]) -> Images:
        return Images(self.sites.select(positions), self.widths[torch.as_tensor(positions, dtype=torch.long)])

    def to(self, device: torch.device | str) -> Images:
        """The same on a device."""
        return Images(self.sites.to(device), self.widths.to(device))


class GridEnergy(EnergyModel):
    """A conditional random field over the pixels of images, four neighbours each, sensitive to contrast.

    E(x, y) = sum_i (W h_i + b)[y_i] + sum over neighbours i, j of w_ij T[y_i, y_j],
    w_ij = softplus(a) + softplus(c) exp(-|x_i - x_j|^2 / (2 s^2)),
    where s^2 is the mean of |x_i - x_j|^2 over the neighbours of the same image: borders are cheap where the image has one
    (Boykov and Jolly 2001; the constant part and s as Rother, Kolmogorov and Blake 2004).

    width: of the vectors h = encoder(x); an encoder works pixel by pixel. Features that see around a pixel (filters, a
    network's) belong into the input.  states: K.
    table: ``potts``, T = 1 where states differ, which keeps graph cuts and expansion moves exact or near; ``learned``, any
    T, which starts as Potts.  contrast: whether w depends on the image.
    An input is a tensor (F, H, W); images may differ in size.  Cost of the energy O(pixels K width).
    """

    def __init__(
        self,
        width: int,
        states: int,
        *,
        encoder: nn.Module | None = None,
        table: Literal["potts", "learned"] = "potts",
        contrast: bool = True,
        block: str = "y",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(width, states)
        self.base = nn.Parameter(torch.zeros(()))
        self.contrast = nn.Parameter(torch.zeros(())) if contrast else None
        self.table: Tensor
        if table == "learned":
            self.table = nn.Parameter(potts_table(states))
        else:
            self.register_buffer("table", potts_table(states), persistent=False)
        self.states, self.block = states, block

    def prepare(self, xs: Sequence[Any]) -> Images:
        return Images.of(xs)

    def forward(self, inputs: Images) -> FactorGraph:
        images = inputs.to(self.device)
        x, offsets = images.sites.features, images.sites.offsets
        block = Variables(self.block, Discrete(self.states), offsets)
        unary = TableFactor((self.block,), "site", self.output(encoded(self.encoder, x, offsets)))
        blank = GridFactor((self.block,), "neighbour", self.table, x[:, 0], x[:, 0], images.widths)
        right, down = self._weights(x, blank, block)
        return FactorGraph([block], [unary, blank.with_values(self.table, right, down)])

    def _weights(self, x: Tensor, grid: GridFactor, block: Variables) -> tuple[Tensor, Tensor]:
        """(n,) weights of the pairs to the right and down; those of pairs that do not exist are finite and not used."""
        base = nn.functional.softplus(self.base).to(x)
        if self.contrast is None:
            return base.expand(x.shape[0]), base.expand(x.shape[0])
        (right, down), width = grid.first_sites(block), grid.widths[block.instance]
        across = x.new_zeros(x.shape[0]).index_put((right,), (x[right + 1] - x[right]).square().sum(1))
        along = x.new_zeros(x.shape[0]).index_put((down,), (x[down + width[down]] - x[down]).square().sum(1))
        pairs = torch.cat([block.instance[right], block.instance[down]])
        count = torch.bincount(pairs, minlength=block.num_instances).clamp(min=1)
        total = x.new_zeros(block.num_instances).index_add(0, block.instance, across + along)
        square = (total / count).clamp(min=torch.finfo(x.dtype).tiny)[block.instance]
        weight = nn.functional.softplus(self.contrast)
        return tuple(base + weight * torch.exp(-d / (2 * square)) for d in (across, along))  # type: ignore[return-value]

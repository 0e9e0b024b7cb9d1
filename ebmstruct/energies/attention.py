"""Attention energies of sets and sequences: every site looks at every other of its instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.experts import Spread, sum_by_instance
from ebmstruct.energies.inputs import Sites
from ebmstruct.energies.model import EnergyModel
from ebmstruct.errors import GraphError
from ebmstruct.graph import BlockFactor, Discrete, FactorGraph, Real, Variables


class AttentionLayer(nn.Module):
    """x + attention(norm(x)), then x + network(norm(x)) (Vaswani et al. 2017, with the norm inside as Xiong et al. 2020).

    Written out, so that it may be differentiated as often as wanted.  width: a multiple of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise GraphError(f"width: found {width}; it must be a multiple of the {heads} heads")
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mix = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.heads = heads

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, width) of x (B, T, width); real: (B, T) bool, places that hold a site."""
        batch, places, width = x.shape
        mixed = self.mix(self.norms[0](x)).reshape(batch, places, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        score = query @ key.mT / (width // self.heads) ** 0.5
        share = score.masked_fill(~real[:, None, None], torch.finfo(score.dtype).min).softmax(-1)
        x = x + self.join((share @ value).transpose(1, 2).reshape(batch, places, width))
        out: Tensor = x + self.network(self.norms[1](x))
        return out


class AttentionNetwork(nn.Module):
    """(B,) energies of the sites of each instance: embedded, passed through attention layers, and summed.

    The sum and the layers treat all sites alike, so the order of sites does not matter (Zaheer et al. 2017, Lee et al.
    2019), unless ``positions`` adds the sinusoids of Vaswani et al. 2017.
    """

    def __init__(self, size: int, width: int, heads: int, layers: int, positions: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(size, width)
        self.layers = nn.ModuleList(AttentionLayer(width, heads) for _ in range(layers))
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.positions = positions

    def forward(self, y: Tensor, features: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of values or weights y (n, d) and features (B, T, F), T at least the most sites of an instance."""
        instance, place = places(offsets[0])
        flat = self.embed(torch.cat([features[instance, place], y.to(features.dtype)], 1))
        if self.positions:
            flat = flat + sinusoids(place, flat.shape[1]).to(flat.dtype)
        x = flat.new_zeros(*features.shape[:2], flat.shape[1]).index_put((instance, place), flat)
        real = torch.arange(x.shape[1], device=x.device) < offsets[0].diff()[:, None]
        for layer in self.layers:
            x = layer(x, real)
        return sum_by_instance(self.output(x[instance, place])[:, 0], offsets[0])


class AttentionEnergy(EnergyModel):
    """An energy of all sites of an instance together, by attention: sets of any size, and sequences.

    E(x, y) = sum_i f(z_i) [+ sum_i |y_i|^2 / (2 spread^2)], z = attention layers over the embedded pairs (x_i, y_i).

    features: F of an input's sites.  states: K of a discrete block, of which the energy also takes weights; or
    dim: d of a block of ``Real(d)``. One of the two is given.
    spread: of the square that keeps real sites from running away, without which there is no density; None leaves it out.
    width, heads, layers: of the network.  positions: whether order matters.
    An input is a tensor (n, F); F may be 0, then only its length counts.
    Inference: no bound. Descents on weights, Gibbs sampling, or minimisers and samplers of smooth energies.
    Cost: O(B T^2 width), T the longest instance: shorter ones are padded inside.
    """

    def __init__(
        self,
        features: int,
        *,
        states: int | None = None,
        dim: int | None = None,
        width: int = 32,
        heads: int = 2,
        layers: int = 2,
        positions: bool = False,
        spread: float | None = 1.0,
        block: str = "y",
    ) -> None:
        super().__init__()
        if (states is None) == (dim is None):
            raise GraphError(f"either states or dim must be given; found states {states} and dim {dim}")
        size = dim if states is None else states
        assert size is not None
        self.network = AttentionNetwork(features + size, width, heads, layers, positions)
        self.domain = Real(size) if states is None else Discrete(size)
        self.spread = None if spread is None or dim is None else Spread(spread)
        self.block = block

    def prepare(self, xs: Sequence[Any]) -> Sites:
        return Sites.of(xs)

    def forward(self, inputs: Sites) -> FactorGraph:
        sites = inputs.to(self.device)
        block = Variables(self.block, self.domain, sites.offsets)
        relaxed = isinstance(self.domain, Discrete)
        # one row an instance, as the inputs of a function must be
        instance, place = places(sites.offsets)
        shape = (len(sites), int(place.max()) + 1 if place.numel() else 0, sites.features.shape[1])
        features = sites.features.new_zeros(shape).index_put((instance, place), sites.features)
        factor = BlockFactor((self.block,), "attention", self.network, (features,), relaxed=relaxed)
        graph = FactorGraph([block], [factor])
        return graph if self.spread is None else graph.add(BlockFactor((self.block,), "spread", self.spread))


def places(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) long each: the instance of every site, and its place there."""
    count, sites = offsets.numel() - 1, int(offsets[-1])
    lengths = offsets.diff()
    instance = torch.repeat_interleave(torch.arange(count, device=offsets.device), lengths, output_size=sites)
    return instance, torch.arange(sites, device=offsets.device) - offsets[instance]


def sinusoids(place: Tensor, width: int) -> Tensor:
    """(n, width) sines and cosines of places (n,), of wavelengths 2 pi to 20000 pi."""
    rate = 10000.0 ** (-torch.arange(0, width, 2, device=place.device) / width)
    angle = place[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)[:, :width]

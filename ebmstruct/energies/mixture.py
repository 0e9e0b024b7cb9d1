"""Mixtures of Gaussians, with the component of each vector as a latent variable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.experts import vectors
from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import Discrete, FactorGraph, ResidualFactor, TableFactor, Variables


class MixtureEnergy(EnergyModel):
    """E(z, x) = sum_i (x_i - m_zi)^2 / (2 s_zi^2) + sum_i log s_zi - log share_z, z one of K components.

    Summed over z it is the negative logarithm of a mixture of Gaussians with diagonal covariances, but for the constant
    (d / 2) log 2 pi. ``latent_block`` is latent: a target does not know it, a query sums it out.

    dim: d.  components: K.  An input may be anything: only how many there are counts.
    Parameters: mean (K, d), random at first, log_spread (K, d), logit (K,) of the shares.
    Inference: exact by conditional Gaussians. Cost of the energy O(d), K times that summed out.
    """

    def __init__(self, dim: int, components: int, *, block: str = "x", latent_block: str = "z") -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(components, dim))
        self.log_spread = nn.Parameter(torch.zeros(components, dim))
        self.logit = nn.Parameter(torch.zeros(components))
        self.distance = StandardisedDistance()
        self.dim, self.components, self.block, self.latent_block = dim, components, block, latent_block

    def forward(self, inputs: Any) -> FactorGraph:
        count = len(inputs)
        x = vectors(self.block, self.dim, count, self.device)
        z = Variables(self.latent_block, Discrete(self.components), x.offsets)
        share = self.log_spread.sum(1) - self.logit.log_softmax(0)
        rows = torch.arange(count, device=self.device).expand(2, -1)
        given = tuple(t.expand(count, -1, -1) for t in (self.mean, (-self.log_spread).exp()))
        distance = ResidualFactor((z.name, x.name), "distance", self.distance, rows, given, linear=True)
        return FactorGraph([z, x], [TableFactor((z.name,), "share", share.expand(count, -1)), distance])


class StandardisedDistance(nn.Module):
    """(x - m_z) p_z: affine in x."""

    def forward(self, z: Tensor, x: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
        """(m, d) of states z (m,), x (m, d), and means and precisions (m, K, d)."""
        at = z[:, None, None].expand(-1, 1, mean.shape[2])
        out: Tensor = (x - mean.gather(1, at)[:, 0]) * precision.gather(1, at)[:, 0]
        return out

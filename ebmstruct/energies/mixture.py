"""Mixtures of Gaussians, with the component of each vector as a latent variable."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from ebmstruct.energies.experts import vectors
from ebmstruct.energies.mixture_fitting import Components, fitted
from ebmstruct.energies.model import EnergyModel
from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph, GaussianFactor, Real, TableFactor, Variables

CovarianceName = Literal["diagonal", "full", "low_rank"]


class MixtureEnergy(EnergyModel):
    """E(z, x) = -log share_z - log N(x; m_z, C_z), z one of K components: a normalised density once z is summed out.

    ``latent_block`` is latent: a target does not know it, a query sums it out. The log partition is 0.

    dim: d.  components: K.  An input may be anything: only how many there are counts.
    covariance: ``diagonal``; ``full``; ``low_rank``: diagonal and ``rank`` directions (factor analysers).
    sites: x is d sites of ``Real(1)`` an instance, so that each coordinate may be known or not; else one site of
    ``Real(d)``, known as a whole.
    em: rounds of expectation maximisation on examples of the training data, from k-means, before the first step of a
    training (``initialise``); 0: weights begin at random, and only steps change them.
    floor: least variance that these rounds leave to a coordinate, as a share of its variance over the data.
    Parameters: mean (K, d), log_spread (K, d), logit (K,) of the shares; beside them ``below`` (K, d, d) for full
    covariances, whose lower factor has exp(log_spread) on and ``below`` under its diagonal, or ``loading`` (K, d, rank).
    Inference: exact, whatever coordinates are known (solver gaussian_mixture). Cost: K densities, O(d), O(d rank) or O(d^2)
    each. Source: Dempster, Laird and Rubin (1977); Ghahramani and Hinton (1996).
    """

    def __init__(
        self,
        dim: int,
        components: int,
        *,
        covariance: CovarianceName = "diagonal",
        rank: int = 4,
        sites: bool = False,
        em: int = 0,
        floor: float = 1e-3,
        block: str = "x",
        latent_block: str = "z",
    ) -> None:
        super().__init__()
        if components < 1 or rank < 1 or em < 0 or not floor > 0:
            raise GraphError(
                f"a mixture needs components and rank of at least 1, em of at least 0 and a positive floor; found "
                f"components {components}, rank {rank}, em {em}, floor {floor}"
            )
        self.mean = nn.Parameter(torch.randn(components, dim))
        self.log_spread = nn.Parameter(torch.zeros(components, dim))
        self.logit = nn.Parameter(torch.zeros(components))
        self.below = nn.Parameter(torch.zeros(components, dim, dim)) if covariance == "full" else None
        self.loading = (
            nn.Parameter(0.1 * torch.randn(components, dim, min(rank, dim))) if covariance == "low_rank" else None
        )
        self.dim, self.components, self.sites, self.em, self.floor = dim, components, sites, em, floor
        self.block, self.latent_block = block, latent_block

    def forward(self, inputs: Any) -> FactorGraph:
        count = len(inputs)
        x = vectors(self.block, self.dim, count, self.device)
        z = Variables(self.latent_block, Discrete(self.components), x.offsets)
        if self.sites:
            x = Variables(self.block, Real(1), x.offsets * self.dim)
        scale = self.log_spread.exp()
        if self.below is not None:
            scale = torch.diag_embed(scale) + self.below.tril(-1)
        share = -self.logit.log_softmax(0)
        gaussians = GaussianFactor((z.name, x.name), "component", self.mean, scale, self.loading)
        return FactorGraph([z, x], [TableFactor((z.name,), "share", share.expand(count, -1)), gaussians])

    @property
    def initialises(self) -> bool:
        return self.em > 0

    @torch.no_grad()
    def initialise(self, graph: FactorGraph, target: Assignment, generator: Generator) -> None:
        """Rounds of expectation maximisation on the target's vectors; coordinates that it does not know are filled in."""
        x = target[self.block].reshape(-1, self.dim).double()
        known = target.known.get(self.block)
        if known is not None:
            x = x.masked_fill(~known[:, None].expand(target[self.block].shape).reshape(x.shape), torch.nan)
        kind: CovarianceName = (
            "full" if self.below is not None else "low_rank" if self.loading is not None else "diagonal"
        )
        rank = 0 if self.loading is None else self.loading.shape[2]
        self.take(fitted(x, self.components, kind, rank, rounds=self.em, floor=self.floor, generator=generator))

    @torch.no_grad()
    def take(self, found: Components) -> None:
        """Set the parameters to components that were found otherwise."""
        self.mean.copy_(found.mean)
        self.logit.copy_(found.log_share)
        if self.below is not None:
            self.log_spread.copy_(found.scale.diagonal(dim1=1, dim2=2).log())
            self.below.copy_(found.scale.tril(-1))
            return
        self.log_spread.copy_(found.scale.log())
        if self.loading is not None and found.loading is not None:
            self.loading.copy_(found.loading)

    def filters(self) -> Tensor:
        """(K, d): the means, to be drawn."""
        return self.mean.detach()

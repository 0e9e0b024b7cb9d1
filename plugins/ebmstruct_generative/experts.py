"""Products of experts over records: many simple densities that multiply, each along a direction of its own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ebmstruct import ProductOfExperts, StudentTExpert, UniGaussExpert
from ebmstruct_generative.records import RECORD, RecordSchema


class Experts(ProductOfExperts):
    """A product of experts over records (Hinton 2002), each record one vector.

    kind: ``student``, heavy tails along each direction (Teh, Welling, Osindero and Hinton 2003); ``unigauss``, a Gaussian
    along a direction mixed with a uniform density; ``network``, small networks of a hidden layer.
    count: of the directions, or of the networks.  width: of a network.  spread: adds |x|^2 / (2 spread^2), without which
    neither the second nor the third can be normalised.
    Smooth: draw by ``hmc``, ``nuts`` or ``langevin``; train by score matching or contrastive divergence.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        kind: Literal["student", "unigauss", "network"] = "student",
        count: int = 64,
        width: int = 64,
        spread: float = 3.0,
    ) -> None:
        dim = schema.dim
        experts: list[nn.Module]
        if kind == "network":
            experts = [NetworkExpert(dim, width) for _ in range(count)]
        else:
            experts = [StudentTExpert(dim, count) if kind == "student" else UniGaussExpert(dim, count)]
        super().__init__(dim, experts, spread=spread, block=RECORD)
        self.kind = kind

    def filters(self) -> Tensor:
        """(count, d): the direction of each expert; of networks the first weights of all."""
        weights = [getattr(e.expert, "weight") for e in self.experts]  # noqa: B009 - modules of three kinds
        out: Tensor = torch.cat(weights).detach()
        return out.reshape(-1, self.dim)


class NetworkExpert(nn.Module):
    """The energy a^T softplus(W x + b): a network of one hidden layer, smooth in x.

    dim: d.  width: of the hidden layer. Parameters: weight (width, d), bias (width,), out (width,).
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        layer = nn.Linear(dim, width)
        self.weight, self.bias = layer.weight, layer.bias
        self.out = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B,) of x (B, d)."""
        inner = nn.functional.linear(x.to(self.bias.dtype), self.weight, self.bias)
        energy: Tensor = self.out(nn.functional.softplus(inner))[:, 0]
        return energy

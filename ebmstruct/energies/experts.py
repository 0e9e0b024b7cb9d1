"""Products of experts: densities over vectors that multiply, so that energies add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import BlockFactor, FactorGraph, Real, Slope, Variables


class ProductOfExperts(EnergyModel):
    """E(x) = sum_m E_m(x) over vectors: p(x) proportional to the product of the experts' densities (Hinton 2002).

    dim: d; every instance is one site of ``Real(dim)``.  experts: torch modules from (B, d) to (B,), each the energy of one
    expert, smooth in x. Each is a factor of its own, labelled ``expert0`` ..., so that a result tells what each says. One
    that knows its derivatives offers them as ``slope_and_laplacian``: x (B, d) to the gradient (B, d) and the trace of the
    Hessian (B,), and exact score matching then costs about as much as the energy.
    spread: adds |x|^2 / (2 spread^2), so that the density can be normalised whatever the experts are; None adds nothing.
    An input may be anything: only how many there are counts.
    Inference: minimisers and samplers of smooth energies; the log partition by annealed importance sampling.
    """

    def __init__(
        self, dim: int, experts: Sequence[nn.Module], *, spread: float | None = None, block: str = "x"
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(_Expert(e) for e in experts)
        self.spread = None if spread is None else Spread(spread)
        self.dim, self.block = dim, block

    def forward(self, inputs: Any) -> FactorGraph:
        block = vectors(self.block, self.dim, len(inputs), self.device)
        factors = [BlockFactor((self.block,), f"expert{m}", e) for m, e in enumerate(self.experts)]
        if self.spread is not None:
            factors.append(BlockFactor((self.block,), "spread", self.spread))
        return FactorGraph([block], factors)


class UniGaussExpert(nn.Module):
    """E(x) = -sum_j log(1 - a_j + a_j exp(-(w_j^T x + b_j)^2 / 2)), 0 < a_j < 1: a product of "unigauss" experts.

    Hinton 2002: each expert is a mixture of a Gaussian along a direction w_j and of a uniform density: it rules out what
    breaks its constraint w_j^T x = -b_j, but has little to say about how badly. Not normalisable alone: add a spread.
    dim: d.  count: of the experts j. Parameters: weight (count, d), random at first; bias (count,); logit (count,) of a.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(count))
        self.logit = nn.Parameter(torch.zeros(count))

    def forward(self, x: Tensor) -> Tensor:
        """(B,) of x (B, d)."""
        answer = x.to(self.bias.dtype) @ self.weight.T + self.bias
        log = nn.functional.logsigmoid
        return -torch.logaddexp(log(-self.logit), log(self.logit) - 0.5 * answer.square()).sum(1)


class Spread(nn.Module):
    """|x|^2 / (2 spread^2): what keeps an energy over vectors normalisable.  spread: a constant."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread

    def forward(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of x (n, d), summed over the sites of each instance."""
        square = x.square().sum(1) / (2 * self.spread**2)
        return sum_by_instance(square, offsets[0])

    def slope_and_laplacian(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Slope:
        """x / spread^2, and d / spread^2 for each site."""
        precision = self.spread**-2
        return x * precision, x.new_full((x.shape[0],), x.shape[1] * precision)


class _Expert(nn.Module):
    """An expert as the function of a block: the offsets of one site an instance say nothing."""

    def __init__(self, expert: nn.Module) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of x (B, d)."""
        out: Tensor = self.expert(x)
        return out

    def slope_and_laplacian(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Slope | None:
        """Those of the expert, None where it offers none."""
        offered = getattr(self.expert, "slope_and_laplacian", None)
        found: Slope | None = None if offered is None else offered(x)
        return found


def vectors(block: str, dim: int, count: int, device: torch.device) -> Variables:
    """A block of one vector (dim,) for each of ``count`` instances."""
    return Variables(block, Real(dim), torch.arange(count + 1, device=device))


def sum_by_instance(rows: Tensor, offsets: Tensor) -> Tensor:
    """(B,) sums of rows (n,) over the sites of each instance; differentiable as often as wanted."""
    count = offsets.numel() - 1
    instance = torch.repeat_interleave(
        torch.arange(count, device=rows.device), offsets.diff(), output_size=rows.shape[0]
    )
    return rows.new_zeros(count).index_add(0, instance, rows)

"""Experts over the answers of filters, with slopes and curvature in closed form, and what is latent in them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ebmstruct.energies.scale_mixtures import ScalePosterior, gamma_posterior, polya_gamma_posterior


class FilterExpert(nn.Module, ABC):
    """E(x) = sum_j a_j f(n_j w_j^T (x - m)), a_j > 0: experts that look at x through filters w_j.

    dim: d.  count: of the filters j, fewer or more than d. The density can be normalised where the w_j span the space and
    the a_j are large enough.
    unit_rows: the w_j are of length 1, whatever their parameters' length, and how sharp an expert is, is a number n_j of
    its own; without it the length of w_j is, and n_j = 1.  tied: all experts have one a, and one n: far fewer numbers to
    learn from the tails of the data.  power, sharpness: what a_j and n_j (or the lengths, about) begin with.
    learn_sharpness: whether the n_j of unit rows change in training.
    Parameters: weight (count, d), random directions at first; log_power (count,) or (1,), the logarithms of a_j;
    log_sharpness, the same of n_j, where rows are of length 1; mean (d,).
    A subclass gives f with its first two derivatives, and the latent precisions behind it.
    """

    def __init__(
        self,
        dim: int,
        count: int,
        *,
        unit_rows: bool = False,
        tied: bool = False,
        power: float = 1.0,
        sharpness: float = 1.0,
        learn_sharpness: bool = True,
    ) -> None:
        super().__init__()
        self.dim, self.count, self.unit_rows = dim, count, unit_rows
        each = 1 if tied else count
        # unit rows may have any length, and turn the slower the longer they are: entries of about 1 suit step sizes of 0.01
        self.weight = nn.Parameter(torch.randn(count, dim) * (1.0 if unit_rows else sharpness / dim**0.5))
        self.log_power = nn.Parameter(torch.full((each,), math.log(power)))
        if unit_rows:
            self.log_sharpness = nn.Parameter(torch.full((each,), math.log(sharpness)), learn_sharpness)
        else:
            self.register_parameter("log_sharpness", None)
        self.mean = nn.Parameter(torch.zeros(dim))

    def filters(self) -> Tensor:
        """(count, d): n_j w_j, so that the answers are the products with x - m."""
        if self.log_sharpness is None:
            return self.weight
        return self.weight * (self.log_sharpness.exp()[:, None] / self.weight.norm(dim=1, keepdim=True))

    def powers(self) -> Tensor:
        """(count,): a_j."""
        return self.log_power.exp().expand(self.count)

    def answers(self, x: Tensor) -> Tensor:
        """(B, count) of x (B, d): n_j w_j^T (x - m)."""
        return self._through(x, self.filters())

    def forward(self, x: Tensor) -> Tensor:
        """(B,) of x (B, d)."""
        return self.potential(self.answers(x)) @ self.powers()

    def slope_and_laplacian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, d) the gradient by x and (B,) the trace of the Hessian, of x (B, d).

        Two products with the filters and one with their squared lengths: what the energy and its gradient cost.
        """
        filters, power = self.filters(), self.powers()
        first, second = self.derivatives(self._through(x, filters))
        return (first * power) @ filters, second @ (power * filters.square().sum(1))

    def _through(self, x: Tensor, filters: Tensor) -> Tensor:
        """(B, count) answers of given filters; the mean is taken from them, not from x, which is the longer."""
        return torch.addmm(-(filters @ self.mean), x.to(filters.dtype), filters.T)

    @torch.no_grad()
    def scatter(self, generator: torch.Generator) -> None:
        """Draw the directions of the filters anew, and keep their lengths."""
        drawn = torch.randn(self.weight.shape, generator=generator, device=generator.device).to(self.weight)
        lengths = self.weight.norm(dim=1, keepdim=True)
        self.weight.copy_(drawn * lengths / drawn.norm(dim=1, keepdim=True))

    @abstractmethod
    def potential(self, answer: Tensor) -> Tensor:
        """f of every answer, in its shape."""

    @abstractmethod
    def derivatives(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        """f' and f'' of every answer, in its shape."""

    @abstractmethod
    def log_integral(self, power: Tensor) -> Tensor:
        """log of the integral of exp(-a f(s)) over s, of a in any shape; infinite where it does not exist."""

    @abstractmethod
    def scales(self, answer: Tensor, num_samples: int, generator: torch.Generator) -> ScalePosterior:
        """What is known of the latent precision u of every answer (B, count): p(u | s), with ``num_samples`` draws."""


class StudentTExpert(FilterExpert):
    """f(s) = log(1 + s^2 / 2): a product of Student-t experts (Teh, Welling, Osindero and Hinton 2003).

    Each w_j is a filter whose answer is mostly near zero and sometimes large. With count = d it is independent components
    analysis with heavy tails, which needs a_j > 1/2.
    An expert is a Gaussian scale mixture, exp(-a f(s)) = integral of Gamma(u; a, 1) exp(-u s^2 / 2) du, so that its latent
    precision u has a Gamma distribution given s, with shape a and rate 1 + s^2 / 2 (Welling, Hinton and Osindero 2003).
    """

    def potential(self, answer: Tensor) -> Tensor:
        return torch.log1p(0.5 * answer.square())

    def derivatives(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        inverse = 1 / (1 + 0.5 * answer.square())
        # f'' = (1 - s^2 / 2) / (1 + s^2 / 2)^2, by the inverse alone
        return answer * inverse, inverse * (2 * inverse - 1)

    def log_integral(self, power: Tensor) -> Tensor:
        finite = torch.lgamma(power - 0.5) - torch.lgamma(power) + 0.5 * math.log(2 * math.pi)
        return torch.where(power > 0.5, finite, torch.inf)

    def scales(self, answer: Tensor, num_samples: int, generator: torch.Generator) -> ScalePosterior:
        return gamma_posterior(self.powers(), 1 + 0.5 * answer.square(), num_samples, generator)


class LogCoshExpert(FilterExpert):
    """f(s) = log cosh s: tails like those of a Laplace density, smooth at 0 (Hyvärinen and Oja 2000 take its derivative).

    Convex, so that a product of such experts has one mode, and every a_j > 0 can be normalised.
    An expert is a Gaussian scale mixture with latent precision u = 4 w, w of a Pólya-Gamma distribution with parameters a
    and 2 s given s (Polson, Scott and Windle 2013).
    """

    def potential(self, answer: Tensor) -> Tensor:
        size = answer.abs()
        return size + softplus(-2 * size) - math.log(2)

    def derivatives(self, answer: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.tanh(answer)
        return first, 1 - first.square()

    def log_integral(self, power: Tensor) -> Tensor:
        return torch.lgamma(0.5 * power) - torch.lgamma(0.5 * (power + 1)) + 0.5 * math.log(math.pi)

    def scales(self, answer: Tensor, num_samples: int, generator: torch.Generator) -> ScalePosterior:
        return polya_gamma_posterior(self.powers(), answer, num_samples, generator)

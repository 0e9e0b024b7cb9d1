"""Latent precisions of densities that are Gaussian scale mixtures: what is known of them given an answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

TERMS = 64
"""Terms of the sum of Gamma variables that a draw of a Pólya-Gamma variable is made of; the rest enters by its mean."""


@dataclass(frozen=True, eq=False)
class ScalePosterior:
    """p(u | s) of positive u, of the shape of the answers s.

    map: the most probable value.  mean, spread: the mean and the standard deviation.  samples: (S, ...) draws; S may be 0.
    """

    map: Tensor
    mean: Tensor
    spread: Tensor
    samples: Tensor


def gamma_posterior(shape: Tensor, rate: Tensor, num_samples: int, generator: Generator) -> ScalePosterior:
    """The Gamma distribution with a shape (count,) and a rate (B, count): its density is least at 0 from shape 1 on."""
    mean = shape / rate
    draws = _standard_gamma(shape.expand(num_samples, *rate.shape), generator) / rate
    return ScalePosterior((shape - 1).clamp(min=0) / rate, mean, shape.sqrt() / rate, draws)


def polya_gamma_posterior(power: Tensor, answer: Tensor, num_samples: int, generator: Generator) -> ScalePosterior:
    """Of u = 4 w, w Pólya-Gamma with parameters a (count,) and 2 s: the latent precision behind cosh(s)^-a.

    Mean and spread are exact: a tanh(s) / s, and the second moment of Polson, Scott and Windle 2013. Draws are sums of
    ``TERMS`` Gamma variables, the rest of the sum by its mean: their mean is exact, their spread 1 % too small at most.
    The most probable value has no closed form; it is that of the Gamma distribution with the same mean and spread.
    """
    size = answer.abs().double()
    a = power.double()
    small = size < 1e-2
    safe = torch.where(small, torch.ones_like(size), size)
    mean = a * torch.where(small, 1 - size.square() / 3, torch.tanh(safe) / safe)
    # 16 a (sinh c - c) / (4 c^3 cosh(c / 2)^2) with c = 2 s, without overflow
    bent = (2 * torch.tanh(safe) - 2 * safe / torch.cosh(safe.clamp(max=300)).square()) * 0.5 / safe**3
    variance = a * torch.where(small, 2 / 3 - 8 * size.square() / 15, bent)
    draws = _polya_gamma(a, size, mean, num_samples, generator)
    mode = (mean - variance / mean).clamp(min=0)
    parts = (mode, mean, variance.sqrt(), draws)
    return ScalePosterior(*(part.to(answer.dtype) for part in parts))


def _polya_gamma(power: Tensor, size: Tensor, mean: Tensor, num_samples: int, generator: Generator) -> Tensor:
    """(S, B, count) draws of u: (2 / pi^2) sum_k g_k / ((k - 1/2)^2 + (s / pi)^2), g_k of Gamma(a, 1)."""
    out = torch.zeros(num_samples, *size.shape, dtype=torch.float64, device=size.device)
    rest = mean.clone()
    for k in range(TERMS):
        scale = (2 / math.pi**2) / ((k + 0.5) ** 2 + (size / math.pi).square())
        out += scale * _standard_gamma(power.expand_as(out), generator)
        rest -= power * scale
    return out + rest


def _standard_gamma(shape: Tensor, generator: Generator) -> Tensor:
    """Draws of Gamma variables of rate 1, made where the generator lives."""
    return torch._standard_gamma(shape.detach().contiguous().to(generator.device), generator=generator).to(shape.device)

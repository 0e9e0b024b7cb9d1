"""Denoising score matching over many levels of noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, Discrete, FactorGraph, Real
from ebmstruct.graph.noise import NoiseLevel, at_noise, noise_block
from ebmstruct.learning.losses.base import Loss, LossValue, Margin, Setting, check_positive
from ebmstruct.learning.losses.output_energy import output_sites


@dataclass(frozen=True)
class DenoisingScoreMatching(Loss):
    """|sigma dE/dx(y + sigma e, sigma) - e|^2 / 2 with normal e, sigma drawn anew for each example.

    The slope of the energy learns to point from the noised vector to the clean one (Vincent 2011), at every noise level
    that the graph's block of noise levels has (Song and Ermon 2019). Example i of a batch of B gets the quantile
    (i + u) / B of the levels, u uniform and i shuffled: every batch sees all levels, and the mean over batches is the same.

    center, width: sigma is log-normal, with this median and this standard deviation of its logarithm, cut at the graph's
    levels; with ``width`` None it is log-uniform.
    spread: of the data; the weight of a level is 1 + (sigma / spread)^2, which makes the error of the clean vector
    comparable at all levels (Karras et al. 2022).
    Parts that a target does not know are noise as wide as data and noise together, and are not scored. Margin class:
    positive, as of ``score_matching``. Discrete outputs are refused. Cost: two derivatives of the energy.
    """

    name: ClassVar[str] = "denoising"
    margin: ClassVar[Margin] = "positive"

    center: float = 0.3
    width: float | None = 1.2
    spread: float = 1.0

    def __post_init__(self) -> None:
        check_positive("denoising", center=self.center, spread=self.spread)
        if self.width is not None:
            check_positive("denoising", width=self.width)

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        if noise_block(graph) is None:
            return (
                "no block of the graph holds noise levels; take score_matching with form denoising for an energy without "
                "them, or an energy that has them, such as DenoisingEnergy"
            )
        for name, block in graph.variables.items():
            known = output_sites(graph, target, name)
            if not bool(known.any()):
                continue
            if isinstance(block.domain, Discrete) or not isinstance(block.domain, Real):
                return f"block {name!r} is {block.domain}, and noise is added to Real blocks only"
            if block.domain.bounded:
                return f"block {name!r} is bounded, and noise leaves its bounds"
        return None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        block = noise_block(graph)
        assert block is not None and isinstance(block.domain, NoiseLevel)
        sigma = self.drawn(block.domain, graph.num_instances, setting.generator).to(block.offsets.device)
        noised = at_noise(graph, sigma)
        points: dict[str, Tensor] = {}
        noises: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for name, own in graph.variables.items():
            if own is block or not isinstance(own.domain, Real):
                continue
            known = output_sites(graph, target, name)
            value = target[name].detach() if name in target else torch.zeros(own.num_sites, own.domain.dim)
            value = value if value.is_floating_point() else value.float()
            noise = torch.randn(value.shape, generator=setting.generator, dtype=value.dtype).to(value.device)
            size = sigma.to(value)[own.instance][:, None]
            whole = (size.square() + self.spread**2).sqrt()
            points[name] = torch.where(known[:, None], value + size * noise, whole * noise).requires_grad_()
            noises[name], masks[name] = noise, known
        followed = torch.is_grad_enabled()
        with torch.enable_grad():
            energy = noised.energy(points)
            slopes = torch.autograd.grad(energy.sum(), list(points.values()), create_graph=followed)
        total = torch.zeros(graph.num_instances, dtype=torch.float64, device=sigma.device)
        for (name, noise), slope in zip(noises.items(), slopes, strict=True):
            own = graph.variables[name]
            apart = (sigma.to(slope)[own.instance][:, None] * slope - noise).square().sum(1) * masks[name]
            total = total.index_add(0, own.instance, apart.double())
        weight = 1.0 + (sigma.double() / self.spread).square()
        return LossValue(0.5 * weight * total, setting.state)

    def drawn(self, levels: NoiseLevel, count: int, generator: Generator) -> Tensor:
        """(B,) standard deviations, one in each of B equal shares of the distribution, in random order."""
        order = torch.randperm(count, generator=generator)
        share = (order + torch.rand(count, generator=generator, dtype=torch.float64)) / count
        low, high = math.log(levels.lowest), math.log(levels.highest)
        if self.width is None:
            return (low + share * (high - low)).exp().float()
        middle = math.log(self.center)
        below, above = (_below((end - middle) / self.width) for end in (low, high))
        normal = torch.special.ndtri((below + share * (above - below)).clamp(1e-9, 1 - 1e-9))
        return (middle + self.width * normal).clamp(low, high).exp().float()


def _below(z: float) -> float:
    """The probability that a standard normal number is below z."""
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))

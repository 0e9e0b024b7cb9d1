"""Losses by minima of noisy energies: perturb-and-MAP, and the noisy energies that others use too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, BlockFactor, FactorGraph, Real
from ebmstruct.graph.factors import Factor
from ebmstruct.inference import Solver, minimize
from ebmstruct.inference.smooth_energy import open_continuous, precision
from ebmstruct.inference.unaries import discrete_blocks, with_unaries
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting, compared

Noise = Literal["gumbel", "gaussian"]
EULER = 0.5772156649015329
"""The mean of the standard Gumbel distribution (Euler's constant)."""


@dataclass(frozen=True)
class PerturbAndMap(Loss):
    """E(target) - mean over noise of min_y [E(y) - T noise(y)], noise being a Gumbel number for each state of each site.

    The numbers have mean 0, and noise(y) is the sum of those of the states of y: perturbations of low dimension
    (Papandreou and Yuille 2011). In the mean over noise the loss bounds the negative log-likelihood at temperature T
    (times T) from above (Hazan and Jaakkola 2012, corollary 1), exactly where sites are independent, and its gradient is
    the energy's gradient at the target less its mean over noisy minimisers. It needs minimisations only, so it trains
    where nothing sums. The noise of the target is taken from the first term; it has mean 0, and each draw of the loss is
    then at least 0.
    Unknown sites are minimised over with the same noise; the loss is then a difference of two bounds, no bound of the
    likelihood. Continuous sites are minimised over, without noise. Margin class: positive margin.
    Inference: num_samples minimisations at once, as many clamped ones where sites are unknown. Not for energies whose
    minimiser is poor: the bound turns by as much as the minimum is missed.

    num_samples: draws of noise.  temperature: T, the scale of the noise.
    """

    name: ClassVar[str] = "perturb_and_map"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    num_samples: int = 4
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_draws(self.name, self.num_samples, self.temperature)

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        """Why it is not defined: a graph without discrete sites, or factors that cannot be repeated."""
        if not discrete_blocks(graph):
            return (
                "it lays noise over the states of discrete sites, and there are none; fenchel_young with regulariser "
                "perturbation tilts continuous ones"
            )
        return repeat_refusal(graph)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        noisy = with_noise(graph.repeat(self.num_samples), self.temperature, "gumbel", setting.generator)
        return noisy_gap(noisy, self.num_samples, target, setting.solver)


def check_draws(name: str, num_samples: int, temperature: float) -> None:
    """Raise ValueError where there would be no draw, or noise of a scale that makes no sense."""
    if num_samples < 1:
        raise ValueError(f"{name}: num_samples must be at least 1; found {num_samples}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"{name}: temperature must be a positive number; found {temperature}")


def repeat_refusal(graph: FactorGraph) -> str | None:
    """Why copies of a graph's instances cannot be made; None where they can."""
    for factor in graph.factors:
        if type(factor).repeat is Factor.repeat:
            return f"factor {factor.label!r} is a {type(factor).__name__}, which cannot be repeated for several draws"
    return None


def tilt_refusal(graph: FactorGraph) -> str | None:
    """Why the continuous blocks of a graph without discrete sites cannot be tilted; None where they can."""
    for block in open_continuous(graph):
        if not isinstance(block.domain, Real):
            return f"block {block.name!r} holds points of {block.domain}, where a linear tilt means nothing"
    if not open_continuous(graph):
        return "no site is open: there is nothing to perturb"
    return None


def with_noise(graph: FactorGraph, scale: float, noise: Noise, generator: Generator) -> FactorGraph:
    """The graph with the noise taken from its energy: of discrete states; of points where there are no discrete sites.

    Gumbel noise is shifted to mean 0. Points are tilted by the inner product with a normal vector.
    """
    blocks = discrete_blocks(graph)
    if not blocks:
        return graph.add(*_tilts(graph, scale, generator))
    unaries = {}
    for block in blocks:
        shape = (block.num_sites, block.discrete.largest)
        if noise == "gaussian":
            draw = torch.randn(shape, generator=generator, dtype=torch.float64)
        else:
            even = torch.rand(shape, generator=generator, dtype=torch.float64)
            draw = -(-even.clamp(min=1e-300).log()).clamp(min=1e-300).log() - EULER
        unaries[block.name] = -scale * draw
    return with_unaries(graph, unaries)


def _tilts(graph: FactorGraph, scale: float, generator: Generator) -> list[BlockFactor]:
    out, dtype = [], precision(graph)
    for block in open_continuous(graph):
        assert isinstance(block.domain, Real)
        normal = scale * torch.randn(block.num_sites, block.domain.dim, generator=generator, dtype=torch.float64)
        place = torch.arange(block.num_sites) - block.offsets[block.instance]
        longest = int(block.lengths.max()) if block.num_instances else 0
        padded = normal.new_zeros(block.num_instances, longest, block.domain.dim)
        padded[block.instance, place] = normal
        out.append(BlockFactor((block.name,), f"tilt of {block.name}", _tilt, (padded.to(dtype),)))
    return out


def _tilt(x: Tensor, normal: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
    """(B,): minus the inner product of an instance's points (n, d) and its normals (B, L, d)."""
    owner = torch.repeat_interleave(offsets[0].diff())
    place = torch.arange(x.shape[0]) - offsets[0][owner]
    rows = -(x * normal[owner, place]).sum(1)
    return rows.new_zeros(normal.shape[0]).index_add(0, owner, rows)


def repeated(target: Assignment, times: int) -> Assignment:
    """The assignment of ``FactorGraph.repeat``: copy after copy."""
    parts = (target.values, target.known, target.allowed)
    return Assignment(*({n: v.repeat(times, *[1] * (v.dim() - 1)) for n, v in part.items()} for part in parts))


def noisy_gap(noisy: FactorGraph, copies: int, target: Assignment, solver: Solver | None) -> LossValue:
    """The mean over copies of the noisy energy of the target (least over its completions) less the least noisy energy.

    noisy: ``copies`` of each instance, each with its own noise. Differentiable at the assignments found (Danskin).
    """
    wanted = repeated(target, copies)
    if not target.complete(noisy.topology.names):
        wanted = minimize(noisy.condition(wanted), solver).assignment
    correct = noisy.energy(wanted).reshape(copies, -1).mean(0)
    least = noisy.energy(minimize(noisy, solver).assignment).reshape(copies, -1).mean(0)
    return compared(correct, least, torch.where(correct.isposinf(), torch.inf, correct - least))

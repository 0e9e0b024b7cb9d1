"""How long steps of weights are, how many are dropped and how many lie between draws, where nobody says so."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.learning.posterior.options import PosteriorOptions
from ebmstruct.learning.posterior.potential import Minibatches, Potential
from ebmstruct.learning.posterior.units import Units, steepest

log = logging.getLogger(__name__)

LARGEST = {"sgld": 0.3, "langevin": 0.3, "mala": 0.5, "underdamped_langevin": 0.3}
"""Steps along the gradient, in units in which the posterior has unit spread."""
STEEPEST = 0.3
"""The largest step times the steepest curvature, where the units leave curvatures that differ."""
QUIET = 0.5
"""Gradient noise for which minibatches are made larger, up to a quarter of the examples and ``MOST`` of them."""
FEWEST, MOST = 32, 1024
"""Examples of a minibatch, where nobody says how many."""
LONGEST_BURN_IN, LONGEST_THINNING = 2000, 200
"""Steps beyond which nobody is made to wait unasked; the diagnostics then say that it was too short."""
PROBES, FEW = 8, 32
"""Minibatches looked at in one place to learn how noisy their gradients are, and the fewest in all places."""


@dataclass(frozen=True)
class Pace:
    """step_size: in the units.  temperature: a factor that makes up for finite steps and gradient noise.

    burn_in, thinning: in steps of the sampler.  leapfrog_steps: of a trajectory.
    """

    step_size: float
    temperature: float = 1.0
    burn_in: int = 0
    thinning: int = 1
    leapfrog_steps: int = 1


def chosen_pace(
    potential: Potential, units: Units, options: PosteriorOptions, generator: torch.Generator, slowest: float = 1.0
) -> Pace:
    """The pace of a sampler from the curvature at the centre, in units in which curvature and gradient noise add up to 1.

    An unadjusted step of size e where the curvature is a and gradient noise has the variance n leaves the variance
    1 / a as it should be at the temperature 1 - e (a + n) / 2, exactly where the posterior is normal (compare Ahn,
    Korattikara and Welling 2012). slowest: one over the least curvature in these units.
    """
    o = options
    if o.name == "nuts":
        return Pace(o.step_size or 1.0, burn_in=300 if o.burn_in is None else o.burn_in)
    curved = units.factor.dim() == 1
    steep = steepest(potential, units, generator) if curved and o.step_size is None else 1.0
    if o.name == "hmc":
        return _of_hmc(o, units.centre.numel(), steep)
    if o.step_size is not None:
        size = o.step_size
    elif o.name == "mala":
        size = LARGEST["mala"] * units.centre.numel() ** (-1 / 3) / steep
    elif o.name == "underdamped_langevin":
        size = LARGEST[o.name] / math.sqrt(steep)
    else:
        size = min(LARGEST[o.name], STEEPEST / steep)
    warmth = max(0.5, 1.0 - 0.5 * size) if o.name in ("sgld", "langevin") else 1.0
    mixing = slowest / size
    burn_in = min(LONGEST_BURN_IN, math.ceil(10 * mixing)) if o.burn_in is None else o.burn_in
    thinning = min(LONGEST_THINNING, max(1, math.ceil(2 * mixing))) if o.thinning is None else o.thinning
    log.info("posterior: steps of %.3g, steepest curvature %.3g, flattest %.3g", size, steep, 1 / slowest)
    return Pace(size, warmth, burn_in, thinning)


def _of_hmc(options: PosteriorOptions, count: int, steep: float) -> Pace:
    """Trajectories of about a quarter of the widest direction's period, 1.5 long."""
    size = options.step_size or 1.2 * count ** (-1 / 4) / math.sqrt(steep)
    steps = options.leapfrog_steps or max(1, min(100, round(1.5 / size)))
    burn_in = 60 if options.burn_in is None else options.burn_in
    return Pace(size, 1.0, burn_in, options.thinning or 1, steps)


def quiet_minibatches(
    potential: Potential, units: Units, options: PosteriorOptions, generator: torch.Generator
) -> Minibatches:
    """Minibatches of the size asked for, or else so large that their gradients are quiet."""

    def of(size: int) -> Minibatches:
        return Minibatches(potential, units.centre, size, generator, control=options.control_variates)

    if options.batch_size is not None:
        return of(options.batch_size)
    look = of(FEWEST)
    noise = gradient_noise(look, units, generator, FEW)
    wanted = FEWEST * float((noise.diagonal() if noise.dim() == 2 else noise).mean()) / QUIET
    size = min(MOST, max(FEWEST, len(potential) // 4), 2 ** math.ceil(math.log2(max(wanted, 1.0))))
    return look if size <= FEWEST else of(size)


def steadied(look: Minibatches, units: Units, generator: torch.Generator) -> tuple[Units, float]:
    """Units in which curvature and gradient noise add up to 1 in every direction, and one over the least curvature.

    With a noise covariance C in units of unit curvature they are those times (1 + C)^(-1/2): steps are short where the
    gradient is noisy. Diagonal units take the diagonal of C alone.
    """
    if units.factor.dim() == 1:
        noise = gradient_noise(look, units, generator, FEW)
        return Units(units.centre, units.factor * (1.0 + noise).rsqrt()), 1.0 + float(noise.median())
    size = units.centre.numel()
    noise = gradient_noise(look, units, generator, max(FEW, 4 * size))
    values, vectors = torch.linalg.eigh(noise + torch.eye(size, dtype=noise.dtype))
    root = vectors * values.clamp(min=1.0).rsqrt() @ vectors.T
    return Units(units.centre, units.factor @ root), float(values.max())


def gradient_noise(look: Minibatches, units: Units, generator: torch.Generator, wanted: int) -> Tensor:
    """(P, P) the covariance of a minibatch's gradient by z, typical distances from the centre; where the units are diagonal
    (P,) its diagonal alone, drawn halfway to its mean.

    wanted: how many gradients are looked at, at least.
    """
    count, size = min(len(look), PROBES), units.centre.numel()
    dense = units.factor.dim() > 1
    total = torch.zeros((size, size) if dense else (size,), dtype=torch.float64)
    places = -(-wanted // count)
    for _ in range(places if count > 1 else 0):
        weights = units.weights(torch.randn(size, generator=generator, dtype=torch.float64))
        numbers = torch.randperm(len(look), generator=generator)[:count].tolist()
        slopes = torch.stack([units.pulled_back(look.by(number, weights)[1]) for number in numbers])
        apart = slopes - slopes.mean(0)
        total += (apart.T @ apart if dense else apart.square().sum(0)) / (count - 1) / places
    # batches are drawn with replacement from a fixed division of the examples, of which a few at a place are looked at
    total = total * (len(look) - 1) / max(1, len(look))
    return total if dense else 0.5 * (total + total.mean())

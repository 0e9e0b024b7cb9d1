"""How long steps of weights are, how many are dropped and how many lie between draws, where nobody says so."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch

from ebmstruct.learning.posterior.options import PosteriorOptions
from ebmstruct.learning.posterior.potential import Minibatches, Potential
from ebmstruct.learning.posterior.units import Gradient, Units, steepest

log = logging.getLogger(__name__)

LARGEST = {"sgld": 0.2, "langevin": 0.2, "mala": 0.5, "underdamped_langevin": 0.3}
"""Steps along the gradient, in units in which the posterior has unit spread."""
NOISE = 0.2
"""What gradient noise may add to the variance of a step, as a share; it is taken off what the sampler adds."""
PROBES = 16
"""Minibatches looked at to learn how noisy their gradients are."""


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
    look: Gradient, potential: Potential, units: Units, options: PosteriorOptions, generator: torch.Generator
) -> Pace:
    """The pace of a sampler from the curvature at the centre and the noise of minibatches.

    An unadjusted step of size e in a valley of unit curvature leaves the variance 1 / (1 - e / 2), and gradient noise of
    variance v adds e v / 2 of it; the temperature 1 - e / 2 - e v / 2 takes both off again, exactly where the posterior
    is normal (compare Ahn, Korattikara and Welling 2012).
    """
    o = options
    if o.name == "nuts":
        return Pace(o.step_size or 1.0, burn_in=300 if o.burn_in is None else o.burn_in)
    curved = units.factor.dim() == 1
    steep = steepest(potential, units, generator) if curved and o.step_size is None else 1.0
    if o.name == "hmc":
        return _of_hmc(o, units.centre.numel(), steep)
    noise = gradient_noise(look, units, generator) if isinstance(look, Minibatches) else 0.0
    if o.step_size is not None:
        size = o.step_size
    elif o.name == "mala":
        size = LARGEST["mala"] * units.centre.numel() ** (-1 / 3) / steep
    elif o.name == "underdamped_langevin":
        size = LARGEST[o.name] / math.sqrt(steep)
    else:
        size = min(LARGEST[o.name] / max(1.0, steep / 2), NOISE / max(noise, 1e-9))
    warmth = 1.0
    if o.name in ("sgld", "langevin"):
        warmth = max(0.5, 1.0 - 0.5 * size * (1.0 + noise))
    mixing = 1.0 / size
    burn_in = math.ceil(10 * mixing) if o.burn_in is None else o.burn_in
    thinning = max(1, math.ceil(2 * mixing)) if o.thinning is None else o.thinning
    log.info("posterior: steps of %.3g, gradient noise %.3g, steepest curvature %.3g", size, noise, steep)
    return Pace(size, warmth, burn_in, thinning)


def _of_hmc(options: PosteriorOptions, count: int, steep: float) -> Pace:
    """Trajectories of about a quarter of the widest direction's period, 1.5 long."""
    size = options.step_size or 1.2 * count ** (-1 / 4) / math.sqrt(steep)
    steps = options.leapfrog_steps or max(1, min(100, round(1.5 / size)))
    burn_in = 60 if options.burn_in is None else options.burn_in
    return Pace(size, 1.0, burn_in, options.thinning or 1, steps)


def gradient_noise(look: Minibatches, units: Units, generator: torch.Generator) -> float:
    """The variance of a minibatch's gradient by z, a mean over coordinates, a typical distance from the centre."""
    z = torch.randn(units.centre.numel(), generator=generator, dtype=torch.float64)
    weights = units.weights(z)
    count = min(len(look), PROBES)
    if count < 2:
        return 0.0
    numbers = torch.randperm(len(look), generator=generator)[:count].tolist()
    slopes = torch.stack([units.pulled_back(look.by(number, weights)[1]) for number in numbers])
    return float(slopes.var(0).mean())

"""What a user may set of a posterior of weights: the keys of the YAML section ``posterior``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

SamplerName = Literal["sgld", "langevin", "mala", "hmc", "nuts", "underdamped_langevin"]
PreconditionerName = Literal["auto", "dense", "diagonal", "none"]
AverageName = Literal["beliefs", "energies"]

ADJUSTED = ("mala", "hmc", "nuts")
"""Samplers with a Metropolis test, which need the loss of all examples at every step."""


@dataclass(frozen=True)
class PosteriorOptions:
    """How weights are drawn from exp(-U), U = sum of losses / temperature + |weights|^2 / (2 prior_spread^2).

    name: the sampler; ``sgld`` looks at a minibatch a step, the others at all examples.
    draws: how many are kept of all chains together.  chains: run side by side, from the same weights.
    burn_in, thinning: in steps; none: from the step size.  step_size: in units in which the posterior has about unit
    spread in every direction; none: from curvature and gradient noise.  leapfrog_steps: of a trajectory of ``hmc``.
    batch_size: examples a step of ``sgld``; none: 32, or as many more as make its gradients quiet.
    control_variates: its gradients are corrections to the gradient of all examples at the centre.
    prior_spread: standard deviation of the normal prior of every weight, around 0.  temperature: below 1 the posterior is
    narrower than Bayes' rule has it, a cold one.
    preconditioner: the units: ``dense`` from the whole Hessian, ``diagonal`` from the squares of gradients; ``auto``
    takes the first up to 256 weights.  centre_steps: of L-BFGS on U, from the trained weights, before sampling.
    parameters: patterns (*, ?, [ab]) of the names of the weights to sample; the others stay as they were trained.
    average: what predictions average over draws, ``beliefs`` (probabilities) or ``energies``.
    any_loss: take a loss that is no likelihood; what is sampled is then a Gibbs posterior.
    seed: of all that is random here.
    """

    name: SamplerName
    draws: int = 200
    chains: int = 4
    burn_in: int | None = None
    thinning: int | None = None
    step_size: float | None = None
    leapfrog_steps: int | None = None
    batch_size: int | None = None
    control_variates: bool = True
    prior_spread: float = 1.0
    temperature: float = 1.0
    preconditioner: PreconditionerName = "auto"
    centre_steps: int = 30
    parameters: tuple[str, ...] = ("*",)
    average: AverageName = "beliefs"
    any_loss: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {rule}; found {getattr(self, name)!r}"
            for name, rule, fine in (
                ("name", f"one of {', '.join(get_args(SamplerName))}", self.name in get_args(SamplerName)),
                ("draws", "at least 1", self.draws >= 1),
                ("chains", "at least 1", self.chains >= 1),
                ("burn_in", "at least 0, or left out", self.burn_in is None or self.burn_in >= 0),
                ("thinning", "at least 1, or left out", self.thinning is None or self.thinning >= 1),
                ("step_size", "above 0, or left out", self.step_size is None or 0 < self.step_size < math.inf),
                ("leapfrog_steps", "at least 1, or left out", self.leapfrog_steps is None or self.leapfrog_steps >= 1),
                ("batch_size", "at least 1, or left out", self.batch_size is None or self.batch_size >= 1),
                ("prior_spread", "above 0 and finite", 0 < self.prior_spread < math.inf),
                ("temperature", "above 0 and finite", 0 < self.temperature < math.inf),
                (
                    "preconditioner",
                    f"one of {', '.join(get_args(PreconditionerName))}",
                    self.preconditioner in get_args(PreconditionerName),
                ),
                ("centre_steps", "at least 0", self.centre_steps >= 0),
                ("parameters", "at least one pattern", bool(self.parameters)),
                ("average", f"one of {', '.join(get_args(AverageName))}", self.average in get_args(AverageName)),
                ("seed", "from 0 to 2^63 - 1", 0 <= self.seed < 2**63),
            )
            if not fine
        ]
        if wrong:
            raise ValueError("; ".join([*wrong, *self._together()]))
        if self._together():
            raise ValueError("; ".join(self._together()))

    def _together(self) -> list[str]:
        """Options that do not go with the sampler."""
        wrong = []
        if self.leapfrog_steps is not None and self.name != "hmc":
            wrong.append(f"leapfrog_steps belongs to hmc; {self.name} has none")
        if self.name == "nuts" and self.thinning not in (None, 1):
            wrong.append("nuts keeps every draw, so thinning has no meaning for it; leave it out")
        return wrong

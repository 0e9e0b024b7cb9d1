"""Where chains of weights begin, and units in which the posterior has about unit spread in every direction."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.learning.posterior.options import PreconditionerName
from ebmstruct.learning.posterior.potential import Potential

log = logging.getLogger(__name__)

DENSE_UP_TO = 256
"""Weights up to which the whole Hessian is computed where nothing else is asked for: twice as many gradients."""
GROUPS = 512
"""Groups of examples whose gradients are squared for a diagonal."""
NUDGE = 0.05
"""By how much weights are moved for differences of gradients, in units of the diagonal's spread."""

Gradient = Callable[[Tensor], tuple[float, Tensor]]


@dataclass(frozen=True, eq=False)
class Units:
    """weights = centre + factor z: the chains move z.

    centre: (P,) float64.  factor: (P, P) lower triangular, or (P,) for a diagonal one; float64.
    """

    centre: Tensor
    factor: Tensor

    def weights(self, z: Tensor) -> Tensor:
        """(..., P) float64 weights of z (..., P)."""
        z = z.double()
        return self.centre + (z * self.factor if self.factor.dim() == 1 else z @ self.factor.T)

    def pulled_back(self, slope: Tensor) -> Tensor:
        """(P,) the gradient by z, from that by the weights."""
        return slope * self.factor if self.factor.dim() == 1 else self.factor.T @ slope

    @property
    def scale(self) -> Tensor:
        """(P,) the standard deviation of each weight where z is standard normal."""
        return self.factor if self.factor.dim() == 1 else self.factor.square().sum(1).sqrt()


def found_centre(potential: Potential, start: Tensor, steps: int) -> Tensor:
    """(P,) the weights of least U that ``steps`` iterations of L-BFGS find from ``start``; never a higher one.

    Cost: about 1.2 gradients over all examples an iteration. Source: Liu and Nocedal (1989).
    """
    if not steps:
        return start
    best, least = start, potential(start)[0]
    x = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([x], max_iter=steps, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> float:
        nonlocal best, least
        value, slope = potential(x.detach())
        x.grad = slope
        if value < least:
            best, least = x.detach().clone(), value
        return value

    optimiser.step(closure)
    return best


def found_units(potential: Potential, centre: Tensor, kind: PreconditionerName) -> Units:
    """The units at a centre. ``dense``: a root of the inverse Hessian, taken from differences of gradients; where it is
    not positive definite its eigenvalues are taken absolute, and at least the prior's precision times a thousandth.
    """
    size = centre.numel()
    if kind == "none":
        return Units(centre, torch.ones_like(centre))
    spread = diagonal(potential, centre).rsqrt()
    if kind == "diagonal" or (kind == "auto" and size > DENSE_UP_TO):
        return Units(centre, spread)
    columns = []
    for i in range(size):
        step = torch.zeros_like(centre)
        step[i] = NUDGE * float(spread[i])
        columns.append((potential(centre + step)[1] - potential(centre - step)[1]) / (2 * NUDGE))
    scaled = torch.stack(columns, 1) * spread[:, None]  # the Hessian by z of the diagonal units
    values, vectors = torch.linalg.eigh(0.5 * (scaled + scaled.T))
    floor = 1e-3 * potential.options.prior_spread**-2 * float(spread.square().min())
    if float(values.min()) < floor:
        log.info("the energy of the weights is not convex at the centre; its curvature there is taken absolute")
    root = vectors / values.abs().clamp(min=max(floor, 1e-6)).sqrt()
    covariance = spread[:, None] * (root @ root.T) * spread
    return Units(centre, torch.linalg.cholesky(covariance))


def diagonal(potential: Potential, centre: Tensor) -> Tensor:
    """(P,) the prior's precision, plus the squares of gradients of losses, summed over all examples.

    At a minimum it is the diagonal of the Hessian in the mean, for a likelihood that is right (empirical Fisher
    information). Gradients are those of up to 512 groups of examples, less their mean. Cost: one pass.
    """
    groups = potential.cut(max(1, len(potential) // GROUPS))
    total, squares = torch.zeros_like(centre), torch.zeros_like(centre)
    for group in groups:
        slope = potential.of_piece(centre, group)[1]
        total += slope
        squares += slope.square()
    squares = (squares - total.square() / len(groups)).clamp(min=0.0)
    # a loss over a temperature has curvature over it once, and squared gradients over it twice
    return potential.options.prior_spread**-2 + squares * potential.options.temperature


def steepest(gradient: Gradient, units: Units, generator: torch.Generator, tries: int = 8) -> float:
    """The largest curvature of U by z at the centre, by the power method on differences of gradients; at least 1.

    Cost: two gradients a try.
    """
    z = torch.randn(units.centre.numel(), generator=generator, dtype=torch.float64)
    found = 1.0
    for _ in range(tries):
        z = z / z.norm()
        ahead, back = (gradient(units.weights(side * NUDGE * z))[1] for side in (1.0, -1.0))
        z = units.pulled_back((ahead - back) / (2 * NUDGE))
        found = float(z.norm())
        if not found > 0 or not z.isfinite().all():
            return 1.0
    return max(1.0, found)

"""Leapfrog steps and the Metropolis test that makes them exact: what MALA, HMC and their kin share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebmstruct.inference.motion import Motion
from ebmstruct.inference.smooth_energy import Point, Step

TOO_HIGH = 1000.0
"""A proposal whose total energy rises by more (in units of the temperature) counts as divergent (as in Stan)."""


class Here(NamedTuple):
    """A point with its energy (B,) and its gradient."""

    point: Point
    energy: Tensor
    gradient: Step


class Draw(NamedTuple):
    """The randomness of one proposal: momenta (n, t), and (B,) what the test adds: an Exp(1) and the kinetic energy."""

    momentum: Step
    allowance: Tensor


def draws(motion: Motion, here: Here, generator: Generator | None, steps: int) -> list[Draw]:
    """Randomness for several proposals at once."""
    momenta = motion.noise(here.point, generator, steps)
    energy = here.energy
    allowance = torch.empty((steps, *energy.shape), dtype=energy.dtype, device=energy.device)
    allowance.exponential_(generator=generator)
    if all(i is None for i in motion.energy.instances):
        for part in zip(*momenta, strict=True):
            allowance.add_(torch.stack(part).square_().sum(-1), alpha=0.5)
    else:
        for row, momentum in zip(allowance, momenta, strict=True):
            row.add_(motion.energy.dot(momentum, momentum), alpha=0.5)
    return [Draw(m, a) for m, a in zip(momenta, allowance.unbind(), strict=True)]


def leapfrog(
    motion: Motion,
    here: Here,
    momentum: Sequence[Tensor],
    *,
    size: float,
    steps: int,
    temperature: float,
    scale: Sequence[Tensor] | None = None,
) -> tuple[Here, Sequence[Tensor]]:
    """The end of ``steps`` leapfrog steps of length ``size``, and the momentum there, which may be written over.

    The Hamiltonian is E / temperature + |momentum|^2 / 2. scale: for each block (n, t) or (n, 1) square roots of an
    inverse diagonal mass: positions and momenta both move by ``size * scale``. Cost: ``steps`` gradients.
    """
    full, half = size / temperature, 0.5 * size / temperature
    point, gradient = here.point, here.gradient
    momentum = _kicked(momentum, gradient, half, scale)
    for last in range(steps - 1, -1, -1):
        point, momentum = motion.drift(point, momentum, size, scale)
        energy, gradient = motion.energy.with_gradient(point)
        _kick(momentum, gradient, full if last else half, scale)
    return Here(point, energy, gradient), momentum


def _kicked(
    momentum: Sequence[Tensor], gradient: Step, time: float, scale: Sequence[Tensor] | None
) -> Sequence[Tensor]:
    if scale is None:
        return [torch.add(p, g, alpha=-time) for p, g in zip(momentum, gradient, strict=True)]
    return [torch.addcmul(p, g, s, value=-time) for p, g, s in zip(momentum, gradient, scale, strict=True)]


def _kick(momentum: Sequence[Tensor], gradient: Step, time: float, scale: Sequence[Tensor] | None) -> None:
    """The same, in place."""
    if scale is None:
        for p, g in zip(momentum, gradient, strict=True):
            p.sub_(g, alpha=time)
    else:
        for p, g, s in zip(momentum, gradient, scale, strict=True):
            p.addcmul_(g, s, value=-time)


class Verdict(NamedTuple):
    """The state after a Metropolis test, (B,) bool where the proposal was taken, and where it diverged (None: nowhere).

    surplus: (B,) by how much the test was passed: the log of the acceptance ratio and an Exp(1).
    """

    here: Here
    accepted: Tensor
    divergent: Tensor | None
    surplus: Tensor


def metropolis(
    motion: Motion, old: Here, new: Here, momentum: Sequence[Tensor], allowance: Tensor, temperature: float
) -> Verdict:
    """Take or refuse each instance's proposal (Metropolis et al. 1953; Duane et al. 1987 with momenta).

    An energy that is not finite is refused, unless the old one was not either and the new one is. ``momentum``: at
    the end of the trajectory; written over.
    """
    if len(momentum) == 1 and motion.energy.instances[0] is None:
        kinetic = momentum[0].square_().sum(-1)
    else:
        kinetic = motion.energy.dot(momentum, momentum)
    surplus = old.energy - new.energy
    if temperature != 1.0:
        surplus.div_(temperature)
    surplus.add_(kinetic, alpha=-0.5).add_(allowance)
    low, high = torch.aminmax(surplus)
    least = float(low)
    divergent = None
    if not (least > -TOO_HIGH and float(high) < torch.inf):  # NaN too
        fine = new.energy.isfinite()
        surplus = torch.where(fine & ~old.energy.isfinite(), torch.inf, torch.where(fine, surplus, -torch.inf))
        surplus = surplus.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        divergent = surplus < -TOO_HIGH
        least = -torch.inf
    accepted = surplus > 0
    if least > 0:  # all of them
        return Verdict(new, accepted, None, surplus)
    if len(momentum) == 1 and motion.energy.instances[0] is None:
        site = accepted[:, None]
        here = Here(
            (torch.where(site, new.point[0], old.point[0]),),
            torch.where(accepted, new.energy, old.energy),
            (torch.where(site, new.gradient[0], old.gradient[0]),),
        )
        return Verdict(here, accepted, divergent, surplus)
    where = motion.energy.where
    energy = torch.where(accepted, new.energy, old.energy)
    here = Here(
        where(accepted, new.point, old.point), energy, where(accepted, new.gradient, old.gradient)
    )  # fmt: skip
    return Verdict(here, accepted, divergent, surplus)

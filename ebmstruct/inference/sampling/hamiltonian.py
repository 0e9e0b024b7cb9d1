"""Leapfrog steps and the Metropolis test that makes them exact: what MALA, HMC and their kin share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebmstruct.inference.sampling.motion import Here, Motion
from ebmstruct.inference.smooth_energy import Step

TOO_HIGH = 1000.0
"""A proposal whose total energy rises by more (in units of the temperature) counts as divergent (as in Stan)."""


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
) -> tuple[Here, Sequence[Tensor], float]:
    """The end of ``steps`` leapfrog steps of length ``size``, the momentum there (not shared), and the temperature.

    The Hamiltonian is E / temperature + |momentum|^2 / 2. scale: for each block (n, t) or (n, 1) square roots of an
    inverse diagonal mass: positions and momenta both move by ``size * scale``. Cost: ``steps`` gradients.
    """
    full, half = size / temperature, 0.5 * size / temperature
    point, energy, gradient = here
    momentum = _kicked(momentum, gradient, half, scale)
    for last in range(steps - 1, -1, -1):
        point, momentum = motion.drift(point, momentum, size, scale)
        energy, gradient = motion.energy.with_gradient(point)
        _kick(momentum, gradient, full if last else half, scale)
    return Here(point, energy, gradient), momentum, temperature


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


def surplus_of(
    motion: Motion, old: Here, new: Here, momentum: Sequence[Tensor], allowance: Tensor, temperature: float
) -> Tensor:
    """(B,) by how much the Metropolis test of a proposal is passed: the log of its ratio, and an Exp(1).

    momentum: at the end of the trajectory; written over.
    Source: Metropolis et al. (1953); with momenta Duane et al. (1987).
    """
    if len(momentum) == 1 and motion.energy.instances[0] is None:
        kinetic = momentum[0].square_().sum(-1)
    else:
        kinetic = motion.energy.dot(momentum, momentum)
    surplus = old.energy - new.energy
    if temperature != 1.0:
        surplus.div_(temperature)
    return surplus.add_(kinetic, alpha=-0.5).add_(allowance)


def chosen(motion: Motion, accepted: Tensor, new: Here, old: Here) -> Here:
    """In each instance the new place where ``accepted`` (B,) bool, else the old one."""
    energy = torch.where(accepted, new.energy, old.energy)
    if len(new.point) == 1 and motion.energy.instances[0] is None:
        site = accepted[:, None]
        point = torch.where(site, new.point[0], old.point[0])
        return Here((point,), energy, (torch.where(site, new.gradient[0], old.gradient[0]),))
    where = motion.energy.where
    return Here(where(accepted, new.point, old.point), energy, where(accepted, new.gradient, old.gradient))


def guarded(surplus: Tensor, old: Here, new: Here) -> Tensor:
    """The surplus where energies may be infinite or NaN: such a proposal is refused; from such a place others are taken."""
    fine = new.energy.isfinite()
    surplus = torch.where(fine & ~old.energy.isfinite(), torch.inf, torch.where(fine, surplus, -torch.inf))
    return surplus.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)

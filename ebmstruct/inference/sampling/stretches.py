"""Several steps of a chain done together, so that what a step costs is the energy and little else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebmstruct.inference.sampling.hamiltonian import TOO_HIGH, Draw, chosen, guarded, surplus_of
from ebmstruct.inference.sampling.motion import Here, Motion, all_finite, unharmed
from ebmstruct.inference.smooth_energy import Point, Step


class Stretch(NamedTuple):
    """k steps. here: where they end.  points, energies: after each.

    acceptance: (B,) the share of proposals accepted, None where none can be refused.  divergent: (B,) how many were
    refused for an energy that is not finite or far too high; None for none.
    """

    here: Here
    points: list[Point]
    energies: list[Tensor]
    acceptance: Tensor | None = None
    divergent: Tensor | None = None


Move = Callable[[Point, Step, int], Point]
"""From a point and the gradient there: where step number i of a stretch leads."""


def unadjusted(motion: Motion, here: Here, steps: int, move: Move) -> Stretch:
    """Steps that nothing refuses but an energy that is not finite: such an instance stays where it was.

    Finite energies are the rule: a stretch is looked at when it is done, and only then, where need be, done over again
    with a look at every step.
    """
    points, energies, look = [], [], motion.energy.with_gradient
    point, energy, gradient = here
    for i in range(steps):
        point = move(point, gradient, i)
        energy, gradient = look(point)
        points.append(point)
        energies.append(energy)
    if all_finite(torch.stack(energies) if steps > 1 else energy):
        return Stretch(Here(point, energy, gradient), points, energies)
    return _unadjusted_with_care(motion, here, steps, move)


def _unadjusted_with_care(motion: Motion, here: Here, steps: int, move: Move) -> Stretch:
    points, energies = [], []
    divergent = torch.zeros(here.energy.shape, dtype=torch.long, device=here.energy.device)
    for i in range(steps):
        point = move(here.point, here.gradient, i)
        here, refused = unharmed(motion, here, Here(point, *motion.energy.with_gradient(point)))
        divergent += refused
        points.append(here.point)
        energies.append(here.energy)
    return Stretch(here, points, energies, None, divergent)


Proposal = Callable[[Here, Sequence[Tensor]], tuple[Here, Sequence[Tensor], float]]
"""From a place and momenta: the end of a trajectory, the momenta there, and the temperature of the test."""


def adjusted(motion: Motion, here: Here, steps: Sequence[tuple[Draw, Proposal]]) -> Stretch:
    """Proposals, each taken or refused in each instance by a Metropolis test.

    A proposal whose energy is NaN fails the test by itself; energies that are minus infinity, or not finite at the
    start, are found when the stretch is done, which is then done over again with a look at every step.
    """
    start, points, energies, accepted, surpluses = here, [], [], [], []
    for (momentum, allowance), propose in steps:
        new, end, temperature = propose(here, momentum)
        surplus = surplus_of(motion, here, new, end, allowance, temperature)
        taken = surplus > 0
        here = chosen(motion, taken, new, here)
        points.append(here.point)
        energies.append(here.energy)
        accepted.append(taken)
        surpluses.append(surplus)
    if not all_finite(torch.stack(energies)):
        return _adjusted_with_care(motion, start, steps)
    return Stretch(here, points, energies, *figures(accepted, surpluses))


def _adjusted_with_care(motion: Motion, here: Here, steps: Sequence[tuple[Draw, Proposal]]) -> Stretch:
    points, energies, accepted, surpluses = [], [], [], []
    for (momentum, allowance), propose in steps:
        new, end, temperature = propose(here, momentum)
        surplus = guarded(surplus_of(motion, here, new, end, allowance, temperature), here, new)
        taken = surplus > 0
        here = chosen(motion, taken, new, here)
        points.append(here.point)
        energies.append(here.energy)
        accepted.append(taken)
        surpluses.append(surplus)
    return Stretch(here, points, energies, *figures(accepted, surpluses))


def figures(accepted: list[Tensor], surpluses: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """The share accepted, and how many diverged (None for none)."""
    share = torch.stack(accepted).float().mean(0)
    surplus = torch.stack(surpluses)
    if float(surplus.amin()) > -TOO_HIGH:  # NaN is not
        return share, None
    return share, (~(surplus > -TOO_HIGH)).sum(0)

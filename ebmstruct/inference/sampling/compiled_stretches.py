"""Stretches of a fixed number of steps as compiled programs: Langevin steps, and proposals of leapfrog steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.sampling.compiled import Compiled, compiled
from ebmstruct.inference.sampling.hamiltonian import Draw
from ebmstruct.inference.sampling.motion import Here, Motion, all_finite
from ebmstruct.inference.sampling.stretches import Move, Proposal, Stretch, adjusted, figures, unadjusted
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy, Step

KEPT = 4
"""Compiled programs that a topology remembers: those of the last factors that were asked."""
TOGETHER = 10
"""Gradients in one program: more make it slower to compile, and hardly quicker."""


@dataclass(frozen=True, eq=False)
class LangevinProgram:
    """``TOGETHER`` steps x - rate * gradient + scale * noise."""

    program: Compiled

    def __call__(
        self, here: Here, noise: Sequence[Step], rates: Sequence[tuple[float, float]]
    ) -> tuple[Here, list[Point], list[Tensor]]:
        """Where the steps end, and the points and energies after each; energies may be anything."""
        sizes = torch.tensor(rates, dtype=here.point[0].dtype)
        draws = [torch.stack(part) for part in zip(*noise, strict=True)]
        return _read(self.program(sizes, *here.point, *here.gradient, *draws), here)


@dataclass(frozen=True, eq=False)
class LeapfrogProgram:
    """Some proposals of ``steps`` leapfrog steps each, taken or refused; ``proposals`` of them."""

    program: Compiled
    proposals: int

    def __call__(
        self, here: Here, draws: Sequence[Draw], sizes: Sequence[tuple[float, float]], scale: Sequence[Tensor] | None
    ) -> tuple[Here, list[Point], list[Tensor], Tensor, Tensor]:
        """The same; and (P, B) the proposals taken, and by how much each test was passed."""
        each = torch.tensor(sizes, dtype=here.point[0].dtype)
        momenta = [torch.stack(part) for part in zip(*(d.momentum for d in draws), strict=True)]
        allowance = torch.stack([d.allowance for d in draws])
        out = self.program(
            each, allowance, *here.point, here.energy, *here.gradient, *momenta, *([] if scale is None else scale)
        )
        return (*_read(out[2:], here), out[0], out[1])


def _read(out: list[Tensor], here: Here) -> tuple[Here, list[Point], list[Tensor]]:
    """The end, the points and the energies, from gradients (n, t) of each block, energies (k, B), points (k, n, d)."""
    count = len(here.point)
    gradient, energies, points = tuple(out[:count]), list(out[count].unbind()), out[count + 1 :]
    each = list(zip(*(p.unbind() for p in points), strict=True))
    return Here(each[-1], energies[-1], gradient), each, energies


def langevin_program(motion: Motion, here: Here) -> LangevinProgram | None:
    """The program for the energy and the shapes of a run; None where it cannot be compiled."""
    blocks, energy = len(here.point), _afresh(motion.energy)

    def program(sizes: Tensor, *given: Tensor) -> list[Tensor]:
        point, gradient = list(given[:blocks]), list(given[blocks : 2 * blocks])
        noise, points, energies = given[2 * blocks :], [], []
        for k in range(TOGETHER):
            rate, scale = sizes[k, 0], sizes[k, 1]
            point = [x - rate * g + scale * z[k] for x, g, z in zip(point, gradient, noise, strict=True)]
            value, slope = energy.with_gradient(point)
            gradient = list(slope)
            points.append(point)
            energies.append(value)
        return [*gradient, torch.stack(energies), *(torch.stack(list(p)) for p in zip(*points, strict=True))]

    noise = [torch.zeros(TOGETHER, *g.shape, dtype=g.dtype) for g in here.gradient]
    sizes = torch.full((TOGETHER, 2), 1e-3, dtype=here.point[0].dtype)
    made = _once(motion.energy, ("langevin",), program, [sizes, *here.point, *here.gradient, *noise])
    return None if made is None else LangevinProgram(made)


def leapfrog_program(motion: Motion, here: Here, steps: int, scaled: bool) -> LeapfrogProgram | None:
    """The program of proposals of ``steps`` leapfrog steps; scaled: with roots of an inverse mass beside them."""
    blocks, energy, proposals = len(here.point), _afresh(motion.energy), max(1, TOGETHER // steps)

    def program(sizes: Tensor, allowance: Tensor, *given: Tensor) -> list[Tensor]:
        now = Here(given[:blocks], given[blocks], given[blocks + 1 : 2 * blocks + 1])
        momenta = given[2 * blocks + 1 : 3 * blocks + 1]
        scale = given[3 * blocks + 1 :] if scaled else None
        points, energies, accepted, surpluses = [], [], [], []
        for k in range(proposals):
            new, end = _trajectory(energy, now, [m[k] for m in momenta], sizes[k], steps, scale)
            surplus = (now.energy - new.energy) / sizes[k, 1] - 0.5 * energy.dot(end, end) + allowance[k]
            taken = surplus > 0
            now = Here(
                energy.where(taken, new.point, now.point),
                torch.where(taken, new.energy, now.energy),
                energy.where(taken, new.gradient, now.gradient),
            )
            points.append(now.point)
            energies.append(now.energy)
            accepted.append(taken)
            surpluses.append(surplus)
        each = (torch.stack(list(p)) for p in zip(*points, strict=True))
        return [torch.stack(accepted), torch.stack(surpluses), *now.gradient, torch.stack(energies), *each]

    momenta = [torch.zeros(proposals, *g.shape, dtype=g.dtype) for g in here.gradient]
    sizes = torch.full((proposals, 2), 1e-2, dtype=here.point[0].dtype)
    allowance = torch.ones(proposals, *here.energy.shape, dtype=here.energy.dtype)
    roots = [torch.ones_like(g) for g in here.gradient] if scaled else []
    arguments = [sizes, allowance, *here.point, here.energy, *here.gradient, *momenta, *roots]
    made = _once(motion.energy, ("leapfrog", steps, scaled), program, arguments)
    return None if made is None else LeapfrogProgram(made, proposals)


def gradient_program(energy: SmoothEnergy, point: Point) -> Compiled | None:
    """The energies (B,) and the gradient of each block, at points of the shapes of ``point``; None where it cannot be."""
    if not energy.flat:
        return None
    inner = _afresh(energy)

    def program(*given: Tensor) -> list[Tensor]:
        value, gradient = inner.with_gradient(given)
        return [value, *gradient]

    return _once(energy, ("gradient",), program, list(point))


def langevin_stretch(
    program: LangevinProgram,
    motion: Motion,
    here: Here,
    noise: Sequence[Step],
    rates: Sequence[tuple[float, float]],
    move: Move,
) -> Stretch:
    """``unadjusted`` in programs of ``TOGETHER`` steps, and what is left over step by step.

    Where an energy is not finite all of it is done over again, with a look at every step.
    """
    now, points, energies = here, [], []
    whole = len(noise) - len(noise) % TOGETHER
    for k in range(0, whole, TOGETHER):
        now, some, values = program(now, noise[k : k + TOGETHER], rates[k : k + TOGETHER])
        points += some
        energies += values
    if not all_finite(torch.stack(energies)):
        return unadjusted(motion, here, len(noise), move)
    if whole == len(noise):
        return Stretch(now, points, energies)
    rest = unadjusted(motion, now, len(noise) - whole, lambda point, gradient, i: move(point, gradient, whole + i))
    return Stretch(rest.here, points + rest.points, energies + rest.energies, None, rest.divergent)


def leapfrog_stretch(
    program: LeapfrogProgram,
    motion: Motion,
    here: Here,
    steps: Sequence[tuple[Draw, Proposal]],
    sizes: Sequence[tuple[float, float]],
    scale: Sequence[Tensor] | None,
) -> Stretch:
    """``adjusted`` in programs of some proposals, and what is left over one by one; or all of it so."""
    now, points, energies = here, [], []
    accepted: list[Tensor] = []
    surpluses: list[Tensor] = []
    whole = len(steps) - len(steps) % program.proposals
    for k in range(0, whole, program.proposals):
        part = slice(k, k + program.proposals)
        now, some, values, taken, surplus = program(now, [draw for draw, _ in steps[part]], sizes[part], scale)
        points += some
        energies += values
        accepted += taken.unbind()
        surpluses += surplus.unbind()
    if not all_finite(torch.stack(energies)):
        return adjusted(motion, here, steps)
    done = Stretch(now, points, energies, *figures(accepted, surpluses))
    if whole == len(steps):
        return done
    rest = adjusted(motion, now, steps[whole:])
    assert rest.acceptance is not None and done.acceptance is not None
    share = (done.acceptance * whole + rest.acceptance * (len(steps) - whole)) / len(steps)
    gone = [d for d in (done.divergent, rest.divergent) if d is not None]
    return Stretch(rest.here, points + rest.points, energies + rest.energies, share, sum(gone) if gone else None)  # type: ignore[arg-type]


def _trajectory(
    energy: SmoothEnergy,
    here: Here,
    momentum: Sequence[Tensor],
    size: Tensor,
    steps: int,
    scale: Sequence[Tensor] | None,
) -> tuple[Here, list[Tensor]]:
    """The end of a trajectory; size: (2,) the step and the temperature."""
    step, full = size[0], size[0] / size[1]
    rate = [step if scale is None else step * s for s in scale or momentum]
    pull = [full if scale is None else full * s for s in scale or momentum]
    point, value, gradient = here
    momenta = [p - 0.5 * h * g for p, g, h in zip(momentum, gradient, pull, strict=True)]
    for last in range(steps - 1, -1, -1):
        point = tuple(x + r * p for x, p, r in zip(point, momenta, rate, strict=True))
        value, gradient = energy.with_gradient(point)
        momenta = [p - (1.0 if last else 0.5) * h * g for p, g, h in zip(momenta, gradient, pull, strict=True)]
    return Here(point, value, gradient), momenta


def _afresh(energy: SmoothEnergy) -> SmoothEnergy:
    """The same energy without what it remembers, since tracing would leave its own tensors in there."""
    return replace(energy)


def _once(energy: SmoothEnergy, kind: tuple[Any, ...], program: Any, arguments: list[Tensor]) -> Compiled | None:
    """The compiled program of a graph's factors, made once as long as the graph's topology lives."""
    graph: FactorGraph = energy.graph
    shapes = tuple((tuple(x.shape), x.dtype) for x in arguments)
    found: list[tuple[tuple[Any, ...], Compiled | None]] = graph.topology.derive(("compiled", kind, shapes), list)
    held = (*graph.factors, graph.constant, *energy.fixed.values())
    for owners, made in found:
        if len(owners) == len(held) and all(a is b for a, b in zip(owners, held, strict=True)):
            return made
    with torch.enable_grad():
        made = compiled(program, arguments)
    found.append((held, made))
    del found[:-KEPT]
    return made

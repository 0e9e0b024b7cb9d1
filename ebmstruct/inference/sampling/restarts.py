"""Fresh starts that a Metropolis test takes or refuses: how chains of few coordinates get from one valley to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph, Real
from ebmstruct.inference.sampling.hamiltonian import chosen
from ebmstruct.inference.sampling.motion import Here, Motion
from ebmstruct.inference.sampling.stretches import Stretch
from ebmstruct.inference.smooth_energy import Point, Step, open_continuous


class Offer(NamedTuple):
    """What a step needs of the generator: its own, and for a fresh start a normal step and (B,) logs of uniforms."""

    noise: Any
    fresh: Step
    threshold: Tensor


@dataclass(frozen=True)
class Restarts:
    """Fresh starts of whole instances by an independence sampler (Tierney 1994).

    Every ``every`` steps each instance is offered a point drawn anew: uniform between the bounds of coordinates that have
    both, normal about the domain's start with standard deviation ``scale`` elsewhere. It is taken with probability
    min(1, p(new) q(old) / (p(old) q(new))), so exp(-E / temperature) stays the distribution that the moves leave alone.
    Cost: a gradient each time. How often one is taken falls exponentially with the number of coordinates: for up to about
    five.
    """

    every: int
    scale: float = 1.0

    def refuse(self, graph: FactorGraph) -> str | None:
        """Why there are no fresh starts for a graph; None where there are."""
        if self.every < 1 or not 0 < self.scale < math.inf:
            return "restart_every must be at least 1, and restart_scale positive"
        for block in open_continuous(graph):
            if not isinstance(block.domain, Real):
                return f"fresh starts are drawn for blocks of Real only, and block {block.name!r} is {block.domain}"
            lower, upper = block.domain.bounds(torch.float64)
            if bool((lower.isfinite() != upper.isfinite()).any()):
                return f"fresh starts need coordinates with two bounds or none, and block {block.name!r} has one-sided ones"
        return None

    def offers(self, motion: Motion, point: Point, generator: Generator, noise: Sequence[Any]) -> list[Offer]:
        """What steps need of the generator; ``noise`` is what they need without fresh starts."""
        steps = len(noise)
        fresh = motion.noise(point, generator, steps)
        count, kind = motion.energy.graph.num_instances, point[0].dtype
        logs = torch.rand(steps, count, dtype=kind, device=point[0].device, generator=generator).log_()
        return [Offer(*parts) for parts in zip(noise, fresh, logs.unbind(), strict=True)]

    def between(
        self,
        motion: Motion,
        here: Here,
        offers: Sequence[Offer],
        at: int,
        warmth: Callable[[int], float],
        run: Callable[[Here, Sequence[Any], int], Stretch],
    ) -> Stretch:
        """A stretch of steps with fresh starts before those that are due.

        warmth: the temperature at a step.  run: steps without fresh starts, from a place, with their noise, the first of
        them by its number in the stretch.
        """
        bounds = [i for i in range(len(offers)) if i == 0 or self.due(at + i)]
        parts: list[tuple[int, Stretch]] = []
        points: list[Point] = []
        energies: list[Tensor] = []
        for begin, end in zip(bounds, [*bounds[1:], len(offers)], strict=True):
            if self.due(at + begin):
                here = self.offered(motion, here, offers[begin], warmth(at + begin))
            part = run(here, [offer.noise for offer in offers[begin:end]], begin)
            here, points, energies = part.here, points + part.points, energies + part.energies
            parts.append((end - begin, part))
        accepted = [count * part.acceptance for count, part in parts if part.acceptance is not None]
        divergent = [part.divergent for _, part in parts if part.divergent is not None]
        share = torch.stack(accepted).sum(0) / len(offers) if accepted else None
        return Stretch(here, points, energies, share, torch.stack(divergent).sum(0) if divergent else None)

    def due(self, at: int) -> bool:
        """Whether fresh starts are offered before step number ``at``."""
        return at % self.every == 0

    def offered(self, motion: Motion, here: Here, offer: Offer, temperature: float) -> Here:
        """The places after the offer."""
        smooth = motion.energy
        homes = [
            domain.start(x.shape[0], x.dtype).to(x.device) for x, domain in zip(here.point, smooth.domains, strict=True)
        ]
        fresh = self._drawn(motion, here.point, homes, offer.fresh)
        energy, gradient = smooth.with_gradient(fresh)
        old, new = self._weight(motion, here.point, homes), self._weight(motion, fresh, homes)
        surplus = (here.energy - energy) / temperature + (old - new)
        taken = (offer.threshold < surplus) & energy.isfinite()
        return chosen(motion, taken, Here(fresh, energy, gradient), here)

    def _drawn(self, motion: Motion, point: Point, homes: Sequence[Tensor], normal: Step) -> Point:
        out = []
        for x, home, z, wall, moving in zip(point, homes, normal, motion.walls, motion.energy.moving, strict=True):
            y = home + self.scale * z
            if wall is not None:
                lower, upper = wall
                both = lower.isfinite()
                y = torch.where(both, lower + (upper - lower) * torch.special.ndtr(z), y)
            out.append(y if moving is None else torch.where(moving, y, x))
        return tuple(out)

    def _weight(self, motion: Motion, point: Point, homes: Sequence[Tensor]) -> Tensor:
        """(B,) the log density of a fresh start at a point, up to a constant; clamped sites add a constant too."""
        steps = []
        for x, home, wall in zip(point, homes, motion.walls, strict=True):
            step = (x - home) / self.scale
            steps.append(step if wall is None else torch.where(wall[0].isfinite(), 0.0, step))
        return -0.5 * motion.energy.dot(steps, steps)

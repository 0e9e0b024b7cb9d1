"""Many copies of a graph that walk side by side, each instance of each at an inverse temperature of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.annealed.base_density import BaseDensity
from ebmstruct.inference.result import Budget
from ebmstruct.inference.sampling.tempered_moves import FlipSites, Standing, flip, standing_at, trajectory, with_states
from ebmstruct.inference.smooth_energy import Point, SmoothEnergy


@dataclass(eq=False)
class Walkers:
    """Copies of a graph, N = copies * B instances in all, copy after copy; changed in place by their moves.

    Real blocks walk by Hamiltonian trajectories in steps of ``scales`` (n, t), discrete sites by single flips.
    values: every block.  standing: the real blocks' point, and (N,) energies also where there is no real block.
    bad: (N,) bool, where the first energy was NaN or minus infinity.
    """

    graph: FactorGraph
    copies: FactorGraph
    smooth: SmoothEnergy
    sites: FlipSites
    scales: tuple[Tensor, ...]
    values: dict[str, Tensor]
    standing: Standing
    bad: Tensor

    @classmethod
    def begin(
        cls, graph: FactorGraph, count: int, values: dict[str, Tensor], scales: tuple[Tensor, ...] | None = None
    ) -> Walkers:
        """``count`` copies at ``values`` of all blocks in all copies; steps of length 1 where no scales are given."""
        copies = graph.repeat(count)
        smooth = SmoothEnergy.of(copies, values)
        if scales is None:
            sizes = [(values[n].shape[0], d.tangent_dim) for n, d in zip(smooth.names, smooth.domains, strict=True)]
            scales = tuple(torch.ones(s, dtype=values[n].dtype) for n, s in zip(smooth.names, sizes, strict=True))
        else:
            scales = tuple(s.repeat(count, 1) for s in scales)
        raw = copies.energy(values).detach().double()
        bad = raw.isnan() | torch.isneginf(raw)
        out = cls(graph, copies, smooth, FlipSites.of(copies), scales, dict(values), Standing((), raw, ()), bad)
        out.stand(tuple(values[n] for n in smooth.names))
        return out

    @property
    def walks(self) -> bool:
        """Whether there are real blocks to move."""
        return bool(self.smooth.names)

    def stand(self, point: Point) -> None:
        """Put the real blocks at ``point``, with the discrete ones as they are."""
        if not self.walks:
            energy = self.copies.energy(self.values).detach().double()
            self.standing = Standing((), torch.where(energy.isnan(), torch.inf, energy), ())
            return
        self.smooth = with_states(self.smooth, self.values)
        self.values = {**self.values, **dict(zip(self.smooth.names, point, strict=True))}
        self.standing = standing_at(self.smooth, point)

    def flips(self, inverse: Tensor, budget: Budget, generator: Generator) -> None:
        """As many flips as the largest instance has open discrete sites, at ``inverse`` (N,) temperatures."""
        if not self.sites.longest:
            return
        energy = self.standing.energy
        for i in range(self.sites.longest):
            if i and budget.expired:
                break
            self.values, energy = flip(
                self.copies, self.sites, self.values, energy, inverse=inverse, generator=generator
            )
        if self.walks:
            self.stand(self.standing.point)
        else:
            self.standing = replace(self.standing, energy=energy)

    def walk(
        self,
        inverse: Tensor,
        step: Tensor,
        leapfrog_steps: int,
        budget: Budget,
        generator: Generator,
        base: BaseDensity | None = None,
        base_weight: Tensor | None = None,
    ) -> Tensor:
        """A trajectory in every instance; (N,) with what probability each was accepted."""
        self.standing, accepted = trajectory(
            self.smooth,
            self.standing,
            inverse=inverse,
            step=step,
            scales=self.scales,
            leapfrog_steps=leapfrog_steps,
            generator=generator,
            budget=budget,
            base=base,
            base_weight=base_weight,
        )
        self.values = {**self.values, **dict(zip(self.smooth.names, self.standing.point, strict=True))}
        return accepted

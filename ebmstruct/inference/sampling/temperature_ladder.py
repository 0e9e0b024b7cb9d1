"""Ladders of temperatures between which replicas change places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

SWAPS_WANTED = 0.3
"""Acceptance of exchanges that a ladder is spread for: high enough to travel, low enough to get somewhere."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """C ladders of R replicas for each of B instances, and who stands where.

    temperatures: (R, B), rising.  level: (C, R, B), the rung on which a replica stands.
    accepted, tried: (R - 1, B), exchanges of neighbouring rungs.
    """

    temperatures: Tensor
    level: Tensor
    accepted: Tensor
    tried: Tensor
    swaps: int = 0

    @classmethod
    def of(cls, cold: float, hot: float, chains: int, replicas: int, instances: int) -> Ladder:
        """A geometric ladder, replica r on rung r."""
        share = torch.linspace(0.0, 1.0, replicas, dtype=torch.float64) if replicas > 1 else torch.zeros(1).double()
        rungs = cold * (hot / cold) ** share
        level = torch.arange(replicas)[None, :, None].expand(chains, -1, instances).clone()
        none = torch.zeros(max(0, replicas - 1), instances, dtype=torch.float64)
        return cls(rungs[:, None].expand(-1, instances).clone(), level, none, none.clone())

    @property
    def holder(self) -> Tensor:
        """(C, R, B): the replica on each rung."""
        return self.level.argsort(1)

    @property
    def inverse(self) -> Tensor:
        """(C, R, B): one over each replica's temperature."""
        instances = torch.arange(self.level.shape[2])
        return 1.0 / self.temperatures[self.level, instances]

    @property
    def acceptance(self) -> Tensor:
        """(R - 1, B): the share of exchanges accepted."""
        return self.accepted / self.tried.clamp(min=1.0)

    def exchanged(self, energy: Tensor, generator: Generator) -> tuple[Ladder, Tensor]:
        """After a Metropolis test of every second pair of neighbours; also (R - 1, B) the mean probability, NaN untried.

        energy: (C, R, B) of each replica. Source: Geyer (1991); Hukushima and Nemoto (1996).
        """
        chains, replicas, instances = energy.shape
        probability = torch.full((max(0, replicas - 1), instances), torch.nan, dtype=torch.float64)
        lower = torch.arange(0, max(0, replicas - 1))[self.swaps % 2 :: 2]
        if not lower.numel():
            return Ladder(self.temperatures, self.level, self.accepted, self.tried, self.swaps + 1), probability
        holder = self.holder
        on_rung = energy.gather(1, holder)
        inverse = 1.0 / self.temperatures
        gain = (inverse[lower] - inverse[lower + 1]) * (on_rung[:, lower] - on_rung[:, lower + 1])
        chance = torch.where(gain.isnan(), torch.zeros_like(gain), gain.clamp(max=0.0).exp())
        taken = torch.rand(chance.shape, dtype=torch.float64, generator=generator) < chance
        one, other = holder[:, lower], holder[:, lower + 1]
        holder = holder.clone()
        holder[:, lower] = torch.where(taken, other, one)
        holder[:, lower + 1] = torch.where(taken, one, other)
        accepted, tried = self.accepted.clone(), self.tried.clone()
        accepted[lower] += taken.double().sum(0)
        tried[lower] += chains
        probability[lower] = chance.mean(0)
        return Ladder(self.temperatures, holder.argsort(1), accepted, tried, self.swaps + 1), probability

    def spread(self, probability: Tensor, rate: float, hottest: float) -> Ladder:
        """With rungs further apart where exchanges are taken more often than wanted, and closer where less.

        The lowest rung stays. Source: Miasojedow, Moulines and Vihola (2013).
        """
        if self.temperatures.shape[0] < 2:
            return self
        gaps = self.temperatures.log().diff(dim=0).clamp(min=1e-4)
        change = torch.where(probability.isnan(), 0.0, probability - SWAPS_WANTED)
        gaps = (gaps.log() + rate * change).exp()
        cold = self.temperatures[:1].log()
        rungs = torch.cat([cold, cold + gaps.cumsum(0)])
        most = torch.log(torch.tensor(hottest, dtype=torch.float64))
        over = (rungs[-1:] - cold) / (most - cold).clamp(min=1e-9)
        rungs = cold + (rungs - cold) / over.clamp(min=1.0)
        return Ladder(rungs.exp(), self.level, self.accepted, self.tried, self.swaps)

    def counted_anew(self) -> Ladder:
        """With no exchanges counted yet."""
        none = torch.zeros_like(self.accepted)
        return Ladder(self.temperatures, self.level, none, none.clone(), self.swaps)

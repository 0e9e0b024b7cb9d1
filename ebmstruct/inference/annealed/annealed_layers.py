"""The path from independent units to exp(-E / temperature) for layers of units, every other layer summed out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ebmstruct.inference.annealed.annealed_path import AnnealedPath
from ebmstruct.inference.result import Budget
from ebmstruct.inference.sampling.layers import LayeredSweeps, draw_states

SCOUTS, SCOUT_SWEEPS = 64, 60
"""Chains, and their sweeps, by which the base distribution is found; the first third is not counted."""
LEAST = 0.02
"""No state has less than this, divided by the number of states, in the base distribution."""


@dataclass(frozen=True, eq=False)
class LayerBase:
    """Independent units: the log probability of each state, block to (B or 1, V, K), -inf for what is forbidden.

    dead: (B,) bool, the instances in which some unit has no state left.
    """

    log_chance: Mapping[str, Tensor]
    dead: Tensor

    @classmethod
    def of(cls, sweeps: LayeredSweeps, temperature: float, generator: Generator, budget: Budget) -> LayerBase:
        """The mean conditional probabilities that a few chains meet, kept away from 0.

        Any base gives an unbiased estimate, as long as the run's particles are not these chains; one with the units'
        own means makes the path short (Salakhutdinov and Murray 2008 take those of the data, which no graph has).
        """
        instances = sweeps.graph.num_instances
        allowed = {n: torch.isfinite(u) for n, u in sweeps.unary.items()}
        dead = torch.zeros(instances, dtype=torch.bool)
        for mask in allowed.values():
            dead = dead | ~mask.any(2).all(1)
        x = {n: torch.zeros(SCOUTS * instances, v, dtype=torch.long) for n, (v, _) in sweeps.layers.sizes.items()}
        uniform = {n: torch.where(m, 0.0, torch.inf).to(sweeps.unary[n]) for n, m in allowed.items()}
        for name, own in uniform.items():
            rows = own.expand(instances, -1, -1).repeat(SCOUTS, 1, 1)
            x[name] = draw_states(rows, 1.0, generator)
        total = {n: torch.zeros_like(u) for n, u in sweeps.unary.items()}
        count = 0
        for at in range(SCOUT_SWEEPS):
            if budget.expired:
                break
            for name in sorted(sweeps.moving, key=lambda n: -sweeps.layers.colours[n]):
                energy = sweeps.conditionals(name, x)
                x[name] = draw_states(energy, temperature, generator)
                if at >= SCOUT_SWEEPS // 3:
                    chance = torch.softmax(-energy / temperature, -1).nan_to_num(0.0)
                    own = chance.reshape(SCOUTS, instances, *chance.shape[1:]).mean(0)
                    total[name] += own if total[name].shape[0] == instances else own.mean(0, keepdim=True)
            count += at >= SCOUT_SWEEPS // 3
        log_chance = {}
        for name, mask in allowed.items():
            states = mask.shape[2]
            mean = total[name] / count if count and name in sweeps.moving else torch.full_like(total[name], 1 / states)
            mean = torch.where(mask, mean.clamp(min=LEAST / states), 0.0)
            log_chance[name] = (mean / mean.sum(2, keepdim=True).clamp(min=1e-30)).log()
        return cls(log_chance, dead)


@dataclass(eq=False)
class LayeredPath(AnnealedPath):
    """P particles over the layers that are kept, the ones of one colour summed out; they move by block Gibbs sweeps.

    The density at beta is the sum over the summed units of base^(1 - beta) exp(-beta E / temperature); at 0 it is
    normalised. Its logarithm is no straight line in beta, so ``gain`` is the difference itself.
    x: block to (P B, V) states of the layers kept.  beta: where the particles were moved last.
    """

    sweeps: LayeredSweeps
    base: LayerBase
    temperature: float
    moves: int
    generator: Generator
    kept: tuple[str, ...]
    summed: tuple[str, ...]
    x: dict[str, Tensor]
    beta: Tensor

    @classmethod
    def begin(
        cls,
        sweeps: LayeredSweeps,
        base: LayerBase,
        temperature: float,
        particles: int,
        moves: int,
        generator: Generator,
    ) -> LayeredPath:
        """Particles drawn from the base; the colour with the most units is kept, another summed out."""
        colours = sweeps.layers.colours
        weight = {c: sum(sweeps.layers.sizes[n][0] for n in colours if colours[n] == c) for c in set(colours.values())}
        first = max(weight, key=lambda c: weight[c])
        out = max((c for c in weight if c != first), key=lambda c: weight[c])
        summed = tuple(n for n in colours if colours[n] == out)
        kept = tuple(n for n in colours if n not in summed)
        instances = sweeps.graph.num_instances
        x = {}
        for name in kept:
            rows = -base.log_chance[name].expand(instances, -1, -1).repeat(particles, 1, 1)
            x[name] = draw_states(rows, 1.0, generator)
        beta = torch.zeros(instances, dtype=torch.float64)
        return cls(sweeps, base, temperature, moves, generator, kept, summed, x, beta)

    @property
    def potential(self) -> Tensor:
        return self._slope(self.beta)

    def gain(self, before: Tensor, after: Tensor) -> Tensor:
        energies = {n: self._energy(n) for n in self.summed}
        held, based = self._held()
        step = (after - before).repeat(self._particles)
        total = step * (-held / self.temperature - based)
        for name, energy in energies.items():
            total = total + self._log_sum(name, energy, after) - self._log_sum(name, energy, before)
        return total.reshape(-1, before.shape[0])

    @property
    def log_start(self) -> Tensor:
        out = torch.zeros(self.sweeps.graph.num_instances, dtype=torch.float64)
        if self.sweeps.graph.constant is not None:
            out = out - self.sweeps.graph.constant.detach().double() / self.temperature
        return out.masked_fill(self.base.dead, -torch.inf)

    def move(self, beta: Tensor, budget: Budget, *, tune: bool = False) -> None:
        self.beta = beta
        for _ in range(self.moves):
            full = dict(self.x)
            for name in (*self.summed, *self.kept):
                full[name] = draw_states(-self._logits(name, self._energy(name, full), beta), 1.0, self.generator)
            self.x = {n: full[n] for n in self.kept}

    def finish(self, log_weights: Tensor) -> Tensor:
        return log_weights

    @property
    def draws(self) -> dict[str, Tensor]:
        full, one = dict(self.x), torch.ones_like(self.beta)
        for name in self.summed:
            full[name] = draw_states(-self._logits(name, self._energy(name, full), one), 1.0, self.generator)
        return {n: full[n].reshape(self._particles, -1).long() for n in self.sweeps.graph.variables}

    def expectations(self, weights: Tensor) -> dict[str, Any]:
        beliefs, one = {}, torch.ones_like(self.beta)
        for name, (sites, states) in self.sweeps.layers.sizes.items():
            if name in self.summed:
                chance = torch.softmax(self._logits(name, self._energy(name), one), -1).double()
            else:
                chance = torch.nn.functional.one_hot(self.x[name].long(), states).double()
            mean = torch.einsum("pb,pbvk->bvk", weights, chance.reshape(self._particles, -1, sites, states))
            beliefs[name] = mean.reshape(-1, states)
        return {"beliefs": beliefs}

    @property
    def _particles(self) -> int:
        return next(iter(self.x.values())).shape[0] // max(1, self.sweeps.graph.num_instances)

    def _energy(self, name: str, x: Mapping[str, Tensor] | None = None) -> Tensor:
        """(L, V, K) energies of the states of a block, the layers that it is joined to at x."""
        return self.sweeps.conditionals(name, self.x if x is None else x)

    def _logits(self, name: str, energy: Tensor, beta: Tensor) -> Tensor:
        """(L, V, K): (1 - beta) log base - beta E / T, -inf for what is forbidden."""
        rows = beta.to(energy.dtype).repeat(self._particles)[:, None, None]
        base = self._of_rows(self.base.log_chance[name], energy)
        mixed = (1 - rows) * base - rows * energy / self.temperature
        return torch.where(torch.isneginf(base), -torch.inf, mixed)

    def _log_sum(self, name: str, energy: Tensor, beta: Tensor) -> Tensor:
        return self._logits(name, energy, beta).logsumexp(2).double().sum(1)

    def _of_rows(self, own: Tensor, like: Tensor) -> Tensor:
        """(1 or L, V, K) what each row has of a tensor (B or 1, V, K)."""
        return own if own.shape[0] in (1, like.shape[0]) else own.repeat(like.shape[0] // own.shape[0], 1, 1)

    def _held(self) -> tuple[Tensor, Tensor]:
        """(L,) float64: the energy of the layers kept, and the log probability that the base gives them."""
        values = {n: v.reshape(self._particles, -1) for n, v in self.x.items()}
        energy = self.sweeps.partial_energies(values)
        based: Tensor | None = None
        for name, x in self.x.items():
            rows = self.base.log_chance[name]
            rows = rows.expand(x.shape[0], -1, -1) if rows.shape[0] == 1 else self._of_rows(rows, x[..., None])
            part = rows.gather(2, x[..., None].long())[..., 0].double().sum(1)
            based = part if based is None else based + part
        assert based is not None
        return energy.reshape(-1), based

    def _slope(self, beta: Tensor) -> Tensor:
        """(P, B) the derivative of the log density by beta."""
        held, based = self._held()
        total = -held / self.temperature - based
        for name in self.summed:
            energy = self._energy(name)
            chance = torch.softmax(self._logits(name, energy, beta), -1)
            base = self._of_rows(self.base.log_chance[name], energy)
            forbidden = torch.isneginf(base)
            each = torch.where(forbidden, 0.0, chance * (-energy / self.temperature - base))
            total = total + each.double().sum((1, 2))
        return total.reshape(-1, beta.shape[0])

"""Draws by annealing noise away: from noise at the highest level down to the lowest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph, Real
from ebmstruct.graph.noise import NoiseLevel, at_noise, noise_block, noise_levels
from ebmstruct.inference.result import Answer, Ask, Budget, Query, Samples, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import open_continuous
from ebmstruct.inference.solver import Solver

MOST_AT_ONCE = 1 << 21
"""Numbers of all draws that are moved together."""


@dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Independent draws from an energy with noise levels: noise at the highest level, then step by step less of it.

    Between neighbouring levels s > t the noise is taken down by x - (s^2 - t^2) dE/dx(x, s), with new noise of the
    variance that reverses diffusion (the ancestral step of Song et al. 2021); at each level ``corrections`` Langevin
    steps follow, of size ``step`` t^2 (Song and Ermon 2019). At the end the mean of the clean vector is taken, without
    noise, where ``denoise``. Known sites are put at their values with the noise of the level at hand, and at the end
    without it: a completion of the known part.

    levels: how many, geometric between the graph's lowest and highest, closer together near the lowest by ``bend`` (the
    rho of Karras et al. 2022).  temperature of the query: scales the variance of all noise added on the way.
    The draws are not exact: they are as good as the slopes of the energy, and as many levels allow. No minima.
    Cost: levels * (1 + corrections) slopes. A deadline ends it early, with blurred draws and the status DEADLINE.
    """

    name: ClassVar[str] = "annealed_langevin"

    levels: int = 50
    corrections: int = 0
    step: float = 0.1
    bend: float = 5.0
    denoise: bool = True

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.SAMPLE:
            return "it only draws samples"
        if self.levels < 2 or self.corrections < 0 or not self.step > 0 or not self.bend > 0:
            return (
                "it needs levels of at least 2, corrections of at least 0, and step and bend above 0; found "
                f"{self.levels}, {self.corrections}, {self.step} and {self.bend}"
            )
        if noise_block(graph) is None:
            return "no block of the graph holds noise levels, along which it could anneal; langevin needs none"
        for block in graph.variables.values():
            if isinstance(block.domain, (NoiseLevel, Real)) or not block.num_sites:
                continue
            if graph.evidence is None or block.name not in graph.evidence.values or block.name in graph.evidence.known:
                return f"block {block.name!r} is {block.domain} and open; noise goes with Real blocks"
        if any(isinstance(b.domain, Real) and b.domain.bounded for b in open_continuous(graph)):
            return "a block has bounds, within which noise does not stay"
        return None

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        source = default_generator(generator)
        numbers = sum(v.num_sites * v.domain.dim for v in graph.variables.values() if isinstance(v.domain, Real))
        together = max(1, min(query.num_samples, MOST_AT_ONCE // max(1, numbers)))
        parts: list[dict[str, Tensor]] = []
        late = False
        for begin in range(0, query.num_samples, together):
            count = min(together, query.num_samples - begin)
            copies = graph if count == 1 else graph.repeat(count)
            found, over = self._annealed(copies, query.temperature, budget, source)
            late = late or over
            parts.append({n: v.reshape(count, -1, *v.shape[1:]) for n, v in found.items()})
        values = {n: torch.cat([p[n] for p in parts]) for n in parts[0]}
        energy = torch.stack([graph.energy({n: v[s] for n, v in values.items()}) for s in range(query.num_samples)])
        ends = torch.full((graph.num_instances,), int(Status.DEADLINE if late else Status.CONVERGED))
        ends = torch.where(torch.isfinite(energy).all(0), ends, int(Status.NONFINITE))
        return Samples(values, energy, False, ends, self.name, chains=query.num_samples)

    def _annealed(
        self, graph: FactorGraph, temperature: float, budget: Budget | None, generator: Generator
    ) -> tuple[dict[str, Tensor], bool]:
        """One draw of every instance, and whether time was over before the lowest level."""
        path = _Path(graph, generator)
        sigmas = self._sigmas(noise_levels(graph))
        path.start(sigmas[0])
        warmth = math.sqrt(temperature)
        for high, low in zip(sigmas, sigmas[1:], strict=False):
            path.down(high, low, warmth)
            for _ in range(self.corrections):
                path.correct(low, self.step, warmth)
            if budget is not None and budget.expired:
                return path.ended(low if self.denoise else None), low > sigmas[-1]
        return path.ended(sigmas[-1] if self.denoise else None), False

    def _sigmas(self, domain: NoiseLevel) -> list[float]:
        """From the highest to the lowest: even in the power 1 / bend (Karras et al. 2022, equation 5)."""
        high, low = domain.highest ** (1 / self.bend), domain.lowest ** (1 / self.bend)
        return [(high + i / (self.levels - 1) * (low - high)) ** self.bend for i in range(self.levels)]


class _Path:
    """Where the draws of a graph's instances stand; known sites are noised like the rest."""

    def __init__(self, graph: FactorGraph, generator: Generator) -> None:
        self.graph, self.generator = graph, generator
        self.blocks = {n: v for n, v in graph.variables.items() if isinstance(v.domain, Real)}
        self.given: dict[str, Tensor] = {}
        self.known: dict[str, Tensor] = {}
        fixed = graph.evidence
        for name, block in self.blocks.items():
            if fixed is not None and name in fixed.values:
                everywhere = torch.ones(block.num_sites, dtype=torch.bool, device=fixed.values[name].device)
                self.given[name], self.known[name] = fixed.values[name], fixed.known.get(name, everywhere)[:, None]
        self.others = {} if fixed is None else {n: v for n, v in fixed.values.items() if n not in self.blocks}
        self.point: dict[str, Tensor] = {}

    def start(self, sigma: float) -> None:
        """Noise of the highest level about 0."""
        device = next(iter(self.graph.variables.values())).offsets.device
        for name, block in self.blocks.items():
            x = torch.zeros(block.num_sites, block.domain.dim, dtype=torch.float32, device=device)  # type: ignore[union-attr]
            self.point[name] = x + sigma * self._normal(x)
        self._hold(sigma)

    def down(self, high: float, low: float, warmth: float) -> None:
        """Take the noise down from one level to the next."""
        new = warmth * low * math.sqrt(max(0.0, 1 - (low / high) ** 2))
        for name, slope in self._slopes(high).items():
            x = self.point[name]
            self.point[name] = x - (high**2 - low**2) * slope + new * self._normal(x)
        self._hold(low)

    def correct(self, sigma: float, step: float, warmth: float) -> None:
        """A Langevin step at a level."""
        size = step * sigma**2
        for name, slope in self._slopes(sigma).items():
            x = self.point[name]
            self.point[name] = x - size * slope + warmth * math.sqrt(2 * size) * self._normal(x)
        self._hold(sigma)

    def ended(self, sigma: float | None) -> dict[str, Tensor]:
        """The values of all blocks; without the noise of the last level, unless that is None."""
        if sigma is not None:
            for name, slope in self._slopes(sigma).items():
                self.point[name] = self.point[name] - sigma**2 * slope
        self._hold(0.0)
        return {n: self.point[n] if n in self.point else self.others[n] for n in self.graph.variables}

    def _slopes(self, sigma: float) -> dict[str, Tensor]:
        levels = torch.full((self.graph.num_instances,), sigma)
        graph = at_noise(self.graph, levels.to(next(iter(self.point.values()))), released=True)
        if len(self.others) > 1:
            graph = graph.condition(Assignment({n: v for n, v in self.others.items() if n in self._discrete}))
        with torch.enable_grad():
            free = {n: x.detach().requires_grad_() for n, x in self.point.items()}
            energy = graph.energy(free).sum()
            found = torch.autograd.grad(energy, list(free.values()), allow_unused=True)
        return {n: torch.zeros_like(free[n]) if g is None else g for n, g in zip(free, found, strict=True)}

    @property
    def _discrete(self) -> set[str]:
        noise = noise_block(self.graph)
        return {n for n in self.others if noise is None or n != noise.name}

    def _hold(self, sigma: float) -> None:
        """Known sites at what is known of them, with noise."""
        for name, mask in self.known.items():
            value = self.given[name].to(self.point[name])
            noised = value + sigma * self._normal(value) if sigma else value
            self.point[name] = torch.where(mask, noised, self.point[name])

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)

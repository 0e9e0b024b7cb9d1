"""Runs of Gibbs chains over layers of units: samples and marginals by products of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.diagnostics.states import R_HAT_FINE, effective_samples, site_r_hat
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Samples, Status
from ebmstruct.inference.sampling.layers import LayeredSweeps, draw_states
from ebmstruct.inference.sampling.markov import Collected, as_samples, chain_starts

RECORDED = 1 << 25
"""States that are written down, at the most, to see whether chains agree."""
RECORDS = 200
"""How often states are written down where that allows it."""


@dataclass(frozen=True)
class LayeredRun:
    """A run to make. chains: side by side.  burn_in: sweeps dropped.  thinning: between draws.  sweeps: for marginals."""

    name: str
    chains: int
    burn_in: int
    thinning: int
    sweeps: int

    def answer(
        self,
        layers: LayeredSweeps,
        query: Query,
        init: Assignment | None,
        budget: Budget,
        generator: Generator,
    ) -> Answer:
        """Samples or marginals; exact where the open units are independent of each other. A budget counts sweeps."""
        graph = layers.graph
        if layers.independent:
            return self._exact(layers, query, generator)
        given = chain_starts(graph, init, self.chains)
        x = self.start(layers, generator) if given is None else layers.pinned(layers.rows(given.values))
        walk = _Walk(layers, x, query.temperature, generator, budget)
        walk.go(self.burn_in)
        if query.ask is Ask.MARGINALS:
            return self._marginals(graph, walk)
        wanted = -(-query.num_samples // self.chains)
        draws: list[dict[str, Tensor]] = []
        energies: list[Tensor] = []
        for _ in range(wanted):
            if not walk.go(self.thinning) and draws:
                break
            draws.append(walk.values(self.chains))
            energies.append(layers.energies(draws[-1]))
        values = {n: torch.stack([d[n] for d in draws]) for n in graph.variables}
        collected = Collected(values, torch.stack(energies), torch.ones(graph.num_instances), walk.status)
        return as_samples(graph, query, collected, self.name, sweeps=walk.sweeps)

    def start(self, layers: LayeredSweeps, generator: Generator) -> dict[str, Tensor]:
        """Units anywhere that is allowed."""
        instances = layers.graph.num_instances
        x = {}
        for name, own in layers.unary.items():
            level = torch.where(torch.isposinf(own), torch.inf, 0.0).to(own)
            x[name] = draw_states(level.expand(instances, -1, -1).repeat(self.chains, 1, 1), 1.0, generator)
        return layers.pinned(x)

    def _exact(self, layers: LayeredSweeps, query: Query, generator: Generator) -> Answer:
        """Independent units: one sweep draws them, and their conditional probabilities are their marginals."""
        graph = layers.graph
        zero = {n: torch.zeros(1, v.num_sites, dtype=torch.long) for n, v in graph.variables.items()}
        x = layers.pinned(layers.rows(zero))
        held = {n: v for n, v in x.items() if n not in layers.moving}
        values = {n: v.reshape(1, -1) for n, v in held.items()}
        log_z = -layers.free_energies(values, layers.moving, query.temperature)[0] / query.temperature
        status = torch.full(log_z.shape, int(Status.OPTIMAL))
        status = status.masked_fill(torch.isneginf(log_z), int(Status.INFEASIBLE))
        status = status.masked_fill(log_z.isnan() | torch.isposinf(log_z), int(Status.NONFINITE))
        if query.ask is Ask.MARGINALS:
            return Marginals(beliefs_at(layers, x, query.temperature), log_z, True, status, self.name)
        many = {n: v.expand(query.num_samples, -1) for n, v in zero.items()}
        drawn = layers.run(many, 1, query.temperature, generator)
        return Samples(drawn, layers.energies(drawn), True, status, self.name)

    def _marginals(self, graph: FactorGraph, walk: _Walk) -> Marginals:
        every = max(1, self.sweeps // RECORDS)
        size = sum(v.num_sites for v in graph.variables.values()) * self.chains
        keep = max(1, self.sweeps // every * size // RECORDED)
        total: dict[str, Tensor] = {}
        records: list[Tensor] = []
        energies: list[Tensor] = []
        done = 0
        while done < self.sweeps and walk.go(1):
            done += 1
            for name, part in beliefs_at(walk.layers, walk.x, walk.temperature, self.chains).items():
                total[name] = total[name] + part if name in total else part
            if done % (every * keep) == 0:
                values = walk.values(self.chains)
                records.append(torch.cat([values[n] for n in graph.variables], 1).to(torch.int16))
                energies.append(walk.layers.energies(values))
        if not done:
            total, done = beliefs_at(walk.layers, walk.x, walk.temperature, self.chains), 1
        values = walk.values(self.chains)
        energies.append(walk.layers.energies(values))
        energy = torch.stack(energies)
        agreement = (
            site_r_hat(torch.stack(records)) if len(records) > 3 else torch.full((size // self.chains,), torch.inf)
        )
        worst, by_block, begin = torch.ones(graph.num_instances, dtype=torch.float64), {}, 0
        for name, block in graph.variables.items():
            own = agreement[begin : begin + block.num_sites].double().nan_to_num(1.0)
            begin += block.num_sites
            worst = worst.scatter_reduce(0, block.instance, own, "amax")
            by_block[name] = float(own.max()) if own.numel() else 1.0
        early = walk.status if walk.status is not Status.CONVERGED else Status.MAX_STEPS
        status = torch.where(worst < R_HAT_FINE, int(Status.CONVERGED), int(early))
        status = status.masked_fill(~energy[-1].isfinite().all(0), int(Status.INFEASIBLE))
        lowest = -energy.amin((0, 1)) / walk.temperature
        stats = {
            "r_hat": by_block, "effective_samples": effective_samples(energy), "chains": self.chains,
            "sweeps": walk.sweeps, "log_partition_lower": lowest,
        }  # fmt: skip
        beliefs = {n: t / done for n, t in total.items()}
        return Marginals(beliefs, lowest, False, status, self.name, stats=stats)


@dataclass(eq=False)
class _Walk:
    """Chains on their way; x: block to (C B, V), replaced at each sweep."""

    layers: LayeredSweeps
    x: dict[str, Tensor]
    temperature: float
    generator: Generator
    budget: Budget
    sweeps: int = 0
    status: Status = Status.CONVERGED

    def go(self, sweeps: int) -> bool:
        """More sweeps; False where the budget ended first."""
        order = sorted(self.layers.moving, key=lambda n: -self.layers.layers.colours[n])
        for _ in range(sweeps):
            if self.budget.expired:
                self.status = Status.DEADLINE
                return False
            if self.budget.max_steps is not None and self.sweeps >= self.budget.max_steps:
                self.status = Status.MAX_STEPS
                return False
            for name in order:
                self.x[name] = self.layers.drawn(name, self.x, self.temperature, self.generator)
            self.sweeps += 1
        return True

    def values(self, chains: int) -> dict[str, Tensor]:
        """Block to (C, n) long."""
        return {n: self.x[n].reshape(chains, -1).long() for n in self.layers.graph.variables}


def beliefs_at(
    layers: LayeredSweeps, x: Mapping[str, Tensor], temperature: float, chains: int = 1
) -> dict[str, Tensor]:
    """Block to (n, K) float64: each unit's probabilities given the other layers at x, averaged over chains."""
    out = {}
    for name, (sites, states) in layers.layers.sizes.items():
        chance = torch.softmax(-layers.conditionals(name, x) / temperature, -1).nan_to_num(0.0).double()
        out[name] = chance.reshape(chains, -1, sites, states).mean(0).flatten(0, 1)
    return out

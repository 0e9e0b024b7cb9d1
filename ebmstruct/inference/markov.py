"""Samplers that are chains: what they are, how a run of several is collected, and how well the chains agree."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.diagnostics.states import R_HAT_FINE as R_HAT_FINE
from ebmstruct.inference.diagnostics.states import effective_samples as effective_samples
from ebmstruct.inference.diagnostics.states import r_hat as r_hat
from ebmstruct.inference.diagnostics.states import site_r_hat as site_r_hat
from ebmstruct.inference.result import Budget, Query, Samples, Status
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True, eq=False)
class ChainState:
    """Where the chains of a graph's instances stand.

    values: block name to (n,) long.  energy: (B,) float64.  cache: what a sampler keeps for its next step.
    """

    values: Mapping[str, Tensor]
    energy: Tensor
    cache: Any = None


@dataclass(frozen=True, eq=False)
class ChainInfo:
    """What one step did. acceptance: (B,) the share of proposals accepted; 1 for samplers that accept all."""

    acceptance: Tensor


class MarkovSampler(Solver):
    """A sampler whose draws are the steps of a chain that leaves exp(-E / temperature) unchanged.

    A step never changes the graph or the state that it is given. For several chains take ``graph.repeat(chains)``.
    """

    @abstractmethod
    def init(self, graph: FactorGraph, y: Assignment | None, generator: Generator | None = None) -> ChainState:
        """The state before the first step: at ``y``, or at a random assignment of finite energy."""

    @abstractmethod
    def step(
        self, graph: FactorGraph, state: ChainState, *, temperature: float, generator: Generator | None
    ) -> tuple[ChainState, ChainInfo]:
        """The state after one step, and what the step did."""


@dataclass(frozen=True, eq=False)
class Collected:
    """Draws of several chains: block name to (D, C, n) long, energies (D, C, B), acceptance (B,), and how it ended."""

    values: dict[str, Tensor]
    energy: Tensor
    acceptance: Tensor
    status: Status


def default_generator(generator: Generator | None) -> Generator:
    """The generator given, or a fresh one seeded 0, so that answers repeat."""
    return generator if generator is not None else torch.Generator().manual_seed(0)


def run_chains(
    sampler: MarkovSampler,
    graph: FactorGraph,
    query: Query,
    *,
    chains: int,
    burn_in: int,
    thinning: int,
    init: Assignment | None,
    budget: Budget | None,
    generator: Generator,
) -> Collected:
    """Run ``chains`` copies of a graph, drop ``burn_in`` steps, and keep every ``thinning``-th state after that.

    A budget counts steps. Where it ends early, the draws so far are returned, and at least one.
    """
    budget = budget or Budget()
    copies = graph.repeat(chains)
    start = None
    if init is not None:
        values = {k: v.repeat(chains, *[1] * (v.dim() - 1)) for k, v in graph.complete(init).items()}
        start = Assignment(values)
    state = sampler.init(copies, start, generator)
    accepted = torch.zeros_like(state.energy)
    kept: list[ChainState] = []
    wanted, steps, status = -(-query.num_samples // chains), 0, Status.CONVERGED
    while len(kept) < wanted:
        stopped = budget.expired or (budget.max_steps is not None and steps >= budget.max_steps)
        if stopped:
            status = Status.DEADLINE if budget.expired else Status.MAX_STEPS
            break
        state, info = sampler.step(copies, state, temperature=query.temperature, generator=generator)
        steps += 1
        accepted = accepted + info.acceptance
        if steps > burn_in and (steps - burn_in) % thinning == 0:
            kept.append(state)
    kept = kept or [state]
    values = {
        name: torch.stack([s.values[name] for s in kept]).reshape(len(kept), chains, -1) for name in graph.variables
    }
    energy = torch.stack([s.energy for s in kept]).reshape(len(kept), chains, -1)
    share = (accepted / max(1, steps)).reshape(chains, -1).mean(0)
    return Collected(values, energy, share, status)


def as_samples(graph: FactorGraph, query: Query, collected: Collected, name: str, **stats: Any) -> Samples:
    """The first ``num_samples`` of the draws, taken across the chains, with how well the chains agree.

    Draws that an early end of the budget left out are repeats of those there are. stats: ``acceptance`` (B,),
    ``r_hat`` block name to the largest of its sites, ``effective_samples`` (B,) of the energy, ``distinct``.
    """
    draws, chains = collected.energy.shape[:2]
    total = draws * chains
    order = torch.arange(query.num_samples) % total
    values = {k: v.reshape(total, -1)[order] for k, v in collected.values.items()}
    energy = collected.energy.reshape(total, -1)[order]
    status = torch.full((graph.num_instances,), int(collected.status), dtype=torch.long)
    status = torch.where(torch.isfinite(energy).all(0), status, int(Status.MAX_STEPS))
    found: dict[str, Any] = {
        "acceptance": collected.acceptance,
        "r_hat": stats.get("r_hat") or {k: r_hat(v) for k, v in collected.values.items()},
        "effective_samples": effective_samples(collected.energy),
        "chains": chains,
        "distinct": min(total, query.num_samples),
        **stats,
    }
    return Samples(values, energy, False, status, name, found)

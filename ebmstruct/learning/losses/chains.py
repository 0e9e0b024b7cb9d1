"""Chains inside a loss: which sampler walks them, where they stand after some steps, and the energies of draws.

Values of several chains are block name to (C, n) long, or (C, n, d) for a continuous block: the layout of draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError, LossRefusal
from ebmstruct.graph import Assignment, Continuous, Discrete, FactorGraph
from ebmstruct.graph.continuous import scattered
from ebmstruct.inference import (
    HMC,
    MALA,
    BlockGibbs,
    Gaussian,
    GibbsWithGradients,
    Langevin,
    MixedGibbs,
    Query,
    Solver,
    UnderdampedLangevin,
    sample,
)
from ebmstruct.inference.choice import exact_at_once
from ebmstruct.inference.clamping import tables_left
from ebmstruct.inference.mixed.draws import StateDraws
from ebmstruct.inference.result import Ask
from ebmstruct.inference.sampling.layers import LayeredSweeps, layers_of
from ebmstruct.inference.sampling.markov import MarkovSampler
from ebmstruct.inference.sampling.table_sweeps import TableSweeps
from ebmstruct.inference.smooth_energy import clamped, open_continuous, precision
from ebmstruct.inference.solvers.gaussian import not_quadratic
from ebmstruct.inference.views.table_view import table_refusal
from ebmstruct.learning.losses.latent_sites import latent_blocks

SamplerName = Literal[
    "auto", "gibbs", "gibbs_with_gradients", "mixed_gibbs", "langevin", "mala", "hmc", "underdamped_langevin"
]
"""Which sampler walks; ``auto`` lets the graph choose."""
Values = Mapping[str, Tensor]
HOT = 1e6
"""A temperature at which all that is allowed is about equally probable."""


@dataclass(frozen=True)
class Walk:
    """How chains walk.

    sampler: by name, or ``auto``: Gibbs sweeps for tables, Gibbs with gradients for other discrete energies, Langevin
    steps for continuous blocks, Gibbs and Hamiltonian moves in turns where a graph has both.
    step_size, noise_scale: of the samplers of continuous blocks, where they have them.
    clip_gradient, clip_step, clip_sample, restart_every, restart_scale: of Langevin steps (``Langevin``); MALA has the
    last two.
    named: a sampler that somebody gave as an object; it is taken wherever it does not refuse the graph.
    """

    sampler: SamplerName = "auto"
    step_size: float = 0.01
    noise_scale: float | None = None
    clip_gradient: float | None = None
    clip_step: float | None = None
    clip_sample: float | None = None
    restart_every: int | None = None
    restart_scale: float = 1.0
    named: Solver | None = None

    @property
    def of_langevin(self) -> tuple[str, ...]:
        """The options in use that Langevin steps have and most other samplers have not."""
        own = ("clip_gradient", "clip_step", "clip_sample", "restart_every")
        return tuple(name for name in own if getattr(self, name) is not None)

    def sampler_of(self, graph: FactorGraph) -> MarkovSampler | str:
        """The sampler of a graph's open sites, or why there is none."""
        query = Query(Ask.SAMPLE)
        if isinstance(self.named, MarkovSampler) and self.named.refuse(graph, query) is None:
            return self.named
        made = self._made(graph)
        alien = [n for n in self.of_langevin if not hasattr(made, n)]
        if alien:
            return f"{' and '.join(alien)}: an option of Langevin steps, and the sampler is {made.name}"
        reason = made.refuse(graph, query)
        return made if reason is None else f"the sampler {made.name} does not take the graph: {reason}"

    def _made(self, graph: FactorGraph) -> MarkovSampler:
        size = self.step_size
        name = self.sampler if self.sampler != "auto" else self._fitting(graph)
        if name == "langevin":
            return Langevin(
                step_size=size, noise_scale=self.noise_scale, clip_gradient=self.clip_gradient, clip_step=self.clip_step,
                clip_sample=self.clip_sample, restart_every=self.restart_every, restart_scale=self.restart_scale,
            )  # fmt: skip
        if name == "mixed_gibbs":
            return MixedGibbs(step_size=size)
        if name == "gibbs_with_gradients":
            return GibbsWithGradients()
        if name == "mala":
            return MALA(step_size=size, restart_every=self.restart_every, restart_scale=self.restart_scale)
        smooth = {"hmc": HMC, "underdamped_langevin": UnderdampedLangevin}
        return smooth[name](step_size=size) if name in smooth else BlockGibbs()

    def _fitting(self, graph: FactorGraph) -> SamplerName:
        if open_continuous(graph):
            return "mixed_gibbs" if open_states(graph) else "langevin"
        return "gibbs" if table_refusal(graph) is None else "gibbs_with_gradients"


def open_states(graph: FactorGraph) -> list[str]:
    """The discrete blocks that have sites and are not clamped whole."""
    return [
        n
        for n, v in graph.variables.items()
        if isinstance(v.domain, Discrete) and v.num_sites and not clamped(graph, n)
    ]


def walk_refusal(graph: FactorGraph, walk: Walk) -> str | None:
    """Why no sampler walks on a graph, in one sentence; None where one does, or where nothing is open."""
    if not open_continuous(graph):
        if not open_states(graph) or tables_left(graph) is not None:
            return None
        if any(isinstance(v.domain, Continuous) for v in graph.variables.values()):
            return None  # states are offered one by one
    found = walk.sampler_of(graph)
    return found if isinstance(found, str) else None


def walked(
    graph: FactorGraph, start: Values, steps: int, walk: Walk, *, temperature: float, generator: Generator
) -> dict[str, Tensor]:
    """Where the chains that stand at ``start`` are after so many steps; without gradients.

    A step is a sweep for Gibbs sampling, one proposal or one gradient for the others. Errors: LossRefusal.
    """
    with torch.no_grad():
        if open_continuous(graph):
            return _stepped(graph, start, steps, walk, temperature, generator)
        if not open_states(graph):
            return dict(start)
        tables = tables_left(graph)
        if tables is not None:
            states = {n: start[n] for n in tables.variables}
            moved = walked(tables, states, steps, walk, temperature=temperature, generator=generator)
            return {**start, **moved}
        if any(isinstance(v.domain, Continuous) for v in graph.variables.values()):
            return _offered(graph, start, steps, temperature, generator)
        sampler = _found(walk.sampler_of(graph))
        if isinstance(sampler, BlockGibbs):
            return sweeps_of(graph).run(start, steps, temperature, generator)
        return _stepped(graph, start, steps, walk, temperature, generator)


def sweeps_of(graph: FactorGraph) -> LayeredSweeps | TableSweeps:
    """Gibbs sweeps of a graph that ``table_refusal`` takes: by products of matrices where it consists of layers."""
    return LayeredSweeps.of(graph) or TableSweeps.of(graph)


def _found(sampler: MarkovSampler | str) -> MarkovSampler:
    if isinstance(sampler, str):
        raise LossRefusal(sampler)
    return sampler


def _stepped(
    graph: FactorGraph, start: Values, steps: int, walk: Walk, temperature: float, generator: Generator
) -> dict[str, Tensor]:
    """Steps of a sampler on copies of the graph."""
    sampler = _found(walk.sampler_of(graph))
    chains = chains_of(graph, start)
    copies = graph if chains == 1 else graph.repeat(chains)
    state = sampler.init(copies, Assignment(flat(start)), generator)
    done = 0
    path = sampler.walk(copies, state, burn_in=0, ahead=steps, temperature=temperature, generator=generator)
    while done < steps:
        state, info = next(path)
        done += info.steps
    return spread(state.values, chains)


def _offered(
    graph: FactorGraph, start: Values, steps: int, temperature: float, generator: Generator
) -> dict[str, Tensor]:
    """Metropolis flips of states beside clamped points, where the energy has no tables."""
    chains = chains_of(graph, start)
    copies = graph if chains == 1 else graph.repeat(chains)
    values = copies.complete(flat(start))
    draws = StateDraws.of(copies, values, joint=False)
    for _ in range(steps):
        values = draws.drawn(values, copies.energy(values), temperature, generator)
    return spread(values, chains)


def chains_of(graph: FactorGraph, values: Values) -> int:
    """C, from values (C, ...) of any block."""
    return next((v.shape[0] for v in values.values()), 1)


def flat(values: Values) -> dict[str, Tensor]:
    """(C, n, ...) as (C * n, ...): the values of ``graph.repeat(C)``."""
    return {n: v.flatten(0, 1) for n, v in values.items()}


def spread(values: Values, chains: int) -> dict[str, Tensor]:
    """(C * n, ...) as (C, n, ...)."""
    return {n: v.reshape(chains, -1, *v.shape[1:]) for n, v in values.items()}


def copied(values: Values, chains: int) -> dict[str, Tensor]:
    """(1, n, ...) or (C, n, ...) as (C, n, ...)."""
    return {n: v.expand(chains, *v.shape[1:]) for n, v in values.items()}


def noise(graph: FactorGraph, chains: int, generator: Generator) -> dict[str, Tensor]:
    """(C, n, ...) values of all blocks at random: any allowed state, and points scattered about the domain's start."""
    out = {}
    kind = precision(graph)
    for name, block in graph.variables.items():
        if isinstance(block.domain, Continuous):
            value = scattered(block.domain, chains * block.num_sites, kind, generator)
        else:
            value = _any_state(graph, name, chains, generator).flatten()
        out[name] = value.reshape(chains, block.num_sites, *value.shape[1:])
    return _mended(graph, with_evidence(graph, out, chains), chains, generator)


def _any_state(graph: FactorGraph, name: str, chains: int, generator: Generator) -> Tensor:
    block = graph.variables[name]
    draw = torch.rand(chains, block.num_sites, generator=generator, dtype=torch.float64)
    allowed = graph.allowed(name)
    if allowed is None:
        return (draw * block.state_counts).long()
    own = allowed & (torch.arange(allowed.shape[1]) < block.state_counts[:, None])
    wanted = (draw * own.sum(1)).long() + 1  # the wanted-th of the states that are left
    return (own.cumsum(1)[None] < wanted[:, :, None]).sum(2).clamp(max=allowed.shape[1] - 1)


def with_evidence(graph: FactorGraph, values: dict[str, Tensor], chains: int) -> dict[str, Tensor]:
    """Clamped sites at what the evidence says."""
    fixed = graph.evidence
    for name, value in fixed.values.items() if fixed is not None else ():
        assert fixed is not None
        mask, own = fixed.known.get(name), values[name]
        if mask is None:
            values[name] = value.expand(chains, *value.shape)
        else:
            values[name] = torch.where(mask.reshape(-1, *[1] * (value.dim() - 1)), value.to(own.dtype), own)
    return values


def _mended(graph: FactorGraph, values: dict[str, Tensor], chains: int, generator: Generator) -> dict[str, Tensor]:
    """States as they are; where hard tables forbid some, draws of the allowed ones, or what a sampler would start at."""
    if open_continuous(graph) or not open_states(graph) or tables_left(graph) is not None:
        return values
    with torch.no_grad():
        tables = table_refusal(graph) is None
        if (tables and sweeps_of(graph).finite) or not bool(draw_energies(graph, values).isposinf().any()):
            return values
        query = Query(Ask.SAMPLE, temperature=HOT, num_samples=chains)
        exact = exact_at_once(graph, query)
        if exact is not None:
            return dict(sample(graph, exact, num_samples=chains, temperature=HOT, generator=generator).values)
        sampler = BlockGibbs() if tables else GibbsWithGradients()
        if sampler.refuse(graph, Query(Ask.SAMPLE)) is not None:
            return values
        return spread(sampler.init(graph.repeat(chains), None, generator).values, chains)


def draw_energies(graph: FactorGraph, draws: Values) -> Tensor:
    """(C, B) float64: the energy of each instance at each draw, differentiable in the factors' values."""
    if table_refusal(graph) is None:
        return sweeps_of(graph).energies(draws)
    count = chains_of(graph, draws)
    if count == 1:
        return graph.energy({n: v[0] for n, v in draws.items()})[None]
    try:
        copies = graph.repeat(count)
    except GraphError:  # a factor that has no copies
        return torch.stack([graph.energy({n: v[c] for n, v in draws.items()}) for c in range(count)])
    return copies.energy(flat(draws)).reshape(count, -1)


def energies_of_both(
    graph: FactorGraph, one: Values, other: Values, summed: Sequence[str] = (), temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same of two sets of draws, (C, B) and (D, B), in one evaluation; ``summed``: blocks of layers to sum out."""
    count = chains_of(graph, {n: v for n, v in one.items() if n not in summed})
    kinds = {n: other[n].dtype for n in graph.variables if n not in summed}
    joint = {n: torch.cat([one[n].to(kind), other[n]]) for n, kind in kinds.items()}
    layers = LayeredSweeps.of(graph) if summed else None
    both = draw_energies(graph, joint) if layers is None else layers.free_energies(joint, summed, temperature)
    return both[:count], both[count:]


def summed_blocks(graph: FactorGraph, target: Assignment) -> tuple[str, ...]:
    """Blocks that a target does not know, and that can be summed out given all others: layers, none joined to another.

    The larger go first, so that most is summed. Energies of draws are then free energies, whose gradients vary less.
    """
    layers = layers_of(graph)
    chosen: list[str] = []
    if layers is not None and graph.evidence is None:
        for name in sorted(latent_blocks(graph, target), key=lambda n: -layers.sizes[n][0]):
            if layers.apart([*chosen, name]):
                chosen.append(name)
    return tuple(chosen)


def independent_draws(
    graph: FactorGraph, count: int, temperature: float, generator: Generator
) -> dict[str, Tensor] | None:
    """Exact draws where the open sites are states that are independent of each other, by one sweep; else None."""
    if open_continuous(graph):
        return None
    tables = tables_left(graph)
    inner = graph if tables is None else tables
    if table_refusal(inner) is not None:
        return None
    with torch.no_grad():
        sweeps = sweeps_of(inner)
        if not sweeps.independent:
            return None
        start = {n: torch.zeros(count, v.num_sites, dtype=torch.long) for n, v in inner.variables.items()}
        drawn = sweeps.run(start, 1, temperature, generator)
    fixed = {} if graph.evidence is None else graph.evidence.values
    return {n: drawn[n] if n in drawn else fixed[n].expand(count, *fixed[n].shape) for n in graph.variables}


def completions(
    graph: FactorGraph,
    target: Assignment,
    count: int,
    walk: Walk,
    *,
    steps: int,
    temperature: float,
    generator: Generator,
    start: Values | None = None,
) -> dict[str, Tensor]:
    """Draws of the sites that a target does not know, given those that it does: (1, n) where it knows all, else (C, n).

    Exact where the unknown sites are independent, a forest of tables or jointly Gaussian given the target; else ``steps``
    steps of a chain from ``start``, or from noise.
    """
    if target.complete(graph.topology.names):
        return {n: target[n][None] for n in graph.variables}
    held = graph.condition(target)
    with torch.no_grad():
        tables = tables_left(held)
        inner = held if tables is None else tables
        discrete = not open_continuous(inner)
        apart = independent_draws(held, count, temperature, generator)
        if apart is not None:
            return apart
        query = Query(Ask.SAMPLE, temperature=temperature, num_samples=count)
        exact = exact_at_once(inner, query) if discrete else None
        if exact is None and not discrete and not_quadratic(held) is None:
            exact = Gaussian()
        if exact is not None and exact.refuse(inner, query) is None:
            found = sample(held, exact, num_samples=count, temperature=temperature, generator=generator, quiet=True)
            return dict(found.values)
    begin = start if start is not None else noise(held, count, generator)
    return walked(held, begin, steps, walk, temperature=temperature, generator=generator)


def finite_mean(energies: Tensor) -> Tensor:
    """(B,): the mean of (C, B) energies over the draws that are allowed; infinite where none is."""
    allowed = ~torch.isposinf(energies)
    if bool(allowed.all()):
        return energies.mean(0)
    count = allowed.sum(0)
    total = torch.where(allowed, energies, 0.0).sum(0)
    return torch.where(count > 0, total / count.clamp(min=1), torch.inf)


def check_positive(loss: object, *names: str, whole: tuple[str, ...] = ()) -> None:
    """ValueError unless the fields named are above 0, and those of ``whole`` at least 1."""
    for name in names:
        if not 0 < getattr(loss, name) < float("inf"):
            raise ValueError(f"{name} is {getattr(loss, name)}; legal is a positive number")
    for name in whole:
        if getattr(loss, name) < 1:
            raise ValueError(f"{name} is {getattr(loss, name)}; legal is at least 1")

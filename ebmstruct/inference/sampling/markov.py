"""Samplers that are chains: what they are, how a run of several is collected, and how well the chains agree."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.diagnostics.glance import glance
from ebmstruct.inference.diagnostics.states import effective_samples, r_hat
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Budget, Query, Samples, Status
from ebmstruct.inference.smooth_energy import clamped, constraint_labels
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True, eq=False)
class ChainState:
    """Where the chains of a graph's instances stand.

    values: block name to (n,) long, or (n, d) for a continuous block.  energy: (B,), in the model's own precision.
    cache: what a sampler keeps for its next step: a gradient, or what it has adapted.
    """

    values: Mapping[str, Tensor]
    energy: Tensor
    cache: Any = None


@dataclass(frozen=True, eq=False)
class Path:
    """The states of k steps done together: block name to k states (n, d), or to one tensor (k, n, d); energies (B,)."""

    values: Mapping[str, Sequence[Tensor] | Tensor]
    energy: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class ChainInfo:
    """What one step did, instance by instance.

    acceptance: (B,) the share of proposals accepted; None for samplers that accept all.
    divergent: (B,) how many proposals were refused for an energy that is not finite or far too high; None for none.
    counts: other figures (B,) by name, which a run averages over the steps whose states it may keep.
    path: where several steps were done together, all their states; ``steps`` says how many, and the shares are means.
    """

    acceptance: Tensor | None = None
    divergent: Tensor | None = None
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    path: Path | None = None
    steps: int = 1


NOTHING_TO_TELL = ChainInfo()
"""What a step did that accepted all, in every instance."""


class MarkovSampler(Solver):
    """A sampler whose draws are the steps of a chain that leaves exp(-E / temperature) unchanged.

    A step never changes the graph or the state that it is given. For several chains take ``graph.repeat(chains)``.
    A sampler that learns its step size does so in ``adapt``; what it has learnt is kept in the state's cache.
    """

    @abstractmethod
    def init(self, graph: FactorGraph, y: Assignment | None, generator: Generator | None = None) -> ChainState:
        """The state before the first step: at ``y``, or at a random assignment of finite energy."""

    @abstractmethod
    def step(
        self, graph: FactorGraph, state: ChainState, *, temperature: float, generator: Generator | None
    ) -> tuple[ChainState, ChainInfo]:
        """The state after one step, and what the step did."""

    def adapt(
        self,
        graph: FactorGraph,
        state: ChainState,
        at: int,
        of: int,
        *,
        temperature: float,
        generator: Generator | None,
    ) -> tuple[ChainState, ChainInfo]:
        """Step number ``at`` (from 0) of the ``of`` steps of a burn-in, from which a sampler may learn."""
        return self.step(graph, state, temperature=temperature, generator=generator)

    def walk(
        self,
        graph: FactorGraph,
        state: ChainState,
        *,
        burn_in: int,
        ahead: int,
        temperature: float,
        generator: Generator | None,
    ) -> Iterator[tuple[ChainState, ChainInfo]]:
        """One state after another, without end: ``burn_in`` steps that may adapt, then steps.

        ahead: how many steps are likely to be asked for, so that noise may be drawn for several of them at once.
        """
        for at in range(burn_in):
            state, info = self.adapt(graph, state, at, burn_in, temperature=temperature, generator=generator)
            yield state, info
        while True:
            state, info = self.step(graph, state, temperature=temperature, generator=generator)
            yield state, info


@dataclass(frozen=True, eq=False)
class Collected:
    """Draws of several chains: block name to (D, C, n) long or (D, C, n, d), energies (D, C, B), and how it ended.

    acceptance: (B,) mean over chains, of the steps after the burn-in.  divergences: (B,) how many in these steps, summed
    over chains; None where the sampler counts none.  counts: other figures (B,), means over chains and steps.
    """

    values: dict[str, Tensor]
    energy: Tensor
    acceptance: Tensor
    status: Status
    divergences: Tensor | None = None
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    steps: int = 0


def default_generator(generator: Generator | None) -> Generator:
    """The generator given, or a fresh one seeded 0, so that answers repeat."""
    return generator if generator is not None else torch.Generator().manual_seed(0)


@dataclass(eq=False)
class Trace:
    """The record of a run in the making: draws go into tensors made once, and sums into a few (B,) tensors."""

    wanted: int
    burn_in: int
    thinning: int
    still: frozenset[str]
    values: dict[str, Tensor] = field(default_factory=dict)
    energies: list[Tensor] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    rows: int = 0
    steps: int = 0
    counted: int = 0

    def add(self, state: ChainState, info: ChainInfo) -> None:
        """One more step, or several done together."""
        before = self.steps
        self.steps += info.steps
        beyond = self.steps - self.burn_in
        if info.path is not None:
            self._keep_path(info.path, before)
        elif beyond > 0 and beyond % self.thinning == 0:
            self.keep(state)
        if beyond > 0 and info is not NOTHING_TO_TELL:
            self.counted += info.steps
            self._sum("acceptance", info.acceptance, info.steps)
            self._sum("divergent", info.divergent, 1)
            for name, figure in info.counts.items():
                self._sum(name, figure, info.steps)

    def keep(self, state: ChainState) -> None:
        """Write one state down."""
        row = self.rows
        for name, value in state.values.items():
            if name not in self.still:
                if not row:
                    self.values[name] = value.new_empty((self.wanted, *value.shape))
                self.values[name][row] = value
        self.energies.append(state.energy)
        self.rows = row + 1

    def _keep_path(self, path: Path, before: int) -> None:
        first = (self.burn_in + self.thinning - before - 1) % self.thinning
        first += -(-max(0, self.burn_in - before - first) // self.thinning) * self.thinning
        row = self.rows
        count = min(len(range(first, len(path.energy), self.thinning)), self.wanted - row)
        if count <= 0:
            return
        part = slice(first, first + (count - 1) * self.thinning + 1, self.thinning)
        for name, values in path.values.items():
            if not row:
                self.values[name] = values[0].new_empty((self.wanted, *values[0].shape))
            target = self.values[name][row : row + count]
            if isinstance(values, Tensor):
                target.copy_(values[part])
            else:
                torch.stack(values[part], out=target)  # type: ignore[arg-type]
        self.energies += path.energy[part]
        self.rows = row + count

    def _sum(self, name: str, figure: Tensor | None, weight: int) -> None:
        if figure is None:
            return
        total = self.sums.get(name)
        if total is None:
            total = self.sums[name] = torch.zeros(figure.shape, dtype=torch.float64, device=figure.device)
        total.add_(figure, alpha=weight)


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

    init: values of the graph, at which all chains start, or of every chain, with the chains as a leading axis.
    A budget counts steps and is looked at before each. Where it ends early, the draws so far are returned, and at
    least one. Cost beside that of the steps: a copy of each draw.
    """
    budget = punctual(budget, 3.0)
    copies = graph if chains == 1 else graph.repeat(chains)
    state = sampler.init(copies, chain_starts(graph, init, chains), generator)
    wanted = -(-query.num_samples // chains)
    trace = Trace(wanted, burn_in, thinning, frozenset(n for n in graph.variables if clamped(graph, n)))
    most = burn_in + wanted * thinning
    if budget.max_steps is not None:
        most = min(most, budget.max_steps)
    timed = budget.deadline is not None or budget.stopped is not None
    walk = sampler.walk(
        copies, state, burn_in=burn_in, ahead=most, temperature=query.temperature, generator=generator
    )  # fmt: skip
    status = Status.CONVERGED
    while trace.rows < wanted:
        if timed and budget.expired:
            status = Status.DEADLINE
            break
        if trace.steps >= most:
            status = Status.MAX_STEPS
            break
        state, info = next(walk)
        trace.add(state, info)
    return _collected(graph, trace, state, chains, status)


def chain_starts(graph: FactorGraph, init: Assignment | None, chains: int) -> Assignment | None:
    """Values of all chains' copies, chain after chain, from those of the graph or of every chain (a leading axis)."""
    if init is None:
        return None
    values = {}
    for name, value in init.items():
        if name not in graph.variables:
            raise GraphError(f"init gives values for block {name!r}; the graph's blocks are {list(graph.variables)}")
        block = graph.variables[name]
        own = 1 if isinstance(block.domain, Discrete) else 2
        if value.dim() == own + 1:
            if value.shape[:2] != (chains, block.num_sites):
                raise GraphError(
                    f"init gives block {name!r} values of shape {tuple(value.shape)}; with a leading axis of chains it "
                    f"must begin with ({chains}, {block.num_sites})"
                )
            values[name] = value.flatten(0, 1)
        else:
            values[name] = value if chains == 1 else value.repeat(chains, *[1] * (value.dim() - 1))
    return Assignment(values)


def _collected(graph: FactorGraph, trace: Trace, state: ChainState, chains: int, status: Status) -> Collected:
    if not trace.rows:
        trace.wanted = 1
        trace.keep(state)
    rows, values = trace.rows, {}
    for name in graph.variables:
        if name in trace.still:
            own = state.values[name]
            values[name] = own.reshape(1, chains, -1, *own.shape[1:]).expand(rows, *[-1] * (own.dim() + 1))
        else:
            own = trace.values[name][:rows]
            values[name] = own.reshape(rows, chains, -1, *own.shape[2:])
    energy = torch.stack(trace.energies).reshape(rows, chains, -1)
    means = {k: (v / max(1, trace.counted)).reshape(chains, -1).mean(0) for k, v in trace.sums.items()}
    acceptance = means.pop("acceptance", torch.ones(graph.num_instances, dtype=torch.float64))
    means.pop("divergent", None)
    divergent = trace.sums.get("divergent")
    gone = None if divergent is None else divergent.reshape(chains, -1).sum(0)
    return Collected(values, energy, acceptance, status, gone, means, trace.steps)


def as_samples(graph: FactorGraph, query: Query, collected: Collected, name: str, **stats: Any) -> Samples:
    """The first ``num_samples`` of the draws, taken across the chains, with how well the chains agree.

    Draws that an early end of the budget left out are repeats of those there are. stats: ``acceptance`` (B,),
    ``r_hat`` block name to the largest of its sites, ``effective_samples`` (B,) of the energy, ``distinct``.
    ``warnings`` say where chains disagree or do not move, as far as a glance tells; ``diagnose`` looks at everything.
    An instance that is at no finite energy in any draw ends NONFINITE, or INFEASIBLE where constraints may be why.
    """
    draws, chains = collected.energy.shape[:2]
    total, count = draws * chains, query.num_samples
    some = slice(count) if count <= total else torch.arange(count) % total
    values = {k: v.flatten(0, 1)[some] for k, v in collected.values.items()}
    energy = collected.energy.flatten(0, 1)[some]
    known = stats.get("r_hat") or _discrete_agreement(collected)
    agreement, warnings = glance(collected.values, collected.acceptance, collected.divergences, known)
    found: dict[str, Any] = {
        "acceptance": collected.acceptance,
        "effective_samples": effective_samples(collected.energy),
        "chains": chains,
        "distinct": min(total, count),
        **({} if collected.divergences is None else {"divergences": collected.divergences}),
        **collected.counts,
        **stats,
        "r_hat": agreement,
    }
    status = _ended(graph, collected)
    return Samples(values, energy, False, status, name, found, chains=chains, warnings=warnings)


def _discrete_agreement(collected: Collected) -> dict[str, float]:
    """The largest R-hat of each discrete block."""
    return {k: r_hat(v) for k, v in collected.values.items() if not v.is_floating_point()}


def _ended(graph: FactorGraph, collected: Collected) -> Tensor:
    """(B,) long: the statuses."""
    status = torch.full((graph.num_instances,), int(collected.status), dtype=torch.long)
    finite = torch.isfinite(collected.energy)
    if bool(finite.all()):
        return status
    if all(isinstance(v.domain, Discrete) for v in graph.variables.values()):
        return torch.where(finite.flatten(0, 1).all(0), status, int(Status.MAX_STEPS))
    infinite = torch.isposinf(collected.energy).flatten(0, 1).all(0)
    why = Status.INFEASIBLE if constraint_labels(graph) else Status.NONFINITE
    status = torch.where(finite.flatten(0, 1).any(0), status, int(Status.NONFINITE))
    return torch.where(infinite, int(why), status)

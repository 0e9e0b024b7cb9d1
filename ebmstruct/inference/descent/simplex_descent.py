"""Entropic mirror descent over the weights of discrete sites, each instance with its own step size and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from ebmstruct.graph import BlockFactor, Discrete, FactorGraph
from ebmstruct.inference.smooth_energy import clamped, precision

Logs = tuple[Tensor, ...]
"""Logarithms of the weights of the open discrete blocks, (n, K) each; -inf at states that a site may not take."""
Weights = tuple[Tensor, ...]
GROWTH = 1.3
"""By how much a step that was taken raises the rate."""
WINDOW = 20
"""Steps in which the energy must fall by more than the tolerance, else an instance is done."""


@dataclass(frozen=True, eq=False)
class RelaxedEnergy:
    """The relaxed energy of a graph as a function of the weights of its open discrete blocks.

    fixed: values of all other blocks.  legal: for each open block (n, K) bool, the states that a site may take.
    """

    graph: FactorGraph
    fixed: dict[str, Tensor]
    names: tuple[str, ...]
    legal: tuple[Tensor, ...]

    @classmethod
    def of(cls, graph: FactorGraph, fixed: dict[str, Tensor]) -> RelaxedEnergy:
        """The function for a graph; ``fixed`` has values of its continuous blocks and of those clamped whole."""
        names, legal = [], []
        for name, block in graph.variables.items():
            if not isinstance(block.domain, Discrete) or clamped(graph, name) or not block.num_sites:
                continue
            there = torch.arange(block.discrete.largest) < block.state_counts[:, None]
            allowed = graph.allowed(name)
            names.append(name)
            legal.append(there if allowed is None else there & allowed)
        others = {n: v for n, v in fixed.items() if n not in names}
        for name, block in graph.variables.items():
            if not block.num_sites and name not in others and isinstance(block.domain, Discrete):
                others[name] = torch.zeros(0, dtype=torch.long)
        return cls(graph, others, tuple(names), tuple(legal))

    @cached_property
    def dtype(self) -> torch.dtype:
        """float64, or the precision of functions of weights."""
        deep = any(isinstance(f, BlockFactor) for f in self.graph.factors)
        return precision(self.graph) if deep else torch.float64

    @cached_property
    def owners(self) -> tuple[Tensor, ...]:
        """For each block (n,) long, the instance of each site."""
        return tuple(self.graph.variables[name].instance for name in self.names)

    def __call__(self, weights: Sequence[Tensor]) -> Tensor:
        """(B,) float64 relaxed energies."""
        return self.graph.relaxed_energy({**self.fixed, **dict(zip(self.names, weights, strict=True))})

    def with_gradient(self, weights: Sequence[Tensor]) -> tuple[Tensor, Weights]:
        """(B,) relaxed energies without a record, and their gradients (n, K); 0 at states that are not legal."""
        with torch.enable_grad():
            leaves = [w.detach().requires_grad_(True) for w in weights]
            energy = self(leaves)
            if not energy.requires_grad or not leaves:
                return energy.detach(), tuple(torch.zeros_like(w) for w in weights)
            found = torch.autograd.grad(energy, leaves, torch.ones_like(energy), allow_unused=True)
        parts = []
        for w, g, legal in zip(weights, found, self.legal, strict=True):
            parts.append(torch.zeros_like(w) if g is None else torch.where(legal, g, 0.0))
        return energy.detach(), tuple(parts)

    def total(self, sites: Sequence[Tensor]) -> Tensor:
        """(B,) float64: sums over each instance's sites of one number a site, (n,) for each block."""
        out = torch.zeros(self.graph.num_instances, dtype=torch.float64)
        for part, owner in zip(sites, self.owners, strict=True):
            out = out.index_add(0, owner, part.double())
        return out

    def spread(self, rows: Tensor) -> list[Tensor]:
        """(n, 1) for each block: the entry of ``rows`` (B,) that belongs to each site."""
        return [rows[owner][:, None] for owner in self.owners]

    def states(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """Values of every block, each open site at its heaviest legal state."""
        picked = [
            w.nan_to_num(0.0).masked_fill(~legal, -torch.inf).argmax(1)
            for w, legal in zip(weights, self.legal, strict=True)
        ]
        return {**self.fixed, **dict(zip(self.names, picked, strict=True))}


@dataclass(frozen=True, eq=False)
class SimplexState:
    """Where a mirror descent stands; (B,) tensors have one entry an instance.

    logs: of the weights.  rate: the step size.  slack: how far the linear model could still fall (the gap of Frank and
    Wolfe), 0 at a stationary point.  mark: the energy at the beginning of the present window of steps.
    """

    logs: Logs
    energy: Tensor
    gradient: Weights
    rate: Tensor
    slack: Tensor
    mark: Tensor
    done: Tensor
    gave_up: Tensor
    steps: int = 0

    @property
    def weights(self) -> Weights:
        """(n, K) for each open block."""
        return tuple(x.exp() for x in self.logs)


@dataclass(frozen=True)
class SimplexOptions:
    """tolerance: an instance is done where its slack, or the fall of its energy over a window of steps, is below this
    share of its energy (or of 1).

    max_iterations: steps, after which what is not done gives up.
    """

    tolerance: float = 1e-6
    max_iterations: int = 2000


def spread_out(function: RelaxedEnergy, starts: int, noise: float, generator: Generator) -> Logs:
    """Weights to begin with: even but for a hair that depends on a site's place; later copies with normal noise.

    function: of ``starts`` copies of a graph. The hair keeps descents off the saddle points of symmetric energies.
    """
    out = []
    for name, legal in zip(function.names, function.legal, strict=True):
        block = function.graph.variables[name]
        place = torch.arange(block.num_sites) - block.offsets[block.instance]
        hair = (place[:, None] * 0.6180339887 + torch.arange(legal.shape[1]) * 0.7548776662) % 1.0
        logs = 1e-2 * hair.double()
        first = block.num_sites // starts
        if starts > 1:
            draw = noise * torch.randn(logs.shape, generator=generator, dtype=torch.float64)
            logs[first:] += draw[first:]
        out.append(normalised(logs.to(function.dtype), legal))
    return tuple(out)


def leaning(function: RelaxedEnergy, states: dict[str, Tensor], logs: Logs, copies: int) -> Logs:
    """The same, but the first of ``copies`` leans towards given states: weight about 0.9 on them."""
    out = []
    for name, legal, log in zip(function.names, function.legal, logs, strict=True):
        if name in states:
            first = log.shape[0] // copies
            hot = torch.nn.functional.one_hot(states[name], legal.shape[1]).to(log.dtype)
            lean = normalised(2.2 * hot * max(1.0, float(legal.shape[1] - 1)) ** 0.5, legal[:first])
            log = torch.cat([lean, log[first:]])
        out.append(log)
    return tuple(out)


def normalised(logs: Tensor, legal: Tensor) -> Tensor:
    """Logarithms of weights that sum to 1 over the legal states; even where a site has none."""
    none = ~legal.any(1, keepdim=True)
    return logs.masked_fill(~(legal | none), -torch.inf).log_softmax(1)


def begin_simplex(function: RelaxedEnergy, logs: Logs, options: SimplexOptions) -> SimplexState:
    """The state before the first step; its rate is small: descents that decide late end lower."""
    weights = tuple(x.exp() for x in logs)
    energy, gradient = function.with_gradient(weights)
    steepest = torch.zeros_like(energy)
    for g, legal, owner in zip(gradient, function.legal, function.owners, strict=True):
        high, low = g.masked_fill(~legal, -torch.inf).amax(1), g.masked_fill(~legal, torch.inf).amin(1)
        steepest = steepest.scatter_reduce(0, owner, (high - low).double().nan_to_num(0.0), "amax")
    rate = 0.3 / steepest.clamp(min=1e-12)
    none = torch.zeros_like(energy).bool()
    state = SimplexState(logs, energy, gradient, rate, torch.zeros_like(energy), energy, none, none)
    return _judged(function, state, options)


def step_simplex(function: RelaxedEnergy, state: SimplexState, options: SimplexOptions) -> SimplexState:
    """One trial of each instance: weights times exp(-rate * gradient), normalised (Beck and Teboulle 2003).

    It is taken where the energy is at most that of the linear model plus the divergence over the rate, and the rate
    then grows; else the rate is halved. Cost: one relaxed energy with its gradient.
    """
    rates = function.spread(torch.where(state.done, 0.0, state.rate))
    logs = tuple(
        normalised(x - r.to(x.dtype) * g, legal)
        for x, r, g, legal in zip(state.logs, rates, state.gradient, function.legal, strict=True)
    )
    old, new = state.weights, tuple(x.exp() for x in logs)
    energy, gradient = function.with_gradient(new)
    linear = function.total([(g * (b - a)).sum(1) for g, a, b in zip(state.gradient, old, new, strict=True)])
    divergence = function.total(
        [torch.where(b > 0, b * (y - x), 0.0).sum(1) for b, x, y in zip(new, state.logs, logs, strict=True)]
    )
    rounding = 4 * torch.finfo(function.dtype).eps * state.energy.abs()
    taken = energy <= state.energy + linear + divergence.clamp(min=0.0) / state.rate + rounding
    taken &= energy.isfinite() & ~state.done
    picks = function.spread(taken)
    state = replace(
        state,
        logs=tuple(torch.where(p, y, x) for p, x, y in zip(picks, state.logs, logs, strict=True)),
        energy=torch.where(taken, energy, state.energy),
        gradient=tuple(torch.where(p, b, a) for p, a, b in zip(picks, state.gradient, gradient, strict=True)),
        rate=torch.where(taken, GROWTH * state.rate, 0.5 * state.rate),
        steps=state.steps + 1,
    )
    return _judged(function, state, options)


def _judged(function: RelaxedEnergy, state: SimplexState, options: SimplexOptions) -> SimplexState:
    """The state with what is done: stationary, out of rate, or not finite."""
    best = [g.masked_fill(~legal, torch.inf).amin(1) for g, legal in zip(state.gradient, function.legal, strict=True)]
    gaps = [(w * g).sum(1) - b for w, g, b in zip(state.weights, state.gradient, best, strict=True)]
    slack = function.total([torch.where(gap.isfinite(), gap, 0.0) for gap in gaps])
    least = options.tolerance * state.energy.abs().clamp(min=1.0)
    done = slack <= least
    mark = state.mark
    if state.steps and state.steps % WINDOW == 0:
        done |= mark - state.energy <= least
        mark = state.energy
    done |= ~state.energy.isfinite() | (state.rate < 1e-14)
    gave_up = ~(done | state.done) & (state.steps >= options.max_iterations)
    return replace(state, slack=slack, mark=mark, done=state.done | done | gave_up, gave_up=state.gave_up | gave_up)

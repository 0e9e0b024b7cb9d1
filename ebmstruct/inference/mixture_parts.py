"""A mixture taken apart: which site chooses the component, and what is independent given its state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Discrete, FactorGraph, GaussianFactor, TableFactor
from ebmstruct.inference.gaussian_components import Conditional, alike, conditional


def mixture_refusal(graph: FactorGraph) -> str | None:
    """Why a graph is no mixture of Gaussians and independent discrete sites, in one sentence; None where it is one."""
    chooser = chooser_of(graph)
    if chooser is None:
        return "it has no Gaussian that a discrete site chooses"
    return graph.topology.derive("mixture refusal", lambda: _refusal(graph, chooser)) or None


def chooser_of(graph: FactorGraph) -> str | None:
    """The block that chooses components: that of the Gaussians, or of all pairs of tables; None where there is none."""
    for factor in graph.factors:
        if isinstance(factor, GaussianFactor):
            return factor.scope[0]
    for name, block in graph.variables.items():
        one = isinstance(block.domain, Discrete) and block.discrete.uniform and bool((block.lengths == 1).all())
        if one and all(name in f.scope for f in graph.factors if len(f.scope) == 2):
            return name
    return None


def _refusal(graph: FactorGraph, chooser: str) -> str:
    """The same, empty where it is one; chooser: the block of z."""
    seen: set[str] = set()
    for factor in graph.factors:
        if isinstance(factor, GaussianFactor):
            if factor.scope[0] != chooser or factor.scope[1] in seen:
                return f"factor {factor.label!r} is a Gaussian over other blocks, or a second one over the same"
            seen.add(factor.scope[1])
        elif not isinstance(factor, TableFactor):
            return f"factor {factor.label!r} is a {type(factor).__name__}; a mixture has Gaussians and tables"
        elif factor.arity > 2 or (factor.arity == 2 and factor.scope.count(chooser) != 1):
            return f"factor {factor.label!r} joins sites of {factor.scope}; they may join {chooser!r} and one other"
    for name, block in graph.variables.items():
        if not isinstance(block.domain, Discrete) and name not in seen:
            return f"block {name!r} is {block.domain}, and no Gaussian is over it"
    return ""


@dataclass(frozen=True, eq=False)
class MixtureParts:
    """A graph that ``mixture_refusal`` takes, at a temperature.

    soft: (B, K) float64, the energy of each state of z with everything that is not known summed out at the temperature.
    """

    graph: FactorGraph
    temperature: float
    chooser: str
    states: int
    gaussians: tuple[GaussianFactor, ...]
    columns: tuple[str, ...]
    soft: Tensor

    @classmethod
    def of(cls, graph: FactorGraph, temperature: float) -> MixtureParts:
        """The parts; ``soft`` is differentiable in the factors' values."""
        gaussians = tuple(f for f in graph.factors if isinstance(f, GaussianFactor))
        chooser = chooser_of(graph)
        assert chooser is not None
        columns = tuple(n for n, v in graph.variables.items() if isinstance(v.domain, Discrete) and n != chooser)
        states = graph.variables[chooser].discrete.largest
        soft = torch.zeros(graph.num_instances, states, dtype=torch.float64)
        bare = cls(graph, temperature, chooser, states, gaussians, columns, soft)
        if graph.constant is not None:
            soft = soft + graph.constant.double()[:, None]
        soft = soft + bare.own()
        for factor in gaussians:
            soft = soft + bare.integrated(factor)
        for name in columns:
            each = [bare.summed(name, k) for k in range(states)]
            soft = soft + torch.stack(each, 1)
        return cls(graph, temperature, chooser, states, gaussians, columns, soft)

    def own(self) -> Tensor:
        """(B, K) energies of z alone; infinite for states that the evidence excludes."""
        block = self.graph.variables[self.chooser]
        out = torch.zeros(self.graph.num_instances, self.states, dtype=torch.float64)
        anything = torch.zeros(block.num_sites, dtype=torch.long)
        for factor in self.graph.factors:
            if factor.scope == (self.chooser,):
                out = out + factor.conditionals(self.chooser, [anything], (block,))
        allowed = self.graph.allowed(self.chooser)
        return out if allowed is None else out.masked_fill(~allowed, torch.inf)

    def evidence(self, factor: GaussianFactor) -> tuple[Tensor, Tensor]:
        """(B, D) values of a Gaussian block and (B, D) bool, which of them are known."""
        block, fixed = self.graph.variables[factor.scope[1]], self.graph.evidence
        shape = (self.graph.num_instances, factor.mean.shape[1])
        if fixed is None or block.name not in fixed.values:
            return torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
        value, known = fixed.values[block.name], fixed.known.get(block.name)
        if known is None:
            return value.reshape(shape), torch.ones(shape, dtype=torch.bool)
        return value.reshape(shape), known[:, None].expand(value.shape).reshape(shape)

    def given(self, factor: GaussianFactor) -> Iterator[tuple[Tensor, Conditional]]:
        """Instances (b,) that know the same coordinates, and the Gaussians of the others given those."""
        x, known = self.evidence(factor)
        for mask, rows in alike(known):
            yield rows, conditional(factor, x[rows], mask)

    def integrated(self, factor: GaussianFactor) -> Tensor:
        """(B, K) energies of the known coordinates, the others integrated out."""
        t, (x, known) = self.temperature, self.evidence(factor)
        wide = factor if t == 1.0 else factor.widened(t**0.5)
        out = torch.zeros(x.shape[0], self.states, dtype=torch.float64)
        pieces, order = [], []
        for mask, rows in alike(known):
            order.append(rows)
            if not bool(mask.any()):
                pieces.append(out[rows])
            else:
                pieces.append(-t * wide.log_densities(x[rows], None if bool(mask.all()) else mask))
        if not pieces:
            return out
        out = pieces[0] if len(pieces) == 1 else torch.cat(pieces)[torch.cat(order).argsort()]
        if t == 1.0:
            return out
        # a density to the power 1 / T is one of T times the covariance, but for a constant of each component
        mean = factor.mean
        top, wide_top = (f.log_densities(mean).diagonal() for f in (factor, wide))
        return out + t * wide_top - top

    def column(self, name: str, state: int) -> Tensor:
        """(n, K_name) energies of the sites of a discrete block where z has one state; infinite where excluded."""
        graph = self.graph
        block = graph.variables[name]
        out = torch.zeros(block.num_sites, block.discrete.largest, dtype=torch.float64)
        values = {name: torch.zeros(block.num_sites, dtype=torch.long)}
        values[self.chooser] = torch.full((graph.num_instances,), state)
        for factor in graph.factors:
            if name in factor.scope:
                part = factor.conditionals(name, [values[n] for n in factor.scope], graph.scope(factor))
                out = out + part
        allowed = graph.allowed(name)
        if allowed is not None:
            out = out.masked_fill(~allowed, torch.inf)
        if not block.discrete.uniform:
            out = out.masked_fill(torch.arange(out.shape[1]) >= block.state_counts[:, None], torch.inf)
        return out

    def summed(self, name: str, state: int) -> Tensor:
        """(B,) the free energy of a discrete block where z has one state."""
        each = -self.temperature * (-self.column(name, state) / self.temperature).logsumexp(1)
        return each.new_zeros(self.graph.num_instances).index_add(0, self.graph.variables[name].instance, each)

    def beliefs(self, weights: Tensor) -> dict[str, Tensor]:
        """Discrete block to (n, K) probabilities, from those of z (B, K)."""
        out = {self.chooser: weights}
        for name in self.columns:
            owner = self.graph.variables[name].instance
            for k in range(self.states):
                part = torch.softmax(-self.column(name, k) / self.temperature, 1).nan_to_num(0.0)
                part = weights[owner, k, None] * part
                out[name] = part if k == 0 else out[name] + part
        return out

    def draws(self, weights: Tensor, count: int, generator: Generator) -> dict[str, Tensor]:
        """Block name to (S, n, ...): a component of each instance by its weight, then the rest given that."""
        graph, instances = self.graph, self.graph.num_instances
        chosen = _chosen_states(weights.repeat(count, 1), generator).reshape(count, instances)
        out = {self.chooser: chosen}
        for name in self.columns:
            block = graph.variables[name]
            chances = torch.zeros(count, block.num_sites, block.discrete.largest, dtype=torch.float64)
            for k in range(self.states):
                mine = chosen[:, block.instance] == k
                if bool(mine.any()):
                    part = torch.softmax(-self.column(name, k) / self.temperature, 1).nan_to_num(0.0)
                    chances = torch.where(mine[..., None], part, chances)
            out[name] = _chosen_states(chances.flatten(0, 1), generator).reshape(count, -1)
        for factor in self.gaussians:
            block = graph.variables[factor.scope[1]]
            wide = factor if self.temperature == 1.0 else factor.widened(self.temperature**0.5)
            whole = torch.zeros(count, instances, factor.mean.shape[1], dtype=torch.float64)
            x, known = self.evidence(factor)
            for mask, rows in alike(known):
                given = conditional(wide, x[rows], mask)
                for s in range(count):
                    whole[s, rows] = given.draw(chosen[s, rows], generator)
            out[block.name] = whole.reshape(count, block.num_sites, -1).to(factor.mean.dtype)
        fixed = graph.evidence
        for name, value in fixed.values.items() if fixed is not None else ():
            if fixed is not None and name not in fixed.known:
                out[name] = value.expand(count, *value.shape)
        return {n: out[n] for n in graph.variables}


def _chosen_states(weights: Tensor, generator: Generator) -> Tensor:
    """(n,) long: a column of each row of weights (n, K) by its share."""
    cumulative = weights.cumsum(1)
    uniform = torch.rand(weights.shape[0], 1, dtype=torch.float64, generator=generator)
    return (uniform * cumulative[:, -1:] >= cumulative).sum(1).clamp(max=weights.shape[1] - 1)

"""The graph whose beliefs are the averages of the beliefs of many graphs over the same blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebmstruct.graph import (
    Assignment,
    ChainFactor,
    Discrete,
    Factor,
    FactorGraph,
    Real,
    ResidualFactor,
    SegmentFactor,
    TableFactor,
    Variables,
)
from ebmstruct.graph.topology import Topology
from ebmstruct.inference import Gaussian, Marginals, Query, marginals, minimize
from ebmstruct.inference.result import Ask
from ebmstruct.inference.smooth_energy import clamped
from ebmstruct.learning.posterior.batches import joined

LEAST = 1e-37
"""Beliefs that are rounded to 0 and not forbidden count as this."""
NARROWEST = 1e-6
"""The least standard deviation of an averaged value, so that its energy is finite."""


def not_projected(graph: FactorGraph) -> str | None:
    """Why no graph can stand for averaged beliefs here, in a sentence; None where one can."""
    if any(isinstance(f, SegmentFactor) for f in graph.factors):
        return "segments have beliefs of whole segments, from which no table of energies follows"
    real = [b for b in graph.variables.values() if not isinstance(b.domain, Discrete)]
    if any(not isinstance(b.domain, Real) for b in real):
        return "means of points of a manifold are no points of it"
    if real and len(real) < len(graph.variables):
        return "discrete and continuous blocks together have no beliefs that factor"
    return None


class Projection:
    """Running sums of beliefs, and the graph that has their means.

    first: the graph of one draw, whose blocks, chain and hard constraints the result has.  fixed: evidence.
    Discrete blocks: minus the logarithm of the mean belief of each site; in a chain, of each state given the one before,
    so that the pairs' mean beliefs are kept too. Tables of several sites, where there is no chain, leave what they forbid.
    Real blocks: a normal density with the mean and covariance of the mixture; where a draw's graph has no exact ones, of
    the minimisers, whose spread is that over draws alone.
    """

    name = "beliefs"

    def __init__(self, first: FactorGraph, fixed: Assignment | None) -> None:
        self.first, self.fixed = first, fixed
        chains = [f for f in first.factors if isinstance(f, ChainFactor)]
        others = [f for f in first.factors if not isinstance(f, ChainFactor) and not _unary(f)]
        self.chain = chains[0] if chains and not others and len({f.scope for f in chains}) == 1 else None
        self.count = 0
        self.topologies: dict[int, Topology] = {}
        self.beliefs: dict[str, Tensor] = {}
        self.pairs: Tensor | None = None
        self.means: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}

    def add(self, graphs: Sequence[FactorGraph]) -> None:
        """Count the beliefs of more draws. Errors: SolverRefusal where no solver has them."""
        for graph, times in joined(graphs, self.fixed, self.topologies):
            if all(isinstance(b.domain, Discrete) for b in graph.variables.values()):
                self._add_beliefs(marginals(graph, factors=() if self.chain is None else (self.chain.label,)), times)
            else:
                self._add_values(graph, times)
            self.count += times

    def _add_beliefs(self, found: Marginals, times: int) -> None:
        for name, belief in found.beliefs.items():
            total = _summed(belief, times)
            self.beliefs[name] = self.beliefs[name] + total if name in self.beliefs else total
        if self.chain is not None:
            total = _summed(found.factor_beliefs[self.chain.label], times)
            self.pairs = total if self.pairs is None else self.pairs + total

    def _add_values(self, graph: FactorGraph, times: int) -> None:
        exact = Gaussian().refuse(graph, Query(Ask.MARGINALS)) is None
        found = marginals(graph, Gaussian()) if exact else None
        best = None if exact else minimize(graph).assignment
        for name in self.first.variables:
            if clamped(graph, name):
                continue
            if found is not None:
                mean, own = found.means[name].double(), found.covariances[name].double()
            else:
                assert best is not None
                mean = best[name].double()
                own = mean.new_zeros(*mean.shape, mean.shape[1])
            square = own + mean[:, :, None] * mean[:, None, :]
            for store, value in ((self.means, mean), (self.squares, square)):
                total = _summed(value, times)
                store[name] = store[name] + total if name in store else total

    def graph(self) -> FactorGraph:
        """The graph with the mean beliefs of what has been counted so far."""
        blocks = [self.first.variables[name] for name in self.first.topology.names]
        factors: list[Factor] = []
        for block in blocks:
            if block.name in self.beliefs:
                factors += self._of_states(block)
            elif block.name in self.means:
                factors.append(self._of_values(block))
        if self.chain is None:
            factors += [hard for f in self.first.factors if (hard := _hard(f)) is not None]
        out = FactorGraph(blocks, factors)
        return out if self.fixed is None else out.condition(self.fixed)

    def _of_states(self, block: Variables) -> list[Factor]:
        belief = self.beliefs[block.name] / self.count
        allowed = self._allowed(block)
        energies = _energy(belief, allowed, belief.sum(1, keepdim=True) > 0)
        if self.pairs is None or self.chain is None or block.name not in self.chain.scope:
            return [_table(block, energies)]
        pairs = self.pairs / self.count
        before = pairs.sum(2, keepdim=True)
        steps = _energy(
            pairs / before.clamp(min=1e-300), self.chain.transition.isfinite() & allowed[:, None, :], before > 0
        )
        begins = torch.zeros_like(energies)
        begins[block.first_sites] = energies[block.first_sites]
        return [_table(block, begins), ChainFactor((block.name,), self.chain.label, steps)]

    def _allowed(self, block: Variables) -> Tensor:
        """(n, K) bool: the states that no table of single sites forbids."""
        states = torch.arange(block.discrete.largest, device=block.offsets.device)
        out = states < block.state_counts[:, None]
        for factor in self.first.factors:
            if isinstance(factor, TableFactor) and factor.scope == (block.name,) and factor.index is None:
                if factor.starts is None:
                    out = out & factor.tables.isfinite()
            elif isinstance(factor, ChainFactor) and factor.scope == (block.name,):
                for ends, sites in ((factor.start, block.first_sites), (factor.end, block.last_sites)):
                    if ends is not None:
                        out = out.index_put((sites,), out[sites] & ends.isfinite())
        return out

    def _of_values(self, block: Variables) -> Factor:
        mean = self.means[block.name] / self.count
        spread = self.squares[block.name] / self.count - mean[:, :, None] * mean[:, None, :]
        eye = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        values, vectors = torch.linalg.eigh(spread + NARROWEST**2 * eye)
        whitened = vectors.mT / values.clamp(min=NARROWEST**2).sqrt()[:, :, None]
        index = torch.arange(block.num_sites, device=mean.device)[None]
        return ResidualFactor((block.name,), "posterior", _apart, index, (mean, whitened), linear=True)


def _apart(x: Tensor, mean: Tensor, whitened: Tensor) -> Tensor:
    return (whitened @ (x.to(mean.dtype) - mean)[:, :, None])[:, :, 0]


def _energy(belief: Tensor, allowed: Tensor, possible: Tensor) -> Tensor:
    """Minus the logarithm; infinite where the belief is 0 because it is forbidden, or nothing is possible."""
    energy = -belief.clamp(min=LEAST).log()
    forbidden = (belief == 0) & ~(allowed & possible)
    return energy.masked_fill(forbidden, torch.inf)


def _summed(value: Tensor, times: int) -> Tensor:
    """(n, ...) float64: the sum over ``times`` draws of (times * n, ...)."""
    return value.double().reshape(times, -1, *value.shape[1:]).sum(0)


def _unary(factor: Factor) -> bool:
    return isinstance(factor, TableFactor) and factor.arity == 1


def _table(block: Variables, energies: Tensor) -> TableFactor:
    if block.discrete.uniform:
        return TableFactor((block.name,), f"{block.name} beliefs", energies)
    counts = block.state_counts
    there = torch.arange(energies.shape[1], device=counts.device) < counts[:, None]
    return TableFactor((block.name,), f"{block.name} beliefs", energies[there], starts=counts.cumsum(0) - counts)


def _hard(factor: Factor) -> Factor | None:
    """What a table of several sites forbids, at no cost otherwise; None where it forbids nothing."""
    if not isinstance(factor, TableFactor) or factor.arity == 1 or bool(factor.tables.isfinite().all()):
        return None
    return factor.with_values(torch.where(factor.tables.isposinf(), torch.inf, 0.0).to(factor.tables))

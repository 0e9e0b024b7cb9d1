"""From weights over states to states, at no loss where the relaxed energy is linear in the weights of each site."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import ChainFactor, FactorGraph, GridFactor, ResidualFactor, TableFactor
from ebmstruct.inference.descent.simplex_descent import RelaxedEnergy, Weights
from ebmstruct.inference.result import Budget

LINEAR = (TableFactor, ChainFactor, GridFactor, ResidualFactor)
"""Factors that are linear in the weights of each site and whose rows are known."""


@dataclass(frozen=True, eq=False)
class Incidence:
    """Which rows look at which open sites: (p,) long pairs; sites of all open blocks are numbered one after another."""

    row: Tensor
    site: Tensor
    num_rows: int


def conditional_rounding(function: RelaxedEnergy, weights: Weights, budget: Budget) -> Weights:
    """Whole states by conditional expectations: site after site takes the state of least relaxed energy.

    Where every factor is linear in the weights of each site the energy never rises (Raghavan 1988), sites that share no
    row are fixed together, and their best states are read off the gradient. With functions of whole blocks the sites
    are fixed one position after another, each by trying its states, which never raises the energy if the budget holds.
    What the budget leaves open stays as it is.
    Cost: a gradient for each of about log n rounds; with functions, K relaxed energies for each position.
    """
    if not all(isinstance(f, LINEAR) for f in function.graph.factors if set(f.scope) & set(function.names)):
        return _one_by_one(function, weights, budget)
    incidence = function.graph.topology.derive(("incidence", function.names), lambda: _incidence(function))
    sizes = [w.shape[0] for w in weights]
    rank = _rank(function)
    free = torch.ones(rank.numel(), dtype=torch.bool)
    while bool(free.any()) and not budget.expired:
        ranks = torch.where(free, rank, -1)
        top = ranks.new_full((incidence.num_rows,), -1).scatter_reduce(0, incidence.row, ranks[incidence.site], "amax")
        beaten = torch.zeros_like(free).index_put(
            (incidence.site,), top[incidence.row] > ranks[incidence.site], accumulate=True
        )
        now = free & ~beaten
        _, gradient = function.with_gradient(weights)
        fixed = []
        for w, g, legal, mine in zip(weights, gradient, function.legal, now.split(sizes), strict=True):
            best = g.masked_fill(~legal, torch.inf).argmin(1)
            hot = torch.nn.functional.one_hot(best, w.shape[1]).to(w.dtype)
            fixed.append(torch.where(mine[:, None], hot, w))
        weights = tuple(fixed)
        free = free & ~now
    return weights


def _rank(function: RelaxedEnergy) -> Tensor:
    """(n,) long: an order of the open sites that looks random but depends on places in the instance only."""
    parts = []
    for number, name in enumerate(function.names):
        block = function.graph.variables[name]
        place = torch.arange(block.num_sites) - block.offsets[block.instance] + 1 + 1000003 * number
        parts.append((place * 2654435761) % (1 << 31))
    code = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
    return code * max(1, code.numel()) + torch.arange(code.numel())


def _incidence(function: RelaxedEnergy) -> Incidence:
    begin, total = {}, 0
    for name in function.names:
        begin[name] = total
        total += function.graph.variables[name].num_sites
    rows, sites, count = [], [], 0
    for index, scope in _indices(function.graph):
        for slot, name in enumerate(scope):
            if name in begin:
                rows.append(count + torch.arange(index.shape[1]))
                sites.append(begin[name] + index[slot])
        count += index.shape[1]
    empty = torch.zeros(0, dtype=torch.long)
    return Incidence(torch.cat([empty, *rows]), torch.cat([empty, *sites]), count)


def _indices(graph: FactorGraph) -> list[tuple[Tensor, tuple[str, ...]]]:
    """The rows of every factor that looks at several sites: an index (arity, m) and its blocks."""
    out: list[tuple[Tensor, tuple[str, ...]]] = []
    for factor in graph.factors:
        scope = graph.scope(factor)
        if isinstance(factor, TableFactor | ResidualFactor) and factor.index is not None:
            out.append((factor.index, factor.scope))
        elif isinstance(factor, GridFactor):
            out.append((factor.pairs(scope[0])[0], factor.scope * 2))
        elif isinstance(factor, ChainFactor):
            later = (scope[0].instance.diff(prepend=torch.tensor([-1])) == 0).nonzero()[:, 0]
            out.append((torch.stack([later - 1, later]), factor.scope * 2))
    return out


def _one_by_one(function: RelaxedEnergy, weights: Weights, budget: Budget) -> Weights:
    """The same for any relaxed energy: all instances fix the site at one position together, by trying every state."""
    weights = tuple(w.clone() for w in weights)
    for slot, name in enumerate(function.names):
        block = function.graph.variables[name]
        for position in range(int(block.lengths.max()) if block.num_instances else 0):
            if budget.expired:
                return weights
            here = (block.lengths > position).nonzero()[:, 0]
            at = block.offsets[:-1][here] + position
            energies = torch.full((at.numel(), weights[slot].shape[1]), torch.inf, dtype=torch.float64)
            for state in range(weights[slot].shape[1]):
                trial = weights[slot].clone()
                trial[at] = 0.0
                trial[at, state] = 1.0
                energies[:, state] = function([trial if i == slot else w for i, w in enumerate(weights)])[here]
            energies = energies.masked_fill(~function.legal[slot][at], torch.inf).nan_to_num(nan=torch.inf)
            weights[slot][at] = torch.nn.functional.one_hot(energies.argmin(1), energies.shape[1]).to(trial.dtype)
    return weights

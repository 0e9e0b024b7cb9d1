"""Bounds and estimates of log partitions that are differentiable in the factors' values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.graph import Discrete, FactorGraph, TableFactor, Variables
from ebmstruct.inference import (
    AnnealedImportanceSampling,
    MeanField,
    Query,
    Solver,
    TableView,
    VariableElimination,
    marginals,
    table_refusal,
    table_view,
)
from ebmstruct.inference.result import Ask
from ebmstruct.inference.views.lines import ragged
from ebmstruct.learning.losses.chains import draw_energies

MOST_FORESTS = 32
"""Spanning forests at the most; rows that none of them has are covered by further ones."""


def mean_field_bound(graph: FactorGraph, temperature: float, solver: Solver | None) -> Tensor:
    """(B,) a lower bound on log Z: minus the mean energy of independent sites over T, plus their entropy.

    The probabilities are those that mean field ends with, and count as given: at its optimum the bound does not change
    with them (Jordan et al. 1999). An infeasible instance has -inf.
    """
    method = solver if isinstance(solver, MeanField) else MeanField()
    found = marginals(graph, method, temperature=temperature)
    beliefs = found.beliefs
    entropy = torch.zeros(graph.num_instances, dtype=torch.float64)
    for name, p in beliefs.items():
        entropy = entropy.index_add(0, graph.variables[name].instance, -torch.special.xlogy(p, p).sum(1))
    bound = entropy - graph.relaxed_energy(beliefs) / temperature
    return torch.where(torch.isneginf(found.log_partition), -torch.inf, bound)


def pairwise_refusal(graph: FactorGraph) -> str | None:
    """Why a graph is not one of tables of at most two sites, in one sentence; None where it is."""
    reason = table_refusal(graph)
    if reason is not None:
        return reason
    for factor in graph.factors:
        if isinstance(factor, TableFactor) and factor.arity > 2:
            return f"factor {factor.label!r} has rows of {factor.arity} sites, and spanning forests are of pairs"
    return None


def forest_bound(graph: FactorGraph, temperature: float, updates: int) -> Tensor:
    """(B,) an upper bound on log Z: the mean of log partitions of spanning forests, whose mean energy is the graph's.

    A row is in a share rho of the forests, with its table over rho; single sites' energies are in all, each forest's
    shifted such that shifts sum to zero. log Z is convex, so that is a bound whatever the shifts are (Wainwright, Jaakkola
    and Willsky 2005). ``updates`` rounds move them to where the forests' marginals agree, and the best shifts of each
    instance count as given. On a forest it is exact. Cost: updates + 1 eliminations of all forests.
    """
    view = table_view(graph)
    forests = spanning_forests(view)
    order = np.argsort(view.instance, kind="stable")
    make = _Forests(view, forests, order, temperature)
    shifts = torch.zeros(forests.shape[0], view.unary.numel(), dtype=torch.float64)
    if updates and forests.shape[0] > 1:
        shifts = _agreeing(make, shifts, updates)
    bound = make.log_partitions(shifts, graph).mean(0) - view.constant / temperature
    return torch.where(torch.isposinf(view.constant), -torch.inf, bound)


def spanning_forests(view: TableView) -> np.ndarray:
    """(R, m) bool: the rows of each of some spanning forests, such that every row is in one at least."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    pairs, count = view.row_sites.reshape(-1, 2), view.num_sites
    number = {(int(a), int(b)): i for i, (a, b) in enumerate(pairs)}
    used = np.zeros(view.num_rows)
    out: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    while not out or (not (used > 0).all() and len(out) < MOST_FORESTS):
        weights = 1.0 + used + 0.1 * rng.random(view.num_rows)
        tree = minimum_spanning_tree(coo_array((weights, (pairs[:, 0], pairs[:, 1])), (count, count)).tocsr()).tocoo()
        mask = np.zeros(view.num_rows, np.bool_)
        mask[[number[int(a), int(b)] for a, b in zip(tree.row, tree.col, strict=True)]] = True
        used += mask
        out.append(mask)
    for row in np.nonzero(used == 0)[0]:
        mask = np.zeros(view.num_rows, np.bool_)
        mask[row] = True
        out.append(mask)
    return np.stack(out)


class _Forests:
    """The forests of a table view as one graph of R * B instances, forest after forest."""

    def __init__(self, view: TableView, forests: np.ndarray, order: np.ndarray, temperature: float) -> None:
        self.view, self.forests, self.order, self.temperature = view, forests, order, temperature
        self.count = forests.shape[0]
        place = np.empty(view.num_sites, np.int64)
        place[order] = np.arange(view.num_sites)
        forest, row = np.nonzero(forests)
        share = forests.mean(0)
        pairs = view.row_sites.reshape(-1, 2)[row]
        self.index = torch.from_numpy((place[pairs] + forest[:, None] * view.num_sites).T.copy())
        sizes = torch.from_numpy(view.row_sizes[row])
        self.starts = sizes.cumsum(0) - sizes
        self.entries = ragged(torch.from_numpy(view.table_start[row]), sizes)
        owner = torch.repeat_interleave(torch.arange(row.size), sizes)
        self.rows = torch.from_numpy(row)[owner]
        self.share = torch.from_numpy(share[row])[owner]
        lengths = np.tile(np.bincount(view.instance, minlength=view.num_instances), self.count)
        states = torch.from_numpy(np.tile(view.num_states[order], self.count))
        self.block = Variables.of_lengths("site", Discrete(states), torch.from_numpy(lengths))
        own = view.starts[:-1][order]
        total = int(view.starts[-1])
        self.unary_starts = torch.from_numpy((own[None] + total * np.arange(self.count)[:, None]).reshape(-1))

    def graph(self, view: TableView, shifts: Tensor) -> FactorGraph:
        """The forests with the tables of ``view``; shifts: (R, states) on the energies of single sites."""
        unary = (view.unary + shifts).reshape(-1)
        tables = view.tables[self.entries] * view.weights[self.rows] / self.share
        factors = [TableFactor(("site",), "site", unary, starts=self.unary_starts)]
        if self.index.shape[1]:
            factors.append(TableFactor(("site", "site"), "pair", tables, self.index, self.starts))
        return FactorGraph([self.block], factors)

    def log_partitions(self, shifts: Tensor, graph: FactorGraph) -> Tensor:
        """(R, B), differentiable in the values of ``graph``."""
        found = VariableElimination().log_partition(self.graph(table_view(graph), shifts), self.temperature)
        return found.reshape(self.count, -1)

    def values_and_beliefs(self, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """(R, B) log partitions and (R, states) marginals, without gradients."""
        graph = self.graph(self.view, shifts)
        found = marginals(graph, VariableElimination(), temperature=self.temperature)
        counts = self.block.state_counts
        wide = found.beliefs["site"]
        mask = torch.arange(wide.shape[1]) < counts[:, None]
        flat = wide[mask].reshape(self.count, -1)  # in the order of ``order``, forest after forest
        view = self.view
        to = ragged(torch.from_numpy(view.starts[:-1][self.order]), torch.from_numpy(view.num_states[self.order]))
        beliefs = torch.empty_like(flat)
        beliefs[:, to] = flat
        return found.log_partition.reshape(self.count, -1), beliefs


def _agreeing(make: _Forests, shifts: Tensor, updates: int) -> Tensor:
    """(R, states): of the shifts met on the way those with each instance's least bound."""
    view = make.view
    owner = torch.from_numpy(np.repeat(view.instance, view.num_states))
    best, least = shifts, torch.full((view.num_instances,), torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for at in range(updates):
            values, beliefs = make.values_and_beliefs(shifts)
            mean = values.mean(0)
            better = mean < least
            best, least = torch.where(better[owner], shifts, best), torch.where(better, mean, least)
            logs = beliefs.clamp(min=1e-30).log()
            shifts = shifts + make.temperature * 0.5 * (logs - logs.mean(0))
            if at == updates - 1:
                mean = make.values_and_beliefs(shifts)[0].mean(0)
                best = torch.where((mean < least)[owner], shifts, best)
    return best


def annealed_estimate(
    graph: FactorGraph, temperature: float, solver: Solver | None, particles: int, generator: Generator
) -> Tensor:
    """(B,) an estimate of log Z by annealed importance sampling, whose gradient is -mean E / T over the weighted draws.

    The mean weight is unbiased for Z, so its logarithm is below log Z in expectation, by about half its variance.
    """
    method = (
        solver if isinstance(solver, AnnealedImportanceSampling) else AnnealedImportanceSampling(particles=particles)
    )
    with torch.no_grad():
        draws, weights, value = method.weighted_draws(graph, temperature=temperature, generator=generator)
    energies = draw_energies(graph, draws)
    mean = torch.where(weights > 0, weights * energies, 0.0).sum(0) / temperature
    return value - (mean - mean.detach())


def annealed_refusal(graph: FactorGraph) -> str | None:
    """Why annealed importance sampling does not take a graph; None where it does."""
    return AnnealedImportanceSampling().refuse(graph, Query(Ask.LOG_PARTITION))

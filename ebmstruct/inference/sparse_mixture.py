"""Sparse mixtures of assignments: the minimiser smoothed by a square norm, found with minimisations alone (SparseMAP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.engine import minimize
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.unaries import discrete_blocks, other_unaries, with_unaries

RIDGE = 1e-11
"""What is added to the diagonal of the agreements, as a share of the number of sites: dependent assignments then have a
solution, so long that its first zero weight drops one of them."""


@dataclass(frozen=True, eq=False)
class SparseMixture:
    """A few assignments of each instance with weights that sum to 1.

    assignments: block to (S, n) or (S, n, d).  weights: (S, B) float64; slots that an instance does not use have weight 0.
    means: discrete block to (n, K), the weighted mean of its indicators: a point of the marginal polytope.
    value: (B,) the mean energy plus half of ``strength`` times the square norm of the means.  gap: (B,) by how much the
    least such value may lie below; infinite where the minimiser proves no bound.  calls: minimisations made.
    """

    assignments: Mapping[str, Tensor]
    weights: Tensor
    means: Mapping[str, Tensor]
    value: Tensor
    gap: Tensor
    calls: int


def sparse_mixture(
    graph: FactorGraph,
    solver: Solver | None = None,
    *,
    strength: float = 1.0,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
    generator: Generator | None = None,
) -> SparseMixture:
    """Minimise the mean energy plus half of ``strength`` times the square norm of the mean indicators of all sites.

    Over distributions p of assignments: min_p E_p[E(y)] + strength / 2 |E_p[u(y)]|^2, where u(y) holds an indicator for
    each state of each discrete site. Only minimisations of the graph with other energies of single sites are needed
    (Niculae, Martins, Blondel and Cardie 2018, "SparseMAP", whose active set method this is; Frank and Wolfe 1956): the
    assignment that falls most steeply joins the mixture, and the weights are then refitted exactly.

    tolerance: an instance is done where the gap, or what the minimiser's answer promises, is at most this share of its
    value (or of 1).  max_iterations: assignments tried.  Cost: a minimisation of all instances for each, and the
    solution of a system as large as the mixture.
    Errors: SolverRefusal where no solver minimises over the graph with energies of single sites added.
    """
    with torch.no_grad():
        search = _Search(graph, solver, strength, generator)
        while not search.judged(tolerance) and search.calls <= max_iterations:
            search.grow()
        return search.found()


class _Search:
    """One run of the active set method; holds the mixture as it grows."""

    def __init__(self, graph: FactorGraph, solver: Solver | None, strength: float, generator: Generator | None) -> None:
        self.graph, self.solver, self.strength, self.generator = graph, solver, strength, generator
        self.blocks = discrete_blocks(graph)
        first = minimize(graph, solver, generator=generator)
        self.sites = {n: v[None] for n, v in graph.complete(first.assignment).items()}
        self.energies = first.energy[None].clone()
        self.weights = torch.ones_like(self.energies)
        self.agreements = self._agreements(first.assignment.values)[None]
        self.tilted = with_unaries(graph, self._means())
        self.done = ~first.energy.isfinite()
        self.gap = torch.full_like(first.energy, torch.inf)
        self.calls = 1

    def judged(self, tolerance: float) -> bool:
        """Ask for the assignment that falls most steeply; whether no instance has anything left to gain."""
        result = minimize(
            other_unaries(self.tilted, {n: self.strength * m for n, m in self._means().items()}),
            self.solver,
            generator=self.generator,
        )
        self.calls += 1
        self.candidate = self.graph.complete(result.assignment)
        slopes = self.energies + self.strength * (self.agreements * self.weights).sum(1)
        mean = torch.where(self.weights > 0, self.weights * slopes, 0.0).sum(0)
        self.gap = torch.where(self.done, self.gap, (mean - result.lower_bound).clamp(min=0.0))
        promised = mean - result.energy
        self.done = self.done | ~(promised > tolerance * mean.abs().clamp(min=1.0))
        return bool(self.done.all())

    def grow(self) -> None:
        """Take the candidates into unused slots of the instances that are not done, and refit the weights."""
        if bool((self.weights.gt(0).all(0) & ~self.done).any()):
            self._widen()
        slot = self.weights.gt(0).to(torch.int8).argmin(0)
        agreements = self._agreements(self.candidate)
        energy = self.graph.energy(self.candidate)
        for name, rows in self.sites.items():
            owner = self.graph.variables[name].instance
            at = (~self.done)[owner].nonzero()[:, 0]
            rows[slot[owner[at]], at] = self.candidate[name][at]
        here = (~self.done).nonzero()[:, 0]
        own = slot[here]
        self.energies[own, here] = energy[here]
        full = self._count()
        rows_now = agreements[:, here]
        self.agreements[own, :, here] = rows_now.T
        self.agreements[:, own, here] = rows_now
        self.agreements[own, own, here] = full[here]
        joined = torch.zeros_like(self.weights, dtype=torch.bool)
        joined[own, here] = True
        self.weights = refitted(self.weights, joined, self.energies, self.strength * self.agreements, self.done)

    def found(self) -> SparseMixture:
        """The mixture as it stands."""
        used = self.weights.gt(0).any(1)
        square = (self.agreements * self.weights[:, None] * self.weights).sum((0, 1))
        energy = torch.where(self.weights > 0, self.weights * self.energies, 0.0).sum(0)
        return SparseMixture(
            {n: rows[used] for n, rows in self.sites.items()},
            self.weights[used],
            self._means(),
            energy + 0.5 * self.strength * square,
            self.gap,
            self.calls,
        )

    def _widen(self) -> None:
        """One more slot, with weight 0."""
        self.sites = {n: torch.cat([rows, rows[-1:]]) for n, rows in self.sites.items()}
        self.energies = torch.cat([self.energies, torch.zeros_like(self.energies[:1])])
        self.weights = torch.cat([self.weights, torch.zeros_like(self.weights[:1])])
        self.agreements = torch.nn.functional.pad(self.agreements, (0, 0, 0, 1, 0, 1))

    def _means(self) -> dict[str, Tensor]:
        out = {}
        for block in self.blocks:
            weights = self.weights[:, block.instance]
            mean = torch.zeros(block.num_sites, block.discrete.largest, dtype=torch.float64)
            out[block.name] = mean.scatter_add(1, self.sites[block.name].T, weights.T)
        return out

    def _agreements(self, values: Mapping[str, Tensor]) -> Tensor:
        """(S, B): at how many sites an assignment agrees with each of the mixture."""
        out = torch.zeros(self.energies.shape, dtype=torch.float64)
        for block in self.blocks:
            same = (self.sites[block.name] == values[block.name]).double()
            out = out.index_add(1, block.instance, same)
        return out

    def _count(self) -> Tensor:
        """(B,) the number of discrete sites."""
        out = torch.zeros(self.graph.num_instances, dtype=torch.float64)
        for block in self.blocks:
            out = out + block.lengths
        return out


def refitted(weights: Tensor, joined: Tensor, energies: Tensor, square: Tensor, done: Tensor) -> Tensor:
    """(S, B) weights that minimise energies w + w square w / 2 over the simplex of those in use and those that joined.

    weights: (S, B) to begin from.  joined: (S, B) bool.  energies: (S, B).  square: (S, S, B).  done: (B,) bool, who is
    left alone.
    The method goes from one set of weights above 0 to the next, dropping the first that reaches 0 (Nocedal and Wright
    2006, algorithm 16.3). Cost: systems of size S, as many as are dropped and one.
    """
    w, use = weights.T.clone(), (weights.gt(0) | joined).T & ~done[:, None]
    q = square.permute(2, 0, 1)
    offset = torch.where(use, energies.T, torch.inf).amin(1, keepdim=True)
    c = torch.where(use, energies.T - offset, 0.0)
    open_ = ~done
    for _ in range(2 * w.shape[1] + 1):
        if not bool(open_.any()):
            break
        aim = _free_weights(q, c, use)
        low = use & (aim < 0)
        ratio = torch.where(low, w / (w - aim).clamp(min=torch.finfo(w.dtype).tiny), torch.inf)
        share, first = ratio.clamp(min=0.0).min(1)
        whole = ~low.any(1)
        share = torch.where(whole, 1.0, share)[:, None]
        moved = torch.where(use, w + share * (aim - w), 0.0).clamp(min=0.0)
        w = torch.where(open_[:, None], moved, w)
        drop = torch.nn.functional.one_hot(first, w.shape[1]).bool() & (open_ & ~whole)[:, None]
        use, w = use & ~drop, w.masked_fill(drop, 0.0)
        open_ = open_ & ~whole
    w = torch.where(done[:, None], w, w / w.sum(1, keepdim=True))
    return w.T.contiguous()


def _free_weights(q: Tensor, c: Tensor, use: Tensor) -> Tensor:
    """(B, S): what minimises c w + w q w / 2 where the weights in ``use`` sum to 1 and may be negative; 0 elsewhere."""
    count, slots = use.shape
    both = use[:, :, None] & use[:, None, :]
    scale = q.diagonal(0, 1, 2).amax(1).clamp(min=1e-300)
    ridge = torch.where(use, RIDGE * scale[:, None], scale[:, None])
    matrix = torch.zeros(count, slots + 1, slots + 1, dtype=q.dtype)
    matrix[:, :slots, :slots] = torch.where(both, q, 0.0) + torch.diag_embed(ridge)
    border = use.to(q.dtype) * scale[:, None]
    matrix[:, :slots, slots] = border
    matrix[:, slots, :slots] = border
    nobody = ~use.any(1)
    matrix[nobody, slots, slots] = 1.0
    right = torch.cat([torch.where(use, -c, 0.0), scale[:, None]], 1)
    return torch.linalg.solve(matrix, right)[:, :slots]

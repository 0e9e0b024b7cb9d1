"""The slack-rescaled worst output: largest product of the cost and of the margin that is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, Factor, FactorGraph
from ebmstruct.inference import Query, Solver, explain, minimize
from ebmstruct.learning.losses.latent_sites import LatentSites, latent_blocks, lowest, taking
from ebmstruct.learning.losses.output_cost import cost_of, scaled_by_instance

TOLERANCE = 1e-9
"""A product is proven largest where the bound lies no more than this share above it."""
MOST_OPERATIONS = 4e8
"""The best few outputs are not listed where that is expected to take more, about a second."""
FIRST_FACTOR = 8.0
"""By how much the weight of the cost grows or falls until it is bracketed."""


@dataclass(frozen=True, eq=False)
class WorstOutput:
    """The output found for each instance, with its cost (B,), and how far the search went.

    product: (B,) cost * (1 + E(target) - E(output)), at least 0.  bound: (B,) no output has a larger product, as long as
    the solver is exact.
    """

    outputs: Assignment
    cost: Tensor
    product: Tensor
    bound: Tensor

    @property
    def proven(self) -> Tensor:
        """(B,) bool: the instances whose product is the largest."""
        return self.bound <= self.product + TOLERANCE * self.product.abs().clamp(min=1.0)


@dataclass(frozen=True, eq=False)
class SlackSearch:
    """The search for the output of largest cost times missing margin.

    In the plane of cost c and missing margin m = 1 + E(target) - E, minimising E - w c finds the output that lies
    furthest in the direction (w, 1): a corner of the convex hull. For any w no output has a product above
    (m + w c)^2 / (4 w) of that corner, which bounds the maximum from above (Sarawagi and Gupta 2008). That bound has no
    local minimum but its least one in w, which lies where w c and m change places; between two corners on either side the
    next w is that of the line through them, and when no corner lies beyond the line the least bound is found (as in the
    angular search of Choi, Meshi and Srebro 2016, whose step into the inside of the hull needs another kind of solver).
    Outputs inside the hull may have a larger product than its corners: the ``best`` lowest of E - w c are looked at, where
    a solver gives several; when the last of them bounds the product of all others by the same formula, it is proven.

    correct: (B,) E(target) without a record.  completion: the target with its latent
    sites.  largest: (B,) the largest cost that there is, as far as it is known.  steps: minimisations at most.
    """

    graph: FactorGraph
    target: Assignment
    cost: tuple[Factor, ...]
    correct: Tensor
    completion: Assignment
    largest: Tensor
    solver: Solver | None
    latent_sites: LatentSites
    temperature: float
    steps: int
    best: int

    def run(self) -> WorstOutput:
        """The worst output of every instance."""
        weight = torch.ones_like(self.correct)
        low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        corners: dict[str, tuple[Tensor, Tensor]] = {}
        found = self._nothing()
        best_weight, done = weight, torch.zeros_like(weight, dtype=torch.bool)
        for _ in range(self.steps):
            new, cost, missing = self._corner(weight)
            reach = (missing + weight * cost).clamp(min=0.0)
            bound = torch.where(done, torch.inf, reach.square() / (4 * weight))
            best_weight = torch.where(bound < found.bound, weight, best_weight)
            found = self._better(found, new, cost, missing, bound)
            heavy = weight * cost > missing
            low, high = torch.where(heavy, low, weight), torch.where(heavy, weight, high)
            corners = _replaced(corners, cost, missing, heavy, done)
            weight, met = _next(weight, low, high, corners, reach)
            done = done | met | found.proven
            if bool(done.all()):
                break
        if not bool(found.proven.all()):
            found = self._several(found, best_weight)
        return found

    def _nothing(self) -> WorstOutput:
        """The target itself, whose product is 0."""
        zero = torch.zeros_like(self.correct)
        return WorstOutput(self.completion, zero, zero, torch.full_like(zero, torch.inf))

    def _augmented(self, weight: Tensor) -> FactorGraph:
        costs = [scaled_by_instance(f, -weight, self.graph.scope(f)) for f in self.cost]
        return self.graph.add(*costs)

    def _corner(self, weight: Tensor) -> tuple[Assignment, Tensor, Tensor]:
        """The output of least E - w c, its cost and its missing margin."""
        value, outputs = lowest(self._augmented(weight), self.target, self.solver, self.latent_sites, self.temperature)
        cost = cost_of(self.graph, self.cost, outputs)
        return outputs, cost, 1 + self.correct - (value + weight * cost)

    def _better(self, old: WorstOutput, new: Assignment, cost: Tensor, missing: Tensor, bound: Tensor) -> WorstOutput:
        product = torch.where(missing > 0, cost * missing, 0.0)
        wins = product > old.product
        values = {}
        for name, value in old.outputs.items():
            pick = wins[self.graph.variables[name].instance].reshape(-1, *[1] * (value.dim() - 1))
            values[name] = torch.where(pick, new[name].to(value.dtype), value)
        bound = torch.minimum(old.bound, bound)
        return WorstOutput(
            Assignment(values), torch.where(wins, cost, old.cost), torch.where(wins, product, old.product), bound
        )

    def _several(self, found: WorstOutput, weight: Tensor) -> WorstOutput:
        """The same after a look at the best few outputs, by the energy alone and by the weight whose bound was least."""
        if self.best < 2 or (self.latent_sites == "sum_out" and latent_blocks(self.graph, self.target)):
            return found
        for own in (torch.zeros_like(weight), weight):
            found = self._listed(found, own, self.largest)
            if bool(found.proven.all()):
                break
        return found

    def _listed(self, found: WorstOutput, weight: Tensor, most: Tensor) -> WorstOutput:
        """The better of what was found and of the best few by E - w c; most: (B,) the largest cost that there is."""
        graph, query = self._augmented(weight), Query(k=self.best)
        solver = taking(self.solver, graph, query)
        choice = explain(graph, query, solvers=None if solver is None else [solver])
        if not choice.entries or (self.solver is not None and solver is None):
            return found
        if choice.cost is not None and choice.cost.operations > MOST_OPERATIONS:
            return found
        several = minimize(graph, choice.solver, k=self.best)
        if several.alternative_energies is None:
            return found
        nothing = torch.full_like(weight, torch.inf)
        others = nothing
        for y, energy in zip(several.alternatives, several.alternative_energies, strict=True):
            there = energy.isfinite()
            cost = torch.where(there, cost_of(self.graph, self.cost, y), 0.0)
            missing = torch.where(there, 1 + self.correct - (energy + weight * cost), 0.0)
            others = torch.where(there, _largest_product(missing + weight * cost, weight, most), 0.0)
            found = self._better(found, y, cost, missing, nothing)
        bound = torch.minimum(found.bound, torch.maximum(others, found.product))
        return WorstOutput(found.outputs, found.cost, found.product, bound)


def _largest_product(reach: Tensor, weight: Tensor, most: Tensor) -> Tensor:
    """(B,) the largest c m with m + w c at most ``reach`` and c at most ``most``."""
    reach = reach.clamp(min=0.0)
    cost = torch.minimum(reach / (2 * weight).clamp(min=1e-300), most)
    return cost * (reach - weight * cost)


def _replaced(
    corners: dict[str, tuple[Tensor, Tensor]], cost: Tensor, missing: Tensor, heavy: Tensor, done: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """The corners on either side, with the new one on its own side."""
    nothing = torch.full_like(cost, torch.nan)
    out = {}
    for side, mine in (("low", ~heavy), ("high", heavy)):
        old = corners.get(side, (nothing, nothing))
        pick = mine & ~done
        out[side] = (torch.where(pick, cost, old[0]), torch.where(pick, missing, old[1]))
    return out


def _next(
    weight: Tensor, low: Tensor, high: Tensor, corners: dict[str, tuple[Tensor, Tensor]], reach: Tensor
) -> tuple[Tensor, Tensor]:
    """The weight to try next, and which instances have nothing to try: no corner lies beyond the line of the last two."""
    (c_low, m_low), (c_high, m_high) = corners["low"], corners["high"]
    line = (m_low - m_high) / (c_high - c_low)
    inside = (line > low) & (line < high) & line.isfinite()
    grown = torch.where(torch.isinf(high), weight * FIRST_FACTOR, weight / FIRST_FACTOR)
    both = (low > 0) & high.isfinite()
    middle = (low.clamp(min=1e-300) * torch.where(high.isfinite(), high, low)).sqrt()
    after = torch.where(both, torch.where(inside, line, middle), grown)
    met = both & ((high / low.clamp(min=1e-300) < 1 + 1e-9) | ~inside)
    return after, met


def worst_output(
    graph: FactorGraph,
    target: Assignment,
    cost: Sequence[Factor],
    correct: Tensor,
    completion: Assignment,
    largest: Tensor,
    *,
    solver: Solver | None,
    latent_sites: LatentSites,
    temperature: float,
    steps: int,
    best: int,
) -> WorstOutput:
    """The slack-rescaled worst output of every instance, as ``SlackSearch`` finds it."""
    with torch.no_grad():
        energy = correct.detach().double()
        return SlackSearch(
            graph, target, tuple(cost), energy, completion, largest, solver, latent_sites, temperature, steps, best
        ).run()

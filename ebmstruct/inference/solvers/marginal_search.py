"""Marginal MAP over many discrete outputs: change one site at a time where that lowers the free energy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.descent.loop import DescentOptions
from ebmstruct.inference.descent.multi_start import best_start, of_start, values_of_start
from ebmstruct.inference.latent.free_descent import Descended, descend_free_energy
from ebmstruct.inference.latent.free_energy import FreeEnergy, free_energy, free_energy_refusal, latent_states
from ebmstruct.inference.latent.free_minimum import LOST, summed_refusal
from ebmstruct.inference.latent.starts import legal_states, likely_states, random_states, scattered_copies
from ebmstruct.inference.result import Answer, Budget, Query, Result, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import constraint_labels, open_continuous
from ebmstruct.inference.solver import Solver

SITES_AT_ONCE = 1e5
"""Sites of all copies of the graph whose free energies are computed side by side."""


@dataclass(frozen=True)
class MarginalSearch(Solver):
    """Low free energy -T log sum exp(-E / T) over many discrete outputs, by coordinate descent from several starts.

    A sweep tries every state of every site alone, all others given, and then changes together as many of the sites that
    gain as lowers the free energy most. Searches begin at ``init`` or the least energy of outputs and latents
    together, at the outputs' most probable states where these are known exactly, and at random. Each value is exact where
    latents are discrete and can be eliminated once the outputs are given, or where the energy is quadratic in them; else
    it is Laplace's approximation, corrected at the end by weighted draws. Continuous outputs descend between sweeps.
    ``Result.integration`` says how latents were summed out; ``Result.assignment`` holds, beside the outputs, the latent
    values of least energy given them.

    starts: searches side by side; the first begins at ``init``.  max_sweeps: rounds over all sites.  samples: draws.
    max_states, max_dimension: as in FreeEnergyDescent.
    Cost of a sweep: K free energies for each site of the longest instance. It finds a local minimum without a bound.
    """

    name: ClassVar[str] = "marginal_search"

    starts: int = 4
    max_sweeps: int = 50
    samples: int = 256
    max_states: int = 4096
    max_dimension: int = 400

    def __post_init__(self) -> None:
        for field in ("starts", "max_sweeps"):
            if getattr(self, field) < 1:
                raise GraphError(f"MarginalSearch: {field} must be at least 1; found {getattr(self, field)}")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        reason = summed_refusal(graph, query)
        if reason is not None:
            return reason
        labels = constraint_labels(graph)
        if labels:
            return f"factors {labels} are constraints, which a search on the free energy does not keep"
        if not any(graph.variables[n].num_sites for n in _discrete(graph, query)):
            return "no discrete block is left to search over"
        return free_energy_refusal(graph, query.sum_out, self.max_states, self.max_dimension)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        generator = default_generator(generator)
        names = _discrete(graph, query)
        continuous = tuple(v.name for v in open_continuous(graph) if v.name not in query.sum_out)
        budget = budget or Budget()
        likely = likely_states(graph, names, budget, generator) if init is None else [dict(init.items())]
        states = random_states(graph, names, likely, self.starts, generator)
        points = scattered_copies(graph, continuous, init, self.starts, 1.0, generator)
        given = {n: v.flatten(0, 1) for n, v in {**points, **states}.items()}
        search = _Search(self, graph.repeat(self.starts), query, names, continuous, budget)
        best, settled = search.run(given)
        chosen = best_start(graph, self.starts, best.energy)
        energy = of_start(self.starts, chosen, best.energy)
        done = (best.done & settled).reshape(self.starts, -1).all(0)
        ended = Status.DEADLINE if search.budget.expired else Status.MAX_STEPS
        status = torch.where(done, int(Status.CONVERGED), int(ended))
        status = torch.where(torch.isposinf(energy), int(Status.INFEASIBLE), status)
        lost = energy.isnan() | torch.isneginf(energy)
        status = torch.where(lost, int(Status.NONFINITE), status)
        stats: dict[str, Any] = {
            "sweeps": search.sweeps,
            "evaluations": search.evaluations,
            "latent": "minimiser given the others",
        }
        if bool(lost.any()):
            stats["reason"] = LOST
        if "error" in best.stats:
            stats["error"] = of_start(self.starts, chosen, best.stats["error"])
        return Result(
            Assignment(values_of_start(graph, self.starts, chosen, best.values)),
            energy,
            torch.full_like(energy, -torch.inf),
            status,
            solver=self.name,
            stats=stats,
            integration=best.integration,
        )


def _discrete(graph: FactorGraph, query: Query) -> tuple[str, ...]:
    return tuple(n for n, v in graph.variables.items() if isinstance(v.domain, Discrete) and n not in query.sum_out)


@dataclass(frozen=True, eq=False)
class _Flips:
    """What changing single sites brings: block name to (n,) the best state of each site and F with it alone.

    now: (F,) the free energy as it is.
    """

    state: dict[str, Tensor]
    energy: dict[str, Tensor]
    now: Tensor


class _Search:
    """One search in the making, over all starts of all instances."""

    def __init__(
        self,
        options: MarginalSearch,
        graph: FactorGraph,
        query: Query,
        names: tuple[str, ...],
        continuous: tuple[str, ...],
        budget: Budget,
    ) -> None:
        self.options, self.graph, self.query, self.budget = options, graph, query, budget
        self.names, self.continuous = names, continuous
        self.sweeps = self.evaluations = 0
        self.legal = {n: legal_states(graph, n) for n in names}
        self.width = max((v.shape[1] for v in self.legal.values()), default=1)
        self.places = [
            (n, p) for n in names for p in range(int(graph.variables[n].lengths.max()) if graph.num_instances else 0)
        ]
        sites = max(1, sum(v.num_sites for v in graph.variables.values()))
        inner = latent_states(graph, query.sum_out)
        self.together = max(1, min(len(self.places), round(SITES_AT_ONCE / (sites * inner * self.width)), 256))
        self.copies = graph.repeat(self.together * self.width)

    def run(self, given: dict[str, Tensor]) -> tuple[Descended, Tensor]:
        """The best of the search, and (B,) bool whether the last sweep changed nothing."""
        best = self.settled(given)
        settled = torch.zeros(self.graph.num_instances, dtype=torch.bool)
        while self.sweeps < self.options.max_sweeps and not self.stops():
            values, changed, whole = self.sweep(best)
            settled = ~changed & whole
            if not bool(changed.any()):
                break
            best = best.better(self.graph, self.settled(values))
        return best, settled

    def stops(self) -> bool:
        """Whether the budget is over."""
        spent = self.budget.max_steps is not None and self.evaluations >= self.budget.max_steps
        return spent or self.budget.expired

    def settled(self, values: dict[str, Tensor]) -> Descended:
        """The free energy at some outputs, continuous ones descended and latents filled in."""
        real = torch.ones(1, self.graph.num_instances, dtype=torch.bool)
        return descend_free_energy(
            self.graph,
            self.query,
            values,
            self.continuous,
            1,
            real,
            budget=replace(self.budget, max_steps=None),
            options=DescentOptions(),
            samples=self.options.samples,
            generator=Generator().manual_seed(0),
        )

    def spread(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values of every copy."""
        count = self.together * self.width
        return {n: v.repeat(count, *[1] * (v.dim() - 1)) for n, v in values.items()}

    def sweep(self, best: Descended) -> tuple[dict[str, Tensor], Tensor, bool]:
        """Values after a sweep, (B,) bool which instances changed, and whether every site had its turn.

        Each site is tried alone; then those whose change helps change together, or the better half of them, or a
        quarter, down to the best one: whatever has the least free energy.
        """
        start = self.spread(best.values)
        outer = {n: v for n, v in start.items() if n not in self.query.sum_out}
        latent = {n: v for n, v in start.items() if n in self.query.sum_out}
        function = free_energy(self.copies, self.query.sum_out, self.query.temperature, given=outer, latent=latent)
        values = {n: v for n, v in best.values.items() if n not in self.query.sum_out}
        flips, whole = self.flips(function, values)
        self.sweeps += whole
        found, changed = self.together_changed(function, values, flips)
        return {**best.values, **found}, changed, whole

    def flips(self, function: FreeEnergy, values: dict[str, Tensor]) -> tuple[_Flips, bool]:
        """Every single change, as far as the budget reaches."""
        state = {n: values[n].clone() for n in self.names}
        energy = {n: torch.full(v.shape, torch.inf, dtype=torch.float64) for n, v in state.items()}
        now = torch.full((self.graph.num_instances,), torch.inf, dtype=torch.float64)
        for begin in range(0, len(self.places), self.together):
            if begin and self.stops():
                return _Flips(state, energy, now), False
            some = self.places[begin : begin + self.together]
            trial = self.spread({n: values[n] for n in values})
            tables = {n: trial[n].reshape(self.together, self.width, -1).clone() for n in self.names}
            for i, (name, position) in enumerate(some):
                site, _ = self.at(name, position)
                tables[name][i, : self.legal[name].shape[1], site] = self.options_of(name, site, values).T
            trial |= {n: v.reshape(-1) for n, v in tables.items()}
            found = self.evaluate(function, trial).reshape(self.together, self.width, -1)
            for i, (name, position) in enumerate(some):
                site, here = self.at(name, position)
                legal = self.legal[name][site]
                each = found[i, : legal.shape[1], here].T.masked_fill(~legal, torch.inf)
                energy[name][site], state[name][site] = each.min(1)
                now[here] = each.gather(1, values[name][site, None])[:, 0]
        return _Flips(state, energy, now), True

    def together_changed(
        self, function: FreeEnergy, values: dict[str, Tensor], flips: _Flips
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The outputs after changing the sites that gain most, and (B,) bool where any did."""
        owner = torch.cat([self.graph.variables[n].instance for n in self.names])
        after = torch.cat([flips.energy[n] for n in self.names])
        now = flips.now[owner]
        gains = (after < now - 1e-10 * now.abs().clamp(min=1.0)) | (torch.isposinf(now) & after.isfinite())
        changed = torch.zeros(self.graph.num_instances, dtype=torch.bool).index_fill(0, owner[gains], True)
        if not bool(changed.any()):
            return values, changed
        rank = _ranks(torch.where(gains, after, torch.inf), owner)
        counts = torch.zeros_like(changed, dtype=torch.long).index_add(0, owner, gains.long())
        old, new = (torch.cat([part[n] for n in self.names]) for part in (values, flips.state))
        shares = min(self.together * self.width, int(counts.max()).bit_length() + 1)
        kept = [((counts + 2**t - 1) // 2**t).clamp(min=1)[owner] for t in range(shares - 1)] + [torch.ones_like(owner)]
        options = torch.stack([torch.where(gains & (rank < k), new, old) for k in kept])
        options = torch.cat([options, options[-1:].expand(self.together * self.width - shares, -1)])
        trial = self.spread(values)
        sizes = [self.graph.variables[n].num_sites for n in self.names]
        trial |= {n: v.reshape(-1) for n, v in zip(self.names, options.split(sizes, 1), strict=True)}
        found = self.evaluate(function, trial).reshape(self.together * self.width, -1)
        chosen = options[found.argmin(0)[owner], torch.arange(owner.numel())]
        return {**values, **dict(zip(self.names, chosen.split(sizes), strict=True))}, changed

    def evaluate(self, function: FreeEnergy, trial: dict[str, Tensor]) -> Tensor:
        """The free energy in every copy, +inf where it is no number."""
        self.evaluations += 1
        with torch.no_grad():
            return function(trial).double().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def at(self, name: str, position: int) -> tuple[Tensor, Tensor]:
        """The sites at a position of the instances that have one, and these instances."""
        block = self.graph.variables[name]
        here = (block.lengths > position).nonzero()[:, 0]
        return block.offsets[:-1][here] + position, here

    def options_of(self, name: str, site: Tensor, values: dict[str, Tensor]) -> Tensor:
        """(sites, K) the states to try; the present one in place of those that are not legal."""
        legal = self.legal[name][site]
        return torch.where(legal, torch.arange(legal.shape[1]), values[name][site, None])


def _ranks(energy: Tensor, owner: Tensor) -> Tensor:
    """(n,) the place of each site among those of its instance, least energy first."""
    order = energy.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]
    first = torch.searchsorted(owner[order], owner[order])
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel()) - first
    return rank

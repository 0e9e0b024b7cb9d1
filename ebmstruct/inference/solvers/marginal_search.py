"""Marginal MAP over many discrete outputs: change one site at a time where that lowers the free energy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.descent import DescentOptions
from ebmstruct.inference.latent.free_descent import Descended, descend_free_energy
from ebmstruct.inference.latent.free_energy import FreeEnergy, free_energy, free_energy_refusal
from ebmstruct.inference.latent.free_minimum import LOST, summed_refusal
from ebmstruct.inference.latent.starts import random_states, scattered_copies
from ebmstruct.inference.markov import default_generator
from ebmstruct.inference.multi_start import best_start, of_start, values_of_start
from ebmstruct.inference.result import Answer, Budget, Query, Result, Status
from ebmstruct.inference.smooth_energy import constraint_labels, open_continuous
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True)
class MarginalSearch(Solver):
    """Low free energy -T log sum exp(-E / T) over many discrete outputs, by coordinate descent from several starts.

    A step tries every state of one site of each instance, all others given, and takes the best (iterated conditional
    modes, Besag 1986, on the free energy). Each value is exact where latents are discrete and can be eliminated once the
    outputs are given, or where the energy is quadratic in them; else it is Laplace's approximation, corrected at the end
    by weighted draws. Continuous outputs descend between sweeps. ``Result.integration`` says how latents were
    summed out; ``Result.assignment`` holds, beside the outputs, the latent values of least energy given them.

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
        states = random_states(graph, names, init, self.starts, generator)
        points = scattered_copies(graph, continuous, init, self.starts, 1.0, generator)
        given = {n: v.flatten(0, 1) for n, v in {**points, **states}.items()}
        search = _Search(self, graph.repeat(self.starts), query, names, continuous, budget or Budget(), generator)
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
        generator: Generator,
    ) -> None:
        self.options, self.graph, self.query, self.budget = options, graph, query, budget
        self.names, self.continuous, self.generator = names, continuous, generator
        self.sweeps = self.evaluations = 0
        self.legal = {n: _legal(graph, n) for n in names}
        self.width = max((v.shape[1] for v in self.legal.values()), default=1)
        self.copies = graph.repeat(self.width) if self.width > 1 else graph

    def run(self, given: dict[str, Tensor]) -> tuple[Descended, Tensor]:
        """The best of the search, and (B,) bool whether the last sweep changed nothing."""
        best = self.settled(given)
        settled = torch.zeros(self.graph.num_instances, dtype=torch.bool)
        while self.sweeps < self.options.max_sweeps and not self.stops():
            values, changed = self.sweep(best)
            settled = ~changed
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

    def sweep(self, best: Descended) -> tuple[dict[str, Tensor], Tensor]:
        """Every site once: the values after it, and (B,) bool which instances changed."""
        values = dict(best.values)
        outer = {n: v for n, v in values.items() if n not in self.query.sum_out}
        start = {n: v.repeat(self.width, *[1] * (v.dim() - 1)) for n, v in values.items()}
        latent = {n: v for n, v in start.items() if n in self.query.sum_out}
        outside = {n: start[n] for n in outer}
        function = free_energy(self.copies, self.query.sum_out, self.query.temperature, given=outside, latent=latent)
        changed = torch.zeros(self.graph.num_instances, dtype=torch.bool)
        for name in self.names:
            block = self.graph.variables[name]
            for position in range(int(block.lengths.max()) if block.num_instances else 0):
                if self.stops():
                    return values, changed | True
                here = (block.lengths > position).nonzero()[:, 0]
                site = block.offsets[:-1][here] + position
                if bool((self.legal[name][site].sum(1) > 1).any()):
                    changed[here] |= self.try_states(function, values, name, site, here)
        self.sweeps += 1
        return values, changed

    def try_states(
        self, function: FreeEnergy, values: dict[str, Tensor], name: str, site: Tensor, here: Tensor
    ) -> Tensor:
        """Give one site of each instance ``here`` its best state; whether it is another one than before."""
        self.evaluations += 1
        trial = {
            n: v.repeat(self.width, *[1] * (v.dim() - 1)) for n, v in values.items() if n not in self.query.sum_out
        }
        legal = self.legal[name][site]
        options = torch.where(legal, torch.arange(legal.shape[1]), values[name][site, None])
        table = trial[name].reshape(self.width, -1).clone()
        table[: options.shape[1], site] = options.T
        trial[name] = table.reshape(-1)
        with torch.no_grad():
            energy = function(trial).reshape(self.width, -1)[: options.shape[1], here].T
        energy = torch.where(energy.isnan() | ~legal, torch.inf, energy)
        old = values[name][site]
        now = energy.gather(1, old[:, None])[:, 0]
        least, state = energy.min(1)
        gain = (least < now - 1e-10 * now.abs().clamp(min=1.0)) | (torch.isposinf(now) & least.isfinite())
        updated = values[name].clone()
        updated[site] = torch.where(gain, state, old)
        values[name] = updated
        return gain


def _legal(graph: FactorGraph, name: str) -> Tensor:
    """(n, K) bool: the states that each site may take."""
    block = graph.variables[name]
    legal = torch.arange(max(1, block.discrete.largest)) < block.state_counts[:, None]
    allowed = graph.allowed(name)
    return legal if allowed is None else legal & allowed

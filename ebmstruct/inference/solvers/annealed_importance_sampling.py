"""Annealed importance sampling: an unbiased estimate of the partition function, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.annealed.annealed_energies import EnergyPath, Setting, energy_refusal
from ebmstruct.inference.annealed.annealed_layers import LayerBase, LayeredPath
from ebmstruct.inference.annealed.annealed_path import Annealed, AnnealedPath, anneal, place_points, thinned
from ebmstruct.inference.annealed.annealed_tables import TablePath, laid_out
from ebmstruct.inference.annealed.importance import LogMean, log_mean, normalised
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Status
from ebmstruct.inference.sampling.layers import LayeredSweeps
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.views.table_view import table_refusal, table_view

PILOT_SECONDS = 0.02
"""With less time than this there is no pilot and no path, and at most FEW particles."""
FEW = 16


WORKING_SHARE = 0.92
"""Of the time until a deadline, what is worked with; a last step and the weights take the rest."""


@dataclass(frozen=True)
class AnnealedImportanceSampling(Solver):
    """Estimates the log partition of any graph over discrete and real variables by particles that are cooled slowly.

    Particles begin at a distribution whose integral is known (uniform over states and between bounds, else normal),
    move along exp(-beta E / temperature) as beta rises to 1, and are weighed on the way; the mean weight is an unbiased
    estimate of the partition function over that integral. Tables move by heat-bath sweeps, real variables by
    Hamiltonian trajectories, states of any other energy by Metropolis flips. Layers of units (``BilinearFactor``) begin at
    independent units with the means that a few chains meet, move layer by layer, and have every other layer summed out
    (Salakhutdinov and Murray 2008): a thousand points take seconds. Weighted particles give marginals.
    A pilot run places the points of the path, each instance its own, and fixes steps; the run takes fresh particles.
    Stats: ``log_partition_error`` (B,), ``log_partition_interval`` (2, B) at 95 % or more, ``effective_samples`` (B,)
    of the weights, ``temperatures``, ``particles``. Neither end is a certain bound: valleys that no particle finds are
    not counted. Where few effective samples are left the estimate is too low more often than too high.

    particles: of each instance.  conditional_ess: effective share that a step of the path keeps; nearer to 1 is slower
    and sharper.  temperatures: points at the most.  schedule: the points themselves, rising from 0 to 1, instead of a
    pilot's.  sweeps: moves at each point.  leapfrog_steps: of a trajectory.
    base_scale: standard deviation of the normal start of real variables; by default a short run's, widened.
    Cost: particles * temperatures * sweeps * (a sweep, or leapfrog_steps gradients). A budget counts temperatures; where
    it ends early the particles are weighed as they are, which widens the interval.
    Source: Neal (2001); Zhou, Johansen and Aston (2016) for the points.
    """

    name: ClassVar[str] = "annealed_importance_sampling"

    particles: int = 256
    conditional_ess: float = 0.999
    temperatures: int = 1000
    schedule: tuple[float, ...] = ()
    sweeps: int = 1
    leapfrog_steps: int = 8
    base_scale: float | None = None

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask not in (Ask.LOG_PARTITION, Ask.MARGINALS):
            return f"it estimates log partitions and marginals, and {query.ask} is asked"
        if query.factors:
            return "it estimates marginals of single sites only, not joint ones of factors"
        if min(self.particles - 1, self.temperatures, self.sweeps, self.leapfrog_steps) < 1:
            return "particles must be at least 2, and temperatures, sweeps and leapfrog_steps at least 1"
        if not 0.0 < self.conditional_ess < 1.0 or (self.base_scale is not None and not self.base_scale > 0.0):
            return "conditional_ess must be between 0 and 1, and base_scale positive"
        rising = all(a < b for a, b in zip(self.schedule, self.schedule[1:], strict=False))
        if self.schedule and (self.schedule[0] != 0.0 or self.schedule[-1] != 1.0 or not rising):
            return "schedule must rise from 0 to 1"
        return None if table_refusal(graph) is None else energy_refusal(graph)

    def weighted_draws(
        self, graph: FactorGraph, *, temperature: float, generator: Generator
    ) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        """Particles of a graph that is not refused, block name to (P, n) or (P, n, d); their weights (P, B), which sum to 1
        in each instance; and the estimate of the log partition (B,), -inf where no particle is allowed."""
        query, budget = Query(Ask.LOG_PARTITION, temperature=temperature), Budget()
        make = self._maker(graph, query, None, budget, generator)
        points, cut = self._points(graph, make, budget)
        path = make(self.particles)
        run = anneal(path, points, budget)
        return path.draws, normalised(run.log_weights), self._answer(query, path, run, cut).log_partition

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        budget, generator = budget or Budget(), default_generator(generator)
        if budget.deadline is not None:
            budget = budget.within(WORKING_SHARE * max(0.0, budget.remaining))
        make = self._maker(graph, query, init, budget, generator)
        points, cut = self._points(graph, make, budget)
        path = make(self.particles if budget.remaining >= PILOT_SECONDS / 2 else min(FEW, self.particles))
        return self._answer(query, path, anneal(path, points, budget), cut)

    def _answer(self, query: Query, path: AnnealedPath, run: Annealed, cut: Status) -> Marginals:
        """What the weights say; ``cut``: how the points of the path were come by."""
        found = log_mean(run.log_weights)
        start = path.log_start
        dead, bad = torch.isneginf(start), torch.zeros_like(start, dtype=torch.bool)
        if isinstance(path, EnergyPath):
            dead, bad = path.nowhere, path.bad
        status = torch.full_like(dead, int(max(run.status, cut)), dtype=torch.long)
        status = torch.where(torch.isneginf(found.value), status.clamp(min=int(Status.MAX_STEPS)), status)
        status = status.masked_fill(dead, int(Status.INFEASIBLE)).masked_fill(bad, int(Status.NONFINITE))
        stats: dict[str, Any] = {
            "log_partition_error": found.error.masked_fill(dead, 0.0).masked_fill(bad, torch.inf),
            "log_partition_interval": _ends(found, start, dead, bad),
            "effective_samples": found.effective,
            "temperatures": run.steps,
            "particles": run.log_weights.shape[0],
        }
        if isinstance(path, EnergyPath) and path.acceptance:
            stats["acceptance"] = torch.stack(path.acceptance).mean(0)
        value = torch.where(dead, -torch.inf, found.value + start).masked_fill(bad, torch.nan)
        extra: dict[str, Any] = {}
        if query.ask is Ask.MARGINALS:
            extra = path.expectations(normalised(run.log_weights))
        return Marginals(extra.pop("beliefs", {}), value, False, status, self.name, stats=stats, **extra)

    def _maker(
        self, graph: FactorGraph, query: Query, init: Assignment | None, budget: Budget, generator: Generator
    ) -> Callable[[int], AnnealedPath]:
        """Makes a path of so many fresh particles."""
        with torch.no_grad():
            layers = LayeredSweeps.of(graph)
        if layers is not None and len(layers.layers.sizes) > 1:
            base = LayerBase.of(layers, query.temperature, generator, budget)
            return lambda count: LayeredPath.begin(layers, base, query.temperature, count, self.sweeps, generator)
        if table_refusal(graph) is None:
            view = table_view(graph)
            problem = laid_out(view, query.temperature)
            return lambda count: TablePath.begin(view, problem, query.temperature, count, self.sweeps, generator)
        part = budget if budget.deadline is None else budget.within(0.2 * max(0.0, budget.remaining))
        setting = Setting.of(
            graph, query.temperature, self.sweeps, self.leapfrog_steps, self.base_scale, init, generator, part
        )
        return lambda count: EnergyPath.begin(setting, count)

    def _points(self, graph: FactorGraph, make: Callable[[int], AnnealedPath], budget: Budget) -> tuple[Tensor, Status]:
        """(K + 1, B) points of the path, and whether the budget of steps made them fewer than they should be."""
        if budget.remaining < PILOT_SECONDS:  # particles are weighed where they begin
            ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
            return ends[:, None].repeat(1, graph.num_instances), Status.DEADLINE
        limit = self.temperatures if budget.max_steps is None else min(self.temperatures, max(1, budget.max_steps))
        part = budget if budget.deadline is None else budget.within(0.25 * max(0.0, budget.remaining))
        placed = place_points(make(max(32, self.particles // 4)), self.conditional_ess, self.temperatures, limit, part)
        given = torch.tensor(self.schedule, dtype=torch.float64)[:, None].repeat(1, graph.num_instances)
        points = given if self.schedule else placed
        fewer = limit < points.shape[0] - 1
        return (thinned(points, limit) if fewer else points), (Status.MAX_STEPS if fewer else Status.CONVERGED)


def _ends(found: LogMean, start: Tensor, dead: Tensor, bad: Tensor) -> Tensor:
    """(2, B): the interval of the log partition; all numbers where nothing is known, nothing where infeasible."""
    ends = torch.stack([found.lower.masked_fill(bad, -torch.inf), found.upper.masked_fill(bad, torch.inf)])
    return torch.where(dead, -torch.inf, ends + start)

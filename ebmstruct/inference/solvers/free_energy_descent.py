"""Marginal MAP over continuous and few discrete outputs: descend on the free energy over latent blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.descent.loop import DescentOptions
from ebmstruct.inference.latent.configurations import configurations, fits, log_configurations
from ebmstruct.inference.latent.free_descent import Descended, descend_free_energy
from ebmstruct.inference.latent.free_energy import free_energy_refusal, is_convex
from ebmstruct.inference.latent.free_minimum import LOST, summed_refusal
from ebmstruct.inference.latent.starts import scattered_copies
from ebmstruct.inference.pacing import punctual
from ebmstruct.inference.result import Answer, Budget, Claim, Query, Result, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import constraint_labels, open_continuous
from ebmstruct.inference.solver import Solver

INTEGRATIONS = ("auto", "laplace", "importance_weighted")


@dataclass(frozen=True)
class FreeEnergyDescent(Solver):
    """Least free energy -T log sum exp(-E / T) over latent blocks, by L-BFGS from several starts.

    Latents: discrete ones are summed exactly, by elimination of the tables that are left where the outputs are given, or
    state by state where they are few; continuous ones are integrated exactly where the energy is quadratic in them,
    otherwise by Laplace's method about the mode (Tierney and Kadane 1986) and corrected by weighted draws with fixed noise
    (Geweke 1989; Burda, Grosse and Salakhutdinov 2016), whose standard error is in the stats. Outputs: continuous
    blocks descend, in bounds and on manifolds; joint states of discrete ones are listed. ``Result.integration`` says
    which: "exact", "laplace" or "importance_weighted". ``Result.assignment`` holds, beside the minimiser, the latent
    values of least energy given it. Where all outputs are discrete and the sum is exact, the answer is proven least.

    starts: how many descents, from scattered starts, start_distance apart in each coordinate.  samples: draws.
    integration: "auto" corrects Laplace's method, "laplace" does not.  max_copies: copies of the graph side by side.
    max_states: joint states of the discrete outputs, and of discrete latents that do not become tables.
    max_dimension: coordinates of continuous latents that hang together.
    Cost of a step: one free energy with its gradient, for all instances, starts and joint states.
    """

    name: ClassVar[str] = "free_energy_descent"

    starts: int = 8
    start_distance: float = 1.0
    samples: int = 256
    integration: str = "auto"
    max_copies: int = 512
    max_states: int = 4096
    max_dimension: int = 400

    def __post_init__(self) -> None:
        for field in ("starts", "samples", "max_copies"):
            if getattr(self, field) < 1:
                raise GraphError(f"FreeEnergyDescent: {field} must be at least 1; found {getattr(self, field)}")
        if self.integration not in INTEGRATIONS:
            raise GraphError(f"FreeEnergyDescent: integration {self.integration!r}; legal are {INTEGRATIONS}")

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        reason = summed_refusal(graph, query)
        if reason is not None:
            return reason
        labels = constraint_labels(graph)
        if labels:
            return f"factors {labels} are constraints, which a descent on the free energy does not keep"
        outputs = _outputs(graph, query)[0]
        if not fits(graph, outputs, self.max_states):
            size = log_configurations(graph, outputs) / 2.302585
            return f"its discrete outputs have about 1e{size:.0f} joint states, more than {self.max_states:,}"
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
        budget, generator = punctual(budget, 1.0), default_generator(generator)
        discrete, continuous = _outputs(graph, query)
        states = configurations(graph, discrete)
        starts = self.starts if continuous and not is_convex(graph, query.sum_out) else 1
        points = scattered_copies(graph, continuous, init, starts, self.start_distance, generator)
        each = max(1, self.max_copies // starts)
        best: Descended | None = None
        seed = int(torch.randint(0, 1 << 40, (), generator=generator))
        seen = 0
        for some in torch.arange(states.count).split(each):
            if best is not None and budget.expired:
                break
            given = {n: v.repeat(some.numel(), *[1] * (v.dim() - 1)).flatten(0, 1) for n, v in points.items()}
            given |= {n: v[some].repeat_interleave(starts, 0).flatten(0, 1) for n, v in states.values.items()}
            found = descend_free_energy(
                graph,
                query,
                given,
                continuous,
                some.numel() * starts,
                states.real[some].repeat_interleave(starts, 0),
                budget=budget,
                options=DescentOptions(),
                samples=0 if self.integration == "laplace" else self.samples,
                generator=Generator().manual_seed(seed),
            )
            best = found if best is None else best.better(graph, found)
            seen += some.numel()
        assert best is not None
        return self._result(graph, query, best, not continuous, seen == states.count)

    def _result(self, graph: FactorGraph, query: Query, best: Descended, listed: bool, whole: bool) -> Result:
        finished = best.done & whole
        status = torch.where(finished, int(Status.CONVERGED), int(Status.DEADLINE))
        status = torch.where(best.stepped_out & ~finished, int(Status.MAX_STEPS), status)
        status = torch.where(torch.isposinf(best.energy) & finished, int(Status.INFEASIBLE), status)
        lost = best.energy.isnan() | torch.isneginf(best.energy)
        proven = best.integration == "exact" and (listed or is_convex(graph, query.sum_out))
        bound = torch.full_like(best.energy, -torch.inf)
        if proven:
            bound = torch.where(finished & ~lost, best.energy, bound)
            status = torch.where((status == int(Status.CONVERGED)) & ~lost, int(Status.OPTIMAL), status)
        status = torch.where(lost, int(Status.NONFINITE), status)
        stats = {**best.stats, "latent": "minimiser given the others"}
        if bool(lost.any()):
            stats["reason"] = LOST
        return Result(
            Assignment(best.values),
            best.energy,
            bound,
            status,
            solver=self.name,
            witness=Claim("every joint state was summed" if listed else "a convex free energy") if proven else None,
            stats=stats,
            integration=best.integration,
        )


def _outputs(graph: FactorGraph, query: Query) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The discrete blocks, and the open continuous ones, that are not summed out."""
    discrete = tuple(n for n, v in graph.variables.items() if isinstance(v.domain, Discrete) and n not in query.sum_out)
    return discrete, tuple(v.name for v in open_continuous(graph) if v.name not in query.sum_out)

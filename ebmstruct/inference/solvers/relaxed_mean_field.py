"""Mean field by gradients: independent weights that minimise the relaxed energy less their entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph import (
    Assignment,
    ChainFactor,
    Continuous,
    CountFactor,
    Discrete,
    FactorGraph,
    GridFactor,
    TableFactor,
)
from ebmstruct.graph.factors import indicators
from ebmstruct.graph.relaxation import relaxation_refusal
from ebmstruct.inference.descent.simplex_descent import (
    Logs,
    RelaxedEnergy,
    Weights,
    leaning,
    normalised,
    spread_out,
)
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import starting_point
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True, eq=False)
class Fit:
    """Where the descent stands. logs: of the weights.  free: (B,) relaxed energy less temperature times entropy.

    share: (B,) how much of the way to the fixed point's right-hand side a step goes.  residual: (B,) how far the weights
    are from it.
    """

    logs: Logs
    gradient: Weights
    free: Tensor
    share: Tensor
    residual: Tensor


@dataclass(frozen=True)
class RelaxedMeanField(Solver):
    """Marginals of independent sites, w, that minimise E_relaxed(w) - temperature * H(w).

    At its minimum each site's weights are proportional to exp(-dE_relaxed/dw / temperature). Steps go towards that from
    nearly even weights, each instance with its own length, halved where the objective would rise, so that it falls
    (entropic mirror descent, Beck and Teboulle 2003). On tables this is naive mean field (Jordan et al. 1999), slower than
    ``MeanField``; it is there for energies of networks (``BlockFactor`` with ``relaxed=True``), for which nothing else
    gives marginals: with their entropy, the outputs of a structured prediction energy network are probabilities
    (Belanger and McCallum 2016, section 3). Local minima; ``log_partition`` is minus the objective over the temperature,
    a lower bound where the relaxed energy is the mean energy of independent draws (tables), and else no bound.

    tolerance: an instance is done where no weight differs more from its right-hand side.  max_iterations: steps.
    Cost of a step: a relaxed energy with its gradient.
    """

    name: ClassVar[str] = "relaxed_mean_field"

    tolerance: float = 1e-4
    max_iterations: int = 300

    def __post_init__(self) -> None:
        if not self.tolerance > 0 or self.max_iterations < 1:
            raise GraphError(
                f"relaxed_mean_field was asked for with tolerance {self.tolerance} and max_iterations "
                f"{self.max_iterations}; legal are a positive number, and at least 1"
            )

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.ask is not Ask.MARGINALS:
            return f"it gives marginals only, and {query.ask} is asked"
        if query.factors:
            return "it takes sites as independent, so it has no joint beliefs of factors"
        points = [v.name for v in graph.variables.values() if isinstance(v.domain, Continuous)]
        if points:
            return f"blocks {points} are continuous; it moves weights of discrete blocks only"
        for factor in graph.factors:
            tables = factor.values() if isinstance(factor, TableFactor | ChainFactor | GridFactor | CountFactor) else ()
            if any(v is not None and bool(torch.isinf(v).any()) for v in tables):
                return f"factor {factor.label!r} has infinite entries, on which there is no gradient"
        return relaxation_refusal(graph)

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        budget = budget or Budget()
        function = RelaxedEnergy.of(graph, starting_point(graph, init))
        logs = spread_out(function, 1, 0.0, default_generator(generator))
        if init is not None:
            logs = leaning(function, {n: v for n, v in init.items() if v.dim() == 1}, logs, 1)
        fit = _judged(function, logs, query.temperature, torch.full((graph.num_instances,), 0.5, dtype=torch.float64))
        limit = self.max_iterations if budget.max_steps is None else min(self.max_iterations, budget.max_steps)
        steps, stop = 0, Status.MAX_STEPS
        while bool((fit.residual > self.tolerance).any()) and steps < limit:
            if budget.expired:
                stop = Status.DEADLINE
                break
            fit = _step(function, fit, query.temperature, self.tolerance)
            steps += 1
        return self._answer(graph, function, fit, query.temperature, stop, steps)

    def _answer(
        self, graph: FactorGraph, function: RelaxedEnergy, fit: Fit, temperature: float, stop: Status, steps: int
    ) -> Marginals:
        beliefs = {}
        for name, block in graph.variables.items():
            if name in function.names:
                weights = fit.logs[function.names.index(name)].double().exp()
                beliefs[name] = weights / weights.sum(1, keepdim=True)
            else:
                assert isinstance(block.domain, Discrete)
                beliefs[name] = indicators(function.fixed[name], block, torch.float64)
        status = torch.where(fit.residual <= self.tolerance, int(Status.CONVERGED), int(stop))
        status = status.masked_fill(torch.isposinf(fit.free), int(Status.INFEASIBLE))
        status = status.masked_fill(fit.free.isnan() | torch.isneginf(fit.free), int(Status.NONFINITE))
        stats = {"residual": fit.residual, "steps": steps}
        value = (-fit.free / temperature).nan_to_num(-torch.inf)
        return Marginals(beliefs, value, False, status, self.name, stats=stats)


def _judged(function: RelaxedEnergy, logs: Logs, temperature: float, share: Tensor) -> Fit:
    """Where some weights stand: their objective, its gradient, and how far they are from stationary."""
    weights = tuple(x.exp() for x in logs)
    energy, gradient = function.with_gradient(weights)
    entropy = function.total([-torch.where(w > 0, w * x, 0.0).sum(1) for w, x in zip(weights, logs, strict=True)])
    worst = torch.zeros_like(energy)
    for w, g, legal, owner in zip(weights, gradient, function.legal, function.owners, strict=True):
        differs = (normalised(-g / temperature, legal).exp() - w).abs().amax(1).double()
        worst = worst.scatter_reduce(0, owner, differs.nan_to_num(0.0), "amax")
    return Fit(logs, gradient, energy - temperature * entropy, share, worst)


def _step(function: RelaxedEnergy, fit: Fit, temperature: float, tolerance: float) -> Fit:
    """A trial step of each instance that is not done, kept where the objective does not rise."""
    done = fit.residual <= tolerance
    shares = function.spread(torch.where(done, 0.0, fit.share))
    logs = tuple(
        normalised((x - a.to(x.dtype) * (x + g / temperature)).nan_to_num(0.0), legal)
        for x, a, g, legal in zip(fit.logs, shares, fit.gradient, function.legal, strict=True)
    )
    new = _judged(function, logs, temperature, fit.share)
    rounding = 8 * torch.finfo(function.dtype).eps * fit.free.abs().clamp(min=1.0)
    taken = (new.free <= fit.free + rounding) & ~done
    picks = function.spread(taken)
    return Fit(
        tuple(torch.where(p, y, x) for p, x, y in zip(picks, fit.logs, new.logs, strict=True)),
        tuple(torch.where(p, b, a) for p, a, b in zip(picks, fit.gradient, new.gradient, strict=True)),
        torch.where(taken, new.free, fit.free),
        torch.where(taken, (1.5 * fit.share).clamp(max=1.0), 0.5 * fit.share),
        torch.where(taken, new.residual, fit.residual),
    )

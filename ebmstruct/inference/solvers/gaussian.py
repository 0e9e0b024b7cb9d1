"""Exact answers where the energy is a quadratic function; Laplace's approximation where it is a sum of squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, Discrete, FactorGraph, Real, ResidualFactor
from ebmstruct.inference.least_squares.gaussian_gradient import differentiable_log_partition
from ebmstruct.inference.least_squares.loop import LeastSquares, Steps, residual_refusal
from ebmstruct.inference.least_squares.precision import Precision, precision
from ebmstruct.inference.result import Answer, Ask, Budget, Marginals, Query, Result, Samples, Status
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import open_continuous
from ebmstruct.inference.solver import Solver


@dataclass(frozen=True)
class Gaussian(Solver):
    """The Gaussian exp(-E / T) of affine residuals: minimum, marginals, log partition and samples, all exact.

    Every factor over an open continuous block must be a ``ResidualFactor`` with ``linear=True``, without a robust loss,
    over ``Real`` without bounds. Where residuals are not affine, marginals and log partition come from Laplace's
    approximation: the Gaussian that fits the curvature J^T J at the minimum that Levenberg-Marquardt finds from
    ``init``; ``exact`` is then False, and minima and samples are left to others.
    Cost: one factor of J^T J, n w^2 in its band or that of a sparse matrix, and as much for the covariances.
    """

    name: ClassVar[str] = "gaussian"

    def refuse(self, graph: FactorGraph, query: Query) -> str | None:
        if query.k != 1 or query.sum_out or query.factors:
            return (
                "it gives one minimum, marginals of sites and draws; no alternatives, sums over blocks or joint beliefs"
            )
        reason = residual_refusal(graph)
        if reason is not None:
            return reason
        if any(isinstance(b.domain, Real) and b.domain.bounded for b in open_continuous(graph)):
            return "a block has bounds, within which a Gaussian is cut off"
        if query.ask in (Ask.MINIMIZE, Ask.SAMPLE):
            return not_quadratic(graph)
        return None

    def solve(
        self,
        graph: FactorGraph,
        query: Query,
        *,
        init: Assignment | None = None,
        budget: Budget | None = None,
        generator: Generator | None = None,
    ) -> Answer:
        run = LeastSquares(graph, init, Steps(relative_decrease=1e-12))
        budget = budget or Budget()
        while not run.done.all() and not _over(budget, run.iterations):
            run.advance()
        if query.ask is Ask.MINIMIZE:
            return _result(run, budget)
        factor = _precision(run)
        if query.ask is Ask.SAMPLE:
            return _samples(run, factor, query, default_generator(generator))
        return _marginals(run, factor, query, not_quadratic(graph) is None, budget)

    def log_partition(self, graph: FactorGraph, temperature: float = 1.0) -> Tensor:
        """(B,) log of the integral of exp(-E / temperature), differentiable once in the factors' values.

        Only where the energy is quadratic. +inf in instances whose matrix is singular.
        """
        reason = self.refuse(graph, Query(Ask.LOG_PARTITION)) or not_quadratic(graph)
        if reason is not None:
            raise SolverRefusal(
                f"{self.name} cannot compute an exact log partition here: {reason}", {self.name: reason}
            )
        with torch.no_grad():
            run = LeastSquares(graph, None, Steps())
            while not run.done.all():
                run.advance()
            factor = _precision(run)
            value = torch.from_numpy(_log_partition(run, factor, temperature))
        return differentiable_log_partition(graph, run, factor, value, temperature)

    def cost(self, graph: FactorGraph, query: Query) -> None:
        return None


def not_quadratic(graph: FactorGraph) -> str | None:
    """Why an energy is no quadratic function of its open continuous blocks; None where it is one."""
    moving = {b.name for b in open_continuous(graph)}
    for block in open_continuous(graph):
        if not isinstance(block.domain, Real):
            return f"block {block.name!r} lives on {block.domain}, where no energy is quadratic"
    for factor in graph.factors:
        if isinstance(factor, ResidualFactor) and moving & set(factor.scope):
            if not factor.linear:
                return f"factor {factor.label!r} is not stated to be affine (linear=True); LevenbergMarquardt takes it"
            if factor.loss is not None:
                return f"factor {factor.label!r} has a robust loss; LevenbergMarquardt takes it"
    return None


def _over(budget: Budget, steps: int) -> bool:
    return budget.expired or (budget.max_steps is not None and steps >= budget.max_steps)


def _ending(run: LeastSquares, budget: Budget) -> Tensor:
    """(B,) statuses of the search for the minimum."""
    stop = Status.DEADLINE if budget.expired else Status.MAX_STEPS
    status = np.where(run.done, int(Status.CONVERGED), int(stop))
    return torch.from_numpy(np.where(np.isfinite(run.energy), status, int(Status.NONFINITE)))


def _result(run: LeastSquares, budget: Budget) -> Result:
    at = run.progress()
    return Result(
        Assignment(at.values),
        at.energy,
        at.lower_bound,
        _ending(run, budget),
        solver=Gaussian.name,
        witness=run.witness(),
        stats={"steps": run.iterations},
    )


def _precision(run: LeastSquares) -> Precision:
    """The factor of J^T J at the run's point."""
    run.linearise_here()
    return precision(run.system, np.isfinite(run.energy))


def _log_partition(run: LeastSquares, factor: Precision, temperature: float) -> np.ndarray:
    """(B,) -E / T + (N / 2) log(2 pi T) - log det(J^T J) / 2; +inf where it is singular, NaN where the energy is."""
    counts = np.diff(run.view.offsets)
    out = -(run.energy + run.constant) / temperature + 0.5 * counts * math.log(2 * math.pi * temperature)
    out = np.where(factor.proper, out - 0.5 * factor.log_determinant, np.inf)
    return np.where(np.isfinite(run.energy), out, np.nan)


def _marginals(run: LeastSquares, factor: Precision, query: Query, exact: bool, budget: Budget) -> Marginals:
    means = {n: v for n, v in run.progress().values.items() if not isinstance(run.graph.variables[n].domain, Discrete)}
    covariances = {}
    for name, position, x in zip(run.view.names, run.view.positions, run.point, strict=True):
        entries = factor.covariance(position[:, :, None], position[:, None, :])
        covariances[name] = torch.from_numpy(query.temperature * entries).to(x)
    status = _ending(run, budget)
    if exact:
        status = torch.where(status == int(Status.CONVERGED), int(Status.OPTIMAL), status)
    status = torch.where(torch.from_numpy(factor.proper), status, int(Status.NONFINITE))
    return Marginals(
        {},
        torch.from_numpy(_log_partition(run, factor, query.temperature)),
        exact,
        status,
        Gaussian.name,
        stats={"steps": run.iterations, "improper": np.nonzero(~factor.proper)[0].tolist()},
        means=means,
        covariances=covariances,
    )


def _samples(run: LeastSquares, factor: Precision, query: Query, generator: Generator) -> Samples:
    count = query.num_samples
    noise = torch.randn(count, run.view.size, dtype=torch.float64, generator=generator).numpy()
    steps = math.sqrt(query.temperature) * factor.coloured(noise)
    padded = np.concatenate([steps, np.zeros((count, 1))], 1)
    values = {n: v.expand(count, *v.shape) for n, v in run.values.items()}
    for name, position, x in zip(run.view.names, run.view.positions, run.point, strict=True):
        values[name] = x + torch.from_numpy(padded[:, position]).to(x)
    # E is quadratic: a draw x = mean + sqrt(T) H^-1/2 z lies T |z|^2 / 2 above the minimum
    squares = np.concatenate([np.zeros((count, 1)), np.square(noise).cumsum(1)], 1)[:, run.view.offsets]
    above = 0.5 * query.temperature * np.diff(squares, axis=1) * factor.proper
    energy = torch.from_numpy(run.energy + run.constant + above)
    proper = torch.from_numpy(factor.proper)
    status = torch.where(proper, int(Status.OPTIMAL), int(Status.NONFINITE))
    warnings: tuple[str, ...] = ()
    if not bool(proper.all()):
        bad = (~proper).nonzero()[:, 0].tolist()
        warnings = (f"instances {bad[:10]} have no proper distribution: their matrix is singular or not finite",)
    return Samples(values, energy, True, status, Gaussian.name, warnings=warnings)

"""Constrained problems against scipy's SLSQP, one by one from the same start: ``python -m benchmarks.constraints``.

Random sines of linear forms under curved equalities and inequalities, some of which contradict each other. For each size
are printed how many both solved, with energies that agree to 1e-4 or where ours is lower or higher (both are local
methods), how many only one or neither solved, how many ended INFEASIBLE, the worst violation of an answer, and the
CPU milliseconds of an instance: ours in one batch, SLSQP with gradients by finite differences.
"""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

import ebmstruct as es
from benchmarks.timing import table

INSTANCES = 30


def linear(x: Tensor, a: Tensor) -> Tensor:
    """(m, r) linear forms."""
    return (a @ x[:, :, None])[:, :, 0]


def pull(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(m, r) residuals with many local minima."""
    return 2 * linear(x, a).sin() + 0.5 * linear(x, a) - b


def surface(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(m, r) spheres."""
    return linear(x, a) + 0.3 * x.square().sum(1, keepdim=True) - b


def region(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(m, r) bowls with waves."""
    return linear(x, a).sin() + 0.2 * x.square().sum(1, keepdim=True) - b


def problem(dim: int, equal: int, unequal: int, seed: int) -> es.FactorGraph:
    """A batch of instances with one site each."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(INSTANCES, *shape, generator=generator, dtype=torch.float64)

    index = torch.arange(INSTANCES)[None]
    factors = [es.ResidualFactor(("x",), "pull", pull, index, (normal(dim + 2, dim), normal(dim + 2)))]
    surfaces, regions = (normal(equal, dim), normal(equal)), (normal(unequal, dim), normal(unequal).abs())
    if equal:
        factors.append(es.ResidualFactor(("x",), "surface", surface, index, surfaces, constraint="equality"))
    if unequal:
        factors.append(es.ResidualFactor(("x",), "region", region, index, regions, constraint="inequality"))
    return es.FactorGraph([es.Variables.of_lengths("x", es.Real(dim), [1] * INSTANCES)], factors)


def by_scipy(graph: es.FactorGraph, instance: int, dim: int) -> tuple[float, float]:
    """The energy and the violation that SLSQP ends with in one instance."""
    pull_, *constraints = (
        f.with_rows(torch.tensor([instance])) for f in graph.factors if isinstance(f, es.ResidualFactor)
    )

    def at(factor: es.ResidualFactor, x: np.ndarray) -> np.ndarray:
        found: np.ndarray = factor.function(torch.from_numpy(x)[None], *factor.parameters)[0].numpy()
        return found

    rows = [
        {"type": "eq", "fun": lambda x, f=f: at(f, x)}
        if f.constraint == "equality"
        else {"type": "ineq", "fun": lambda x, f=f: -at(f, x)}
        for f in constraints
    ]
    energy = lambda x: 0.5 * float(np.square(at(pull_, x)).sum())  # noqa: E731
    options = {"ftol": 1e-12, "maxiter": 500}
    found = scipy_minimize(energy, np.zeros(dim), method="SLSQP", constraints=rows, options=options)
    broken = [f.violations_of(torch.from_numpy(at(f, found.x))[None]) for f in constraints]
    return float(found.fun), max(float(b) for b in broken)


def row(dim: int, equal: int, unequal: int, seed: int) -> list[object]:
    """One line of the table."""
    graph = problem(dim, equal, unequal, seed)
    es.minimize(graph, es.AugmentedLagrangian(), budget=es.Budget(max_steps=20))
    begin = time.process_time()
    result = es.minimize(graph, es.AugmentedLagrangian())
    ours = time.process_time() - begin
    begin = time.process_time()
    theirs = [by_scipy(graph, b, dim) for b in range(INSTANCES)]
    scipy_seconds = time.process_time() - begin
    count: Counter[str] = Counter()
    for mine, (energy, violation) in zip(result.energy.tolist(), theirs, strict=True):
        solved, by_them = np.isfinite(mine), violation < 1e-5
        if solved and by_them:
            close = abs(mine - energy) < 1e-4 * max(1.0, abs(energy))
            count["same" if close else "lower" if mine < energy else "higher"] += 1
        else:
            count["ours only" if solved else "theirs only" if by_them else "neither"] += 1
    assert result.violation is not None
    worst = float(result.violation[result.energy.isfinite()].max())
    infeasible = sum(s is es.Status.INFEASIBLE for s in result.statuses)
    kinds = ("same", "lower", "higher", "ours only", "theirs only", "neither")
    name = f"{dim} unknowns, {equal} =, {unequal} <="
    each = [1e3 * seconds / INSTANCES for seconds in (ours, scipy_seconds)]
    return [name, *(count[k] for k in kinds), infeasible, worst, *each]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    sizes = [(3, 1, 2), (6, 2, 3), (10, 3, 5), (4, 0, 6), (5, 3, 0)]
    rows = [row(*size, seed) for seed, size in enumerate(sizes)]
    heads = [
        "problem",
        "same",
        "ours lower",
        "ours higher",
        "ours only",
        "SLSQP only",
        "neither",
        "INFEASIBLE",
        "worst",
    ]
    print(table([*heads, "ours ms", "SLSQP ms"], rows))


if __name__ == "__main__":
    main()

"""Linear-Gaussian chains (Kalman smoothers) of 100 to 100,000 states: CPU time against length, and the MAP against scipy.

    OMP_NUM_THREADS=1 python -m benchmarks.linear_chains [--states 100000]

A state has 4 numbers (position and velocity in the plane); positions are observed. The reference is
scipy.linalg.solveh_banded on normal equations written out by hand. CPU milliseconds, medians; the graph is built once
a length, and its structure is found in the first call, which is not counted.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

import ebmstruct as es
from benchmarks.timing import table

STEP, MOTION, SIGHT = 0.1, 20.0, 5.0
FORWARD = torch.eye(4, dtype=torch.float64) + STEP * torch.diag(torch.ones(2, dtype=torch.float64), 2)
SEE = torch.eye(4, dtype=torch.float64)[:2]


def chain(states: int) -> tuple[es.FactorGraph, Tensor]:
    """One chain with random observations (states, 2)."""
    generator = torch.Generator().manual_seed(states)
    seen = torch.randn(states, 2, dtype=torch.float64, generator=generator).cumsum(0)
    x = es.Variables.of_lengths("x", es.Real(4), [states])
    sites = torch.arange(states)
    factors = [
        es.ResidualFactor(
            ("x", "x"),
            "motion",
            lambda a, b: MOTION * (b - a @ FORWARD.T),
            torch.stack([sites[:-1], sites[1:]]),
            linear=True,
        ),
        es.ResidualFactor(("x",), "sight", lambda a, z: SIGHT * (a[:, :2] - z), sites[None], (seen,), linear=True),
        es.ResidualFactor(("x",), "first", lambda a: a, torch.zeros(1, 1, dtype=torch.long), linear=True),
    ]
    return es.FactorGraph([x], factors), seen


def reference(seen: Tensor) -> np.ndarray:
    """(states, 4) the MAP by scipy's banded Cholesky factor."""
    n = len(seen)
    f, h = FORWARD.numpy(), SEE.numpy()
    diagonal = np.tile(MOTION**2 * (np.eye(4) + f.T @ f) + SIGHT**2 * h.T @ h, (n, 1, 1))
    diagonal[0] += np.eye(4) - MOTION**2 * np.eye(4)
    diagonal[-1] -= MOTION**2 * f.T @ f
    below = np.tile(-(MOTION**2) * f, (n - 1, 1, 1))
    band = np.zeros((8, 4 * n))
    for j in range(4):
        for i in range(j, 4):
            band[i - j, j::4] = diagonal[:, i, j]
        for i in range(4):
            band[4 + i - j, j : 4 * (n - 1) : 4] = below[:, i, j]
    return solveh_banded(band, (SIGHT**2 * seen.numpy() @ h).ravel(), lower=True).reshape(n, 4)


def measure(states: int, solver: es.Solver) -> list[object]:
    """A row of the table."""
    graph, seen = chain(states)
    minimum, marginal, rounds = [], [], max(3, min(30, 30_000 // states))
    es.minimize(graph, solver)
    es.marginals(graph, es.Gaussian())
    for _ in range(rounds):
        begin = time.process_time()
        found = es.minimize(graph, solver)
        minimum.append(1e3 * (time.process_time() - begin))
        begin = time.process_time()
        es.marginals(graph, es.Gaussian())
        marginal.append(1e3 * (time.process_time() - begin))
    begin = time.process_time()
    expected = reference(seen)
    scipy_ms = 1e3 * (time.process_time() - begin)
    error = float(np.abs(found.assignment["x"].numpy() - expected).max() / max(1.0, np.abs(expected).max()))
    status = found.statuses[0].name
    return [states, float(np.median(minimum)), float(np.median(marginal)), scipy_ms, error, status]


def slope(rows: list[list[object]], column: int) -> float:
    """Of the logarithm of time against that of length, by least squares."""
    x, y = ([math.log(float(r[c])) for r in rows] for c in (0, column))  # type: ignore[arg-type]
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=100_000, help="the longest chain")
    longest = parser.parse_args().states
    torch.set_num_threads(1)
    lengths = [n for n in (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000) if n <= longest]
    rows = [measure(n, es.Gaussian()) for n in lengths]
    print(table(["states", "minimum, ms", "marginals, ms", "scipy's solution, ms", "error of the MAP", "status"], rows))
    print(f"\nlog-log slopes: minimum {slope(rows, 1):.2f}, marginals {slope(rows, 2):.2f}")
    upper = [r for r in rows if float(r[0]) >= 1_000]  # type: ignore[arg-type]
    if len(upper) > 1:
        print(f"from 1,000 states on: minimum {slope(upper, 1):.2f}, marginals {slope(upper, 2):.2f}")


if __name__ == "__main__":
    main()

"""Messages a second over a grid of pixels, one thread, float32: sequential min-sum sweeps against memory and peers.

A message is one directed edge's update of 16 numbers. For Potts tables on 256x256 pixels the sweep should reach 60 % of
the bandwidth of the STREAM triad measured in the same run, counting 208 bytes a message (what a pixel of a flooding
update reads and writes, over its four messages); on 64x64 at least 50 times the 0.29 million messages a second that
was measured for PGMax on a like machine; with any table at least 8 times plain torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.timing import table
from ebmstruct.inference.kernels.compiler import kernel
from ebmstruct.inference.kernels.grids import grid_messages_numba as kernels
from ebmstruct.inference.kernels.grids.grid_labels_numba import weigh
from ebmstruct.inference.views.grid_layout import table_kind

STATES = 16
BYTES = 208
PGMAX = 0.29e6
TRIAD = 8_000_000


@kernel
def triad(a, b, c):  # type: ignore[no-untyped-def]
    """a = b + 3 c (McCalpin 1995)."""
    for i in range(a.size):
        a[i] = b[i] + np.float32(3) * c[i]


def shortest(works: dict[str, Callable[[], Any]], rounds: int = 30) -> dict[str, float]:
    """The least seconds of each, all called in turn."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - begin) if _ else best[name]
    return best


def sweep(side: int, values: np.ndarray) -> Callable[[], None]:
    """One min-sum sweep (gamma 1) to the right and downwards over a random grid, with the table ``values``."""
    sites = side * side
    draw = np.random.default_rng(0)
    unary = draw.random(sites * STATES, dtype=np.float32)
    bands = np.array([[0, side, side, 0, side]])
    weights, strength = np.empty(2 * sites), np.empty(2 * sites, np.float32)
    gamma, labels = np.empty(sites, np.float32), np.zeros(sites, np.int64)
    kind = table_kind(values, STATES)
    ones = np.full(sites, 0.5)
    weigh(bands, ones, ones, kind.scale, weights, strength, gamma, False)
    messages, scratch = np.zeros(2 * sites * STATES, np.float32), np.full(3 * STATES, 1e18, np.float32)
    return lambda: kernels.forward(
        bands, unary, messages, strength, gamma, kind.kind, kind.reach, kind.shape, scratch, kind.rows, labels, False,
        (0,) * (STATES // 8),
    )  # fmt: skip


def flood(side: int, values: np.ndarray) -> Callable[[], None]:
    """The same number of messages twice over, in both directions of every edge, in plain torch, all at once."""
    costs = torch.from_numpy(0.5 * values.T.copy()).float()
    unary = torch.from_numpy(np.random.default_rng(0).random((side, side, STATES), dtype=np.float32))
    inbox = torch.zeros(4, side, side, STATES)
    ways = [
        (0, (slice(None), slice(None, -1)), (slice(None), slice(1, None)), 1),
        (1, (slice(None), slice(1, None)), (slice(None), slice(None, -1)), 0),
        (2, (slice(None, -1), slice(None)), (slice(1, None), slice(None)), 3),
        (3, (slice(1, None), slice(None)), (slice(None, -1), slice(None)), 2),
    ]

    def step() -> None:
        nonlocal inbox
        belief = unary + inbox.sum(0)
        sent = torch.zeros_like(inbox)
        for way, source, target, back in ways:
            h = (belief - inbox[back])[source]
            out = (h.unsqueeze(-2) + costs).amin(-1)
            sent[(way, *target)] = out - out.amin(-1, keepdim=True)
        inbox = sent

    return step


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    gaps = np.abs(np.subtract.outer(np.arange(STATES), np.arange(STATES))).astype(float)
    tables = {
        "Potts": 1.0 * (gaps > 0),
        "truncated linear": np.minimum(gaps, 2.0),
        "truncated quadratic": np.minimum(gaps**2, 9.0),
        "dense": np.random.default_rng(1).random((STATES, STATES)),
    }
    a, b, c = (np.ones(TRIAD, np.float32) for _ in range(3))
    rows: list[list[Any]] = []
    for side in (256, 64):
        sent = 2 * side * (side - 1)
        works: dict[str, Callable[[], Any]] = {"triad": lambda: triad(a, b, c)}
        works |= {name: sweep(side, values) for name, values in tables.items()}
        found = shortest(works)
        found |= shortest({"torch dense": flood(side, tables["dense"])}, rounds=2)
        bandwidth = 12 * TRIAD / found["triad"]
        print(f"{side}x{side}: triad {bandwidth / 1e9:.1f} GB/s")
        for name in [*tables, "torch dense"]:
            rate = (2 if name == "torch dense" else 1) * sent / found[name]
            over = rate * BYTES / bandwidth
            rows.append([side, name, rate / 1e6, over, rate / PGMAX, rate * found["torch dense"] / (2 * sent)])
    columns = ["side", "table", "M messages/s", "x triad at 208 B", "x PGMax (0.29 M/s)", "x torch dense"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()

"""Dual ascent against alpha-expansion (bkgco) on Potts grids of photographs: energies and gaps in the peer's own time.

usage: EBMSTRUCT_DATA=FOLDER python -m benchmarks.multi_label [--rounds 3]

FOLDER/vision/mrf holds the grids (npz). Both start from arrays in memory, on one thread: the peer builds its graph and
expands until nothing changes; ours runs ``minimize`` with a deadline of 1, 1.5 and 2.5 times the peer's time, which
counts from before the graph is built. Kernels are compiled before. Without bkgco its columns stay empty, and the
deadlines are a quarter of a second times 1, 1.5 and 2.5.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import ebmstruct as es
from benchmarks.timing import table
from ebmstruct.graph import GridFactor, potts_table
from ebmstruct.inference.solvers.dual_ascent import DualAscent

FACTORS = (1.0, 1.5, 2.5)


def graph_of(data: dict[str, np.ndarray]) -> es.FactorGraph:
    """The grid as a factor graph in float32, which holds its whole numbers exactly."""
    height, width, states = data["unary"].shape
    right, down = np.zeros((2, height, width), np.float32)
    right[:, :-1], down[:-1] = data["wh"], data["wv"]
    block = es.Variables.of_lengths("y", es.Discrete(states), [height * width])
    unary = torch.from_numpy(data["unary"].reshape(-1, states).astype(np.float32))
    flat = [torch.from_numpy(w.reshape(-1)) for w in (right, down)]
    grid = GridFactor(("y",), "grid", potts_table(states), *flat, torch.tensor([width]))
    return es.FactorGraph([block], [es.TableFactor(("y",), "unary", unary), grid])


def expansion(data: dict[str, np.ndarray]) -> tuple[float, float]:
    """Seconds and energy of bkgco's alpha-expansion; infinite without it."""
    try:
        from bkgco import GCO
    except ImportError:
        return float("inf"), float("inf")
    height, width, states = data["unary"].shape
    begin = time.perf_counter()
    site = np.arange(height * width, dtype=np.int32).reshape(height, width)
    first = np.concatenate([site[:, :-1].ravel(), site[:-1].ravel()])
    second = np.concatenate([site[:, 1:].ravel(), site[1:].ravel()])
    weights = np.concatenate([data["wh"].ravel(), data["wv"].ravel()]).astype(np.int32)
    with GCO(height * width, states) as solver:
        solver.set_data_cost(np.ascontiguousarray(data["unary"].reshape(-1, states), np.int32))
        solver.set_smooth_cost(1 - np.eye(states, dtype=np.int32))
        solver.set_neighbors(np.stack([first, second], 1), weights)
        solver.expansion()
        labels = np.asarray(solver.get_labeling())
    seconds = time.perf_counter() - begin
    return seconds, float(graph_of(data).energy(es.Assignment({"y": torch.from_numpy(labels.astype(np.int64))})))


def measure(path: Path, rounds: int) -> list[Any]:
    """One row: the peer, and ours at each deadline as ``energy - peer's / energy - stored / gap % / seconds``."""
    data = dict(np.load(path))
    es.minimize(graph_of(data), DualAscent(max_iterations=4))
    peer = min(expansion(data) for _ in range(rounds))
    unit = peer[0] if np.isfinite(peer[0]) else 0.25
    cells = []
    for factor in FACTORS:
        best = None
        for _ in range(rounds):
            begin = time.perf_counter()
            budget = es.Budget.after(factor * unit)
            result = es.minimize(graph_of(data), DualAscent(), budget=budget)
            seconds = time.perf_counter() - begin
            if best is None or seconds < best[1]:
                best = (result, seconds)
        assert best is not None
        energy, gap = float(best[0].energy), float(best[0].gap)
        over = f"{energy - peer[1]:.0f}" if np.isfinite(peer[1]) else "-"
        cells.append(f"{over} / {energy - float(data['energy']):.0f} / {100 * gap / energy:.4f} / {best[1]:.3f}")
    return [path.stem, peer[0], *cells]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    root = os.environ.get("EBMSTRUCT_DATA")
    folder = Path(root or "") / "vision" / "mrf"
    files = [p for pattern in ("col8_*.npz", "col21_*.npz", "stereo16_*.npz") for p in sorted(folder.glob(pattern))]
    if root is None or not files:
        print("set EBMSTRUCT_DATA to the folder that holds vision/mrf/*.npz")
        return
    print("each cell: energy - peer's / energy - stored / gap % / seconds\n")
    print(table(["grid", "bkgco s", *(f"ours, {f}x" for f in FACTORS)], [measure(f, rounds) for f in files]))


if __name__ == "__main__":
    main()

"""Least cuts and moves on grids from photographs, against PyMaxflow and bkgco.

usage: python -m benchmarks.graph_cut [--seconds 2] [NAME ...]

Needs the folder that EBMSTRUCT_DATA names (vision/mrf/*.npz). One thread; ours and the peer take turns in one process, and
figures are the least CPU time of all turns. Peers that are not installed are left out.

Binary grids: the solver (arrays out of the graph's tensors, flow, labelling, bound and witness), ``minimize`` (refusal
and certificate besides), and PyMaxflow from the stored arrays to the labelling. Pairs written out: from edges and
capacities in memory to the sides of the nodes, on both sides. Many labels: expansion against bkgco's.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.timing import table
from ebmstruct.graph import Discrete, FactorGraph, GridFactor, TableFactor, Variables, potts_table
from ebmstruct.inference import minimize
from ebmstruct.inference.kernels.flows.maxflow import minimum_cut
from ebmstruct.inference.result import Query, Result
from ebmstruct.inference.solvers.graph_cut import GraphCut
from ebmstruct.inference.solvers.move_making import AlphaExpansion

Stored = tuple[np.ndarray, np.ndarray, np.ndarray]
Work = Callable[[], Any]


def load(path: Path) -> tuple[Stored, int]:
    """Costs (H, W, K), weights to the right and down as integers, and the best energy known."""
    stored = np.load(path)
    parts = tuple(stored[name].astype(np.int64) for name in ("unary", "wh", "wv"))
    return parts, int(stored["energy"])  # type: ignore[return-value]


def graph_of(stored: Stored) -> FactorGraph:
    """The grid as a factor graph in float32."""
    unary, across, along = stored
    height, width, states = unary.shape
    right, down = np.zeros((2, height, width), np.float32)
    right[:, :-1], down[:-1] = across, along
    block = Variables.of_lengths("y", Discrete(states), [height * width])
    weights = torch.from_numpy(right.ravel()), torch.from_numpy(down.ravel())
    grid = GridFactor(("y",), "grid", potts_table(states), *weights, torch.tensor([width]))
    costs = torch.from_numpy(unary.reshape(-1, states).astype(np.float32))
    return FactorGraph([block], [TableFactor(("y",), "unary", costs), grid])


def energy_of(stored: Stored, labels: np.ndarray) -> int:
    """The energy of a labelling (H, W), in integers."""
    unary, across, along = stored
    own = np.take_along_axis(unary, labels[..., None].astype(np.int64), 2).sum()
    return int(own + across[labels[:, 1:] != labels[:, :-1]].sum() + along[labels[1:] != labels[:-1]].sum())


def edges_of(stored: Stored) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of a binary grid: first and second sites, weights, and the excess of each site."""
    unary, across, along = stored
    index = np.arange(unary[..., 0].size).reshape(unary.shape[:2])
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    return first, second, np.concatenate([across.ravel(), along.ravel()]), (unary[..., 1] - unary[..., 0]).ravel()


def pymaxflow(
    first: np.ndarray, second: np.ndarray, weights: np.ndarray, source: np.ndarray, sink: np.ndarray
) -> np.ndarray:
    """The sides of all nodes, by PyMaxflow."""
    import maxflow

    nodes = np.arange(source.size)
    graph = maxflow.Graph[int](source.size, first.size)
    graph.add_nodes(source.size)
    graph.add_edges(first, second, weights, weights)
    graph.add_grid_tedges(nodes, source, sink)
    graph.maxflow()
    return graph.get_grid_segments(nodes)


def pymaxflow_grid(stored: Stored) -> np.ndarray:
    """The labelling of a binary grid, by PyMaxflow."""
    unary, _, _ = stored
    first, second, weights, _ = edges_of(stored)
    sides = pymaxflow(first, second, weights, unary[..., 1].ravel(), unary[..., 0].ravel())
    return sides.reshape(unary.shape[:2])


def bkgco_grid(stored: Stored) -> np.ndarray:
    """A labelling by expansion moves, by bkgco."""
    from bkgco import GCO

    unary, _, _ = stored
    height, width, states = unary.shape
    first, second, weights, _ = edges_of(stored)
    with GCO(height * width, states) as moves:
        moves.set_data_cost(np.ascontiguousarray(unary.reshape(-1, states), np.int32))
        moves.set_smooth_cost(1 - np.eye(states, dtype=np.int32))
        moves.set_neighbors(np.stack([first, second], 1).astype(np.int32), weights.astype(np.int32))
        moves.expansion()
        return np.asarray(moves.get_labeling()).reshape(height, width)


def least(work: Mapping[str, Work], seconds: float) -> dict[str, float]:
    """The least CPU milliseconds of each piece of work, all in turn, at least three turns."""
    for piece in work.values():
        piece()
    best = dict.fromkeys(work, float("inf"))
    end, turns = time.monotonic() + seconds, 0
    while turns < 3 or time.monotonic() < end:
        turns += 1
        for name, piece in work.items():
            start = time.process_time_ns()
            piece()
            best[name] = min(best[name], (time.process_time_ns() - start) / 1e6)
    return best


def has(name: str) -> bool:
    """Whether a peer can be imported; says so where it cannot."""
    try:
        __import__(name)
    except ImportError:
        print(f"{name} is not installed and left out", file=sys.stderr)
        return False
    return True


def binary_row(name: str, stored: Stored, best: int, peer: bool, seconds: float) -> list[Any]:
    """Least cuts of one binary grid, as a grid and with its pairs written out."""
    graph, solver = graph_of(stored), GraphCut()
    first, second, weights, excess = edges_of(stored)
    real, both = weights.astype(np.float64), excess.astype(np.float64)
    work: dict[str, Work] = {
        "solver": lambda: solver.solve(graph, Query()),
        "minimize": lambda: minimize(graph, solver),
        "pairs": lambda: minimum_cut(first, second, real, real, both),
    }
    if peer:
        source, sink = np.maximum(excess, 0), np.maximum(-excess, 0)
        work["peer"] = lambda: pymaxflow_grid(stored)
        work["peer pairs"] = lambda: pymaxflow(first, second, weights, source, sink)
    times = least(work, seconds)
    found = minimize(graph, solver)
    assert energy_of(stored, found.assignment["y"].numpy().reshape(stored[0].shape[:2])) == best, name
    ratios = [
        times[a] / times[b] if peer else ""
        for a, b in (("solver", "peer"), ("minimize", "peer"), ("pairs", "peer pairs"))
    ]
    return [name, times["solver"], times["minimize"], times.get("peer", ""), *ratios]


def label_row(name: str, stored: Stored, best: int, peer: bool, seconds: float) -> list[Any]:
    """Expansion on one grid of many labels."""
    graph, solver = graph_of(stored), AlphaExpansion()
    kept: dict[str, Any] = {}
    work: dict[str, Work] = {"ours": lambda: kept.update(ours=solver.solve(graph, Query()))}
    if peer:
        work["peer"] = lambda: kept.update(peer=bkgco_grid(stored))
    times = least(work, seconds)
    assert isinstance(kept["ours"], Result)
    above = 100 * (float(kept["ours"].energy) / best - 1)
    if not peer:
        return [name, times["ours"], "", "", above, ""]
    theirs = 100 * (energy_of(stored, kept["peer"]) / best - 1)
    return [name, times["ours"], times["peer"], times["ours"] / times["peer"], above, theirs]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of the grids' names; all by default")
    parser.add_argument("--seconds", type=float, default=2.0, help="wall seconds of turns for each grid")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "EBMSTRUCT_DATA" not in os.environ:
        sys.exit("EBMSTRUCT_DATA must name the folder that holds vision/mrf")
    paths = sorted((Path(os.environ["EBMSTRUCT_DATA"]) / "vision/mrf").glob("*.npz"))
    paths = [p for p in paths if not arguments.names or any(part in p.stem for part in arguments.names)]
    two, many = has("maxflow"), has("bkgco")
    binary = [p for p in paths if p.stem.startswith("bin_")]
    rows = [binary_row(p.stem, *load(p), two, arguments.seconds) for p in binary]
    columns = ["grid", "solver, ms", "minimize, ms", "PyMaxflow, ms", "solver ratio", "minimize ratio", "pairs ratio"]
    print(table(columns, rows) + "\n")
    rows = [label_row(p.stem, *load(p), many, arguments.seconds) for p in paths if p not in binary]
    print(table(["grid", "expansion, ms", "bkgco, ms", "ratio", "% above best known", "bkgco's"], rows))


if __name__ == "__main__":
    main()

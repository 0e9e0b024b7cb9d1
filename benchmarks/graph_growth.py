"""How least squares grows with the graph: pose graphs and bundle adjustment of 100 to 100,000 unknown poses or points.

    OMP_NUM_THREADS=1 python -m benchmarks.graph_growth [--largest 100000]

Pose graphs: SE(2) walks with odometry and a loop closed over ten poses at every fifth. Bundle adjustment: cameras in SE(3)
along a line, each seeing the points near it, four points a camera. CPU milliseconds a step of LevenbergMarquardt over ten
steps at most (long walks bend so easily that they need more); the call that finds the structure is told apart.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import ebmstruct as es
from benchmarks.timing import table
from ebmstruct.graph.manifolds import quaternion_conjugate, rotate

FLOAT = torch.float64
STEPS = 10
Problem = tuple[es.FactorGraph, es.Assignment]


def between(a: Tensor, b: Tensor, measured: Tensor) -> Tensor:
    """(m, 3) how pose b looks from pose a in the plane, less what was measured."""
    c, s = a[:, 2:3], a[:, 3:4]
    move = b[:, :2] - a[:, :2]
    there = torch.cat([c * move[:, :1] + s * move[:, 1:], c * move[:, 1:] - s * move[:, :1]], 1)
    angle = torch.atan2(a[:, 2] * b[:, 3] - a[:, 3] * b[:, 2], (a[:, 2:] * b[:, 2:]).sum(1))
    return torch.cat([there, angle[:, None]], 1) - measured


def sight(camera: Tensor, point: Tensor, pixel: Tensor) -> Tensor:
    """(m, 2) where a camera sees a point, less the pixel."""
    seen = rotate(quaternion_conjugate(camera[:, 3:]), point - camera[:, :3])
    return seen[:, :2] / seen[:, 2:] - pixel


def poses(count: int) -> Problem:
    """A noisy walk with loops, started from its truth with noise."""
    g = torch.Generator().manual_seed(count)
    angle = (0.3 * torch.randn(count, dtype=FLOAT, generator=g)).cumsum(0)
    place = torch.stack([angle.cos(), angle.sin()], 1).cumsum(0)
    truth = torch.cat([place, angle.cos()[:, None], angle.sin()[:, None]], 1)
    sites = torch.arange(count)
    loops = sites[10::5]
    index = torch.cat([torch.stack([sites[:-1], sites[1:]]), torch.stack([loops - 10, loops])], 1)
    zero = torch.zeros(1, 3, dtype=FLOAT)
    measured = between(truth[index[0]], truth[index[1]], zero)
    measured = measured + 0.02 * torch.randn(measured.shape, dtype=FLOAT, generator=g)
    x = es.Variables.of_lengths("pose", es.SE2(), [count])
    graph = es.FactorGraph([x], [es.ResidualFactor(("pose", "pose"), "between", between, index, (measured,))])
    known = torch.zeros(count, dtype=torch.bool)
    known[0] = True
    start = es.SE2().retract(truth, 0.05 * torch.randn(count, 3, dtype=FLOAT, generator=g))
    return graph.condition(es.Assignment({"pose": truth}, {"pose": known})), es.Assignment({"pose": start})


def bundle(points: int) -> Problem:
    """Points along a line and cameras that each see the 24 points nearest to them; two cameras are held."""
    g, cameras = torch.Generator().manual_seed(points), points // 4
    where = torch.randn(points, 3, dtype=FLOAT, generator=g)
    where[:, 0] += torch.arange(points) / 4
    where[:, 2] += 8.0
    eyes = es.SE3().start(cameras, FLOAT)
    eyes[:, 0] = torch.arange(cameras)
    seen = (4 * torch.arange(cameras)[:, None] + torch.arange(-10, 14)).clamp(0, points - 1)
    index = torch.stack([torch.arange(cameras).repeat_interleave(24), seen.reshape(-1)]).unique(dim=1)
    pixels = sight(eyes[index[0]], where[index[1]], torch.zeros(1, 2, dtype=FLOAT))
    pixels = pixels + 1e-3 * torch.randn(pixels.shape, dtype=FLOAT, generator=g)
    blocks = [
        es.Variables.of_lengths("camera", es.SE3(), [cameras]),
        es.Variables.of_lengths("point", es.Real(3), [points]),
    ]
    graph = es.FactorGraph(blocks, [es.ResidualFactor(("camera", "point"), "sight", sight, index, (pixels,))])
    known = torch.zeros(cameras, dtype=torch.bool)
    known[:2] = True
    start = {
        "camera": es.SE3().retract(eyes, 0.01 * torch.randn(cameras, 6, dtype=FLOAT, generator=g)),
        "point": where + 0.02 * torch.randn(points, 3, dtype=FLOAT, generator=g),
    }
    return graph.condition(es.Assignment({"camera": eyes}, {"camera": known})), es.Assignment(start)


def measure(make: Callable[[int], Problem], count: int) -> list[object]:
    """A row of the table."""
    graph, init = make(count)
    solver = es.LevenbergMarquardt()
    begin = time.process_time()
    es.minimize(graph, solver, init=init, budget=es.Budget(max_steps=1))
    first = 1e3 * (time.process_time() - begin)
    begin = time.process_time()
    found = es.minimize(graph, solver, init=init, budget=es.Budget(max_steps=STEPS))
    spent = 1e3 * (time.process_time() - begin)
    steps = int(found.stats["steps"])
    return [count, first, steps, spent / steps, float(found.energy)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=100_000)
    largest = parser.parse_args().largest
    torch.set_num_threads(1)
    sizes = [n for n in (100, 1_000, 10_000, 100_000) if n <= largest]
    for name, make in (("poses", poses), ("points", bundle)):
        make_small = make(100)
        es.minimize(make_small[0], es.LevenbergMarquardt(), init=make_small[1])
        rows = [measure(make, n) for n in sizes]
        print(table([name, "first step, ms", "steps", "ms a step", "energy"], rows))
        x, y = ([math.log(float(r[c])) for r in rows] for c in (0, 3))  # type: ignore[arg-type]
        print(f"log-log slope {float(np.polyfit(x, y, 1)[0]):.2f}\n")


if __name__ == "__main__":
    main()

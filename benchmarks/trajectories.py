"""Trajectory optimisation through the core alone, beside block Levenberg-Marquardt written in plain torch.

    OMP_NUM_THREADS=1 python -m benchmarks.trajectories [point2d] [panda] [--problems 50]

Problems: ``robot/problems`` of EBMSTRUCT_DATA. E = 0.5 |r|^2 with dt = 1 / (N - 1) and rows sqrt(w_acc dt) * second
difference / dt^2 (end points stand still), sqrt(w_obs dt) * max(0, eps - clearance) for each free waypoint. Both solve
the same energies from the straight line, in one process, in turn; CPU milliseconds.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ebmstruct as es
from benchmarks.timing import table

WAYPOINTS, W_ACC, W_OBS, EPS = 64, 0.02, 1e4, 0.05
DT = 1 / (WAYPOINTS - 1)
ACC, OBS = math.sqrt(W_ACC * DT) / DT**2, math.sqrt(W_OBS * DT)
Arrays = dict[str, Tensor]


def problems() -> Arrays:
    """All point2d problems."""
    path = Path(os.environ["EBMSTRUCT_DATA"]) / "robot/problems/point2d.npz"
    with np.load(path) as file:
        return {k: torch.from_numpy(file[k]) for k in ("start", "goal", "w_circ", "w_box", "best_energy")}


def line(start: Tensor, goal: Tensor) -> Tensor:
    """(B, N, d): from start to goal on the straight line, slowly at both ends."""
    t = torch.linspace(0, 1, WAYPOINTS, dtype=torch.float64)
    t = (3 * t**2 - 2 * t**3)[:, None]
    return start[:, None] + t * (goal - start)[:, None]


def distance(x: Tensor, circles: Tensor, boxes: Tensor) -> Tensor:
    """(...,) signed distance of points (..., 2) to circles (..., K, 3) and boxes (..., L, 4)."""
    to_circle = ((x[..., None, :] - circles[..., :2]).square().sum(-1) + 1e-12).sqrt() - circles[..., 2]
    q = (x[..., None, :] - boxes[..., :2]).abs() - boxes[..., 2:]
    outside = (q.clamp(min=0).square().sum(-1) + 1e-12).sqrt()
    to_box = outside + q.amax(-1).clamp(max=0)
    return torch.minimum(to_circle.amin(-1), to_box.amin(-1))


def acceleration(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """(m, d) second differences."""
    return ACC * (a - 2 * b + c)


def rest(a: Tensor, b: Tensor) -> Tensor:
    """(m, d) the second difference at an end, the end point standing still."""
    return ACC * (b - a)


def nearness(x: Tensor, circles: Tensor, boxes: Tensor) -> Tensor:
    """(m, 1) by how much the clearance is too small."""
    return OBS * (EPS - distance(x, circles, boxes)).clamp(min=0)[:, None]


def graph(data: Arrays, which: Tensor) -> es.FactorGraph:
    """The problems numbered ``which`` as one batch of graphs."""
    count, n = len(which), WAYPOINTS
    site = torch.arange(count * n).view(count, n)
    free = site[:, 1:-1].reshape(-1)
    owner = which.repeat_interleave(n - 2)
    x = es.Variables.of_lengths("x", es.Real(2), [n] * count)
    ends = torch.stack([site[:, [0, -1]].reshape(-1), site[:, [1, -2]].reshape(-1)])
    worlds = (data["w_circ"][owner], data["w_box"][owner])
    factors = [
        es.ResidualFactor(
            ("x",) * 3, "acceleration", acceleration, torch.stack([free - 1, free, free + 1]), linear=True
        ),
        es.ResidualFactor(("x",) * 2, "rest", rest, ends, linear=True),
        es.ResidualFactor(("x",), "obstacles", nearness, free[None], worlds),
    ]
    known = torch.zeros(count, n, dtype=torch.bool)
    known[:, [0, -1]] = True
    fixed = line(data["start"][which], data["goal"][which]).reshape(-1, 2)
    return es.FactorGraph([x], factors).condition(es.Assignment({"x": fixed}, {"x": known.reshape(-1)}))


def energy(x: Tensor, circles: Tensor, boxes: Tensor) -> Tensor:
    """(B,) energies of trajectories (B, N, 2)."""
    y = torch.cat([x[:, :1], x, x[:, -1:]], 1)
    smooth = ACC * (y[:, :-2] - 2 * y[:, 1:-1] + y[:, 2:])
    near = OBS * (EPS - distance(x[:, 1:-1], circles[:, None], boxes[:, None])).clamp(min=0)
    return 0.5 * (smooth.square().sum((1, 2)) + near.square().sum(1))


def block_lm(x: Tensor, circles: Tensor, boxes: Tensor, steps: int = 60, tolerance: float = 1e-5) -> Tensor:
    """The peer: batched Levenberg-Marquardt, Jacobians by waypoint through forward derivatives, dense Cholesky."""
    second = torch.zeros(WAYPOINTS, WAYPOINTS, dtype=torch.float64)
    for i in range(WAYPOINTS):
        second[i, i] -= 2
        second[i, max(i - 1, 0)] += 1
        second[i, min(i + 1, WAYPOINTS - 1)] += 1
    square = (ACC * second).T @ (ACC * second)
    inner, n = square[1:-1], WAYPOINTS - 2
    base = torch.einsum("ij,ab->iajb", inner[:, 1:-1], torch.eye(2, dtype=torch.float64))
    out, active = x.clone(), torch.arange(len(x))
    now, damping, at = energy(x, circles, boxes), torch.full((len(x),), 1e-2, dtype=torch.float64), torch.arange(n)
    for _ in range(steps):
        near = lambda z: OBS * (EPS - distance(z, circles[:, None], boxes[:, None])).clamp(min=0)  # noqa: B023, E731
        parts = []
        for d in range(2):
            e = torch.zeros_like(x[:, 1:-1])
            e[..., d] = 1
            r, part = torch.func.jvp(near, (x[:, 1:-1],), (e,))
            parts.append(part)
        jacobian = torch.stack(parts, -1)
        gradient = inner @ x + jacobian * r[..., None]
        h = base.repeat(len(x), 1, 1, 1, 1)
        h[:, at, :, at, :] += (jacobian[..., :, None] * jacobian[..., None, :]).transpose(0, 1)
        h = h.reshape(len(x), 2 * n, 2 * n)
        torch.diagonal(h, dim1=-2, dim2=-1).mul_(1 + damping[:, None])
        step = torch.cholesky_solve(gradient.reshape(len(x), -1, 1), torch.linalg.cholesky(h)).reshape(-1, n, 2)
        new = x.clone()
        new[:, 1:-1] -= step
        then = energy(new, circles, boxes)
        better = then < now
        stop = (better & (now - then < tolerance * now)) | (damping > 1e6)
        x, now = torch.where(better[:, None, None], new, x), torch.where(better, then, now)
        damping = torch.where(better, 0.2 * damping, 8 * damping).clamp(1e-8, 1e8)
        out[active] = x
        if bool(stop.all()):
            break
        kept = ~stop
        active, x, now, damping, circles, boxes = (v[kept] for v in (active, x, now, damping, circles, boxes))
    return out


def measure(data: Arrays, count: int, solver: es.Solver) -> list[list[object]]:
    """Rows of the table: one problem at a time, both ways in turn."""
    times: dict[str, list[float]] = {"core": [], "block LM": []}
    ratios: dict[str, list[float]] = {"core": [], "block LM": []}
    for i in range(count):
        which = torch.tensor([i])
        start = line(data["start"][which], data["goal"][which])
        world = (data["w_circ"][which], data["w_box"][which])
        problem, init = graph(data, which), es.Assignment({"x": start.reshape(-1, 2)})
        for name in times:
            begin = time.process_time()
            if name == "core":
                found = es.minimize(problem, solver, init=init).assignment["x"].reshape(1, -1, 2)
            else:
                found = block_lm(start, *world)
            if i:
                times[name].append(1e3 * (time.process_time() - begin))
            ratios[name].append(float(energy(found, *world) / data["best_energy"][i]))
    rows: list[list[object]] = []
    for name in times:
        within = sum(r <= 1.01 for r in ratios[name]) / count
        rows.append([name, statistics.median(times[name]), max(times[name]), statistics.median(ratios[name]), within])
    return rows


def batch(data: Arrays, size: int, solver: es.Solver) -> list[list[object]]:
    """Rows of the table: many problems in one call, building the graph included."""
    which = torch.arange(size) % len(data["start"])
    start = line(data["start"][which], data["goal"][which])
    rows: list[list[object]] = []
    for name in ("core", "block LM"):
        begin = time.process_time()
        if name == "core":
            init = es.Assignment({"x": start.reshape(-1, 2)})
            found = es.minimize(graph(data, which), solver, init=init).assignment["x"].reshape(size, -1, 2)
        else:
            found = block_lm(start, data["w_circ"][which], data["w_box"][which])
        spent = time.process_time() - begin
        ratio = energy(found, data["w_circ"][which], data["w_box"][which]) / data["best_energy"][which]
        rows.append([name, size / spent, float(ratio.median())])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=50)
    count = parser.parse_args().problems
    torch.set_num_threads(1)
    data = problems()
    solver = es.LevenbergMarquardt(relative_decrease=1e-5)
    print(table(["solver", "p50 ms", "max ms", "energy / best, median", "within 1 %"], measure(data, count, solver)))
    batch(data, 8, solver)
    print(table(["solver, 64 at once", "problems a CPU second", "energy / best, median"], batch(data, 64, solver)))


if __name__ == "__main__":
    main()

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


def planes(circles: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    """Circles (..., K, 3) and boxes (..., L, 4), one tensor a number: x, y, radius (..., K); x, y, half sizes (..., L)."""
    return tuple(part.contiguous() for part in (*circles.unbind(-1), *boxes.unbind(-1)))


def distance(x: Tensor, cx: Tensor, cy: Tensor, radius: Tensor, bx: Tensor, by: Tensor, w: Tensor, h: Tensor) -> Tensor:
    """(...,) signed distance of points (..., 2) to the nearest of circles (..., K) and boxes (..., L)."""
    px, py = x[..., :1], x[..., 1:]
    to_circle = torch.hypot(px - cx, py - cy) - radius
    qx, qy = (px - bx).abs() - w, (py - by).abs() - h
    ox, oy = qx.relu(), qy.relu()
    to_box = (ox * ox + oy * oy + 1e-12).sqrt() + torch.maximum(qx, qy).clamp(max=0)
    return torch.cat([to_circle, to_box], -1).amin(-1)


def acceleration(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """(m, d) second differences."""
    return ACC * (a - 2 * b + c)


def rest(a: Tensor, b: Tensor) -> Tensor:
    """(m, d) the second difference at an end, the end point standing still."""
    return ACC * (b - a)


def nearness(x: Tensor, *world: Tensor) -> Tensor:
    """(m, 1) by how much the clearance is too small."""
    return OBS * (EPS - distance(x, *world)).relu()[:, None]


def approach(
    x: Tensor, cx: Tensor, cy: Tensor, radius: Tensor, bx: Tensor, by: Tensor, w: Tensor, h: Tensor
) -> list[Tensor]:
    """(m, 1, 2) the derivative of ``nearness``, by hand: minus the unit vector away from the nearest surface."""
    px, py = x[:, :1], x[:, 1:]
    dx, dy, ex, ey = px - cx, py - cy, px - bx, py - by
    norm = torch.hypot(dx, dy)
    qx, qy = ex.abs() - w, ey.abs() - h
    ox, oy = qx.relu(), qy.relu()
    outside = (ox * ox + oy * oy + 1e-12).sqrt()
    deepest = torch.maximum(qx, qy)
    near, k = torch.cat([norm - radius, outside + deepest.clamp(max=0)], -1).min(-1, keepdim=True)
    inside = deepest < 0
    ux = torch.cat([dx / norm, ex.sign() * (ox / outside + (inside & (qx >= qy)))], -1).gather(1, k)
    uy = torch.cat([dy / norm, ey.sign() * (oy / outside + (inside & (qx < qy)))], -1).gather(1, k)
    return [(torch.cat([ux, uy], 1) * (-OBS * (near < EPS)))[:, None]]


def graph(data: Arrays, which: Tensor, by_hand: bool = False) -> es.FactorGraph:
    """The problems numbered ``which`` as one batch of graphs; ``by_hand``: with ``approach`` for the derivative."""
    count, n = len(which), WAYPOINTS
    site = torch.arange(count * n).view(count, n)
    free = site[:, 1:-1].reshape(-1)
    owner = which.repeat_interleave(n - 2)
    x = es.Variables.of_lengths("x", es.Real(2), [n] * count)
    ends = torch.stack([site[:, [0, -1]].reshape(-1), site[:, [1, -2]].reshape(-1)])
    world = planes(data["w_circ"][owner], data["w_box"][owner])
    factors = [
        es.ResidualFactor(
            ("x",) * 3, "acceleration", acceleration, torch.stack([free - 1, free, free + 1]), linear=True
        ),
        es.ResidualFactor(("x",) * 2, "rest", rest, ends, linear=True),
        es.ResidualFactor(("x",), "obstacles", nearness, free[None], world, approach if by_hand else None),
    ]
    known = torch.zeros(count, n, dtype=torch.bool)
    known[:, [0, -1]] = True
    fixed = line(data["start"][which], data["goal"][which]).reshape(-1, 2)
    return es.FactorGraph([x], factors).condition(es.Assignment({"x": fixed}, {"x": known.reshape(-1)}))


def energy(x: Tensor, *world: Tensor) -> Tensor:
    """(B,) energies of trajectories (B, N, 2) in worlds of (B, 1, K) numbers."""
    y = torch.cat([x[:, :1], x, x[:, -1:]], 1)
    smooth = ACC * (y[:, :-2] - 2 * y[:, 1:-1] + y[:, 2:])
    near = OBS * (EPS - distance(x[:, 1:-1], *world)).relu()
    return 0.5 * (smooth.square().sum((1, 2)) + near.square().sum(1))


def block_lm(x: Tensor, world: tuple[Tensor, ...], steps: int = 60, tolerance: float = 1e-5) -> Tensor:
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
    now, damping, at = energy(x, *world), torch.full((len(x),), 1e-2, dtype=torch.float64), torch.arange(n)
    for _ in range(steps):
        near = lambda z: OBS * (EPS - distance(z, *world)).relu()  # noqa: B023, E731
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
        then = energy(new, *world)
        better = then < now
        stop = (better & (now - then < tolerance * now)) | (damping > 1e6)
        x, now = torch.where(better[:, None, None], new, x), torch.where(better, then, now)
        damping = torch.where(better, 0.2 * damping, 8 * damping).clamp(1e-8, 1e8)
        out[active] = x
        if bool(stop.all()):
            break
        kept = ~stop
        active, x, now, damping = (v[kept] for v in (active, x, now, damping))
        world = tuple(v[kept] for v in world)
    return out


NAMES = ("core, derivatives by torch", "core, derivatives by hand", "block LM")


def measure(data: Arrays, count: int, solver: es.Solver) -> list[list[object]]:
    """Rows of the table: one problem at a time, all ways in turn; graphs are made outside, their structure inside."""
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    ratios: dict[str, list[float]] = {name: [] for name in NAMES}
    for i in [0, *range(count)]:
        which = torch.tensor([i])
        start = line(data["start"][which], data["goal"][which])
        world = planes(data["w_circ"][which, None], data["w_box"][which, None])
        init = es.Assignment({"x": start.reshape(-1, 2)})
        for name in NAMES:
            problem = graph(data, which, "hand" in name)
            begin = time.process_time()
            if name == "block LM":
                found = block_lm(start, world)
            else:
                found = es.minimize(problem, solver, init=init).assignment["x"].reshape(1, -1, 2)
            times[name].append(1e3 * (time.process_time() - begin))
            ratios[name].append(float(energy(found, *world) / data["best_energy"][i]))
    rows: list[list[object]] = []
    for name in NAMES:  # the first round only warms up
        t, r = times[name][1:], ratios[name][1:]
        share = statistics.median(a / b for a, b in zip(t, times["block LM"][1:], strict=True))
        rows.append(
            [name, statistics.median(t), max(t), share, statistics.median(r), sum(x <= 1.01 for x in r) / count]
        )
    return rows


def batch(data: Arrays, size: int, solver: es.Solver) -> list[list[object]]:
    """Rows of the table: many problems in one call, building the graph included."""
    which = torch.arange(size) % len(data["start"])
    start = line(data["start"][which], data["goal"][which])
    world = planes(data["w_circ"][which, None], data["w_box"][which, None])
    rows: list[list[object]] = []
    for name in NAMES:
        begin = time.process_time()
        if name == "block LM":
            found = block_lm(start, world)
        else:
            init = es.Assignment({"x": start.reshape(-1, 2)})
            problem = graph(data, which, "hand" in name)
            found = es.minimize(problem, solver, init=init).assignment["x"].reshape(size, -1, 2)
        spent = time.process_time() - begin
        ratio = energy(found, *world) / data["best_energy"][which]
        rows.append([name, size / spent, float(ratio.median())])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=50)
    count = parser.parse_args().problems
    torch.set_num_threads(1)
    data = problems()
    solver = es.LevenbergMarquardt(relative_decrease=1e-5)
    print(
        table(
            ["solver", "p50, ms", "max, ms", "of block LM's", "energy / best, median", "within 1 %"],
            measure(data, count, solver),
        )
    )
    batch(data, 8, solver)
    print(table(["solver, 64 at once", "problems a CPU second", "energy / best, median"], batch(data, 64, solver)))


if __name__ == "__main__":
    main()

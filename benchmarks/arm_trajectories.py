"""Trajectories of a seven-joint arm among boxes and cylinders, through the core alone: the panda problems.

    OMP_NUM_THREADS=1 python -m benchmarks.arm_trajectories

32 waypoints, 30 free, 58 spheres on the arm. E = 0.5 |r|^2 as in ``trajectories``, with w_acc 0.02, w_obs 2e4, eps 0.02,
and rows sqrt(w_lim dt) * violation of the joint limits, w_lim 1e3. Kinematics: modified Denavit-Hartenberg parameters of
the Franka Emika data sheet. CPU milliseconds from the straight line.
"""

from __future__ import annotations

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

WAYPOINTS, W_ACC, W_OBS, W_LIM, EPS = 32, 0.02, 2e4, 1e3, 0.02
DT = 1 / (WAYPOINTS - 1)
ACC, OBS, LIM = math.sqrt(W_ACC * DT) / DT**2, math.sqrt(W_OBS * DT), math.sqrt(W_LIM * DT)
LENGTH = (0, 0, 0, 0.0825, -0.0825, 0, 0.088)
OFFSET = (0.333, 0, 0.316, 0, 0.384, 0, 0)
TWIST = (0, -math.pi / 2, math.pi / 2, math.pi / 2, -math.pi / 2, math.pi / 2, math.pi / 2)
LOWER = torch.tensor([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973], dtype=torch.float64)
UPPER = torch.tensor([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973], dtype=torch.float64)
Arrays = dict[str, Tensor]


def problems() -> Arrays:
    """All panda problems, and the spheres of the arm."""
    path = Path(os.environ["EBMSTRUCT_DATA"]) / "robot/problems/panda.npz"
    with np.load(path) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "if"}


class Arm:
    """The spheres of the arm, and where they are at given joint angles."""

    def __init__(self, data: Arrays) -> None:
        self.centre, self.radius, self.first = (
            data["s_centre"].double(),
            data["s_radius"].double(),
            data["s_ptr"].tolist(),
        )

    def frames(self, q: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each joint the rotation (m, 3, 3) and the place (m, 3) of the frame that it moves, at angles (m, 7)."""
        cos, sin = q.cos(), q.sin()
        out: list[tuple[Tensor, Tensor]] = []
        for j in range(7):
            ca, sa = math.cos(TWIST[j]), math.sin(TWIST[j])
            c, s = cos[:, j], sin[:, j]
            zero = torch.zeros_like(c)
            columns = [c, -s, zero, s * ca, c * ca, zero - sa, s * sa, c * sa, zero + ca]
            local = torch.stack(columns, -1).view(-1, 3, 3)
            shift = torch.tensor([LENGTH[j], -sa * OFFSET[j], ca * OFFSET[j]], dtype=q.dtype)
            if out:
                turn, place = out[-1]
                out.append((turn @ local, place + turn @ shift))
            else:
                out.append((local, shift.expand(len(q), 3)))
        return out

    def spheres(self, frames: list[tuple[Tensor, Tensor]]) -> Tensor:
        """(m, S, 3) centres, those of each frame side by side."""
        ends = self.first[1:9]
        return torch.cat(
            [
                place[:, None] + self.centre[a:b] @ turn.transpose(1, 2)
                for (turn, place), a, b in zip(frames, ends[:-1], ends[1:], strict=True)
            ],
            1,
        )

    def nearness(self, q: Tensor, *world: Tensor) -> Tensor:
        """(m, S) by how much each sphere's clearance is too small."""
        return OBS * (EPS + self.radius - distance(self.spheres(self.frames(q)), *world)).relu()

    def approach(self, q: Tensor, *world: Tensor) -> list[Tensor]:
        """(m, S, 7) the derivative of ``nearness``: by torch in the centres of spheres, each of which has a distance of its
        own; by hand in the angles, a joint moving the spheres beyond it about its axis."""
        frames = self.frames(q)
        centres = self.spheres(frames).requires_grad_(True)
        with torch.enable_grad():
            near = OBS * (EPS + self.radius - distance(centres, *world)).relu()
            (slope,) = torch.autograd.grad(near.sum(), centres)
        centres = centres.detach()
        out = q.new_zeros(len(q), len(self.radius), 7)
        for j, (turn, place) in enumerate(frames):
            beyond = slice(self.first[j + 1], None)
            swept = torch.linalg.cross(turn[:, None, :, 2], centres[:, beyond] - place[:, None])
            out[:, beyond, j] = (slope[:, beyond] * swept).sum(-1)
        return [out]


def distance(
    p: Tensor, b_turn: Tensor, b_at: Tensor, b_half: Tensor, c_turn: Tensor, c_at: Tensor, c_size: Tensor
) -> Tensor:
    """(m, S) signed distance of points (m, S, 3) to boxes and cylinders, given turned (m, 3, 3 K) with their sizes."""
    q = ((p @ b_turn).view(*p.shape[:2], -1, 3) - b_at[:, None]).abs() - b_half[:, None]
    to_box = (q.relu().square().sum(-1) + 1e-12).sqrt() + q.amax(-1).clamp(max=0)
    at = (p @ c_turn).view(*p.shape[:2], -1, 3) - c_at[:, None]
    radial = (at[..., 0].square() + at[..., 1].square() + 1e-12).sqrt() - c_size[:, None, :, 1]
    axial = at[..., 2].abs() - c_size[:, None, :, 0]
    to_cylinder = (radial.relu().square() + axial.relu().square() + 1e-12).sqrt()
    to_cylinder = to_cylinder + torch.maximum(radial, axial).clamp(max=0)
    return torch.minimum(to_box.amin(-1), to_cylinder.amin(-1))


def beyond(q: Tensor) -> Tensor:
    """(m, 7) by how much joint limits are broken."""
    return LIM * ((q - UPPER).relu() + (LOWER - q).relu())


def graph(data: Arrays, arm: Arm, which: int, by_hand: bool) -> tuple[es.FactorGraph, es.Assignment]:
    """One problem, and the straight line to start from."""
    n, sites = WAYPOINTS, torch.arange(WAYPOINTS)
    free = sites[1:-1]
    names = ("w_bR", "w_boff", "w_bhalf", "w_cR", "w_coff", "w_cdim")
    world = tuple(data[k][which].double().expand(n - 2, *data[k][which].shape) for k in names)
    x = es.Variables.of_lengths("q", es.Real(7), [n])
    ends = torch.tensor([[0, n - 1], [1, n - 2]])
    factors = [
        es.ResidualFactor(
            ("q",) * 3, "acceleration", lambda a, b, c: ACC * (a - 2 * b + c),
            torch.stack([free - 1, free, free + 1]), linear=True,
        ),
        es.ResidualFactor(("q",) * 2, "rest", lambda a, b: ACC * (b - a), ends, linear=True),
        es.ResidualFactor(("q",), "obstacles", arm.nearness, free[None], world, arm.approach if by_hand else None),
        es.ResidualFactor(("q",), "limits", beyond, free[None]),
    ]  # fmt: skip
    t = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
    t = 3 * t**2 - 2 * t**3
    line = data["start"][which].double() + t * (data["goal"][which] - data["start"][which]).double()
    known = torch.zeros(n, dtype=torch.bool)
    known[[0, -1]] = True
    problem = es.FactorGraph([x], factors).condition(es.Assignment({"q": line}, {"q": known}))
    return problem, es.Assignment({"q": line})


def main() -> None:
    torch.set_num_threads(1)
    data = problems()
    arm, solver = Arm(data), es.LevenbergMarquardt(relative_decrease=1e-5)
    rows: list[list[object]] = []
    for i in [0, *range(len(data["start"]))]:
        row: list[object] = [i]
        for by_hand in (False, True):
            problem, init = graph(data, arm, i, by_hand)
            begin = time.process_time()
            found = es.minimize(problem, solver, init=init)
            row += [1e3 * (time.process_time() - begin)]
        row += [found.stats["steps"], float(found.energy) / float(data["best_energy"][i])]
        rows.append(row)
    rows = rows[1:]  # the first round only warms up
    rows.append(["median", *(statistics.median(row[k] for row in rows) for k in range(1, 5))])  # type: ignore[type-var]
    print(table(["problem", "derivatives by torch, ms", "by hand, ms", "steps", "energy / best"], rows))


if __name__ == "__main__":
    main()

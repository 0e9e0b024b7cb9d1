"""Mixed graphs against an oracle: every joint state, with a dense continuous solve by numpy and scipy inside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch

from ebmstruct.graph import FactorGraph
from ebmstruct.inference import Solver, minimize
from ebmstruct.inference.solvers.mixed_enumeration import MixedEnumeration
from ebmstruct.testing.mixed import Associations, SwitchingSystems, associations, switching_systems

Array = np.ndarray
SIZE = 10
"""Instances of a batch."""


def least_switching(made: SwitchingSystems, instance: int) -> float:
    """The least energy of one instance: for each sequence of modes a dense linear least squares problem."""
    modes, n = made.width.numel(), made.y.shape[0] // made.graph.num_instances
    drive, offset, width = made.drive.numpy(), made.offset.numpy(), made.width.numpy()
    y = made.y.numpy()[instance * n : (instance + 1) * n]
    unary, switch = made.unary.numpy()[instance * n : (instance + 1) * n], made.switch.numpy()
    best = math.inf
    for z in itertools.product(range(modes), repeat=n):
        discrete = sum(unary[t, z[t]] for t in range(n)) + sum(switch[z[t - 1], z[t]] for t in range(1, n))
        if discrete >= best:
            continue
        a, b = np.zeros((4 * n - 2, 2 * n)), np.zeros(4 * n - 2)
        for t in range(n):
            a[2 * t : 2 * t + 2, 2 * t : 2 * t + 2] = np.eye(2) / made.seen
            b[2 * t : 2 * t + 2] = y[t] / made.seen
        for t in range(1, n):
            row, mode = 2 * n + 2 * (t - 1), z[t]
            a[row : row + 2, 2 * t : 2 * t + 2] = np.eye(2) / width[mode]
            a[row : row + 2, 2 * t - 2 : 2 * t] = -drive[mode] / width[mode]
            b[row : row + 2] = offset[mode] / width[mode]
        x = np.linalg.lstsq(a, b, rcond=None)[0]
        best = min(best, discrete + 0.5 * float(((a @ x - b) ** 2).sum()))
    return best


def least_association(made: Associations, instance: int) -> float:
    """The least energy of one instance: for each labelling least squares over poses, from several starts."""
    count = made.graph.num_instances
    m, n, k = made.at.numel() // count, made.step.shape[0] // count + 1, made.landmarks.shape[0]
    own = slice(instance * m, (instance + 1) * m)
    at, z, cost = made.at.numpy()[own] - instance * n, made.z.numpy()[own], made.cost.numpy()[own]
    step, prior = made.step.numpy()[instance * (n - 1) : (instance + 1) * (n - 1)], made.prior.numpy()[instance]
    seen, moved, known = made.widths
    size = prior.size

    def apart(a: float) -> float:
        return math.atan2(math.sin(a), math.cos(a))

    def from_body(angle: float, v: Array) -> Array:
        c, s = math.cos(angle), math.sin(angle)
        return np.array([c * v[0] + s * v[1], -s * v[0] + c * v[1]])

    def residuals(flat: Array, labels: tuple[int, ...]) -> Array:
        pose = flat.reshape(n, size)
        angle = pose[:, 2] if size == 3 else np.zeros(n)
        out = [(pose[0, :2] - prior[:2]) / known]
        if size == 3:
            out.append(np.array([apart(pose[0, 2] - prior[2])]) / known)
        for t in range(1, n):
            out.append((from_body(angle[t - 1], pose[t, :2] - pose[t - 1, :2]) - step[t - 1, :2]) / moved)
            if size == 3:
                out.append(np.array([apart(angle[t] - angle[t - 1] - step[t - 1, 2])]) / moved)
        for j, label in enumerate(labels):
            if label < k:
                out.append((from_body(angle[at[j]], made.landmarks.numpy()[label] - pose[at[j], :2]) - z[j]) / seen)
        return np.concatenate(out)

    best = math.inf
    for labels in itertools.product(range(k + 1), repeat=m):
        clash = any(at[i] == at[j] and labels[i] == labels[j] < k for i, j in itertools.combinations(range(m), 2))
        discrete = sum(cost[j, label] for j, label in enumerate(labels))
        if not clash and discrete < best:
            best = min(best, discrete + least_squares(residuals, labels, np.zeros(n * size), size))
    return best


def least_squares(residuals: object, labels: tuple[int, ...], zero: Array, size: int) -> float:
    """Half the least sum of squares: one dense solve where poses are positions, else MINPACK from several starts."""
    from scipy.optimize import least_squares as minpack

    assert callable(residuals)
    if size == 2:
        b = residuals(zero, labels)
        a = np.stack([residuals(column, labels) - b for column in np.eye(zero.size)], 1)
        x = np.linalg.lstsq(a, -b, rcond=None)[0]
        return 0.5 * float(((a @ x + b) ** 2).sum())
    rng = np.random.default_rng(0)
    starts = [zero, *(rng.normal(size=zero.size) for _ in range(3))]
    return min(float(minpack(residuals, s, args=(labels,), method="lm", xtol=1e-10, ftol=1e-10).cost) for s in starts)


def problems(kind: str, seed: int, size: int = SIZE) -> tuple[FactorGraph, list[float]]:
    """A batch of problems of one kind, and their least energies by the oracle."""
    generator = torch.Generator().manual_seed(seed)
    if kind.startswith("switching"):
        made = switching_systems(size, *((6, 3) if seed % 2 else (8, 2)), generator)
        return made.graph, [least_switching(made, i) for i in range(size)]
    shape = (3, 5, 2) if kind == "turning" else ((4, 6, 2) if seed % 2 else (4, 4, 3))
    found = associations(size, *shape, generator, turning=kind == "turning")
    return found.graph, [least_association(found, i) for i in range(size)]


def hits(graph: FactorGraph, least: list[float], solver: Solver) -> int:
    """How many instances end at the least energy, to 1e-6; none may end below."""
    energy = minimize(graph, solver).energy
    wanted = torch.tensor(least, dtype=torch.float64)
    slack = 1e-6 * wanted.abs().clamp(min=1.0)
    assert (energy >= wanted - slack).all()
    return int((energy <= wanted + slack).sum())


def batches(*, slow: bool) -> Iterator[tuple[str, int, int]]:
    """Kind, seed and size: 200 instances under ``slow``, else 10."""
    if slow:
        yield from (("switching", s, SIZE) for s in range(10))
        yield from (("plane", s, SIZE) for s in range(5))
        yield from (("turning", s, SIZE) for s in range(5))
    else:
        yield from (("switching", 0, 4), ("plane", 1, 4), ("turning", 0, 2))


def test_enumeration_finds_the_minimum() -> None:
    """Ten graphs: the energy that the oracle finds, in every one."""
    for kind, seed, size in batches(slow=False):
        graph, least = problems(kind, seed, size)
        assert hits(graph, least, MixedEnumeration()) == size, kind

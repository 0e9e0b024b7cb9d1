"""Random mixed graphs, discrete and continuous blocks in one, with the numbers that they were made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.graph import (
    SE2,
    ChainFactor,
    Discrete,
    Factor,
    FactorGraph,
    Real,
    ResidualFactor,
    TableFactor,
    Variables,
)

Residual = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class SwitchingSystems:
    """Switching linear systems: B instances of T times, K modes; n = B * T.

    drive, offset, width: (K, 2, 2), (K, 2), (K,): x_t is drive x_{t-1} + offset plus noise of that width, by the mode
    at t.  y: (n, 2) what was seen of each x_t, with noise of width ``seen``.  unary (n, K), switch (K, K): energies of
    modes.  Blocks: "x", plane states, and "mode". The energy is quadratic in x once the modes are known.
    """

    graph: FactorGraph
    drive: Tensor
    offset: Tensor
    width: Tensor
    y: Tensor
    seen: float
    unary: Tensor
    switch: Tensor


def switching_systems(
    num_instances: int, times: int, modes: int, generator: Generator, *, seen: float = 0.6, noise: float = 0.35
) -> SwitchingSystems:
    """Random systems whose linear dynamics depend on a chain of discrete modes, and observations made by them.

    noise: about the width of the dynamics.
    """
    n = num_instances * times
    turn = 0.7 * _normal(generator, modes)
    shrink = 0.7 + 0.3 * torch.rand(modes, 1, 1, generator=generator, dtype=torch.float64)
    drive = shrink * torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).reshape(modes, 2, 2)
    offset = _normal(generator, modes, 2)
    width = noise * (0.5 + torch.rand(modes, generator=generator, dtype=torch.float64))
    jump = (torch.rand(n, generator=generator) < 0.4) | (torch.arange(n) % times == 0)
    fresh = torch.randint(modes, (n,), generator=generator)
    shock = _normal(generator, n, 2)
    x, mode = shock.clone(), fresh.clone()
    for t in range(n):
        mode[t] = fresh[t] if jump[t] else mode[t - 1]
        if t % times:
            x[t] = drive[mode[t]] @ x[t - 1] + offset[mode[t]] + width[mode[t]] * shock[t]
    y = x + seen * _normal(generator, n, 2)
    unary = 0.3 * _normal(generator, n, modes) + 2 * width.log()
    switch = 1.0 - torch.eye(modes, dtype=torch.float64)
    sites = torch.arange(n)
    later = sites[sites % times > 0]

    def moved(before: Tensor, now: Tensor, mode: Tensor) -> Tensor:
        return (now - (drive[mode] @ before[:, :, None])[:, :, 0] - offset[mode]) / width[mode, None]

    def observed(now: Tensor, value: Tensor) -> Tensor:
        return (now - value) / seen

    graph = FactorGraph(
        [_block("x", Real(2), times, num_instances), _block("mode", Discrete(modes), times, num_instances)],
        [
            ResidualFactor(("x", "x", "mode"), "dynamics", moved, torch.stack([later - 1, later, later]), linear=True),
            ResidualFactor(("x",), "observation", observed, sites[None], (y,), linear=True),
            TableFactor(("mode",), "unary", unary),
            ChainFactor(("mode",), "switch", switch),
        ],
    )
    return SwitchingSystems(graph, drive, offset, width, y, seen, unary, switch)


@dataclass(frozen=True, eq=False)
class Associations:
    """Data association: B instances of T poses in a chain, M measurements of K landmarks or of clutter.

    landmarks: (K, 2).  at: (B * M,) the pose of each measurement.  z: (B * M, 2) what was measured, in the body's frame
    where poses turn.  step: (B * (T - 1), 2 or 3) odometry: the translation, seen from the pose before where poses turn,
    and the angle.  prior: (B, 2 or 3) first poses.  widths: of measurements, odometry and priors.
    cost: (B * M, K + 1) energy of each label, the last of which is clutter; two measurements of one pose never share a
    landmark (pairs: (2, p)).
    Blocks: "pose", of SE2 where ``turning``, else of plane positions (the energy is then quadratic once the labels are
    known), and "label".
    """

    graph: FactorGraph
    turning: bool
    landmarks: Tensor
    at: Tensor
    z: Tensor
    step: Tensor
    prior: Tensor
    widths: tuple[float, float, float]
    cost: Tensor
    pairs: Tensor


def associations(
    num_instances: int, times: int, measurements: int, landmarks: int, generator: Generator, *, turning: bool
) -> Associations:
    """Random data association: a chain of poses, odometry, landmarks that measurements may be of, and clutter."""
    n, m = num_instances * times, num_instances * measurements
    widths = (0.4, 0.4, 0.5)
    size = 3 if turning else 2
    places = 2.0 * _normal(generator, landmarks, 2)
    moves = torch.cat([1.0 + 0.3 * _normal(generator, n, 2), 0.5 * _normal(generator, n, 1) * turning], 1)
    true = _walked(moves, 0.5 * _normal(generator, num_instances, size), times)
    first = torch.arange(n) % times == 0
    step = moves[~first, :size] + widths[1] * _normal(generator, n - num_instances, size)
    prior = true[first, :size] + widths[2] * _normal(generator, num_instances, size)
    number = torch.arange(m)
    at = number // measurements * times + number % measurements * times // measurements
    label = torch.randint(landmarks + 1, (m,), generator=generator)
    seen = places[label.clamp(max=landmarks - 1)]
    z = turned(-true[at, 2], seen - true[at, :2]) + widths[0] * _normal(generator, m, 2)
    z = torch.where((label == landmarks)[:, None], 2.5 * _normal(generator, m, 2), z)
    cost = torch.cat([0.2 * _normal(generator, m, landmarks), 3.0 + 0.2 * _normal(generator, m, 1)], 1)
    pairs = ((at[:, None] == at) & (number[:, None] < number)).nonzero().T
    once = torch.zeros(landmarks + 1, landmarks + 1, dtype=torch.float64)
    once[range(landmarks), range(landmarks)] = torch.inf
    later = torch.arange(n)[~first]
    begun, stepped, measured = _residuals(places, widths, turning=turning)
    linear = not turning
    factors: list[Factor] = [
        ResidualFactor(("pose",), "prior", begun, torch.arange(n)[first][None], (prior,), linear=linear),
        ResidualFactor(("pose", "pose"), "odometry", stepped, torch.stack([later - 1, later]), (step,), linear=linear),
        ResidualFactor(("pose", "label"), "measurement", measured, torch.stack([at, number]), (z,), linear=linear),
        TableFactor(("label",), "cost", cost),
        TableFactor(("label", "label"), "once", once, index=pairs),
    ]
    blocks = [
        _block("pose", SE2() if turning else Real(2), times, num_instances),
        _block("label", Discrete(landmarks + 1), measurements, num_instances),
    ]
    return Associations(FactorGraph(blocks, factors), turning, places, at, z, step, prior, widths, cost, pairs)


def turned(angle: Tensor, v: Tensor) -> Tensor:
    """(m, 2): plane vectors turned by angles (m,) in radians."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * v[:, 0] - s * v[:, 1], s * v[:, 0] + c * v[:, 1]], 1)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _block(name: str, domain: Discrete | Real | SE2, sites: int, num_instances: int) -> Variables:
    return Variables.of_lengths(name, domain, [sites] * num_instances)


def _walked(moves: Tensor, begin: Tensor, times: int) -> Tensor:
    """(n, 3): positions and angles after each move, seen from the pose before; begin: (B, 2 or 3)."""
    true = torch.zeros(moves.shape[0], 3, dtype=torch.float64)
    for t in range(moves.shape[0]):
        if t % times:
            true[t, :2] = true[t - 1, :2] + turned(true[t - 1, 2:], moves[t, None, :2])[0]
            true[t, 2] = true[t - 1, 2] + moves[t, 2]
        else:
            true[t, : begin.shape[1]] = begin[t // times]
    return true


def _residuals(
    places: Tensor, widths: tuple[float, float, float], *, turning: bool
) -> tuple[Residual, Residual, Residual]:
    """Residuals of a first pose, of a step and of a measurement; poses are (x, y) or (x, y, cos, sin)."""
    seen, moved, known = widths

    def angle(pose: Tensor) -> Tensor:
        return torch.atan2(pose[:, 3], pose[:, 2])

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return torch.atan2((a - b).sin(), (a - b).cos())[:, None]

    def begun(pose: Tensor, value: Tensor) -> Tensor:
        if not turning:
            return (pose - value) / known
        return torch.cat([pose[:, :2] - value[:, :2], apart(angle(pose), value[:, 2])], 1) / known

    def stepped(before: Tensor, now: Tensor, value: Tensor) -> Tensor:
        if not turning:
            return (now - before - value) / moved
        shift = turned(-angle(before), now[:, :2] - before[:, :2]) - value[:, :2]
        return torch.cat([shift, apart(angle(now), angle(before) + value[:, 2])], 1) / moved

    def measured(pose: Tensor, label: Tensor, value: Tensor) -> Tensor:
        clutter = label == places.shape[0]
        toward = places[torch.where(clutter, 0, label)] - pose[:, :2]
        r = (turned(-angle(pose), toward) if turning else toward) - value
        return r.masked_fill(clutter[:, None], 0.0) / seen

    return begun, stepped, measured

"""Graphs as functions of a vector of parameters, and central differences of losses in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import (
    SE2,
    SO3,
    Assignment,
    BlockFactor,
    ChainFactor,
    Discrete,
    Factor,
    FactorGraph,
    GridFactor,
    Real,
    ResidualFactor,
    TableFactor,
    Variables,
    potts_table,
)


@dataclass(frozen=True, eq=False)
class Case:
    """A graph of float64 parameters (p,), and a target that knows everything."""

    build: Callable[[Tensor], FactorGraph]
    parameters: Tensor
    target: dict[str, Tensor]

    def partly(self, seed: int = 0, share: float = 0.6) -> Assignment:
        """The target with some sites unknown; values there are rubbish."""
        generator = torch.Generator().manual_seed(seed)
        known = {n: torch.rand(v.shape[0], generator=generator) < share for n, v in self.target.items()}
        values = {}
        for name, v in self.target.items():
            rubbish = torch.zeros_like(v) if v.dim() == 1 else v + 1.0
            values[name] = torch.where(known[name].reshape(-1, *[1] * (v.dim() - 1)), v, rubbish)
        return Assignment(values, known=known)

    def full(self) -> Assignment:
        """The whole target."""
        return Assignment(self.target)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain_case() -> Case:
    """Three ragged chains of 3 states: unary tables and a shared transition."""
    block = Variables.of_lengths("y", Discrete(3), [3, 1, 4])

    def build(p: Tensor) -> FactorGraph:
        return FactorGraph(
            [block],
            [
                TableFactor(("y",), "unary", p[:24].reshape(8, 3)),
                ChainFactor(("y",), "chain", p[24:33].reshape(3, 3), p[33:36]),
            ],
        )

    return Case(build, _normal(1, 36), {"y": torch.tensor([0, 2, 1, 1, 2, 2, 0, 1])})


def grid_case() -> Case:
    """Two small grids of 2 states with unary tables and Potts weights."""
    block = Variables.of_lengths("y", Discrete(2), [6, 4])

    def build(p: Tensor) -> FactorGraph:
        grid = GridFactor(("y",), "grid", potts_table(2, torch.float64), p[20:30], p[30:40], torch.tensor([3, 2]))
        return FactorGraph([block], [TableFactor(("y",), "unary", p[:20].reshape(10, 2)), grid])

    parameters = torch.cat([_normal(2, 20), 0.5 * _normal(3, 20).abs()])
    return Case(build, parameters, {"y": torch.tensor([0, 1, 1, 0, 0, 1, 1, 0, 0, 0])})


def label_case() -> Case:
    """Sets of four labels whose energy is a small network over their weights."""
    block = Variables.of_lengths("y", Discrete(2), [4, 4])

    def build(p: Tensor) -> FactorGraph:
        layer = p[:12].reshape(3, 4)

        def energy(w: Tensor, scores: Tensor, offsets: object) -> Tensor:
            on = w[:, 1].reshape(-1, 4)
            return (scores * on).sum(1) + torch.nn.functional.softplus(on @ layer.T).sum(1)

        return FactorGraph([block], [BlockFactor(("y",), "deep", energy, (p[12:20].reshape(2, 4),), relaxed=True)])

    return Case(build, _normal(4, 20), {"y": torch.tensor([0, 1, 1, 0, 0, 0, 1, 0])})


def mixed_case() -> Case:
    """Points on a line that drift by discrete modes, in two chains of 3 and 2 times."""
    x = Variables.of_lengths("x", Real(1), [3, 2])
    mode = Variables.of_lengths("mode", Discrete(2), [3, 2])
    later = torch.tensor([1, 2, 4])

    def build(p: Tensor) -> FactorGraph:
        seen, drift, unary, stiff = p[:5, None], p[5:7], p[7:17].reshape(5, 2), p[17]

        def moved(before: Tensor, now: Tensor, state: Tensor) -> Tensor:
            return (now - before - drift[state, None]) * stiff

        return FactorGraph(
            [x, mode],
            [
                ResidualFactor(("x", "x", "mode"), "drift", moved, torch.stack([later - 1, later, later]), linear=True),
                ResidualFactor(("x",), "seen", lambda a, b: a - b, torch.arange(5)[None], (seen,), linear=True),
                TableFactor(("mode",), "unary", unary),
            ],
        )

    parameters = torch.cat([_normal(5, 5), torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.5 * _normal(6, 10)])
    parameters = torch.cat([parameters, torch.tensor([1.3], dtype=torch.float64)])
    return Case(build, parameters, {"x": _normal(7, 5, 1), "mode": torch.tensor([0, 1, 1, 0, 1])})


def pose_case() -> Case:
    """Chains of plane poses: a prior and odometry, wrapped by angles, with stiffness of their own."""
    pose = Variables.of_lengths("pose", SE2(), [3, 2])
    domain, later = SE2(), torch.tensor([1, 2, 4])

    def build(p: Tensor) -> FactorGraph:
        moves, anchors, turn = p[:9].reshape(3, 3), p[9:15].reshape(2, 3), p[15:20]

        def stepped(before: Tensor, now: Tensor, move: Tensor) -> Tensor:
            return domain.local(domain.retract(before, move), now) * 1.5

        def begun(at: Tensor, anchor: Tensor) -> Tensor:
            return domain.local(domain.retract(domain.start(at.shape[0], at.dtype), anchor), at)

        def faced(at: Tensor, angle: Tensor) -> Tensor:
            return at[:, 2:] - torch.stack([angle.cos(), angle.sin()], 1)

        return FactorGraph(
            [pose],
            [
                ResidualFactor(("pose", "pose"), "odometry", stepped, torch.stack([later - 1, later]), (moves,)),
                ResidualFactor(("pose",), "prior", begun, torch.tensor([[0, 3]]), (anchors,)),
                ResidualFactor(("pose",), "faced", faced, torch.arange(5)[None], (turn,)),
            ],
        )

    truth = domain.retract(domain.start(5, torch.float64), 0.5 * _normal(9, 5, 3))
    return Case(build, 0.6 * _normal(8, 20), {"pose": truth})


def rotation_case() -> Case:
    """Rotations of space, each pulled by two others that disagree; one instance of two and one of one."""
    block = Variables.of_lengths("r", SO3(), [2, 1])
    domain = SO3()

    def build(p: Tensor) -> FactorGraph:
        def pulled(r: Tensor, vector: Tensor) -> Tensor:
            return domain.local(domain.retract(domain.start(r.shape[0], r.dtype), vector), r)

        def joined(a: Tensor, b: Tensor, vector: Tensor) -> Tensor:
            return domain.local(domain.retract(a, vector), b)

        return FactorGraph(
            [block],
            [
                ResidualFactor(("r",), "one", pulled, torch.arange(3)[None], (p[:9].reshape(3, 3),)),
                ResidualFactor(("r",), "two", pulled, torch.arange(3)[None], (p[9:18].reshape(3, 3),)),
                ResidualFactor(("r", "r"), "pair", joined, torch.tensor([[0], [1]]), (p[None, 18:21],)),
            ],
        )

    truth = domain.retract(domain.start(3, torch.float64), 0.4 * _normal(11, 3, 3))
    return Case(build, 0.4 * _normal(10, 21), {"r": truth})


def network_case() -> Case:
    """Points of the plane whose energy is a small network beside a square: continuous structured prediction."""
    block = Variables.of_lengths("x", Real(2), [2, 2])

    def build(p: Tensor) -> FactorGraph:
        layer = p[:8].reshape(2, 4)

        def energy(x: Tensor, shift: Tensor, offsets: object) -> Tensor:
            z = x.reshape(-1, 4)
            return 0.5 * (z - shift).square().sum(1) + torch.nn.functional.softplus(z @ layer.T).sum(1)

        return FactorGraph([block], [BlockFactor(("x",), "deep", energy, (p[8:16].reshape(2, 4),))])

    return Case(build, _normal(12, 16), {"x": _normal(13, 4, 2)})


DISCRETE = {"chain": chain_case(), "grid": grid_case(), "label set": label_case()}
CONTINUOUS = {"pose": pose_case(), "rotation": rotation_case(), "network": network_case()}
CASES = {**DISCRETE, "mixed": mixed_case(), **CONTINUOUS}


def hamming(case: Case, target: Assignment) -> list[Factor]:
    """One for each wrong known site of the discrete block."""
    out: list[Factor] = []
    graph = case.build(case.parameters)
    for name, block in graph.variables.items():
        if isinstance(block.domain, Discrete):
            wrong = 1.0 - torch.nn.functional.one_hot(target[name], block.discrete.largest).double()
            known = target.known.get(name)
            out.append(TableFactor((name,), f"cost of {name}", wrong if known is None else wrong * known[:, None]))
    return out


def gradient(value: Callable[[Tensor], Tensor], parameters: Tensor) -> Tensor:
    """(p,) the gradient of the sum of a (B,) function, by autograd."""
    leaf = parameters.clone().requires_grad_()
    value(leaf).sum().backward()
    return torch.zeros_like(parameters) if leaf.grad is None else leaf.grad


def assert_gradient(
    value: Callable[[Tensor], Tensor], parameters: Tensor, *, relative: float = 1e-4, directions: int = 2
) -> Tensor:
    """Autograd equals differences of fourth order along random directions, to ``relative``; returns the gradient."""
    found, step = gradient(value, parameters), 1e-4
    generator = torch.Generator().manual_seed(99)
    for _ in range(directions):
        way = torch.randn(parameters.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            ends = [float(value(parameters + k * step * way).sum()) for k in (1, -1, 2, -2)]
        wanted = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step)
        assert abs(float(found @ way) - wanted) <= relative * max(abs(wanted), 1e-2 * float(found.norm()), 1e-6)
    return found

"""Pose graphs and bundle adjustment: at the answer a dense solve of the whole problem moves nothing by more than 1e-8."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.graph.manifolds import quaternion_exp, quaternion_product, rotate

Turn = Tensor


def double(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pose_graph(space: int) -> tuple[es.FactorGraph, Tensor]:
    """Twelve poses on a loop: odometry, three closures, and the first pose held by a prior."""
    domain = es.SE2() if space == 2 else es.SE3()
    block = es.Variables.of_lengths("pose", domain, [12])
    truth = domain.start(12, torch.float64)
    step = 0.4 * double(12, domain.tangent_dim, seed=1)
    for i in range(1, 12):
        truth[i] = domain.retract(truth[i - 1], step[i])
    first = torch.tensor([*range(11), 11, 2, 5])
    second = torch.tensor([*range(1, 12), 0, 7, 11])
    measured = domain.local(truth[first], truth[second]) + 0.01 * double(14, domain.tangent_dim, seed=2)
    graph = es.FactorGraph(
        [block],
        [
            es.ResidualFactor(
                ("pose", "pose"), "between", lambda a, b, t: 5 * (domain.local(a, b) - t),
                torch.stack([first, second]), (measured,),
            ),
            es.ResidualFactor(("pose",), "prior", lambda a: domain.local(domain.start(1, a.dtype), a), torch.tensor([[0]])),
        ],
    )  # fmt: skip
    start = domain.retract(truth, 0.05 * double(12, domain.tangent_dim, seed=3))
    return graph, start


def bundle() -> tuple[es.FactorGraph, dict[str, Tensor]]:
    """Four cameras that see fifteen points: bearings, two cameras held by priors."""
    cameras, points = (
        es.Variables.of_lengths("camera", es.SE3(), [4]),
        es.Variables.of_lengths("point", es.Real(3), [15]),
    )
    domain = es.SE3()
    pose = domain.retract(domain.start(4, torch.float64), 0.2 * double(4, 6, seed=4))
    place = double(15, 3, seed=5) + torch.tensor([0.0, 0.0, 6.0], dtype=torch.float64)
    index = torch.cartesian_prod(torch.arange(4), torch.arange(15)).T

    def seen(c: Tensor, p: Tensor) -> Tensor:
        back = torch.cat([c[:, 3:4], -c[:, 4:]], 1)
        local = rotate(back, p - c[:, :3])
        return local[:, :2] / local[:, 2:]

    image = seen(pose[index[0]], place[index[1]]) + 0.002 * double(60, 2, seed=6)
    held = torch.tensor([[0, 1]])
    graph = es.FactorGraph(
        [cameras, points],
        [
            es.ResidualFactor(("camera", "point"), "image", lambda c, p, z: 100 * (seen(c, p) - z), index, (image,)),
            es.ResidualFactor(("camera",), "held", lambda c, z: 50 * domain.local(z, c), held, (pose[:2],)),
        ],
    )
    turned = quaternion_product(pose[:, 3:], quaternion_exp(0.02 * double(4, 3, seed=7)))
    start = {"camera": torch.cat([pose[:, :3], turned], 1), "point": place + 0.1 * double(15, 3, seed=8)}
    return graph, start


def dense_step(graph: es.FactorGraph, values: dict[str, Tensor]) -> float:
    """The longest entry of the Newton step that a dense Gauss-Newton solve takes from there, and of its refinement."""
    domains = {n: b.domain for n, b in graph.variables.items()}
    sizes = [values[n].shape[0] * d.tangent_dim for n, d in domains.items()]  # type: ignore[union-attr]

    def residuals(step: Tensor) -> Tensor:
        moved = {
            n: d.retract(values[n], part.reshape(values[n].shape[0], -1))  # type: ignore[union-attr]
            for (n, d), part in zip(domains.items(), step.split(sizes), strict=True)
        }
        parts = [f.residuals([moved[n] for n in f.scope]).reshape(-1) for f in graph.factors]  # type: ignore[attr-defined]
        return torch.cat(parts)

    zero = torch.zeros(sum(sizes), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(residuals, zero)
    return float(torch.linalg.lstsq(jacobian, -residuals(zero)[:, None]).solution.abs().max())


@pytest.mark.parametrize("kind", ["SE2", "SE3", "bundle"])
def test_a_dense_solve_moves_nothing(kind: str) -> None:
    """From the start it moves by more than a hundredth, from the answer by less than 1e-8."""
    if kind == "bundle":
        graph, start = bundle()
    else:
        graph, pose = pose_graph(int(kind[2]))
        start = {"pose": pose}
    assert dense_step(graph, start) > 1e-2
    solver = es.LevenbergMarquardt(relative_decrease=1e-15, gradient=0.0)
    result = es.minimize(graph, solver, init=es.Assignment(start))
    assert result.statuses == [es.Status.CONVERGED]
    assert dense_step(graph, dict(result.assignment.items())) < 1e-8

"""Smooth domains: steps lead where they say, and gradients by a step are those of finite differences."""

from __future__ import annotations

import pytest
import torch

import ebmstruct as es
from ebmstruct.graph import Continuous
from ebmstruct.graph.continuous import scattered
from ebmstruct.graph.manifolds import quaternion_exp, quaternion_log, rotate

DOMAINS: list[Continuous] = [
    es.Real(3),
    es.Real(2, lower=-1.0, upper=(0.5, 2.0)),
    es.SO2(),
    es.SO3(),
    es.SE2(),
    es.SE3(),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_retract_and_local(domain: Continuous) -> None:
    """retract(x, local(x, y)) is y, a step of zero stays, and sizes are as stated."""
    generator = torch.Generator().manual_seed(0)
    x, y = (scattered(domain, 50, torch.float64, generator) for _ in range(2))
    step = domain.local(x, y)
    assert x.shape == (50, domain.dim) and step.shape == (50, domain.tangent_dim)
    again = domain.retract(x, step)
    same = (again - y).abs().amax(1).minimum((again + y).abs().amax(1) if domain.dim == 4 else torch.tensor(torch.inf))
    if isinstance(domain, es.SE3):
        turned = torch.cat([again[:, :3], -again[:, 3:]], 1)
        same = (again - y).abs().amax(1).minimum((turned - y).abs().amax(1))
    assert float(same.max()) < 1e-12
    torch.testing.assert_close(domain.retract(x, torch.zeros_like(step)), x)
    torch.testing.assert_close(domain.project(x), x)


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_pull_back(domain: Continuous) -> None:
    """The gradient by a step is that of central differences through retract."""
    generator = torch.Generator().manual_seed(1)
    x = scattered(domain, 20, torch.float64, generator)
    weights = torch.randn(domain.dim, dtype=torch.float64, generator=generator)
    value = lambda z: ((z * weights).sum(-1)).sin()  # noqa: E731
    leaf = x.clone().requires_grad_(True)
    (ambient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    found = domain.pull_back(x, ambient)
    for i in range(domain.tangent_dim):
        step = torch.zeros(20, domain.tangent_dim, dtype=torch.float64)
        step[:, i] = 1e-6
        slope = (value(domain.retract(x, step)) - value(domain.retract(x, -step))) / 2e-6
        torch.testing.assert_close(found[:, i], slope, atol=1e-8, rtol=1e-6)


def test_quaternions() -> None:
    """A quarter turn about z takes x to y; exp and log undo each other, and both are smooth at zero."""
    turn = quaternion_exp(torch.tensor([0.0, 0.0, torch.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(
        rotate(turn, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)).tolist(), [0.0, 1.0, 0.0]
    )
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda v: quaternion_log(quaternion_exp(v)), zero)
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64))


def test_bounds_are_checked() -> None:
    """Bounds that contradict each other, or are not as many as the coordinates, are told."""
    with pytest.raises(es.GraphError, match="above upper"):
        es.Real(1, 1.0, 0.0)
    with pytest.raises(es.GraphError, match="3 coordinates but 2 bounds"):
        es.Real(3, (0.0, 0.0))

"""Rotations and poses, as domains: SO(2), SO(3), SE(2), SE(3).

Steps of rotations are in the body frame: R becomes R exp(step). Steps of poses are the product of a translation in
the world frame and of such a rotation, so that the volume is Lebesgue times Haar. Formulas of exp, log and their
derivatives: Sola, Deray and Atchuthan (2018), "A micro Lie theory for state estimation in robotics", appendices A to D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebmstruct.graph.continuous import Continuous

SMALL = 1e-12
"""Below this squared angle (radians squared) series take the place of quotients."""


@dataclass(frozen=True)
class SO2(Continuous):
    """Rotations of the plane, as (cos, sin): d = 2, t = 1 (an angle in radians)."""

    measure: ClassVar[str | None] = "Haar"
    dim: ClassVar[int] = 2  # type: ignore[misc]
    tangent_dim: ClassVar[int] = 1  # type: ignore[misc]

    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        c, s = step[..., 0].cos(), step[..., 0].sin()
        return torch.stack([x[..., 0] * c - x[..., 1] * s, x[..., 1] * c + x[..., 0] * s], -1)

    def local(self, x: Tensor, y: Tensor) -> Tensor:
        along = (x * y).sum(-1)
        across = x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
        return torch.atan2(across, along)[..., None]

    def differential(self, x: Tensor) -> Tensor:
        return torch.stack([-x[..., 1], x[..., 0]], -1)[..., None]

    def start(self, num_sites: int, dtype: torch.dtype) -> Tensor:
        return torch.tensor([1.0, 0.0], dtype=dtype).expand(num_sites, 2).clone()

    def project(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class SO3(Continuous):
    """Rotations of space, as unit quaternions (w, x, y, z): d = 4, t = 3 (a rotation vector in the body frame, radians)."""

    measure: ClassVar[str | None] = "Haar"
    dim: ClassVar[int] = 4  # type: ignore[misc]
    tangent_dim: ClassVar[int] = 3  # type: ignore[misc]

    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        return self.project(quaternion_product(x, quaternion_exp(step)))

    def local(self, x: Tensor, y: Tensor) -> Tensor:
        return quaternion_log(quaternion_product(quaternion_conjugate(x), y))

    def differential(self, x: Tensor) -> Tensor:
        w, a, b, c = (0.5 * part for part in x.unbind(-1))
        rows = ((-a, -b, -c), (w, -c, b), (c, w, -a), (-b, a, w))
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    def start(self, num_sites: int, dtype: torch.dtype) -> Tensor:
        return torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=dtype).expand(num_sites, 4).clone()

    def project(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)


class _Pose(Continuous):
    """A translation in the world frame beside a rotation; subclasses say of which."""

    rotation: ClassVar[SO2 | SO3]
    space: ClassVar[int]
    measure: ClassVar[str | None] = "Lebesgue times Haar"

    @property
    def dim(self) -> int:
        return self.space + self.rotation.dim

    @property
    def tangent_dim(self) -> int:
        return self.space + self.rotation.tangent_dim

    def retract(self, x: Tensor, step: Tensor) -> Tensor:
        k = self.space
        return torch.cat([x[..., :k] + step[..., :k], self.rotation.retract(x[..., k:], step[..., k:])], -1)

    def local(self, x: Tensor, y: Tensor) -> Tensor:
        k = self.space
        return torch.cat([y[..., :k] - x[..., :k], self.rotation.local(x[..., k:], y[..., k:])], -1)

    def differential(self, x: Tensor) -> Tensor:
        k = self.space
        turn = self.rotation.differential(x[..., k:])
        out = torch.zeros(*x.shape, self.tangent_dim, dtype=x.dtype, device=x.device)
        out[..., :k, :k] = torch.eye(k, dtype=x.dtype, device=x.device)
        out[..., k:, k:] = turn
        return out

    def start(self, num_sites: int, dtype: torch.dtype) -> Tensor:
        origin = torch.zeros(num_sites, self.space, dtype=dtype)
        return torch.cat([origin, self.rotation.start(num_sites, dtype)], -1)

    def project(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., : self.space], self.rotation.project(x[..., self.space :])], -1)


@dataclass(frozen=True)
class SE2(_Pose):
    """Poses in the plane, as (x, y, cos, sin): d = 4, t = 3 (translation in the world frame, angle in radians)."""

    rotation: ClassVar[SO2 | SO3] = SO2()
    space: ClassVar[int] = 2


@dataclass(frozen=True)
class SE3(_Pose):
    """Poses in space, as (x, y, z, qw, qx, qy, qz): d = 7, t = 6 (world translation, body rotation vector in radians)."""

    rotation: ClassVar[SO2 | SO3] = SO3()
    space: ClassVar[int] = 3


def quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    """(..., 4): the Hamilton product of quaternions (w, x, y, z)."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def quaternion_conjugate(a: Tensor) -> Tensor:
    """(..., 4): the inverse of a unit quaternion."""
    return torch.cat([a[..., :1], -a[..., 1:]], -1)


def quaternion_exp(vector: Tensor) -> Tensor:
    """(..., 4): the rotation by a rotation vector (..., 3) in radians; smooth at zero."""
    square = vector.square().sum(-1, keepdim=True)
    small = square < SMALL
    angle = torch.where(small, 1.0, square).sqrt()
    scale = torch.where(small, 0.5 - square / 48, (0.5 * angle).sin() / angle)
    first = torch.where(small, 1 - square / 8, (0.5 * angle).cos())
    return torch.cat([first, scale * vector], -1)


def quaternion_log(q: Tensor) -> Tensor:
    """(..., 3): the rotation vector of a unit quaternion, of angle at most pi; smooth at the identity."""
    q = torch.where(q[..., :1] < 0, -q, q)
    square = q[..., 1:].square().sum(-1, keepdim=True)
    small = square < SMALL
    sine = torch.where(small, 1.0, square).sqrt()
    scale = torch.where(small, 2 + square / 3, 2 * torch.atan2(sine, q[..., :1]) / sine)
    return scale * q[..., 1:]


def rotate(q: Tensor, point: Tensor) -> Tensor:
    """(..., 3): a point turned by a unit quaternion (w, x, y, z)."""
    axis, w = q[..., 1:], q[..., :1]
    twice = 2 * torch.linalg.cross(axis, point)
    return point + w * twice + torch.linalg.cross(axis, twice)

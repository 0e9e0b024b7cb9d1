"""Points of the plane that the benchmarks of densities share: two moons, eight Gaussians, a pinwheel."""

from __future__ import annotations

import numpy as np


def toy(name: str, count: int, seed: int) -> np.ndarray:
    """(count, 2) float32 points about 0 with about unit spread."""
    rng = np.random.default_rng(seed)
    if name == "moons":
        from sklearn.datasets import make_moons

        raw = make_moons(count, noise=0.07, random_state=seed)[0]
        return ((raw - [0.5, 0.25]) / [0.87, 0.5]).astype(np.float32)
    if name == "8gaussians":
        angle = rng.integers(0, 8, count) * 2 * np.pi / 8
        centres = 1.41 * np.stack([np.cos(angle), np.sin(angle)], 1)
        return (centres + 0.14 * rng.normal(size=(count, 2))).astype(np.float32)
    arm = rng.integers(0, 5, count)
    blade = rng.normal(size=(count, 2)) * [0.3, 0.1] + [1.0, 0.0]
    turn = arm * 2 * np.pi / 5 + 0.25 * np.exp(blade[:, 0])
    cosine, sine = np.cos(turn), np.sin(turn)
    turned = [cosine * blade[:, 0] - sine * blade[:, 1], sine * blade[:, 0] + cosine * blade[:, 1]]
    return (1.4 * np.stack(turned, 1)).astype(np.float32)

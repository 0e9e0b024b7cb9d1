"""Four densities for samplers, in numpy constants and torch or jax functions; imports nothing of ours, peers read it too.

gauss100: a Gaussian in 100 dimensions of condition number 100, turned.  mix8: eight normal hills of width 0.4 on a
circle of radius 2.  ring: radius 2, width 0.2.  mlp16: two hidden layers of 64 SiLU units with random weights, held by a
weak quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

CHAINS = 64
STEP = {"gauss100": 0.10, "mix8": 0.25, "ring": 0.15, "mlp16": 0.30}
"""Step sizes that samplers which are given one take; those that find their own begin there."""
DIM = {"gauss100": 100, "mix8": 2, "ring": 2, "mlp16": 16}


def constants() -> dict[str, Any]:
    """Frame, variances and precision of the Gaussian, places of the hills, weights and biases of the network."""
    random = np.random.default_rng(0)
    frame, _ = np.linalg.qr(random.normal(size=(100, 100)))
    variance = np.logspace(-2, 0, 100)
    precision = (frame / variance) @ frame.T
    angle = np.arange(8) * 2 * np.pi / 8
    hills = 2.0 * np.stack([np.cos(angle), np.sin(angle)], 1)
    sizes = [16, 64, 64, 1]
    weights = [2.0 * random.normal(size=(a, b)) / math.sqrt(a) for a, b in zip(sizes, sizes[1:], strict=False)]
    biases = [0.5 * random.normal(size=b) for b in sizes[1:]]
    out: dict[str, Any] = {
        "frame": frame,
        "variance": variance,
        "precision": 0.5 * (precision + precision.T),
        "hills": hills,
    }
    out = {k: v.astype(np.float32) for k, v in out.items()}
    out["weights"] = [w.astype(np.float32) for w in weights]
    out["biases"] = [b.astype(np.float32) for b in biases]
    return out


C = constants()


def torch_energy(name: str) -> Callable[[Any], Any]:
    """(..., d) to (...), in torch."""
    import torch

    if name == "gauss100":
        precision = torch.tensor(C["precision"])
        return lambda x: 0.5 * ((x @ precision) * x).sum(-1)
    if name == "mix8":
        hills = torch.tensor(C["hills"])
        return lambda x: -torch.logsumexp(-((x.unsqueeze(-2) - hills) ** 2).sum(-1) / 0.32, -1)
    if name == "ring":
        return lambda x: ((x * x).sum(-1).add(1e-12).sqrt() - 2.0) ** 2 / 0.08
    weights, biases = ([torch.tensor(a) for a in C[k]] for k in ("weights", "biases"))
    silu = torch.nn.functional.silu

    def network(x: Any) -> Any:
        h = silu(x @ weights[0] + biases[0])
        h = silu(h @ weights[1] + biases[1])
        return (h @ weights[2] + biases[2]).squeeze(-1) + 0.25 * (x * x).sum(-1)

    return network


def jax_energy(name: str) -> Callable[[Any], Any]:
    """(d,) to a number, in jax."""
    import jax
    import jax.numpy as jnp

    if name == "gauss100":
        precision = jnp.asarray(C["precision"])
        return lambda x: 0.5 * jnp.dot(x @ precision, x)
    if name == "mix8":
        hills = jnp.asarray(C["hills"])
        return lambda x: -jax.nn.logsumexp(-((x - hills) ** 2).sum(-1) / 0.32)
    if name == "ring":
        return lambda x: (jnp.sqrt((x * x).sum() + 1e-12) - 2.0) ** 2 / 0.08
    weights, biases = ([jnp.asarray(a) for a in C[k]] for k in ("weights", "biases"))

    def network(x: Any) -> Any:
        h = jax.nn.silu(x @ weights[0] + biases[0])
        h = jax.nn.silu(h @ weights[1] + biases[1])
        return (h @ weights[2] + biases[2])[0] + 0.25 * (x * x).sum()

    return network


def starts(name: str, seed: int = 1) -> np.ndarray:
    """(chains, d) float32: standard normal, and draws of the Gaussian itself, where only the mixing is looked at."""
    z = np.random.default_rng(seed).normal(size=(CHAINS, DIM[name]))
    if name == "gauss100":
        z = (z * np.sqrt(C["variance"])) @ C["frame"].T
    return z.astype(np.float32)


def ess(draws: np.ndarray) -> float:
    """What the draws (chains, n) of one quantity are worth for its mean: chains halved, Geyer's monotone pairs (1992)."""
    half = draws.shape[1] // 2
    x = np.concatenate([draws[:, :half], draws[:, half : 2 * half]]).astype(np.float64)
    chains, count = x.shape
    apart = x - x.mean(1, keepdims=True)
    spectrum = np.fft.rfft(apart, 2 * count, axis=1)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), 2 * count, axis=1)[:, :count].mean(0) / (count - 1)
    total = covariance[0] * (count - 1) / count + x.mean(1).var(ddof=1)
    if not (np.isfinite(total) and total > 0):
        return math.nan
    correlation = 1.0 - (covariance[0] - covariance) / total
    pairs = correlation[: count // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs < 0)
    pairs = np.minimum.accumulate(pairs[: negative[0] if negative.size else pairs.size])
    return float(chains * count / max(2.0 * pairs.sum() - 1.0, 1.0 / math.log10(chains * count)))


def judged(name: str, draws: np.ndarray) -> tuple[float, float]:
    """ESS of the worst direction and the error of the target, of draws (chains, n, d) without their first quarter.

    The error is of the variances (root mean square, relative), of the shares of the hills (total variation), of the mean
    radius; of the network there is no truth, and it is the mean variance.
    """
    draws = draws[:, draws.shape[1] // 4 :]
    if name == "gauss100":
        draws = draws @ C["frame"]
        worst = min(ess(draws[:, :, i]) for i in (*range(5), *range(95, 100)))
        spread = draws.reshape(-1, 100).var(0)
        return worst, float(np.sqrt(np.mean((spread / C["variance"] - 1) ** 2)))
    worst = min(ess(draws[:, :, i]) for i in range(draws.shape[2]))
    flat = draws.reshape(-1, draws.shape[2])
    if name == "mix8":
        hill = ((flat[:, None] - C["hills"]) ** 2).sum(-1).argmin(1)
        return worst, float(0.5 * np.abs(np.bincount(hill, minlength=8) / len(hill) - 1 / 8).sum())
    if name == "ring":
        r = np.linspace(1e-3, 4, 20001)
        p = r * np.exp(-((r - 2) ** 2) / 0.08)
        return worst, float(abs(np.linalg.norm(flat, axis=1).mean() - (r * p).sum() / p.sum()))
    return worst, float(flat.var(0).mean())

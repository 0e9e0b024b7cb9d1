"""Independent components: square, overcomplete, and of natural patches, against FastICA and bare torch loops.

``python -m benchmarks.components square overcomplete patches speed``: one JSON line a figure and seed. Data are those of
the peers' runs: Laplace sources through a random matrix; 10,000 draws of exp(-3 sum log cosh(2 w_i x)) by Hamiltonian
Monte Carlo; 50,000 patches of photographs that come with scikit-image and scikit-learn, 40,000 of them to train on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares, linear_sum_assignment

import ebmstruct as es

SEEDS = range(int(os.environ.get("SEEDS", "5")))


@dataclass(frozen=True)
class Row:
    """One vector."""

    y: Any
    x: Any = None


class Vectors:
    """What training asks of a task: the vectors as the block x."""

    def encode(self, ys: Sequence[Any], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        """The vectors, (B, d)."""
        return es.Assignment({"x": torch.stack(list(ys))})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> tuple[()]:
        """Nothing."""
        return ()


def emit(**figures: Any) -> None:
    """A line of JSON."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    sys.stdout.write(json.dumps(rounded) + "\n")
    sys.stdout.flush()


def trained(
    model: es.IndependentComponents, x: np.ndarray, loss: es.Loss, **options: Any
) -> tuple[es.IndependentComponents, float]:
    """The model after ``es.fit``, and the CPU seconds that took."""
    rows = [Row(v) for v in torch.tensor(x, dtype=torch.float32)]
    begun = time.process_time()
    es.fit(model, Vectors(), None, rows, loss, es.TrainingOptions(**options))
    return model, time.process_time() - begun


def unit_filters(model: es.IndependentComponents) -> np.ndarray:
    """(count, d) filters of length 1."""
    filters = model.expert.filters().detach()
    found: np.ndarray = (filters / filters.norm(dim=1, keepdim=True)).numpy()
    return found


def amari(p: np.ndarray) -> float:
    """The Amari distance of unmixing @ mixing from a permutation: 0 where it is one, 1 at most."""
    p, n = np.abs(p), len(p)
    both = (p / p.max(1, keepdims=True)).sum() + (p / p.max(0, keepdims=True)).sum()
    return float((both - 2 * n) / (2 * n * (n - 1)))


def whitened(x: np.ndarray, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of unit variance, and the matrix (D, k) that makes them."""
    x = x - x.mean(0)
    variance, directions = np.linalg.eigh(np.cov(x.T))
    order = np.argsort(variance)[::-1][:k]
    matrix = directions[:, order] / np.sqrt(variance[order])
    return x @ matrix, matrix


def square() -> None:
    """Amari distances in 4 and 16 dimensions."""
    from sklearn.decomposition import FastICA

    for d in (4, 16):
        for seed in SEEDS:
            random = np.random.default_rng(seed)
            sources, mixing = random.laplace(size=(10000, d)), random.normal(size=(d, d))
            x = sources @ mixing.T
            z, matrix = whitened(x)
            begun = time.process_time()
            fast = FastICA(d, whiten="unit-variance", random_state=0, max_iter=1000, tol=1e-5).fit(x)
            emit(part="square", who="FastICA", d=d, seed=seed, amari=amari(fast.components_ @ mixing),
                 cpu_s=time.process_time() - begun)  # fmt: skip
            runs: tuple[tuple[str, es.Loss, dict[str, Any]], ...] = (
                ("score matching", es.ScoreMatching(form="exact"), {"learn_sharpness": False}),
                ("likelihood", es.EnergyLoss(), {"normalised": True, "sharpness": 2.0, "tied": True}),
            )
            for who, loss, options in runs:
                torch.manual_seed(seed)
                model = es.IndependentComponents(d, **options)
                model, cpu = trained(model, z, loss, optimizer="lbfgs", lr=1.0, epochs=30)
                emit(
                    part="square",
                    who=who,
                    d=d,
                    seed=seed,
                    amari=amari(unit_filters(model) @ matrix.T @ mixing),
                    cpu_s=cpu,
                )


def overcomplete_data(seed: int, d: int = 8, m: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """(10000, d) draws and the (m, d) filters behind them."""
    random = np.random.default_rng(seed)
    filters = random.normal(size=(m, d))
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    w = torch.tensor(filters, dtype=torch.float32)

    def force(v: torch.Tensor) -> torch.Tensor:
        return (6.0 * torch.tanh(2 * (v @ w.T))) @ w

    def energy(v: torch.Tensor) -> torch.Tensor:
        return 3.0 * torch.log(torch.cosh(2 * (v @ w.T))).sum(1)

    torch.manual_seed(seed)
    v = 0.3 * torch.randn(10000, d)
    for _ in range(150):
        p = torch.randn_like(v)
        before, y, q = energy(v) + 0.5 * (p * p).sum(1), v, p - 0.05 * force(v)
        for j in range(8):
            y = y + 0.1 * q
            q = q - (0.5 if j == 7 else 1) * 0.1 * force(y)
        taken = torch.rand(len(v)).log() < before - energy(y) - 0.5 * (q * q).sum(1)
        v = torch.where(taken[:, None], y, v)
    return v.numpy(), filters


def matched(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The |cosine| of each true filter with the one assigned to it."""
    cosine = np.abs(found @ true.T)
    i, j = linear_sum_assignment(-cosine)
    out: np.ndarray = cosine[i, j]
    return out


def overcomplete() -> None:
    """Sixteen filters in eight dimensions."""
    for seed in SEEDS:
        x, true = overcomplete_data(seed)
        x = x / x.std()
        for who, tied, starts in (("each its own shape, one start", False, 1), ("one shape, 8 starts", True, 8)):
            torch.manual_seed(seed)
            model = es.IndependentComponents(8, 16, tied=tied, power=3.0, sharpness=0.7, starts=starts)
            begun = time.process_time()
            seen = es.Assignment({"x": torch.tensor(x)})  # all of them: es.fit alone would start from some
            model.initialise(model.graph([None] * len(x)), seen, torch.Generator().manual_seed(seed))
            before, model.starts = time.process_time() - begun, 0
            model, cpu = trained(model, x, es.ScoreMatching(form="exact"), optimizer="lbfgs", lr=1.0, epochs=2)
            cpu += before
            found = matched(unit_filters(model), true)
            emit(part="overcomplete", who=f"score matching, {who}", seed=seed, cosine=float(found.mean()),
                 above_095=float((found > 0.95).mean()), cpu_s=cpu)  # fmt: skip


def limit() -> None:
    """The cosine that the Fisher information of the draws leaves to an unbiased estimator: with one shape, and one each."""
    from scipy.linalg import null_space

    for seed in SEEDS:
        x, true = overcomplete_data(seed)
        m, d = true.shape
        answers = 2 * x.astype(np.float64) @ true.T
        tanh, log_cosh = np.tanh(answers), np.log(np.cosh(answers))
        turns = np.concatenate([6 * tanh[:, i : i + 1] * (x @ null_space(true[i : i + 1])) for i in range(m)], 1)
        each = np.concatenate([log_cosh, tanh * answers], 1)
        one = np.stack([log_cosh.sum(1), (tanh * answers).sum(1)], 1)
        figures = {}
        for name, shape in (("one_shape", one), ("own_shapes", each)):
            information = len(x) * np.cov(np.concatenate([turns, shape], 1).T)
            angle2 = np.diag(np.linalg.inv(information))[: m * (d - 1)].reshape(m, d - 1).sum(1)
            figures[name] = float(np.cos(np.sqrt(angle2)).mean())
        emit(part="limit", seed=seed, **figures)


def patch_data(count: int = 50000, size: int = 12, seed: int = 0) -> np.ndarray:
    """(count, size^2) log intensities less their mean."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    images = [np.asarray(i, float).mean(-1) for i in load_sample_images().images]
    images += [np.asarray(getattr(data, n)(), float) for n in ("camera", "brick", "grass", "gravel", "coins", "moon")]
    images += [np.asarray(data.astronaut(), float).mean(-1), np.asarray(data.chelsea(), float).mean(-1)]
    random, out = np.random.default_rng(seed), []
    for _ in range(count):
        image = images[random.integers(len(images))]
        r, c = random.integers(image.shape[0] - size), random.integers(image.shape[1] - size)
        out.append(np.log1p(image[r : r + size, c : c + size]).ravel())
    x = np.array(out)
    centred: np.ndarray = x - x.mean(1, keepdims=True)
    return centred


def gabor_r2(f: np.ndarray, s: int = 12) -> float:
    """The share of a filter's squares that a Gabor function holds, by scipy from two phases: the peers' measure."""
    ys, xs = np.mgrid[0:s, 0:s].astype(float)
    f = f.reshape(s, s) / np.linalg.norm(f)

    def gabor(p: np.ndarray) -> np.ndarray:
        x, y, turn, a, b, frequency, phase, size = p
        u = (xs - x) * np.cos(turn) + (ys - y) * np.sin(turn)
        v = -(xs - x) * np.sin(turn) + (ys - y) * np.cos(turn)
        out: np.ndarray = (
            size * np.exp(-(u**2) / (2 * a**2) - v**2 / (2 * b**2)) * np.cos(2 * np.pi * frequency * u + phase)
        )
        return out

    row, column = np.unravel_index((f**2).argmax(), f.shape)
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(f, (48, 48))))
    ky, kx = ((int(k) - 24) / 48 for k in np.unravel_index(spectrum.argmax(), spectrum.shape))
    best = 0.0
    for phase in (0, np.pi / 2):
        start = [column, row, np.arctan2(ky, kx), 2, 2, np.hypot(kx, ky), phase, 0.5]
        bounds = ([-3, -3, -10, 0.4, 0.4, 0, -10, -3], [15, 15, 10, 8, 8, 0.7, 10, 3])
        found = least_squares(lambda p: (gabor(p) - f).ravel(), start, bounds=bounds, max_nfev=60)
        best = max(best, 1 - 2 * float(found.cost))
    return best


def judged(filters: np.ndarray, whitening: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Gabor fits of 40 filters at equal distances, seen as pixels, and of all by the plugin's; kurtosis; twins."""
    from ebmstruct_generative.patches.gabor import fitted

    back = np.linalg.pinv(whitening)
    looked = np.array([gabor_r2(w @ back) for w in filters[:: max(1, len(filters) // 40)]])
    every = fitted(torch.tensor((filters @ back).reshape(-1, 12, 12)).double()).r2
    answers = held_out @ filters.T
    kurtosis = (answers**4).mean(0) / (answers**2).mean(0) ** 2 - 3
    cosine = np.abs(filters @ filters.T) - np.eye(len(filters))
    return {
        "gabor_median": float(np.median(looked)), "gabor_above_08": float((looked > 0.8).mean()),
        "all_median": float(every.median()), "all_above_08": float((every > 0.8).double().mean()),
        "kurtosis": float(np.median(kurtosis)), "twins": float((cosine.max(1) > 0.95).mean()),
    }  # fmt: skip


def patches() -> None:
    """Two hundred filters of natural patches, on their hundred first principal components."""
    z, whitening = whitened(patch_data(), 100)
    train, held_out = z[:40000], z[40000:]
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = es.IndependentComponents(100, 200, sharpness=2.0, learn_sharpness=False)
        model, cpu = trained(model, train, es.ScoreMatching(form="exact"), optimizer="adam", lr=0.03, epochs=45,
                             batch_size=500, schedule="linear", final_lr_fraction=0.01, seed=seed)  # fmt: skip
        emit(part="patches", seed=seed, **judged(unit_filters(model), whitening, held_out), cpu_s=cpu)


def bare_step(weight: torch.Tensor, power: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The objective written out by hand, as the peers' loop has it."""
    rows = weight / weight.norm(dim=1, keepdim=True)
    a, t = power.exp(), torch.tanh(x @ rows.T)
    s = (a * t) @ rows
    return 0.5 * (s * s).sum(1).mean() - (a * (1 - t * t)).sum(1).mean()


def speed() -> None:
    """A step of training, 200 filters in 100 dimensions and batches of 500, against the same written by hand."""
    x = torch.randn(40000, 100, generator=torch.Generator().manual_seed(0)).numpy()
    for seed in SEEDS:
        speed_of(x, seed)


def speed_of(x: np.ndarray, seed: int) -> None:
    """One line of ``speed``."""
    torch.manual_seed(seed)
    model = es.IndependentComponents(100, 200)
    _, ours = trained(model, x, es.ScoreMatching(form="exact"), optimizer="adam", epochs=5, batch_size=500)
    weight, power = torch.randn(200, 100, requires_grad=True), torch.zeros(200, requires_grad=True)
    rows, descent = torch.tensor(x), torch.optim.Adam([weight, power], lr=1e-3)
    begun = time.process_time()
    for _ in range(400):
        value = bare_step(weight, power, rows[torch.randint(len(rows), (500,))])
        descent.zero_grad()
        value.backward()
        descent.step()
    bare = time.process_time() - begun
    loss, block = es.ScoreMatching(form="exact"), es.Assignment({"x": rows[:500]})
    closed = _timed(lambda: loss(model.graph([None] * 500), block).value.mean().backward(), 200)
    by_hand = _timed(lambda: bare_step(weight, power, rows[:500]).backward(), 200)
    emit(part="speed", seed=seed, fit_ms=1e3 * ours / 400, bare_ms=1e3 * bare / 400, ratio=ours / bare,
         loss_ms=1e3 * closed, by_hand_ms=1e3 * by_hand, loss_ratio=closed / by_hand)  # fmt: skip


def _timed(call: Callable[[], Any], times: int) -> float:
    """CPU seconds of one call."""
    for _ in range(5):
        call()
    begun = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begun) / times


def main() -> None:
    """The parts named, or all of them."""
    torch.set_num_threads(1)
    parts = {"square": square, "overcomplete": overcomplete, "limit": limit, "patches": patches, "speed": speed}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()

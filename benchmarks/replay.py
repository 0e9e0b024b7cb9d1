"""Langevin with a replay buffer on points of the plane and on digits: how good the draws are, and whether it collapses.

``python -m benchmarks.replay [--data moons 8gaussians pinwheel digits] [--budgets 30 120] [--seeds 5] [-o FILE]``
trains ``generative.network`` (``generative.convolutional`` on digits) by ``es.fit`` for so many seconds of processor time
on one thread, draws as many records as are held out, and prints one JSON line a training: two-sample measures of the
draws against the held-out records. ``--walk langevin`` takes Langevin steps without a test, ``--walk plain``
leaves the fresh starts out too, which is what peers do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import ebmstruct as es
from benchmarks.planar_points import toy
from ebmstruct_generative.convolutional import Convolutional
from ebmstruct_generative.network import Network
from ebmstruct_generative.records import RECORD, RecordSchema

TOYS = ("moons", "8gaussians", "pinwheel")


@dataclass(frozen=True)
class Point:
    """A record; nothing is given of it."""

    y: np.ndarray
    x: tuple[()] = ()


class Points:
    """Records are vectors already."""

    def encode(self, ys: Sequence[np.ndarray], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        """The records one below the other."""
        return es.Assignment({RECORD: torch.from_numpy(np.stack(ys))})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> list[es.Factor]:
        """Nothing costs anything."""
        return []


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out records; as many are drawn as are held out."""
    if name != "digits":
        return toy(name, 5000, 0), toy(name, 1000, 1)
    from sklearn.datasets import load_digits

    pictures = load_digits().data.astype(np.float32) / 8.0 - 1.0
    order = np.random.default_rng(0).permutation(len(pictures))
    return pictures[order[:1257]], pictures[order[1257:]]


def measures(real: np.ndarray, made: np.ndarray, *, grey: bool) -> dict[str, float]:
    """MMD^2, accuracy of a classifier (0.5 cannot tell), density and coverage (Naeem et al. 2020), of draws."""
    from scipy.spatial.distance import cdist
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    made = np.clip(made[np.isfinite(made).all(1)], -1e3, 1e3)
    if grey:  # 17 grey levels in [-1, 1]
        made = np.clip(np.rint((made + 1) * 8), 0, 16) / 8 - 1
    between, within, own = cdist(real, made), cdist(real, real), cdist(made, made)
    middle = np.median(within[np.triu_indices(len(real), 1)])
    discrepancy = 0.0
    for factor in (0.5, 1.0, 2.0):
        a, b, c = (np.exp(-(d**2) / (2 * (factor * middle) ** 2)) for d in (within, own, between))
        n, m = len(a), len(b)
        discrepancy += (a.sum() - n) / (n * (n - 1)) + (b.sum() - m) / (m * (m - 1)) - 2 * c.mean()
    count = min(len(real), len(made))
    both, label = np.concatenate([real[:count], made[:count]]), np.repeat([0, 1], count)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    said = cross_val_predict(RandomForestClassifier(100, random_state=0), both, label, cv=folds)
    radius = np.sort(within, 1)[:, 5]
    inside = between < radius[:, None]
    return {
        "mmd2": float(discrepancy),
        "c2st": float((said == label).mean()),
        "density": float(inside.sum(0).mean() / 5),
        "coverage": float(inside.any(1).mean()),
    }


@dataclass(frozen=True)
class Recipe:
    """A model's width, a loss and a step size of learning, for one kind of records."""

    loss: es.PersistentContrastiveDivergence
    lr: float
    batch: int
    sampler: es.Solver

    def model(self, schema: RecordSchema) -> es.EnergyModel:
        """The energy."""
        return Convolutional(schema) if len(schema.shape) == 3 else Network(schema)


def recipe(name: str, walk: str) -> Recipe:
    """What the figures are measured with.  walk: ``mala``, ``langevin``, or ``plain``: Langevin without fresh starts."""
    if name == "digits":
        options: dict[str, Any] = {"step_size": 0.01, "noise_scale": 0.02, "clip_sample": 1.2}
        loss = es.PersistentContrastiveDivergence(
            steps=20, size=2000, reinitialise=0.05, energy_decay=0.001, data_noise=0.05, **options
        )
        return Recipe(loss, 1e-3, 128, es.Langevin(chains=1, burn_in=500, **options))
    fresh: dict[str, Any] = {} if walk == "plain" else {"restart_every": 5, "restart_scale": 1.3}
    size = 4e-3 if walk == "mala" else 2e-3
    loss = es.PersistentContrastiveDivergence(
        steps=5, step_size=size, size=1000, reinitialise=0.05 if walk == "plain" else 0.0,
        sampler="mala" if walk == "mala" else "langevin", **fresh,
    )  # fmt: skip
    sampler = es.MALA if walk == "mala" else es.Langevin
    return Recipe(loss, 2e-3, 250, sampler(step_size=size, chains=1, burn_in=500, **fresh))


def trained(name: str, seed: int, budget: float, walk: str) -> tuple[es.EnergyModel, Recipe, es.TrainingTrace, float]:
    """A model trained for about ``budget`` processor seconds, by a schedule fitted to a pace measured beforehand."""
    train, _ = data(name)
    schema = RecordSchema((1, 8, 8) if name == "digits" else (2,))
    chosen = recipe(name, walk)
    examples = [Point(row) for row in train]

    def fitted(epochs: int) -> tuple[es.EnergyModel, es.TrainingTrace, float]:
        torch.manual_seed(seed)
        model = chosen.model(schema)
        options = es.TrainingOptions(
            epochs=epochs, batch_size=chosen.batch, optimizer="adam", lr=chosen.lr, schedule="linear",
            final_lr_fraction=0.005, clip=1.0, ema=0.99, seed=seed,
        )  # fmt: skip
        begun = time.process_time()
        trace = es.fit(model, Points(), schema, examples, chosen.loss, options)
        return model, trace, time.process_time() - begun

    fitted(2)
    pace = fitted(10)[2] / 10
    model, trace, spent = fitted(max(1, int(0.97 * budget / pace)))
    return model, chosen, trace, spent


def measured(name: str, seed: int, budget: float, walk: str) -> dict[str, Any]:
    """One line of the figures."""
    model, chosen, trace, spent = trained(name, seed, budget, walk)
    real = data(name)[1]
    begun = time.process_time()
    graph = model.graph([()] * len(real))
    drawn = es.sample(graph, chosen.sampler, num_samples=1, generator=torch.Generator().manual_seed(seed), quiet=True)
    sampling = time.process_time() - begun
    found = measures(real, drawn.values[RECORD][0].numpy(), grey=name == "digits")
    return {
        "data": name, "budget_cpu_s": budget, "seed": seed, "walk": walk, "epochs": len(trace.epochs),
        "cpu_s": round(spent, 1), "sample_s": round(sampling, 1), **{k: round(v, 4) for k, v in found.items()},
        "rollbacks": len(getattr(trace, "rollbacks", [])),
    }  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", default=list(TOYS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[30.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--walk", choices=("mala", "langevin", "plain"), default="mala")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for budget in given.budgets:
        for seed in range(given.first, given.first + given.seeds):
            for name in given.data:
                line = json.dumps(measured(name, seed, budget, given.walk))
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
                if given.output is not None:
                    with given.output.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")


if __name__ == "__main__":
    main()

"""Denoising energies on points of the plane and on 8 x 8 digits: how good the draws are, and whether they copy.

``python -m benchmarks.denoising [--data moons 8gaussians pinwheel digits digits_by_class] [--budgets 30] [--seeds 0 1 2]
[-o FILE]`` trains ``generative.denoiser`` by ``es.fit`` with the loss ``denoising`` for about so many seconds of
processor time on one thread, draws by ``annealed_langevin`` as many records as are held out, and prints one JSON line a
training: two-sample measures of the draws against the held-out records, and how near they lie to training records.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import ebmstruct as es
from benchmarks.planar_points import toy
from ebmstruct_generative.denoiser import Denoiser
from ebmstruct_generative.quality.classifier import classifier_accuracy
from ebmstruct_generative.quality.nearest import nearest_record
from ebmstruct_generative.quality.samples import density_coverage
from ebmstruct_generative.records import RecordSchema

TOYS = ("moons", "8gaussians", "pinwheel")
DIGITS = ("digits", "digits_by_class")
COUNT, HELD_OUT = 5000, 1000
"""Points of the plane, for training and held out."""


@dataclass(frozen=True)
class Record:
    """A record, and its class where that is given."""

    y: np.ndarray
    x: dict[str, str] = field(default_factory=dict)


class Records:
    """Records are vectors already."""

    def encode(self, ys: Sequence[Any], graph: es.FactorGraph, schema: RecordSchema) -> es.Assignment:
        """The records as values of the graph's block."""
        return schema.values(graph, torch.from_numpy(np.stack(ys)))

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> list[es.Factor]:
        """Nothing costs anything."""
        return []


@dataclass(frozen=True)
class Recipe:
    """What the figures are measured with: keys of the sections energy, loss, solver and train of a task file."""

    energy: dict[str, Any]
    loss: dict[str, Any]
    solver: dict[str, Any]
    train: dict[str, Any]


POINTS = Recipe(
    {"lowest": 0.03, "highest": 4.0, "width": 64, "depth": 2},
    {},
    {"levels": 50},
    {"batch_size": 500, "lr": 4e-3, "ema": 0.99, "clip": 1.0},
)
PICTURES = Recipe(
    {"lowest": 0.03, "highest": 4.0, "spread": 0.75, "filters": 16, "depth": 2, "dropout": 0.1},
    {"spread": 0.75},
    {"levels": 40},
    {"batch_size": 128, "lr": 3e-3, "ema": 0.995, "clip": 30.0},
)


@dataclass(frozen=True)
class Data:
    """train, held: records for training and held out.  classes, held_classes: theirs, -1 where they are not given."""

    train: np.ndarray
    held: np.ndarray
    classes: np.ndarray
    held_classes: np.ndarray

    @property
    def given(self) -> bool:
        """Whether classes are given."""
        return bool((self.classes >= 0).all())

    @property
    def schema(self) -> RecordSchema:
        """What an energy knows of the records."""
        names = tuple(str(k) for k in range(10)) if self.given else ()
        return RecordSchema((1, 8, 8) if self.train.shape[1] == 64 else (2,), names, "class")


def data(name: str) -> Data:
    """As many records are drawn as are held out."""
    if name not in DIGITS:
        train, held = toy(name, COUNT, 0), toy(name, HELD_OUT, 1)
        return Data(train, held, np.full(len(train), -1), np.full(len(held), -1))
    from sklearn.datasets import load_digits

    loaded = load_digits()
    order = np.random.default_rng(0).permutation(len(loaded.data))
    pictures = (loaded.data.astype(np.float32) / 8.0 - 1.0)[order]
    classes = loaded.target[order] if name == "digits_by_class" else np.full(len(order), -1)
    return Data(pictures[:1257], pictures[1257:], classes[:1257], classes[1257:])


def trained(records: Data, recipe: Recipe, seed: int, budget: float) -> tuple[es.EnergyModel, int, float]:
    """A model trained for about ``budget`` processor seconds, the epochs, and the seconds that it took.

    The learning rate falls to 0 over the run, so the pace is measured beforehand.
    """
    schema = records.schema
    examples = [
        Record(y, {"class": str(k)} if k >= 0 else {}) for y, k in zip(records.train, records.classes, strict=True)
    ]

    def fitted(epochs: int) -> tuple[es.EnergyModel, float]:
        torch.manual_seed(seed)
        model = Denoiser(schema, **recipe.energy)
        options = es.TrainingOptions(
            epochs=epochs, optimizer="adamw", schedule="cosine", warmup=0.02, seed=seed, **recipe.train
        )
        begun = time.process_time()
        es.fit(model, Records(), schema, examples, es.DenoisingScoreMatching(**recipe.loss), options)
        return model, time.process_time() - begun

    fitted(1)
    pace = fitted(5)[1] / 5
    epochs = max(1, int(0.97 * budget / pace))
    model, spent = fitted(epochs)
    return model, epochs, spent


def drawn(model: es.EnergyModel, records: Data, recipe: Recipe, seed: int) -> np.ndarray:
    """As many records as are held out, of their classes where classes are given."""
    inputs = [{"class": str(k)} if k >= 0 else {} for k in records.held_classes]
    with torch.no_grad():
        graph = model.graph(inputs)
    source = torch.Generator().manual_seed(seed)
    found = es.sample(graph, es.AnnealedLangevin(**recipe.solver), num_samples=1, generator=source, quiet=True)
    rows = records.schema.vectors(graph, es.Assignment({n: v[0] for n, v in found.values.items()})).numpy()
    if rows.shape[1] == 64:  # digits have 17 levels of grey in [-1, 1]
        rows = np.clip(np.rint((rows + 1) * 8), 0, 16) / 8 - 1
    return rows.astype(np.float32)


def measures(records: Data, made: np.ndarray) -> dict[str, float]:
    """Of draws beside held-out records: accuracy of a forest that tells them apart (0.5 cannot), density and coverage
    (Naeem et al. 2020), and the nearest-record ratio: of the median distances of draws and of held-out records to the
    training records. With classes, the share that a classifier trained on the training records finds in the right one.
    """
    from sklearn.svm import SVC

    real, finite = records.held, np.isfinite(made).all(1)
    used = np.clip(made[finite], -1e3, 1e3)
    density, coverage = density_coverage(real, used)
    found = {
        "c2st": classifier_accuracy(real, used),
        "coverage": coverage,
        "density": density,
        "nearest_ratio": nearest_record(used, real, records.train).ratio,
        "finite": float(finite.mean()),
    }
    if records.given:
        judge = SVC(gamma=0.02, C=10).fit(records.train, records.classes)
        found["right_class"] = float((judge.predict(used) == records.held_classes[finite]).mean())
        found["right_class_held_out"] = float((judge.predict(real) == records.held_classes).mean())
    return found


def measured(name: str, seed: int, budget: float, keep: Path | None = None) -> dict[str, Any]:
    """One line of the figures; the draws themselves go to ``keep``."""
    records, recipe = data(name), POINTS if name in TOYS else PICTURES
    model, epochs, spent = trained(records, recipe, seed, budget)
    begun = time.process_time()
    made = drawn(model, records, recipe, seed)
    sampling = time.process_time() - begun
    if keep is not None:
        np.save(keep / f"{name}_{budget:g}_{seed}.npy", made)
    found = {k: round(v, 4) for k, v in measures(records, made).items()}
    line = {"data": name, "budget_cpu_s": budget, "seed": seed, "epochs": epochs, "cpu_s": round(spent, 1)}
    return {**line, "sample_cpu_s": round(sampling, 1), **found}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", default=[*TOYS, *DIGITS], choices=[*TOYS, *DIGITS])
    parser.add_argument("--budgets", nargs="+", type=float, default=[30.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--keep", type=Path, help="a folder for the draws")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for budget in given.budgets:
        for seed in given.seeds:
            for name in given.data:
                line = json.dumps(measured(name, seed, budget, given.keep))
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
                if given.output is not None:
                    with given.output.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")


if __name__ == "__main__":
    main()

"""How good drawn pictures are: beside held-out ones, beside training ones, and by a classifier of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ebmstruct.errors import PluginError
from ebmstruct_generative.quality import classifier_accuracy, density_coverage, nearest_record

FOREST_ROWS = 1000
JUDGE_ROWS = 5000
LEAST = 12
"""Pictures on each side below which nothing is measured."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier that has nothing to do with the model: a support vector machine on the training pictures.

    accuracy: on pictures that it has not learnt from, NaN where there are none.
    """

    machine: Any
    accuracy: float

    @classmethod
    def of(cls, train: np.ndarray, classes: Sequence[str], other: np.ndarray, others: Sequence[str]) -> Judge | None:
        """Trained on vectors (N, dim), tried on others; None where there are fewer than two classes."""
        if len(set(classes)) < 2:
            return None
        try:
            from sklearn.svm import SVC
        except ImportError:
            raise PluginError("the judge of classes needs scikit-learn; pip install 'ebmstruct[generative]'") from None
        some = np.random.default_rng(0).permutation(len(train))[:JUDGE_ROWS]
        machine = SVC(C=10.0, gamma="scale").fit(train[some], np.asarray(classes)[some])
        right = machine.predict(other) == np.asarray(others) if len(other) else np.zeros(0)
        return cls(machine, float(np.mean(right)) if len(right) else float("nan"))

    def right(self, vectors: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """(N,) bool: whether each picture is classified as what it was drawn to be."""
        out: np.ndarray = self.machine.predict(vectors) == np.asarray(classes)
        return out


def drawn_scores(real: np.ndarray, drawn: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """Measures of drawn vectors beside real ones that the model has not seen and those that it has.

    ``fidelity``, by which the best epoch is chosen, is coverage x 2 (1 - classifier_accuracy) x
    min(1, nearest_ratio)^2, from 0 to about 1. A model that copies its training pictures has a low nearest_ratio, so that
    training stops being better there.
    """
    fine = np.isfinite(drawn).all(1)
    if min(len(real), int(fine.sum()), len(train)) < LEAST:
        return {"fidelity": 0.0}
    drawn = drawn[fine]
    density, coverage = density_coverage(real, drawn)
    accuracy = classifier_accuracy(real, drawn, rows=FOREST_ROWS)
    ratio = float(np.nan_to_num(nearest_record(drawn, real, train).ratio, nan=0.0, posinf=9.0))
    fidelity = coverage * 2 * (1 - max(0.5, accuracy)) * min(1.0, ratio) ** 2 * float(fine.mean())
    return {
        "fidelity": fidelity,
        "coverage": coverage,
        "density": density,
        "classifier_accuracy": accuracy,
        "nearest_ratio": ratio,
    }


def calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """The expected calibration error: how far confidence lies from accuracy, bin by bin (Guo et al. 2017, equation 3).

    probability: (N,) of each answer.  right: (N,) bool.
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    apart = [abs(probability[place == k].mean() - right[place == k].mean()) * (place == k).mean() for k in set(place)]
    return float(sum(apart))

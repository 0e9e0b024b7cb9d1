"""Measures by a classifier: whether it tells generated rows from real ones, and what it learns from generated rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct_generative.quality.columns import CATEGORY, Columns, aligned, vectors
from ebmstruct_generative.quality.learners import learner
from ebmstruct_generative.quality.samples import check, subset

FOLDS = 5


def classifier_accuracy(
    real: np.ndarray, generated: np.ndarray, *, rows: int = 2000, trees: int = 100, seed: int = 0
) -> float:
    """How often a random forest, on rows it has not learnt from, tells generated rows from real ones (5 folds).

    0.5 is a coin's luck, the best there is; 1 means that each row gives itself away. More rows let the forest see finer
    differences, so compare figures of equal numbers of rows alone. Generated rows that copy training rows look perfect
    here: see ``nearest_record``. As many rows of each kind are used, ``rows`` at most. Cost about 4 s of processor time
    for 2000 rows of 10 numbers.
    Source: Lopez-Paz and Oquab 2017.
    """
    real, generated = check(real, generated, least=FOLDS)
    count = min(len(real), len(generated), rows)
    x = np.concatenate([subset(real, count, seed), subset(generated, count, seed + 1)])
    labels = np.r_[np.zeros(count), np.ones(count)]
    forest = learner("ensemble", "RandomForestClassifier")(trees, random_state=seed)
    folds = learner("model_selection", "StratifiedKFold")(FOLDS, shuffle=True, random_state=seed)
    told = learner("model_selection", "cross_val_predict")(forest, x, labels, cv=folds)
    return float((told == labels).mean())


def train_on_synthetic(
    generated: Columns,
    real: Columns,
    target: str,
    *,
    rows: int = 10_000,
    trees: int = 100,
    seed: int = 0,
) -> float:
    """How well a random forest that learnt from generated rows predicts a column of real ones from the other columns.

    R^2 where the target is of numbers (1 is perfect, 0 as good as the mean), macro-averaged F1 where it is of categories.
    Compare with the same figure of a forest that learnt from real training rows: pass them as ``generated``. Rows whose
    target is missing are left out. NaN where nothing can be learnt or predicted.
    Source: Esteban, Hyland and Rätsch 2017.
    """
    generated, real = aligned(generated, real)
    generated = _some(generated.take(~generated.missing(target)), rows, seed)
    real = _some(real.take(~real.missing(target)), rows, seed)
    if not len(generated) or len(real) < 2:
        return float("nan")
    if len(generated.names) < 2:
        raise DataError(f"the table has no column but the target {target!r} from which to predict it")
    rest = generated.without(target)
    x, z = vectors(rest, rest, real.without(target))
    name = "RandomForestClassifier" if generated.kind(target) == CATEGORY else "RandomForestRegressor"
    forest = learner("ensemble", name)(trees, random_state=seed, min_samples_leaf=3)
    known, wanted = generated.array(target), real.array(target)
    if name == "RandomForestRegressor":
        return float(learner("metrics", "r2_score")(wanted, forest.fit(x, known).predict(z)))
    macro: Callable[..., float] = learner("metrics", "f1_score")
    return float(macro(wanted, forest.fit(x, known).predict(z), average="macro"))


def _some(table: Columns, rows: int, seed: int) -> Columns:
    return table.take(subset(np.arange(len(table)), rows, seed))

"""Data made here: alarms with alternative causes, so that labels interact and features alone do not decide between them."""

from __future__ import annotations

import numpy as np

from ebmstruct_multilabel.rows import Builder, Labelled

ALARMS = 4
READINGS = 5
SIZES = {"train": 1500, "dev": 300, "test": 500}
"""Rows of each split."""
SEEDS = {"train": 0, "dev": 1, "test": 2}
LOUDNESS, HINT = 0.7, 0.6


def made(split: str) -> Labelled:
    """Rows of one split, always the same.

    Each of four alarms rings with probability 1/2. Five readings of an alarm are 1 where it rings, else 0, plus normal
    noise of 0.7. An alarm that rings has exactly one of two causes, which are the labels (``alarm 1: left``, ``alarm 1:
    right``); one further reading hints at which (-0.6 or 0.6, noise 1). Both causes of an alarm are therefore probable
    where it rings and the hint is weak, and yet never together: labels that are predicted one by one cannot say that.
    """
    random = np.random.default_rng(SEEDS[split])
    count = SIZES[split]
    rings = random.random((count, ALARMS)) < 0.5
    right = random.random((count, ALARMS)) < 0.5
    readings = rings[:, :, None] + LOUDNESS * random.standard_normal((count, ALARMS, READINGS))
    hint = rings * np.where(right, HINT, -HINT) + random.standard_normal((count, ALARMS))
    builder = Builder()
    names = [f"alarm {a + 1} reading {r + 1}" for a in range(ALARMS) for r in range(READINGS)]
    names += [f"alarm {a + 1} hint" for a in range(ALARMS)]
    for name in names:
        builder.column(name)
    labels = [f"alarm {a + 1}: {side}" for a in range(ALARMS) for side in ("left", "right")]
    values = np.concatenate([readings.reshape(count, -1), hint], axis=1)
    for i in range(count):
        chosen = tuple(labels[2 * a + int(right[i, a])] for a in range(ALARMS) if rings[i, a])
        builder.add(dict(enumerate(values[i].tolist())), chosen, f"made {split}:{i + 1}")
    return builder.done(labels)

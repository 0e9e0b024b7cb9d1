"""A classifier that is an energy of pictures too, beside the same network as a classifier alone.

Digits 0 to 7 of scikit-learn (70 % to train, drawn by one seed), a perceptron 64-256-256-8. Told apart by energy from them:
digits 8 and 9, MNIST's digits 0 to 7 shrunk to 8 x 8, uniform noise, patches of a photograph. MNIST is read from
``$EBMSTRUCT_DATA/gen/mnist_t10k`` and left out where it is not there.

``python -m benchmarks.joint_classifier``. Options: --seeds 0 1 2 3 4, --only NAME. Figures are in joint_classifier.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ebmstruct as es
from ebmstruct_generative.images.novelty import auroc, energies_of, other_pictures
from ebmstruct_generative.images.pictures import Sizing
from ebmstruct_generative.images.schema import CLASS, RECORD, ImageSchema, fitted
from ebmstruct_generative.images.scores import calibration_error
from ebmstruct_generative.images.sources import digits, read_source
from ebmstruct_generative.images.task import Images
from ebmstruct_generative.joint_classifier import JointClassifier

BATCH = 128


@dataclass(frozen=True)
class Data:
    """train, test: examples of digits 0 to 7.  other: name to vectors (N, 64) of what is none of them."""

    schema: ImageSchema
    train: list[es.Example]
    test: list[es.Example]
    other: dict[str, np.ndarray]


def data() -> Data:
    """The split of the peers' runner: permuted by seed 0, the first 70 % of what is below 8 to train."""
    whole = digits(Sizing())
    whole = whole.take(np.random.default_rng(0).permutation(len(whole)))
    inside, outside = whole.without(["8", "9"])
    count = int(0.7 * len(inside))
    task = Images()
    train, test = (task._examples(inside.take(range(*r))) for r in ((0, count), (count, len(inside))))
    schema = fitted(inside.pixels[:count], inside.classes[:count])
    other = {"digits 8-9": schema.to_vectors(outside.pixels)}
    path = Path(os.environ.get("EBMSTRUCT_DATA", ".")) / "gen/mnist_t10k/t10k-images-idx3-ubyte.gz"
    if path.exists():
        found = read_source(str(path), Sizing()).parts["all"].take(range(1000)).without(["8", "9"])[0]
        small = np.stack([Sizing(8).sized(p[2:26, 2:26].astype(np.float32)) for p in found.pixels])
        other["MNIST 0-7 at 8x8"] = schema.to_vectors(small * (16 / 255))
    other |= {name: other_pictures(name, schema, True, None) for name in ("noise", "patches")}
    return Data(schema, train, test, other)


def trained(own: Data, loss: es.Loss, seed: int, epochs: int, *, plain: bool) -> tuple[JointClassifier, float]:
    """The energy after training, and the processor seconds of that. plain: as the peers train their classifier."""
    torch.manual_seed(seed)
    model = JointClassifier(own.schema, hidden=(256, 256), spread=None if plain else 1.0)
    some: dict[str, Any] = {} if plain else {"schedule": "cosine", "ema": 0.999, "clip": 10.0}
    options = es.TrainingOptions(
        optimizer="adam",
        lr=1e-3,
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        checkpoint_s=None,
        trace_steps=None,
        **some,
    )
    begin = time.process_time()
    es.fit(model, Images(), own.schema, own.train, loss, options)
    return model.eval(), time.process_time() - begin


def figures(model: JointClassifier, own: Data) -> dict[str, float]:
    """Accuracy and calibration on unseen digits, and how well other data part from them by energy."""
    x = own.schema.to_vectors(np.stack([e.y["pixels"] for e in own.test]))
    right = np.array([own.schema.classes.index(e.y["class"]) for e in own.test])
    belief = es.marginals(_clamped(model, x)).beliefs[CLASS].detach().numpy()
    inside = _energies(model, x)
    out = {"accuracy": float((belief.argmax(1) == right).mean())}
    out["ece"] = calibration_error(belief.max(1), belief.argmax(1) == right)
    return out | {name: auroc(inside, _energies(model, rows)) for name, rows in own.other.items()}


def _clamped(model: JointClassifier, x: np.ndarray) -> es.FactorGraph:
    return model.graph([{}] * len(x)).condition(es.Assignment({RECORD: torch.from_numpy(x).reshape(-1, 1)}))


def _energies(model: JointClassifier, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return energies_of(_clamped(model, x)).numpy()


ENTRIES: dict[str, tuple[es.Loss, int, bool]] = {
    "classifier": (es.HybridLikelihood(given=RECORD, weight=0.0), 190, True),
    "classifier, averaged weights": (es.HybridLikelihood(given=RECORD, weight=0.0), 460, False),
    "joint, denoising": (es.HybridLikelihood(given=RECORD, weight=0.3, sigma=0.45), 460, False),
    "joint, replay": (
        es.HybridLikelihood(
            given=RECORD, weight=0.3, generative="persistent", steps=10, step_size=0.02, size=4096, energy_decay=0.001
        ),
        60,
        False,
    ),
}
"""Name to the loss, epochs of eight steps, and whether it is trained as the peers train their classifier."""


def main() -> int:
    """Train and measure each entry with each seed; a line of JSON each, and a table of means at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", action="append", choices=list(ENTRIES), default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    own = data()
    for name, (loss, epochs, plain) in ENTRIES.items():
        if arguments.only and name not in arguments.only:
            continue
        rows = []
        for seed in arguments.seeds:
            model, seconds = trained(own, loss, seed, epochs, plain=plain)
            rows.append({"cpu_s": seconds, **figures(model, own)})
            said = {k: round(v, 4) for k, v in rows[-1].items()}
            sys.stdout.write(json.dumps({"model": name, "seed": seed, **said}) + "\n")
            sys.stdout.flush()
        means = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
        sys.stdout.write(f"| {name} | " + " | ".join(f"{v:.4g}" for v in means.values()) + " |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

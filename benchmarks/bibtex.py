"""Bibtex: sets of labels by independent scores and by energies with structure, under two decodings; means over seeds.

    EBMSTRUCT_DATA=FOLDER python -m benchmarks bibtex            (FOLDER/struct/bibtex holds the ARFF files)
    python -m benchmarks.bibtex --seeds 0 1 --rows mlp counted --results FILE

Every row has the same features, network, optimiser, epochs and decodings; only the energy differs. For each seed a fifth of
the training rows, drawn by the seed, is the piece on which thresholds are tuned, with a model of the other four fifths;
then the same model is trained again on all training rows for the same epochs, and decodes the test rows:

  threshold        one threshold on marginals, tuned for example-F1 on the piece; a set has at least its most probable label
  empty allowed    the same without that
  expected F1      the set of greatest expected F1 (at least one label), from marginals; exact for mlp and counted
  draws            the same from 200 exact draws of sets, where the energy has them

Nothing is chosen on the test rows: the network and its training were chosen once, on such pieces, for the row ``mlp``.
Gains are paired by seed, in points, with their standard error over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import ebmstruct as es
from benchmarks.timing import table
from ebmstruct_multilabel.counted import Counted
from ebmstruct_multilabel.mixture import Mixture
from ebmstruct_multilabel.mlp import MLP
from ebmstruct_multilabel.pairwise import Pairwise
from ebmstruct_multilabel.spen import SPEN
from ebmstruct_multilabel.task import Classification

NETWORK = {"width": 1024, "dropout": 0.5, "input_dropout": 0.3, "scaling": "idf"}
TRAINING = es.TrainingOptions(epochs=12, batch_size=64, lr=1e-3, schedule="linear", optimizer="adamw")
PIECE = 0.2
DRAWS = 200
LIKELIHOOD = es.NegativeLogLikelihood()
CELLS = ("threshold", "empty allowed", "expected F1", "draws")


@dataclass(frozen=True)
class Row:
    """One energy and how it learns. inner: the solver of its marginals, and of log partitions in training."""

    build: Callable[[Any], es.EnergyModel]
    loss: es.Loss = LIKELIHOOD
    inner: str | None = None
    draws: bool = True


ROWS = {
    "mlp": Row(lambda schema: MLP(schema, **NETWORK), draws=False),
    "counted": Row(lambda schema: Counted(schema, **NETWORK), inner="cardinality", draws=False),
    "tree": Row(lambda schema: Pairwise(schema, **NETWORK)),
    "mixture": Row(lambda schema: Mixture(schema, components=16, scores="shifted", **NETWORK)),
    "spen": Row(lambda schema: SPEN(schema, **NETWORK), es.PseudoLikelihood(), inner="relaxed_mean_field", draws=False),
}


def trained(row: Row, task: Classification, schema: Any, examples: Sequence[es.Example], seed: int) -> es.EnergyModel:
    """A model trained for the epochs of all rows."""
    torch.manual_seed(seed)
    model = row.build(schema)
    solver = None if row.inner != "cardinality" else es.Cardinality()
    es.fit(model, task, schema, examples, row.loss, replace(TRAINING, seed=seed), solver=solver)
    return model.eval()


def measure(folder: Path, name: str, seed: int) -> dict[str, float]:
    """Example-F1 in percent under each decoding, and CPU seconds of one training on all rows and of decoding the test."""
    row, begin = ROWS[name], time.process_time()
    task = Classification(data=str(folder), dev_fraction=PIECE, split_seed=seed)
    rest, piece, test = (list(task.examples(split)) for split in ("train", "dev", "test"))
    least = min(len(e.y) for e in rest)
    open_ = {
        "threshold": es.Threshold(at_least=least, inner=row.inner),
        "empty allowed": es.Threshold(at_least=0, inner=row.inner),
    }
    schema = task.fit(rest)
    model = trained(row, task, schema, rest, seed)
    decoders: dict[str, es.Solver] = {"expected F1": es.ExpectedF1(at_least=least, inner=row.inner)}
    for cell, solver in open_.items():
        decoders[cell] = replace(solver, value=task.tune(model, schema, piece, solver=solver).threshold)
    dev = {f"dev {k}": score(task, schema, model, piece, solver)[0] for k, solver in decoders.items()}
    if row.draws:
        inner = row.inner
        decoders["draws"] = es.ExpectedF1(at_least=least, inner=inner, samples=DRAWS)
    whole = [*rest, *piece]
    schema = task.fit(whole)
    begin = time.process_time()
    model = trained(row, task, schema, whole, seed)
    found: dict[str, float] = {"train CPU s": time.process_time() - begin}
    for cell, solver in decoders.items():
        found[cell], found[f"{cell} CPU s"] = score(task, schema, model, test, solver)
    return found | dev


def score(
    task: Classification, schema: Any, model: es.EnergyModel, examples: Sequence[es.Example], solver: es.Solver
) -> tuple[float, float]:
    """Example-F1 in percent and CPU seconds of predicting, from rows to sets."""
    predictor = es.Predictor(task, schema, model, solver, batch_size=256)
    inputs = [e.x for e in examples]
    predictor(inputs[:2], detail=False)
    begin = time.process_time()
    answers = predictor(inputs, detail=False)
    spent = time.process_time() - begin
    return 100 * task.score(examples, [a.output for a in answers])["example_f1"], spent


def told(values: Sequence[float]) -> str:
    """Mean and standard error over seeds."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def report(found: dict[str, dict[int, dict[str, float]]]) -> str:
    """The table of means, and that of gains over the independent row, paired by seed."""
    rows, gains = [], []
    for name, by_seed in found.items():
        cells = [told([m[c] for m in by_seed.values()]) if c in next(iter(by_seed.values())) else "" for c in CELLS]
        cpu = statistics.mean(m["train CPU s"] for m in by_seed.values())
        decode = statistics.mean(m["expected F1 CPU s"] for m in by_seed.values())
        rows.append([name, len(by_seed), *cells, cpu, decode])
        if name == "mlp" or "mlp" not in found:
            continue
        both = [(m, found["mlp"][s]) for s, m in by_seed.items() if s in found["mlp"]]
        pairs = [(c, c if c != "draws" else "expected F1") for c in CELLS if c in both[0][0]]
        paired = {c: told([m[c] - base[d] for m, base in both]) for c, d in pairs}
        gains.append([name, len(both), *(paired.get(c, "") for c in CELLS)])
    out = table(["energy", "seeds", *CELLS, "training CPU s", "decoding CPU s"], rows)
    return (
        out + "\n\npaired gains over mlp, in points\n\n" + table(["energy", "seeds", *CELLS], gains) if gains else out
    )


def main() -> None:
    """Run all rows and seeds, print a line each and then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=["mlp", "counted", "spen", "tree"])
    parser.add_argument("--results", type=Path, help="a file of JSON lines, to which what is missing is added")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("EBMSTRUCT_DATA", "")) / "struct" / "bibtex"
    if "EBMSTRUCT_DATA" not in os.environ or not folder.is_dir():
        sys.exit("set EBMSTRUCT_DATA to the folder that holds struct/bibtex with its ARFF files")
    torch.set_num_threads(1)
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in arguments.rows}
    if arguments.results and arguments.results.exists():
        for line in arguments.results.read_text().splitlines():
            kept = json.loads(line)
            found.setdefault(kept["row"], {})[kept["seed"]] = kept["found"]
    for seed in arguments.seeds:
        for name in arguments.rows:
            if seed in found[name]:
                continue
            found[name][seed] = measured = measure(folder, name, seed)
            told_ = {k: round(v, 2) for k, v in measured.items()}
            print(seed, name, told_, file=sys.stderr, flush=True)
            if arguments.results:
                with arguments.results.open("a") as file:
                    file.write(json.dumps({"row": name, "seed": seed, "found": measured}) + "\n")
    print(report({name: by_seed for name, by_seed in found.items() if by_seed}))


if __name__ == "__main__":
    main()

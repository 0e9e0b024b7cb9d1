"""English tagging over seeds: F1 or accuracy on dev and test, and CPU seconds of training; one thread.

    python -m benchmarks.english tasks/ner_english.yaml --data nlp/uner_en_ewt --seeds 0 1 2

Training counts everything from sentences to weights: features, epochs, the evaluations on dev that choose the epoch.
The data are looked for in the folder that EBMSTRUCT_DATA names.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import torch

import ebmstruct as es
from benchmarks.timing import table
from ebmstruct.run.config import load_config
from ebmstruct.run.evaluation import dev_scorer
from ebmstruct.run.models import build_model


def measure(file: Path, data: Path, seed: int, overrides: list[str]) -> dict[str, float]:
    """Train with one seed; scores on dev and test, CPU seconds, and test tokens a CPU second from text to answers."""
    config = load_config(file, [f"task.data={data}", f"train.seed={seed}", *overrides])
    task, options = config.task, config.train
    train, dev, test = (list(task.examples(split)) for split in ("train", "dev", "test"))
    begin = time.process_time()
    schema = task.fit(train)
    model = build_model(config.energies, schema, seed=seed)
    predictor = es.Predictor(task, schema, model, batch_size=256)
    score = dev_scorer(predictor, dev)
    trace = es.fit(model, task, schema, train, config.loss, options, evaluate=score, metric=task.metric)
    training = time.process_time() - begin
    inputs = [e.x for e in test]
    begin = time.process_time()
    answers = predictor(inputs, detail=False)
    spent = time.process_time() - begin
    found = task.score(test, [a.output for a in answers])
    return {
        "dev": 100 * trace.best,
        "test": 100 * found[task.metric],
        "training CPU s": training,
        "test tokens a CPU s": sum(map(len, inputs)) / spent,
    }


def main() -> None:
    """Run all seeds and print a row each, then the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--data", required=True, help="a folder below EBMSTRUCT_DATA, or any folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    root = os.environ.get("EBMSTRUCT_DATA")
    data = Path(root, arguments.data) if root and not Path(arguments.data).exists() else Path(arguments.data)
    if not data.exists():
        sys.exit(f"{data} does not exist; set EBMSTRUCT_DATA to the folder that holds {arguments.data}")
    torch.set_num_threads(1)
    found = []
    for seed in arguments.seeds:
        found.append(measure(arguments.task, data, seed, arguments.set))
        print(seed, {k: round(v, 2) for k, v in found[-1].items()}, file=sys.stderr, flush=True)
    rows = [[seed, *row.values()] for seed, row in zip(arguments.seeds, found, strict=True)]
    rows.append(["mean", *(statistics.mean(row[k] for row in found) for k in found[0])])
    print(table(["seed", *found[0]], rows))


if __name__ == "__main__":
    main()

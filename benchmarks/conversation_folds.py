"""Entities in Cantonese conversation: tasks/ner.yaml against python-crfsuite on the same features, over five folds.

Each fold tests on a fifth of the recordings; dev chooses our epoch and CRFsuite's c1 and c2, from 0, .01, .1 and 1 each.
CRFsuite gets exactly the features that our model hashes: every slot of the template with its value. Prints the F1 of
each fold and of all test answers together. About 25 CPU minutes, nearly all of them CRFsuite's grid.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import ebmstruct as es
from benchmarks.timing import table
from ebmstruct.run.config import load_config
from ebmstruct.run.evaluation import dev_scorer
from ebmstruct.run.models import build_model
from ebmstruct_nlp.features import FeatureTemplate
from ebmstruct_nlp.metrics import span_scores
from ebmstruct_nlp.sparse_chain import TEMPLATES

TASK = Path(__file__).parents[1] / "tasks" / "ner.yaml"
GRID = (0.0, 0.01, 0.1, 1.0)
FOLDS = range(1, 6)
Tags = list[Sequence[Any]]


def ours(fold: int, template: str, overrides: Sequence[str]) -> tuple[Tags, float, float]:
    """Predicted tags of the fold's test split by tasks/ner.yaml with another template, CPU seconds, F1 on dev."""
    config = load_config(TASK, [f"task.fold={fold}", f"energy.template={template}", *overrides])
    task, options = config.task, config.train
    train, dev, test = (list(task.examples(split)) for split in ("train", "dev", "test"))
    begin = time.process_time()
    schema = task.fit(train)
    model = build_model(config.energies, schema, seed=options.seed)
    predictor = es.Predictor(task, schema, model, batch_size=256)
    trace = es.fit(
        model, task, schema, train, config.loss, options, evaluate=dev_scorer(predictor, dev), metric=task.metric
    )
    spent = time.process_time() - begin
    return [a.output["tags"] for a in predictor([e.x for e in test], detail=False)], spent, 100 * trace.best


def rows_of(template: FeatureTemplate, examples: Sequence[es.Example]) -> list[list[list[str]]]:
    """For each sentence and token the slots that hold something, each with its value's hash, as CRFsuite takes them."""
    found = template.features([e.x for e in examples])
    edges = found.offsets.tolist()
    ids = found.ids.tolist()
    return [
        [[f"{slot}={i}" for slot, i in enumerate(row) if i] for row in ids[a:b]]
        for a, b in zip(edges, edges[1:], strict=False)
    ]


def crfsuite(fold: int, template: FeatureTemplate, grid: Sequence[float]) -> tuple[Tags, float, str]:
    """Predicted tags of the test split, CPU seconds of the whole grid, and the c1 and c2 that dev chose."""
    import pycrfsuite

    config = load_config(TASK, [f"task.fold={fold}"])
    splits = {s: list(config.task.examples(s)) for s in ("train", "dev", "test")}
    rows = {s: rows_of(template, examples) for s, examples in splits.items()}
    gold = [e.y for e in splits["dev"]]
    best: tuple[float, Tags, str] = (-1.0, [], "")
    begin = time.process_time()
    for c1 in grid:
        for c2 in grid:
            with tempfile.NamedTemporaryFile(suffix=".crfsuite") as file:
                trainer = pycrfsuite.Trainer(verbose=False)
                for row, example in zip(rows["train"], splits["train"], strict=True):
                    trainer.append(row, example.y)
                trainer.set_params({"c1": c1, "c2": c2, "max_iterations": 100, "feature.possible_transitions": True})
                trainer.train(file.name)
                tagger = pycrfsuite.Tagger()
                tagger.open(file.name)
                score = span_scores(gold, [tagger.tag(row) for row in rows["dev"]])["micro"]["f1"]
                if score > best[0]:
                    best = score, [tagger.tag(row) for row in rows["test"]], f"c1 {c1:g}, c2 {c2:g}"
                tagger.close()
            print(f"fold {fold} c1 {c1:g} c2 {c2:g} dev F1 {100 * score:.2f}", file=sys.stderr, flush=True)
    return best[1], time.process_time() - begin, best[2]


def main() -> None:
    """Run all folds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", type=float, nargs="+", default=GRID, help="values of c1 and of c2")
    parser.add_argument("--ours-only", action="store_true", help="leave CRFsuite out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes to tasks/ner.yaml")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gold: Tags = []
    answers: dict[str, Tags] = {"plain": [], "characters": [], "crfsuite": []}
    rows = []
    plain = FeatureTemplate(TEMPLATES["plain_characters"], 24)
    task = load_config(TASK).task
    templates = {"plain": "plain_characters"}
    if TEMPLATES["characters"] != TEMPLATES["plain_characters"]:
        templates["characters"] = "characters"
    for fold in FOLDS:
        truth = [e.y for e in replace(task, fold=fold).examples("test")]
        row: list[Any] = [fold]
        for name, template in templates.items():
            found, seconds, dev = ours(fold, template, arguments.set)
            answers[name] += found
            row += [dev, 100 * span_scores(truth, found)["micro"]["f1"], seconds]
        if not arguments.ours_only:
            found, seconds, chosen = crfsuite(fold, plain, arguments.grid)
            answers["crfsuite"] += found
            row += [100 * span_scores(truth, found)["micro"]["f1"], seconds, chosen]
        gold += truth
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    pooled = {k: 100 * span_scores(gold, v)["micro"]["f1"] for k, v in answers.items() if v}
    columns, last = ["fold", "dev F1", "ours, same features F1", "CPU s"], ["pooled", "", pooled["plain"], ""]
    if "characters" in pooled:
        columns += ["dev F1", "ours, own template F1", "CPU s"]
        last += ["", pooled["characters"], ""]
    if not arguments.ours_only:
        columns += ["CRFsuite F1", "CPU s of its grid", "chosen"]
        last += [pooled["crfsuite"], "", ""]
    print(table(columns, [*rows, last]))
    if not arguments.ours_only:
        print(f"\nours on the same features less CRFsuite: {pooled['plain'] - pooled['crfsuite']:+.2f} points")


if __name__ == "__main__":
    main()

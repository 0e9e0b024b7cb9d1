"""Larger tables like a given one: ours against SDV on abalone, red wine and adult, by one judge.

usage: EBMSTRUCT_DATA=FOLDER python -m benchmarks.tables [--data abalone wine_red adult] [--seeds 5] [--peers PYTHON]
       [--methods floor independent ours GaussianCopula] [--task tasks/table.yaml] [--json FILE] [--summary FILE]

Every method reads train.csv, of 70 % of the rows, and writes synthetic.csv with three times as many; a seed decides the
split and the method's own randomness. ``ours`` are the commands ``ebmstruct run`` and ``ebmstruct generate`` with the
given task file, or any command with --ours 'COMMAND', in which {train}, {synthetic}, {rows}, {seed}, {target} and {work}
stand for themselves. ``floor`` are the training rows themselves, which are as like as it gets and as private as nothing;
``independent`` draws each column by itself. Names of SDV's synthesizers (GaussianCopula, CTGAN, TVAE) need --peers, an
interpreter with sdv and sdmetrics.

shapes, pairs: of the test rows, by sdmetrics' quality report in the peers' interpreter, or ours without one (they are
equal). C2ST: a forest's accuracy, 0.5 is perfect. TSTR: R2 (abalone, wine) or macro F1 (adult) on the test rows. nearest:
the median distance to the nearest training row over that of the test rows, 1 is right. new: the share of rows that are
no training row. CPU: of the whole process, start-up and reading included. --json adds every record to a file, of which
--summary prints the table.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.timing import table
from ebmstruct_generative.quality import (
    CATEGORY,
    NUMBER,
    Columns,
    classifier_accuracy,
    column_pairs,
    column_shapes,
    nearest_record,
    pair_trends,
    train_on_synthetic,
    vectors,
)

TARGETS = {"abalone": "rings", "wine_red": "quality", "adult": "income"}
FACTOR = 3
ADULT = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
]
FIGURES = ("shapes", "pairs", "c2st", "tstr", "nearest", "new", "cpu_s")


@dataclass(frozen=True)
class Split:
    """Header, rows of text for training and test, the target, and column to numerical or categorical."""

    names: list[str]
    train: list[list[str]]
    test: list[list[str]]
    target: str
    kinds: dict[str, str]


def main() -> None:
    """Run every method on every table for every seed, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--methods", nargs="+", default=["floor", "independent", "ours", "GaussianCopula"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers")
    parser.add_argument("--ours")
    parser.add_argument("--task", default="tasks/table.yaml")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--summary", type=Path)
    options = parser.parse_args()
    if options.summary:
        records = [json.loads(line) for line in options.summary.read_text().splitlines()]
        sys.stdout.write(summary(records, options) + "\n")
        return
    every = []
    for name in options.data:
        for record in measure(name, options):
            every.append(record)
            sys.stderr.write(json.dumps(record) + "\n")
            if options.json:
                with options.json.open("a") as stream:
                    stream.write(json.dumps(record) + "\n")
    sys.stdout.write(summary(every, options) + "\n")


def measure(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record of figures for each seed and method."""
    for seed in range(options.seeds):
        split = load(name, seed)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            write(work / "train.csv", split.names, split.train)
            write(work / "test.csv", split.names, split.test)
            (work / "kinds.json").write_text(json.dumps(split.kinds))
            for method in options.methods:
                if method in ("GaussianCopula", "CTGAN", "TVAE") and not options.peers:
                    continue
                seconds = synthesize(method, split, work, seed, options)
                record = {"data": name, "seed": seed, "method": method, "cpu_s": seconds}
                yield record | score(split, work, options.peers)


def summary(records: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Means over seeds, with the standard deviation of C2ST."""
    rows = []
    for name in options.data:
        for method in options.methods:
            some = [r for r in records if r["data"] == name and r["method"] == method]
            if not some:
                continue
            means = [f"{np.mean([r[figure] for r in some]):.3f}" for figure in FIGURES[:-1]]
            means[2] += f" ± {np.std([r['c2st'] for r in some]):.3f}"
            rows.append([name, method, len(some), *means, f"{np.mean([r['cpu_s'] for r in some]):.1f}"])
    differ = max((record.get("judges_differ", 0.0) for record in records), default=0.0)
    heads = ["data", "method", "seeds", "shapes", "pairs", "C2ST", "TSTR", "nearest", "new", "CPU s"]
    return f"{table(heads, rows)}\n\nOur scores of shapes and pairs differ from sdmetrics' by {differ:.1e} at most."


def load(name: str, seed: int) -> Split:
    """Rows shuffled and split 70 to 30; of adult, 4000 rows drawn first. Seed 0 is the split of the shared peer figures."""
    root = Path(os.environ["EBMSTRUCT_DATA"]) / "gen"
    if name == "adult":
        with gzip.open(root / "adult/adult.data.gz", "rt", newline="") as stream:
            rows = [row for row in csv.reader(stream, skipinitialspace=True) if row]
        names = ADULT
        rows = [rows[i] for i in np.random.RandomState(seed).choice(len(rows), 4000, replace=False)]
    else:
        path = {"abalone": "abalone/abalone.data", "wine_red": "wine_quality_red/winequality-red.csv"}[name]
        with (root / path).open(newline="") as stream:
            names, *rows = [row for row in csv.reader(stream) if row]
    rows = [rows[i] for i in np.random.RandomState(seed).choice(len(rows), len(rows), replace=False)]
    kinds = {
        column: "numerical" if all(is_number(row[i]) for row in rows) else "categorical"
        for i, column in enumerate(names)
    }
    count = int(0.7 * len(rows))
    return Split(names, rows[:count], rows[count:], TARGETS[name], kinds)


def synthesize(method: str, split: Split, work: Path, seed: int, options: argparse.Namespace) -> float:
    """Write synthetic.csv; seconds of CPU of the processes that did."""
    out, count = work / "synthetic.csv", FACTOR * len(split.train)
    out.unlink(missing_ok=True)
    before = spent()
    if method == "floor":
        write(out, split.names, split.train)
    elif method == "independent":
        rng = np.random.default_rng(seed)
        columns = [
            [column[i] for i in rng.integers(0, len(column), count)] for column in zip(*split.train, strict=True)
        ]
        write(out, split.names, list(zip(*columns, strict=True)))
    elif method == "ours":
        for command in commands(split, work, seed, count, options):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    else:
        peer = [options.peers, "-m", "benchmarks.tables_peer", "synthesize", method]
        arguments = [work / "train.csv", out, count, seed, work / "kinds.json"]
        subprocess.run([*peer, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, env=plain())
    return spent() - before


def commands(split: Split, work: Path, seed: int, count: int, options: argparse.Namespace) -> list[list[str]]:
    """What trains on train.csv and writes synthetic.csv."""
    places = {
        "train": work / "train.csv",
        "synthetic": work / "synthetic.csv",
        "rows": count,
        "seed": seed,
        "target": split.target,
        "work": work,
    }
    if options.ours:
        return [[part.format(**places) for part in shlex.split(options.ours)]]
    ours, run = [sys.executable, "-m", "ebmstruct"], str(work / f"run{seed}")
    settings = [f"task.data={places['train']}", "task.rules=[]", f"task.target={split.target}", f"train.seed={seed}"]
    given = [part for one in settings for part in ("--set", one)]
    drawn = ["--num", str(count), "--seed", str(seed), "-o", str(places["synthetic"]), "--no-quality", "--quiet"]
    return [[*ours, "run", options.task, *given, "--output", run, "--quiet"], [*ours, "generate", run, *drawn]]


def score(split: Split, work: Path, peers: str | None) -> dict[str, float]:
    """Every figure of the rows of synthetic.csv."""
    with (work / "synthetic.csv").open(newline="") as stream:
        names, *synthetic = [row for row in csv.reader(stream) if row]
    order = [names.index(name) for name in split.names]
    synthetic = [[row[i] for i in order] for row in synthetic]
    kinds = {name: NUMBER if kind == "numerical" else CATEGORY for name, kind in split.kinds.items()}
    every = Columns.of_texts(split.names, [*split.train, *split.test, *synthetic], kinds)
    marks = np.cumsum([0, len(split.train), len(split.test), len(synthetic)])
    train, test, drawn = (every.take(np.arange(a, b)) for a, b in zip(marks, marks[1:], strict=False))
    known = every.take(np.arange(marks[2]))
    x, z, t = vectors(known, test, drawn, train)
    rng, least = np.random.default_rng(0), min(len(x), len(z))
    some = [side[rng.permutation(len(side))[:least]] for side in (x, z)]
    nearest = nearest_record(z, x, t, rows=max(len(x), len(z)))
    shapes = column_shapes(test, drawn)
    found = {"shapes": float(np.nanmean(list(shapes.values()))), "pairs": pair_trends(column_pairs(test, drawn))}
    if peers:
        judge = [peers, "-m", "benchmarks.tables_peer", "judge"]
        files = [str(work / f"{name}") for name in ("test.csv", "synthetic.csv", "kinds.json")]
        done = subprocess.run([*judge, *files], check=True, stdout=subprocess.PIPE, text=True, env=plain())
        ours, found = found, json.loads(done.stdout.splitlines()[-1])
        found["judges_differ"] = max(abs(ours[key] - found[key]) for key in ours)
    return {
        **found,
        "c2st": classifier_accuracy(*some, rows=least),
        "tstr": train_on_synthetic(drawn, test, split.target, rows=len(drawn)),
        "nearest": nearest.ratio,
        "new": 1 - nearest.copies,
        "rows": len(drawn),
    }


def write(path: Path, names: list[str], rows: list[Any]) -> None:
    """A CSV file with a header."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *rows])


def is_number(cell: str) -> bool:
    """Whether a cell reads as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def spent() -> float:
    """Seconds of CPU of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plain() -> dict[str, str]:
    """The environment for the peers' interpreter, which must not see our packages."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()

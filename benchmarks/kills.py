"""Kills a training process (SIGKILL) at random moments, resumes it, and compares all that it leaves with an unbroken run.

``python -m benchmarks.kills [KILLS]`` prints one row a way of training: ``ebmstruct run --resume`` with two losses, and
``es.fit``. The task is the toy of the tests. One loss keeps chains and a buffer of 2 MB, written every three steps,
so that many of the kills fall into a write; the other is persistent contrastive divergence.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIMINGS = ("seconds", "cpu_seconds", "examples_per_s")
OPTIONS: dict[str, Any] = {
    **{"epochs": 24, "batch_size": 4, "accumulate": 2, "ema": 0.9, "clip": 5.0, "schedule": "cosine", "warmup": 0.1},
    **{"checkpoint_steps": 3, "trace_steps": 1, "evaluate_every": 2, "lr": 0.02},
}
FIT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import torch
import ebmstruct as es
from toy_losses import Replay
from toy_plugin import Chain, Letters
folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
folder.mkdir(exist_ok=True)
(folder / "begun").touch()
task = Letters(examples_count=100)
train, dev = list(task.examples("train")), list(task.examples("dev"))
schema = task.fit(train)
torch.manual_seed(0)
model = Chain(schema, dropout=0.1)
def evaluate():
    graph = model.graph([e.x for e in dev])
    return task.score(dev, task.decode(es.minimize(graph).assignment, graph, schema))
trace = es.fit(model, task, schema, train, Replay(buffer=30_000), es.TrainingOptions(**options), evaluate=evaluate,
               metric="accuracy", checkpoint=folder / "checkpoint", resume=True, traces=folder)
weights = {k: v.double().flatten().tolist() for k, v in model.state_dict().items()}
(folder / "result").write_text(json.dumps([weights, asdict(trace)]))
"""


@dataclass(frozen=True)
class Way:
    """A way of training: the command for a folder, and the files that say that it has begun and that it is over."""

    name: str
    begun: str
    over: str
    loss: Mapping[str, Any] = field(default_factory=lambda: {"name": "toy.replay", "buffer": 30_000})

    def command(self, folder: Path) -> list[str]:
        """The command that begins a run, or goes on with it."""
        if self.name == "fit":
            return [sys.executable, "-W", "ignore", "-c", FIT, str(folder), json.dumps(OPTIONS)]
        task = folder.parent / "task.yaml"
        made = {
            "task": {"name": "toy.letters", "examples_count": 100},
            "energy": {"name": "toy.chain", "dropout": 0.1},
            "loss": dict(self.loss),
            "train": OPTIONS,
        }
        task.write_text(json.dumps(made), encoding="utf-8")  # JSON is YAML
        resume = ["--resume"] if (folder / self.begun).exists() else []
        return [sys.executable, "-m", "ebmstruct", "run", str(task), "--quiet", "--output", str(folder), *resume]


RUN, FITTING = Way("run", "config.yaml", "run.json"), Way("fit", "begun", "result")
PERSISTENT = replace(RUN, name="run, persistent chains", loss={"name": "persistent_contrastive_divergence"})


@dataclass(frozen=True)
class Outcome:
    """Of many kills: how many ended as the unbroken run, what differed in the others, how many fell into a write."""

    kills: int
    same: int
    differences: tuple[str, ...]
    in_a_write: int
    before_a_checkpoint: int


def environment(site: Path) -> dict[str, str]:
    """The environment of a process in which the toy plugin is installed, by an entry point in the folder ``site``."""
    info = site / "ebmstruct_toy-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ebmstruct-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ebmstruct]\ntoy = toy_plugin\n")
    paths = [str(site), str(ROOT / "tests" / "toy"), str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def try_kills(way: Way, kills: int, place: Path, seed: int = 0) -> Outcome:
    """Kill ``kills`` trainings, each once at a random step between its beginning and its end, and resume each.

    The moment lies up to 50 ms, several steps, after a random step; after the last one evaluation and report follow.
    """
    place.mkdir(parents=True, exist_ok=True)
    settings = environment(place / "site")
    whole = place / "whole"
    subprocess.run(way.command(whole), env=settings, check=True, stdout=subprocess.DEVNULL)
    rows = _rows(whole)
    moments = random.Random(seed)
    found, done, writes, early = [], 0, 0, 0
    while done < kills:
        folder = place / f"killed{done}"
        if not _killed(way, folder, settings, moments.randint(0, rows), moments.uniform(0.0, 0.05)):
            _remove(folder)  # it was over before
            continue
        writes += bool(list(folder.glob(".*.tmp")))
        early += not list(folder.glob("checkpoint*"))
        subprocess.run(way.command(folder), env=settings, check=True, stdout=subprocess.DEVNULL)
        found.append(differences(whole, folder))
        done += 1
        _remove(folder)
    told = tuple(dict.fromkeys(difference for each in found for difference in each))
    return Outcome(kills, sum(not each for each in found), told, writes, early)


def _rows(folder: Path) -> int:
    """How many rows the step trace has by now; the steps are told by them, however busy the machine is."""
    path = folder / "steps.csv"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _killed(way: Way, folder: Path, settings: dict[str, str], rows: int, after_s: float) -> bool:
    """Train, and kill the process so long after its step trace has so many rows; whether it was still at it."""
    process = subprocess.Popen(way.command(folder), env=settings, stdout=subprocess.DEVNULL)
    while process.poll() is None and not ((folder / way.begun).exists() and _rows(folder) >= rows):
        time.sleep(0.002)
    time.sleep(after_s)
    process.kill()
    process.wait()
    return not (folder / way.over).exists()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def differences(one: Path, other: Path) -> list[str]:
    """The files in which two finished trainings differ, times aside; a file that only one has is one of them."""
    names = {p.relative_to(f).as_posix() for f in (one, other) for p in f.rglob("*") if p.is_file()}
    apart = (".lock", "run.log", "checkpoint", "run.json", "environment.json")
    return sorted(name for name in names - set(apart) if _content(one / name) != _content(other / name))


def _content(path: Path) -> Any:
    """What a file says, without what depends on the clock."""
    if not path.exists():
        return None
    data = path.read_bytes()
    if path.suffix == ".csv":
        return [
            {k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(data.decode().splitlines())
        ]
    if path.name in ("metrics.json", "result"):
        return _timeless(json.loads(data))
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in data.splitlines()]
    if path.name == "config.yaml":
        return re.sub(rb"output: .*", b"", data)
    if path.suffix == ".html":
        return report_content(data.decode())
    return hashlib.sha256(data).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMINGS}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def report_content(page: str) -> str:
    """A report without durations, dates, the folder's name and the columns of seconds."""
    page = re.sub(r"output: \S+", "", page)
    page = re.sub(r"Training took .*?\.</p>|<footer>.*?</footer>|<dt>examples a CPU second</dt><dd>.*?</dd>", "", page)
    return re.sub(r"<details><summary>Every epoch in numbers.*?</details>", "", page, flags=re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """Print what came of the kills, and end with 1 unless all runs ended as the unbroken one."""
    kills = int(arguments[0]) if arguments else 20
    print(
        "| way | kills | in the same bits | in a write | before a checkpoint | what differs |\n|---|---|---|---|---|---|"
    )
    failed = False
    for way in (RUN, PERSISTENT, FITTING):
        with tempfile.TemporaryDirectory() as place:
            o = try_kills(way, kills, Path(place))
        failed = failed or o.same < o.kills
        said = ", ".join(o.differences) or "nothing"
        print(f"| {way.name} | {o.kills} | {o.same} | {o.in_a_write} | {o.before_a_checkpoint} | {said} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

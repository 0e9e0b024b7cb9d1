"""Real graphical models through the command: MAP energies, log partitions and marginals against the best known.

Needs the folder that EBMSTRUCT_DATA names (mrf/index.json and the models beside it). Each model is one run of
``ebmstruct solve`` with a deadline, start-up included. Usage: ``python -m benchmarks.models map|marginals [--deadline
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import table

LARGEST_TABLE_LOG2 = 21.0


def models(names: list[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Paths of the models whose names are asked for, with what the index knows about them."""
    folder = Path(os.environ["EBMSTRUCT_DATA"]) / "mrf"
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))["instances"]
    for name, known in sorted(index.items()):
        if not names or any(part in name for part in names):
            yield folder / name, known


def solve(path: Path, query: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], float]:
    """What the command answered, and the wall seconds of the whole process."""
    command = [sys.executable, "-m", "ebmstruct", "solve", str(path), "--query", query, "--json", "--quiet"]
    evidence = Path(str(path).removesuffix(".gz") + ".evid")
    if evidence.exists():
        command += ["--evidence", str(evidence)]
    if arguments.deadline:
        command += ["--deadline", str(arguments.deadline)]
    if arguments.solver:
        command += ["--solver", arguments.solver]
    environment = dict(os.environ)
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.monotonic() - begin
    if done.returncode:
        return {"status": done.stderr.strip()[-120:], "energy": None, "lower_bound": None, "solver": ""}, seconds
    return json.loads(done.stdout), seconds


def map_row(path: Path, known: dict[str, Any], arguments: argparse.Namespace) -> tuple[list[Any], bool, bool]:
    """One row of the table; whether the energy known was reached; whether it is marked proven."""
    found, seconds = solve(path, "map", arguments)
    best, proven = known["map_energy"], known["map_status"].startswith("optimal")
    energy = float("inf") if found["energy"] is None else found["energy"]
    slack = 1e-6 * max(1.0, abs(best))
    bound = found["lower_bound"]
    crossed = proven and bound is not None and bound > best + slack
    wrong = found["status"] == "OPTIMAL" and energy > best + slack
    verdict = "WRONG" if crossed or wrong else "reached" if energy <= best + slack else "missed"
    if energy < best - slack:
        verdict = "beaten" if not proven else "WRONG"
    above = 100 * (energy - best) / max(1.0, abs(best))
    row = [path.name.removesuffix(".uai.gz"), f"{best:.6f}", "yes" if proven else "no", f"{energy:.6f}"]
    row += ["" if bound is None else f"{bound:.6f}", f"{above:.4f}", found["status"], found["solver"], seconds, verdict]
    return row, energy <= best + slack, proven


def run_map(arguments: argparse.Namespace) -> None:
    """Print the table of energies and how many were reached."""
    rows, reached = [], {True: 0, False: 0}
    total = {True: 0, False: 0}
    for path, known in models(arguments.names):
        row, hit, proven = map_row(path, known, arguments)
        rows.append(row)
        reached[proven] += hit
        total[proven] += 1
        sys.stderr.write(" ".join(str(c) for c in row) + "\n")
    columns = ["model", "best", "proven", "energy", "bound", "above %", "status", "solver", "wall s", "verdict"]
    print(table(columns, rows))
    print(f"\nproven {reached[True]} of {total[True]} reached; best known {reached[False]} of {total[False]} reached")


def free(rows: list[Any], path: Path) -> list[Any]:
    """The rows of the variables that the evidence file does not clamp."""
    evidence = Path(str(path).removesuffix(".gz") + ".evid")
    if not evidence.exists():
        return rows
    numbers = [int(t) for t in evidence.read_text(encoding="utf-8").split()]
    clamped = set(numbers[-2 * ((len(numbers) - 1) // 2) :: 2])
    return [row for i, row in enumerate(rows) if i not in clamped]


def run_marginals(arguments: argparse.Namespace) -> None:
    """Print the errors of log Z and marginals wherever the index gives them."""
    rows = []
    for path, known in models(arguments.names):
        if known.get("logz") is None:
            continue
        found, seconds = solve(path, "marginals", arguments)
        error = worst = float("nan")
        if found.get("logz") is not None:
            error = abs(found["logz"] - known["logz"])
        if known.get("marginals_file") and found.get("marginals"):
            with gzip.open(path.parent.parent / known["marginals_file"], "rt") as file:
                stored = json.load(file)
            pairs = zip(free(found["marginals"], path), stored["marginals"], strict=True)
            errors = [abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True)]
            worst = max((e for e in errors if e == e), default=float("nan"))  # one stored file holds NaN throughout
        size = known["minfill_log2_table"]
        row = [path.name.removesuffix(".uai.gz"), size, found.get("exact"), error, worst, found.get("solver"), seconds]
        rows.append(row)
        sys.stderr.write(" ".join(str(c) for c in row) + "\n")
    print(table(["model", "log2 table", "exact", "log Z error", "marginal error", "solver", "wall s"], rows))


def main() -> None:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.models", description=__doc__)
    parser.add_argument("part", choices=("map", "marginals"))
    parser.add_argument("--models", dest="names", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--deadline", type=float)
    parser.add_argument("--solver")
    arguments = parser.parse_args()
    if "EBMSTRUCT_DATA" not in os.environ:
        sys.exit("EBMSTRUCT_DATA does not name a folder of data; this benchmark needs mrf/index.json there")
    run_map(arguments) if arguments.part == "map" else run_marginals(arguments)


if __name__ == "__main__":
    main()

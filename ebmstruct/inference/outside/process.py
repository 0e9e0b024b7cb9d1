"""A worker process: arrays go in by a file without pickles, lines of text come out, and the deadline ends it."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ebmstruct.inference.result import Budget

FOLDER = Path(__file__).parent
GRACE = 1.0
"""Seconds after which a worker is ended by force once it has said all it will say."""
LOOK_SECONDS = 0.02
"""How often the budget is looked at."""


def run(worker: str, arrays: Mapping[str, np.ndarray], options: Mapping[str, float], budget: Budget) -> list[str]:
    """Run ``worker``.py of this folder on some arrays until it ends or the deadline comes; the lines it printed.

    options: numbers that the worker is given beside the arrays; ``seconds`` is added: what is left of the budget, 0
    where there is no deadline. The process is ended whatever happens here, an interruption from the keyboard included.
    Its last line is its complaint, marked ``failed:``, where it ended by a fault.
    """
    with tempfile.TemporaryDirectory(prefix="ebmstruct-") as folder:
        given = Path(folder) / "problem.npz"
        complaints = Path(folder) / "complaints.txt"
        seconds = 0 if math.isinf(budget.remaining) else max(1, math.ceil(budget.remaining))
        everything: dict[str, Any] = {**arrays, **options, "seconds": seconds}
        np.savez(given, **everything)
        with complaints.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", str(FOLDER / f"{worker}.py"), str(given)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
            )
            lines: list[str] = []
            reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
            reader.start()
            stopped = False
            try:
                while reader.is_alive() and not budget.expired:  # which also says when somebody else has finished
                    reader.join(min(LOOK_SECONDS, max(budget.remaining, 0.0)))
                stopped = reader.is_alive()
            finally:
                if stopped or reader.is_alive():
                    process.kill()
                try:
                    code = process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    code = process.wait()
                reader.join()
                if process.stdout is not None:
                    process.stdout.close()
        if code != 0 and not stopped:
            told = complaints.read_text(errors="replace").strip().splitlines()
            lines.append(f"failed: {told[-1] if told else f'the process ended with code {code}'}")
        return lines


def _read(process: subprocess.Popen[str], lines: list[str]) -> None:
    """Collect a process's lines as they come."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))

"""CPU seconds of importing ebmstruct against importing torch, and of the command's help; each in a new process."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from benchmarks.timing import table

COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import ebmstruct": [sys.executable, "-c", "import ebmstruct"],
    "import ebmstruct, use it": [sys.executable, "-c", "import ebmstruct; ebmstruct.minimize, ebmstruct.fit"],
    "ebmstruct --help": [sys.executable, "-m", "ebmstruct", "--help"],
}


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians of seven rounds and their ratios to ``import torch``."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(7):
        for name, command in COMMANDS.items():
            times[name].append(cpu_seconds(command))
    torch_alone = statistics.median(times["import torch"])
    rows = [[name, m := statistics.median(found), m / torch_alone] for name, found in times.items()]
    print(table(["command", "CPU s", "ratio to import torch"], rows))


if __name__ == "__main__":
    main()

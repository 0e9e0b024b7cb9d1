"""Clocks for benchmarks: CPU seconds of several pieces of work, interleaved, so that a noisy machine harms all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleaved(work: Mapping[str, Callable[[], Any]], *, seconds: float = 2.0, least: int = 7) -> dict[str, float]:
    """Median CPU milliseconds of each piece, all called in turn for about ``seconds`` a piece."""
    for piece in work.values():
        piece()
        piece()
    times: dict[str, list[float]] = {name: [] for name in work}
    begin = time.process_time()
    while time.process_time() - begin < seconds * len(work) or min(map(len, times.values())) < least:
        for name, piece in work.items():
            start = time.process_time_ns()
            piece()
            times[name].append((time.process_time_ns() - start) / 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """A markdown table; floats with four significant digits."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in rows]
    return "\n".join(lines)

"""The parts of a run's report that only tasks which draw records have: their quality in words, and their energies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ebmstruct.extend.task import Chart, Evaluation
from ebmstruct.run.page import figure_of
from ebmstruct.run.quality_page import measures_of, verdicts_of


def quality(evaluations: Sequence[Evaluation]) -> str:
    """What the measures of the first evaluation that has any amount to; nothing without."""
    found = next((e for e in evaluations if e.metrics.get("quality")), None)
    if found is None:
        return ""
    figures = found.metrics["quality"]
    more = f"<details><summary>Every measure</summary>{measures_of(figures.get('measures', {}))}</details>"
    return verdicts_of(figures.get("verdicts", ())) + more


def energies(trace: Sequence[Mapping[str, Any]], evaluations: Sequence[Evaluation]) -> str:
    """The energies of records that were drawn beside those of the data, by epoch and at the end."""
    lead = (
        "The model gives every possible record an energy, low for those like the data. Records drawn from it should "
        "have energies like those of records it has not seen: lower ones are too typical, higher ones are strays."
    )
    figures = []
    if any("energy_correct" in row for row in trace):
        taken = [(i, row) for i, row in enumerate(trace) if "energy_correct" in row]
        epochs = [int(row.get("epoch", i + 1)) for i, row in taken]
        series = {
            name: [float(row.get(key, math.nan)) for _, row in taken]
            for name, key in (("held out", "energy_correct"), ("drawn", "energy_predicted"))
        }
        figures.append(Chart("Held-out against drawn records, by epoch", series, epochs, "epoch", "mean energy on dev"))
    for e in evaluations:
        both = {"held out": _finite(e.target_energy), "drawn": _finite(e.energy)}
        if all(both.values()):
            figures.append(Chart(f"Energies on {e.split}", both, (), "energy", "records", "histogram"))
    return f'<p>{lead}</p><div class="figures">{"".join(map(figure_of, figures))}</div>' if figures else ""


def _finite(values: Sequence[float]) -> list[float]:
    return [v for v in values if math.isfinite(v)]

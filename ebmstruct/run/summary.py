"""Answers in a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebmstruct.inference.result import Status
from ebmstruct.run.formats import Model

_SHOWN = 24
"""How many variables of an assignment are printed."""


def summary(record: Mapping[str, Any], model: Model) -> str:
    """A record of ``ebmstruct solve`` as text: the status in a sentence, the numbers, the answer abbreviated."""
    status = Status[record["status"]]
    lines = [f"{status.name}: {_sentence(status, record)}"]
    if record["query"] == "map":
        lines += _map_lines(record, model)
    elif record["query"] == "sample":
        kind = "exact, independent draws" if record["exact"] else "draws of a Markov chain, not exact"
        lines.append(f"samples      {len(record['samples'])}, {kind}")
        for energy, states in list(zip(record["energies"], record["samples"], strict=True))[:8]:
            lines.append(f"  energy {_number(energy)}: {_assignment(states, model)}")
    else:
        lines += _sum_lines(record, model)
    lines.append(f"solver       {record['solver']}, {record['seconds']:.2f} s in all")
    return "\n".join(lines)


def _sentence(status: Status, record: Mapping[str, Any]) -> str:
    if record["query"] == "map" or status in (Status.INFEASIBLE, Status.NONFINITE):
        return status.message
    if status is Status.DEADLINE:
        return "The deadline came; this is what was known by then."
    return "The answer is exact." if record["exact"] else "The answer is approximate."


def _map_lines(record: Mapping[str, Any], model: Model) -> list[str]:
    if record["energy"] is None:
        return []
    bound = "none known" if record["lower_bound"] is None else _number(record["lower_bound"])
    gap = "unknown" if record["gap"] is None else f"{record['gap']:.3g}"
    lines = [f"energy       {_number(record['energy'])}", f"lower bound  {bound}", f"gap          {gap}"]
    lines.append(f"assignment   {_assignment(record['assignment'], model)}")
    for place, other in enumerate(record.get("alternatives", ())[1:], 2):
        lines.append(f"  {place}. energy {_number(other['energy'])}: {_assignment(other['assignment'], model)}")
    return lines


def _sum_lines(record: Mapping[str, Any], model: Model) -> list[str]:
    logz = "-inf" if record["logz"] is None else _number(record["logz"])
    lines = [f"log Z        {logz}{'' if record['exact'] else ' (approximate)'}"]
    if "lower" in record or "upper" in record:
        ends = [_number(record.get(end)) if record.get(end) is not None else "?" for end in ("lower", "upper")]
        lines.append(f"between      {ends[0]} and {ends[1]}")
    for variable, row in enumerate(record.get("marginals", ())[:_SHOWN]):
        name = model.names[variable] if model.names else str(variable)
        states = model.states[variable] if model.states else [str(k) for k in range(len(row))]
        shown = ", ".join(f"{s} {p:.4f}" for s, p in list(zip(states, row, strict=True))[:8] if p is not None)
        lines.append(f"  {name}: {shown}{', ...' if len(row) > 8 else ''}")
    if len(record.get("marginals", ())) > _SHOWN:
        lines.append(f"  ... and {len(record['marginals']) - _SHOWN} more variables; --json prints all")
    return lines


def _assignment(states: Sequence[int], model: Model) -> str:
    if model.names:
        shown = [f"{model.names[i]}={model.states[i][k]}" for i, k in enumerate(states[:_SHOWN])]
    else:
        shown = [str(k) for k in states[:_SHOWN]]
    rest = f" ... ({len(states)} variables; --json prints all)" if len(states) > _SHOWN else ""
    return " ".join(shown) + rest


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.10g}"

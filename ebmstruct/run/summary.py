"""Answers in a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebmstruct.inference.diagnostics.states import R_HAT_FINE
from ebmstruct.inference.result import Status
from ebmstruct.run.formats import Model

_SHOWN = 24
"""How many variables of an assignment are printed."""


def summary(record: Mapping[str, Any], model: Model) -> str:
    """A record of ``ebmstruct solve`` as text: the status in a sentence, the numbers, the answer abbreviated."""
    status = Status[record["status"]]
    lines = [f"{status.name}: {_sentence(status, record)}", *_warning(status, record)]
    if record["query"] == "map":
        lines += _map_lines(record, model)
    elif record["query"] == "sample":
        kind = "exact, independent draws" if record["exact"] else "draws of a Markov chain, not exact"
        lines.append(f"samples      {len(record['samples'])}, {kind}")
        lines += _agreement_lines(record)
        for energy, states in list(zip(record["energies"], record["samples"], strict=True))[:8]:
            lines.append(f"  energy {_number(energy)}: {_assignment(states, model)}")
    else:
        lines += _sum_lines(record, model)
    lines.append(f"solver       {record['solver']}, {record['seconds']:.2f} s in all")
    return "\n".join(lines)


def _warning(status: Status, record: Mapping[str, Any]) -> list[str]:
    """What to know before the numbers of a sampler are used."""
    if "r_hat" not in record or status is Status.INFEASIBLE:
        return []
    r_hat, what = record["r_hat"], "samples" if record["query"] == "sample" else "marginals"
    if r_hat is None:
        return [
            f"warning      the chains do not move or were too short (r_hat infinite or unknown): do not trust these {what}"
        ]
    if r_hat >= R_HAT_FINE:
        return [f"warning      the chains disagree (r_hat {r_hat:.3g}): do not trust these {what}"]
    return []


def _sentence(status: Status, record: Mapping[str, Any]) -> str:
    if record["query"] == "map" and record["energy"] is None and status not in (Status.INFEASIBLE, Status.NONFINITE):
        return "no allowed assignment was found, which does not prove that there is none"
    if record["query"] == "map" or status in (Status.INFEASIBLE, Status.NONFINITE):
        return status.message
    if status is Status.DEADLINE:
        return "The deadline came; this is what was known by then."
    if status is Status.MAX_STEPS and not record["exact"]:
        return "The budget of steps was used up; this is what was known by then."
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
    lines = _log_z_lines(record)
    lines += _agreement_lines(record)
    for variable, row in enumerate(record.get("marginals", ())[:_SHOWN]):
        name = model.names[variable] if model.names else str(variable)
        states = model.states[variable] if model.states else [str(k) for k in range(len(row))]
        shown = ", ".join(f"{s} {p:.4f}" for s, p in list(zip(states, row, strict=True))[:8] if p is not None)
        lines.append(f"  {name}: {shown}{', ...' if len(row) > 8 else ''}")
    if len(record.get("marginals", ())) > _SHOWN:
        lines.append(f"  ... and {len(record['marginals']) - _SHOWN} more variables; --json prints all")
    return lines


def _log_z_lines(record: Mapping[str, Any]) -> list[str]:
    lower, upper = record.get("lower"), record.get("upper")
    if record["logz"] is None and record["status"] != Status.INFEASIBLE.name and not record["exact"]:
        if lower is not None:
            return [f"log Z        at least {_number(lower)}"]
        return [f"log Z        at most {_number(upper)}" if upper is not None else "log Z        unknown"]
    logz = "-inf" if record["logz"] is None else _number(record["logz"])
    lines = [f"log Z        {logz}{'' if record['exact'] or record['logz'] is None else ' (approximate)'}"]
    if lower is not None and upper is not None:
        lines.append(f"between      {_number(lower)} and {_number(upper)}")
    return lines


def _agreement_lines(record: Mapping[str, Any]) -> list[str]:
    if record.get("r_hat") is None:
        return []
    worth = record["effective_samples"]
    return [f"r_hat        {record['r_hat']:.4g}; worth about {worth or 0.0:.0f} independent samples"]


def _assignment(states: Sequence[int], model: Model) -> str:
    if model.names:
        shown = [f"{model.names[i]}={model.states[i][k]}" for i, k in enumerate(states[:_SHOWN])]
    else:
        shown = [str(k) for k in states[:_SHOWN]]
    rest = f" ... ({len(states)} variables; --json prints all)" if len(states) > _SHOWN else ""
    return " ".join(shown) + rest


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.10g}"

"""The command ``solve``: a question about a model file, its answer as JSON or in a few lines."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ebmstruct.errors import DataError
from ebmstruct.extend.components import near_miss
from ebmstruct.graph import FactorGraph
from ebmstruct.inference import engine
from ebmstruct.inference.result import Budget, Marginals, Result, Samples, Status
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.solvers import SOLVERS
from ebmstruct.inference.views.table_view import table_refusal, table_view
from ebmstruct.run.elapsed import Elapsed
from ebmstruct.run.formats import Evidence, Model, read_evidence, read_model
from ebmstruct.run.result_file import dumped, finite, pack_witness, write_result
from ebmstruct.run.summary import summary
from ebmstruct.storage import cannot_write

logger = logging.getLogger("ebmstruct.solve")

_ENDING_S = 0.2
"""Time kept back from a deadline, at most a tenth of it, for writing the answer and leaving."""
_PACKING_S, _ZIPPING_S = 0.12e-6, 0.56e-6
"""What writing a witness takes for each of its numbers, plain and with gzip; measured on a million of them."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A model file and the evidence about it."""

    model: Model
    evidence: Evidence

    @classmethod
    def read(cls, model: str, evidence: str | None) -> Problem:
        """Read both; a file of evidence is used only where it is named."""
        found = read_model(model)
        return cls(found, Evidence() if evidence is None else read_evidence(evidence, found))

    @cached_property
    def graph(self) -> FactorGraph:
        """The graph with the evidence clamped."""
        return self.evidence.condition(self.model)

    def record(self) -> dict[str, Any]:
        """What a result says about the files that it answers for."""
        seen = self.evidence
        model = {"file": self.model.path.name if self.model.path else "", "sha256": self.model.sha256}
        evidence = None if seen.path is None else {"file": seen.path.name, "sha256": seen.sha256}
        return {"model": {**model, "kind": self.model.kind}, "evidence": evidence}


def solve(arguments: argparse.Namespace) -> None:
    """Answer a question about a model file."""
    quiet = getattr(arguments, "quiet", False)
    _check_options(arguments)
    output = Path(arguments.output) if arguments.output else None
    if output is not None:
        _check_writable(output)
    solver = named_solver(arguments.solver)
    with Elapsed("solving", arguments.started, arguments.deadline, quiet=quiet):
        problem = Problem.read(arguments.model, arguments.evidence)
        beside = None if arguments.evidence else _evidence_beside(Path(arguments.model))
        if beside is not None:
            logger.info("note: %s is beside the model and was not used; add --evidence to use it", beside)
        answer = _answer(problem.graph, solver, arguments)
    record = {"query": arguments.query} | _record(problem.model, answer, arguments.query)
    record["seconds"] = round(time.monotonic() - arguments.started, 6)
    if output is not None:
        rest = (
            {"witness": pack_witness(answer.witness)}
            if isinstance(answer, Result)
            else {"temperature": _temperature(arguments)}
        )
        write_result(output, {**record, **problem.record(), **rest})
    if arguments.json:
        _write(dumped(record))
    elif not quiet or output is None:
        _write(summary(record, problem.model))


def named_solver(name: str | None) -> Solver | None:
    """The solver with this name and its default options; DataError with the legal names where there is none."""
    if name is None:
        return None
    if name not in SOLVERS:
        legal = sorted(SOLVERS)
        raise DataError(f"no solver is named {name!r}; there: {', '.join(legal)}{near_miss(name, legal)}")
    return SOLVERS[name]()


def budget_of(started: float, seconds: float | None, writing: float = 0.0) -> Budget:
    """The budget of a command that began at an instant and must have ended ``seconds`` later.

    writing: seconds kept back for a large result, at most half of all.
    """
    if seconds is None:
        return Budget()
    return Budget(deadline=started + seconds - min(_ENDING_S, 0.1 * seconds) - min(writing, 0.5 * seconds))


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse what the query would not look at; an option at the value that changes nothing does no harm."""
    query = arguments.query
    if arguments.k not in (None, 0, 1) and query != "map":
        raise DataError(f"-k asks for the k best assignments; it goes with --query map, not {query}")
    if arguments.temperature not in (None, 1.0) and query == "map":
        raise DataError(
            "--temperature changes sums and samples; it goes with --query marginals, logz or sample, not map"
        )
    if arguments.num_samples not in (None, 1) and query != "sample":
        raise DataError(f"--num-samples says how many samples; it goes with --query sample, not {query}")


def _temperature(arguments: argparse.Namespace) -> float:
    return 1.0 if arguments.temperature is None else float(arguments.temperature)


def _writing_seconds(graph: FactorGraph, arguments: argparse.Namespace) -> float:
    """How long the file with the answer may take to write: a witness has at most one number a state of a row's slot."""
    if arguments.output is None or arguments.deadline is None or arguments.query != "map" or table_refusal(graph):
        return 0.0
    each = _ZIPPING_S if arguments.output.endswith(".gz") else _PACKING_S
    return each * float(table_view(graph).message_ptr[-1])


def _answer(graph: FactorGraph, solver: Solver | None, arguments: argparse.Namespace) -> Result | Marginals | Samples:
    budget = budget_of(arguments.started, arguments.deadline, _writing_seconds(graph, arguments))
    generator = torch.Generator().manual_seed(arguments.seed)
    if arguments.query == "map":
        k = 1 if arguments.k is None else arguments.k
        return engine.minimize(graph, solver, budget=budget, k=k, generator=generator)
    temperature = _temperature(arguments)
    if arguments.query == "sample":
        count = 1 if arguments.num_samples is None else arguments.num_samples
        return engine.sample(
            graph, solver, num_samples=count, temperature=temperature, budget=budget, generator=generator
        )
    ask = engine.bound_log_partition if arguments.query == "logz" else engine.marginals
    return ask(graph, solver, temperature=temperature, budget=budget, generator=generator)


def _record(model: Model, answer: Result | Marginals | Samples, query: str) -> dict[str, Any]:
    if isinstance(answer, Result):
        return _map_record(model, answer)
    if isinstance(answer, Samples):
        return _sample_record(model, answer)
    return _sum_record(model, answer, query)


def _map_record(model: Model, result: Result) -> dict[str, Any]:
    status = Status(int(result.status[0]))
    energy = float(result.energy[0])
    dead = status is Status.INFEASIBLE or energy == math.inf
    states = result.assignment[model.block.name].tolist()
    record: dict[str, Any] = {
        "energy": finite(energy),
        "lower_bound": finite(result.lower_bound[0]),
        "gap": None if dead else finite(result.gap[0]),
        "status": status.name,
        "solver": result.solver,
        "assignment": None if dead else states,
    }
    if model.names and not dead:
        record["names"] = {n: model.states[i][states[i]] for i, n in enumerate(model.names)}
    if result.alternatives and result.alternative_energies is not None:
        energies = result.alternative_energies[:, 0].tolist()
        record["alternatives"] = [
            {"energy": energy, "assignment": y[model.block.name].tolist()}
            for energy, y in zip(energies, result.alternatives, strict=True)
            if finite(energy) is not None
        ]
    return record


def _sum_record(model: Model, found: Marginals, query: str) -> dict[str, Any]:
    ends: dict[str, float | None] = {}
    for name in ("lower", "upper"):
        if f"log_partition_{name}" in found.stats:
            ends[name] = finite(torch.as_tensor(found.stats[f"log_partition_{name}"]).reshape(-1)[0])
    one_sided = bool(ends) and not found.exact and (len(ends) < 2 or None in ends.values())
    logz = None if one_sided else finite(found.log_partition[0])  # one end of an interval is no estimate
    record: dict[str, Any] = {"logz": logz, "exact": bool(found.exact), **ends}
    record |= {"status": found.statuses[0].name, "solver": found.solver} | _agreement(found)
    if query == "marginals":
        beliefs = found.beliefs[model.block.name].double().tolist()
        counts = model.block.state_counts.tolist()
        rows = [row[:count] for row, count in zip(beliefs, counts, strict=True)]
        record["marginals"] = [[finite(p) for p in row] for row in rows]
        record |= _names(model)
    return record


def _sample_record(model: Model, found: Samples) -> dict[str, Any]:
    status = found.statuses[0]
    dead = status is Status.INFEASIBLE
    return {
        "samples": [] if dead else found.values[model.block.name].tolist(),
        "energies": [] if dead else [finite(e) for e in found.energy[:, 0].tolist()],
        "exact": bool(found.exact),
        "status": status.name,
        "solver": found.solver,
        **_agreement(found),
    } | _names(model)


def _agreement(found: Marginals | Samples) -> dict[str, Any]:
    """How well the chains of a sampler agree: the largest R-hat, null where it is infinite or unknown."""
    if "r_hat" not in found.stats:
        return {}
    values = [float(value) for value in found.stats["r_hat"].values()]
    worst = max(values, default=1.0) if all(map(math.isfinite, values)) else None
    worth = finite(torch.as_tensor(found.stats["effective_samples"]).reshape(-1)[0])
    return {"r_hat": worst, "effective_samples": worth}


def _names(model: Model) -> dict[str, Any]:
    return {"variables": list(model.names), "states": [list(s) for s in model.states]} if model.names else {}


def _evidence_beside(path: Path) -> Path | None:
    """A file of evidence that lies beside a model and is named after it."""
    stem = path.name.removesuffix(".gz")
    for name in (f"{stem}.evid", f"{path.name}.evid", f"{stem}.evid.gz"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    return None


def _check_writable(path: Path) -> None:
    """Find out before the work that the answer will have no place."""
    if path.is_dir():
        raise cannot_write(path, IsADirectoryError(21, "it is a folder"))
    if not path.parent.is_dir():
        raise cannot_write(path, NotADirectoryError(20, f"there is no folder {path.parent}"))


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")

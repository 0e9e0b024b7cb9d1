"""The command ``verify``: re-check a result against its model, without trusting the solver or the file."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ebmstruct.errors import DataError
from ebmstruct.graph import Assignment
from ebmstruct.inference import certificate
from ebmstruct.inference.engine import TOLERANCE
from ebmstruct.inference.result import Result, Status, Witness
from ebmstruct.run.result_file import claims_of, dumped, read_result, unpack_witness
from ebmstruct.run.solving import Problem


def verify(arguments: argparse.Namespace) -> None:
    """Re-check a result; DataError, the first thing that does not hold, where it is not verified."""
    try:
        record = read_result(arguments.result)
        problem = Problem.read(arguments.model, arguments.evidence)
        checked = _Check(problem, record)
        checked.run()
    except DataError as error:
        if arguments.json:
            sys.stdout.write(dumped({"verified": False, "fault": str(error)}) + "\n")
        raise
    except _NotVerified as error:
        if arguments.json:
            sys.stdout.write(dumped({"verified": False, "fault": str(error)}) + "\n")
        raise DataError(f"{arguments.result}: NOT VERIFIED: {error}") from None
    if arguments.json:
        said = {"verified": True, "proven": checked.proven, "verdict": checked.verdict, "checked": checked.lines}
        sys.stdout.write(dumped(said) + "\n")
    else:
        sys.stdout.write("\n".join([*checked.lines, f"verified: {checked.verdict}"]) + "\n")


class _NotVerified(Exception):
    """A claim of a result that does not hold."""


@dataclass(eq=False)
class _Check:
    """One result held against its model; lines: what was found in order.

    proven: whether the least energy is proven by a witness that was re-checked here.
    """

    problem: Problem
    record: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    verdict: str = ""
    proven: bool = False

    def run(self) -> None:
        self.files()
        query = self.record.get("query")
        if query == "map":
            self.minimum()
        elif query == "sample":
            self.samples()
        elif query in ("marginals", "logz"):
            self.sums(query)
        else:
            raise _NotVerified(f"its query is {str(query)[:40]!r}; known are map, marginals, logz and sample")

    def files(self) -> None:
        for what, found in (("model", self.problem.model.sha256), ("evidence", self.problem.evidence.sha256)):
            if what not in self.record:
                raise _NotVerified(f"it has no field {what!r}")
            said = self.record[what]
            given = found if what == "model" or self.problem.evidence.path is not None else None
            if said is None and given is None:
                self.lines.append("evidence     none")
                continue
            if given is None:
                raise _NotVerified("it was found with evidence; name the file with --evidence")
            if not isinstance(said, dict):
                raise _NotVerified(f"it does not say which {what} it is for, but one was given")
            if said.get("sha256") != given:
                raise _NotVerified(
                    f"it is for another {what} (sha256 {str(said.get('sha256'))[:12]}, not {given[:12]})"
                )
            self.lines.append(f"{what:12} the same file, sha256 {given[:12]}")

    def number(self, name: str, owner: dict[str, Any] | None = None) -> float | None:
        """A field that must hold a finite number or null."""
        record = self.record if owner is None else owner
        if name not in record:
            raise _NotVerified(f"it has no field {name!r}")
        value = record[name]
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
            raise _NotVerified(f"its {name} is {str(value)[:40]!r}, which is no finite number")
        return float(value)

    def energy_of(self, states: Any, what: str) -> float:
        """The energy of an assignment from the file, which must fit the model and the evidence."""
        block = self.problem.model.block
        if not isinstance(states, list) or len(states) != block.num_sites:
            found = f"{len(states)} states" if isinstance(states, list) else type(states).__name__
            raise _NotVerified(f"its {what} is not one state for each of {block.num_sites} variables but {found}")
        counts = block.state_counts.tolist()
        for variable, (state, count) in enumerate(zip(states, counts, strict=True)):
            if type(state) is not int or not 0 <= state < count:
                said = f"{str(state)[:20]!r} to variable {variable}; its states are 0 to {count - 1}"
                raise _NotVerified(f"its {what} gives {said}")
        for variable, state in self.problem.evidence.states.items():
            if states[variable] != state:
                raise _NotVerified(
                    f"its {what} gives variable {variable} state {states[variable]}; observed is {state}"
                )
        values = {block.name: torch.tensor(states, dtype=torch.long)}
        return float(self.problem.graph.energy(values)[0])

    def same(self, name: str, said: float | None, found: float) -> None:
        """Whether a field holds what was recomputed; null stands for infinity."""
        claimed = math.inf if said is None else said
        if claimed != found and not abs(claimed - found) <= TOLERANCE * max(1.0, abs(found)):
            raise _NotVerified(f"its {name} is {_shown(claimed)}; recomputed from the model it is {_shown(found)}")

    def minimum(self) -> None:
        if self.record.get("status") not in Status.__members__:
            raise _NotVerified(f"its status is {str(self.record.get('status'))[:40]!r}, which is none")
        status = Status[self.record["status"]]
        said, bound, gap = (self.number(name) for name in ("energy", "lower_bound", "gap"))
        for name in ("assignment", "witness"):
            if name not in self.record:
                raise _NotVerified(f"it has no field {name!r}")
        witness = _witness(self.record["witness"])
        if status is Status.NONFINITE:
            raise _NotVerified("its status is NONFINITE, so there is no answer to verify")
        if status is Status.INFEASIBLE:
            if (said, bound, gap, self.record["assignment"]) != (None, None, None, None):
                raise _NotVerified("its status is INFEASIBLE, yet it gives an energy, a bound or an assignment")
            self.bound(witness, math.inf)
            return
        if self.record["assignment"] is None:
            self.nothing(witness, said, bound, gap, status)
            return
        energy = self.energy_of(self.record["assignment"], "assignment")
        self.names()
        self.same("energy", said, energy)
        if math.isnan(energy) or energy == -math.inf:
            raise _NotVerified(f"the energy of its assignment is {energy}")
        self.lines.append(f"energy       {_shown(energy)}, recomputed from the assignment")
        self.consistent(status, energy, bound, gap)
        if "alternatives" in self.record:
            self.alternatives(energy)
        self.bound(witness, -math.inf if bound is None else bound)
        self.lines.append(f"status       {status.name}, as energy and bound say")

    def nothing(
        self, witness: Witness | None, said: float | None, bound: float | None, gap: float | None, status: Status
    ) -> None:
        """A result that found no allowed assignment: it may claim a bound, and no more."""
        if said is not None or gap is not None or status is Status.OPTIMAL:
            raise _NotVerified("it has no assignment, yet it gives an energy, a gap or the status OPTIMAL")
        self.lines.append("assignment   none was found, and none is claimed")
        self.bound(witness, -math.inf if bound is None else bound)
        self.verdict = "no assignment was found, and none is claimed"

    def names(self) -> None:
        """The names of the states, where the result gives them, are those of its assignment."""
        model, states = self.problem.model, self.record["assignment"]
        if "names" in self.record:
            right = {n: model.states[i][states[i]] for i, n in enumerate(model.names)}
            if self.record["names"] != right:
                raise _NotVerified("its names are not those of its assignment")

    def consistent(self, status: Status, energy: float, bound: float | None, gap: float | None) -> None:
        tolerance = TOLERANCE * max(1.0, abs(energy)) if math.isfinite(energy) else 0.0
        low = -math.inf if bound is None else bound
        if low > energy + tolerance:
            raise _NotVerified(f"its lower bound {_shown(low)} is above the energy {_shown(energy)} of its own answer")
        true_gap = max(0.0, energy - low)
        self.same("gap", gap, true_gap)
        optimal = math.isfinite(energy) and true_gap <= tolerance
        if optimal != (status is Status.OPTIMAL):
            right = "OPTIMAL" if optimal else "not OPTIMAL"
            raise _NotVerified(f"its status is {status.name}; with a gap of {_shown(true_gap)} it is {right}")

    def alternatives(self, best: float) -> None:
        listed = self.record["alternatives"]
        if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
            raise _NotVerified("its alternatives are no list of answers")
        energies = []
        for place, one in enumerate(listed, 1):
            energies.append(self.energy_of(one.get("assignment"), f"alternative {place}"))
            self.same(f"energy of alternative {place}", self.number("energy", one), energies[-1])
        self.same("best alternative", energies[0], best)
        slack = TOLERANCE * max(1.0, abs(best))
        if any(later < before - slack for before, later in zip(energies, energies[1:], strict=False)):
            raise _NotVerified("its alternatives are not in the order of their energies")
        if len({tuple(one["assignment"]) for one in listed}) < len(listed):
            raise _NotVerified("its alternatives repeat an assignment")
        self.lines.append(
            f"alternatives {len(listed)}, all different, energies recomputed; that none is missed is claimed"
        )

    def bound(self, witness: Witness | None, claimed: float) -> None:
        """Hold a claimed bound (+inf: infeasible) against what its witness proves."""
        if claimed == -math.inf:
            self.lines.append("lower bound  none claimed")
            self.verdict = "the energy is right; nothing is claimed about how good it is"
            return
        proven = self._proven(witness)
        what = "that no assignment has finite energy" if claimed == math.inf else f"the bound {_shown(claimed)}"
        if proven >= claimed - (TOLERANCE * max(1.0, abs(proven)) if math.isfinite(proven) else 0.0):
            self.lines.append(
                f"lower bound  {_shown(claimed)}, proven by the witness ({_kind(self.record['witness'])})"
            )
            self.proven = self.record["status"] in ("OPTIMAL", "INFEASIBLE")
            self.verdict = f"{what} is proven" if claimed != math.inf else "infeasible: it is proven " + what
            if self.proven and claimed != math.inf:
                self.verdict = "the energy is proven least"
        elif names := claims_of(witness):
            by = " and ".join(names)[:80]
            self.lines.append(f"lower bound  {_shown(claimed)}, claimed by {by}, not re-checked")
            self.verdict = f"the files and the energy are right; {what} is claimed by {by} and was not re-checked"
        else:
            raise _NotVerified(f"its witness proves a bound of {_shown(proven)}, but it claims {_shown(claimed)}")

    def _proven(self, witness: Witness | None) -> float:
        graph, block = self.problem.graph, self.problem.model.block
        nothing = torch.zeros(1, dtype=torch.float64)
        empty = Assignment({block.name: torch.zeros(block.num_sites, dtype=torch.long)})
        result = Result(empty, nothing, nothing, torch.zeros(1, dtype=torch.long), witness=witness)
        try:
            found: Tensor = certificate.bound(graph, result)
        except (ValueError, LookupError, RuntimeError, TypeError, AttributeError, AssertionError) as error:
            said = " ".join(str(error).split())[:120]
            raise _NotVerified(f"its witness does not fit the model ({said or type(error).__name__})") from None
        value = float(found[0])
        return -math.inf if math.isnan(value) else value

    def samples(self) -> None:
        states, energies = self.record.get("samples"), self.record.get("energies")
        if not isinstance(states, list) or not isinstance(energies, list) or len(states) != len(energies):
            raise _NotVerified("its samples and energies are not two lists of one length")
        for i, (sample, said) in enumerate(zip(states, energies, strict=True)):
            found = self.energy_of(sample, f"sample {i}")
            self.same(f"energy of sample {i}", self.number("energy", {"energy": said}), found)
        self.lines.append(f"samples      {len(states)}, energies recomputed")
        self.verdict = "the samples have the energies given; how they were drawn cannot be re-checked"

    def sums(self, query: str) -> None:
        logz = self.number("logz")
        for name, sign in (("lower", 1.0), ("upper", -1.0)):
            end = self.number(name) if name in self.record else None
            if logz is not None and end is not None and sign * (end - logz) > TOLERANCE * max(1.0, abs(logz)):
                raise _NotVerified(f"its log Z {_shown(logz)} lies outside its own interval")
        if query == "marginals":
            self.marginals(dead=self.record.get("status") == "INFEASIBLE")
        lower = self.number("lower") if logz is None and "lower" in self.record else None
        told = _shown(logz) if logz is not None else "-inf" if lower is None else f"at least {_shown(lower)}"
        self.lines.append(f"log Z        {told}, claimed, not re-checked")
        self.verdict = "the files are right; sums carry no witness, so their values were not re-checked"

    def marginals(self, dead: bool) -> None:
        rows, block = self.record.get("marginals"), self.problem.model.block
        if not isinstance(rows, list) or len(rows) != block.num_sites:
            raise _NotVerified(f"its marginals are not one list for each of {block.num_sites} variables")
        for variable, (row, count) in enumerate(zip(rows, block.state_counts.tolist(), strict=True)):
            numbers = isinstance(row, list) and all(type(p) in (int, float) for p in row)
            if not numbers or len(row) != count or not all(-1e-9 <= p <= 1 + 1e-9 for p in row):
                raise _NotVerified(f"its marginals of variable {variable} are not {count} probabilities")
            if not dead and abs(sum(row) - 1) > 1e-6:
                raise _NotVerified(f"its marginals of variable {variable} add up to {sum(row):.9g}")
            seen = self.problem.evidence.states.get(variable)
            if not dead and seen is not None and abs(row[seen] - 1) > 1e-6:
                raise _NotVerified(f"its marginals of variable {variable} contradict the evidence")
        self.lines.append(f"marginals    {len(rows)} rows that add up to 1 and agree with the evidence")


def _witness(record: Any) -> Witness | None:
    try:
        return unpack_witness(record)
    except DataError as error:
        raise _NotVerified(str(error)) from None


def _kind(record: Any) -> str:
    """A witness's type in words."""
    if record["type"] == "several":
        return ", ".join(_kind(part) for part in record["parts"])
    return str(record["type"]).replace("_", " ")


def _shown(value: float) -> str:
    return f"{value:.12g}"

"""Evidence files: which variables were observed, and in which state."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from ebmstruct.errors import DataError
from ebmstruct.run.formats.model import Evidence, Model
from ebmstruct.run.formats.source import Source, read_source, shown, text_fault
from ebmstruct.storage import write_text

MAX_BYTES = 16 << 20


def read_evidence(path: Path | str, model: Model) -> Evidence:
    """The observed states in a file, for a model.

    Numbers: ``k v s v s ...``, k pairs of a variable and its state, both from 0; or ``1 k v s ...``, the same after the
    number of samples, which must be one. Names, for models that have them: lines ``variable = state``.
    Errors: DataError with file, line and fault; also for a variable observed in two states.
    """
    source = read_source(path, "file of evidence", MAX_BYTES)
    text = source.text()
    states = _named(source, text, model) if "=" in text else _numbered(source, text, model)
    return Evidence(states, source.path, source.sha256)


def write_evidence(path: Path | str, evidence: Evidence) -> None:
    """Replace a file by evidence as numbers, ``k v s v s ...``."""
    pairs = [f"{v} {s}" for v, s in evidence.states.items()]
    write_text(Path(path), " ".join([str(len(pairs)), *pairs]) + "\n")


def _numbered(source: Source, text: str, model: Model) -> dict[int, int]:
    words = text.split()

    def fault(at: int, said: str) -> DataError:
        match = next(islice(re.finditer(r"\S+", text), at, None))
        return text_fault(source.path, text, match.start(), said)

    for at, word in enumerate(words):
        if not (word.isascii() and word.isdigit() and len(word) <= 18):
            raise fault(at, f"{shown(word)} is no number from 0; evidence is 'k v s v s ...'")
    numbers = list(map(int, words))
    counts = model.block.state_counts.tolist()
    states: dict[int, int] = {}
    for at in range(_first(source, numbers), len(numbers), 2):
        variable, state = numbers[at], numbers[at + 1]
        if variable >= len(counts):
            raise fault(at, f"variable {variable} is observed; the model has {len(counts)}, numbered from 0")
        if state >= counts[variable]:
            said = f"variable {variable} is observed in state {state}; it has states 0 to {counts[variable] - 1}"
            raise fault(at + 1, said)
        if states.setdefault(variable, state) != state:
            raise fault(at, f"variable {variable} is observed in states {states[variable]} and {state}")
    return states


def _first(source: Source, numbers: list[int]) -> int:
    """Where the pairs begin, by either convention: their parity tells which one it is."""
    if 2 * numbers[0] + 1 == len(numbers):
        return 1
    if len(numbers) > 1 and 2 * numbers[1] + 2 == len(numbers):
        if numbers[0] == 1:
            return 2
        raise DataError(f"{source.path}: says that it has {numbers[0]} samples; one is wanted")
    at, samples = 1, 0
    while at < len(numbers):
        at += 1 + 2 * numbers[at]
        samples += 1
    if at == len(numbers) and samples == numbers[0]:
        raise DataError(f"{source.path}: has {samples} samples of evidence; write the one that is meant to a file")
    raise DataError(
        f"{source.path}: holds {len(numbers)} numbers, but {numbers[0]} observations 'k v s v s ...' are "
        f"{2 * numbers[0] + 1}" + (f", and '1 k v s ...' are {2 * numbers[1] + 2}" if len(numbers) > 1 else "")
    )


def _named(source: Source, text: str, model: Model) -> dict[int, int]:
    if not model.names:
        raise source.fault(0, "names variables, and the model has numbers only; write 'k v s v s ...'")
    variables = {name: i for i, name in enumerate(model.names)}
    states: dict[int, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        name, equals, state = (part.strip() for part in line.partition("="))
        if not equals or name not in variables:
            said = f"{shown(name, 60)} is no variable of the model; a line is 'variable = state'"
            raise DataError(f"{source.path}:{number}: {said}")
        variable = variables[name]
        legal = model.states[variable]
        if state not in legal:
            said = f"{shown(name, 60)} has no state {shown(state, 60)}; there: {', '.join(legal[:8])}"
            raise DataError(f"{source.path}:{number}: {said}")
        if states.setdefault(variable, legal.index(state)) != legal.index(state):
            said = f"{shown(name, 60)} is observed in states {legal[states[variable]]} and {state}"
            raise DataError(f"{source.path}:{number}: {said}")
    return states

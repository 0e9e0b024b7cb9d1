"""The task ``generative.sequences``: lines of symbols, new ones, and completions of partly known ones."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Generator

from ebmstruct import Assignment, DataError, EnergyModel, Example, FactorGraph
from ebmstruct.extend import Evaluation, Generative, Section
from ebmstruct.storage import atomic, file_sha256
from ebmstruct_generative.endings import check_ending
from ebmstruct_generative.sequences.made import made_lines
from ebmstruct_generative.sequences.measures import sequence_figures, sequence_score
from ebmstruct_generative.sequences.schema import SYMBOLS, SequenceSchema, fitted

log = logging.getLogger(__name__)

UNKNOWN = "?"
"""Stands for a symbol that nobody knows, in patterns and in inputs."""
SHARES = {"dev": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Sequences(Generative):
    """Sequences of symbols, one a line.

    data: ``made`` (names drawn here, see ``made.py``), or a text file in UTF-8, also with .gz; empty lines are left out.
    unit: ``letters``, or ``words`` between spaces.
    longest: lines of more symbols are left out, with a word on how many.
    split_seed: a tenth of the lines becomes dev, and another test, drawn by this seed.
    """

    name: ClassVar[str] = "generative.sequences"
    metric: ClassVar[str] = "fidelity"
    suffix: ClassVar[str] = ".txt"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "energy": {"name": "generative.hidden_chain"},
        "loss": {"name": "negative_log_likelihood"},
        "train": {
            "optimizer": "adam", "lr": 0.02, "epochs": 20, "batch_size": 64, "schedule": "linear", "evaluate_every": 5,
        },
    }  # fmt: skip

    data: str = "made"
    unit: Literal["letters", "words"] = "letters"
    longest: int = 200
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"longest must be at least 1; found {self.longest}")

    @cached_property
    def lines(self) -> dict[str, list[list[str]]]:
        """The sequences of each split, read at the first use."""
        if self.data == "made":
            return {split: [self._cut(line) for line in made_lines(split)] for split in ("train", "dev", "test")}
        rows = [self._cut(line) for line in _read(Path(self.data)) if line]
        kept = [row for row in rows if row and len(row) <= self.longest]
        if len(kept) < len(rows):
            log.warning(
                "%s: %d lines have more than %d symbols and are left out",
                self.data,
                len(rows) - len(kept),
                self.longest,
            )
        if len(kept) < 10:
            raise DataError(
                f"{self.data}: {len(kept)} usable lines; at least 10 are needed to learn from and to judge by"
            )
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(self.split_seed)).tolist()
        held = {split: max(1, round(share * len(kept))) for split, share in SHARES.items()}
        dev, test = order[: held["dev"]], order[held["dev"] : held["dev"] + held["test"]]
        chosen = set(dev) | set(test)
        return {
            "train": [row for i, row in enumerate(kept) if i not in chosen],
            "dev": [kept[i] for i in sorted(dev)],
            "test": [kept[i] for i in sorted(test)],
        }

    def _cut(self, line: str) -> list[str]:
        return list(line) if self.unit == "letters" else line.split()

    def _joined(self, symbols: Sequence[str]) -> str:
        return ("" if self.unit == "letters" else " ").join(symbols)

    def examples(self, split: str) -> Sequence[Example]:
        if split not in self.lines:
            raise DataError(f"there is no split {split!r}; there are {', '.join(self.lines)}")
        return [Example({"length": len(row)}, row, self.data) for row in self.lines[split]]

    def examples_from(self, path: Path, split: str = "test") -> Sequence[Example]:
        """Every line of a file, whatever the split is called."""
        rows = [self._cut(line) for line in _read(path) if line]
        return [Example({"length": len(row)}, row, str(path)) for row in rows]

    def fit(self, train: Sequence[Example]) -> SequenceSchema:
        return fitted([e.y for e in train])

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment:
        """Symbols as states; ``None``, and symbols that the training data does not have, are unknown."""
        place = {symbol: k for k, symbol in enumerate(schema.symbols)}
        states = [place.get(symbol, -1) for y in ys for symbol in y]
        value = torch.tensor(states, dtype=torch.long, device=graph.variables[SYMBOLS].offsets.device)
        known = value >= 0
        masks = {} if bool(known.all()) else {SYMBOLS: known}
        return Assignment({SYMBOLS: value.clamp(min=0)}, masks)

    def decode(self, y: Assignment, graph: FactorGraph, schema: Any) -> list[Any]:
        symbols = [schema.symbols[k] for k in y[SYMBOLS].tolist()]
        ends = graph.variables[SYMBOLS].offsets.tolist()
        return [symbols[a:b] for a, b in zip(ends, ends[1:], strict=False)]

    def given(self, texts: Sequence[str], schema: Any) -> Mapping[str, Any]:
        """``length=N``, ``prefix=TEXT`` and ``pattern=TEXT``, in which ``?`` stands for any symbol."""
        found: dict[str, Any] = {}
        for text in texts:
            part, equals, value = text.partition("=")
            if not equals or part not in ("length", "prefix", "pattern"):
                raise DataError(f"--given {text}: legal are length=N, prefix=TEXT and pattern=TEXT (? for any symbol)")
            if part == "length":
                if not (value.isascii() and value.isdigit() and len(value) < 7 and int(value) > 0):
                    raise DataError(f"--given {text}: the length is a whole number from 1 to 999999")
                found["length"] = int(value)
                continue
            symbols = self._cut(value)
            strange = sorted({s for s in symbols if s != UNKNOWN and s not in set(schema.symbols)})
            if not symbols or strange:
                said = f"the training data never has {', '.join(map(repr, strange))}" if strange else "it is empty"
                raise DataError(f"--given {text}: {said}; symbols are {_some(schema.symbols)}")
            found[part] = symbols
        if "pattern" in found and "prefix" in found:
            raise DataError("a pattern says how a sequence begins, and a prefix is given too; leave one of them out")
        known = len(found.get("pattern", ())) or found.get("length")
        if "pattern" in found and found.get("length", known) != known:
            raise DataError(
                f"the pattern has {known} symbols, and length={found['length']} is given too; leave one out"
            )
        if known and len(found.get("prefix", ())) > known:
            raise DataError(f"the prefix has {len(found['prefix'])} symbols, more than the length {known}")
        return found if "pattern" not in found else {**found, "length": known}

    def inputs(self, x: Mapping[str, Any], count: int, schema: Any, generator: Generator) -> list[Any]:
        """Lengths are drawn as the training data has them, where none is given; no shorter than a prefix."""
        if "length" in x:
            return [x] * count
        least = len(x.get("prefix", ()))
        pairs = [(n, c) for n, c in zip(schema.lengths, schema.shares, strict=True) if n >= least]
        if not pairs:
            raise DataError(f"the prefix has {least} symbols, and no training sequence is as long; give length=N too")
        weights = torch.tensor([c for _, c in pairs], dtype=torch.float64)
        drawn = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
        return [{**x, "length": pairs[k][0]} for k in drawn]

    def inputs_of(self, records: Sequence[Any], schema: Any) -> list[Any]:
        return [{"length": len(record)} for record in records]

    def has(self, record: Any, x: Mapping[str, Any], schema: Any) -> bool:
        wanted = x.get("pattern") or x.get("prefix", [])
        fits = all(w in (UNKNOWN, s) for w, s in zip(wanted, record, strict=False)) and len(record) >= len(wanted)
        return fits and len(record) == x.get("length", len(record))

    def partial(self, x: Any, schema: Any) -> Any:
        known = list(x.get("pattern") or x.get("prefix", ()))
        symbols = [None if s == UNKNOWN else s for s in known]
        return symbols + [None] * (x["length"] - len(symbols))

    def read(self, raw: str) -> list[Any]:
        """Lines in which ``?`` stands for what is to be filled in."""
        rows = [self._cut(line) for line in raw.splitlines() if line]
        return [{"pattern": row, "length": len(row)} for row in rows]

    def write(self, records: Iterable[Any], path: Path, schema: Any) -> None:
        """One sequence a line."""
        check_ending(path, (".txt",), "any other name, for a sequence a line")
        with atomic(path) as file:
            for record in records:
                file.write((self._joined(record) + "\n").encode("utf-8"))

    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        return sequence_score([e.y for e in examples], outputs, self.lines["train"])

    def quality(
        self, examples: Sequence[Example], records: Sequence[Any], like: Callable[[Any], bool] | None = None
    ) -> dict[str, Any]:
        train = self.lines["train"]
        own = train if like is None else [row for row in train if like(row)]
        return sequence_figures([e.y for e in examples], records, own if own else train)

    def record(self, x: Any, output: Any) -> dict[str, Any]:
        return {"sequence": self._joined(output)}

    def show(self, x: Any, output: Any) -> str:
        return self._joined(output)

    def render(self, evaluation: Evaluation, model: EnergyModel, schema: Any) -> list[Section]:
        from ebmstruct_generative.sequences.rendering import sections

        train = {self._joined(row) for row in self.lines["train"]}
        real = [self._joined(e.y) for e in evaluation.examples]
        return sections(evaluation, real, [self._joined(o) for o in evaluation.outputs], train)

    def strip(self, drawn: Mapping[int, Sequence[Any]], schema: Any) -> list[Section]:
        from ebmstruct_generative.sequences.rendering import strip

        return strip({epoch: [self._joined(row) for row in rows] for epoch, rows in drawn.items()})

    def provenance(self) -> dict[str, Any]:
        files = {} if self.data == "made" else {self.data: file_sha256(Path(self.data))}
        return {"data": self.data, "unit": self.unit, "files": files}


def _read(path: Path) -> list[str]:
    """The lines of a text file, also packed. Errors: DataError where it is no such file."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: is not UTF-8 text (byte {raw[error.start]:#04x}); save it as UTF-8") from error
    except (OSError, EOFError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read: {said}; task.data is a text file, or made") from error


def _some(symbols: Sequence[str]) -> str:
    shown = ", ".join(map(repr, symbols[:40]))
    return shown + (", ..." if len(symbols) > 40 else "")

"""A whole small plugin for the tests: chains of two labels over a little alphabet, drawn from a seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ebmstruct.energies import EnergyModel
from ebmstruct.errors import DataError
from ebmstruct.extend import Cases, Chart, Evaluation, Example, Schema, Section, Table, Task, hookimpl
from ebmstruct.graph import Assignment, ChainFactor, Discrete, FactorGraph, TableFactor, Variables

LETTERS = "abcdefgh"


@dataclass(frozen=True)
class ToySchema(Schema):
    """Labels and letters, and how often each letter was seen."""

    labels: tuple[str, ...]
    letters: tuple[str, ...]
    counts: torch.Tensor

    def state_names(self, block: str) -> tuple[str, ...]:
        """The labels."""
        return self.labels if block == "y" else ()


@dataclass(frozen=True)
class Noise:
    """How often a label is drawn at random."""

    rate: float = 0.05
    kind: Literal["uniform", "none"] = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must be between 0 and 1, not {self.rate}")


@dataclass(frozen=True)
class Letters(Task):
    """Label vowels, and what follows them."""

    name = "toy.letters"
    metric = "accuracy"
    defaults = {
        "energy": {"name": "toy.chain"},
        "loss": {"name": "negative_log_likelihood"},
        "train": {"epochs": 3, "batch_size": 8, "lr": 0.05},
    }

    examples_count: int = 40
    length: int = 6
    seed: int = 0
    noise: Noise = Noise()
    partial: bool = False
    data: str | None = None
    weights: Mapping[str, float] | None = None
    title: str = "letters"
    folder: Path | None = None
    sizes: tuple[int, ...] = ()

    def examples(self, split: str) -> Iterable[Example]:
        """Chains drawn from the seed, or those of a JSON lines file."""
        if self.data is not None:
            yield from _read(Path(self.data))
            return
        generator = torch.Generator().manual_seed(self.seed * 10 + {"train": 0, "dev": 1, "test": 2}[split])
        for i in range(self.examples_count):
            length = 1 + int(torch.randint(self.length, (1,), generator=generator))
            x = tuple(LETTERS[k] for k in torch.randint(len(LETTERS), (length,), generator=generator).tolist())
            noise = torch.rand(length, generator=generator).tolist()
            y: list[str | None] = []
            for t, letter in enumerate(x):
                vowel = letter in "ae" or (t > 0 and x[t - 1] == "a")
                y.append("V" if vowel != (noise[t] < self.noise.rate) else "C")
            if self.partial and split != "train" and i % 3 == 0:
                y[0] = None
            yield Example(x, tuple(y), f"{split}:{i + 1}")

    def fit(self, train: Sequence[Example]) -> ToySchema:
        """The letters that were seen."""
        seen = [letter for example in train for letter in example.x]
        counts = torch.tensor([float(seen.count(letter)) for letter in LETTERS])
        return ToySchema(("C", "V"), tuple(LETTERS), counts)

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: ToySchema) -> Assignment:
        """Labels as states."""
        flat = [label for y in ys for label in y]
        values = torch.tensor([schema.labels.index(v) if v is not None else 0 for v in flat], dtype=torch.long)
        known = torch.tensor([v is not None for v in flat], dtype=torch.bool)
        return Assignment({"y": values}, {} if bool(known.all()) else {"y": known})

    def decode(self, y: Assignment, graph: FactorGraph, schema: ToySchema) -> list[Any]:
        """States as labels."""
        offsets, values = graph.variables["y"].offsets.tolist(), y["y"].tolist()
        return [[schema.labels[k] for k in values[a:b]] for a, b in pairwise(offsets)]

    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """The share of labels that are right, and of each type."""
        pairs = [(g, p) for e, o in zip(examples, outputs, strict=True) for g, p in zip(e.y, o, strict=True) if g]
        right = [g == p for g, p in pairs]
        by = {label: [g == p for g, p in pairs if g == label] for label in ("C", "V")}
        return {
            "accuracy": sum(right) / max(1, len(right)),
            "labels": len(right),
            "per_type": {k: sum(v) / max(1, len(v)) for k, v in by.items()},
        }

    def read(self, raw: str) -> list[Any]:
        """One chain a word."""
        for word in raw.split():
            if set(word) - set(LETTERS):
                raise DataError(f"the word {word!r} holds letters other than {LETTERS}")
        return [tuple(word) for word in raw.split()]

    def render(self, evaluation: Evaluation, model: EnergyModel, schema: ToySchema) -> list[Section]:
        """A confusion matrix, a bar chart, and what went wrong."""
        pairs = [
            (g, p)
            for e, o in zip(evaluation.examples, evaluation.outputs, strict=True)
            for g, p in zip(e.y, o, strict=True)
        ]
        rows = [[g, *(pairs.count((g, p)) for p in "CV")] for g in "CV"]
        wrong = [
            {"text": "".join(e.x), "correct": "".join(v or "?" for v in e.y), "predicted": "".join(o)}
            for e, o in zip(evaluation.examples, evaluation.outputs, strict=True)
            if list(e.y) != o
        ]
        return [
            Table("Confusion", ["correct", "C", "V"], rows, "Rows are correct, columns predicted labels."),
            Chart("By label", {"share right": [0.9, 0.8]}, ["C", "V"], kind="bar"),
            Cases("Mistakes", wrong[:3]),
        ]

    def provenance(self) -> dict[str, Any]:
        """Nothing was read."""
        return {"files": {}, "generator": f"seed {self.seed}"}


class Chain(EnergyModel):
    """Energies of letters and of neighbouring labels."""

    def __init__(
        self, schema: ToySchema, *, transitions: bool = True, scale: float = 0.1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be above 0, not {scale}")
        self.letters = {letter: i for i, letter in enumerate(schema.letters)}
        self.unary = nn.Parameter(scale * torch.randn(len(schema.letters), len(schema.labels)))
        states = len(schema.labels)
        self.transition = nn.Parameter(torch.zeros(states, states)) if transitions else None
        self.drop = nn.Dropout(dropout)

    def forward(self, inputs: Any) -> FactorGraph:
        """The graph of a batch of words."""
        block = Variables.of_lengths("y", Discrete(self.unary.shape[1]), [len(x) for x in inputs])
        index = torch.tensor([self.letters[letter] for x in inputs for letter in x], dtype=torch.long)
        tables = self.drop(self.unary)[index]
        factors: list[Any] = [TableFactor(("y",), "letter", tables)]
        if self.transition is not None:
            factors.append(ChainFactor(("y",), "pair", self.transition))
        return FactorGraph((block,), factors)


def _read(path: Path) -> Iterable[Example]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        x, y = json.loads(line)
        yield Example(tuple(x), tuple(y), f"{path.name}:{number}")


@hookimpl
def ebmstruct_tasks() -> dict[str, type]:
    """Tasks."""
    return {"letters": Letters}


@hookimpl
def ebmstruct_energies() -> dict[str, type | str]:
    """Energies."""
    return {"chain": "toy_plugin:Chain"}


@hookimpl
def ebmstruct_losses() -> dict[str, type | str]:
    """Losses."""
    return {"replay": "toy_losses:Replay"}

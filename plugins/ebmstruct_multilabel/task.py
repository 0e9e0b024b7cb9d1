"""The task ``multilabel.classification``: a row of features or a text in, a set of labels out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ebmstruct import (
    Assignment,
    Budget,
    EnergyModel,
    Example,
    ExpectedF1,
    Factor,
    FactorGraph,
    Result,
    Solver,
    TableFactor,
    Task,
    Threshold,
    marginals,
    minimize,
)
from ebmstruct.errors import SolverRefusal
from ebmstruct.extend import Evaluation, Inference, Section
from ebmstruct_multilabel.metrics import best_threshold, calibration, set_scores
from ebmstruct_multilabel.records import parsed, row_of
from ebmstruct_multilabel.rows import Row
from ebmstruct_multilabel.schema import LABELS, LabelSchema, fitted
from ebmstruct_multilabel.splits import MADE, Corpus, find_splits, read_corpus
from ebmstruct_multilabel.tables import TableOptions

log = logging.getLogger(__name__)

SMALLEST_TOLD = 0.005
"""Probabilities below this are left out of outputs."""


@dataclass(frozen=True)
class Classification(Task):
    """Sets of labels for rows of features, or for texts.

    data: ``made`` (drawn here, see ``made.py``), a folder whose files are recognised as train, dev and test by their names,
    one file to train on, or those three by name: ARFF, CSV or TSV, JSONL, each also with .gz.
    labels: which columns are labels. ARFF: a Mulan XML file, how many attributes stand last (negative: first), or names;
    None looks for an XML file beside, then for MEKA's ``-C``. CSV: see ``TableOptions``. JSONL has its own.
    separator: between labels listed in one CSV column.  text: the CSV column whose words are the features.
    least_count: words of texts that fewer training examples have are no features.
    dev_fraction, split_seed: without a dev file so much of train becomes dev, drawn by this seed; 0 for none.
    missed, spurious: what a label that is left out, or put in wrongly, costs in losses with a margin.
    """

    name: ClassVar[str] = "multilabel.classification"
    metric: ClassVar[str] = "example_f1"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "energy": {"name": "multilabel.mlp"},
        "solver": {"name": "expected_f1"},
        "loss": {"name": "negative_log_likelihood"},
        "train": {"optimizer": "adamw", "lr": 1e-3, "epochs": 12, "batch_size": 64, "schedule": "linear"},
    }

    data: str | dict[str, str] = MADE
    labels: str | int | list[str] | None = None
    separator: str = ";"
    text: str | None = None
    least_count: int = 2
    dev_fraction: float = 0.15
    split_seed: int = 0
    missed: float = 1.0
    spurious: float = 1.0

    def __post_init__(self) -> None:
        for name in ("missed", "spurious"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite; found {getattr(self, name)}")
        if not 0 <= self.dev_fraction < 1:
            raise ValueError(f"dev_fraction must be from 0 up to, but not, 1; found {self.dev_fraction}")
        if self.least_count < 1 or not self.separator:
            raise ValueError("least_count must be at least 1, and separator not empty")

    @cached_property
    def corpus(self) -> Corpus:
        """All splits, read at the first use."""
        options = TableOptions(self.labels, self.separator, self.text)
        corpus = read_corpus(self.data, options, dev_fraction=self.dev_fraction, seed=self.split_seed)
        for split, rows in corpus.splits.items():
            log.info("%s: %d rows, %d labels", split, len(rows), len(rows.labels))
        if corpus.carved:
            log.info("dev: %d rows of train, drawn by seed %d", corpus.carved, self.split_seed)
        return corpus

    def examples(self, split: str) -> Sequence[Example]:
        found = self.corpus[split]
        return [Example(x, y, s) for x, y, s in zip(found.rows, found.sets, found.sources, strict=True)]

    def splits(self) -> Sequence[str]:
        return tuple(self.corpus.splits)

    def examples_from(self, path: Path, split: str = "test") -> Sequence[Example]:
        """The examples of a file, or of a folder's file for ``split``, read as in training."""
        file = find_splits(path, required=(split,))[split] if path.is_dir() else path
        return replace(self, data={split: str(file)}).examples(split)

    def fit(self, train: Sequence[Example]) -> LabelSchema:
        return fitted(train, self.least_count)

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment:
        """Sets as states 0 and 1; labels that the training data does not have are passed over."""
        place = {label: k for k, label in enumerate(schema.labels)}
        states = torch.zeros(len(ys), len(place), dtype=torch.long)
        known = torch.ones(len(ys), len(place), dtype=torch.bool)
        for i, y in enumerate(ys):
            if y is None:
                known[i] = False
                continue
            states[i, [place[label] for label in y if label in place]] = 1
        device = graph.variables[LABELS].offsets.device
        masks = {} if bool(known.all()) else {LABELS: known.reshape(-1).to(device)}
        return Assignment({LABELS: states.reshape(-1).to(device)}, masks)

    def decode(self, y: Assignment, graph: FactorGraph, schema: Any) -> list[Any]:
        states = y[LABELS].reshape(graph.num_instances, len(schema.labels)).cpu()
        count = len(schema.labels)
        return [{"labels": [schema.labels[k] for k in row.nonzero()[:, 0].tolist()], "of": count} for row in states]

    def cost(self, graph: FactorGraph, target: Assignment, schema: Any) -> Sequence[Factor]:
        """Hamming: ``missed`` for each label left out, ``spurious`` for each put in wrongly, 0 where nobody knows."""
        inside = target[LABELS].double()
        known = target.known.get(LABELS)
        weight = torch.ones_like(inside) if known is None else known.double()
        table = torch.stack([self.missed * inside * weight, self.spurious * (1 - inside) * weight], dim=1)
        return [TableFactor((LABELS,), "cost", table.float())]

    def infer(
        self,
        graph: FactorGraph,
        schema: Any,
        *,
        solver: Solver | None = None,
        budget: Budget | None = None,
        detail: bool = False,
    ) -> Inference:
        """Decode by the solver; with ``detail`` labels get their probabilities, where some solver gives them."""
        result = minimize(graph, resolved(solver, schema), budget=budget)
        outputs = self.decode(result.assignment, graph, schema)
        if detail:
            _add_probabilities(outputs, result, graph, schema)
        return Inference(result, outputs)

    def tune(self, model: EnergyModel, schema: Any, dev: Sequence[Example], *, solver: Solver | None = None) -> Any:
        """The schema with the threshold of greatest example-F1 on dev, where the solver leaves it open."""
        known = [e for e in dev if e.y is not None]
        if not isinstance(solver, Threshold) or solver.value is not None or not known:
            return schema
        open_solver = resolved(solver, schema)
        assert isinstance(open_solver, Threshold)
        prepared = model.prepare([e.x for e in known])
        parts, targets = [], []
        with torch.no_grad():
            for start in range(0, len(known), 256):
                positions = range(start, min(start + 256, len(known)))
                graph = model(prepared.select(positions))
                found = minimize(graph, open_solver)
                parts.append(found.stats["probability"].reshape(len(positions), -1).cpu().numpy())
                target = self.encode([known[i].y for i in positions], graph, schema)
                targets.append(target[LABELS].reshape(len(positions), -1).cpu().numpy() == 1)
        at_least = open_solver.at_least or 0
        value, score = best_threshold(np.concatenate(parts), np.concatenate(targets), at_least)
        log.info("threshold %.3f: example F1 %.4f on %d dev examples", value, score, len(known))
        return replace(schema, threshold=value)

    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """Scores of sets (see ``set_scores``) and, where there are probabilities, their calibration."""
        known = [i for i, e in enumerate(examples) if e.y is not None]
        count = max((outputs[i]["of"] for i in known), default=0)
        found = set_scores([examples[i].y for i in known], [outputs[i]["labels"] for i in known], count)
        if known and all("probabilities" in outputs[i] for i in known):
            found["calibration"] = _calibration([examples[i] for i in known], [outputs[i] for i in known])
        return found

    def read(self, raw: str) -> list[Any]:
        """JSON lines with features or a text; any other line is a text."""
        out: list[Any] = []
        for number, line in enumerate(raw.split("\n"), 1):
            if line.lstrip().startswith("{"):
                out.append(row_of(parsed(line, f"line {number}"), f"line {number}"))
            elif line.strip():
                out.append(Row.of_text(line))
        return out

    def record(self, x: Any, output: Any) -> dict[str, Any]:
        told = {"labels": output["labels"]}
        if "probabilities" in output:
            told["probabilities"] = output["probabilities"]
        return ({"text": x.text} if x.text is not None else {}) | told

    def show(self, x: Any, output: Any) -> str:
        sure = output.get("probabilities", {})
        lines = [f"  {label}" + (f"  {sure[label]:.2f}" if label in sure else "") for label in output["labels"]]
        return "\n".join([*([x.text] if x.text is not None else []), *(lines or ["  no label"])])

    def render(self, evaluation: Evaluation, model: EnergyModel, schema: Any) -> list[Section]:
        from ebmstruct_multilabel.rendering import sections

        return sections(evaluation)

    def provenance(self) -> dict[str, Any]:
        corpus = self.corpus
        return {"data": self.data, "carved_dev": corpus.carved, "files": dict(corpus.files)}


def resolved(solver: Solver | None, schema: LabelSchema) -> Solver | None:
    """The solver with what it leaves open filled in from the training and dev data."""
    if isinstance(solver, Threshold):
        value = schema.threshold if solver.value is None else solver.value
        return replace(solver, value=value, at_least=_at_least(solver.at_least, schema))
    if isinstance(solver, ExpectedF1):
        return replace(solver, at_least=_at_least(solver.at_least, schema))
    return solver


def _at_least(given: int | None, schema: LabelSchema) -> int:
    return schema.smallest if given is None else given


def _add_probabilities(outputs: list[Any], result: Result, graph: FactorGraph, schema: LabelSchema) -> None:
    """Label to probability, for those that are in the set or not negligible."""
    flat = result.stats.get("probability")
    if flat is None:
        try:
            flat = marginals(graph).beliefs[LABELS][:, 1]
        except SolverRefusal as refusal:
            log.debug("no probabilities of labels: %s", refusal)
            return
    rows = flat.reshape(graph.num_instances, -1).tolist()
    for output, row in zip(outputs, rows, strict=True):
        kept = set(output["labels"])
        pairs = zip(schema.labels, row, strict=True)
        output["probabilities"] = {label: p for label, p in pairs if p >= SMALLEST_TOLD or label in kept}


def _calibration(examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
    """Over the probabilities that are told."""
    pairs = [
        (p, label in e.y) for e, o in zip(examples, outputs, strict=True) for label, p in o["probabilities"].items()
    ]
    return calibration(np.array([p for p, _ in pairs], dtype=np.float64), np.array([y for _, y in pairs], dtype=bool))

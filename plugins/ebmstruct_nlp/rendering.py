"""The tagging tasks' own sections of the report: scores, confusion, calibration, the worst errors and their causes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ebmstruct import Assignment, EnergyModel, FactorGraph, Task
from ebmstruct.energies import SumOfEnergies
from ebmstruct.extend import Cases, Chart, Evaluation, Section, Table
from ebmstruct_nlp.encoding import encode
from ebmstruct_nlp.inputs import Sentence
from ebmstruct_nlp.metrics import errors
from ebmstruct_nlp.schemes import BIO, PLAIN
from ebmstruct_nlp.sparse_chain import SparseTags
from ebmstruct_nlp.tag_chain import TagSchema
from ebmstruct_nlp.tag_pairs import tags_of
from ebmstruct_nlp.tokenizing import character_spans

WORST = 20
REASONS = 8
HARD = (
    "HKCanCor is small and hard: 1,429 of its 16,162 utterances hold an entity, and organisations are hardly ever found. "
    "On one such split by conversation python-crfsuite with a plain character template reached F1 47 (LOC 74, PER 55, "
    "MISC 8, ORG 0)."
)


def sections(evaluation: Evaluation, model: EnergyModel, schema: TagSchema, task: Task) -> list[Section]:
    """All sections for one split."""
    scores = _scores(evaluation, schema)
    if getattr(task, "data", None) == "hkcancor" and schema.scheme != "plain":
        scores = replace(scores, note=f"{scores.note} {HARD}")
    out: list[Section] = [scores, _confusion(evaluation, schema)]
    if "calibration" in evaluation.metrics:
        out.append(_calibration(evaluation))
    return [*out, _worst(evaluation, model, schema, task)]


def _scores(evaluation: Evaluation, schema: TagSchema) -> Table:
    metrics, plain = evaluation.metrics, schema.scheme == "plain"
    rows = [
        [
            name,
            *(f"{100 * row[k]:.1f}" for k in ("precision", "recall", "f1")),
            row["correct"],
            row["predicted"],
            row["gold"],
        ]
        for name, row in sorted(metrics["tags" if plain else "types"].items(), key=lambda kv: -kv[1]["gold"])
    ]
    if not plain:
        total = [sum(r[i] for r in rows) for i in (4, 5, 6)]
        rows.append(["all", *(f"{100 * metrics[k]:.1f}" for k in ("precision", "recall", "f1")), *total])
    note = (
        "Each token counts once."
        if plain
        else "An entity is right when its type and both its ends are right. Tags that break the scheme cannot occur: the "
        "energy forbids them. In files, a lone I-X is read as B-X."
    )
    kind = "tag" if plain else "type"
    return Table(f"Scores by {kind}", [kind, "precision", "recall", "F1", "right", "predicted", "correct"], rows, note)


def _confusion(evaluation: Evaluation, schema: TagSchema) -> Table:
    found = evaluation.metrics["confusion"]
    rows, columns, counts = found["rows"], found["columns"], found["counts"]
    if len(rows) > 24:
        weight = {name: sum(row) for name, row in zip(rows, counts, strict=True)}
        kept = sorted(rows, key=lambda name: -weight[name])[:24]
        place = [rows.index(name) for name in kept]
        across = [columns.index(name) for name in kept]
        counts = [[counts[i][j] for j in across] for i in place]
        rows, columns = kept, kept
    note = "Rows are correct, columns predicted" + ("; the 24 most frequent" if len(found["rows"]) > 24 else "")
    if schema.scheme != "plain":
        note += f". Of the missed, {found['boundary']} were found with other ends"
    cells = [[name, *("" if c == 0 else c for c in row)] for name, row in zip(rows, counts, strict=True)]
    return Table("Confusion", ["", *columns], cells, note + ".")


def _calibration(evaluation: Evaluation) -> Chart:
    found = evaluation.metrics["calibration"]
    bins = [b for b in found["bins"] if b["count"]]
    return Chart(
        "Calibration",
        {"how often right": [b["accuracy"] for b in bins], "confidence": [b["confidence"] for b in bins]},
        x=[f"{b['low']:.1f}-{b['high']:.1f}" for b in bins],
        x_label="confidence",
        y_label="share that is right",
        kind="bar",
        note=f"Of {found['count']} answers. Expected calibration error {found['error']:.3f}, Brier score "
        f"{found['brier']:.3f}. A model that knows how sure it may be has both bars of a pair at one height.",
    )


def _worst(evaluation: Evaluation, model: EnergyModel, schema: TagSchema, task: Task) -> Cases:
    """The sentences whose correct tags lie highest above the predicted ones."""
    plain = schema.scheme == "plain"
    gold = [e.y for e in evaluation.examples]
    guess = [o["tags"] for o in evaluation.outputs]
    wrong = {e["sentence"] for e in errors(gold, guess, scheme=PLAIN if plain else BIO)}
    above = {i: evaluation.target_energy[i] - evaluation.energy[i] for i in wrong}
    above = {i: difference for i, difference in above.items() if math.isfinite(difference)}
    order = sorted(above, key=lambda i: -above[i])[:WORST]
    cases = []
    for i in order:
        x = evaluation.examples[i].x
        case: dict[str, Any] = {
            "text": task.record(x, evaluation.outputs[i]).get("text", " ".join(x)),
            "source": evaluation.examples[i].source,
            "correct": marked(x, gold[i], plain, guess[i]),
            "predicted": marked(x, guess[i], plain, gold[i]),
            "energies": f"correct {evaluation.target_energy[i]:.2f}, predicted {evaluation.energy[i]:.2f} "
            f"(lower by {above[i]:.2f})",
            "what decided": reasons(model, schema, x, gold[i], guess[i]),
        }
        cases.append(case)
    note = (
        "Sentences where the model was surest of a wrong answer: those whose correct tags lie highest above the "
        "predicted ones. A term's difference is its energy at the correct tags less that at the predicted ones: what "
        "is positive spoke for the mistake, what is negative against it."
    )
    return Cases("Worst errors", cases, note)


def marked(x: Sequence[str], tags: Sequence[str | None], plain: bool, other: Sequence[str | None]) -> str:
    """A sentence's spans, or those of its tags that differ from another tagging, as text."""
    if plain:
        pairs = zip(x, tags, other, strict=True)
        return ", ".join(f"{token}/{tag}" for token, tag, there in pairs if tag != there) or "(the same)"
    placed = x.placed if isinstance(x, Sentence) else Sentence(x).placed
    found = character_spans(placed.text, placed.offsets, BIO.spans(tags))
    return ", ".join(f"{span.text} [{span.label}]" for span in found) or "(no entity)"


def reasons(
    model: EnergyModel, schema: TagSchema, x: Sequence[str], gold: Sequence[Any], guess: Sequence[Any]
) -> Table:
    """The terms of the energy in which the correct and the predicted tags differ most."""
    model.eval()
    with torch.no_grad():
        graph = model.graph([x])
        right = Assignment(graph.complete(encode([gold], graph, schema)))
        found = encode([guess], graph, schema)
    features, told = _features(model, x, tags_of(right, graph, schema)[0], tags_of(found, graph, schema)[0])
    rows = [row for row in _differences(graph, x, right, found) if row[0] not in told] + features
    rows.sort(key=lambda row: -abs(row[2]))
    return Table(
        "", ["term", "at", "difference"], [[a, b, f"{d:+.2f}"] for a, b, d in rows[:REASONS] if abs(d) > 0.005]
    )


Row = tuple[str, str, float]


def _differences(graph: FactorGraph, x: Sequence[str], right: Assignment, found: Assignment) -> list[Row]:
    """One row for each factor row (a token), or for a whole chain, where the energies differ."""
    a, b = graph.factor_energies(right), graph.factor_energies(found)
    out: list[Row] = []
    for label, energies in a.items():
        difference = (energies.double() - b[label].double()).tolist()
        for i, d in enumerate(difference):
            where = f"{x[i]} ({i + 1})" if len(difference) == len(x) and len(x) > 1 else "whole sentence"
            out.append((label, where, d))
    return out


def _features(model: EnergyModel, x: Sequence[str], right: Tensor, found: Tensor) -> tuple[list[Row], set[str]]:
    """For sparse energies, what each feature of a wrongly tagged token said; and the labels of the sums that it makes."""
    parts: list[tuple[Any, float, str]] = [(model, 1.0, "")]
    if isinstance(model, SumOfEnergies):
        prefixes = [f"{name}/" for name in model.names]
        parts = list(zip(model.models, model.weights, prefixes, strict=True))
    rows: list[Row] = []
    told: set[str] = set()
    for part, weight, prefix in parts:
        if not isinstance(part, SparseTags):
            continue
        told.add(f"{prefix}word")
        for site in (right != found).nonzero()[:, 0].tolist():
            for slot, energies in part.evidence(x, site).items():
                d = weight * float(energies[right[site]] - energies[found[site]])
                rows.append((f"feature {slot}", f"{x[site]} ({site + 1})", d))
    return rows, told

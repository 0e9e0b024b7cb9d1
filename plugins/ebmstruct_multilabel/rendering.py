"""The task's own sections of the report: labels, pairs of labels, calibration, the surest mistakes."""

from __future__ import annotations

import math
from typing import Any

from ebmstruct.extend import Cases, Chart, Evaluation, Section, Table
from ebmstruct_multilabel.metrics import f1, together

WORST = 20
PAIRS = 15
MOST_LABELS = 200
SHOWN_FEATURES = 12


def sections(evaluation: Evaluation) -> list[Section]:
    """All sections for one split."""
    out: list[Section] = [_labels(evaluation), _pairs(evaluation)]
    if "calibration" in evaluation.metrics:
        out.append(_calibration(evaluation))
    return [*out, _worst(evaluation)]


def _labels(evaluation: Evaluation) -> Table:
    metrics = evaluation.metrics
    found = sorted(metrics["per_label"].items(), key=lambda kv: (-kv[1]["correct"], kv[0]))
    rows = [
        [
            label,
            *(f"{100 * row[k]:.1f}" for k in ("precision", "recall", "f1")),
            row["right"],
            row["predicted"],
            row["correct"],
        ]
        for label, row in found[:MOST_LABELS]
    ]
    note = (
        f"Micro F1 {100 * metrics['micro_f1']:.1f}, macro F1 {100 * metrics['macro_f1']:.1f}, example F1 "
        f"{100 * metrics['example_f1']:.1f}. Sets have {metrics['mean_size_correct']:.2f} labels, predicted ones "
        f"{metrics['mean_size']:.2f}."
    )
    if len(found) > MOST_LABELS:
        note += f" The {MOST_LABELS} most frequent of {len(found)} labels."
    return Table("Scores by label", ["label", "precision", "recall", "F1", "right", "predicted", "correct"], rows, note)


def _known(evaluation: Evaluation) -> list[int]:
    return [i for i, e in enumerate(evaluation.examples) if e.y is not None]


def _pairs(evaluation: Evaluation) -> Table:
    known = _known(evaluation)
    gold = [evaluation.examples[i].y for i in known]
    guess = [evaluation.outputs[i]["labels"] for i in known]
    rows = [
        [a, b, right, found, f"{found - right:+d}"] for a, b, right, found in together(gold, guess) if right != found
    ]
    note = (
        "Pairs of labels that are predicted together too seldom or too often, in numbers of examples. A model of "
        "independent labels shows here what it does not know of their interaction."
    )
    columns = ["label", "with", "correct together", "predicted together", "difference"]
    return Table("Labels that meet wrongly", columns, rows[:PAIRS], note)


def _calibration(evaluation: Evaluation) -> Chart:
    found = evaluation.metrics["calibration"]
    bins = [b for b in found["bins"] if b["count"]]
    return Chart(
        "Calibration",
        {"how often in the set": [b["share"] for b in bins], "probability": [b["probability"] for b in bins]},
        x=[f"{b['low']:.1f}-{b['high']:.1f}" for b in bins],
        x_label="probability of a label",
        y_label="share that is in the set",
        kind="bar",
        note=f"Of {found['count']} decisions, one a label and example. Expected calibration error {found['error']:.4f}, "
        f"Brier score {found['brier']:.4f}. Where both bars of a pair have one height, the probabilities are right.",
    )


def _worst(evaluation: Evaluation) -> Cases:
    """The examples with the least F1, the most wrong labels first."""
    known = _known(evaluation)
    score = {i: f1(evaluation.examples[i].y, evaluation.outputs[i]["labels"]) for i in known}

    def wrong(i: int) -> int:
        return len(set(evaluation.examples[i].y) ^ set(evaluation.outputs[i]["labels"]))

    order = sorted((i for i in known if score[i] < 1), key=lambda i: (score[i], -wrong(i), i))[:WORST]
    cases = [_case(evaluation, i, score[i]) for i in order]
    return Cases("Worst examples", cases, "Examples of the least F1, those with the most wrong labels first.")


def _case(evaluation: Evaluation, i: int, score: float) -> dict[str, Any]:
    example, output = evaluation.examples[i], evaluation.outputs[i]
    sure = output.get("probabilities", {})
    gold, guess = set(example.y), set(output["labels"])
    above = evaluation.target_energy[i] - evaluation.energy[i]
    case: dict[str, Any] = {"source": example.source, "input": described(example.x)}
    for title, labels in (("found", gold & guess), ("missed", gold - guess), ("spurious", guess - gold)):
        told = [f"{label} ({sure[label]:.2f})" if label in sure else label for label in sorted(labels)]
        case[title] = ", ".join(told) or "(none)"
    case["F1"] = f"{100 * score:.0f}"
    if math.isfinite(above):
        case["energies"] = f"the correct set lies {above:+.2f} above the predicted one"
    return case


def described(x: Any) -> str:
    """An input in a line: its text, or its largest features."""
    if x.text is not None:
        return str(x.text)
    named = sorted(x.named().items(), key=lambda kv: -abs(kv[1]))
    told = ", ".join(name if value == 1 else f"{name} {value:.3g}" for name, value in named[:SHOWN_FEATURES])
    return told + (f" and {len(named) - SHOWN_FEATURES} more" if len(named) > SHOWN_FEATURES else "")

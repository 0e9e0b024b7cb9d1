"""The report of a run: one self-contained HTML page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ebmstruct.extend.generative import Generative
from ebmstruct.extend.task import Chart, Evaluation, Section, Table
from ebmstruct.run import draw_report
from ebmstruct.run.markup import (
    duration,
    facts_list,
    is_number,
    number,
    table_of,
    text,
    upper,
    words,
)
from ebmstruct.run.page import figure_of, page, sections_of
from ebmstruct.run.provenance import data_section, setup_section
from ebmstruct.run.spec import RunConfig

_EQUAL = 1e-4
"""Two energies are shown as equal where they differ by less, relative to 1 or their size."""

_STATUS_WORDS = {
    "OPTIMAL": ("good", "The energy is proven least."),
    "CONVERGED": ("", "The solver found nothing better, without a proof that there is nothing."),
    "MAX_STEPS": ("warn", "The solver used up its steps; the best found so far was taken."),
    "DEADLINE": ("warn", "The time was over; the best found so far was taken."),
    "INFEASIBLE": ("bad", "The constraints leave no answer."),
    "NONFINITE": ("bad", "An energy stopped being a finite number."),
}


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    trace: one mapping an epoch.  sections: the task's own, by split.  data: provenance and numbers of examples.
    posterior: of a run that has one.
    """

    config: RunConfig
    config_text: str
    trace: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Evaluation]
    sections: Mapping[str, Sequence[Section]]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    parameters: int
    seconds: float
    posterior: Sequence[Section] = ()


def html(report: Report) -> str:
    """The page. It loads nothing from anywhere, runs no script, and shows every text escaped."""
    title = f"{report.config.task_name}: run report"
    draws = isinstance(report.config.task, Generative)
    parts = [
        ("results", "Results", _headline(report)),
        ("training", "Training", _training(report)),
        *(_of_draws(report) if draws else _of_answers(report)),
        ("posterior", "Posterior of the weights", sections_of(report.posterior)),
        *((f"split-{e.split}", _split_title(report, e.split), sections_of(report.sections.get(e.split, ())))
          for e in _ordered(report.evaluations) if report.sections.get(e.split)),
        ("data", "Data", data_section(report.data)),
        ("setup", "Configuration and environment", setup_section(report.config_text, report.environment)),
    ]  # fmt: skip
    return page(title, _header(report), parts, _footer(report))


def _of_draws(report: Report) -> list[tuple[str, str, str]]:
    """The parts of a task that draws records."""
    evaluations = _ordered(report.evaluations)
    return [
        ("quality", "How good the records are", draw_report.quality(evaluations)),
        ("energies", "Energies", draw_report.energies(report.trace, evaluations)),
    ]


def _of_answers(report: Report) -> list[tuple[str, str, str]]:
    """The parts of a task that answers for inputs."""
    return [
        ("energies", "Energies", _energies(report)),
        ("answers", "How sure the answers are", _answers(report)),
    ]


def _header(report: Report) -> str:
    energies = " + ".join(term.name for term in report.config.energies)
    loss = getattr(type(report.config.loss), "name", "") or report.config.resolved.get("loss", {}).get("name", "")
    solver = report.config.resolved.get("solver")
    said = f"Energy <b>{text(energies)}</b> ({number(report.parameters)} parameters), trained with {text(loss)}"
    asked, each = ("drawn from", "sampler") if isinstance(report.config.task, Generative) else ("solved", "solver")
    said += f", {asked} by {text(solver['name'])}." if solver else f"; the {each} was chosen for each graph."
    return (
        f'<p class="eyebrow">ebmstruct run · {text(report.config.source)}</p>'
        f"<h1>{text(report.config.task_name)}</h1>"
        f'<p class="lede">{said}</p>'
    )


def _headline(report: Report) -> str:
    metric = report.config.task.metric
    cards = []
    for evaluation in _ordered(report.evaluations):
        facts = {k: v for k, v in evaluation.metrics.items() if k not in (metric, "examples") and is_number(v)}
        spent = evaluation.metrics.get("inference", {}).get("cpu_seconds")
        if spent:
            facts["examples a CPU second"] = round(len(evaluation.examples) / spent)
        count = evaluation.metrics.get("examples", len(evaluation.examples))
        cards.append(
            f'<div class="card"><p class="split">{text(evaluation.split)} · {number(count)} examples</p>'
            f'<p class="big">{number(evaluation.metrics.get(metric, math.nan))}</p>'
            f'<p class="metric">{text(upper(words(metric)))}</p>{facts_list(facts)}</div>'
        )
    return f'<div class="headline">{"".join(cards)}</div>'


def _training(report: Report) -> str:
    rows = report.trace
    if not rows:
        return ""
    epochs = [_whole(row.get("epoch", i + 1)) for i, row in enumerate(rows)]
    metric = report.config.task.metric
    figures = [Chart("Loss", {"loss": _column(rows, "loss")}, epochs, "epoch", "loss a training example")]
    if any("gradient_norm" in row for row in rows):
        norms = {"norm of the gradient": _column(rows, "gradient_norm")}
        figures.append(Chart("Gradient", norms, epochs, "epoch", "mean norm before clipping"))
    said = ""
    if any(metric in row for row in rows):
        values = _column(rows, metric)
        best = max(range(len(rows)), key=lambda i: values[i] if math.isfinite(values[i]) else -math.inf)
        taken = [i for i, row in enumerate(rows) if metric in row]  # not after every epoch, perhaps: no gaps between
        series, places = {metric: [values[i] for i in taken]}, [epochs[i] for i in taken]
        figures.append(Chart(f"{upper(words(metric))} on dev", series, places, "epoch", words(metric)))
        options = report.config.train
        kept = (
            "its weights were kept"
            if getattr(options, "keep_best", True)
            else "the weights after the last one were kept, as the task file asks"
        )
        said = (
            f"Of {number(len(rows))} epochs, number {number(epochs[best])} was best on dev "
            f"({text(words(metric))} {number(values[best])}); {kept}. "
        )
    seconds, cpu = sum(_column(rows, "seconds")), sum(_column(rows, "cpu_seconds"))
    if math.isfinite(seconds):
        said += f"Training took {duration(seconds)}"
        said += f" ({duration(cpu)} of processor time)." if math.isfinite(cpu) else "."
    back = sum(int(row.get("rollbacks", 0)) for row in rows)
    if back:
        times = "once" if back == 1 else f"{number(back)} times"
        said += (
            f" It came apart {times}, and went back to where it was sound, with a smaller step size; the log says where "
            "and why."
        )
    shown = "".join(figure_of(f) for f in figures)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table("", [words(key) for key in columns], [[_whole(row.get(key, "")) for key in columns] for row in rows])
    more = f"<details><summary>Every epoch in numbers</summary>{table_of(table)}</details>"
    return f'<p>{said}</p><div class="figures">{shown}</div>{more}'


def _energies(report: Report) -> str:
    figures = []
    rows = report.trace
    solver = report.config.solver
    decoded = None if solver is None or solver.least_energy() is solver else solver.name
    if any("energy_correct" in row for row in rows):
        epochs = [_whole(row.get("epoch", i + 1)) for i, row in enumerate(rows)]
        series = {"correct": _column(rows, "energy_correct"), "predicted": _column(rows, "energy_predicted")}
        note = (
            f"Mean energies on dev after each epoch. Answers are chosen by {decoded}, not by their energy."
            if decoded
            else "Mean energies on dev after each epoch. The predicted answer is the one of least energy, so its curve "
            "lies below; where the two meet, the correct answers are the ones of least energy."
        )
        figures.append(Chart("Correct against predicted, by epoch", series, epochs, "epoch", "mean energy", note=note))
    figures += _compared(rows)
    for evaluation in _ordered(report.evaluations) if decoded is None else ():
        drawn = _differences(evaluation)
        if drawn is not None:
            figures.append(drawn)
    if not figures:
        return ""
    lead = (
        "A model of this kind gives every possible answer an energy, and predicts the one with the least. "
        "It is right where no other answer lies lower than the correct one."
    )
    if decoded is not None:
        lead = (
            "A model of this kind gives every possible answer an energy, and so a probability. Here answers are chosen by "
            f"{decoded}, which looks at probabilities and at what mistakes cost, so their energies need not be the least."
        )
    return f'<p>{lead}</p><div class="figures">{"".join(figure_of(f) for f in figures)}</div>'


def _compared(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The energies that the loss compares, on the training data, where it compares any."""
    if not any("train_energy_correct" in row for row in rows):
        return []
    epochs = [_whole(row.get("epoch", i + 1)) for i, row in enumerate(rows)]
    correct, incorrect = _column(rows, "train_energy_correct"), _column(rows, "train_energy_incorrect")
    note = (
        "Mean energies in training of what the loss pulls down and of what it pushes up, be that single answers, samples "
        "or all answers together. Their difference, incorrect less correct, is the margin; it should rise. Where both "
        "energies run together to one value, the model tells nothing apart any more."
    )
    both = {"correct": correct, "incorrect": incorrect}
    margin = [high - low for low, high in zip(correct, incorrect, strict=True)]
    return [
        Chart("Correct against incorrect in training", both, epochs, "epoch", "mean energy", note=note),
        Chart("Margin in training", {"margin": margin}, epochs, "epoch", "incorrect less correct"),
    ]


def _differences(evaluation: Evaluation) -> Chart | None:
    both = zip(evaluation.target_energy, evaluation.energy, strict=True)
    pairs = [(t, e) for t, e in both if not math.isnan(t) and math.isfinite(e)]
    if not pairs:
        return None
    forbidden = sum(math.isinf(t) for t, _ in pairs)
    differences = [t - e for t, e in pairs if math.isfinite(t)]
    scales = [_EQUAL * max(1.0, abs(e)) for t, e in pairs if math.isfinite(t)]
    apart = [d for d, scale in zip(differences, scales, strict=True) if abs(d) > scale]
    equal = len(differences) - len(apart)
    below = sum(d < 0 for d in apart)
    note = (
        f"In {number(equal)} of {number(len(pairs))} examples the correct answer has the least energy, as it should. "
        f"For the other {number(len(apart))} the chart shows by how much it lies above the predicted one: near 0 the "
        "model was nearly right, far to the right it was confidently wrong."
    )
    if below:
        note += f" In {number(below)} the correct answer lies below: there the search, not the model, is at fault."
    if forbidden:
        note += f" In {number(forbidden)} the model forbids the correct answer (infinite energy)."
    title = f"E(correct) \N{MINUS SIGN} E(predicted) on {evaluation.split}"
    return Chart(title, {"examples": apart}, (), "energy difference", "examples", "histogram", note)


def _answers(report: Report) -> str:
    rows = []
    for evaluation in _ordered(report.evaluations):
        gaps = [g for g in evaluation.gap if math.isfinite(g)]
        for status, count in sorted(Counter(evaluation.status).items()):
            rows.append(
                (evaluation.split, status, count, count / max(1, len(evaluation.status)), max(gaps, default=None))
            )
    body = "".join(
        f'<tr><td>{text(split)}</td><td><span class="{_STATUS_WORDS.get(status, ("",))[0]}">{text(status)}</span> '
        f"{text(_STATUS_WORDS.get(status, ('', ''))[1])}</td>"
        f'<td class="n">{number(count)}</td><td class="n">{100 * share:.1f} %</td>'
        f'<td class="n">{"no bound" if gap is None else number(float(gap))}</td></tr>'
        for split, status, count, share, gap in rows
    )
    head = (
        '<th>split</th><th>status</th><th class="n">answers</th><th class="n">share</th><th class="n">largest gap</th>'
    )
    lead = (
        "Each answer comes with a lower bound on the energy. The gap says how far the answer may lie above the least "
        "possible energy: 0 means that it is proven to be the best under this model."
    )
    return f'<p>{lead}</p><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _footer(report: Report) -> str:
    when = datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z")
    version = text(report.environment.get("ebmstruct", ""))
    return f"Written by ebmstruct {version} on {text(when)}, after {duration(report.seconds)}."


def _whole(value: Any) -> Any:
    """Counts that went through floats as whole numbers again."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e6 else value


def _ordered(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The test split first: it is what a reader looks for."""
    return sorted(evaluations, key=lambda e: e.split != "test")


def _split_title(report: Report, split: str) -> str:
    return f"A closer look at {split}" if len(report.evaluations) > 1 else "A closer look"


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(row[key]) if is_number(row.get(key)) else math.nan for row in rows]

"""Which solver would answer for a run or a task file, told for the graph of an example, or for a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebmstruct.errors import DataError
from ebmstruct.extend.task import Task
from ebmstruct.run.models import build_model
from ebmstruct.run.predictor import load
from ebmstruct.run.spec import RunConfig

_EXAMPLES = 4


@dataclass(frozen=True)
class Question:
    """What is explained: a query (map, marginals, logz, sample; None: several), and the deadline of whoever asks it.

    deadline: seconds from ``started``, an instant of the monotonic clock, or None.
    """

    query: str | None = None
    deadline: float | None = None
    started: float = 0.0


_ANY = Question()


def explain_run(path: Path | str, text: str | None = None, question: Question = _ANY) -> str:
    """The choice of solver for a finished run, on raw text or on the first of its test examples."""
    predictor = load(path)
    return _explained(predictor.model, predictor.solver, _inputs(predictor.task, text), question)


def explain_task(config: RunConfig, text: str | None = None, question: Question = _ANY) -> str:
    """The choice of solver for a task file, with untrained weights; the training data are read for the schema."""
    schema = config.task.fit(list(config.task.examples("train")))
    model = build_model(config.energies, schema, seed=0)
    model.eval()
    return _explained(model, config.solver, _inputs(config.task, text), question)


def explain_model(path: Path | str, evidence: Path | str | None = None, question: Question = _ANY) -> str:
    """The choice of solver for a model file, with or without evidence."""
    from ebmstruct.run.formats import read_evidence, read_model

    model = read_model(path)
    graph = model.graph if evidence is None else read_evidence(evidence, model).condition(model)
    return "\n\n".join(_choices(graph, question, ("map", "marginals", "sample")))


def _choices(graph: Any, question: Question, several: Sequence[str], wanted: Any = None) -> list[str]:
    """The choice for the question asked, or for each of several where none is named."""
    from ebmstruct.inference import Ask, Query, explain
    from ebmstruct.run.solving import budget_of

    asks = {"map": Ask.MINIMIZE, "marginals": Ask.MARGINALS, "logz": Ask.LOG_PARTITION, "sample": Ask.SAMPLE}
    budget = budget_of(question.started, question.deadline)
    names = several if question.query is None else (question.query,)
    return [str(explain(graph, Query(asks[name]), solvers=wanted, budget=budget)) for name in names]


def _inputs(task: Task, text: str | None) -> list[Any]:
    if text is not None:
        inputs = task.read(text)[:_EXAMPLES]
        if not inputs:
            raise DataError("the text holds no input")
        return inputs
    split = "test" if "test" in task.splits() else "train"
    inputs = [example.x for example, _ in zip(task.examples(split), range(_EXAMPLES), strict=False)]
    if not inputs:
        raise DataError(f"the split {split!r} holds no example")
    return inputs


def _explained(model: Any, solver: Any, inputs: list[Any], question: Question) -> str:
    import torch

    with torch.no_grad():
        graph = model.graph(inputs)
    wanted = None if solver is None else [solver]
    head = "solver named by the task file" if solver is not None else "solver left to the engine"
    choices = _choices(graph, question, ("map", "marginals"), wanted)
    return "\n\n".join([f"{head}; asked about a batch of {len(inputs)}", *choices])

"""What a model predicts on a set of examples, and how good that is."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ebmstruct.errors import PluginError
from ebmstruct.extend.generative import Generative
from ebmstruct.extend.task import Evaluation, Example, Task
from ebmstruct.run.drawing import WHILE_TRAINING, evaluate_draws
from ebmstruct.run.predictor import Predictor

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import Tensor

    from ebmstruct.inference import Budget


def evaluate(
    predictor: Predictor,
    examples: Sequence[Example],
    split: str,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict every example and score the outputs.

    on_progress: called with the number of examples done and of all. The metrics are the task's own, and
    ``inference``: statuses, gaps, mean energies and the seconds that prediction alone took.
    """
    if isinstance(predictor.task, Generative):
        return evaluate_draws(predictor, examples, split, on_progress=on_progress)
    energy: list[float] = []
    target: list[float] = []
    gap: list[float] = []
    status: list[str] = []
    outputs: list[Any] = []
    wall, cpu = 0.0, 0.0
    prepared = predictor.model.prepare([example.x for example in examples])
    if examples:
        # once for nothing: kernels are compiled or loaded when they are first used, which is no part of predicting
        predictor.infer([examples[0].x], prepared.select([0]), detail=True)
    for positions in _batches(predictor, len(examples)):
        clock = time.perf_counter(), time.process_time()
        graph, found = predictor.infer(
            [examples[i].x for i in positions], prepared.select(positions), _budget(predictor), detail=True
        )
        wall, cpu = wall + time.perf_counter() - clock[0], cpu + time.process_time() - clock[1]
        outputs += found.outputs
        energy += found.result.energy.tolist()
        gap += found.result.gap.tolist()
        status += [s.name for s in found.result.statuses]
        target += _target_energies(predictor, [examples[i] for i in positions], graph, prepared, positions)
        if on_progress:
            on_progress(len(outputs), len(examples))
    unreachable = sum(value == math.inf for value in target)
    if unreachable:
        logger.warning(
            "%s: %d of %d correct answers cannot be given by this model: they hold labels that it never saw in training, "
            "or break its hard constraints",
            split,
            unreachable,
            len(examples),
        )
    metrics = scored(predictor, examples, outputs)
    metrics["inference"] = _facts(energy, target, gap, status) | {"seconds": wall, "cpu_seconds": cpu}
    return Evaluation(split, examples, outputs, energy, target, gap, status, metrics)


def scored(predictor: Predictor, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
    """The task's metrics; PluginError where its chosen metric is not among them."""
    task = predictor.task
    metrics = dict(task.score(examples, outputs))
    if not isinstance(metrics.get(task.metric), (int, float)):
        found = ", ".join(metrics) or "nothing"
        raise PluginError(f"task {task.name}: score gave no number for its metric {task.metric!r}; it gave {found}")
    return {"examples": len(examples), **metrics}


def dev_scorer(
    predictor: Predictor, examples: Sequence[Example], on_drawn: Callable[[Sequence[Any]], None] | None = None
) -> Callable[[], dict[str, float]]:
    """A function that scores the model as it is now on the dev examples; inputs are prepared once.

    It gives the task's metrics that are fractions (counts are left out), and the mean energies of correct and
    predicted outputs. What the task tunes on dev is tuned before.
    on_drawn: told the records drawn, where the task draws records.
    """
    if isinstance(predictor.task, Generative):
        return _draw_scorer(predictor, examples, on_drawn)
    prepared = predictor.model.prepare([example.x for example in examples])

    def score() -> dict[str, float]:
        training = predictor.model.training
        predictor.model.eval()
        try:
            answering = tuned(predictor, examples)
            outputs: list[Any] = []
            energy: list[float] = []
            target: list[float] = []
            for positions in _batches(predictor, len(examples)):
                graph, found = answering.infer(
                    [examples[i].x for i in positions], prepared.select(positions), _budget(predictor)
                )
                outputs += found.outputs
                energy += found.result.energy.tolist()
                target += _target_energies(predictor, [examples[i] for i in positions], graph, prepared, positions)
        finally:
            predictor.model.train(training)
        metrics = scored(predictor, examples, outputs)
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, float) or k == predictor.task.metric}
        facts = _facts(energy, target, [], [])
        means = {f"energy_{k}": facts[f"mean_energy_{k}"] for k in ("correct", "predicted")}
        return numbers | {k: v for k, v in means.items() if v is not None}

    return score


def _draw_scorer(
    predictor: Predictor, examples: Sequence[Example], on_drawn: Callable[[Sequence[Any]], None] | None
) -> Callable[[], dict[str, float]]:
    """The same for a task that draws records: some are drawn, by one seed, and held against dev."""

    def score() -> dict[str, float]:
        training = predictor.model.training
        predictor.model.eval()
        try:
            found = evaluate_draws(predictor, examples, "dev", most=WHILE_TRAINING, at_length=False)
        finally:
            predictor.model.train(training)
        if on_drawn is not None:
            on_drawn(found.outputs)
        numbers = {k: float(v) for k, v in found.metrics.items() if isinstance(v, float)}
        numbers[predictor.task.metric] = float(found.metrics[predictor.task.metric])
        facts = found.metrics["inference"]
        means = {"energy_correct": facts["mean_energy_real"], "energy_predicted": facts["mean_energy_drawn"]}
        return numbers | {k: v for k, v in means.items() if v is not None}

    return score


def tuned(predictor: Predictor, dev: Sequence[Example]) -> Predictor:
    """The predictor with what its task chooses on dev examples for the model as it is now."""
    schema = predictor.task.tune(predictor.model, predictor.schema, dev, solver=predictor.solver)
    return predictor if schema is predictor.schema else replace(predictor, schema=schema)


def prediction_lines(task: Task, evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """What is written of each example: the task's record, the correct output, energies, gap, status."""
    e = evaluation
    if isinstance(task, Generative):
        for i, (record, energy) in enumerate(zip(e.outputs, e.energy, strict=True)):
            yield {"index": i, **task.record({}, record), "energy": energy}
        return
    rows = zip(e.examples, e.outputs, e.energy, e.target_energy, e.gap, e.status, strict=True)
    for i, (example, output, energy, target, gap, status) in enumerate(rows):
        yield {
            "index": i,
            "source": example.source,
            **task.record(example.x, output),
            "correct": example.y,
            "energy": energy,
            "correct_energy": target,
            "gap": gap,
            "status": status,
        }


def _batches(predictor: Predictor, count: int) -> Iterator[list[int]]:
    """Positions in their order; one by one under a deadline, which is meant for a single request."""
    size = 1 if predictor.budget.deadline_s is not None else predictor.batch_size
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))


def _budget(predictor: Predictor) -> Budget | None:
    from ebmstruct.inference import Budget

    options = predictor.budget
    if options.deadline_s is None and options.max_steps is None:
        return None
    return Budget.after(options.deadline_s, options.max_steps)


def _target_energies(
    predictor: Predictor, examples: Sequence[Example], graph: Any, prepared: Any, positions: Sequence[int]
) -> list[float]:
    """Energies of the correct outputs, NaN where nobody knows them."""
    import torch

    known = [i for i, example in enumerate(examples) if example.y is not None]
    if not known:
        return [math.nan] * len(examples)
    with torch.no_grad():
        if len(known) < len(examples):
            graph = predictor.model(prepared.select([positions[i] for i in known]))
        found = _least_completion(predictor, [examples[i].y for i in known], graph).tolist()
    energies = [math.nan] * len(examples)
    for i, value in zip(known, found, strict=True):
        energies[i] = value
    return energies


def _least_completion(predictor: Predictor, ys: Sequence[Any], graph: Any) -> Tensor:
    """(B,) the energy of each correct output; where it is partly known, the least of its completions."""
    from ebmstruct.inference import minimize

    target = predictor.task.encode(ys, graph, predictor.schema)
    if target.complete(graph.topology.names):
        energy: Tensor = graph.energy(target)
        return energy
    solver = None if predictor.solver is None else predictor.solver.least_energy()
    return minimize(graph.condition(target), solver).energy


def _facts(
    energy: Sequence[float], target: Sequence[float], gap: Sequence[float], status: Sequence[str]
) -> dict[str, Any]:
    finite = [(e, t) for e, t in zip(energy, target, strict=True) if math.isfinite(e) and math.isfinite(t)]
    gaps = [g for g in gap if math.isfinite(g)]
    return {
        "statuses": dict(Counter(status)),
        "unreachable": sum(t == math.inf for t in target),
        "largest_gap": max(gaps, default=None),
        "without_bound": len(gap) - len(gaps),
        "mean_energy_predicted": sum(e for e, _ in finite) / len(finite) if finite else None,
        "mean_energy_correct": sum(t for _, t in finite) / len(finite) if finite else None,
    }

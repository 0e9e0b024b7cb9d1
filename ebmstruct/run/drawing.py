"""Records drawn from a generative model: batch after batch, for evaluation and for ``ebmstruct generate``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmstruct.errors import PluginError
from ebmstruct.extend.generative import Generative
from ebmstruct.extend.task import Evaluation, Example
from ebmstruct.run.folder import DRAWN
from ebmstruct.run.predictor import Predictor
from ebmstruct.storage import write_json_lines

if TYPE_CHECKING:
    from torch import Generator, Tensor

TOGETHER = 1000
"""Records that share a graph while they are drawn."""
MOST = 5000
"""At most so many records are drawn to judge a model by, and so many of the data are held against them."""
WHILE_TRAINING = 500
"""The same after an epoch of training."""
EVALUATED_BY = 1_000_003
"""The seed of records that are drawn to judge a model by: none that ``ebmstruct generate`` is likely to be given, so that
records which it wrote are not held against themselves."""
KEPT = 16
"""Records of each epoch that are kept for the report."""


@dataclass(frozen=True)
class Drawn:
    """Some records that were drawn, and the energy of each."""

    records: list[Any]
    energy: list[float]


def generative(predictor: Predictor) -> Generative:
    """The task of a predictor, where it draws records; PluginError where it does not."""
    if isinstance(predictor.task, Generative):
        return predictor.task
    raise PluginError(
        f"the task {predictor.task.name} predicts outputs for inputs and draws no records; ebmstruct predict answers for "
        "it. Tasks that draw are those of the plugin generative (see ebmstruct plugins)"
    )


def draws(predictor: Predictor, x: Mapping[str, Any], count: int, generator: Generator) -> Iterator[Drawn]:
    """``count`` records given x, at most TOGETHER at a time; the next ones are drawn when they are asked for."""
    import torch

    task = generative(predictor)
    for begin in range(0, count, TOGETHER):
        xs = task.inputs(x, min(TOGETHER, count - begin), predictor.schema, generator)
        with torch.no_grad():
            graph = predictor.model(predictor.model.prepare(xs))
            fixed = task.evidence(xs, graph, predictor.schema)
            if fixed is not None:
                graph = graph.condition(fixed)
            values, records = task.draw(graph, predictor.schema, solver=predictor.solver, generator=generator)
            energy = graph.energy(values)
        records = task.with_given(records, xs, predictor.schema)
        if len(records) != len(xs):
            raise PluginError(f"task {task.name} decoded {len(records)} records where {len(xs)} were drawn")
        yield Drawn(records, energy.tolist())


def drawn(
    predictor: Predictor,
    x: Mapping[str, Any],
    count: int,
    seed: int,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Drawn:
    """``count`` records given x, all at once; the same seed gives the same records."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    records: list[Any] = []
    energy: list[float] = []
    for part in draws(predictor, x, count, generator):
        records += part.records
        energy += part.energy
        if on_progress:
            on_progress(len(records), count)
    return Drawn(records, energy)


def some_of(examples: Sequence[Example], most: int) -> list[Example]:
    """The examples, or ``most`` of them at equal distances."""
    if len(examples) <= most:
        return list(examples)
    return [examples[(i * len(examples)) // most] for i in range(most)]


def evaluate_draws(
    predictor: Predictor,
    examples: Sequence[Example],
    split: str,
    *,
    seed: int = EVALUATED_BY,
    most: int = MOST,
    at_length: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """As many records drawn as there are examples, at most ``most``, held against them by the task's score.

    The energies are those of records that were drawn and of the examples, each with what is latent at its least.
    at_length: also take the measures of ``Generative.quality``.
    """
    task = generative(predictor)
    own = some_of(examples, most)
    wall, cpu = time.perf_counter(), time.process_time()
    found = drawn(predictor, {}, len(own), seed, on_progress=on_progress)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    real, made = energies(predictor, [e.y for e in own]), energies(predictor, found.records)
    metrics = {**task.score(own, found.records), **task.measure(own, predictor.model, predictor.schema)}
    if not isinstance(metrics.get(task.metric), (int, float)):
        said = ", ".join(metrics) or "nothing"
        raise PluginError(f"task {task.name}: score gave no number for its metric {task.metric!r}; it gave {said}")
    if at_length:
        metrics |= at_length_of(task, own, found.records)
    facts = {"mean_energy_drawn": _mean(made), "mean_energy_real": _mean(real), "seconds": wall, "cpu_seconds": cpu}
    metrics = {"examples": len(own), **metrics, "inference": facts}
    nothing = [math.inf] * len(own)
    return Evaluation(split, own, found.records, made, real, nothing, ["DRAWN"] * len(own), metrics)


def at_length_of(
    task: Generative, examples: Sequence[Example], records: Sequence[Any], like: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
    """The values of the task's measures by name, and all that it says of them under ``quality``."""
    figures = task.quality(examples, records) if like is None else task.quality(examples, records, like)
    values = {name: entry.get("value") for name, entry in figures.get("measures", {}).items()}
    return {**{k: v for k, v in values.items() if v is not None}, **({"quality": figures} if figures else {})}


def energies(predictor: Predictor, records: Sequence[Any]) -> list[float]:
    """The energy of each record; where something is latent or missing, the least of all completions."""
    import torch

    from ebmstruct.inference import minimize

    task, found = generative(predictor), []
    solver = task.answering(predictor.solver)
    for begin in range(0, len(records), TOGETHER):
        part = records[begin : begin + TOGETHER]
        with torch.no_grad():
            graph = predictor.model.graph(task.inputs_of(part, predictor.schema))
            target = task.encode(part, graph, predictor.schema)
            clamped = graph.condition(target)
            whole = target.complete(tuple(n for n in graph.topology.names if not _fixed(graph, n)))
            energy: Tensor = clamped.energy(target) if whole else minimize(clamped, solver).energy
        found += energy.tolist()
    return found


def _fixed(graph: Any, block: str) -> bool:
    """Whether the model itself clamps a block whole."""
    return graph.evidence is not None and block in graph.evidence.values and block not in graph.evidence.known


def _mean(values: Sequence[float]) -> float | None:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else None


class Strip:
    """The first few records drawn after each epoch, kept in the run folder.

    epoch: the one at hand, set by whoever follows the training.
    """

    def __init__(self, run: Path) -> None:
        self.folder, self.epoch = run / DRAWN, 0

    def keep(self, records: Sequence[Any]) -> None:
        """Write down what was drawn after the epoch at hand."""
        self.folder.mkdir(exist_ok=True)
        write_json_lines(self.folder / f"epoch-{self.epoch:05d}.jsonl", records[:KEPT])

    def read(self) -> dict[int, list[Any]]:
        """Epoch to what was drawn after it, as JSON values."""
        files = sorted(self.folder.glob("epoch-*.jsonl"))
        return {int(f.stem[6:]): [json.loads(line) for line in f.read_text("utf-8").splitlines()] for f in files}

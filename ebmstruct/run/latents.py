"""``ebmstruct latents``: what is latent behind records of a finished run, with how sure it is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from ebmstruct import storage
from ebmstruct.errors import DataError
from ebmstruct.extend.generative import Generative
from ebmstruct.extend.task import Example
from ebmstruct.graph import Discrete, FactorGraph
from ebmstruct.inference.latent.posterior import LatentBlock, latent_blocks, latent_posterior
from ebmstruct.run.commands import stoppable
from ebmstruct.run.predictor import Predictor, load
from ebmstruct.run.progress import display
from ebmstruct.run.runner import OnProgress, Progress

TOGETHER = 500
"""Records that share a graph."""


class Posterior(Protocol):
    """What a model that knows its latent variables in closed form says of each, for B records."""

    @property
    def map(self) -> Tensor: ...

    @property
    def mean(self) -> Tensor: ...

    @property
    def spread(self) -> Tensor: ...

    @property
    def samples(self) -> Tensor: ...


@dataclass(frozen=True)
class Latent:
    """One latent block of one record: plain arrays.

    map: the most probable values, found for all latent values together.  mean: of each, for states their probabilities.
    spread: standard deviations, for states entropies in nats.  samples: one row a draw.
    """

    map: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    samples: np.ndarray

    def plain(self) -> dict[str, Any]:
        """As JSON values; without samples where none were asked for."""
        found = {"map": self.map, "mean": self.mean, "spread": self.spread}
        return {k: v.tolist() for k, v in found.items()} | (
            {"samples": self.samples.tolist()} if len(self.samples) else {}
        )


def command(arguments: argparse.Namespace) -> None:
    """Infer what the command line asks for."""
    output = Path(arguments.output) if arguments.output else None
    if output is not None and output.suffix not in (".jsonl", ".npz"):
        raise DataError(f"--output {output}: the ending chooses the format; legal are .jsonl and .npz")
    predictor = load(arguments.run, device=arguments.device)
    task = predictor.task
    data = arguments.data
    examples = task.examples(arguments.split) if data is None else task.examples_from(Path(data), arguments.split)
    rows = examples if isinstance(examples, Sequence) else list(examples)
    if not rows:
        raise DataError(f"{data or arguments.split}: holds no record")
    with stoppable(), display(quiet=getattr(arguments, "quiet", False)) as shown:
        found = inferred(predictor, rows, num_samples=arguments.samples, seed=arguments.seed, on_progress=shown)
        if output is None:
            for record in found:
                sys.stdout.write(json.dumps(storage.plain(_line(record)), ensure_ascii=False) + "\n")
        elif output.suffix == ".jsonl":
            storage.write_json_lines(output, map(_line, found))
        else:
            _write_arrays(output, found)


def inferred(
    predictor: Predictor,
    examples: Sequence[Example],
    *,
    num_samples: int = 0,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Iterator[dict[str, Latent]]:
    """For each example the posterior of every latent block given its x and whatever is known of its y.

    A model with a method ``latents`` says it in closed form; for others the engine answers, exactly where it can.
    Errors: DataError where nothing is latent.
    """
    tell = on_progress or (lambda progress: None)
    generator = torch.Generator().manual_seed(seed)
    for begin in range(0, len(examples), TOGETHER):
        part = [examples[i] for i in range(begin, min(begin + TOGETHER, len(examples)))]
        yield from _of_batch(predictor, part, num_samples, generator)
        tell(Progress("inferring", begin + len(part), len(examples)))


def _of_batch(
    predictor: Predictor, part: Sequence[Example], num_samples: int, generator: Generator
) -> Iterator[dict[str, Latent]]:
    with torch.no_grad():
        graph = predictor.model.graph([e.x for e in part])
        target = predictor.task.encode([e.y for e in part], graph, predictor.schema)
        closed = getattr(predictor.model, "latents", None)
        if closed is not None and not latent_blocks(graph, target):
            found = closed(graph, target, num_samples=num_samples, generator=generator)
            blocks = [_closed(found, i) for i in range(len(part))]
        else:
            task = predictor.task
            solver = task.answering(predictor.solver) if isinstance(task, Generative) else None
            found = latent_posterior(graph, target, num_samples=num_samples, solver=solver, generator=generator)
            blocks = [{n: _of(graph, n, block, i) for n, block in found.items()} for i in range(len(part))]
    if not blocks or not blocks[0]:
        raise DataError(
            f"the model of {predictor.task.name} has no latent variable: its blocks are {list(graph.variables)}, and the "
            "data say them all. Mixtures, Boltzmann machines, hidden chains and sparse components have latent variables"
        )
    yield from blocks


def _of(graph: FactorGraph, name: str, block: LatentBlock, instance: int) -> Latent:
    offsets = graph.variables[name].offsets
    begin, end = int(offsets[instance]), int(offsets[instance + 1])

    def own(value: Tensor) -> np.ndarray:
        kept = value[begin:end]
        return _array(kept[:, 0] if kept.dim() == 2 and kept.shape[1] == 1 else kept)

    discrete = isinstance(graph.variables[name].domain, Discrete)
    mean = _array(block.mean[begin:end]) if discrete else own(block.mean)
    samples = _array(block.samples[:, begin:end])
    return Latent(own(block.map), mean, own(block.spread), samples)


def _closed(found: dict[str, Posterior], instance: int) -> dict[str, Latent]:
    return {
        name: Latent(
            _array(p.map[instance]),
            _array(p.mean[instance]),
            _array(p.spread[instance]),
            _array(p.samples[:, instance]),
        )
        for name, p in found.items()
    }


def _array(value: Tensor) -> np.ndarray:
    return np.asarray(value.detach().cpu().numpy())


def _line(record: dict[str, Latent]) -> dict[str, Any]:
    return {name: latent.plain() for name, latent in record.items()}


def _write_arrays(path: Path, records: Iterable[dict[str, Latent]]) -> None:
    """One array for each block and figure, a row a record: ``hidden.mean`` and the like."""
    columns: dict[str, list[np.ndarray]] = {}
    for record in records:
        for name, latent in record.items():
            for key in latent.plain():
                columns.setdefault(f"{name}.{key}", []).append(getattr(latent, key))
    for key, rows in columns.items():
        if len({row.shape for row in rows}) > 1:
            raise DataError(
                f"records differ in size, and {key} is no array then; choose an --output that ends in .jsonl"
            )
    with storage.atomic(path) as file:
        np.savez_compressed(file, **{key: np.stack(rows) for key, rows in columns.items()})  # type: ignore[arg-type]

"""What a plugin offers to a task file: data, schema, energy, encoding, decoding, cost, metrics, rendering."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from torch import Tensor

    from ebmstruct.energies.model import EnergyModel
    from ebmstruct.graph import Assignment, Factor, FactorGraph
    from ebmstruct.inference import Budget, Result, Solver

JSON = Any


@dataclass(frozen=True, slots=True)
class Example:
    """One input x with its correct output y (None where nobody knows it), and where it came from."""

    x: Any
    y: Any = None
    source: str = ""


@dataclass(frozen=True)
class Schema:
    """What a task learns from its training data before any energy is trained: labels, vocabularies, scales.

    Subclass it as a frozen dataclass whose fields are JSON values or tensors: a run saves the former as
    ``schema.json`` and the latter as safetensors, and nothing else can be in it.
    """

    def state_names(self, block: str) -> Sequence[str]:
        """The names of the states of a block's sites, by which rules and reports call them; none by default."""
        return ()

    def site_names(self, block: str) -> Sequence[str]:
        """The names of the sites of a block, where every instance has the same (the labels of a set); none by default."""
        return ()

    def parts(self) -> tuple[dict[str, JSON], dict[str, Tensor]]:
        """Split the fields into JSON values and tensors."""
        import torch

        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tensors = {k: v for k, v in fields.items() if isinstance(v, torch.Tensor)}
        return {k: v for k, v in fields.items() if k not in tensors}, tensors

    @classmethod
    def from_parts(cls, values: Mapping[str, JSON], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild a schema from what ``parts`` gave; JSON lists come back as tuples."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}, **tensors)


@dataclass(frozen=True, slots=True)
class Table:
    """A report section that is a table; every cell is shown as text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A report section that is a drawing: ``line``, ``bar`` or ``histogram``.

    series: name to values, y against ``x`` (for a histogram: the raw samples, and ``x`` stays empty).
    """

    title: str
    series: Mapping[str, Sequence[float]]
    x: Sequence[float | str] = ()
    x_label: str = ""
    y_label: str = ""
    kind: str = "line"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cases:
    """A report section that lists single cases, each a mapping of a heading to a text or to a Table."""

    title: str
    cases: Sequence[Mapping[str, Any]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A report section that is a picture of pixels.

    pixels: (H, W) grey or (H, W, 3) colour, numbers from 0 (black) to 255.  scale: how many times larger each pixel is
    shown, with sharp edges.
    """

    title: str
    pixels: Any
    scale: int = 1
    note: str = ""


Section = Table | Chart | Cases | Picture


@dataclass(frozen=True, slots=True)
class Inference:
    """Answers for a batch of inputs: the engine's Result and one decoded output for each instance."""

    result: Result
    outputs: list[Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was predicted on one split.

    examples, outputs: one of each an input.  energy, target_energy, gap: (B,) floats each; a target
    that is only partly known has the least energy of its completions.  status: names, one an input.
    """

    split: str
    examples: Sequence[Example]
    outputs: Sequence[Any]
    energy: Sequence[float]
    target_energy: Sequence[float]
    gap: Sequence[float]
    status: Sequence[str]
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task(ABC):
    """A kind of structured prediction, complete: the fields of a frozen subclass are its YAML keys.

    Five things are needed (``examples``, ``fit``, ``encode``, ``decode``, ``score``); the rest has defaults.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Task-file sections (``energy``, ``loss``, ``train``, ``eval``) used where the file leaves them out."""
    metric: ClassVar[str] = "accuracy"
    """The metric (a key of what ``score`` returns) by which the best epoch is chosen; more is better."""
    reads_paths: ClassVar[bool] = False
    """Whether ``read`` takes the path of a file or folder in place of a file's text, as of pictures."""

    @abstractmethod
    def examples(self, split: str) -> Iterable[Example]:
        """The examples of ``train``, ``dev`` or ``test``, in a fixed order; DataError where there are none."""

    def splits(self) -> Sequence[str]:
        """The splits that ``examples`` has; without ``dev`` no epoch is chosen: the last one's weights are kept."""
        return ("train", "dev", "test")

    def examples_from(self, path: Path, split: str = "test") -> Iterable[Example]:
        """The examples of a file or folder that the user names after training: by default, those of the same
        task with its field ``data`` set to that path.
        """
        from ebmstruct.errors import PluginError

        if "data" not in {f.name for f in dataclasses.fields(self)}:
            raise PluginError(
                f"task {self.name} does not read {path}: it has no field ``data``, so it must override "
                "Task.examples_from to do so"
            )
        return dataclasses.replace(self, **{"data": str(path)}).examples(split)

    @abstractmethod
    def fit(self, train: Sequence[Example]) -> Schema:
        """What must be known of the training data before an energy can be built."""

    @abstractmethod
    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment:
        """The outputs ``ys`` as values of the graph's variables; a part nobody knows stays unknown."""

    @abstractmethod
    def decode(self, y: Assignment, graph: FactorGraph, schema: Any) -> list[Any]:
        """One output (a JSON value) for each instance of the graph."""

    @abstractmethod
    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """Metrics of outputs against the examples' own, as JSON values, with ``metric`` among them."""

    def cost(self, graph: FactorGraph, target: Assignment, schema: Any) -> Sequence[Factor]:
        """Factors whose energy is the task's cost of an output, for losses with a margin; none by default."""
        return ()

    def evidence(self, xs: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment | None:
        """What the inputs themselves fix of the outputs (forced labels, a user's seeds); nothing by default."""
        return None

    def infer(
        self,
        graph: FactorGraph,
        schema: Any,
        *,
        solver: Solver | None = None,
        budget: Budget | None = None,
        detail: bool = False,
    ) -> Inference:
        """Minimise the graph's energy and decode; with ``detail`` a task may add confidences."""
        from ebmstruct.inference.engine import minimize

        result = minimize(graph, solver, budget=budget)
        return Inference(result, self.decode(result.assignment, graph, schema))

    def tune(self, model: EnergyModel, schema: Any, dev: Sequence[Example], *, solver: Solver | None = None) -> Any:
        """The schema with what can only be chosen once the model is trained (a threshold), from dev examples.

        The runner calls it before every evaluation on dev and once after training, and keeps what it returns with the
        run. solver: the one that will answer. By default the schema is returned as it is.
        """
        return schema

    def read(self, raw: str) -> list[Any]:
        """The inputs in a piece of raw text that a user typed or a file held."""
        from ebmstruct.errors import PluginError

        raise PluginError(f"task {self.name} does not read raw input; it must override Task.read to do so")

    def render(self, evaluation: Evaluation, model: EnergyModel, schema: Any) -> list[Section]:
        """Sections of the report that only this task can draw."""
        return []

    def record(self, x: Any, output: Any) -> dict[str, Any]:
        """An input with its output as a JSON value, for files of predictions."""
        return {"output": output}

    def show(self, x: Any, output: Any) -> str:
        """One output as a few lines of plain text, for the command line."""
        return str(output)

    def provenance(self) -> dict[str, Any]:
        """Where the data came from: JSON values with at least ``files`` (path to sha256) where files were read."""
        return {}

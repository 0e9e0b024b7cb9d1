"""Tasks whose model is of the records themselves, so that new ones can be drawn: rows, pictures, sequences."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ebmstruct.extend.task import Example, Inference, Section, Task

if TYPE_CHECKING:
    from torch import Generator

    from ebmstruct.energies.model import EnergyModel
    from ebmstruct.graph import Assignment, FactorGraph
    from ebmstruct.inference import Budget, Solver


@dataclass(frozen=True)
class Generative(Task):
    """A task that learns the distribution of its records and draws new ones.

    Of an example, y is a record, parts of which may be missing, and x is what is given of it from the start: a mapping
    from a part's name to its value, empty where nothing is given. ``encode`` turns records into values, with whatever is
    missing unknown, so that conditioning is encoding a partial record. The section ``solver`` of the task file is the
    sampler.

    Evaluation draws as many records as a split has and calls ``score`` (and ``quality``) on them: the i-th record drawn
    has nothing to do with the i-th of the data. ``ebmstruct generate`` draws as many as are wanted; ``ebmstruct predict``
    fills in what is missing of a record, by the least energy.
    """

    suffix: ClassVar[str] = ".jsonl"
    """The ending of a file of records that ``write`` makes where the user named none."""

    @abstractmethod
    def given(self, texts: Sequence[str], schema: Any) -> Mapping[str, Any]:
        """What is given of every record, from texts ``PART=VALUE``; DataError where a part or a value is none."""

    def inputs(self, x: Mapping[str, Any], count: int, schema: Any, generator: Generator) -> list[Any]:
        """The inputs of ``count`` records to be drawn given x; parts that the model takes as given, and x leaves open, are
        drawn here from what the training data had.
        """
        return [x] * count

    def inputs_of(self, records: Sequence[Any], schema: Any) -> list[Any]:
        """The inputs with which records of the data, or records drawn, belong together: what the model takes as given."""
        return [{}] * len(records)

    def has(self, record: Any, x: Mapping[str, Any], schema: Any) -> bool:
        """Whether a record of the data is one of those that x describes, so that what is drawn given x compares with it."""
        return not x

    @abstractmethod
    def partial(self, x: Any, schema: Any) -> Any:
        """The record of which only what x gives is known, as ``encode`` takes it."""

    def evidence(self, xs: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment | None:
        """What is given, as values that the graph's variables have for certain."""
        if not any(xs):
            return None
        return self.encode([self.partial(x, schema) for x in xs], graph, schema)

    def answering(self, solver: Solver | None) -> Solver | None:
        """What is asked for least energies and for the sums of losses, given the sampler of the task file; None leaves it
        to the engine. A sampler that answers those questions too is returned as it is.
        """
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
        """Complete each record by the least energy; what is asked is ``answering``."""
        return super().infer(graph, schema, solver=self.answering(solver), budget=budget, detail=detail)

    def draw(
        self,
        graph: FactorGraph,
        schema: Any,
        *,
        solver: Solver | None = None,
        budget: Budget | None = None,
        generator: Generator,
    ) -> tuple[Assignment, list[Any]]:
        """One record drawn for each instance of a graph that is conditioned on what is given, and its values."""
        from ebmstruct.graph import Assignment
        from ebmstruct.inference.engine import sample

        if getattr(solver, "chains", 1) != 1:
            solver = dataclasses.replace(solver, chains=1)  # type: ignore[type-var]
        drawn = sample(graph, solver, num_samples=1, budget=budget, generator=generator, quiet=True)
        found = Assignment({name: value[0] for name, value in drawn.values.items()})
        return found, self.decode(found, graph, schema)

    def with_given(self, records: Sequence[Any], xs: Sequence[Any], schema: Any) -> list[Any]:
        """Records that were drawn, each with what its input gave and no variable of the graph holds (a class)."""
        return list(records)

    def quality(
        self, examples: Sequence[Example], records: Sequence[Any], like: Callable[[Any], bool] | None = None
    ) -> dict[str, Any]:
        """How good records are beside examples of the data, at length: what ``score`` leaves out because it takes long.

        like: which training records have what was given of the drawn ones, so that they alone stand beside; None: all.
        JSON values; ``measures``, ``verdicts`` and ``records`` are shown as ``ebmstruct.run.quality_page`` says. ``score``
        is asked after each epoch, this at the end and by ``ebmstruct generate``.
        """
        return {}

    def measure(self, examples: Sequence[Example], model: EnergyModel, schema: Any) -> dict[str, Any]:
        """What the model itself says of examples (likelihoods, objectives of held-out data), as further metrics."""
        return {}

    @abstractmethod
    def write(self, records: Iterable[Any], path: Path, schema: Any) -> None:
        """Write decoded records to a file, whole or not at all, in the format that the data came in (see ``suffix``)."""

    def strip(self, drawn: Mapping[int, Sequence[Any]], schema: Any) -> list[Section]:
        """Report sections of the records drawn while it was trained: epoch to a few of them."""
        return []

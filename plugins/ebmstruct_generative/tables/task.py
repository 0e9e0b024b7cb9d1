"""The task ``generative.table``: rows of mixed columns from CSV files, and new ones like them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Generator

from ebmstruct import Assignment, Budget, EnergyModel, Example, FactorGraph, Solver
from ebmstruct.errors import DataError
from ebmstruct.extend import Evaluation, Generative, Inference, Section
from ebmstruct_generative.tables.clusters import Clusters
from ebmstruct_generative.tables.columns import CATEGORICAL
from ebmstruct_generative.tables.drawing import completed, obeying
from ebmstruct_generative.tables.fidelity import measures
from ebmstruct_generative.tables.judging import judged, some_rows
from ebmstruct_generative.tables.layout import decoded, encoded
from ebmstruct_generative.tables.made import MADE
from ebmstruct_generative.tables.partial import class_draws, holds, kept, parsed, restored, table_of_cells
from ebmstruct_generative.tables.reading import ReadOptions, near_miss, read_table, read_text
from ebmstruct_generative.tables.rendering import sections
from ebmstruct_generative.tables.rules import Rule, told
from ebmstruct_generative.tables.schema import TableSchema, fitted
from ebmstruct_generative.tables.sources import Corpus, alike, read_corpus
from ebmstruct_generative.tables.table import Row, Rows, Table, joined
from ebmstruct_generative.tables.text import check_encoding
from ebmstruct_generative.tables.values import MISSING
from ebmstruct_generative.tables.writing import write_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableTask(Generative):
    """New rows for a table.

    data: ``made`` (drawn here), ``wine``, ``diabetes``, ``iris`` or ``breast_cancer`` (scikit-learn's), the path of a CSV
    file (plain or gzip), or paths by ``train``, ``dev`` and ``test``.
    columns: names of the file's columns, where it has no line of names.  header: whether it has; None looks.
    delimiter: None looks.  quote: empty where quotes are plain text.  encoding: of the file.
    missing: cells that mean a missing value.  types: column to ``categorical``, ``integer``, ``real``, ``date`` or
    ``date FORMAT``; others are found out.  drop: columns to leave out.
    range: column to the least and the greatest value of drawn rows; others keep to the training data's.
    rules: conditions that every drawn row obeys, see docs/tables.md.
    target: the column that measures ask a model for; the last, if left out.
    class_column: a column of categories that energies may take as given.
    dev_fraction, test_fraction, split_seed: which rows of a single file are kept apart, by chance.
    tries: how many times rows that break a rule are drawn again.
    """

    name: ClassVar[str] = "generative.table"
    metric: ClassVar[str] = "fidelity"
    suffix: ClassVar[str] = ".csv"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "energy": {"name": "generative.table_mixture"},
        "solver": {"name": "generative.clusters"},
        "loss": {"name": "negative_log_likelihood"},
        "train": {"optimizer": "adam", "lr": 1e-3, "epochs": 2, "batch_size": 512},
    }

    data: str | dict[str, str] = MADE
    columns: list[str] | None = None
    header: bool | None = None
    delimiter: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"
    missing: list[str] = field(default_factory=lambda: list(MISSING))
    types: dict[str, str] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)
    range: dict[str, list[float]] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    target: str | None = None
    class_column: str | None = None
    dev_fraction: float = 0.15
    test_fraction: float = 0.15
    split_seed: int = 0
    tries: int = 200

    def __post_init__(self) -> None:
        faults = list(self._options.faults())
        check_encoding(self.encoding)
        if not (self.dev_fraction >= 0 and self.test_fraction >= 0 and self.dev_fraction + self.test_fraction < 1):
            faults.append("dev_fraction and test_fraction must be at least 0 and together below 1")
        for column, limits in self.range.items():
            if len(limits) != 2 or not limits[0] <= limits[1]:
                faults.append(f"range: {column}: the least and the greatest value are needed; found {limits}")
        if self.tries < 1:
            faults.append(f"tries must be at least 1; found {self.tries}")
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def _options(self) -> ReadOptions:
        return ReadOptions(
            self.columns,
            self.header,
            self.delimiter,
            self.quote,
            check_encoding(self.encoding),
            tuple(self.missing),
            self.types,
            tuple(self.drop),
        )

    @cached_property
    def corpus(self) -> Corpus:
        """All splits, read at the first use."""
        return read_corpus(
            self.data,
            self._options,
            dev_fraction=self.dev_fraction,
            test_fraction=self.test_fraction,
            seed=self.split_seed,
        )

    def splits(self) -> Sequence[str]:
        return tuple(self.corpus.splits)

    def examples(self, split: str) -> Sequence[Example]:
        found = self.corpus.splits.get(split)
        if found is None:
            raise DataError(f"there is no split {split!r}; there are {', '.join(self.corpus.splits)}")
        return found

    def examples_from(self, path: Path, split: str = "test") -> Sequence[Example]:
        """All rows of a file, read as in training."""
        return Rows(alike(read_table(path, self._options), self.corpus.splits["train"].table, str(path)))

    def fit(self, train: Sequence[Example]) -> TableSchema:
        table = joined([e.y for e in train]) if not isinstance(train, Rows) else train.part()
        self._check_columns(table)
        schema = fitted(
            table,
            ranges=self.range,
            target=self.target or table.names[-1],
            rules=self.rules,
            class_part=self.class_column or "",
        )
        for rule in schema.rules:
            Rule(rule).check(schema)
        for sentence in told(table, schema):
            log.warning("%s; no drawn row will", sentence)
        return schema

    def _check_columns(self, table: Table) -> None:
        """DataError where an option names a column that there is not, or one of a kind that it is not for."""
        for option, names in (("range", self.range), ("target", [self.target]), ("class_column", [self.class_column])):
            for name in (n for n in names if n is not None):
                if name not in table.names:
                    raise DataError(f"{option}: there is no column {name!r}{near_miss(name, table.names)}")
                kind = table.by_name[name].kind
                if option != "target" and (kind == CATEGORICAL) != (option == "class_column"):
                    wanted = "categories" if option == "class_column" else "numbers or dates"
                    raise DataError(f"{option}: column {name!r} is {kind}; it is for columns of {wanted}")

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment:
        """Rows as values of the graph's blocks, see ``layout``."""
        return encoded(joined([_row(y, schema) for y in ys]), graph, schema)

    def decode(self, y: Assignment, graph: FactorGraph, schema: Any) -> list[Any]:
        table = decoded(y, graph.num_instances, schema)
        return [Row(table, i) for i in range(graph.num_instances)]

    def given(self, texts: Sequence[str], schema: Any) -> Mapping[str, Any]:
        """Column to value, from texts COLUMN=VALUE."""
        return parsed(texts, schema)

    def inputs(self, x: Mapping[str, Any], count: int, schema: Any, generator: Generator) -> list[Any]:
        """What is given; and a class of each row by its share in training, for energies that take one as given."""
        if not schema.classes or schema.class_part in x:
            return [x] * count
        return [{**x, schema.class_part: name} for name in class_draws(schema, count, generator)]

    def inputs_of(self, records: Sequence[Any], schema: Any) -> list[Any]:
        if not schema.classes:
            return [{}] * len(records)
        found = [r[schema.class_part] for r in records]
        return [{} if c not in schema.classes else {schema.class_part: c} for c in found]

    def with_given(self, records: Sequence[Any], xs: Sequence[Any], schema: Any) -> list[Any]:
        """The rows with what was given in them to the last digit."""
        if not records or not any(xs):
            return list(records)
        table = restored(joined(records), xs, schema)
        return [Row(table, i) for i in range(len(table))]

    def partial(self, x: Any, schema: Any) -> Row:
        return Row(table_of_cells(x, schema), 0)

    def has(self, record: Any, x: Mapping[str, Any], schema: Any) -> bool:
        return holds(record, x, schema)

    def answering(self, solver: Solver | None) -> Solver | None:
        return solver if isinstance(solver, Clusters) else None

    def draw(
        self,
        graph: FactorGraph,
        schema: Any,
        *,
        solver: Solver | None = None,
        budget: Budget | None = None,
        generator: Generator,
    ) -> tuple[Assignment, list[Any]]:
        """One row for each instance; those that break a rule or leave a range are drawn again, ``tries`` times at most."""

        def once(part: FactorGraph) -> Assignment:
            return super(TableTask, self).draw(part, schema, solver=solver, budget=budget, generator=generator)[0]

        found = obeying(graph, schema, once, self.tries)
        return found, self.decode(found, graph, schema)

    def infer(
        self,
        graph: FactorGraph,
        schema: Any,
        *,
        solver: Solver | None = None,
        budget: Budget | None = None,
        detail: bool = False,
    ) -> Inference:
        """The completion of least energy; where that breaks a rule, the best of completions that are drawn."""
        found = super().infer(graph, schema, solver=solver, budget=budget, detail=detail)
        result = completed(graph, schema, found.result, solver)
        return Inference(result, self.decode(result.assignment, graph, schema))

    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """See ``fidelity.measures``."""
        real, drawn = joined([e.y for e in examples]), joined(list(outputs))
        return dict(measures(some_rows(self.corpus.splits["train"]), real, drawn))

    def quality(
        self, examples: Sequence[Example], records: Sequence[Any], like: Callable[[Any], bool] | None = None
    ) -> dict[str, Any]:
        """The report of ``quality_report``, with training rows among what it compares."""
        real, drawn = joined([e.y for e in examples]), joined(list(records))
        return judged(real, drawn, self.corpus.splits["train"], self.target or real.names[-1], like)

    def write(self, records: Iterable[Any], path: Path, schema: Any) -> None:
        write_rows((_row(r, schema) for r in records), path, schema)

    def read(self, raw: str) -> list[Any]:
        """CSV text with a line of names, or one row with a cell for each column; empty cells are to be filled in."""
        empty, options = set(self.missing), self._options
        if options.columns is None and len(raw.split()) and len(raw.strip("\r\n").splitlines()) == 1:
            own = self.corpus.splits["train"].table
            options = replace(options, columns=own.names, delimiter=options.delimiter or own.delimiter)
        rows = read_text(raw, options)
        return [{c: v for c, v in row.items() if v not in empty and c not in self.drop} for row in rows]

    def record(self, x: Any, output: Any) -> dict[str, Any]:
        return {"row": kept(x, output)}

    def show(self, x: Any, output: Any) -> str:
        return "\n".join(f"  {name}  {value if value is not None else ''}" for name, value in kept(x, output).items())

    def render(self, evaluation: Evaluation, model: EnergyModel, schema: Any) -> list[Section]:
        return sections(evaluation, schema)

    def provenance(self) -> dict[str, Any]:
        return {"data": self.data, "files": dict(self.corpus.files)}


def _row(y: Any, schema: TableSchema) -> Row:
    """A row as it is, or one made of a mapping from columns to values, as a file of records holds it."""
    return y if isinstance(y, Row) else Row(replace(table_of_cells(y, schema), open=False), 0)

"""What is known of a table before any energy is trained: columns, categories, ranges, quantiles, and the layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct_generative.records import RecordSchema
from ebmstruct_generative.tables.columns import CATEGORICAL, Array
from ebmstruct_generative.tables.quantiles import Quantiles, mass_points
from ebmstruct_generative.tables.table import Table
from ebmstruct_generative.tables.values import Format

NUMBER = "number"
"""The state of a column of numbers whose value is an ordinary one: neither missing nor a mass point."""
MISSING_STATE = "(missing)"
"""The state of a column whose cell is missing."""


@dataclass(frozen=True, eq=False)
class ColumnSchema:
    """One column: its kind and format, and how it is laid out.

    states: names of the states of its discrete site. Of a column of categories: these, and the missing state last where
    cells are missing. Of a column of numbers, where there are such: ``NUMBER``, its mass points, the missing state.
    counts: how often the training data had each state.  spikes: the mass points.  missing: the share of missing cells.
    low, high: the range to be kept.  quantiles: of a column of numbers.
    """

    name: str
    kind: str
    form: Format
    states: tuple[str, ...]
    counts: tuple[int, ...]
    spikes: tuple[float, ...] = ()
    missing: float = 0.0
    low: float = -np.inf
    high: float = np.inf
    quantiles: Quantiles | None = None

    @property
    def number(self) -> bool:
        """Whether it holds numbers or dates that vary."""
        return self.quantiles is not None

    @cached_property
    def place(self) -> dict[str, int]:
        """State to its number."""
        return {s: i for i, s in enumerate(self.states)}

    @property
    def texts(self) -> tuple[str, ...]:
        """The categories alone."""
        return self.states[:-1] if self.states and self.states[-1] == MISSING_STATE else self.states


@dataclass(frozen=True)
class TableSchema(RecordSchema):
    """The schema of a table.

    columns: a JSON value for each column.  delimiter: of the files.  rows: how many there were.  target: the column that
    a model is asked for, in measures.  rules: texts.
    knots, middles, uppers: the quantiles of all columns of numbers, one after another; blur: (d,) see ``Quantiles.blur``.
    """

    columns: tuple[dict[str, Any], ...] = ()
    delimiter: str = ","
    rows: int = 0
    target: str = ""
    rules: tuple[str, ...] = ()
    knots: Tensor = field(default_factory=lambda: torch.zeros(0))
    middles: Tensor = field(default_factory=lambda: torch.zeros(0))
    uppers: Tensor = field(default_factory=lambda: torch.zeros(0))
    blur: Tensor = field(default_factory=lambda: torch.zeros(0))

    @cached_property
    def parts_of(self) -> tuple[ColumnSchema, ...]:
        """The columns in order."""
        out, begin = [], 0
        for c in self.columns:
            quantiles = None
            if c["knots"]:
                here = slice(begin, begin + c["knots"])
                begin += c["knots"]
                quantiles = Quantiles(
                    self.knots[here].numpy(), self.middles[here].numpy(), self.uppers[here].numpy(), c["tied"]
                )
            low, high = (float(v) for v in c["range"])
            out.append(
                ColumnSchema(
                    c["name"], c["kind"], Format.of(c["form"]), tuple(c["states"]), tuple(c["counts"]),
                    tuple(float(v) for v in c["spikes"]), c["missing"], low, high, quantiles,
                )
            )  # fmt: skip
        return tuple(out)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(c.name for c in self.parts_of)

    @cached_property
    def numbers(self) -> tuple[ColumnSchema, ...]:
        """The d columns of numbers."""
        return tuple(c for c in self.parts_of if c.number)

    @cached_property
    def discrete(self) -> tuple[ColumnSchema, ...]:
        """The columns that have a discrete site."""
        return tuple(c for c in self.parts_of if c.states)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """How many states each discrete site has."""
        return tuple(len(c.states) for c in self.discrete)

    def column(self, name: str) -> ColumnSchema:
        """The column of a name; ValueError where there is none."""
        return self.parts_of[self.names.index(name)]

    def site_names(self, block: str) -> Sequence[str]:
        if block == "category":
            return tuple(c.name for c in self.discrete)
        return tuple(c.name for c in self.numbers) if block == "number" else ()


def fitted(
    table: Table, *, ranges: Mapping[str, Sequence[float]], target: str, rules: Sequence[str], class_part: str
) -> TableSchema:
    """The schema of a table's rows. ranges: column to the least and greatest value, in place of those seen.

    Cost: a sort of every column of numbers.
    """
    columns, quantiles = [], []
    for column in table.columns:
        missing = column.missing
        share = float(missing.mean()) if len(missing) else 0.0
        states: list[str] = []
        counts: list[int] = []
        spikes: Array = np.zeros(0)
        found = None
        limits = [-np.inf, np.inf]
        if column.kind == CATEGORICAL:
            states = list(column.texts)
            counts = np.bincount(column.values[~missing], minlength=len(states)).tolist()
            seen = [i for i, n in enumerate(counts) if n]  # those of other splits are not learned
            states, counts = [states[i] for i in seen], [counts[i] for i in seen]
        else:
            values = column.values[~missing].astype(np.float64)
            spikes = mass_points(values)
            rest = values[~np.isin(values, spikes)]
            found = Quantiles.of(rest) if rest.size else None
            finite = values[np.isfinite(values)]
            limits = [float(finite.min()), float(finite.max())] if finite.size else limits
            limits = [float(v) for v in ranges.get(column.name, limits)]
            if spikes.size or share or found is None:
                ordinary = [NUMBER] if found is not None else []
                states = ordinary + [column.form.text(float(v)) for v in spikes]
                counts = [int(rest.size)] * len(ordinary) + [int((values == v).sum()) for v in spikes]
        if share or (not states and found is None):
            states, counts = [*states, MISSING_STATE], [*counts, int(missing.sum())]
        quantiles.append(found)
        columns.append(
            {
                "name": column.name,
                "kind": column.kind,
                "form": column.form.stored(),
                "states": states,
                "counts": counts,
                "spikes": [repr(float(v)) for v in spikes],
                "missing": share,
                "range": [repr(v) for v in limits],
                "knots": 0 if found is None else len(found.values),
                "tied": found is None or found.tied,
            }
        )
    return _built(columns, [q for q in quantiles if q is not None], table, target, rules, class_part)


def _built(
    columns: list[dict[str, Any]],
    quantiles: list[Quantiles],
    table: Table,
    target: str,
    rules: Sequence[str],
    class_part: str,
) -> TableSchema:
    def together(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([np.zeros(0), *(getattr(q, name) for q in quantiles)]))

    wide = len(quantiles) + sum(len(c["states"]) for c in columns)
    states: list[str] = next((c["states"] for c in columns if c["name"] == class_part), [])
    classes = tuple(state for state in states if state != MISSING_STATE)
    return TableSchema(
        (wide,),
        classes,
        class_part,
        columns=tuple(columns),
        delimiter=table.delimiter,
        rows=len(table),
        target=target,
        rules=tuple(rules),
        knots=together("values"),
        middles=together("middle"),
        uppers=together("upper"),
        blur=torch.tensor([q.blur() for q in quantiles], dtype=torch.float64),
    )

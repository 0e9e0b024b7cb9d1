"""What the energies of this plugin know of a record: one vector, its shape, and what may be given beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebmstruct import Schema
from ebmstruct.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ebmstruct import Assignment, FactorGraph

RECORD = "record"
"""The block of records as vectors: ``dim`` sites of ``Real(1)`` an instance, or one of ``Real(dim)`` in energies that take
records whole."""
CLASS = "class"
"""The block of classes, of energies that have them as an output: one discrete site an instance."""
UNITS = "units"
"""The block of records as discrete units, of energies that have these in place of ``RECORD``: a site a number."""


@dataclass(frozen=True)
class RecordSchema(Schema):
    """The base of this plugin's schemas: how records are laid out as vectors of numbers near 0.

    shape: of a record; (d,) of a vector, (channels, height, width) of a picture.
    classes: the values of the part that a model may take as given or as an output, in order; empty without one.
    class_part: the name of that part.
    levels: the values that a number of a record can have, in rising order, where all can have the same few (grey levels);
    empty where they are real.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    class_part: str = ""
    levels: tuple[float, ...] = ()

    @property
    def dim(self) -> int:
        """d, how many numbers a record is."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    def class_of(self, x: Mapping[str, object]) -> int | None:
        """The number of the class that x gives, or None where it gives none."""
        value = x.get(self.class_part)
        return None if value is None else self.classes.index(str(value))

    def unit_levels(self, states: int) -> Tensor:
        """(K,) what a unit's states stand for: ``levels``, or K steps from the lowest of them to the highest (-1 to 1)."""
        import torch

        if len(self.levels) == states:
            return torch.tensor(self.levels)
        low, high = (self.levels[0], self.levels[-1]) if self.levels else (-1.0, 1.0)
        return torch.linspace(low, high, states)

    def values(self, graph: FactorGraph, x: Tensor) -> Assignment:
        """The values of records in whatever blocks a graph has for them.

        x: (B, dim), a record a row; NaN is unknown. ``RECORD`` may be one site of ``Real(dim)`` an instance, known as a
        whole or not at all, or dim sites of ``Real(1)``; ``UNITS`` dim discrete sites, which get the nearest level (of
        two, by a threshold half way). Errors: DataError where a part of a vector is known and the graph has it as one site.
        """
        import torch

        from ebmstruct import Assignment

        name = UNITS if UNITS in graph.variables else RECORD
        block, known = graph.variables[name], ~x.isnan()
        if name == UNITS:
            levels = self.unit_levels(block.discrete.largest).to(x)
            middle = (levels[1:] + levels[:-1]) / 2
            value, known = torch.bucketize(x.nan_to_num(0.0), middle, right=False).reshape(-1), known.reshape(-1)
        else:
            value = x.nan_to_num(0.0).reshape(block.num_sites, -1)
            known = known.reshape(value.shape)
            if bool((known.any(1) != known.all(1)).any()):
                raise DataError(
                    "a part of a record is given, and this energy has the record as one vector, of which all is known or "
                    "nothing; take an energy with sites or units, such as generative.mixture with sites: true"
                )
            known = known.all(1)
        beside = {} if graph.evidence is None else graph.evidence.values  # noise levels
        beside = {n: v for n, v in beside.items() if n != name and graph.evidence and n not in graph.evidence.known}
        return Assignment({**beside, name: value}, {} if bool(known.all()) else {name: known})

    def vectors(self, graph: FactorGraph, y: Assignment) -> Tensor:
        """(B, dim) the records of an assignment: the inverse of ``values``."""
        if UNITS in graph.variables:
            levels = self.unit_levels(graph.variables[UNITS].discrete.largest)
            return levels[y[UNITS]].reshape(graph.num_instances, -1)
        return y[RECORD].reshape(graph.num_instances, -1)

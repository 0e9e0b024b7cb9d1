"""What the energies of this plugin know of a record: one vector, its shape, and what may be given beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct import Assignment, FactorGraph, Real, Schema

RECORD = "record"
"""The block of records as vectors: ``dim`` sites of ``Real(1)`` an instance, or one of ``Real(dim)`` in energies that take
records whole."""
CLASS = "class"
"""The block of classes, of energies that have them as an output: one discrete site an instance."""


@dataclass(frozen=True)
class RecordSchema(Schema):
    """The base of this plugin's schemas: how records are laid out as vectors of numbers near 0.

    shape: of a record; (d,) of a vector, (channels, height, width) of a picture.
    classes: the values of the part that a model may take as given or as an output, in order; empty without one.
    class_part: the name of that part.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    class_part: str = ""

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


def encoded(graph: FactorGraph, rows: Tensor, known: Tensor | None = None) -> Assignment:
    """Records (B, d) as values of the block of records, however the graph lays them out; what the graph has clamped beside
    them (noise levels) stands there too.

    known: (B, d) bool; a site is known where all its coordinates are.
    """
    block = graph.variables[RECORD]
    assert isinstance(block.domain, Real)
    value = rows.reshape(-1, block.domain.dim)
    values = {RECORD: torch.nan_to_num(value).float()}
    if graph.evidence is not None:
        whole = {n: v for n, v in graph.evidence.values.items() if n not in graph.evidence.known}
        values = {**whole, **values}
    if known is None or bool(known.all()):
        return Assignment(values)
    return Assignment(values, {RECORD: known.reshape(-1, block.domain.dim).all(1)})


def decoded(y: Assignment, graph: FactorGraph) -> Tensor:
    """(B, d): the values of the block of records."""
    return y[RECORD].reshape(graph.num_instances, -1)

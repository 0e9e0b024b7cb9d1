"""What the energies of this plugin know of a record: one vector, its shape, and what may be given beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ebmstruct import Schema

RECORD = "record"
"""The block of records as vectors: one site of ``Real(dim)`` an instance."""
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

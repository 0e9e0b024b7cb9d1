"""The energy ``generative.denoiser``: how far a noised record lies from what a network makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebmstruct import DenoisingEnergy
from ebmstruct.energies.model import InputList
from ebmstruct_generative.records import RECORD, RecordSchema


class Denoiser(DenoisingEnergy):
    """`DenoisingEnergy` over records, for the loss ``denoising`` and the sampler ``annealed_langevin``.

    conditional: whether the class of a record, where the data have classes, is given to the network, so that records of a
    class can be drawn; without a class given, one is drawn first by the training data's shares.
    spread: the standard deviation of a record's numbers, about.  lowest, highest: levels of noise.
    width, depth, dropout: of the network.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        conditional: bool = True,
        spread: float = 1.0,
        lowest: float = 0.02,
        highest: float = 5.0,
        width: int = 256,
        depth: int = 3,
        dropout: float = 0.0,
    ) -> None:
        classes = len(schema.classes) if conditional else 0
        super().__init__(
            schema.dim, spread=spread, lowest=lowest, highest=highest, width=width, depth=depth, dropout=dropout,
            classes=classes, block=RECORD,
        )  # fmt: skip
        self.schema = schema

    def prepare(self, xs: Sequence[Any]) -> InputList:
        """The number of each input's class, or None."""
        return InputList(self.schema.class_of(x) if self.classes else None for x in xs)

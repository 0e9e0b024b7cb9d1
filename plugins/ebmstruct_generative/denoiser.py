"""The energy ``generative.denoiser``: how far a noised record lies from what a network makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ebmstruct import DenoisingEnergy
from ebmstruct.energies.model import InputList
from ebmstruct.errors import GraphError
from ebmstruct_generative.records import RECORD, RecordSchema


class Denoiser(DenoisingEnergy):
    """`DenoisingEnergy` over records, for the loss ``denoising`` and the sampler ``annealed_langevin``.

    conditional: whether the class of a record, where the data have classes, is given to the network, so that records of a
    class can be drawn; without a class given, one is drawn first by the training data's shares.
    spread: the standard deviation of a record's numbers, about.  lowest, highest: levels of noise.
    network: dense, for vectors, or convolutional, for pictures; none: as the records are.
    width, depth: of the dense layers, and how many blocks; none: 256 and 3 for vectors, 128 and 2 for pictures.
    filters: channels of convolutions at full size.  dropout: in each block.  octaves: of waves beside the numbers of a
    vector, as in `DenoisingEnergy`.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        conditional: bool = True,
        spread: float = 1.0,
        lowest: float = 0.02,
        highest: float = 5.0,
        network: Literal["dense", "convolutional"] | None = None,
        filters: int = 16,
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.0,
        octaves: int | None = None,
    ) -> None:
        if network == "convolutional" and len(schema.shape) != 3:
            raise GraphError(
                f"network convolutional is for pictures (channels, height, width), and records here have the shape "
                f"{tuple(schema.shape)}; take dense, or leave network out"
            )
        pictures = len(schema.shape) == 3 and network != "dense"
        super().__init__(
            schema.dim,
            spread=spread,
            lowest=lowest,
            highest=highest,
            shape=schema.shape if pictures else None,
            filters=filters,
            width=(128 if pictures else 256) if width is None else width,
            depth=(2 if pictures else 3) if depth is None else depth,
            dropout=dropout,
            octaves=octaves,
            classes=len(schema.classes) if conditional else 0,
            block=RECORD,
        )
        self.schema = schema

    def prepare(self, xs: Sequence[Any]) -> InputList:
        """The number of each input's class, or None."""
        return InputList(self.schema.class_of(x) if self.classes else None for x in xs)

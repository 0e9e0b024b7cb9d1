"""An energy of pictures by convolutions, as it is trained by Langevin steps from a replay buffer."""

from __future__ import annotations

from collections.abc import Sequence

from ebmstruct import ConvolutionalEnergy
from ebmstruct.errors import GraphError
from ebmstruct_generative.records import RECORD, RecordSchema


class Convolutional(ConvolutionalEnergy):
    """E(x) = network(x) + |x|^2 / (2 spread^2) over pictures: convolutions that halve them each, then a linear layer.

    After Du and Mordatch (2019): smooth activations, spectral normalisation as an option. filters: channels after each
    convolution.  kernel: pixels, odd.  spectral: every layer is divided by an estimate of its largest singular value.
    spread: of the normal density that the network bends.
    The schema's records must be pictures. Cost: that of the convolutions.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        filters: Sequence[int] = (32, 64),
        kernel: int = 3,
        spectral: bool = False,
        spread: float = 1.5,
    ) -> None:
        if len(schema.shape) != 3:
            raise GraphError(
                f"convolutional energies are of pictures (channels, height, width), and records here have the shape "
                f"{tuple(schema.shape)}; take generative.network for vectors"
            )
        channels, height, width = schema.shape
        super().__init__(
            channels,
            height,
            width,
            filters=tuple(filters),
            kernel=kernel,
            spectral=spectral,
            spread=spread,
            block=RECORD,
        )

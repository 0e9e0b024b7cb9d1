"""A structured prediction energy network joined to a network that guesses its answers."""

from __future__ import annotations

from ebmstruct import Amortised
from ebmstruct_multilabel.evidence import Evidence, Scaling
from ebmstruct_multilabel.schema import LabelSchema
from ebmstruct_multilabel.spen import SPEN


class AmortisedSPEN(Amortised):
    """``SPEN`` with an inference network from the row to log-odds of its labels (Tu and Gimpel 2018).

    Trained by ``inference_network`` or ``seal``, which train both, or by ``amortisation`` after the energy was trained by
    another loss. The solver ``amortised`` answers by the network's guess where it measures that the guess is good.
    network_width: hidden units of the inference network.  Other options as in ``SPEN``.
    """

    def __init__(
        self,
        schema: LabelSchema,
        *,
        network_width: int = 512,
        measurements: int = 16,
        conditional: bool = True,
        width: int = 512,
        depth: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        scaling: Scaling = "auto",
    ) -> None:
        energy = SPEN(
            schema,
            measurements=measurements,
            conditional=conditional,
            width=width,
            depth=depth,
            dropout=dropout,
            input_dropout=input_dropout,
            scaling=scaling,
        )
        network = Evidence(
            schema,
            len(schema.labels),
            width=network_width,
            depth=1,
            dropout=dropout,
            input_dropout=input_dropout,
            scaling=scaling,
        )
        super().__init__(energy, network)

"""Mixtures of Gaussians over records: exact likelihood, exact draws, and whatever is missing summed out."""

from __future__ import annotations

from typing import Literal

from ebmstruct import MixtureEnergy
from ebmstruct_generative.records import RECORD, RecordSchema

COMPONENT = "component"
"""The latent block: the component of each record."""


class Mixture(MixtureEnergy):
    """A mixture of Gaussians over records, with the component of each as a latent variable.

    The density is normalised, so that likelihoods of the test data mean something; draws are exact and cost nothing, given
    any part of a record too. It begins at expectation maximisation on the training data; the steps of a training by
    ``negative_log_likelihood`` then go on from there, and may be few.

    components: K.  covariance: ``full``, ``diagonal`` or ``low_rank`` (with ``rank`` directions; for records of hundreds of
    numbers).  sites: whether parts of a record may be known (each number a site of its own).  em: rounds before the first
    step.  floor: least variance that they leave, as a share of the data's: larger is smoother, and further from copying.
    Not where clusters are curved: many components then tile the curve. Draws of a ``full`` one with as many components as
    there are hundreds of records are near the best that 60 seconds of any method reach on 8x8 digits.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        components: int = 20,
        covariance: Literal["diagonal", "full", "low_rank"] = "full",
        rank: int = 8,
        sites: bool = True,
        em: int = 50,
        floor: float = 1e-2,
    ) -> None:
        super().__init__(
            schema.dim, components, covariance=covariance, rank=rank, sites=sites, em=em, floor=floor, block=RECORD,
            latent_block=COMPONENT,
        )  # fmt: skip

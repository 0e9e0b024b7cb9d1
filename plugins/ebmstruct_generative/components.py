"""The energy ``generative.components``: independent components of records, and overcomplete sets of filters."""

from __future__ import annotations

import math
from typing import Literal

from ebmstruct import IndependentComponents
from ebmstruct.errors import ConfigError
from ebmstruct_generative.records import RECORD, RecordSchema


class Components(IndependentComponents):
    """`IndependentComponents` over records, for the loss ``score_matching`` in its exact form.

    filters: how many, as many as a record has numbers unless given.  The other options are those of
    ``IndependentComponents``.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        filters: int | None = None,
        shape: Literal["log_cosh", "student_t"] = "log_cosh",
        unit_rows: bool = True,
        tied: bool = False,
        power: float = 1.0,
        sharpness: float = 1.0,
        learn_sharpness: bool = True,
        spread: float | None = None,
        normalised: bool = False,
        starts: int = 0,
    ) -> None:
        if (filters is not None and filters < 1) or not 0 < sharpness < math.inf:
            raise ConfigError(
                [f"energy.filters must be at least 1 and energy.sharpness positive; found {filters} and {sharpness}"]
            )
        super().__init__(
            schema.dim, filters, shape=shape, unit_rows=unit_rows, tied=tied, power=power, sharpness=sharpness,
            learn_sharpness=learn_sharpness, spread=spread, normalised=normalised, starts=starts,
            block=RECORD,
        )  # fmt: skip

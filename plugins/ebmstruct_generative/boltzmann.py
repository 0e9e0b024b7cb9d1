"""Boltzmann machines over records: binary, categorical and Gaussian visible units; one or more hidden layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ebmstruct import BoltzmannMachine, DeepBoltzmannMachine, GaussianBoltzmannMachine
from ebmstruct.errors import ConfigError
from ebmstruct_generative.records import RECORD, UNITS, RecordSchema

HIDDEN = "hidden"
"""The latent block; a deep machine's are hidden1, hidden2, ..."""


class Boltzmann(BoltzmannMachine):
    """A restricted Boltzmann machine over records whose numbers become discrete units (block ``UNITS``).

    hidden: how many hidden units, which are latent.  units: ``binary``: each number is on or off, by a threshold half way;
    ``levels``: each takes one of the schema's levels (grey levels of pictures), or of ``levels`` steps from the lowest
    number to the highest.  levels: how many; 0: the schema's.  centred, weight_spread: as in ``BoltzmannMachine``.
    Train by ``persistent_contrastive_divergence`` with ``optimizer: sgd``, a falling ``lr`` of 0.2 to 0.5 and ``average``;
    draw by the solver ``gibbs``. Records drawn are units: for numbers that are really continuous take
    ``gaussian_boltzmann`` or a mixture.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        hidden: int = 128,
        units: Literal["binary", "levels"] = "binary",
        levels: int = 0,
        centred: bool = False,
        weight_spread: float = 0.01,
    ) -> None:
        states = states_of(schema, units, levels)
        super().__init__(
            schema.dim, hidden, states=states, centred=centred, weight_spread=weight_spread, visible_block=UNITS,
            hidden_block=HIDDEN,
        )  # fmt: skip


class DeepBoltzmann(DeepBoltzmannMachine):
    """A deep Boltzmann machine over records: two or more layers of hidden units above discrete units.

    hidden: units of each hidden layer, from below.  units, levels, weight_spread: as in ``boltzmann``. Train it as that.
    """

    def __init__(
        self,
        schema: RecordSchema,
        *,
        hidden: Sequence[int] = (128, 64),
        units: Literal["binary", "levels"] = "binary",
        levels: int = 0,
        weight_spread: float = 0.01,
    ) -> None:
        if not hidden or min(hidden) < 1:
            raise ConfigError([f"energy.hidden must be numbers of units of one layer or more; found {list(hidden)}"])
        super().__init__(
            schema.dim, tuple(hidden), states=states_of(schema, units, levels), weight_spread=weight_spread,
            visible_block=UNITS, hidden_block=HIDDEN,
        )  # fmt: skip


class GaussianBoltzmann(GaussianBoltzmannMachine):
    """A restricted Boltzmann machine with Gaussian visible units: the record is one vector, the hidden units are latent.

    hidden: how many hidden units.  form: ``joint``, whose hidden units ``ebmstruct latents`` shows, drawn by
    ``mixed_gibbs``; ``free``: hidden units summed out, a smooth energy for ``langevin`` or ``hmc``, quicker to train.
    Its density is a mixture of 2^hidden Gaussians of one covariance: good for filters, rarely the best for drawing.
    """

    def __init__(self, schema: RecordSchema, *, hidden: int = 64, form: Literal["joint", "free"] = "joint") -> None:
        super().__init__(schema.dim, hidden, form=form, visible_block=RECORD, hidden_block=HIDDEN)


def states_of(schema: RecordSchema, units: str, levels: int) -> int:
    """How many states a unit has; ConfigError where levels are wanted and nobody says which."""
    if units == "binary":
        return 2
    states = levels or len(schema.levels)
    if states < 2:
        raise ConfigError(
            ["energy.units is levels, and the data have no list of them; set energy.levels to how many there should be"]
        )
    return states

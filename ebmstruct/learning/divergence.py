"""Signs that a training by samples comes apart, read off the figures of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ebmstruct.learning.tracing import Sums

WINDOW = 100
"""Steps whose figures are remembered."""
ENOUGH = 20
"""Steps before medians mean something."""
HOLD = 10
"""So many bad steps in a row are a divergence; single ones are left to the clipping of gradients."""
BELOW = 100.0
"""Samples so many times the usual difference of energies (at least 1) below the data have found a hole in the energy."""
ABOVE = 1000.0
"""Samples so far above them are no longer brought down by the sampler; some of them are always on the way down."""
STEEP = 50.0
"""Gradients so many times their median have exploded, where the energies are apart too."""
AT_CLIP = 0.5
"""The share of the samples' numbers at the clip, above that of the data's."""
FAR = 1e6
"""Energies so large (and so many thousands of times those of the beginning) are numbers that float32 cannot tell apart."""


class CameApart(Exception):
    """A training that cannot go on from here.

    reason: a clause.  advice: what to try, where it is another than usual.  examples: numbers of those that may have
    caused it.  infinite: the loss is plus infinity.
    """

    def __init__(self, reason: str, *, examples: Sequence[int] = (), infinite: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.examples, self.infinite = reason, tuple(examples), infinite
        self.advice: str | None = None


class Watch:
    """What is remembered of the steps so far. Times and clocks play no part: the same steps give the same verdicts.

    level: the least median of the size of the energies' difference, and at least 1: a difference of one is a factor e in
    probability.  bad: steps in a row that looked bad.
    """

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.margins: list[float] = []
        self.level = math.inf
        self.first = 0.0
        self.bad = 0

    def look(self, step: Sums) -> str | None:
        """Why the training has come apart with this step, in a clause; None where it has not."""
        if not step.compared:
            return None
        margin, norm = step.energy_incorrect - step.energy_correct, step.gradient_norm
        size = max(abs(step.energy_correct), abs(step.energy_incorrect))
        if not self.norms:
            self.first = size
        found = self._sign(step, margin, norm, size)
        self.bad = 0 if found is None else self.bad + 1
        for held, value in ((self.norms, norm), (self.margins, abs(margin))):
            held.append(value)
            del held[:-WINDOW]
        if len(self.margins) >= ENOUGH:
            self.level = max(1.0, min(self.level, _median(self.margins)))
        at_once = size > FAR * max(1.0, 1e-3 * self.first)
        return found if found is not None and (at_once or self.bad >= HOLD) else None

    @property
    def calm(self) -> bool:
        """Whether the last steps were far from any sign, so that one may come back to where the training stands."""
        if self.bad:
            return False
        if len(self.margins) < ENOUGH:
            return not self.margins or max(self.margins) < FAR
        steep = self.norms[-1] > 0.2 * STEEP * _median(self.norms)
        return max(self.margins[-HOLD:]) <= 0.5 * BELOW * self.level and not steep

    def _sign(self, step: Sums, margin: float, norm: float, size: float) -> str | None:
        energies = f"{step.energy_incorrect:.4g} against {step.energy_correct:.4g}"
        if size > FAR * max(1.0, 1e-3 * self.first):
            return f"energies have run away ({energies} of the data), to where their differences are lost in rounding"
        if step.clipped > AT_CLIP * step.examples:
            share = step.clipped / step.examples
            return f"samples stick to clip_sample ({share:.0%} of their numbers, above what the data do)"
        if len(self.margins) < ENOUGH:
            return None
        if -margin > BELOW * self.level:
            return f"the energies of samples ran away below those of the data ({energies})"
        if margin > ABOVE * self.level:
            return f"the energies of samples ran away above those of the data ({energies})"
        usual = _median(self.norms)
        if norm > STEEP * usual and abs(margin) > 5.0 * self.level:
            return f"the gradient exploded (norm {norm:.4g}, usually {usual:.4g})"
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "norms": list(self.norms), "margins": list(self.margins), "level": self.level, "first": self.first,
            "bad": self.bad,
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.norms, self.margins = list(state["norms"]), list(state["margins"])
        self.level, self.first, self.bad = state["level"], state["first"], state["bad"]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]

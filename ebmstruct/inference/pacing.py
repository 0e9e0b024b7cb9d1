"""Deadlines kept by looking ahead: stop where the next step, or the last words, would come too late."""

from __future__ import annotations

import time
from dataclasses import replace

from ebmstruct.inference.result import Budget


class Pace:
    """Asked between steps, says whether the next would pass the deadline, by how long the last ones took.

    begun: when the work began, by the monotonic clock; until the first question it is the preparation that is timed,
    of which ``words`` is the share that the end of the work and its certificate will take once more.
    """

    def __init__(self, budget: Budget, begun: float, words: float) -> None:
        self.budget, self.last, self.words = budget, begun, words
        self.step = 0.0
        self.reserve: float | None = None

    def __call__(self) -> bool:
        now = time.monotonic()
        took, self.last = now - self.last, now
        if self.reserve is None:
            self.reserve = self.words * took
        else:
            # one step that the machine kept waiting says little about the next
            self.step = 0.5 * (self.step + min(took, 2.0 * self.step)) if self.step else took
        if self.budget.stopped is not None and self.budget.stopped():
            return True
        return self.budget.remaining < self.reserve + self.step


def punctual(budget: Budget | None, words: float) -> Budget:
    """The budget from now on, ended early enough for a last step and for the last words.

    words: how long these take, as a share of the preparation before the first step.
    """
    budget = budget or Budget()
    if budget.deadline is None:
        return budget
    return replace(budget, stopped=Pace(budget, time.monotonic(), words))

"""Work that looks ahead ends before its deadline, and a budget without one is left alone."""

from __future__ import annotations

import time

import ebmstruct as es
from ebmstruct.inference.pacing import punctual


def test_steps_end_before_the_deadline() -> None:
    """Steps of 5 ms after a preparation of 10 ms end where one more, or the last words, would come too late."""
    begun = time.monotonic()
    budget = punctual(es.Budget.after(0.2), 1.0)
    time.sleep(0.01)
    steps = 0
    while not budget.expired:
        time.sleep(0.005)
        steps += 1
    assert time.monotonic() - begun < 0.3 and steps > 3


def test_other_ends() -> None:
    """Without a deadline nothing is added; a stop by somebody else is passed on; what is over stays over."""
    plain = es.Budget(max_steps=3)
    assert punctual(plain, 1.0) is plain and punctual(None, 1.0).deadline is None
    assert punctual(es.Budget(deadline=time.monotonic() + 100, stopped=lambda: True), 1.0).expired
    assert punctual(es.Budget.after(-1.0), 1.0).expired
    assert not punctual(es.Budget.after(100.0), 1.0).expired

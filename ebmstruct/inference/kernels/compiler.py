"""How the hot loops are compiled: one decorator, cached on disk where a cache can be written.

Only the modules of this folder whose names hold ``numba`` import this one, and they are imported at the
first use of a kernel, so that ``import ebmstruct`` does not pay for numba.

numba's cache looks at the file of a loop and not at those of the loops that it calls: after changing one that others
call (``simd_numba`` above all), remove ``*.nbi`` from this folder's ``__pycache__``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event


class Compilations(event.Listener):
    """Counts what is compiled, as opposed to read back from the cache, so that progress can tell of it.

    count: how many have begun.  under_way: how many have begun and not ended, those inside others included.
    last: when one began or ended last, by the monotonic clock; -inf before the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.under_way = 0
        self.last = -math.inf

    def on_start(self, event: event.Event) -> None:
        """A compilation begins."""
        self.count += 1
        self.under_way += 1
        self.last = time.monotonic()

    def on_end(self, event: event.Event) -> None:
        """A compilation ends."""
        self.under_way -= 1
        self.last = time.monotonic()

    def busy(self) -> bool:
        """Whether something is being compiled, or was within the last second: kernels come one after another."""
        return self.under_way > 0 or time.monotonic() - self.last < 1.0


compilations = Compilations()
event.register("numba:compile", compilations)


def kernel(function: Callable[..., Any], **extra: Any) -> Any:
    """The compiled form of a loop: no interpreter lock, no numba threads, fused multiply-add allowed.

    Of the fast-math flags only contraction is on: the others let the compiler assume that there is
    no infinity and no NaN, and infinities are how a table forbids a configuration.
    numba caches next to the source, else in the user's cache folder, else in NUMBA_CACHE_DIR; where none of
    them can be written it raises at decoration, and the loop is then compiled again in each process.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy", **extra}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """As ``plain``, always made part of its caller: for a step of a recursion, whose vectors stay in registers."""
    return kernel(function, forceinline=True, _nrt=False)


def plain(function: Callable[..., Any]) -> Any:
    """As ``kernel``, for a loop that makes no arrays: references to those it is given are not counted.

    Counting is atomic, and at every call of a step it costs more than the step.
    """
    return kernel(function, _nrt=False)

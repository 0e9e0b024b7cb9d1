"""How the hot loops are compiled: one decorator, cached on disk where a cache can be written.

Only the modules of this folder whose names hold ``numba`` import this one, and they are imported at the
first use of a kernel, so that ``import ebmstruct`` does not pay for numba.

numba's cache looks at the file of a loop and not at those of the loops that it calls: after changing one that others
call (``simd_numba`` above all), remove ``*.nbi`` from this folder's ``__pycache__``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


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

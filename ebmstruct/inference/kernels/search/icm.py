"""Descent by single changes over a table view: the driver of the loop, also to polish what other methods found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ebmstruct.inference.views.table_view import TableView

EVERYTHING = 1 << 60
VISITS = 10_000
"""Sites that are looked at between two looks at the clock."""


def polish(
    view: TableView, states: np.ndarray, *, dirty: np.ndarray | None = None, begin: int = 0, visits: int = EVERYTHING
) -> int:
    """Change ``states`` (n,) int64 in place, site by site, until no single change lowers the energy; -1 then.

    dirty: (n,) bool, the sites to look at first (all, by default); it tells afterwards which are left.
    begin, visits: the site to begin with, and how many to look at; where they do not suffice, the site to go on with is
    returned. Never raises an energy; forbidden entries are left before energies are lowered.
    Cost: a visit looks at the site's states times its rows. Besag (1986), section 2.5.
    """
    from ebmstruct.inference.kernels.search.icm_numba import descend

    if dirty is None:
        dirty = np.ones(view.num_sites, np.bool_)
    rows = view.row_ptr, view.row_sites, view.table_start
    left = descend(*view.arrays, view.num_states, view.starts, *rows, *view.site_rows, states, dirty, begin, visits)
    return int(left)


def polished(view: TableView, states: np.ndarray, stop: Callable[[], bool]) -> np.ndarray:
    """A copy of ``states`` after ``polish``, or as far as it comes before ``stop`` says True."""
    out, site = states.copy(), 0
    dirty = np.ones(view.num_sites, np.bool_)
    while site >= 0 and not stop():
        site = polish(view, out, dirty=dirty, begin=site, visits=VISITS)
    return out


def unary_minima(view: TableView) -> np.ndarray:
    """(n,) int64: each site's state of least own energy, the first of equal ones."""
    unary = view.arrays[0]
    states = np.zeros(view.num_sites, np.int64)
    if view.num_sites:
        owner = np.repeat(np.arange(view.num_sites), view.num_states)
        least = np.minimum.reduceat(unary, view.starts[:-1])[owner]
        hits = np.nonzero(unary == least)[0][::-1]
        states[owner[hits]] = hits - view.starts[owner[hits]]
    return states

"""Binary pairwise table views as flow networks: capacities out of tables, and messages out of flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ebmstruct.inference.views.table_view import TableView


@dataclass(frozen=True, eq=False)
class BinaryPairs:
    """The rows of a binary pairwise view as capacities; a row that rewards differing has its second site flipped.

    first, second: (m,) sites.  flipped: (m,) bool.  forth, back: (m,) capacities between the first site and the second,
    or its complement where flipped.  shift: (m, 2) energy moved to both sites, to state 1, of a flipped site to state 0.
    excess: (n,) energy of state 1 less that of state 0, the shifts included.
    """

    first: np.ndarray
    second: np.ndarray
    flipped: np.ndarray
    forth: np.ndarray
    back: np.ndarray
    shift: np.ndarray
    excess: np.ndarray

    def messages(self, flow: np.ndarray) -> np.ndarray:
        """(m, 4) float64: a flow (m,) as the reparametrisation that it is, by slots and states of the rows."""
        from ebmstruct.inference.kernels.flows.pairs_numba import row_messages

        out = np.empty((self.first.size, 4))
        row_messages(self.shift, self.flipped, flow, out)
        return out


def shape_refusal(view: TableView) -> str | None:
    """Why a view is not binary and pairwise, in a sentence; None if it is."""
    most = int(view.num_states.max(initial=0))
    if most > 2:
        return f"a site has {most} open states, and the sides of a cut are two"
    arity = int(view.arity.max(initial=0))
    if arity > 2:
        return f"a factor joins {arity} open sites, and a cut pays for pairs only"
    return None


def binary_pairs(view: TableView) -> BinaryPairs:
    """The rows of a binary pairwise view as capacities."""
    from ebmstruct.inference.kernels.flows.pairs_numba import split_rows

    unary, tables, weights = view.arrays
    rows = view.num_rows
    first, second = np.empty((2, rows), np.int32)
    forth, back = np.empty((2, rows))
    shift, excess, flipped = np.empty((rows, 2)), np.empty(view.num_sites), np.empty(rows, np.bool_)
    split_rows(
        unary, view.table_start, weights, view.row_sites, tables, first, second, forth, back, shift, flipped, excess
    )
    return BinaryPairs(first, second, flipped, forth, back, shift, excess)


def wrong_pairs(view: TableView) -> int:
    """The number of rows of a binary pairwise view that reward differing, and so are not submodular."""
    from ebmstruct.inference.kernels.flows.pairs_numba import count_wrong

    _, tables, weights = view.arrays
    return int(count_wrong(view.table_start, weights, tables))


def reparametrized_bound(view: TableView, messages: np.ndarray) -> np.ndarray:
    """(B,) float64: the sum of all terms' minima after the messages (m, 4) of a binary pairwise view are moved."""
    from ebmstruct.inference.kernels.flows.pairs_numba import row_bounds

    unary, tables, weights = view.arrays
    least = np.empty(view.num_rows)
    row_bounds(view.table_start, weights, tables, messages, least)
    moved = unary.reshape(-1, 2).copy()
    for slot in (0, 1):
        sites = view.row_sites[slot::2]
        for state in (0, 1):
            moved[:, state] += np.bincount(sites, messages[:, 2 * slot + state], view.num_sites)
    out = view.constant.detach().numpy().copy()
    out += np.bincount(view.instance, moved.min(1), view.num_instances)
    return out + np.bincount(view.row_instance, least, view.num_instances)

"""Roof duality: the states that binary sites take in some least assignment, by a least cut of the doubled graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ebmstruct.inference.kernels.flows.maxflow import Cut, minimum_cut
from ebmstruct.inference.kernels.flows.pairs import binary_pairs, shape_refusal

if TYPE_CHECKING:
    from ebmstruct.inference.views.table_view import TableView


@dataclass(frozen=True, eq=False)
class Roof:
    """What the roof dual says of a binary pairwise view.

    states: (n,) int64, the states of a part of one least assignment, -1 at sites of which nothing is known.
    strong: (n,) bool, sites that have their state in every least assignment.
    messages: (m, 4) the reparametrisation whose bound is the roof dual.  finished: whether the flow is at its maximum;
    nothing is known of any site without.
    """

    states: np.ndarray
    strong: np.ndarray
    messages: np.ndarray
    finished: bool


def roof_dual(view: TableView, *, expired: Callable[[], bool] | None = None) -> Roof:
    """The roof dual of a view with two states a site and two sites a row, whatever its tables.

    Each site has a node and a complement; a pair that rewards differing joins one with the complement of the other, and
    everything is there twice, mirrored. Sites whose node is on the source's side take state 0, those whose complement
    is take state 1 (Boros and Hammer 2002; Kolmogorov and Rother 2007, section 2). Of the others, those whose node
    and complement lie in different strong components of what is left follow an order of these components
    (section 2.3 there): they are as in some least assignment.
    Cost: a flow over twice the sites and pairs.
    """
    from ebmstruct.inference.kernels.flows.components_numba import strong_components

    pairs, n = binary_pairs(view), view.num_sites
    network = pairs.first, pairs.second, pairs.flipped, pairs.forth, pairs.back, pairs.excess
    first, second, cut = doubled_cut(*network, residual=True, expired=expired)
    m = view.num_rows
    messages = pairs.messages(0.5 * (cut.flow[:m] + cut.flow[m:]))
    states = np.full(n, -1, np.int64)
    if not cut.finished:
        return Roof(states, np.zeros(n, np.bool_), messages, False)
    states[cut.side[n:] == 0] = 1
    states[cut.side[:n] == 0] = 0
    strong = states >= 0
    if not strong.all():
        left = cut.left[:, :m] + cut.left[:, m:]
        inside = np.tile(~strong, 2)
        number = strong_components(2 * n, first, second, np.tile(left[0], 2), np.tile(left[1], 2), inside)
        states[~strong & (number[:n] < number[n:])] = 0
        states[~strong & (number[:n] > number[n:])] = 1
    return Roof(states, strong, messages, True)


def doubled_cut(
    first: np.ndarray,
    second: np.ndarray,
    flipped: np.ndarray,
    forth: np.ndarray,
    back: np.ndarray,
    excess: np.ndarray,
    *,
    residual: bool = False,
    expired: Callable[[], bool] | None = None,
) -> tuple[np.ndarray, np.ndarray, Cut]:
    """The least cut of sites and their complements, and the first and second nodes of its 2 m edges.

    Arguments as for ``minimum_cut``, where an edge that is ``flipped`` joins its first site with the complement of its
    second. Nodes 0 ... n - 1 are the sites, n ... 2 n - 1 their complements; edges m ... 2 m - 1 are mirror images.
    """
    n = excess.size
    mine, mirror = second + np.where(flipped, n, 0), second + np.where(flipped, 0, n)
    one, two = np.concatenate([first, mirror]), np.concatenate([mine, first + n])
    both = np.concatenate([excess, -excess])
    return (
        one,
        two,
        minimum_cut(one, two, np.tile(forth, 2), np.tile(back, 2), both, residual=residual, expired=expired),
    )


def persistent(view: TableView) -> np.ndarray:
    """(n,) int64: states that some least assignment takes at once, -1 where unknown; to shrink a problem with.

    Of a view with more than two states a site, or more than two sites a row, nothing is known.
    """
    if shape_refusal(view) is not None:
        return np.full(view.num_sites, -1, np.int64)
    return roof_dual(view).states

"""Graphs that are grids of pixels, as the flat arrays that grid kernels work on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ebmstruct.graph import Discrete, FactorGraph, GridFactor, TableFactor
from ebmstruct.graph.factors import uniform_states

Refusal = str

MOST_STATES = 64
"""A row of states is held in registers, and its minimum is found in one machine word."""

POTTS, LINEAR, WINDOW, DENSE = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class GridLayout:
    """A graph that is a grid: E(y) = constant + sum_i unary_i(y_i) + sum over neighbours of weight * V(y_i, y_j).

    unary: (n * K,) float32 where the graph has one float32 table and no evidence, else the float64 sum; infinite where
    a state is forbidden.  table: (K, K) float64.  right, down: (n,) float64 weights.  constant: (B,) float64.
    shapes: (B, 3) long, each instance's first site, height and width.
    allowed: (n, K) bool, the states that are left, or None for all. Pairs with a site that has one state left are added
    to the other site's energies, as in the table view, and their weight is 0: no message is sent there.
    """

    block: str
    num_states: int
    unary: np.ndarray
    table: np.ndarray
    right: np.ndarray
    down: np.ndarray
    constant: np.ndarray
    shapes: np.ndarray
    allowed: np.ndarray | None = None

    @property
    def num_sites(self) -> int:
        """n."""
        return self.right.size

    @cached_property
    def bands(self) -> np.ndarray:
        """(B, 5) one band of rows an instance: its shape, row 0 and its height."""
        heights = self.shapes[:, 1]
        return np.column_stack([self.shapes, np.zeros_like(heights), heights])

    def kept_messages(self) -> np.ndarray | None:
        """Which entries of both messages of all edges (edges * 2 * K) the table view has; None for all."""
        if self.allowed is None:
            return None
        instance = np.repeat(np.arange(self.shapes.shape[0]), self.shapes[:, 1] * self.shapes[:, 2])
        start, height, width = self.shapes[instance].T
        place = np.arange(self.num_sites) - start
        left, above = np.nonzero((place + 1) % width)[0], np.nonzero(place + width < height * width)[0]
        first = np.concatenate([left, above])
        second = np.concatenate([left + 1, above + width[above]])
        several = self.allowed.sum(1) > 1
        ends = np.stack([self.allowed[first], self.allowed[second]], 1)
        return (ends & (several[first] & several[second])[:, None, None]).reshape(-1)


def grid_layout(graph: FactorGraph) -> GridLayout | Refusal:
    """The grid that this graph is, or why it is none.

    A grid has one discrete block with 2 to 64 states, one GridFactor, and beside it tables over single sites only; each
    site has a state left. Cost: reading one float32 unary table without evidence, else adding up the tables.
    """
    if len(graph.variables) != 1:
        return f"it has {len(graph.variables)} blocks of variables, and a grid is one"
    (block,) = graph.variables.values()
    if not block.num_sites:
        return "it has no sites"
    states = uniform_states(block) if isinstance(block.domain, Discrete) else None
    if states is None or not 2 <= states <= MOST_STATES:
        return f"block {block.name!r} is {block.domain}, and a grid needs one number of states from 2 to {MOST_STATES}"
    grids = [f for f in graph.factors if isinstance(f, GridFactor)]
    unaries = [f for f in graph.factors if isinstance(f, TableFactor) and f.arity == 1]
    if len(grids) != 1 or len(unaries) + 1 != len(graph.factors):
        return f"it has {len(grids)} grid factors and {len(unaries)} unary tables among {len(graph.factors)} factors"
    (grid,) = grids
    widths = grid.widths.cpu().numpy()
    heights = block.lengths.cpu().numpy() // widths
    constant = torch.zeros(graph.num_instances, dtype=torch.float64)
    if graph.constant is not None:
        constant = constant + graph.constant.detach().cpu().double()
    layout = GridLayout(
        block=block.name,
        num_states=states,
        unary=_unary(graph, unaries, block.num_sites, states),
        table=_array(grid.table.double()),
        right=_array(grid.right.double()),
        down=_array(grid.down.double()),
        constant=constant.numpy(),
        shapes=np.column_stack([block.offsets[:-1].cpu().numpy(), heights, widths]),
    )
    return _restrict(layout, graph.allowed(block.name))


def _restrict(layout: GridLayout, given: torch.Tensor | None) -> GridLayout | Refusal:
    """The layout with forbidden states infinite, and what the sites with one state left decide moved to the others."""
    from ebmstruct.inference.kernels.grids.grid_labels_numba import absorb, any_infinite

    if given is None and not any_infinite(layout.unary):
        return layout
    unary = layout.unary.astype(np.float64).reshape(-1, layout.num_states)
    allowed = ~np.isposinf(unary)
    if given is not None:
        allowed &= given.cpu().numpy()
    kept = allowed.sum(1)
    if not kept.all():
        return f"site {int(np.argmin(kept))} has no state left"
    unary[~allowed] = np.inf
    only = np.where(kept == 1, allowed.argmax(1), -1)
    right, down, constant = layout.right.copy(), layout.down.copy(), layout.constant.copy()
    table = np.ascontiguousarray(layout.table)
    for b, (start, height, width) in enumerate(layout.shapes):
        constant[b] += absorb(start, height, width, only, right, down, table, unary)
    return replace(layout, unary=unary.reshape(-1), right=right, down=down, constant=constant, allowed=allowed)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _unary(graph: FactorGraph, factors: list[TableFactor], sites: int, states: int) -> np.ndarray:
    """(n * K,) the sum of the tables over single sites."""
    if len(factors) == 1:
        (only,) = factors
        if only.index is None and only.starts is None and only.tables.shape == (sites, states):
            wide = only.tables if only.tables.dtype == torch.float32 else only.tables.double()
            return _array(wide).reshape(-1)
    out = torch.zeros(sites, states, dtype=torch.float64)
    (name,) = graph.variables
    nowhere = [torch.zeros(sites, dtype=torch.long, device=graph.variables[name].offsets.device)]
    for factor in factors:
        out += factor.conditionals(name, nowhere, graph.scope(factor)).detach().cpu().double()
    return out.numpy().reshape(-1)


@dataclass(frozen=True, eq=False)
class TableKind:
    """How a grid kernel sends messages through a table V of P columns.

    kind: POTTS, LINEAR, WINDOW or DENSE.  scale: what strengths are, in weights.  reach, shape: the kernel's own.
    back: the shape for messages that go left and up.  rows, columns: (P * P) V / scale, a row for each state of the
    earlier or of the later site.
    """

    kind: int
    scale: float
    reach: int
    shape: np.ndarray
    back: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def table_kind(table: np.ndarray, padded: int, *, shortcuts: bool = True) -> TableKind:
    """The cheapest way of sending messages through ``table`` (K, K) that is right to float32 precision.

    POTTS needs one value on the diagonal and a larger one off it; LINEAR a slope of |l - k| up to a limit; WINDOW any
    function of |l - k| that stays at its largest value from a distance of less than K / 4 on, as a truncated quadratic
    does; DENSE takes any table. ``shortcuts=False`` gives DENSE: the others need weights that are not negative.
    """
    states = table.shape[0]
    far = table[0] - table[0, 0]
    distance = np.abs(np.subtract.outer(np.arange(states), np.arange(states)))
    top = float(far.max())
    close = 1e-6 * max(abs(top), 1e-30)
    if not shortcuts or top <= 0 or np.abs(table - table[0, 0] - far[distance]).max() > close or far.min() < 0:
        return _kind(DENSE, 1.0, states, None, table, padded)
    if np.abs(far[1:] - top).max() <= close:
        return _kind(POTTS, top, 0, np.zeros(1), table / top, padded)
    slope = float(far[1])
    if slope > 0 and np.abs(np.minimum(slope * np.arange(states), top) - far).max() <= close:
        steps = math.ceil(math.log2(min(math.ceil(top / slope), states)))
        return _kind(LINEAR, slope, steps, np.array([top / slope]), table / slope, padded)
    reach = int((np.abs(far - top) > close).nonzero()[0].max())
    if 4 * reach < states:
        return _kind(WINDOW, 1.0, reach, np.concatenate([[top], far]), table, padded)
    return _kind(DENSE, 1.0, states, None, table, padded)


def with_padding(table: np.ndarray, padded: int) -> np.ndarray:
    """(K + 1, P) the table (K, K) in padded rows, and a row of 0 that is large in the padding."""
    states = table.shape[0]
    out = np.zeros((states + 1, padded))
    out[:states, :states] = table
    out[states, states:] = 1e18
    return out


def _kind(kind: int, scale: float, reach: int, shape: np.ndarray | None, table: np.ndarray, padded: int) -> TableKind:
    states = table.shape[0]
    rows, columns = (np.zeros((padded, padded), np.float32) for _ in range(2))
    rows[:states, :states], columns[:states, :states] = table, table.T
    if shape is None:
        there, back = (with_padding(t, padded).astype(np.float32).reshape(-1) for t in (table, table.T))
    else:
        there = back = shape.astype(np.float32)
    return TableKind(kind, scale, reach, there, back, rows.reshape(-1), columns.reshape(-1))

"""Dual ascent over grids of pixels: float32 sweeps, bounds in float64, and the best parts of all labellings seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebmstruct.inference.views.grid_layout import DENSE, POTTS, GridLayout, TableKind, table_kind, with_padding

STEP_SITES = 200_000
"""Sites of a Potts grid that one step sweeps there and back, or as much other work: a few milliseconds."""

POLISH = 4
"""In every so many passes the decoded labelling's rows and columns are solved again."""


@dataclass(eq=False)
class GridAscent:
    """The state of TRW-S (Kolmogorov 2006) on a grid: messages, the best labelling, and what is proven of it.

    padded, messages, strength, gamma: see ``kernels.grid_messages_numba``; all else is per site (n,) or instance (B,).
    passes: how often all pixels were swept there and back.  cursor: the next group of bands in this pass.
    """

    layout: GridLayout
    kind: TableKind
    padded: np.ndarray
    exact: np.ndarray
    weights: np.ndarray
    strength: np.ndarray
    gamma: np.ndarray
    messages: np.ndarray
    checked: np.ndarray | None
    labels: np.ndarray
    trial: np.ndarray
    energy: np.ndarray
    bound: np.ndarray
    done: np.ndarray
    groups: list[tuple[bool, np.ndarray]]
    scratch: np.ndarray
    whole: bool
    tolerance: float
    max_iterations: int
    passes: int = 0
    cursor: int = 0
    checked_at: int = 0

    @property
    def token(self) -> tuple[int, ...]:
        """A zero for every eight states of a padded row."""
        return (0,) * (self.padded.size // max(self.layout.num_sites, 1) // 8)

    @property
    def values(self) -> dict[str, Tensor]:
        """The best labelling, a copy."""
        return {self.layout.block: torch.from_numpy(self.labels.copy())}

    @property
    def gave_up(self) -> np.ndarray:
        """(B,) whether an instance ended because its passes were used up."""
        return self.done & ~self.closed() & (self.passes >= self.max_iterations)

    def step(self) -> bool:
        """Sweep the next group of bands, and judge the pass after the last one; whether anything was judged."""
        from ebmstruct.inference.kernels.grids import grid_messages_numba as kernels

        kind, token = self.kind, self.token
        while self.cursor < len(self.groups):
            forth, bands = self.groups[self.cursor]
            if forth:
                kernels.forward(
                    bands, self.padded, self.messages, self.strength, self.gamma, kind.kind, kind.reach, kind.shape,
                    self.scratch, kind.rows, self.trial, True, token,
                )  # fmt: skip
            else:
                kernels.backward(
                    bands, self.padded, self.messages, self.strength, self.gamma, kind.kind, kind.reach, kind.back,
                    self.scratch, token,
                )  # fmt: skip
            self.cursor += 1
            if len(self.groups) > 2:
                break
        if self.cursor < len(self.groups):
            return False
        self._finish_pass()
        return True

    def _finish_pass(self) -> None:
        self.cursor = 0
        self.passes += 1
        self._take_best()
        if self.passes >= self.checked_at + max(2, self.checked_at // 5) or self.passes in (1, self.max_iterations):
            self._check()
        if self.passes >= self.max_iterations:
            self.done[:] = True

    def _take_best(self) -> None:
        """Take over every part of the newly decoded labelling that costs less than the best one's."""
        from ebmstruct.inference.kernels.grids import grid_labels_numba as kernels

        layout = self.layout
        if self.passes % POLISH == 0:
            self._solve_lines()
        seen, queue = np.zeros(layout.num_sites, np.uint8), np.empty(layout.num_sites, np.int64)
        table = layout.table.reshape(-1)
        for b in np.nonzero(~self.done)[0].tolist():
            start, height, width = layout.shapes[b]
            args = (start, height, width, layout.unary, layout.num_states, self.weights, table, self.labels)
            if kernels.merge(*args, self.trial, seen, queue) < 0:
                self.energy[b] = layout.constant[b] + kernels.energy(*args)

    def _solve_lines(self) -> None:
        """Relabel the rows of the decoded labelling for the least energy given all else, and then the columns."""
        from ebmstruct.inference.kernels.grids.grid_lines_numba import solve_lines

        kind, bands = self.kind, self.layout.bands[~self.done]
        memory = np.empty(8 * len(self.token) * int(bands[:, 1:3].max()), np.float32)
        for vertical in (False, True):
            solve_lines(
                bands, vertical, self.padded, self.strength, kind.kind, kind.reach, kind.shape, self.scratch,
                kind.rows, kind.columns, self.trial, memory, self.token,
            )  # fmt: skip

    def _check(self) -> None:
        """Compute the bounds of the messages, and end instances whose gap has closed or whose bound stands still."""
        for b in np.nonzero(~self.done)[0].tolist():
            bound = self._bound(b, self.messages, np.zeros(0), (0, 0))
            gain = bound - self.bound[b]
            self.bound[b] = max(bound, self.bound[b])
            hopeless = 1000 * gain < self.energy[b] - bound
            stalled = self.passes > 4 and hopeless and gain <= self.tolerance * max(1.0, abs(bound))
            self.done[b] = stalled or bool(self.closed()[b])
        self.checked_at = self.passes
        self._schedule()
        if len(self.groups) > 2:
            self.checked = self.messages.copy()

    def closed(self) -> np.ndarray:
        """(B,) whether the best labelling is proven least; whole energies are once the bound is within 1 of them."""
        gap = self.energy - self.bound
        return gap <= (1 - 1e-3 if self.whole else 1e-9 * np.maximum(1.0, np.abs(self.energy)))

    def _bound(self, instance: int, messages: np.ndarray, out: np.ndarray, rows: tuple[int, int]) -> float:
        from ebmstruct.inference.kernels.grids import grid_bound_numba as kernels

        layout, size = self.layout, 8 * len(self.token)
        off = layout.table[0, 1]
        potts = np.full_like(layout.table, off)
        np.fill_diagonal(potts, layout.table[0, 0])
        if self.kind.kind == POTTS and (potts == layout.table).all():
            kind, shape = POTTS, np.array([layout.table[0, 0], off - layout.table[0, 0]])
        else:
            kind, shape = DENSE, with_padding(layout.table, size)
        start, height, width = layout.shapes[instance]
        found = kernels.chain_bound(
            start, height, width, self.exact, messages, self.weights, self.gamma, kind, layout.num_states,
            shape.reshape(-1), layout.num_states, *rows, out, self.token,
        )  # fmt: skip
        return float(found + layout.constant[instance])

    def witness(self) -> tuple[Tensor, np.ndarray]:
        """Messages in the order of the table view's rows, and the (B,) bounds that they prove.

        Cut short in the middle of a pass, the messages are those of the last check.
        """
        layout = self.layout
        height, width = layout.shapes[:, 1], layout.shapes[:, 2]
        horizontal, vertical = height * np.maximum(width - 1, 0), np.maximum(height - 1, 0) * width
        out = np.zeros(2 * layout.num_states * int((horizontal + vertical).sum()))
        first = np.cumsum(horizontal) - horizontal
        second = horizontal.sum() + np.cumsum(vertical) - vertical
        messages = self.messages
        if self.cursor:
            messages = np.zeros_like(messages) if self.checked is None else self.checked
        bound = np.array([self._bound(b, messages, out, (first[b], second[b])) for b in range(height.size)])
        kept = layout.kept_messages()
        return torch.from_numpy(out if kept is None else out[kept]), bound

    def _schedule(self) -> None:
        """Cut the bands of the instances that are not done into groups for the steps of a pass."""
        bands = self.layout.bands[~self.done]
        per_site = 1 if self.kind.kind != DENSE else max(1, self.kind.reach * len(self.token) // 16)
        limit = max(1, STEP_SITES // per_site)
        few = int((bands[:, 1] * bands[:, 2]).sum()) <= limit
        parts = [bands] if few else _cut(bands, limit)
        self.groups = [(True, p) for p in parts] + [(False, p) for p in reversed(parts)]


def _cut(bands: np.ndarray, limit: int) -> list[np.ndarray]:
    """Groups of bands of at most ``limit`` sites, or of one row."""
    parts: list[np.ndarray] = []
    group: list[list[int]] = []
    left = limit
    for start, height, width, _, _ in bands.tolist():
        row = 0
        while row < height:
            if left < width and group:
                parts.append(np.array(group))
                group, left = [], limit
            rows = min(height - row, max(1, left // max(width, 1)))
            group.append([start, height, width, row, row + rows])
            left -= rows * width
            row += rows
    return [*parts, np.array(group)] if group else parts


def begin_grid(layout: GridLayout, init: np.ndarray | None, tolerance: float, max_iterations: int) -> GridAscent | None:
    """The state before the first pass; None where an energy is so large that padding is not."""
    from ebmstruct.inference.kernels.grids import grid_labels_numba as kernels

    sites, states = layout.num_sites, layout.num_states
    size = 8 * -(-states // 8)
    padded = np.empty(sites * size, np.float32)
    labels = np.zeros(sites, np.int64)
    finite, exact, whole = kernels.pad(layout.unary, states, size, padded, labels)
    spread = np.abs(layout.table).max() * max(np.abs(layout.right).max(initial=0), np.abs(layout.down).max(initial=0))
    if not finite or not spread < 1e12:
        return None
    wide = padded
    if not exact:
        wide = np.full((sites, size), 1e18)
        wide[:, :states] = np.where(np.isinf(layout.unary), 1e18, layout.unary).reshape(sites, states)
    weights, strength = np.empty(2 * sites), np.empty(2 * sites, np.float32)
    gamma = np.empty(sites, np.float32)
    used = layout.bands
    lowest = kernels.weigh(used, layout.right, layout.down, 1.0, weights, strength, gamma, True)
    kind = table_kind(layout.table, size, shortcuts=lowest >= 0)
    if kind.scale != 1.0:
        np.multiply(weights, kind.scale, out=strength, casting="same_kind")
    if init is not None:
        given = init.astype(np.int64).clip(0, states - 1)
        labels = np.where(np.isinf(layout.unary[np.arange(sites) * states + given]), labels, given)
    table = layout.table.reshape(-1)
    energy = layout.constant + [
        kernels.energy(*shape, layout.unary, states, weights, table, labels) for shape in layout.shapes
    ]
    whole = bool(whole and (np.floor(weights) == weights).all() and (np.floor(table) == table).all())
    state = GridAscent(
        layout=layout,
        kind=kind,
        padded=padded,
        exact=wide.reshape(-1),
        weights=weights,
        strength=strength,
        gamma=gamma,
        messages=np.zeros(2 * sites * size, np.float32),
        checked=None,
        labels=labels,
        trial=labels.copy(),
        energy=energy,
        bound=np.full(energy.size, -np.inf),
        done=layout.shapes[:, 1] == 0,
        groups=[],
        scratch=np.full(3 * size, 1e18, np.float32),
        whole=bool(whole and (np.floor(layout.constant) == layout.constant).all()),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    state.bound[state.done] = layout.constant[state.done]
    state._schedule()
    return state

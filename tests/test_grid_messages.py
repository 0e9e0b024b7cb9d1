"""The grid kernels against a slow twin in numpy: messages of every kind of table, decoding, bounds, lines, merging."""

from __future__ import annotations

import numpy as np
import pytest

from ebmstruct.inference.kernels.grids import grid_bound_numba as bounds
from ebmstruct.inference.kernels.grids import grid_labels_numba as labelling
from ebmstruct.inference.kernels.grids import grid_lines_numba as lines
from ebmstruct.inference.kernels.grids import grid_messages_numba as sweeps
from ebmstruct.inference.views.grid_layout import DENSE, LINEAR, POTTS, WINDOW, TableKind, table_kind, with_padding

HEIGHT, WIDTH = 5, 6


def table_of(kind: int, states: int, seed: int) -> np.ndarray:
    gaps = np.abs(np.subtract.outer(np.arange(states), np.arange(states))).astype(float)
    if kind == POTTS:
        return 0.25 + 0.75 * (gaps > 0)
    if kind == LINEAR:
        return np.minimum(0.4 * gaps, (1.0, 2.1, 100.0)[seed % 3])
    if kind == WINDOW:
        return np.minimum(0.2 * gaps**2, 0.7)
    return np.random.default_rng(seed).normal(size=(states, states))


class Grid:
    """One random grid in the kernels' layout."""

    def __init__(self, states: int, table: np.ndarray, seed: int, trees: bool = True, **options: bool) -> None:
        draw = np.random.default_rng(seed)
        self.states, self.table = states, table
        self.sites, self.size = HEIGHT * WIDTH, 8 * -(-states // 8)
        self.token = (0,) * (self.size // 8)
        self.unary = draw.random((self.sites, states)).astype(np.float32)
        self.padded = np.full((self.sites, self.size), 1e18, np.float32)
        self.padded[:, :states] = self.unary
        self.bands = np.array([[0, HEIGHT, WIDTH, 0, HEIGHT]])
        self.weights = np.empty(2 * self.sites)
        self.strength, self.gamma = np.empty(2 * self.sites, np.float32), np.empty(self.sites, np.float32)
        self.kind = table_kind(table, self.size, **options)
        right, down = draw.random((2, self.sites))
        labelling.weigh(self.bands, right, down, self.kind.scale, self.weights, self.strength, self.gamma, trees)
        self.messages = np.zeros(2 * self.sites * self.size, np.float32)
        self.labels = np.zeros(self.sites, np.int64)
        self.scratch = np.full(3 * self.size, 1e18, np.float32)

    def forward(self, bands: np.ndarray, decode: bool = True) -> None:
        kind = self.kind
        sweeps.forward(
            bands, self.padded.reshape(-1), self.messages, self.strength, self.gamma, kind.kind, kind.reach,
            kind.shape, self.scratch, kind.rows, self.labels, decode, self.token,
        )  # fmt: skip

    def backward(self, bands: np.ndarray) -> None:
        kind = self.kind
        sweeps.backward(
            bands, self.padded.reshape(-1), self.messages, self.strength, self.gamma, kind.kind, kind.reach,
            kind.back, self.scratch, self.token,
        )  # fmt: skip

    def real(self) -> np.ndarray:
        """(2, n, K) messages without padding, their minima 0."""
        found = self.messages.reshape(2, self.sites, self.size)[:, :, : self.states].astype(float)
        return found - found.min(2, keepdims=True)


class Twin:
    """The same sweeps, one state at a time, in float64."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.messages = np.zeros((2, grid.sites, grid.states))
        self.labels = np.zeros(grid.sites, np.int64)

    def edges(self, site: int) -> list[tuple[int, int, bool]]:
        """(direction, edge's first site, whether ``site`` is its earlier end) of the edges at a site."""
        i, j = divmod(site, WIDTH)
        out = []
        if j + 1 < WIDTH:
            out.append((0, site, True))
        if i + 1 < HEIGHT:
            out.append((1, site, True))
        if j > 0:
            out.append((0, site - 1, False))
        if i > 0:
            out.append((1, site - WIDTH, False))
        return out

    def sweep(self, forth: bool) -> None:
        grid = self.grid
        for site in range(grid.sites) if forth else range(grid.sites - 1, -1, -1):
            edges = self.edges(site)
            belief = grid.unary[site] + sum(self.messages[d, first] for d, first, _ in edges)
            if forth:
                self.decode(site, edges)
            for d, first, earlier in edges:
                if earlier != forth:
                    continue
                h = grid.gamma[site] * belief - self.messages[d, first]
                table = grid.table if forth else grid.table.T
                new = (h[:, None] + grid.weights[d * grid.sites + first] * table).min(0)
                self.messages[d, first] = new - new.min()

    def decode(self, site: int, edges: list[tuple[int, int, bool]]) -> None:
        score = self.grid.unary[site].astype(float)
        for d, first, earlier in edges:
            if earlier:
                score = score + self.messages[d, first]
            else:
                weight = self.grid.weights[d * self.grid.sites + first]
                score = score + weight * self.grid.table[self.labels[first]]
        self.labels[site] = score.argmin()


CASES = [(POTTS, 3), (POTTS, 16), (POTTS, 21), (LINEAR, 9), (LINEAR, 30), (WINDOW, 20), (DENSE, 2), (DENSE, 11)]


@pytest.mark.parametrize(("kind", "states"), CASES)
@pytest.mark.parametrize("trees", [True, False])
def test_sweeps(kind: int, states: int, trees: bool) -> None:
    """Messages and labels of two passes are those of the twin, for tree weights and for min-sum."""
    for seed in range(3):
        grid = Grid(states, table_of(kind, states, seed), seed, trees)
        assert grid.kind.kind == kind
        twin = Twin(grid)
        for _ in range(2):
            grid.forward(grid.bands)
            twin.sweep(True)
            assert np.abs(grid.real() - twin.messages).max() < 1e-4
            assert (grid.labels == twin.labels).all()
            grid.backward(grid.bands)
            twin.sweep(False)
            assert np.abs(grid.real() - twin.messages).max() < 1e-4


@pytest.mark.parametrize(("kind", "states"), [c for c in CASES if c[0] != DENSE])
def test_shortcuts_against_dense(kind: int, states: int) -> None:
    """Every shortcut sends what the dense kernel sends."""
    for seed in range(3):
        table = table_of(kind, states, seed)
        quick, dense = Grid(states, table, seed), Grid(states, table, seed, shortcuts=False)
        assert quick.kind.kind == kind and dense.kind.kind == DENSE
        for grid in (quick, dense):
            grid.forward(grid.bands)
            grid.backward(grid.bands)
            grid.forward(grid.bands)
        assert np.abs(quick.real() - dense.real()).max() < 1e-4


def test_bands_make_a_sweep() -> None:
    """Rows swept in several calls give exactly what one call gives."""
    table = table_of(POTTS, 5, 0)
    whole, cut = Grid(5, table, 0), Grid(5, table, 0)
    parts = [np.array([[0, HEIGHT, WIDTH, a, b]]) for a, b in ((0, 2), (2, 3), (3, HEIGHT))]
    whole.forward(whole.bands)
    whole.backward(whole.bands)
    for part in parts:
        cut.forward(part)
    for part in reversed(parts):
        cut.backward(part)
    assert np.array_equal(whole.messages, cut.messages) and np.array_equal(whole.labels, cut.labels)


def brute_bound(grid: Grid, witness: np.ndarray) -> float:
    """The sum of all minima after moving the messages, edge by edge."""
    sites = grid.unary.astype(float)
    total, row = 0.0, 0
    for d, step in ((0, 1), (1, WIDTH)):
        for site in range(grid.sites):
            if (site % WIDTH + 1 == WIDTH) if d == 0 else (site + WIDTH >= grid.sites):
                continue
            earlier, later = witness[row]
            row += 1
            sites[site] += earlier
            sites[site + step] += later
            edge = grid.weights[d * grid.sites + site] * grid.table - earlier[:, None] - later
            total += float(edge.min())
    return total + float(sites.min(1).sum())


@pytest.mark.parametrize(("kind", "states"), CASES)
def test_bound(kind: int, states: int) -> None:
    """The float64 bound is what the messages laid out prove, whatever the float32 messages are, and it grows."""
    grid = Grid(states, table_of(kind, states, 1), 1)
    edges = HEIGHT * (WIDTH - 1) + (HEIGHT - 1) * WIDTH
    last = -np.inf
    for step in range(4):
        if step == 3:
            noise = np.random.default_rng(0).random((2, HEIGHT, WIDTH, grid.size), dtype=np.float32)
            noise[0, :, -1], noise[1, -1] = 0, 0  # no edge
            grid.messages += noise.reshape(-1)
        out = np.empty(2 * states * edges)
        off = grid.table[0, 1]
        if kind == POTTS:
            how, shape = bounds.POTTS, np.array([grid.table[0, 0], off - grid.table[0, 0]])
        else:
            how, shape = DENSE, with_padding(grid.table, grid.size).reshape(-1)
        found = bounds.chain_bound(
            0, HEIGHT, WIDTH, grid.padded.reshape(-1), grid.messages, grid.weights, grid.gamma, how, states, shape,
            states, 0, HEIGHT * (WIDTH - 1), out, grid.token,
        )  # fmt: skip
        assert found == pytest.approx(brute_bound(grid, out.reshape(edges, 2, states)), abs=1e-9)
        assert step == 3 or found >= last - 1e-4
        last = found
        grid.forward(grid.bands)
        grid.backward(grid.bands)


def energy(grid: Grid, labels: np.ndarray) -> float:
    return float(
        labelling.energy(
            0, HEIGHT, WIDTH, grid.unary.reshape(-1), grid.states, grid.weights, grid.table.reshape(-1), labels
        )
    )


@pytest.mark.parametrize(("kind", "states"), CASES)
def test_lines(kind: int, states: int) -> None:
    """Solving lines never raises the energy, and a grid of one row is solved exactly in one go."""
    grid = Grid(states, table_of(kind, states, 2), 2)
    labels = np.random.default_rng(0).integers(0, states, grid.sites)
    memory = np.empty(grid.size * max(HEIGHT, WIDTH) * HEIGHT, np.float32)
    for vertical in (False, True, False):
        before = energy(grid, labels)
        _solve(grid, grid.kind, grid.bands, vertical, labels, memory)
        assert energy(grid, labels) <= before + 1e-5
    row = np.array([[0, 1, WIDTH, 0, 1]])
    _solve(grid, grid.kind, row, False, labels, memory)
    past = grid.unary[0].astype(float)
    for site in range(1, WIDTH):
        past = (past[:, None] + grid.weights[site - 1] * grid.table).min(0) + grid.unary[site]
    chain = sum(float(grid.unary[s, labels[s]]) for s in range(WIDTH))
    chain += sum(grid.weights[s] * grid.table[labels[s], labels[s + 1]] for s in range(WIDTH - 1))
    assert chain == pytest.approx(past.min(), abs=1e-5)


def _solve(
    grid: Grid, kind: TableKind, bands: np.ndarray, vertical: bool, labels: np.ndarray, memory: np.ndarray
) -> None:
    lines.solve_lines(
        bands, vertical, grid.padded.reshape(-1), grid.strength, kind.kind, kind.reach, kind.shape, grid.scratch,
        kind.rows, kind.columns, labels, memory, grid.token,
    )  # fmt: skip


def test_merge() -> None:
    """The parts taken over are those that pay: no single connected difference left would lower the energy."""
    for seed in range(20):
        grid = Grid(3, table_of(POTTS, 3, seed), seed)
        draw = np.random.default_rng(seed)
        best, trial = draw.integers(0, 3, (2, grid.sites))
        before = min(energy(grid, best), energy(grid, trial))
        start = energy(grid, best)
        seen, queue = np.zeros(grid.sites, np.uint8), np.empty(grid.sites, np.int64)
        args = (0, HEIGHT, WIDTH, grid.unary.reshape(-1), 3, grid.weights, grid.table.reshape(-1), best, trial)
        change = labelling.merge(*args, seen, queue)
        assert energy(grid, best) == pytest.approx(start + change, abs=1e-9)
        assert energy(grid, best) <= before + 1e-9
        assert np.array_equal(best, trial) and not seen.any()


def test_padding() -> None:
    """Padding copies, finds the cheapest states, and says what it saw."""
    rows = np.array([[0.0, 2.0, -1.0], [5.0, 5.0, 7.0]])
    padded, labels = np.empty(16, np.float32), np.zeros(2, np.int64)
    assert labelling.pad(rows.reshape(-1), 3, 8, padded, labels) == (True, True, True)
    assert labels.tolist() == [2, 0]
    assert padded.reshape(2, 8)[:, :3].tolist() == rows.tolist() and (padded.reshape(2, 8)[:, 3:] > 1e17).all()
    rows[0, 0] = 0.1
    assert labelling.pad(rows.reshape(-1), 3, 8, padded, labels) == (True, False, False)
    rows[0] = np.inf, 2.0, 3.0
    assert labelling.pad(rows.reshape(-1), 3, 8, padded, labels) == (True, True, True)
    assert labels.tolist() == [1, 0] and padded[0] > 1e17
    rows[0, 1] = -np.inf
    assert not labelling.pad(rows.reshape(-1), 3, 8, padded, labels)[0]


def test_absorb() -> None:
    """Pairs with a settled pixel move to its neighbour, energies as before."""
    grid = Grid(3, table_of(DENSE, 3, 0), 0)
    only = np.full(grid.sites, -1)
    only[[0, 1, 8, 21]] = 2, 0, 1, 1
    labels = np.where(only >= 0, only, np.random.default_rng(0).integers(0, 3, grid.sites))
    before = energy(grid, labels)
    right, down = grid.weights.reshape(2, -1).copy()
    unary = grid.unary.astype(float)
    left = labelling.absorb(0, HEIGHT, WIDTH, only, right, down, grid.table, unary)
    grid.unary, grid.weights = unary, np.concatenate([right, down])
    assert energy(grid, labels) + left == pytest.approx(before, abs=1e-9)
    assert right[[0, 1, 7, 8, 20, 21]].tolist() == [0.0] * 6 and right[2] != 0

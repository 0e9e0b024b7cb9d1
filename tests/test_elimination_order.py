"""Orders of elimination: valid, as small as they must be, found quickly, and given up on quickly."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from ebmstruct.inference.elimination_order import Elimination, adjacency_of, elimination_order, words
from ebmstruct.inference.views.table_view import TableView, table_view
from ebmstruct.testing import random_forest, random_graph, random_grid


def found(view: TableView, limit: float = 27.0) -> Elimination:
    order = elimination_order(view.num_states, view.row_ptr, view.row_sites, limit=limit)
    assert isinstance(order, Elimination), order
    return order


def check(view: TableView, order: Elimination) -> None:
    """Eliminating on sets of neighbours gives the same scopes, sizes and parents."""
    n = view.num_sites
    assert sorted(order.order.tolist()) == list(range(n))
    position = {site: i for i, site in enumerate(order.order.tolist())}
    near: list[set[int]] = [set() for _ in range(n)]
    for row in range(view.num_rows):
        for a, b in itertools.permutations(view.row_sites[view.row_ptr[row] : view.row_ptr[row + 1]].tolist(), 2):
            near[position[a]].add(position[b])
    for i in range(n):
        later = sorted((p for p in near[i] if p > i), reverse=True)
        assert order.sep[order.sep_ptr[i] : order.sep_ptr[i + 1]].tolist() == later
        assert order.parent[i] == (later[-1] if later else -1)
        size = np.log2(view.num_states[order.order[[i, *later]]]).sum()
        assert order.log_size[i] == pytest.approx(size)
        for a, b in itertools.permutations(later, 2):
            near[a].add(b)


@pytest.mark.parametrize("seed", range(8))
def test_scopes_of_random_graphs(seed: int) -> None:
    """Scopes are those of elimination by hand, and each subtree is contiguous and ends with its root."""
    generator = torch.Generator().manual_seed(seed)
    view = table_view(random_graph([9, 0, 12, 1], 3, generator, rows=4))
    order = found(view)
    check(view, order)
    size = np.ones(view.num_sites, np.int64)
    for i, above in enumerate(order.parent.tolist()):
        if above >= 0:
            size[above] += size[i]
    children = [np.nonzero(order.parent == i)[0] for i in range(view.num_sites)]
    for i, below in enumerate(children):
        starts = sorted((int(c) - int(size[c]) + 1 for c in below), reverse=True)
        ends = sorted((int(c) for c in below), reverse=True)
        expected = i - 1
        for start, end in zip(starts, ends, strict=True):
            assert end == expected
            expected = start - 1


def test_forests_have_width_one() -> None:
    """No table of a forest is larger than that of a pair."""
    view = table_view(random_forest([30, 20], 4, torch.Generator().manual_seed(0)))
    order = found(view)
    assert order.width <= 1
    check(view, order)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (9, 5), (12, 12)])
def test_grids_have_the_width_of_their_shorter_side(height: int, width: int) -> None:
    """The order of a grid is no wider than its shorter side; by one, where its tables are too small to matter."""
    view = table_view(random_grid([(height, width)], 2, torch.Generator().manual_seed(0)))
    assert found(view).width <= min(height, width) + (height < 12)


def test_large_grid() -> None:
    """On the 20 x 20 grid, where minimum fill finds 29, a sweep finds 20, within a tenth of a second once compiled."""
    view = table_view(random_grid([(20, 20)], 2, torch.Generator().manual_seed(0)))
    found(view)
    begin = time.process_time()
    order = found(view)
    assert time.process_time() - begin < 0.3
    assert order.width == 20 and order.log2_largest == 21.0
    assert order.operations < 2e8


def test_giving_up() -> None:
    """A grid of 40,000 sites gets a plain answer within a second or two."""
    view = table_view(random_grid([(200, 200)], 2, torch.Generator().manual_seed(0)))
    begin = time.process_time()
    answer = elimination_order(view.num_states, view.row_ptr, view.row_sites)
    assert isinstance(answer, str) and words(answer) == answer
    assert time.process_time() - begin < 5.0


def test_a_long_ladder() -> None:
    """A ladder of 40,000 sites has width 2, and is ordered in time that grows with its length."""
    view = table_view(random_grid([(20_000, 2)], 2, torch.Generator().manual_seed(0)))
    order = found(view)
    assert order.width == 2
    assert "width 2" in words(order)


def test_limit_and_repeats() -> None:
    """Over the limit the answer is a sentence; the same call gives the same order."""
    view = table_view(random_grid([(8, 8)], 2, torch.Generator().manual_seed(0)))
    answer = elimination_order(view.num_states, view.row_ptr, view.row_sites, limit=5.0)
    assert isinstance(answer, str) and "2^" in answer
    assert (found(view).order == found(view).order).all()


def test_empty() -> None:
    """No sites, no order; sites without rows are each on their own."""
    empty = np.zeros(0, np.int64)
    order = elimination_order(empty, np.zeros(1, np.int64), empty)
    assert isinstance(order, Elimination) and order.width == 0 and order.operations == 0.0
    order = elimination_order(np.array([3, 2]), np.zeros(1, np.int64), empty)
    assert isinstance(order, Elimination) and order.operations == 5.0 and (order.parent == -1).all()


def test_adjacency() -> None:
    """Rows that share pairs count once."""
    ptr, near = adjacency_of(4, np.array([0, 3, 5]), np.array([0, 1, 2, 1, 0]))
    assert ptr.tolist() == [0, 2, 4, 6, 6]
    assert sorted(near[:2].tolist()) == [1, 2]

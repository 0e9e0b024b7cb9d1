"""Move making: no move is left that helps, no energy is below the least one, and moves are what they claim to be."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ebmstruct.errors import GraphError
from ebmstruct.graph import (
    Assignment,
    Discrete,
    FactorGraph,
    GridFactor,
    TableFactor,
    Variables,
    potts_table,
    union,
)
from ebmstruct.inference.engine import minimize
from ebmstruct.inference.result import Ask, Budget, Query, Status
from ebmstruct.inference.solvers.move_making import AlphaExpansion
from ebmstruct.testing import oracle, random_chain, random_graph, random_grid

DATA = os.environ.get("EBMSTRUCT_DATA")
KINDS = (AlphaExpansion(), AlphaExpansion(moves="swap"))


def best_move(graph: FactorGraph, y: torch.Tensor, kind: str, states: int) -> float:
    """The least energy that one expansion or swap from ``y`` reaches, by listing all of them."""
    least = float(graph.energy({"y": y}))
    moves = [(k,) for k in range(states)] if kind == "expansion" else list(itertools.combinations(range(states), 2))
    for move in moves:
        sites = [i for i in range(y.numel()) if len(move) == 1 or int(y[i]) in move]
        choices = [(int(y[i]), move[0]) if len(move) == 1 else move for i in sites]
        for chosen in itertools.product(*choices):
            trial = y.clone()
            trial[sites] = torch.tensor(chosen, dtype=torch.long)
            least = min(least, float(graph.energy({"y": trial})))
    return least


def as_pairs(graph: FactorGraph) -> FactorGraph:
    """The same grid with its pairs written out."""
    (block,) = graph.variables.values()
    grid = next(f for f in graph.factors if isinstance(f, GridFactor))
    index, weights = grid.pairs(block)
    rest = [f for f in graph.factors if f is not grid]
    return FactorGraph(
        [block], [*rest, TableFactor(("y", "y"), "pairs", weights[:, None, None] * grid.table, index=index)]
    )


@pytest.mark.parametrize("solver", KINDS, ids=lambda s: s.moves)
@pytest.mark.parametrize("integers", [True, False])
def test_no_move_is_left(solver: AlphaExpansion, integers: bool) -> None:
    """On a Potts grid, as a grid and as pairs, no expansion (or swap) lowers the energy further."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        graph = random_grid([(2, 3)], 3, generator, integers=integers)
        for form in (graph, as_pairs(graph)):
            result = minimize(form, solver)
            reached = best_move(graph, result.assignment["y"], solver.moves, 3)
            assert reached == pytest.approx(float(result.energy), abs=1e-9)
            assert result.statuses == [Status.CONVERGED]
            assert float(result.energy) >= oracle(graph)[0].minimum - 1e-9


@pytest.mark.parametrize("solver", KINDS, ids=lambda s: s.moves)
@pytest.mark.parametrize("seed", range(8))
def test_any_pairs(solver: AlphaExpansion, seed: int) -> None:
    """Mixed state counts, tables of any kind, hard constraints: never below the least energy, never above the start."""
    generator = torch.Generator().manual_seed(seed)
    graph = random_graph([5, 0, 1, 4], 4, generator, arities=(2,), forbid=(0.0, 0.1)[seed % 2], blocks=1 + seed % 2)
    start = Assignment({n: torch.zeros(v.num_sites, dtype=torch.long) for n, v in graph.variables.items()})
    result = minimize(graph, solver, init=start)
    for found, before, after in zip(oracle(graph), graph.energy(start).tolist(), result.energy.tolist(), strict=True):
        assert found.minimum - 1e-9 <= after
        assert after <= before + 1e-9


def test_hard_constraints_are_mended() -> None:
    """From a start that breaks constraints the moves lead to one that breaks none, on a chain of equal neighbours."""
    block = Variables.of_lengths("y", Discrete(3), [6])
    table = torch.full((3, 3), torch.inf, dtype=torch.float64).fill_diagonal_(0.0)
    index = torch.stack([torch.arange(5), torch.arange(1, 6)])
    unary = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = FactorGraph([block], [TableFactor(("y",), "u", unary), TableFactor(("y", "y"), "same", table, index=index)])
    result = minimize(graph, AlphaExpansion())
    assert float(result.energy) == pytest.approx(float(unary.sum(0).min()))


def test_grid_with_uneven_table() -> None:
    """A table that is no metric: the energy never rises, for expansions and swaps."""
    generator = torch.Generator().manual_seed(5)
    graph = random_grid([(4, 4), (2, 3)], 3, generator)
    grid = graph.factors[1]
    graph = graph.with_values(
        {"grid": [torch.randn(3, 3, dtype=torch.float64, generator=generator), grid.right, grid.down]}
    )
    start = Assignment({"y": torch.zeros(22, dtype=torch.long)})
    for solver in KINDS:
        result = minimize(graph, solver, init=start)
        assert (result.energy <= graph.energy(start) + 1e-9).all()
        torch.testing.assert_close(
            solver.solve(graph, Query(), init=start).energy, result.energy, rtol=1e-12, atol=1e-12
        )


def test_batch_equals_loop() -> None:
    """Grids side by side, and graphs of pairs side by side, end as each does alone."""
    generator = torch.Generator().manual_seed(1)
    grids = [random_grid([shape], 4, generator, integers=True) for shape in ((4, 5), (3, 3), (1, 6))]
    for parts in (grids, [as_pairs(g) for g in grids]):
        joint = minimize(union(parts), AlphaExpansion())
        alone = torch.cat([minimize(g, AlphaExpansion()).energy for g in parts])
        torch.testing.assert_close(joint.energy, alone, rtol=1e-12, atol=0)


def test_binary_is_exact() -> None:
    """With two states one expansion from state 0 is a least cut, so that the answer is least."""
    graph = random_grid([(3, 4)], 2, torch.Generator().manual_seed(2))
    assert float(minimize(graph, AlphaExpansion()).energy) == pytest.approx(oracle(graph)[0].minimum)


def test_evidence_and_empty() -> None:
    """Clamped sites stay, an infeasible instance is told, and instances without sites are no trouble."""
    generator = torch.Generator().manual_seed(4)
    graph = random_grid([(3, 3), (2, 2)], 3, generator)
    known = torch.arange(13) < 4
    clamped = graph.condition(Assignment({"y": torch.ones(13, dtype=torch.long)}, {"y": known}))
    assert (minimize(clamped, AlphaExpansion()).assignment["y"][:4] == 1).all()
    allowed = torch.ones(13, 3, dtype=torch.bool)
    allowed[0] = False
    result = minimize(graph.condition(Assignment({}, allowed={"y": allowed})), AlphaExpansion())
    assert result.statuses == [Status.INFEASIBLE, Status.CONVERGED]
    chain = random_chain([0, 3, 0], 3, generator)
    assert minimize(chain, AlphaExpansion()).energy.shape == (3,)


def test_budget_and_refusals() -> None:
    """Steps and rounds are limited where asked, and what a move cannot do is refused."""
    generator = torch.Generator().manual_seed(0)
    graph = random_grid([(60, 60)], 5, generator)
    stopped = minimize(graph, AlphaExpansion(), budget=Budget(max_steps=2))
    assert stopped.statuses == [Status.MAX_STEPS]
    assert float(minimize(graph, AlphaExpansion(max_rounds=1)).energy) <= float(stopped.energy)
    for query in (Query(Ask.SAMPLE), Query(k=2), Query(sum_out=("y",))):
        assert AlphaExpansion().refuse(graph, query) is not None
    three = random_graph([6], 3, generator, arities=(3,), rows=9)
    assert "a move pays for pairs only" in str(AlphaExpansion().refuse(three, Query()))
    with pytest.raises(GraphError, match="moves 'shift'"):
        AlphaExpansion(moves="shift")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["col8_coffee_128", "stereo16_motorcycle_125"])
def test_real_grids(name: str) -> None:
    """Grids from photographs: within 0.5 % of the best known energy."""
    if DATA is None:
        pytest.skip("the stored grids are found through EBMSTRUCT_DATA, which is not set")
    stored = np.load(Path(DATA) / "vision/mrf" / f"{name}.npz")
    height, width, states = stored["unary"].shape
    right, down = np.zeros((2, height, width), np.float32)
    right[:, :-1], down[:-1] = stored["wh"], stored["wv"]
    block = Variables.of_lengths("y", Discrete(states), [height * width])
    flat = torch.from_numpy(right.ravel()), torch.from_numpy(down.ravel())
    unary = torch.from_numpy(stored["unary"].reshape(-1, states).astype(np.float32))
    grid = GridFactor(("y",), "grid", potts_table(states), *flat, torch.tensor([width]))
    result = minimize(FactorGraph([block], [TableFactor(("y",), "unary", unary), grid]), AlphaExpansion())
    assert float(result.energy) <= 1.005 * float(stored["energy"])

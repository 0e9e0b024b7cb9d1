"""NaN and minus infinity in tables: their instances end NONFINITE, and no other instance is harmed."""

from __future__ import annotations

import pytest
import torch

import ebmstruct as es
from ebmstruct.testing import oracle, random_graph, random_grid


@pytest.mark.parametrize("entry", [torch.nan, -torch.inf])
@pytest.mark.parametrize("states", [2, 3])
def test_one_bad_instance_of_three(entry: float, states: int) -> None:
    """The second of three rings has a bad entry: minimum, marginals and samples of the others are right."""
    ring = torch.arange(9).reshape(3, 3)
    index = torch.stack([ring, ring.roll(-1, 1)]).reshape(2, -1)
    tables = torch.rand(9, states, states, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block = es.Variables.of_lengths("y", es.Discrete(states), [3, 3, 3])
    whole = es.FactorGraph([block], [es.TableFactor(("y", "y"), "pairs", tables, index=index)])
    bad = tables.clone()
    bad[4, 0, 1] = entry
    graph = whole.with_values({"pairs": bad})
    truth = oracle(whole)
    found = es.minimize(graph)
    assert [s.name for s in found.statuses] == ["OPTIMAL", "NONFINITE", "OPTIMAL"]
    for b in (0, 2):
        assert abs(float(found.energy[b]) - truth[b].minimum) < 1e-9
    sums = es.marginals(graph)
    assert [s.name for s in sums.statuses] == ["OPTIMAL", "NONFINITE", "OPTIMAL"]
    assert abs(float(sums.log_partition[2]) - truth[2].log_partition()) < 1e-9 and sums.log_partition[1].isnan()
    drawn = es.sample(graph, num_samples=2)
    assert drawn.statuses[1].name == "NONFINITE" and drawn.energy[:, [0, 2]].isfinite().all()


def test_every_layout() -> None:
    """Flat, dense, shared and grid tables: a bad entry is found wherever it lies."""
    generator = torch.Generator().manual_seed(1)
    flat = random_graph([4, 4], 2, generator, arities=(2, 3))
    values = {f.label: torch.where(torch.arange(f.tables.numel()) == 0, torch.nan, f.tables) for f in flat.factors}
    assert "NONFINITE" in {s.name for s in es.minimize(flat.with_values(values), es.DualAscent()).statuses}
    grid = random_grid([(2, 2), (2, 3)], 2, generator)
    unary = grid.factors[0].tables.clone()
    unary[5, 1] = -torch.inf
    found = es.minimize(grid.with_values({"unary": unary}))
    assert [s.name for s in found.statuses] == ["OPTIMAL", "NONFINITE"]


def test_a_solver_is_an_object() -> None:
    """A name or a class in place of a solver is told in a sentence with what is legal."""
    grid = random_grid([(2, 2)], 2, torch.Generator())
    for wrong in ("icm", es.ICM):
        with pytest.raises(es.GraphError, match=r"a solver is an object such as .*ICM\(\)"):
            es.minimize(grid, wrong)


def test_no_exact_log_partition() -> None:
    """Where only an interval can be had, the refusal of the differentiable log partition names what gives it."""
    wide = random_grid([(40, 40)], 3, torch.Generator().manual_seed(0))
    with pytest.raises(es.SolverRefusal, match="bound_log_partition gives an interval"):
        es.log_partition(wide)
    found = es.bound_log_partition(wide, budget=es.Budget.after(2.0))
    lower, upper = found.stats["log_partition_lower"], found.stats["log_partition_upper"]
    assert not found.exact and bool((lower <= upper).all()) and bool(upper.isfinite().all())

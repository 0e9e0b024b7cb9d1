"""Compiled steps: the same chains as without, other weights seen, and a word where an energy cannot be compiled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ebmstruct as es

SOLVERS: list[tuple[type[Any], dict[str, Any]]] = [
    (es.Langevin, {"step_size": 0.05}),
    (es.MALA, {"step_size": 0.05}),
    (es.HMC, {"step_size": 0.2, "leapfrog_steps": 5}),
    (es.HMC, {"step_size": 0.2, "leapfrog_steps": 5, "inverse_mass": {"x": torch.tensor([0.5, 1.0, 2.0])}}),
    (es.NUTS, {"warm_up": 20}),
]


def bowl(weight: Tensor) -> es.FactorGraph:
    """Four instances of a bowl in three dimensions whose curvature is an input."""

    def energy(x: Tensor, w: Tensor, offsets: Any) -> Tensor:
        return 0.5 * (w * x * x).sum(1) + 0.1 * x.sin().sum(1)

    block = es.Variables.of_lengths("x", es.Real(3), [1] * 4)
    return es.FactorGraph([block], [es.BlockFactor(("x",), "bowl", energy, (weight.expand(4, 3).clone(),))])


def drawn(graph: es.FactorGraph, cls: type[Any], options: dict[str, Any], compiled: bool) -> Tensor:
    kept = {} if cls is es.NUTS else {"burn_in": 0, "thinning": 1}
    solver = cls(**options, **kept, chains=1, compiled=compiled)
    start = torch.linspace(-1, 1, 12).reshape(4, 3)
    found = es.sample(
        graph,
        solver,
        num_samples=20,
        init=es.Assignment({"x": start}),
        generator=torch.Generator().manual_seed(0),
    )
    return found.values["x"]


@pytest.mark.slow
@pytest.mark.parametrize("cls,options", SOLVERS, ids=lambda x: getattr(x, "name", ""))
def test_compiled_chains(
    cls: type[Any], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draws are those of the chain that is not compiled, up to rounding; what was compiled is kept on disk."""
    monkeypatch.setenv("EBMSTRUCT_CACHE", str(tmp_path))
    weight = torch.tensor([1.0, 2.0, 4.0])
    for scale in (1.0, 3.0):  # other weights, the same program
        graph = bowl(scale * weight)
        torch.testing.assert_close(
            drawn(graph, cls, options, True), drawn(graph, cls, options, False), atol=1e-4, rtol=1e-4
        )
    assert len(list((tmp_path / "compiled").glob("*.pt2"))) == 1


@pytest.mark.parametrize("cls,options", SOLVERS[:3], ids=lambda x: getattr(x, "name", ""))
def test_what_cannot_be_compiled(
    cls: type[Any],
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An energy that branches on its numbers is run as it is, with a word in the log and nothing left on disk."""
    monkeypatch.setenv("EBMSTRUCT_CACHE", str(tmp_path))

    def energy(x: Tensor, offsets: Any) -> Tensor:
        return (x * x).sum(1) if float(x.detach().sum()) > -1e9 else x.sum(1)

    block = es.Variables.of_lengths("x", es.Real(3), [1] * 4)
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "branches", energy)])
    with caplog.at_level(logging.WARNING, "ebmstruct"):
        assert torch.equal(drawn(graph, cls, options, True), drawn(graph, cls, options, False))
    assert "not compiled, and run as it is" in caplog.text
    assert not list(tmp_path.rglob("*.pt2"))


def test_bounds_are_not_compiled() -> None:
    """Where there are walls or manifolds the option changes nothing; clipping and compiling exclude each other."""
    block = es.Variables.of_lengths("x", es.Real(1, lower=0.0), [1])
    graph = es.FactorGraph([block], [es.BlockFactor(("x",), "half", lambda x, o: 0.5 * (x * x).sum(1))])
    draws = [
        es.sample(graph, es.Langevin(compiled=c), num_samples=5, generator=torch.Generator().manual_seed(0)).values["x"]
        for c in (True, False)
    ]
    assert torch.equal(*draws)
    with pytest.raises(es.SolverRefusal, match="not clipped"):
        es.sample(graph, es.Langevin(compiled=True, clip_step=1.0), num_samples=5)

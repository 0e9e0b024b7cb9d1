"""Random graphs against enumeration: every solver refuses in a sentence or obeys energy >= optimum >= bound."""

from __future__ import annotations

import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph, TableFactor, union
from ebmstruct.inference import Ask, Budget, Marginals, Query, Result, Samples, Solver, Status, engine, witness_bound
from ebmstruct.inference.solvers import SOLVERS
from ebmstruct.testing import (
    Oracle,
    oracle,
    random_chain,
    random_forest,
    random_graph,
    random_grid,
    random_segments,
    sites_of,
)

OUTSIDE = ("toulbar2", "cp_sat")
"""Solvers that start a process for every graph: they see fewer graphs."""
NAMES = [name for name in SOLVERS if name not in OUTSIDE]


@st.composite
def graphs(draw: st.DrawFn) -> FactorGraph:
    """Chains, forests, grids and graphs with cycles; mixed states, infinite entries, ties, evidence, empty instances."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    kind = draw(st.sampled_from(["graph", "graph", "graph", "binary", "grid", "forest", "chain", "segments"]))
    forbid = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5]))
    sizes = draw(st.lists(st.integers(0, 5), min_size=0 if kind == "graph" else 1, max_size=3))
    states = draw(st.integers(1, 3))
    if kind == "chain":
        graph = random_chain(sizes, states, generator, forbid=forbid)
    elif kind == "segments":
        labels, longest = min(states, 2), draw(st.integers(1, 3))
        options = {"forbid": forbid, "whole": draw(st.booleans()), "single": draw(st.booleans())}
        graph = random_segments([min(s, 4) for s in sizes], labels, longest, generator, **options)
    elif kind == "forest":
        graph = random_forest(sizes, states, generator, forbid=forbid)
    elif kind == "grid":
        graph = random_grid([(min(s, 3), 2) for s in sizes], states, generator, integers=draw(st.booleans()))
    elif kind == "binary":
        graph = random_graph(sizes, 2, generator, arities=(2,), forbid=forbid)
    else:
        graph = random_graph(sizes, states, generator, forbid=forbid, rows=3, blocks=draw(st.integers(1, 2)))
    if draw(st.booleans()) and kind != "grid":
        graph = graph.with_values({f.label: f.tables.round() for f in graph.factors if isinstance(f, TableFactor)})
    if draw(st.booleans()) and graph.variables:
        name, block = next(iter(graph.variables.items()))
        known = torch.rand(block.num_sites, generator=generator) < 0.3
        value = (torch.rand(block.num_sites, generator=generator) * block.state_counts).long()
        graph = graph.condition(Assignment({name: value}, {name: known}))
    return graph


def least(found: list[Oracle]) -> Tensor:
    return torch.tensor([o.minimum for o in found], dtype=torch.float64)


def check_result(graph: FactorGraph, result: Result, optimum: Tensor) -> None:
    """energy >= optimum >= bound; OPTIMAL means equal; INFEASIBLE means that nothing is finite; witnesses hold."""
    slack = 1e-6 * optimum.abs().clamp(min=1.0, max=1e30)
    infinite = torch.isposinf(optimum)
    assert not result.energy.isnan().any() and not result.lower_bound.isnan().any() and not result.gap.isnan().any()
    assert ((result.energy >= optimum - slack) | infinite).all()
    assert (result.energy[infinite] == torch.inf).all()
    assert (result.lower_bound <= optimum + slack)[~infinite].all()
    optimal = result.status == int(Status.OPTIMAL)
    assert (result.energy <= optimum + 2 * slack)[optimal].all()
    assert infinite[result.status == int(Status.INFEASIBLE)].all()
    if graph.num_instances:
        torch.testing.assert_close(graph.energy(result.assignment), result.energy)
    assert (witness_bound(graph, result.witness) <= optimum + slack)[~infinite].all()


def check_marginals(graph: FactorGraph, found: Marginals, truth: list[Oracle]) -> None:
    """Exact ones are those of the enumeration; others are probabilities, and intervals hold the log partition."""
    log_z = torch.tensor([o.log_partition() for o in truth], dtype=torch.float64)
    assert not found.log_partition.isnan().any()
    if found.exact:
        torch.testing.assert_close(found.log_partition, log_z, atol=1e-10, rtol=1e-10)
    for side, sign in (("log_partition_lower", 1), ("log_partition_upper", -1)):
        if side in found.stats:
            edge = torch.as_tensor(found.stats[side]).double()
            assert ((sign * (log_z - edge) >= -1e-7) | (edge == log_z)).all()
    for b, one in enumerate(truth):
        for i, (name, site) in enumerate(sites_of(graph, b)):
            row = found.beliefs[name][site]
            assert not row.isnan().any() and (row >= 0).all()
            if one.minimum == math.inf:
                continue
            assert abs(float(row.sum()) - 1) < 1e-8
            if found.exact:
                for state in range(int(graph.variables[name].state_counts[site])):
                    assert abs(float(row[state]) - one.marginal(i, state)) < 1e-10


def check_samples(graph: FactorGraph, found: Samples, truth: list[Oracle]) -> None:
    """Energies are those of the values, and every draw of a feasible instance is finite where draws are exact."""
    for s in range(found.energy.shape[0]):
        energy = graph.energy({n: v[s] for n, v in found.values.items()}) if graph.num_instances else found.energy[s]
        torch.testing.assert_close(energy, found.energy[s])
    if found.exact and graph.num_instances:
        assert found.energy[:, least(truth).isfinite()].isfinite().all()


def ask(graph: FactorGraph, solver: Solver | None, query: Query) -> Any:
    """The answer through the engine, seeded; a budget of steps keeps anytime solvers short."""
    generator = torch.Generator().manual_seed(5)
    budget = Budget(max_steps=20)
    if query.ask is Ask.MINIMIZE:
        return engine.minimize(graph, solver, budget=budget, generator=generator)
    if query.ask is Ask.MARGINALS:
        return engine.marginals(graph, solver, budget=budget, generator=generator)
    return engine.sample(graph, solver, num_samples=3, budget=budget, generator=generator)


def same(a: Any, b: Any) -> None:
    """Two answers agree to the last bit."""
    if isinstance(a, Result):
        assert torch.equal(a.energy, b.energy) and torch.equal(a.lower_bound, b.lower_bound)
        assert all(torch.equal(v, b.assignment[n]) for n, v in a.assignment.items())
    elif isinstance(a, Marginals):
        assert torch.equal(a.log_partition, b.log_partition)
        assert all(torch.equal(v, b.beliefs[n]) for n, v in a.beliefs.items())
    else:
        assert all(torch.equal(v, b.values[n]) for n, v in a.values.items())


def examine(graph: FactorGraph, names: list[str | None]) -> None:
    """Every query to every solver; None stands for the engine's own choice."""
    truth = oracle(graph)
    optimum = least(truth)
    for name in names:
        solver = None if name is None else SOLVERS[name]()
        for query in (Query(Ask.MINIMIZE), Query(Ask.MARGINALS), Query(Ask.SAMPLE, num_samples=3)):
            reason = None if solver is None else solver.refuse(graph, query)
            if reason is not None:
                assert reason.strip() and "\n" not in reason
                continue
            found = ask(graph, solver, query)
            if isinstance(found, Result):
                check_result(graph, found, optimum)
            elif isinstance(found, Marginals):
                check_marginals(graph, found, truth)
            else:
                check_samples(graph, found, truth)
            same(found, ask(graph, solver, query))
            if name is None and isinstance(found, Result):
                finite = optimum.isfinite()
                assert (found.status[finite] == int(Status.OPTIMAL)).all(), "small graphs are solved to optimality"
                assert (found.status[~finite] == int(Status.INFEASIBLE)).all()


SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(hypothesis.HealthCheck)}


@hypothesis.settings(max_examples=60, **SETTINGS)
@hypothesis.given(graphs())
def test_random_graphs(graph: FactorGraph) -> None:
    """Sixty graphs in the quick suite."""
    examine(graph, [None, *NAMES])


@pytest.mark.slow
@hypothesis.settings(max_examples=2000, **SETTINGS)
@hypothesis.given(graphs())
def test_two_thousand_random_graphs(graph: FactorGraph) -> None:
    """Two thousand graphs in the long suite."""
    examine(graph, [None, *NAMES])


@hypothesis.settings(max_examples=5, **SETTINGS)
@hypothesis.given(graphs())
def test_outside_solvers(graph: FactorGraph) -> None:
    """A few graphs for solvers that start a process, where they are installed."""
    examine(graph, [name for name in OUTSIDE if name in SOLVERS])


EXACT = ("variable_elimination", "junction_tree", "exhaustive", "graph_cut", "integer_program")
DETERMINISTIC = (*EXACT, "dual_ascent", "linear_program", "roof_duality", "mini_bucket", "mean_field")


@pytest.mark.parametrize("name", [n for n in DETERMINISTIC if n in SOLVERS])
@pytest.mark.parametrize("seed", range(3))
def test_batch_equals_loop(name: str, seed: int) -> None:
    """Energies and bounds of a batch are those of its instances, one by one, whatever the neighbours."""
    generator = torch.Generator().manual_seed(seed)
    if name == "graph_cut":
        parts = [random_grid([(2, 3)], 2, generator), random_grid([(3, 3)], 2, generator)]
    elif name == "variable_elimination":
        parts = [random_forest([n], 3, generator) for n in (4, 6, 1)]
    elif name == "roof_duality":
        parts = [random_grid([(2, 2)], 2, generator) for _ in range(3)]
    else:
        parts = [random_grid([(2, n)], 3, generator) for n in (1, 2, 3)]
    batch = union(parts)
    solver = SOLVERS[name]()
    for query in (Query(Ask.MINIMIZE), Query(Ask.MARGINALS)):
        if solver.refuse(batch, query) is not None:
            continue
        together, alone = ask(batch, solver, query), [ask(p, solver, query) for p in parts]
        if isinstance(together, Result):
            torch.testing.assert_close(together.energy, torch.cat([a.energy for a in alone]))
            if name in EXACT:
                torch.testing.assert_close(together.lower_bound, torch.cat([a.lower_bound for a in alone]))
        else:
            torch.testing.assert_close(together.log_partition, torch.cat([a.log_partition for a in alone]))


def tampered(result: Result, graph: FactorGraph, generator: torch.Generator) -> Any:
    """The witness with some numbers changed."""
    import dataclasses

    witness = result.witness
    field = "sites" if hasattr(witness, "sites") else "messages"
    tensor = getattr(witness, field).clone().reshape(-1)
    at = int(torch.randint(0, tensor.numel(), (), generator=generator))
    if field == "sites":
        tensor[at] = tensor[(at + 1) % tensor.numel()]
    else:
        kind = int(torch.randint(0, 3, (), generator=generator))
        if kind == 0:
            tensor[at] = torch.nan
        elif kind == 1:
            tensor = tensor[:-1]
        else:
            tensor = tensor + torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    shaped = (
        tensor.reshape(getattr(witness, field).shape) if tensor.numel() == getattr(witness, field).numel() else tensor
    )
    return dataclasses.replace(witness, **{field: shaped})


def test_tampered_witnesses_are_rejected() -> None:
    """Two hundred: a changed witness no longer proves the bound that the result claims."""
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for seed in range(120):
        draw = torch.Generator().manual_seed(seed)
        graph = (random_grid([(3, 3)], 2, draw), random_graph([6], 3, draw, rows=5), random_forest([8], 3, draw))[
            seed % 3
        ]
        for solver in (None, *(SOLVERS[n]() for n in ("graph_cut", "junction_tree", "dual_ascent") if n in SOLVERS)):
            if solver is not None and solver.refuse(graph, Query()) is not None:
                continue
            result = engine.minimize(graph, solver, budget=Budget(max_steps=50))
            slack = 1e-6 * result.lower_bound.abs().clamp(min=1.0)
            witness = result.witness
            if witness is None or getattr(witness, "messages", getattr(witness, "sites", torch.zeros(0))).numel() < 2:
                continue
            assert (witness_bound(graph, witness) >= result.lower_bound - slack).all()
            assert not (witness_bound(graph, tampered(result, graph, generator)) >= result.lower_bound - slack).all()
            seen += 1
    assert seen >= 200

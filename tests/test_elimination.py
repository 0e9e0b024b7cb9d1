"""Variable elimination on chains and forests against the oracle and against exhaustive enumeration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import ebmstruct as es
from ebmstruct.inference import Claim, certificate
from ebmstruct.testing import oracle, random_chain, random_forest, sites_of

Maker = Callable[[torch.Generator], es.FactorGraph]


def mixed_blocks(generator: torch.Generator) -> es.FactorGraph:
    """A chain of tags, each with a child of another block; and one pair joined by two factors."""
    tags = es.Variables.of_lengths("tags", es.Discrete(3), [3, 1])
    marks = es.Variables.of_lengths("marks", es.Discrete(2), [3, 1])

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    across = torch.arange(4)
    return es.FactorGraph(
        [tags, marks],
        [
            es.ChainFactor(("tags",), "chain", normal(3, 3), normal(3), normal(3)),
            es.TableFactor(("tags", "marks"), "tag-mark", normal(4, 3, 2), index=torch.stack([across, across])),
            es.TableFactor(("marks", "tags"), "mark-tag", normal(2, 3), index=torch.tensor([[1], [1]])),
            es.TableFactor(("marks",), "mark", normal(2)),
        ],
        constant=normal(2),
    )


MAKERS: dict[str, Maker] = {
    "chain": lambda g: random_chain([3, 0, 1, 4], 3, g),
    "peaked chain": lambda g: random_chain([3, 4], 3, g, scale=30.0),
    "constrained chain": lambda g: random_chain([3, 2, 4, 4], 3, g, forbid=0.4),
    "forest": lambda g: random_forest([4, 0, 3, 1], 3, g),
    "constrained forest": lambda g: random_forest([4, 3, 5], 3, g, forbid=0.3),
    "shared table": lambda g: random_forest([4, 3], 3, g, shared=True),
    "two blocks": mixed_blocks,
}


@pytest.fixture(params=[(name, seed) for name in MAKERS for seed in range(4)], ids=lambda p: f"{p[0]}-{p[1]}")
def graph(request: pytest.FixtureRequest) -> es.FactorGraph:
    name, seed = request.param
    return MAKERS[name](torch.Generator().manual_seed(seed))


def test_the_minimum_is_proven(graph: es.FactorGraph) -> None:
    """The least energy is found, OPTIMAL, and the witness alone proves the bound; infeasible instances say so."""
    result = es.minimize(graph, es.VariableElimination())
    proven = certificate.bound(graph, result)
    for b, truth in enumerate(oracle(graph)):
        assert float(result.energy[b]) == pytest.approx(truth.minimum, abs=1e-9)
        assert float(proven[b]) == pytest.approx(truth.minimum, abs=1e-9)
        expected = es.Status.INFEASIBLE if truth.minimum == float("inf") else es.Status.OPTIMAL
        assert result.statuses[b] is expected


def test_the_k_best_are_the_lowest_of_all(graph: es.FactorGraph) -> None:
    """The energies of the 5 best equal the 5 lowest of the list of all assignments; missing slots are infinite."""
    result = es.minimize(graph, es.VariableElimination(), k=5)
    assert result.alternative_energies is not None
    for b, truth in enumerate(oracle(graph)):
        lowest = sorted(e for e in truth.energies if e < float("inf"))[:5]
        lowest += [float("inf")] * (5 - len(lowest))
        assert result.alternative_energies[:, b].tolist() == pytest.approx(lowest, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_log_partition_and_marginals(graph: es.FactorGraph, temperature: float) -> None:
    """log Z, the beliefs of sites and of pairs equal enumeration."""
    pairs = [f.label for f in graph.factors if isinstance(f, es.ChainFactor) or len(f.scope) == 2]
    found = es.marginals(graph, es.VariableElimination(), temperature=temperature, factors=pairs)
    truth = es.marginals(graph, es.Exhaustive(), temperature=temperature, factors=pairs)
    log_z = es.log_partition(graph, es.VariableElimination(), temperature=temperature)
    assert torch.allclose(log_z, truth.log_partition, atol=1e-9)
    assert torch.allclose(found.log_partition, truth.log_partition, atol=1e-9)
    assert found.exact
    for name, belief in truth.beliefs.items():
        assert torch.allclose(found.beliefs[name].double(), belief, atol=1e-9)
    for label in pairs:
        assert torch.allclose(found.factor_beliefs[label].double(), truth.factor_beliefs[label], atol=1e-9)


def test_gradients_of_log_partition_are_marginals(graph: es.FactorGraph) -> None:
    """Finite differences of log Z in every table entry agree with autograd; infinite entries have no gradient."""
    tensors, values = [], {}
    for f in graph.factors:
        mine = [None if v is None else v.clone().requires_grad_() for v in f.values()]
        values[f.label] = mine
        tensors += [v for v in mine if v is not None]
    es.log_partition(graph.with_values(values), es.VariableElimination()).nan_to_num(neginf=0.0).sum().backward()
    for tensor in tensors:
        assert tensor.grad is not None
        flat, grad = tensor.detach().reshape(-1), tensor.grad.reshape(-1)
        for i in range(0, flat.numel(), 2):
            if flat[i].isinf():
                assert float(grad[i]) == 0.0
                continue
            saved, ends = float(flat[i]), []
            for step in (1e-5, -1e-5):
                flat[i] = saved + step
                trial = {k: [None if v is None else v.detach() for v in vs] for k, vs in values.items()}
                log_z = es.log_partition(graph.with_values(trial), es.VariableElimination())
                ends.append(float(log_z.nan_to_num(neginf=0.0).sum()))
            flat[i] = saved
            assert float(grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-5)


def test_samples_have_the_marginals(graph: es.FactorGraph) -> None:
    """The frequencies of 4,000 draws are within 5 standard errors of the exact beliefs."""
    count = 4000
    drawn = es.sample(graph, num_samples=count, generator=torch.Generator().manual_seed(0))
    beliefs = es.marginals(graph, es.Exhaustive()).beliefs
    for name, belief in beliefs.items():
        feasible = belief.sum(1) > 0.5
        for k in range(belief.shape[1]):
            frequency = (drawn.values[name] == k).double().mean(0)[feasible]
            p = belief[feasible, k].clamp(0.0, 1.0)
            assert bool(((frequency - p).abs() <= 5 * (p * (1 - p) / count).sqrt() + 1e-3).all())


def test_evidence(graph: es.FactorGraph) -> None:
    """With some sites clamped and others restricted, answers equal enumeration of what is left."""
    name, block = next(iter(graph.variables.items()))
    known = torch.arange(block.num_sites) % 3 == 0
    states = torch.zeros(block.num_sites, dtype=torch.long)
    allowed = torch.ones(block.num_sites, block.discrete.largest, dtype=torch.bool)
    allowed[1::3, 0] = block.state_counts[1::3] == 1
    clamped = graph.condition(es.Assignment({name: states}, known={name: known}, allowed={name: allowed}))
    result = es.minimize(clamped, es.VariableElimination())
    log_z = es.log_partition(clamped, es.VariableElimination())
    for b, truth in enumerate(oracle(clamped)):
        assert float(result.energy[b]) == pytest.approx(truth.minimum, abs=1e-9)
        assert float(log_z[b]) == pytest.approx(truth.log_partition(), abs=1e-9)
        if truth.minimum < float("inf"):
            sites = [s for n, s in sites_of(graph, b) if n == name]
            assert all(int(result.assignment[name][s]) == 0 for s in sites if known[s])


def test_a_batch_equals_the_loop() -> None:
    """Each instance's answer is the same to the bit alone and among others."""
    generator = torch.Generator().manual_seed(5)
    lengths = [5, 1, 0, 9, 4]
    whole = random_chain(lengths, 4, generator)
    result, marginals = es.minimize(whole), es.marginals(whole)
    emission, chain = whole.factors
    assert isinstance(emission, es.TableFactor)
    begin = 0
    for b, length in enumerate(lengths):
        block = es.Variables.of_lengths("y", es.Discrete(4), [length])
        part = es.TableFactor(("y",), "emission", emission.tables[begin : begin + length])
        alone = es.FactorGraph([block], [part, chain])
        assert torch.equal(es.minimize(alone).assignment["y"], result.assignment["y"][begin : begin + length])
        beliefs = es.marginals(alone).beliefs["y"]
        assert torch.equal(beliefs, marginals.beliefs["y"][begin : begin + length])
        assert float(es.log_partition(alone)[0]) == float(marginals.log_partition[b])
        begin += length


def test_a_deadline_gives_the_best_so_far_with_a_bound() -> None:
    """A chain of 200,000 sites cannot be done in no time: the status is DEADLINE, and bound <= optimum <= energy."""
    graph = random_chain([200_000], 8, torch.Generator().manual_seed(0))
    optimum = float(es.minimize(graph).energy[0])
    result = es.minimize(graph, budget=es.Budget.after(0.0))
    assert result.statuses == [es.Status.DEADLINE]
    assert float(result.lower_bound[0]) <= optimum <= float(result.energy[0]) < float("inf")


def test_cycles_are_refused_with_the_reason() -> None:
    """A triangle is no forest; explain says so and names the solver that takes it."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [3])
    index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    graph = es.FactorGraph(
        [block], [es.TableFactor(("y", "y"), "pairs", torch.tensor([[0.0, 1], [1, 0]]), index=index)]
    )
    with pytest.raises(es.SolverRefusal, match="1 cycle"):
        es.minimize(graph, es.VariableElimination())
    choice = es.explain(graph)
    assert choice.solver is not None and choice.solver.name == "graph_cut"
    assert "width at most 2" in str(choice)
    assert es.minimize(graph).statuses == [es.Status.OPTIMAL]


def test_a_broken_instance_does_not_harm_its_neighbours() -> None:
    """NaN energies make their own instance NONFINITE and no other."""
    graph = random_chain([3, 4], 3, torch.Generator().manual_seed(0))
    emission = graph.factors[0].values()[0]
    assert emission is not None
    broken = emission.clone()
    broken[1] = torch.nan
    result = es.minimize(graph.with_values({"emission": broken}))
    assert result.statuses == [es.Status.NONFINITE, es.Status.OPTIMAL]


class Boaster(es.Solver):
    """Returns state 0 everywhere and claims any bound it likes."""

    name = "boaster"

    def __init__(self, bound: float, witness: Any = None) -> None:
        self.bound, self.witness = bound, witness

    def refuse(self, graph: es.FactorGraph, query: es.Query) -> str | None:
        return None

    def solve(self, graph: es.FactorGraph, query: es.Query, **_: Any) -> es.Result:
        (block,) = graph.variables.values()
        y = es.Assignment({block.name: torch.zeros(block.num_sites, dtype=torch.long)})
        bound = torch.full((graph.num_instances,), self.bound, dtype=torch.float64)
        zero = torch.zeros(graph.num_instances, dtype=torch.float64)
        return es.Result(y, zero - 99.0, bound, zero.long(), witness=self.witness)


def test_the_engine_does_not_believe_a_solver() -> None:
    """A false energy is recomputed, a bound without a witness dropped, and an infinite energy is never OPTIMAL."""
    graph = random_chain([3], 3, torch.Generator().manual_seed(0))
    truth = float(graph.energy({"y": torch.zeros(3, dtype=torch.long)}))
    result = es.minimize(graph, Boaster(bound=1e9))
    assert float(result.energy) == truth
    assert result.statuses == [es.Status.CONVERGED] and float(result.gap) == float("inf")
    forbidden = graph.with_values({"emission": torch.full((3, 3), torch.inf).double()})
    assert es.minimize(forbidden, Boaster(bound=-torch.inf, witness=Claim("x"))).statuses != [es.Status.OPTIMAL]


@pytest.mark.parametrize("bad", [{"k": 0}, {"temperature": 0.0}])
def test_questions_without_sense_are_refused(bad: dict[str, Any]) -> None:
    """No answers at all, or a temperature of zero, are told in a sentence."""
    graph = random_chain([3], 3, torch.Generator().manual_seed(0))
    with pytest.raises(es.GraphError, match="legal is"):
        es.minimize(graph, **bad)
    with pytest.raises(es.GraphError, match="num_samples 0; legal is at least 1"):
        es.sample(graph, num_samples=0)

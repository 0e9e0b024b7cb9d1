"""Every loss against enumeration and finite differences, on chains and forests, with complete and partial targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import ebmstruct as es
from ebmstruct.testing import Oracle, oracle, random_chain, random_forest

MAKERS: dict[str, Callable[[torch.Generator], es.FactorGraph]] = {
    "chain": lambda g: random_chain([3, 1, 4], 3, g),
    "constrained chain": lambda g: random_chain([3, 4], 3, g, forbid=0.2),
    "forest": lambda g: random_forest([4, 3, 1], 3, g),
    "shared table": lambda g: random_forest([4, 3], 3, g, shared=True),
}
LOSSES: dict[str, es.Loss] = {
    "likelihood": es.NegativeLogLikelihood(),
    "cool likelihood": es.NegativeLogLikelihood(temperature=0.5),
    "softmax-margin": es.SoftmaxMargin(weight=1.5),
    "cool softmax-margin": es.SoftmaxMargin(weight=1.5, temperature=0.5),
    "perceptron": es.Perceptron(),
    "hinge": es.StructuredHinge(weight=2.0),
    "pseudo-likelihood": es.PseudoLikelihood(),
}


def feasible_target(graph: es.FactorGraph, generator: torch.Generator, known: float) -> es.Assignment:
    """A random assignment of finite energy, each site known with the given probability."""
    target = es.sample(graph, num_samples=1, temperature=5.0, generator=generator)
    values = {n: v[0] for n, v in target.values.items()}
    if known == 1.0:
        return es.Assignment(values)
    masks = {n: torch.rand(v.shape[0], generator=generator) < known for n, v in values.items()}
    return es.Assignment(values, known=masks)


def hamming(graph: es.FactorGraph, target: es.Assignment) -> list[es.Factor]:
    """One for each known site whose state differs, as flat tables that fit mixed state counts."""
    block = graph.variables["y"]
    counts = block.state_counts
    starts = counts.cumsum(0) - counts
    tables = torch.ones(int(counts.sum()), dtype=torch.float64)
    tables[starts + target["y"]] = 0.0
    if "y" in target.known:
        tables *= torch.repeat_interleave(target.known["y"], counts)
    return [es.TableFactor(("y",), "cost", tables, starts=starts)]


def by_hand(loss: es.Loss, truth: Oracle, target: tuple[int, ...], known: tuple[bool, ...]) -> float:
    """The loss of one instance from the list of all its assignments."""
    pairs = list(zip(truth.states, truth.energies, strict=True))
    agree = [e for s, e in pairs if all(s[i] == target[i] for i in range(len(s)) if known[i])]

    def cost(s: tuple[int, ...]) -> float:
        return sum(known[i] and s[i] != target[i] for i in range(len(s)))

    def log_sum(values: list[float]) -> float:
        return math.log(math.fsum(math.exp(-v) for v in values if v < math.inf))

    if isinstance(loss, es.NegativeLogLikelihood):
        t = loss.temperature
        return log_sum([e / t for _, e in pairs]) - log_sum([e / t for e in agree])
    if isinstance(loss, es.SoftmaxMargin):
        t = loss.temperature
        return log_sum([e / t - loss.weight * cost(s) for s, e in pairs]) - log_sum([e / t for e in agree])
    if isinstance(loss, es.Perceptron):
        return min(agree) - truth.minimum
    if isinstance(loss, es.StructuredHinge):
        return min(agree) - min(e - loss.weight * cost(s) for s, e in pairs)
    assert isinstance(loss, es.PseudoLikelihood)
    table = dict(pairs)
    total = 0.0
    for i in range(len(target)):
        states = sorted({s[i] for s in truth.states})
        total += table[target] + log_sum([table[target[:i] + (k,) + target[i + 1 :]] for k in states])
    return total


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("known", [1.0, 0.5])
def test_the_value_equals_enumeration(
    loss: es.Loss, maker: Callable[[torch.Generator], es.FactorGraph], known: float
) -> None:
    """Values equal the formula summed over a list of all assignments; unknown sites are summed out or minimised."""
    generator = torch.Generator().manual_seed(3)
    graph = maker(generator)
    target = feasible_target(graph, generator, known)
    if isinstance(loss, es.PseudoLikelihood) and known < 1.0:
        with pytest.raises(es.LossRefusal, match="knows every site"):
            loss(graph, target)
        return
    value = loss(graph, target, cost=hamming(graph, target)).value
    offsets = graph.variables["y"].offsets.tolist()
    for b, truth in enumerate(oracle(graph)):
        y = tuple(target["y"][offsets[b] : offsets[b + 1]].tolist())
        mask = target.known["y"][offsets[b] : offsets[b + 1]].tolist() if "y" in target.known else [True] * len(y)
        assert float(value[b]) == pytest.approx(by_hand(loss, truth, y, tuple(mask)), abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_the_gradient_equals_finite_differences(
    loss: es.Loss, maker: Callable[[torch.Generator], es.FactorGraph]
) -> None:
    """Autograd agrees with central differences in every third entry of every table."""
    generator = torch.Generator().manual_seed(4)
    graph = maker(generator)
    target = feasible_target(graph, generator, 1.0)
    cost = hamming(graph, target)
    leaves = {f.label: [None if v is None else v.clone() for v in f.values()] for f in graph.factors}
    tensors = [v.requires_grad_() for vs in leaves.values() for v in vs if v is not None]
    loss(graph.with_values(leaves), target, cost=cost).value.sum().backward()
    for tensor in tensors:
        assert tensor.grad is not None
        flat = tensor.detach().reshape(-1)
        for i in range(0, flat.numel(), 3):
            saved = float(flat[i])
            if saved == math.inf:
                continue
            ends = []
            for step in (1e-6, -1e-6):
                flat[i] = saved + step
                ends.append(float(loss(graph.with_values(leaves), target, cost=cost).value.detach().sum()))
            flat[i] = saved
            assert float(tensor.grad.reshape(-1)[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_batch_equals_the_loop(loss: es.Loss) -> None:
    """The loss of each instance is the same alone and in a union."""
    generator = torch.Generator().manual_seed(6)
    graphs = [random_forest([n], 3, generator) for n in (3, 1, 4)]
    targets = [feasible_target(g, generator, 1.0) for g in graphs]
    whole = es.union(graphs)
    target = es.Assignment({"y": torch.cat([t["y"] for t in targets])})
    together = loss(whole, target, cost=hamming(whole, target)).value
    alone = [float(loss(g, t, cost=hamming(g, t)).value[0]) for g, t in zip(graphs, targets, strict=True)]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)


def test_pseudo_likelihood_takes_energies_without_structure() -> None:
    """For a function of the whole block each site's conditional comes from K evaluations: here all agree by hand."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2, 2])

    def differ(y: torch.Tensor, offsets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        pairs = y.reshape(-1, 2)
        return (pairs[:, 0] != pairs[:, 1]).double()

    graph = es.FactorGraph([block], [es.BlockFactor(("y",), "differ", differ)])
    value = es.PseudoLikelihood()(graph, es.Assignment({"y": torch.tensor([0, 0, 0, 1])})).value
    agree, clash = math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(1.0))
    assert value.tolist() == pytest.approx([2 * agree, 2 * clash])


def test_a_forbidden_target_has_infinite_loss() -> None:
    """A target that the hard constraints exclude can never be learned: the loss says so, and is not NaN."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2])
    transition = torch.tensor([[0.0, torch.inf], [0.0, 0.0]])
    graph = es.FactorGraph([block], [es.ChainFactor(("y",), "chain", transition)])
    for loss in (es.NegativeLogLikelihood(), es.SoftmaxMargin(), es.Perceptron(), es.StructuredHinge()):
        assert float(loss(graph, es.Assignment({"y": torch.tensor([0, 1])})).value) == math.inf

"""First guesses and parts of graphs: what keeps them, what evidence does to them, and the energies of selections."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import ebmstruct as es
from ebmstruct.testing import random_chain, random_forest, random_graph, random_grid, random_segments
from ebmstruct.testing.mixed import switching_systems

Maker = Callable[[torch.Generator], es.FactorGraph]


def with_function(generator: torch.Generator) -> es.FactorGraph:
    """Three instances under a function of their weights with inputs, and a constant."""
    block = es.Variables.of_lengths("y", es.Discrete(2), [2, 2, 2])
    scores = torch.randn(3, 2, generator=generator, dtype=torch.float64)

    def energy(weights: torch.Tensor, scores: torch.Tensor, offsets: object) -> torch.Tensor:
        return (weights[:, 1].reshape(scores.shape) * scores).sum(1).square()

    return es.FactorGraph(
        [block],
        [es.BlockFactor(("y",), "deep", energy, (scores,), relaxed=True)],
        constant=torch.tensor([1.0, 2.0, 3.0]),
    )


MAKERS: dict[str, Maker] = {
    "chain": lambda g: random_chain([3, 0, 2, 4], 3, g),
    "forest": lambda g: random_forest([3, 1, 4, 2], 3, g),
    "graph": lambda g: random_graph([4, 3, 5], 3, g, blocks=2),
    "grid": lambda g: random_grid([(2, 3), (3, 3), (1, 4)], 3, g),
    "segments": lambda g: random_segments([3, 4, 2], 2, 3, g),
    "function": with_function,
    "mixed": lambda g: switching_systems(3, 4, 2, g).graph,
}


def random_values(graph: es.FactorGraph, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A state or a point for every site."""
    out = {}
    for name, block in graph.variables.items():
        if isinstance(block.domain, es.Discrete):
            out[name] = (torch.rand(block.num_sites, generator=generator) * block.state_counts).long()
        else:
            out[name] = torch.randn(block.num_sites, block.domain.dim, generator=generator, dtype=torch.float64)
    return out


def random_guess(graph: es.FactorGraph, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Positive weights over the states of every site, or a point."""
    out = {}
    for name, block in graph.variables.items():
        if isinstance(block.domain, es.Discrete):
            scores = torch.randn(block.num_sites, block.discrete.largest, generator=generator, dtype=torch.float64)
            there = torch.arange(scores.shape[1]) < block.state_counts[:, None]
            out[name] = scores.masked_fill(~there, -torch.inf).softmax(1)
        else:
            out[name] = torch.randn(block.num_sites, block.domain.dim, generator=generator, dtype=torch.float64)
    return out


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("chosen", [[1], [2, 0], [0, 1, 2], []])
def test_a_selection_has_the_energies_of_its_instances(name: str, chosen: list[int]) -> None:
    """Energies, relaxed guesses and evidence of chosen instances are those of the whole graph, in the order asked."""
    generator = torch.Generator().manual_seed(3)
    graph = MAKERS[name](generator)
    graph = graph.with_guess(random_guess(graph, generator))
    values = random_values(graph, generator)
    first = next(iter(graph.variables))
    known = torch.rand(graph.variables[first].num_sites, generator=generator) < 0.3
    for whole in (graph, graph.condition(es.Assignment({first: values[first]}, {first: known}))):
        instances = torch.tensor(chosen, dtype=torch.long)
        part = whole.select(instances)
        sites = {n: v.sites_of(instances) for n, v in whole.variables.items()}
        mine = {n: v[sites[n]] for n, v in random_values(graph, torch.Generator().manual_seed(4)).items()}
        theirs = random_values(graph, torch.Generator().manual_seed(4))
        torch.testing.assert_close(part.energy(mine), whole.energy(theirs)[instances])
        assert part.guess is not None and whole.guess is not None
        for block, g in part.guess.items():
            assert torch.equal(g, whole.guess[block][sites[block], : g.shape[1]])
            assert bool((g.sum(1) - 1).abs().max() < 1e-12) if g.numel() and name != "mixed" else True


def test_a_factor_of_an_unknown_kind_cannot_be_taken_apart() -> None:
    """Whoever writes a factor without ``select`` gets a sentence that names it."""

    class Plain(es.TableFactor):
        """A factor that only knows its energies."""

        select = es.Factor.select  # type: ignore[assignment]

    block = es.Variables.of_lengths("y", es.Discrete(2), [1, 1])
    graph = es.FactorGraph([block], [Plain(("y",), "plain", torch.zeros(2, 2))])
    with pytest.raises(es.GraphError, match="'plain': a Plain cannot be taken apart"):
        graph.select(torch.tensor([0]))


def test_the_guess_goes_along() -> None:
    """add, with_values, repeat, union and to keep it; a union with a graph that has none drops it."""
    generator = torch.Generator().manual_seed(0)
    graph = random_forest([2, 3], 3, generator, shared=True)
    guess = random_guess(graph, generator)
    graph = graph.with_guess(guess)
    more = graph.add(es.TableFactor(("y",), "more", torch.zeros(3)))
    for other in (more, graph.with_values({"pair": torch.zeros(3, 3)}), graph.to("cpu")):
        assert other.guess is not None and torch.equal(other.guess["y"], guess["y"])
    twice = graph.repeat(2).guess
    assert twice is not None and torch.equal(twice["y"], torch.cat([guess["y"], guess["y"]]))
    both = es.union([graph, graph]).guess
    assert both is not None and torch.equal(both["y"], twice["y"])
    assert es.union([graph, graph.with_guess(None)]).guess is None


def test_a_union_pads_a_guess_over_fewer_states() -> None:
    """A block of 2 and one of 3 states: the first has no weight on the third state."""
    graphs = []
    for states in (2, 3):
        block = es.Variables.of_lengths("y", es.Discrete(torch.tensor([states])), [1])
        table = es.TableFactor(("y",), "u", torch.zeros(states), starts=torch.tensor([0]))
        graphs.append(es.FactorGraph([block], [table], guess={"y": torch.full((1, states), 1 / states)}))
    both = es.union(graphs).guess
    assert both is not None and both["y"][0].tolist() == [0.5, 0.5, 0.0]


def test_evidence_wins_over_the_guess() -> None:
    """By hand: a clamped site has weight 1 on its state, an allowed set keeps the weights inside, divided by their sum."""
    block = es.Variables.of_lengths("y", es.Discrete(3), [4])
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]], requires_grad=True)
    graph = es.FactorGraph([block], [], guess={"y": weights})
    known = torch.tensor([True, False, False, False])
    allowed = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]]).bool()
    told = graph.condition(es.Assignment({"y": torch.tensor([1, 0, 0, 0])}, {"y": known}, {"y": allowed}))
    assert told.guess is not None
    wanted = torch.tensor([[0.0, 1.0, 0.0], [0.4, 0.6, 0.0], [0.0, 0.5, 0.5], [0.1, 0.1, 0.8]])
    torch.testing.assert_close(told.guess["y"], wanted)
    told.guess["y"][:, 0].sum().backward()
    assert weights.grad is not None and weights.grad.isfinite().all() and weights.grad[0].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(weights.grad[3], torch.tensor([0.9, -0.1, -0.1]))
    whole = graph.condition(es.Assignment({"y": torch.tensor([2, 1, 0, 0])}))
    assert whole.guess is not None and whole.guess["y"].argmax(1).tolist() == [2, 1, 0, 0]


def test_a_guess_that_does_not_fit_is_refused() -> None:
    """An unknown block, a wrong shape and whole numbers are named."""
    block = es.Variables.of_lengths("y", es.Discrete(3), [2])
    for guess, message in (
        ({"z": torch.zeros(2, 3)}, r"for block 'z'; the graph's blocks are \['y'\]"),
        ({"y": torch.zeros(2, 2)}, r"must be weights over states of shape \(2, 3\); found"),
        ({"y": torch.zeros(2, 3).long()}, "found torch.int64"),
    ):
        with pytest.raises(es.GraphError, match=message):
            es.FactorGraph([block], [], guess=guess)

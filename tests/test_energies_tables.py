"""Energies made of tables: each equals its formula written out by hand, and exact solvers equal enumeration."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.energies import (
    ChainEnergy,
    GraphNetworkEnergy,
    GridEnergy,
    LinkedSites,
    NodeGraph,
    PairTables,
    RecurrentEncoder,
    SecondOrderChainEnergy,
    SegmentEnergy,
    SkipChainEnergy,
    SumOfEnergies,
    Transitions,
    TreeEnergy,
    WindowEncoder,
    graph_network,
)
from ebmstruct.energies.inputs import first_of_pairs
from ebmstruct.energies.model import EnergyModel
from ebmstruct.energies.segments import segment_vectors
from ebmstruct.errors import ConfigError, GraphError
from ebmstruct.testing import oracle

Y = (2, 0, 1, 1, 2)


def scattered(model: EnergyModel) -> EnergyModel:
    """The model in double precision with random parameters."""
    generator = torch.Generator().manual_seed(0)
    for p in model.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.5
    return model


def features(n: int, width: int = 3, seed: int = 0) -> Tensor:
    """(n, width) random numbers."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def energy_of(model: EnergyModel, x: object, y: tuple[int, ...] = Y) -> float:
    """The energy of one input with states y."""
    return float(model.graph([x]).energy({"y": torch.tensor(y)}).detach())


def chain_by_hand(model: ChainEnergy, h: Tensor, y: tuple[int, ...]) -> float:
    """Sites, ends and successive pairs, added one by one."""
    site, t = model.output(h), model.transition
    total = t.start[y[0]] + t.end[y[-1]]
    for i, k in enumerate(y):
        total = total + site[i, k]
        if i:
            total = total + t.transition[y[i - 1], k]
            if model.step is not None:
                table = model.step(torch.cat([h[i - 1], h[i]])).reshape(model.states, model.states)
                total = total + table[y[i - 1], k]
    return float(total.detach())


@pytest.mark.parametrize("transitions", ["shared", "sites"])
def test_chain(transitions: str) -> None:
    """A chain's energy is that of its sites, pairs and ends; its log partition and marginals are those of enumeration."""
    model = scattered(ChainEnergy(3, 3, transitions=transitions))  # type: ignore[arg-type]
    x = features(5)
    assert isinstance(model, ChainEnergy)
    assert energy_of(model, x) == pytest.approx(chain_by_hand(model, x, Y), rel=1e-12)
    graph = model.graph([x, features(1)])
    for b, exact in enumerate(oracle(graph)):
        assert float(es.log_partition(graph)[b].detach()) == pytest.approx(exact.log_partition(), rel=1e-9)
        assert float(es.marginals(graph).beliefs["y"][5 * b, 1]) == pytest.approx(exact.marginal(0, 1), rel=1e-6)


def test_forbidden_transitions() -> None:
    """A step that is not allowed is infinite whatever its weight, and is never in an answer."""
    allowed = torch.tensor([[False, True], [True, False]])
    model = scattered(ChainEnergy(3, 2, transition=Transitions(2, allowed_transition=allowed)))
    assert math.isinf(energy_of(model, features(3), (0, 0, 1)))
    assert es.minimize(model.graph([features(4)])).assignment["y"].diff().abs().tolist() == [1, 1, 1]
    assert sorted(model.state_dict()) == ["output.bias", "output.weight"] + [
        f"transition.{n}" for n in ("end", "start", "transition")
    ]


def test_second_order() -> None:
    """The chain's energy, and a table entry for every three in a row; exact against enumeration."""
    model = scattered(SecondOrderChainEnergy(3, 3))
    x = features(5)
    assert isinstance(model, SecondOrderChainEnergy)
    triples = sum(float(model.triple.detach()[a, b, c]) for a, b, c in zip(Y, Y[1:], Y[2:], strict=False))
    assert energy_of(model, x) == pytest.approx(chain_by_hand(model.chain, x, Y) + triples, rel=1e-12)
    graph = model.graph([features(4), features(1), features(2)])
    for b, exact in enumerate(oracle(graph)):
        assert float(es.log_partition(graph)[b].detach()) == pytest.approx(exact.log_partition(), rel=1e-9)


def test_skip_chain() -> None:
    """A link adds a table entry from the vectors of both ends, lower site first; listed both ways, it counts once."""
    model = scattered(SkipChainEnergy(3, 3, directed=True))
    x, links = features(5), torch.tensor([[3, 0, 4], [0, 3, 1]])
    assert isinstance(model, SkipChainEnergy) and model.links.output is not None
    total = chain_by_hand(model.chain, x, Y)
    for i, j in ((0, 3), (1, 4)):
        table = model.links.shared + model.links.output(torch.cat([x[i], x[j]])).reshape(3, 3)
        total += float(table[Y[i], Y[j]].detach())
    assert energy_of(model, (x, links)) == pytest.approx(total, rel=1e-12)
    graph = model.graph([(x, links)])
    assert float(es.minimize(graph).energy) == pytest.approx(oracle(graph)[0].minimum, rel=1e-9)


def test_tree() -> None:
    """Each child adds an entry of the table of its parent's state and its own; a forest is answered exactly."""
    model = scattered(TreeEnergy(3, 3, pairwise=True))
    x, parents = features(5), [-1, 0, 0, 1, -1]
    assert isinstance(model, TreeEnergy) and model.edges.output is not None
    total = sum(float(model.output(x)[i, k].detach()) for i, k in enumerate(Y))
    for child, parent in enumerate(parents):
        if parent >= 0:
            table = model.edges.shared + model.edges.output(torch.cat([x[parent], x[child]])).reshape(3, 3)
            total += float(table[Y[parent], Y[child]].detach())
    assert energy_of(model, (x, torch.tensor(parents))) == pytest.approx(total, rel=1e-12)
    graph = model.graph([(x, torch.tensor(parents))])
    result = es.minimize(graph)
    assert result.statuses[0] is es.Status.OPTIMAL and result.solver == "variable_elimination"
    assert float(es.log_partition(graph).detach()) == pytest.approx(oracle(graph)[0].log_partition(), rel=1e-9)


@pytest.mark.parametrize("parents", [[1, 0, -1], [3, -1, 0], [0, -1, -1]])
def test_what_is_no_tree(parents: list[int]) -> None:
    """Parents that go in a circle, or that do not exist, are told in a sentence."""
    with pytest.raises(GraphError, match="parent"):
        TreeEnergy(3, 2).prepare([(features(3), torch.tensor(parents))])


def test_segments() -> None:
    """A segment adds its length's energy and a linear one of the mean and the slope of its sites' vectors."""
    model = scattered(SegmentEnergy(3, 2, 3))
    x = features(5)
    assert isinstance(model, SegmentEnergy) and model.pooled is not None
    cuts, labels = ((0, 2), (2, 3), (3, 5)), (1, 0, 1)  # first site, end; label
    site = model.output(x)
    total = model.start[labels[0]] + model.end[labels[-1]]
    states = []
    for (a, b), k in zip(cuts, labels, strict=True):
        vector = torch.cat([x[a:b].mean(0), x[b - 1] - x[a]])
        total = total + model.lengths[b - a - 1, k] + model.pooled(vector)[k]
        states += [2 * k] + [2 * k + 1] * (b - a - 1)
    total = total + model.transition[1, 0] + model.transition[0, 1] + sum(site[i, s] for i, s in enumerate(states))
    assert energy_of(model, x, tuple(states)) == pytest.approx(float(total.detach()), rel=1e-12)
    graph = model.graph([features(4)])
    assert es.minimize(graph).solver == "semi_markov"
    assert float(es.log_partition(graph).detach()) == pytest.approx(oracle(graph)[0].log_partition(), rel=1e-9)


def test_segments_end_with_their_instance() -> None:
    """The vectors of segments that would reach into the next instance are zero."""
    found = segment_vectors(features(5), torch.tensor([0, 2, 2, 5]), 3)
    inside = found.abs().sum(2) > 0
    assert inside.tolist() == [[True, True, False], [True] + [False] * 2] + [
        [True] * 3,
        [True, True, False],
        [True, False, False],
    ]


def test_grid() -> None:
    """Neighbours that differ cost softplus(a) + softplus(c) exp(-d / (2 s^2)), s^2 the mean of d in their image."""
    model = scattered(GridEnergy(3, 2))
    assert isinstance(model, GridEnergy) and model.contrast is not None
    x = features(6).T.reshape(3, 2, 3)
    y, flat = (0, 1, 1, 0, 0, 1), x.flatten(1).T
    pairs = [(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)]
    square = {p: float((flat[p[0]] - flat[p[1]]).square().sum()) for p in pairs}
    mean = sum(square.values()) / len(pairs)
    base, weight = (float(torch.nn.functional.softplus(p.detach())) for p in (model.base, model.contrast))
    total = sum(float(model.output(flat)[i, k].detach()) for i, k in enumerate(y))
    total += sum(base + weight * math.exp(-d / (2 * mean)) for (i, j), d in square.items() if y[i] != y[j])
    assert energy_of(model, x, y) == pytest.approx(total, rel=1e-9)
    result = es.minimize(model.graph([x, features(1).T.reshape(3, 1, 1)]))
    assert [s.name for s in result.statuses] == ["OPTIMAL", "OPTIMAL"]


def test_a_flat_image_has_finite_weights() -> None:
    """Where all pixels are alike every border costs the same."""
    graph = GridEnergy(3, 2).graph([torch.ones(3, 2, 2)])
    assert torch.isfinite(graph.energy({"y": torch.tensor([0, 1, 0, 1])})).all()


def test_pairs_do_not_depend_on_their_order() -> None:
    """Undirected tables are symmetric and the same whichever end comes first; directed ones are not."""
    for directed in (False, True):
        tables = PairTables(3, width=3, edge_width=2, hidden=4, directed=directed).double()
        for p in tables.parameters():
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
        pairs, h, e = torch.tensor([[0, 1], [2, 3]]), features(4), features(2, 2, seed=1)
        here, there = tables(pairs, h, e), tables(pairs.flip(0), h, e)
        assert directed != torch.allclose(here, there) and directed != torch.allclose(here, here.mT)
    with pytest.raises(GraphError, match="features of edges"):
        tables(pairs, h, None)


def test_edges_count_once() -> None:
    """Of edges listed twice, in both directions or from a node to itself, one of each pair counts: the first."""
    edges = torch.tensor([[0, 1, 2, 1, 3, 1], [1, 0, 2, 3, 1, 2]])
    assert first_of_pairs(edges).tolist() == [True, False, False, True, False, True]
    linked = LinkedSites.of([(features(4), edges), (features(2), torch.tensor([[1], [0]]))])
    assert linked.pairs()[0].tolist() == [[0, 1, 1, 5], [1, 3, 2, 4]]
    assert linked.pairs(ordered=True)[0].tolist() == [[0, 1, 1, 4], [1, 3, 2, 5]]
    assert linked.select([1]).edges.tolist() == [[1], [0]] and linked.links()[0].shape == (2, 6)
    with pytest.raises(GraphError, match="site that does not exist"):
        LinkedSites.of([(features(2), torch.tensor([[0], [2]]))])
    with pytest.raises(GraphError, match="2 edges but 3 rows"):
        LinkedSites.of([NodeGraph(features(2), edges[:, :2], torch.ones(3))])
    with pytest.raises(GraphError, match="edge_index .* are needed"):
        LinkedSites.of([NodeGraph(torch.ones(2), edges[:, :2])])
    weighted = LinkedSites.of([NodeGraph(features(4), edges[:, :2], torch.ones(2))])
    assert weighted.edge_features is not None and weighted.edge_features.shape == (2, 1)
    with pytest.raises(GraphError, match="none in others"):
        LinkedSites.of([NodeGraph(features(1), edges[:, :0]), NodeGraph(features(1), edges[:, :0], features(0, 1))])


def test_graph_network() -> None:
    """Nodes from the network, edges from both ends' vectors; torch_geometric's Data and a NodeGraph say the same."""
    data = pytest.importorskip("torch_geometric.data")
    model = scattered(GraphNetworkEnergy(graph_network("GIN", 3, 4), 4, 3, pairs="edges")).eval()
    assert isinstance(model, GraphNetworkEnergy) and model.tables is not None and model.network is not None
    x, edges = features(5), torch.tensor([[0, 1, 1, 2, 4, 0], [1, 0, 2, 1, 0, 4]])
    h = model.network(x, edges)
    tables = model.tables(torch.tensor([[0, 1, 4], [1, 2, 0]]), h)
    total = sum(float(model.output(h)[i, k].detach()) for i, k in enumerate(Y))
    total += sum(float(t[Y[i], Y[j]].detach()) for t, (i, j) in zip(tables, ((0, 1), (1, 2), (4, 0)), strict=True))
    assert energy_of(model, NodeGraph(x, edges)) == pytest.approx(total, rel=1e-12)
    assert energy_of(model, data.Data(x=x, edge_index=edges)) == pytest.approx(total, rel=1e-12)
    graph = model.graph([NodeGraph(x, edges)])
    assert float(es.log_partition(graph).detach()) == pytest.approx(oracle(graph)[0].log_partition(), rel=1e-9)


def test_graph_network_passes_features_of_edges() -> None:
    """A network that takes the features of edges gets them, and a model that is not there is told with those that are."""
    pytest.importorskip("torch_geometric")
    network = graph_network("GAT", 3, 4, edge_dim=2)
    model = scattered(GraphNetworkEnergy(network, 4, 2, edge_messages=True)).eval()
    edges = torch.tensor([[0, 1, 0], [1, 2, 2]])
    a, b = (energy_of(model, NodeGraph(features(3), edges, features(3, 2, seed=s)), (0, 1, 0)) for s in (0, 1))
    assert a != b
    with pytest.raises(ConfigError, match="GraphSAGE"):
        graph_network("GTA", 3, 4)


def test_graph_network_without_pairs_is_independent() -> None:
    """With pairs="none" the marginals are softmaxes of each node's energies."""
    model = scattered(GraphNetworkEnergy(None, 3, 3, pairs="none"))
    assert isinstance(model, GraphNetworkEnergy)
    graph = model.graph([NodeGraph(features(4), torch.tensor([[0, 1], [1, 2]]))])
    expected = torch.softmax(-model.output(features(4)), 1)
    torch.testing.assert_close(es.marginals(graph).beliefs["y"].double(), expected.detach(), rtol=1e-6, atol=1e-9)


def test_torch_geometric_is_imported_when_asked_for() -> None:
    """Energies come without torch_geometric: only ``graph_network`` imports it."""
    code = "import sys, ebmstruct.energies; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_encoders_see_their_own_instance_only() -> None:
    """A recurrent and a window encoder give the same vectors in a batch as alone; order matters to both."""
    parts = [features(n, 4, seed=n) for n in (3, 1, 5)]
    offsets = torch.tensor([0, 3, 4, 4, 9])
    for encoder in (RecurrentEncoder(4, 6, depth=2).double(), WindowEncoder(4, window=2).double()):
        together = encoder(torch.cat(parts), offsets)
        alone = torch.cat([encoder(p, torch.tensor([0, len(p)])) for p in parts])
        torch.testing.assert_close(together, alone)
        backwards = encoder(parts[2].flip(0), torch.tensor([0, 5])).flip(0)
        assert not torch.allclose(together[4:], backwards)
    assert RecurrentEncoder(4)(torch.zeros(0, 4), torch.tensor([0, 0])).shape == (0, 4)


class Hidden(EnergyModel):
    """Two blocks: outputs ``y`` and a latent block of a name and of a size of its own."""

    def __init__(self, name: str, states: int, outputs: int = 3) -> None:
        super().__init__()
        self.block, self.states, self.outputs = name, states, outputs

    def forward(self, inputs: object) -> es.FactorGraph:
        y = es.Variables.of_lengths("y", es.Discrete(self.outputs), [2])
        h = es.Variables.of_lengths(self.block, es.Discrete(self.states), [1])
        table = torch.arange(float(self.outputs * self.states)).reshape(self.outputs, self.states)
        index = torch.tensor([[0, 1], [0, 0]])
        return es.FactorGraph([y, h], [es.TableFactor(("y", h.name), "pair", table, index)], constant=torch.ones(1))


def test_sum_over_the_union_of_blocks() -> None:
    """Parts with latent blocks of their own add up: E = E_1(y, a) + 2 E_2(y, b), and constants are weighted too."""
    one, two = Hidden("a", 2), Hidden("b", 4)
    total = SumOfEnergies([one, two], [1.0, 2.0], ["one", "two"]).graph([None])
    assert list(total.variables) == ["y", "a", "b"] and [f.label for f in total.factors] == ["one/pair", "two/pair"]
    y = {"y": torch.tensor([1, 2]), "a": torch.tensor([1]), "b": torch.tensor([3])}
    expected = one.graph([None]).energy(y) + 2 * two.graph([None]).energy(y)
    assert torch.equal(total.energy(y), expected)


def test_sum_needs_blocks_that_agree() -> None:
    """A name that stands for different variables in two parts is refused, with both parts named."""
    with pytest.raises(GraphError, match="'a', Discrete\\(2\\), .* and .*'a', Discrete\\(3\\), .* in two"):
        SumOfEnergies([Hidden("a", 2), Hidden("a", 3)], [1.0, 1.0], ["one", "two"]).graph([None])
    with pytest.raises(GraphError, match="'y'"):
        SumOfEnergies([Hidden("a", 2), Hidden("b", 2, outputs=2)], [1.0, 1.0]).graph([None])

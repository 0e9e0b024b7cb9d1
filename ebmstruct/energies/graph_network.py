"""Graph networks as factor graphs: the one door to torch_geometric, an extra (``pip install ebmstruct[graphs]``)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from ebmstruct.energies.inputs import LinkedSites
from ebmstruct.energies.model import EnergyModel
from ebmstruct.energies.pairs import PairTables
from ebmstruct.errors import ConfigError
from ebmstruct.graph import Discrete, FactorGraph, TableFactor, Variables


class GraphNetworkEnergy(EnergyModel):
    """A conditional random field over a graph whose tables come from a graph network (Qu, Bengio and Tang 2019).

    E(x, y) = sum_i (W h_i + b)[y_i] + sum over edges {i, j} of T_ij[y_i, y_j], h = network(x, edges),
    with the tables T of `PairTables`. A network alone labels nodes independently given h; the tables say which labels
    go together, so that one node's label informs the next, beyond what features tell.

    network: any module called as network(x, edge_index), which all convolutions and models of torch_geometric are; see
    `graph_network`. None takes the features as they are.  width: of the vectors h that it gives.  states: K.
    pairs: ``none``, labels are independent given x, the twin to compare with; ``shared``, one table for all edges;
    ``edges``, one for each, from h at both ends and the features of the edge.
    directed: each edge has a table, rows for where it comes from; otherwise an edge counts once however often and in
    whichever direction it is listed, and its table is symmetric.
    edge_width: of the features of edges, 0 to ignore them.  edge_messages: the network takes them too, as ``edge_attr``.
    hidden: units between an edge's vectors and its table, 0 for a linear map.
    An input is a torch_geometric ``Data`` or a `NodeGraph`: x (n, F), edge_index (2, m) and edge_attr (m, G), where used.
    A batch is their disjoint union, on which the network is run once.
    Inference: a forest is exact; a junction tree is where cycles are few; else messages, cuts or sampling.
    Cost: the network, and O(m K^2 width).
    """

    def __init__(
        self,
        network: nn.Module | None,
        width: int,
        states: int,
        *,
        pairs: Literal["none", "shared", "edges"] = "shared",
        directed: bool = False,
        edge_width: int = 0,
        edge_messages: bool = False,
        hidden: int = 0,
        block: str = "y",
    ) -> None:
        super().__init__()
        self.network = network
        self.output = nn.Linear(width, states)
        self.tables: PairTables | None = None
        if pairs != "none":
            given = (width, edge_width) if pairs == "edges" else (0, 0)
            self.tables = PairTables(states, width=given[0], edge_width=given[1], hidden=hidden, directed=directed)
        self.states, self.block, self.directed, self.edge_messages = states, block, directed, edge_messages

    def prepare(self, xs: Sequence[Any]) -> LinkedSites:
        return LinkedSites.of(xs)

    def forward(self, inputs: LinkedSites) -> FactorGraph:
        linked = inputs.to(self.device)
        x = linked.sites.features
        if self.network is None:
            h = x
        elif self.edge_messages:
            h = self.network(x, linked.edges, edge_attr=linked.edge_features)
        else:
            h = self.network(x, linked.edges)
        block = Variables(self.block, Discrete(self.states), linked.sites.offsets)
        graph = FactorGraph([block], [TableFactor((self.block,), "node", self.output(h))])
        if self.tables is None:
            return graph
        pairs, features = linked.links() if self.directed else linked.pairs()
        return graph.add(self.tables.factor(self.block, "edge", pairs, h, features))


def graph_network(kind: str, features: int, width: int, *, layers: int = 2, **options: Any) -> nn.Module:
    """A model of ``torch_geometric.nn.models`` by its name: ``GCN``, ``GraphSAGE``, ``GIN``, ``GAT``, ``PNA``, ``EdgeCNN``.

    features: F of a node.  width: of the vectors it gives and of its hidden layers.  layers: how far it sees, in edges.
    options: the model's own (dropout, norm, heads, act).
    Errors: ConfigError where torch_geometric is not installed or has no such model.
    """
    try:
        with warnings.catch_warnings():  # torch_geometric calls what torch has deprecated, which no user can mend
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch_geometric.nn import models
            from torch_geometric.nn.models.basic_gnn import BasicGNN
    except ImportError as error:
        said = "graph networks need torch_geometric, which is not installed; pip install 'ebmstruct[graphs]'"
        raise ConfigError([said]) from error
    known = [n for n in models.__all__ if isinstance(c := getattr(models, n), type) and issubclass(c, BasicGNN)]
    if kind not in known:
        raise ConfigError([f"graph network: found {kind!r}; there: {', '.join(sorted(known))}"])
    network: nn.Module = getattr(models, kind)(features, width, layers, width, **options)
    return network

"""A graph network with tables on edges against the same network with independent outputs, where labels interact.

usage: python -m benchmarks.graph_network [--seeds 5] [--epochs 30]

Random geometric graphs of 40 nodes; labels are exact draws from an antiferromagnetic Potts field (neighbours prefer to
differ), given features of nodes that tell a label weakly. Training, dev and test graphs are different graphs.
``coupling 0`` is the control in which labels do not interact.

Both models have the same network of torch_geometric, the same number of epochs, and their own step size and depth, chosen
by dev accuracy on data of a seed that is not counted. Both are trained end to end by exact likelihood (a junction tree
inside) and decoded by the engine: least energy, and the most probable label of each node. ``true field`` decodes with the
energy that the data were drawn from, which nothing can beat on average by its marginals.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import ebmstruct as es
from benchmarks.timing import table
from ebmstruct.energies import GraphNetworkEnergy, NodeGraph, graph_network
from ebmstruct.energies.pairs import PairTables

STATES, FEATURES, NODES, DEGREE = 3, 4, 40, 4.0
SIZES = {"train": 200, "dev": 100, "test": 300}
RATES, DEPTHS = (1e-3, 3e-3, 1e-2), (2, 4)
WIDTH = 32


@dataclass(frozen=True)
class Nothing(es.Schema):
    """A schema: this task has nothing to fit."""


@dataclass(frozen=True)
class Colours(es.Task):
    """Labels of the nodes of random geometric graphs.

    coupling: the energy of neighbours that agree.  noise: the spread of features about the centre of their label.
    """

    name: ClassVar[str] = "benchmark.colours"
    data_seed: int = 0
    coupling: float = 4.0
    noise: float = 0.7

    def examples(self, split: str) -> Iterable[es.Example]:
        """Graphs with exact draws of their labels."""
        generator = torch.Generator().manual_seed(10 * self.data_seed + list(SIZES).index(split))
        graphs = [random_geometric_graph(generator) for _ in range(SIZES[split])]
        blank = [NodeGraph(torch.zeros(NODES, 1), edges) for edges in graphs]
        field = Field(self.coupling).graph(blank)
        drawn = es.sample(field, num_samples=1, generator=generator)
        assert drawn.exact
        labels = drawn.values["y"][0].reshape(-1, NODES)
        for number, (edges, y) in enumerate(zip(graphs, labels, strict=True)):
            x = centres()[y] + self.noise * torch.randn(NODES, FEATURES, generator=generator)
            both = torch.cat([edges, edges.flip(0)], 1)
            yield es.Example(NodeGraph(x, both), tuple(y.tolist()), f"{split}:{number}")

    def fit(self, train: Sequence[es.Example]) -> Nothing:
        """Nothing."""
        return Nothing()

    def encode(self, ys: Sequence[Any], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        """Labels side by side."""
        return es.Assignment({"y": torch.tensor([k for y in ys for k in y])})

    def decode(self, y: es.Assignment, graph: es.FactorGraph, schema: Any) -> list[Any]:
        """The labels of each graph."""
        return [tuple(part.tolist()) for part in y["y"].split(graph.variables["y"].lengths.tolist())]

    def score(self, examples: Sequence[es.Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """The share of nodes that are right."""
        right = [a == b for e, output in zip(examples, outputs, strict=True) for a, b in zip(e.y, output, strict=True)]
        return {"accuracy": sum(right) / len(right)}


def centres() -> torch.Tensor:
    """(K, F) the mean features of each label: far apart by 1 in two of the features, the others say nothing."""
    angle = torch.arange(STATES) * (2 * math.pi / STATES)
    means = torch.stack([angle.cos(), angle.sin()], 1) / math.sqrt(3)
    return torch.cat([means, torch.zeros(STATES, FEATURES - 2)], 1)


def random_geometric_graph(generator: torch.Generator) -> torch.Tensor:
    """(2, m) edges i < j between points of the unit square that lie near each other."""
    points = torch.rand(NODES, 2, generator=generator)
    i, j = torch.triu_indices(NODES, NODES, 1)
    near = (points[i] - points[j]).norm(dim=1) < math.sqrt(DEGREE / (NODES * math.pi))
    return torch.stack([i[near], j[near]])


class Field(es.EnergyModel):
    """The energy that labels are drawn from: ``coupling`` for each edge whose ends agree; and, given features, theirs."""

    def __init__(self, coupling: float, noise: float | None = None) -> None:
        super().__init__()
        self.model = GraphNetworkEnergy(None, 1 if noise is None else FEATURES, STATES)
        assert isinstance(self.model.tables, PairTables)
        self.model.tables.shared.data = coupling * torch.eye(STATES)
        # -log of a normal density about each centre, less what all labels have in common
        c = centres()
        self.model.output.weight.data = torch.zeros(STATES, 1) if noise is None else -c / noise**2
        self.model.output.bias.data = torch.zeros(STATES) if noise is None else c.square().sum(1) / (2 * noise**2)

    def prepare(self, xs: Sequence[Any]) -> Any:
        """Those of the model inside."""
        return self.model.prepare(xs)

    def forward(self, inputs: Any) -> es.FactorGraph:
        """The graph of a batch."""
        graph: es.FactorGraph = self.model(inputs)
        return graph


@dataclass(frozen=True)
class Outcome:
    """accuracy: of the least energy.  by_marginals: of the most probable labels.  cpu_seconds: of training."""

    dev: float
    accuracy: float
    by_marginals: float
    cpu_seconds: float


def accuracy(task: Colours, model: es.EnergyModel, examples: Sequence[es.Example], *, marginals: bool) -> float:
    """The share of nodes that are right under one of the two ways of decoding."""
    with torch.no_grad():
        graph = model.graph([e.x for e in examples])
    likely = es.Assignment({"y": es.marginals(graph).beliefs["y"].argmax(1)}) if marginals else None
    y = es.minimize(graph).assignment if likely is None else likely
    return float(task.score(examples, task.decode(y, graph, None))["accuracy"])


def trained(task: Colours, pairs: Any, rate: float, depth: int, epochs: int, seed: int) -> Outcome:
    """One model, trained from a seed and measured."""
    train, dev, test = (list(task.examples(split)) for split in SIZES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = graph_network("GraphSAGE", FEATURES, WIDTH, layers=depth)
        model = GraphNetworkEnergy(network, WIDTH, STATES, pairs=pairs)
    options = es.TrainingOptions(epochs=epochs, batch_size=16, lr=rate, schedule="cosine", seed=seed)
    begin = time.process_time()
    trace = es.fit(
        model,
        task,
        None,
        train,
        es.NegativeLogLikelihood(),
        options,
        evaluate=lambda: {"accuracy": accuracy(task, model, dev, marginals=False)},
        metric="accuracy",
    )
    spent = time.process_time() - begin
    found = [accuracy(task, model, test, marginals=m) for m in (False, True)]
    return Outcome(trace.best, *found, spent)


def tuned(coupling: float, pairs: Any, epochs: int) -> tuple[float, int]:
    """The step size and depth with the best dev accuracy on data that are not counted."""
    task = Colours(data_seed=1000, coupling=coupling)
    scores = {(r, d): trained(task, pairs, r, d, epochs, 1000).dev for r in RATES for d in DEPTHS}
    return max(scores, key=lambda setting: scores[setting])


def mean_and_error(values: Sequence[float]) -> str:
    """The mean in points of a hundred, with its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{100 * statistics.mean(values):.2f} ± {100 * error:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--couplings", type=float, nargs="+", default=[4.0, 0.0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for coupling in arguments.couplings:
        found: dict[str, list[Outcome]] = {}
        for pairs in ("none", "shared"):
            rate, depth = tuned(coupling, pairs, arguments.epochs)
            found[pairs] = [
                trained(Colours(data_seed=s, coupling=coupling), pairs, rate, depth, arguments.epochs, s)
                for s in range(arguments.seeds)
            ]
            least, likely = ([getattr(o, f) for o in found[pairs]] for f in ("accuracy", "by_marginals"))
            cpu = statistics.mean(o.cpu_seconds for o in found[pairs])
            name = "independent outputs" if pairs == "none" else "tables on edges"
            rows.append([coupling, name, f"{rate:g}, {depth}", mean_and_error(least), mean_and_error(likely), cpu])
        for field in ("accuracy", "by_marginals"):
            gains = [getattr(b, field) - getattr(a, field) for a, b in zip(found["none"], found["shared"], strict=True)]
            found[field] = gains  # type: ignore[assignment]
        paired = [mean_and_error(found[f]) for f in ("accuracy", "by_marginals")]  # type: ignore[arg-type]
        rows.append([coupling, "gain, paired by seed", "", *paired, ""])
        rows.append([coupling, "true field", "", *ceiling(coupling, arguments.seeds), ""])
    columns = [
        "coupling",
        "model",
        "step size, depth",
        "accuracy, least energy",
        "accuracy, marginals",
        "training CPU s",
    ]
    print(table(columns, rows))


def ceiling(coupling: float, seeds: int) -> list[str]:
    """The accuracies of the field that the data were drawn from."""
    found: list[list[float]] = [[], []]
    for seed in range(seeds):
        task = Colours(data_seed=seed, coupling=coupling)
        test = list(task.examples("test"))
        for column, marginals in zip(found, (False, True), strict=True):
            column.append(accuracy(task, Field(coupling, task.noise), test, marginals=marginals))
    return [mean_and_error(column) for column in found]


if __name__ == "__main__":
    main()

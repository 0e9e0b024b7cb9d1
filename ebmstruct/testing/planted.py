"""Planted models: small energies with known parameters, and data made by them, on which a loss can be put to the test.

A loss that is right brings a fresh model to the planted answers. The losses of this package are held to that by its
tests, and so may be those of a plugin::

    planted = plant("chain")
    model = planted.fresh()
    fit(model, planted, None, planted.train, MyLoss(), TrainingOptions(epochs=20, lr=0.05))
    assert planted.recovered(model) >= 0.95
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from ebmstruct.energies import EnergyModel
from ebmstruct.graph import (
    Assignment,
    BlockFactor,
    ChainFactor,
    Discrete,
    Factor,
    FactorGraph,
    GridFactor,
    Real,
    ResidualFactor,
    TableFactor,
    Variables,
)
from ebmstruct.inference import marginals, minimize

Kind = Literal["chain", "grid", "label_set", "mixed", "continuous"]
KINDS: tuple[Kind, ...] = ("chain", "grid", "label_set", "mixed", "continuous")
FEATURES = 3
"""Numbers in the features of a site."""
STATES = {"chain": 3, "grid": 2, "label_set": 2, "mixed": 3}
"""States of a discrete output."""
PLACES = 6
"""The most sites of an instance."""
NOISE = 0.3
"""The width of continuous outputs about their means."""
NEAR = 0.3
"""How far a continuous output may lie from the planted one, and still count as recovered."""
SURE = 0.9
"""The planted model is at least so sure of each discrete output in the data."""


class PlantedModel(EnergyModel):
    """An energy that is small enough to be enumerated, over features (n, FEATURES) of each instance.

    kind: ``chain`` (3 states, a table of transitions), ``grid`` (2 rows of 3 binary sites, one table of neighbours),
    ``label_set`` (4 binary labels with an energy of the whole set, softplus of sums of labels), ``mixed`` (one discrete
    site of 3 states with a point in the plane whose mean it moves), ``continuous`` (chains of 2 points in the plane).
    latent: with a block ``h`` of two states that no target knows: one a site in chains and grids, else one an instance.
    Where there is one, features speak to it and it speaks to the output. Outputs are ``y`` (discrete) and ``z``.
    """

    def __init__(self, kind: Kind, *, latent: bool = False, scale: float = 0.1) -> None:
        super().__init__()
        self.kind, self.latent = kind, latent
        states = STATES.get(kind, 0)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(*shape, dtype=torch.float64))

        if states:
            self.local, self.bias = parameter(FEATURES, states), parameter(states)
        if kind in ("chain", "grid"):
            self.pair = parameter(states, states)
        if kind == "label_set":
            self.label, self.pool = parameter(4, FEATURES), parameter(4, 3)
        if kind in ("mixed", "continuous"):
            self.mean = parameter(FEATURES, 2)
        if kind == "mixed":
            self.move = parameter(states, 2)
        if kind == "continuous":
            self.link = parameter(2)
        if latent:
            self.hidden = parameter(FEATURES, 2)
            self.tie = parameter(2, states) if states else parameter(2, 2)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The blocks that targets know."""
        return {"mixed": ("y", "z"), "continuous": ("z",)}.get(self.kind, ("y",))

    def forward(self, inputs: Sequence[Tensor]) -> FactorGraph:
        lengths = [x.shape[0] for x in inputs]
        x = torch.cat(list(inputs))
        blocks: dict[str, Variables] = {}
        if self.kind in STATES:
            blocks["y"] = Variables.of_lengths("y", Discrete(STATES[self.kind]), lengths)
        if "z" in self.outputs:
            blocks["z"] = Variables.of_lengths("z", Real(2), lengths)
        if self.latent:
            one_each = self.kind in ("label_set", "mixed", "continuous")
            blocks["h"] = Variables.of_lengths("h", Discrete(2), [1] * len(lengths) if one_each else lengths)
        factors = [*self._discrete(x), *self._points(x, blocks), *self._latents(x, blocks)]
        return FactorGraph(list(blocks.values()), factors)

    def _discrete(self, x: Tensor) -> list[Factor]:
        if self.kind not in STATES:
            return []
        unary = self.bias.expand(x.shape[0], -1) if self.latent else x @ self.local + self.bias
        if self.kind == "label_set" and not self.latent:
            own = (x.reshape(-1, 4, FEATURES) * self.label).sum(-1).reshape(-1)
            unary = torch.stack([torch.zeros_like(own), own], 1)
        factors: list[Factor] = [TableFactor(("y",), "local", unary)]
        if self.kind == "chain":
            factors.append(ChainFactor(("y",), "pair", self.pair))
        if self.kind == "grid":
            right, down = torch.ones(2, x.shape[0], dtype=x.dtype)
            right[2::3], down[3::6], down[4::6], down[5::6] = 0.0, 0.0, 0.0, 0.0
            width = torch.full((x.shape[0] // 6,), 3)
            factors.append(GridFactor(("y",), "pair", self.pair, right, down, width))
        if self.kind == "label_set":
            pool = self.pool.expand(x.shape[0] // 4, -1, -1)
            factors.append(BlockFactor(("y",), "set", _pooled, (pool,), relaxed=True))
        return factors

    def _points(self, x: Tensor, blocks: dict[str, Variables]) -> list[Factor]:
        if "z" not in self.outputs:
            return []
        n = x.shape[0]
        sites, width = torch.arange(n), torch.full((n, 1), NOISE, dtype=x.dtype)
        mean = x @ self.mean
        if self.kind == "mixed":
            move = self.move.expand(n, -1, -1)
            index = torch.stack([sites, sites])
            return [ResidualFactor(("z", "y"), "point", _moved, index, (mean, move, width), linear=True)]
        first = sites[::2]
        factors: list[Factor] = [
            ResidualFactor(("z",), "point", _near, sites[None], (mean, width), linear=True),
            ResidualFactor(
                ("z", "z"),
                "link",
                _linked,
                torch.stack([first, first + 1]),
                (self.link.expand(n // 2, -1), width[::2]),
                linear=True,
            ),
        ]
        return factors

    def _latents(self, x: Tensor, blocks: dict[str, Variables]) -> list[Factor]:
        if not self.latent:
            return []
        h = blocks["h"]
        per_instance = x.shape[0] // h.num_sites
        speaks = x.reshape(h.num_sites, per_instance, FEATURES).sum(1) @ self.hidden
        factors: list[Factor] = [TableFactor(("h",), "hidden", speaks)]
        sites = torch.arange(x.shape[0])
        index = torch.stack([sites // per_instance, sites])
        if self.kind in STATES:
            factors.append(TableFactor(("h", "y"), "tie", self.tie.expand(x.shape[0], -1, -1), index=index))
        else:
            shift = self.tie.expand(x.shape[0], -1, -1)
            width = torch.full((x.shape[0], 1), NOISE, dtype=x.dtype)
            factors.append(ResidualFactor(("z", "h"), "tie", _moved_by, index.flip(0), (shift, width), linear=True))
        return factors


class PlantedNetwork(nn.Module):
    """An inference network for a planted model: each site's guess by its own features, its neighbours' and their mean.

    It gives logits of outputs and latent states, and values of points, for ``Amortised``.
    """

    def __init__(self, truth: PlantedModel, hidden: int = 32) -> None:
        super().__init__()
        self.kind, self.latent, self.outputs = truth.kind, truth.latent, truth.outputs
        sizes = {"y": STATES.get(truth.kind, 0), "z": 2, "h": 2}
        self.sizes = {n: sizes[n] for n in (*truth.outputs, *(("h",) if truth.latent else ()))}
        self.layers = nn.Sequential(
            nn.Linear(4 * FEATURES + PLACES, hidden, dtype=torch.float64),
            nn.Tanh(),
            nn.Linear(hidden, sum(self.sizes.values()), dtype=torch.float64),
        )

    def forward(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        rows = []
        for x in inputs:
            padded = torch.nn.functional.pad(x, (0, 0, 1, 1))
            place = torch.eye(PLACES, dtype=x.dtype)[: x.shape[0]]
            rows.append(torch.cat([padded[:-2], x, padded[2:], x.mean(0).expand_as(x), place], 1))
        found = dict(zip(self.sizes, self.layers(torch.cat(rows)).split(list(self.sizes.values()), 1), strict=True))
        if self.latent and self.kind in ("label_set", "mixed", "continuous"):
            found["h"] = torch.stack([h.mean(0) for h in found["h"].split([x.shape[0] for x in inputs])])
        return found


def _pooled(y: Tensor, pool: Tensor, offsets: Any) -> Tensor:
    """(B,) the energy of a whole set of labels: softplus of weighted sums of those that are on, less their sum."""
    on = y[:, 1].reshape(-1, 4)
    total = (on[:, :, None] * pool).sum(1)
    return torch.nn.functional.softplus(2.0 * total).sum(1) - total.sum(1)


def _near(z: Tensor, mean: Tensor, width: Tensor) -> Tensor:
    return (z - mean) / width


def _linked(first: Tensor, second: Tensor, link: Tensor, width: Tensor) -> Tensor:
    return (second - first - link) / width


def _moved(z: Tensor, y: Tensor, mean: Tensor, move: Tensor, width: Tensor) -> Tensor:
    return (z - mean - move[torch.arange(len(y)), y]) / width


def _moved_by(z: Tensor, h: Tensor, shift: Tensor, width: Tensor) -> Tensor:
    return (z - shift[torch.arange(len(h)), h]) / width


@dataclass(frozen=True, eq=False)
class PlantedExample:
    """x: (n, FEATURES).  y: block name to this instance's values of the outputs.  answer: what the planted model says."""

    x: Tensor
    y: dict[str, Tensor]
    answer: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Planted:
    """A planted model with data that it made; it encodes targets as a task does, so ``fit`` takes it for one.

    Discrete outputs of the data are the planted model's own answers, of which it is sure; continuous ones are draws.
    """

    truth: PlantedModel
    train: tuple[PlantedExample, ...]
    held_out: tuple[PlantedExample, ...]

    def fresh(self, seed: int = 0) -> PlantedModel:
        """A model of the same kind with small random parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            return PlantedModel(self.truth.kind, latent=self.truth.latent)

    def encode(self, ys: Sequence[dict[str, Tensor]], graph: FactorGraph, schema: Any) -> Assignment:
        """The outputs; latent blocks stay out."""
        return Assignment({n: torch.cat([y[n] for y in ys]) for n in self.truth.outputs})

    def cost(self, graph: FactorGraph, target: Assignment, schema: Any) -> Sequence[Factor]:
        """One for each discrete output that is wrong; continuous outputs cost nothing."""
        if "y" not in target:
            return ()
        wrong = 1.0 - torch.nn.functional.one_hot(target["y"], STATES[self.truth.kind]).double()
        return (TableFactor(("y",), "cost", wrong),)

    def graph(self, model: EnergyModel, examples: Sequence[PlantedExample]) -> FactorGraph:
        """The graph of some examples."""
        found: FactorGraph = model([e.x for e in examples])
        return found

    def target(self, examples: Sequence[PlantedExample]) -> Assignment:
        """The target of some examples."""
        return self.encode([e.y for e in examples], None, None)  # type: ignore[arg-type]

    def recovered(self, model: EnergyModel, *, sum_out: bool = False) -> float:
        """The share of held-out cases whose least energy lies at the planted answer, in every output of the case.

        sum_out: latent blocks are summed out, not minimised over.
        """
        graph = self.graph(model, self.held_out)
        latent = ("h",) if sum_out and self.truth.latent else ()
        found = minimize(graph, sum_out=latent).assignment
        right = torch.ones(graph.num_instances, dtype=torch.bool)
        for name in self.truth.outputs:
            answer = torch.cat([e.answer[name] for e in self.held_out])
            own = found[name]
            good = own == answer if own.dim() == 1 else (own - answer).norm(dim=1) <= NEAR
            bad = graph.variables[name].instance[~good]
            right[bad] = False
        return float(right.double().mean())


def plant(kind: Kind, *, latent: bool = False, train: int = 240, held_out: int = 100, seed: int = 1) -> Planted:
    """A planted model of a kind, with data made by it; see ``PlantedModel`` for the kinds."""
    truth = _truth(kind, latent, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    found: list[PlantedExample] = []
    while len(found) < train + held_out:
        found += _made(truth, 256, generator)
    return Planted(truth, tuple(found[:train]), tuple(found[train : train + held_out]))


@torch.no_grad()
def _truth(kind: Kind, latent: bool, seed: int) -> PlantedModel:
    """The planted parameters: features speak loudly, all else moderately, and the latent states prefer one output each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + seed)
        truth = PlantedModel(kind, latent=latent, scale=1.0)
    for name, strength in (("local", 3.0), ("label", 3.0), ("hidden", 6.0), ("bias", 0.3), ("pair", 0.6)):
        if name in dict(truth.named_parameters()):
            getattr(truth, name).mul_(strength)
    if latent and kind in STATES:
        truth.bias.zero_()
        truth.tie.mul_(0.5)
        truth.tie[0, 0] -= 5.0
        truth.tie[1, 1] -= 5.0
    return truth


@torch.no_grad()
def _made(truth: PlantedModel, count: int, generator: Generator) -> list[PlantedExample]:
    """Examples of which the planted model is sure."""
    fixed = {"grid": 6, "label_set": 4, "mixed": 1, "continuous": 2}.get(truth.kind)
    lengths = torch.randint(2, 5, (count,), generator=generator) if fixed is None else torch.full((count,), fixed)
    xs = [torch.randn(int(n), FEATURES, generator=generator, dtype=torch.float64) for n in lengths]
    graph = truth(xs)
    answer = minimize(graph).assignment
    beliefs = marginals(graph).beliefs
    sure = torch.ones(count, dtype=torch.bool)
    for name, belief in beliefs.items():
        top, state = belief.max(1)
        doubtful = (top < SURE) | (state != answer[name])
        sure[graph.variables[name].instance[doubtful]] = False
    values = dict(answer.items())
    if "z" in truth.outputs:
        noise = torch.randn(values["z"].shape, generator=generator, dtype=torch.float64)
        values["z"] = values["z"] + NOISE * noise
    parts = {n: torch.split(values[n], graph.variables[n].lengths.tolist()) for n in truth.outputs}
    answers = {n: torch.split(answer[n], graph.variables[n].lengths.tolist()) for n in truth.outputs}
    rows = sure.nonzero()[:, 0].tolist()
    return [
        PlantedExample(xs[b], {n: v[b] for n, v in parts.items()}, {n: v[b] for n, v in answers.items()}) for b in rows
    ]

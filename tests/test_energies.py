"""What every energy promises: batches equal loops, true gradients, weights saved and loaded, any loss or why not."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

import ebmstruct as es
from ebmstruct.energies import (
    AttentionEnergy,
    BoltzmannMachine,
    ChainEnergy,
    ConvolutionalEnergy,
    EncoderStack,
    EnergyModel,
    GaussianBoltzmannMachine,
    GraphNetworkEnergy,
    GridEnergy,
    LabelSetEnergy,
    MixtureEnergy,
    NodeGraph,
    ProductOfExperts,
    RecurrentEncoder,
    SecondOrderChainEnergy,
    SegmentEnergy,
    SkipChainEnergy,
    StudentTExpert,
    SumOfEnergies,
    TreeEnergy,
    WindowEncoder,
    graph_network,
)
from ebmstruct.errors import LossRefusal, SolverRefusal
from ebmstruct.extend.components import CORE

LENGTHS = (4, 1, 3)


def seeded(seed: int = 0) -> Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def sequences() -> list[Tensor]:
    """Features of three sequences of different lengths."""
    return [torch.randn(n, 3, generator=seeded(n), dtype=torch.float64) for n in LENGTHS]


def linked() -> list[NodeGraph]:
    """The same with edges, one of them listed twice, and features of edges."""
    edges = ([[0, 2, 1, 3], [2, 0, 3, 0]], [[], []], [[2, 1], [0, 2]])
    out = []
    for x, e in zip(sequences(), edges, strict=True):
        index = torch.tensor(e, dtype=torch.long)
        out.append(NodeGraph(x, index, torch.randn(index.shape[1], 2, generator=seeded(1), dtype=torch.float64)))
    return out


def trees() -> list[tuple[Tensor, Tensor]]:
    """The same with parents; the last is a forest."""
    return list(zip(sequences(), (torch.tensor(p) for p in ([-1, 0, 0, 1], [-1], [1, -1, -1])), strict=True))


def images() -> list[Tensor]:
    """Images of different sizes with three features a pixel."""
    shapes = ((2, 3), (3, 2), (1, 4))
    return [torch.randn(3, h, w, generator=seeded(h), dtype=torch.float64) for h, w in shapes]


def rows() -> list[Tensor]:
    """One row of features an instance."""
    return [torch.randn(3, generator=seeded(s), dtype=torch.float64) for s in range(3)]


def nothing() -> list[None]:
    """Three inputs that say nothing."""
    return [None] * 3


@dataclass(frozen=True)
class Kind:
    """A kind of energy: how a model of it is made, and inputs for it."""

    make: Callable[[], EnergyModel]
    xs: Callable[[], list[Any]]


def context() -> EncoderStack:
    """An encoder with both sorts of context; features 3, vectors 4."""
    return EncoderStack(torch.nn.Linear(3, 4), WindowEncoder(4), RecurrentEncoder(4))


def graph_model(**options: Any) -> GraphNetworkEnergy:
    """A graph network with attention to neighbours."""
    return GraphNetworkEnergy(graph_network("GraphSAGE", 3, 4), 4, 3, **options)


KINDS = {
    "chain": Kind(lambda: ChainEnergy(3, 3), sequences),
    "chain of sites": Kind(lambda: ChainEnergy(4, 3, encoder=context(), transitions="sites"), sequences),
    "second order": Kind(lambda: SecondOrderChainEnergy(3, 3), sequences),
    "skip chain": Kind(lambda: SkipChainEnergy(3, 3, link_width=2), linked),
    "directed skip chain": Kind(lambda: SkipChainEnergy(3, 2, directed=True), linked),
    "tree": Kind(lambda: TreeEnergy(3, 3, pairwise=True), trees),
    "segments": Kind(lambda: SegmentEnergy(3, 2, 3), sequences),
    "grid": Kind(lambda: GridEnergy(3, 2), images),
    "learned grid": Kind(lambda: GridEnergy(3, 3, table="learned", contrast=False), images),
    "labels": Kind(lambda: LabelSetEnergy(3, 4), rows),
    "joint labels": Kind(lambda: LabelSetEnergy(2, 4, encoder=torch.nn.Linear(3, 2), joint="both"), rows),
    "experts": Kind(lambda: ProductOfExperts(3, [StudentTExpert(3, 4), StudentTExpert(3, 2)], spread=2.0), nothing),
    "boltzmann": Kind(lambda: BoltzmannMachine(3, 2), nothing),
    "free boltzmann": Kind(lambda: BoltzmannMachine(3, 2, form="free"), nothing),
    "categorical boltzmann": Kind(lambda: BoltzmannMachine(2, 2, states=3), nothing),
    "gaussian boltzmann": Kind(lambda: GaussianBoltzmannMachine(3, 2), nothing),
    "free gaussian boltzmann": Kind(lambda: GaussianBoltzmannMachine(3, 2, form="free"), nothing),
    "convolution": Kind(lambda: ConvolutionalEnergy(1, 5, 4, filters=(3, 4)), nothing),
    "spectral convolution": Kind(lambda: ConvolutionalEnergy(2, 3, 3, filters=(3,), spectral=True), nothing),
    "attention": Kind(lambda: AttentionEnergy(3, states=2, width=4, layers=1), sequences),
    "attention to points": Kind(lambda: AttentionEnergy(3, dim=2, width=4, layers=1, positions=True), sequences),
    "mixture": Kind(lambda: MixtureEnergy(2, 3), nothing),
    "graph network": Kind(lambda: graph_model(pairs="edges", edge_width=2, hidden=3), linked),
    "directed graph network": Kind(lambda: graph_model(pairs="edges", directed=True), linked),
    "sum": Kind(
        lambda: SumOfEnergies([LabelSetEnergy(3, 4), BoltzmannMachine(4, 2, visible_block="y")], [1.0, 0.5]), rows
    ),
}


def model_of(kind: Kind, seed: int = 0) -> EnergyModel:
    """A model in double precision with random parameters, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.make().double()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.5)
    return model.eval()


def values_of(graph: es.FactorGraph, seed: int = 0) -> dict[str, Tensor]:
    """Random values of every block; segments have one site each, so that they are legal."""
    generator, out = seeded(seed), {}
    for name, block in graph.variables.items():
        if isinstance(block.domain, es.Discrete):
            step = 2 if any(isinstance(f, es.SegmentFactor) for f in graph.factors) else 1
            states = torch.randint(0, block.domain.largest // step, (block.num_sites,), generator=generator)
            out[name] = step * states
        else:
            out[name] = torch.randn(block.num_sites, block.domain.dim, generator=generator, dtype=torch.float64)
    return out


def own_values(values: dict[str, Tensor], graph: es.FactorGraph, instance: int) -> dict[str, Tensor]:
    """The values of one instance."""
    out = {}
    for name, block in graph.variables.items():
        out[name] = values[name][int(block.offsets[instance]) : int(block.offsets[instance + 1])]
    return out


@pytest.mark.parametrize("name", KINDS)
def test_batch_equals_loop(name: str) -> None:
    """The energy of each instance of a batch is what it is alone, whatever its neighbours are."""
    model, xs = model_of(KINDS[name]), KINDS[name].xs()
    graph = model.graph(xs)
    values = values_of(graph)
    alone = [model.graph([x]).energy(own_values(values, graph, b)) for b, x in enumerate(xs)]
    torch.testing.assert_close(graph.energy(values), torch.cat(alone), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_selection_and_repetition(name: str) -> None:
    """Prepared inputs picked out in any order are those inputs prepared; a repeated graph has the same energies again."""
    model, xs = model_of(KINDS[name]), KINDS[name].xs()
    graph = model(model.prepare(xs).select([2, 0]))
    again = model.graph([xs[2], xs[0]])
    values = values_of(graph)
    torch.testing.assert_close(graph.energy(values), again.energy(values))
    twice = {k: v.repeat(2, *[1] * (v.dim() - 1)) for k, v in values.items()}
    torch.testing.assert_close(graph.repeat(2).energy(twice), graph.energy(values).repeat(2))
    torch.testing.assert_close(
        graph.select(torch.tensor([1])).energy(own_values(values, graph, 1)), graph.energy(values)[1:]
    )


@pytest.mark.parametrize("name", KINDS)
def test_gradient(name: str) -> None:
    """The derivative of the energy along a random direction of the parameters is the central difference."""
    model, xs = model_of(KINDS[name]), KINDS[name].xs()
    inputs = model.prepare(xs)
    values = values_of(model(inputs))
    parameters = list(model.parameters())
    share = torch.randn(len(xs), generator=seeded(1), dtype=torch.float64)
    direction = [torch.randn(p.shape, generator=seeded(2), dtype=torch.float64) for p in parameters]

    def at(step: float) -> Tensor:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
            energy = model(inputs).energy(values) @ share
            for p, d in zip(parameters, direction, strict=True):
                p -= step * d
        return energy

    found = torch.autograd.grad(model(inputs).energy(values) @ share, parameters, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(found, direction, strict=True) if g is not None)
    assert slope == pytest.approx(float(at(1e-5) - at(-1e-5)) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", KINDS)
def test_save_and_load(name: str, tmp_path: Path) -> None:
    """Weights written as safetensors and loaded into a model made elsewhere give the same energies."""
    model, other, xs = model_of(KINDS[name]), model_of(KINDS[name], seed=1), KINDS[name].xs()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    graph = model.graph(xs)
    values = values_of(graph)
    assert torch.equal(graph.energy(values), other.graph(xs).energy(values))


@pytest.mark.parametrize("name", KINDS)
def test_minimised(name: str) -> None:
    """The engine answers: no random values have less energy than what it finds; an empty batch is no fault."""
    model, xs = model_of(KINDS[name]), KINDS[name].xs()
    graph = model.graph(xs)
    found = es.minimize(graph)
    for seed in range(5):
        assert bool((found.energy <= graph.energy(values_of(graph, seed)) + 1e-6).all())
    one = model.prepare(xs).select([])
    assert len(one) == 0


LATENT = ("h", "z")
"""Blocks that no target knows."""
SURE = {
    "chain": ("negative_log_likelihood", "perceptron", "pseudo_likelihood"),
    "tree": ("negative_log_likelihood", "structured_hinge"),
    "labels": ("perceptron", "contrastive_divergence"),
    "boltzmann": ("negative_log_likelihood", "persistent_contrastive_divergence"),
    "gaussian boltzmann": ("negative_log_likelihood", "contrastive_divergence"),
    "convolution": ("score_matching", "contrastive_divergence"),
    "mixture": ("negative_log_likelihood",),
    "graph network": ("negative_log_likelihood", "pseudo_likelihood"),
}
"""What must not be refused."""


@pytest.mark.slow
@pytest.mark.parametrize("loss", CORE["loss"])
@pytest.mark.parametrize("name", KINDS)
def test_loss_on_energy(name: str, loss: str, caplog: pytest.LogCaptureFixture) -> None:
    """The value is finite and some parameter has a gradient, all of it finite; or the refusal says why."""
    caplog.set_level(logging.ERROR)
    home, _, cls = CORE["loss"][loss].partition(":")
    objective = getattr(importlib.import_module(home), cls)()
    model, xs = model_of(KINDS[name]).train(), KINDS[name].xs()
    graph = model.graph(xs)
    target = es.Assignment({k: v for k, v in values_of(graph).items() if k not in LATENT})
    try:
        found = objective(graph, target, generator=torch.Generator().manual_seed(0), examples=range(len(xs)))
        found.value.sum().backward()
    except (LossRefusal, SolverRefusal) as refusal:
        assert len(str(refusal)) > 30 and loss not in SURE.get(name, ())
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert bool(found.value.isfinite().all()) and all(bool(g.isfinite().all()) for g in gradients)
    assert gradients

"""Small graphs of many kinds, latent sites and label sets among them, with targets and lists of their outputs by energy."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, BlockFactor, Discrete, FactorGraph, TableFactor, Variables
from ebmstruct.inference import sample
from ebmstruct.testing import Oracle, random_chain, random_forest, random_graph, random_grid

Maker = Callable[[torch.Generator], FactorGraph]
LossFunction = Callable[[FactorGraph, Assignment], Tensor]


def label_set(generator: torch.Generator) -> FactorGraph:
    """Two sets of three labels with one energy of the whole set."""
    block = Variables.of_lengths("y", Discrete(2), [3, 3])
    pool = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)

    def energy(y: Tensor, pool: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        total = (y[:, 1].reshape(-1, 3, 1) * pool).sum(1)
        return 2 * torch.nn.functional.softplus(2 * total).sum(1) - 3 * total.sum(1)

    return FactorGraph([block], [BlockFactor(("y",), "set", energy, (pool,), relaxed=True)])


def hidden_chain(generator: torch.Generator) -> FactorGraph:
    """Chains of three states with a latent binary site below each."""
    graph = random_chain([2, 3], 3, generator)
    y = graph.variables["y"]
    h = Variables.of_lengths("h", Discrete(2), [2, 3])
    sites = torch.arange(5)
    tie = TableFactor(
        ("h", "y"), "tie", torch.randn(5, 2, 3, generator=generator, dtype=torch.float64), torch.stack([sites, sites])
    )
    return FactorGraph([y, h], [*graph.factors, tie])


MAKERS: dict[str, Maker] = {
    "chain": lambda g: random_chain([3, 1, 4], 3, g),
    "constrained chain": lambda g: random_chain([3, 4], 3, g, forbid=0.2),
    "forest": lambda g: random_forest([4, 3, 1], 3, g),
    "grid": lambda g: random_grid([(2, 2), (2, 3)], 2, g),
    "label set": label_set,
    "cycles": lambda g: random_graph([4, 3], 3, g, arities=(2, 3), rows=3),
    "hidden chain": hidden_chain,
}


def random_target(graph: FactorGraph, generator: torch.Generator, known: float) -> Assignment:
    """States of finite energy; ``h`` is never known, the others with the given probability."""
    drawn = sample(graph, num_samples=1, temperature=5.0, generator=generator)
    values = {n: v[0] for n, v in drawn.values.items() if n != "h"}
    if known == 1.0:
        return Assignment(values)
    return Assignment(values, {n: torch.rand(v.shape[0], generator=generator) < known for n, v in values.items()})


def cases(maker: Maker, known: float, seed: int) -> tuple[FactorGraph, Assignment, torch.Generator]:
    """A graph and a target of it."""
    generator = torch.Generator().manual_seed(seed)
    graph = maker(generator)
    return graph, random_target(graph, generator, known), generator


def wrong_sites(graph: FactorGraph, target: Assignment, instance: int) -> Callable[[tuple[int, ...]], int]:
    """How many known sites of an assignment of the oracle differ from the target."""
    wanted: list[int | None] = []
    for name, block in graph.variables.items():
        for site in range(int(block.offsets[instance]), int(block.offsets[instance + 1])):
            known = name in target and (name not in target.known or bool(target.known[name][site]))
            wanted.append(int(target[name][site]) if known else None)
    return lambda s: sum(a is not None and a != b for a, b in zip(wanted, s, strict=True))


def outputs_of(
    graph: FactorGraph, target: Assignment, instance: int, truth: Oracle, soft: bool
) -> list[tuple[int, float]]:
    """The cost and the energy of every output: least over the latent blocks, or summed over them."""
    wrong = wrong_sites(graph, target, instance)
    if not soft:
        return [(wrong(s), e) for s, e in zip(truth.states, truth.energies, strict=True)]
    latent = [n not in target for n, v in graph.variables.items() for _ in range(int(v.lengths[instance]))]
    sums: dict[tuple[int, ...], list[float]] = {}
    costs = {}
    for s, e in zip(truth.states, truth.energies, strict=True):
        key = tuple(a for a, hidden in zip(s, latent, strict=True) if not hidden)
        sums.setdefault(key, []).append(math.exp(-e))
        costs[key] = wrong(s)
    return [(costs[k], -math.log(v) if (v := math.fsum(parts)) > 0 else math.inf) for k, parts in sums.items()]


def gradients_agree(loss: LossFunction, graph: FactorGraph, target: Assignment) -> None:
    """Compare the gradient by every seventh entry of the factors' values with central differences; AssertionError."""
    leaves: dict[str, list[Tensor | None]] = {}
    for factor in graph.factors:
        held = factor.values()
        flat = held[0] if isinstance(held[0], tuple) else held
        leaves[factor.label] = [None if v is None else v.clone() for v in flat]
    tensors = [v.requires_grad_() for vs in leaves.values() for v in vs if v is not None]

    def value() -> Tensor:
        given = {f.label: leaves[f.label] for f in graph.factors}
        block = {n: [tuple(v)] for n, v in given.items() if n == "set"}
        filled = graph.with_values({**given, **block})  # type: ignore[dict-item]
        return loss(filled, target)

    value().backward()
    for tensor in tensors:
        assert tensor.grad is not None
        flat_tensor = tensor.detach().reshape(-1)
        for i in range(0, flat_tensor.numel(), 7):
            saved, ends = float(flat_tensor[i]), []
            if math.isinf(saved):
                continue
            for step in (1e-6, -1e-6):
                flat_tensor[i] = saved + step
                ends.append(float(value().detach()))
            flat_tensor[i] = saved
            own, numeric = float(tensor.grad.reshape(-1)[i]), (ends[0] - ends[1]) / 2e-6
            assert abs(own - numeric) <= 1e-5 + 1e-4 * abs(numeric), (i, own, numeric)

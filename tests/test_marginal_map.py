"""Marginal MAP of small models of every kind against enumeration and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from ebmstruct.graph import Discrete, FactorGraph, Real, ResidualFactor, TableFactor, Variables
from ebmstruct.inference import FreeEnergyDescent, MarginalElimination, MarginalSearch, Solver, Status, minimize

B = 4
"""Instances of a model; five models of a kind make twenty."""
QUICK, SLOW = [0], [1, 2, 3, 4]
Free = Callable[[dict[str, Tensor]], Tensor]


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def sites(block: Variables) -> Tensor:
    return torch.arange(block.num_sites)


def summed(graph: FactorGraph, latent: list[dict[str, Tensor]], log_weight: Tensor, temperature: float) -> Free:
    """F by listing values of the latents, each with the logarithm of its weight."""

    def free(y: dict[str, Tensor]) -> Tensor:
        count = len(latent)
        copies = graph.repeat(count)
        values = {n: torch.cat([h[n] for h in latent]) for n in latent[0]}
        values |= {n: v.repeat(count, *[1] * (v.dim() - 1)) for n, v in y.items()}
        energy = copies.energy(values).reshape(count, -1)
        return -temperature * (log_weight[:, None] - energy / temperature).logsumexp(0)

    return free


def listed(graph: FactorGraph, name: str, temperature: float) -> Free:
    """F by enumeration of a discrete block with the same number of sites in every instance."""
    block = graph.variables[name]
    each = int(block.lengths[0])
    states = product(range(block.discrete.largest), repeat=each)
    latent = [{name: torch.tensor(s).repeat(B)} for s in states]
    return summed(graph, latent, torch.zeros(len(latent), dtype=torch.float64), temperature)


def integrated(graph: FactorGraph, name: str, temperature: float, half: float = 14.0, points: int = 401) -> Free:
    """F by the trapezium rule over one real number an instance, exact to rounding for what falls off in time."""
    grid = torch.linspace(-half, half, points, dtype=torch.float64)
    latent = [{name: x.expand(B, 1)} for x in grid]
    weight = torch.full((points,), math.log(2 * half / (points - 1)), dtype=torch.float64)
    return summed(graph, latent, weight, temperature)


def least_over_states(free: Free, name: str, block: Variables) -> Tensor:
    """(B,) the least F over a discrete block."""
    each = int(block.lengths[0])
    options = product(range(block.discrete.largest), repeat=each)
    return torch.stack([free({name: torch.tensor(s).repeat(B)}) for s in options]).amin(0)


def least_over_numbers(free: Free, name: str) -> Tensor:
    """(B,) the least F over one real number an instance: a grid, then golden sections about its best point."""
    grid = torch.linspace(-6, 6, 121, dtype=torch.float64)
    best = grid[torch.stack([free({name: x.expand(B, 1)}) for x in grid]).argmin(0)]
    low, high, golden = best - 0.1, best + 0.1, (5**0.5 - 1) / 2
    for _ in range(45):
        a, b = high - golden * (high - low), low + golden * (high - low)
        left = free({name: a[:, None]}) < free({name: b[:, None]})
        low, high = torch.where(left, low, a), torch.where(left, b, high)
    return free({name: (0.5 * (low + high))[:, None]})


def check_exact(graph: FactorGraph, solver: Solver, latent: str, free: Free, least: Tensor, temperature: float) -> None:
    """The energy is F of the answer and the least one, to 1e-8; what is listed whole is proven."""
    found = minimize(graph, solver, sum_out=(latent,), temperature=temperature)
    outputs = {n: v for n, v in found.assignment.items() if n != latent}
    torch.testing.assert_close(found.energy, free(outputs), atol=1e-8, rtol=1e-9)
    torch.testing.assert_close(found.energy, least, atol=1e-8, rtol=1e-9)
    assert found.integration == "exact" and (found.status <= int(Status.CONVERGED)).all()
    assert not isinstance(solver, MarginalElimination) or (found.status == int(Status.OPTIMAL)).all()


def tables(generator: torch.Generator) -> FactorGraph:
    """Three outputs and three latents of three states, with pairs between and within."""
    y = Variables.of_lengths("y", Discrete(3), [3] * B)
    h = Variables.of_lengths("h", Discrete(3), [3] * B)
    ring = torch.arange(3 * B).reshape(B, 3).roll(1, 1).reshape(-1)
    return FactorGraph(
        [y, h],
        [
            TableFactor(("y",), "unary", normal(generator, 3 * B, 3)),
            TableFactor(
                ("y", "h"), "emission", normal(generator, 3 * B, 3, 3), index=torch.stack([sites(y), sites(h)])
            ),
            TableFactor(("h", "h"), "ring", normal(generator, 3 * B, 3, 3), index=torch.stack([sites(h), ring])),
        ],
    )


def mixture(generator: torch.Generator) -> FactorGraph:
    """A real output seen through noise whose offset and width the latent states choose; neighbours agree."""
    y, h = Variables.of_lengths("y", Real(1), [1] * B), Variables.of_lengths("h", Discrete(3), [3] * B)
    offset, width = 2 * normal(generator, 3), 0.5 + torch.rand(3, generator=generator, dtype=torch.float64)
    owner = sites(h) // 3
    inner = sites(h)[sites(h) % 3 > 0]

    def seen(x: Tensor, state: Tensor, value: Tensor) -> Tensor:
        return (x + offset[state, None] - value) / width[state, None]

    return FactorGraph(
        [y, h],
        [
            ResidualFactor(
                ("y", "h"), "seen", seen, torch.stack([owner, sites(h)]), (2 * normal(generator, 3 * B, 1),)
            ),
            TableFactor(("h", "h"), "agree", normal(generator, 3, 3), index=torch.stack([inner - 1, inner])),
            TableFactor(("h",), "prior", normal(generator, 3 * B, 3)),
        ],
    )


def switched(generator: torch.Generator) -> FactorGraph:
    """Discrete outputs that choose the gain and offset of a Gaussian latent."""
    y, h = Variables.of_lengths("y", Discrete(3), [3] * B), Variables.of_lengths("h", Real(1), [1] * B)
    gain, offset = normal(generator, 3), normal(generator, 3)

    def seen(state: Tensor, x: Tensor, value: Tensor) -> Tensor:
        return gain[state, None] * x + offset[state, None] - value

    return FactorGraph(
        [y, h],
        [
            ResidualFactor(
                ("y", "h"),
                "seen",
                seen,
                torch.stack([sites(y), sites(y) // 3]),
                (normal(generator, 3 * B, 1),),
                linear=True,
            ),
            ResidualFactor(("h",), "prior", lambda x: x, sites(h)[None], linear=True),
            TableFactor(("y",), "cost", normal(generator, 3 * B, 3)),
        ],
    )


def loading(generator: torch.Generator) -> FactorGraph:
    """A real output that multiplies a Gaussian latent: its determinant depends on the output."""
    y, h = Variables.of_lengths("y", Real(1), [1] * B), Variables.of_lengths("h", Real(1), [1] * B)
    both = torch.stack([sites(y), sites(h)])

    def seen(w: Tensor, x: Tensor, value: Tensor) -> Tensor:
        return (value - w * x) / 0.5

    return FactorGraph(
        [y, h],
        [
            ResidualFactor(("y", "h"), "seen", seen, both, (1.5 * normal(generator, B, 4),)),
            ResidualFactor(("h",), "prior", lambda x: x, sites(h)[None], linear=True),
            ResidualFactor(("y",), "weak", lambda w, at: 0.3 * (w - at), sites(y)[None], (normal(generator, B, 1),)),
        ],
    )


def curved(generator: torch.Generator, *, discrete: bool) -> FactorGraph:
    """A latent seen through a bent function of it that an output shifts: no Gaussian integral."""
    domain = Discrete(3) if discrete else Real(1)
    y, h = Variables.of_lengths("y", domain, [1] * B), Variables.of_lengths("h", Real(1), [1] * B)
    shift = normal(generator, 3)

    def seen(w: Tensor, x: Tensor, value: Tensor) -> Tensor:
        at = shift[w, None] if discrete else w
        return x + 0.3 * x**2 * torch.tanh(at) + at - value

    factors = [
        ResidualFactor(("y", "h"), "seen", seen, torch.stack([sites(y), sites(h)]), (normal(generator, B, 1),)),
        ResidualFactor(("h",), "prior", lambda x, at: 1.5 * (x - at), sites(h)[None], (normal(generator, B, 1),)),
    ]
    if not discrete:
        factors.append(ResidualFactor(("y",), "weak", lambda w: 0.5 * w, sites(y)[None]))
    return FactorGraph([y, h], factors)


def models(*fast: int) -> pytest.MarkDecorator:
    seeds = [*fast, *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)]
    return pytest.mark.parametrize("seed", seeds)


def drawn(seed: int) -> tuple[torch.Generator, float]:
    return torch.Generator().manual_seed(100 + seed), (1.0, 0.5, 2.0)[seed % 3]


@models(0)
def test_tables(seed: int) -> None:
    """Discrete outputs and latents: elimination, the list of all outputs, and search all find the least F."""
    generator, temperature = drawn(seed)
    graph = tables(generator)
    free = listed(graph, "h", temperature)
    least = least_over_states(free, "y", graph.variables["y"])
    for solver in (MarginalElimination(), FreeEnergyDescent(), MarginalSearch(starts=8)):
        check_exact(graph, solver, "h", free, least, temperature)


@models(0)
def test_mixtures(seed: int) -> None:
    """A real output and discrete latents: exact sums, the least F over all starts."""
    generator, temperature = drawn(seed)
    graph = mixture(generator)
    free = listed(graph, "h", temperature)
    least = least_over_numbers(free, "y")
    check_exact(graph, FreeEnergyDescent(start_distance=3.0), "h", free, least, temperature)


@models(0)
def test_gaussian_latents_of_discrete_outputs(seed: int) -> None:
    """Discrete outputs and a Gaussian latent: exact integrals, against quadrature."""
    generator, temperature = drawn(seed)
    graph = switched(generator)
    free = integrated(graph, "h", temperature)
    least = least_over_states(free, "y", graph.variables["y"])
    for solver in (FreeEnergyDescent(), MarginalSearch(starts=8)):
        check_exact(graph, solver, "h", free, least, temperature)
    assert (minimize(graph, FreeEnergyDescent(), sum_out=("h",)).status == int(Status.OPTIMAL)).all()


@models(0)
def test_gaussian_latents_of_real_outputs(seed: int) -> None:
    """A real output that scales a Gaussian latent: exact, its determinant included, against quadrature."""
    generator, temperature = drawn(seed)
    graph = loading(generator)
    free = integrated(graph, "h", temperature)
    check_exact(graph, FreeEnergyDescent(), "h", free, least_over_numbers(free, "y"), temperature)


@models(0)
def test_curved_latents(seed: int) -> None:
    """Bent residuals: F is within five of its stated standard errors of the quadrature, and so is its minimum."""
    generator, temperature = drawn(seed)
    discrete = seed % 2 == 0
    graph = curved(generator, discrete=discrete)
    free = integrated(graph, "h", temperature)
    least = least_over_states(free, "y", graph.variables["y"]) if discrete else least_over_numbers(free, "y")
    found = minimize(graph, FreeEnergyDescent(), sum_out=("h",), temperature=temperature)
    error = 5 * found.stats["error"] + 1e-9
    assert found.integration == "importance_weighted" and (found.status <= int(Status.CONVERGED)).all()
    assert (error < 0.15).all()
    assert ((found.energy - free({"y": found.assignment["y"]})).abs() <= error).all()
    assert ((found.energy - least).abs() <= error).all()
    rough = minimize(graph, FreeEnergyDescent(integration="laplace"), sum_out=("h",), temperature=temperature)
    assert rough.integration == "laplace" and ((rough.energy - least).abs() < 0.5).all()

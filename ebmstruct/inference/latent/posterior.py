"""What is latent in an instance, given what is known of it: the most probable values, means, spreads and draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import Assignment, Discrete, FactorGraph
from ebmstruct.inference.engine import marginals, minimize, sample
from ebmstruct.inference.result import Budget, Marginals
from ebmstruct.inference.sampling.layered_chains import beliefs_at
from ebmstruct.inference.sampling.layers import LayeredSweeps
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.solvers import BlockGibbs

DRAWS = 100
"""Draws from which means and spreads are counted where nothing better answers."""
ROUNDS = 100
"""Rounds over the layers, at the most, in search of the most probable values."""


@dataclass(frozen=True, eq=False)
class LatentBlock:
    """The posterior of one latent block, n sites in the order of the graph's.

    map: (n,) long or (n, d), the most probable values: of the least energy found over all unknown sites together.
    mean: (n, K) probabilities of the states of a discrete block, or (n, d) means.
    spread: (n,) entropies in nats, or (n, d) standard deviations: how unsure the value is.
    samples: (S, n) or (S, n, d), draws from the joint posterior; S may be 0.
    exact: whether mean and spread are the true ones.  sampled_exactly: whether draws are independent and exact.
    solver: what found the means.
    """

    map: Tensor
    mean: Tensor
    spread: Tensor
    samples: Tensor
    exact: bool
    sampled_exactly: bool
    solver: str


def latent_blocks(graph: FactorGraph, target: Assignment) -> tuple[str, ...]:
    """The blocks of which neither the target nor the graph's evidence knows a site."""
    out = []
    for name, block in graph.variables.items():
        sources = [s for s in (target, graph.evidence) if s is not None and name in s.values]
        known = [s.known.get(name) for s in sources]
        if block.num_sites and not any(k is None or bool(k.any()) for k in known):
            out.append(name)
    return tuple(out)


def latent_posterior(
    graph: FactorGraph,
    target: Assignment,
    *,
    num_samples: int = 0,
    solver: Solver | None = None,
    budget: Budget | None = None,
    generator: Generator | None = None,
) -> dict[str, LatentBlock]:
    """The posterior of every latent block given what a target knows, by name; empty where nothing is latent.

    Exact where the engine is: tables of small width, Gaussians and mixtures, hidden units given the visible ones. Elsewhere
    means and spreads are those of Gibbs sweeps, or of draws of whatever samples the graph, and say so.
    solver: what computes marginals and draws, and the most probable values where it finds minima; the engine chooses
    without it.
    budget: of each of the three questions asked.  Errors: SolverRefusal where no solver draws from the graph either.
    """
    names = latent_blocks(graph, target)
    if not names:
        return {}
    generator = default_generator(generator)
    with torch.no_grad():
        held = graph.condition(target)
        layers = LayeredSweeps.of(held)
        chosen = BlockGibbs() if layers is not None and solver is None else solver
        found = _marginals(held, chosen, budget, generator)
        draws: dict[str, Tensor] = {}
        sampled_exactly = False
        missing = not all(_told(found, n) for n in names)
        if num_samples or missing:
            drawn = sample(
                held, chosen, num_samples=max(num_samples, DRAWS if missing else 1), budget=budget, generator=generator,
                quiet=True,
            )  # fmt: skip
            draws, sampled_exactly = dict(drawn.values), drawn.exact
        most = _map_of_layers(layers, found) if layers is not None else _map(held, solver, budget)
        out = {}
        for name in names:
            mean, spread, exact = _summary(held, name, found, draws)
            samples = draws[name][:num_samples] if num_samples else most[name].new_zeros(0, *most[name].shape)
            by = found.solver if found is not None and exact is not None else drawn.solver
            out[name] = LatentBlock(most[name], mean, spread, samples, bool(exact), sampled_exactly, by)
        return out


def _marginals(
    graph: FactorGraph, solver: Solver | None, budget: Budget | None, generator: Generator
) -> Marginals | None:
    """What a solver says of single sites; None where none does."""
    try:
        return marginals(graph, solver, budget=budget, generator=generator)
    except SolverRefusal:
        return None


def _told(found: Marginals | None, name: str) -> bool:
    """Whether marginals say of a block how sure it is: probabilities, or means with covariances."""
    return found is not None and (name in found.beliefs or (name in found.means and name in found.covariances))


def _map(graph: FactorGraph, solver: Solver | None, budget: Budget | None) -> Assignment:
    """The most probable values, by the solver where it finds minima."""
    try:
        return minimize(graph, solver, budget=budget).assignment
    except SolverRefusal:
        return minimize(graph, budget=budget).assignment


def _summary(
    graph: FactorGraph, name: str, found: Marginals | None, draws: dict[str, Tensor]
) -> tuple[Tensor, Tensor, bool | None]:
    """Mean and spread of a block, and whether they are exact; None where they were counted from draws."""
    block = graph.variables[name]
    if isinstance(block.domain, Discrete):
        exact = None if found is None or name not in found.beliefs else found.exact
        if found is not None and exact is not None:
            chance = found.beliefs[name].double()
        else:
            states = torch.arange(block.discrete.largest)
            chance = (draws[name][..., None] == states).double().mean(0)
        return chance, -torch.special.xlogy(chance, chance).sum(1), exact
    if found is not None and _told(found, name):
        variance = found.covariances[name].diagonal(dim1=1, dim2=2)
        return found.means[name], variance.clamp(min=0).sqrt(), found.exact
    value = draws[name]
    return value.mean(0), value.std(0), None


def _map_of_layers(layers: LayeredSweeps, found: Marginals | None) -> Assignment:
    """Values at which no layer can be improved alone, from the most probable states; exact where layers are apart."""
    graph = layers.graph
    zero = {n: torch.zeros(1, v.num_sites, dtype=torch.long) for n, v in graph.variables.items()}
    x = layers.pinned(layers.rows(zero))
    beliefs = beliefs_at(layers, x, 1.0) if found is None or not found.beliefs else found.beliefs
    for name in layers.moving:
        x[name] = beliefs[name].argmax(1).reshape(x[name].shape)
    for _ in range(ROUNDS):
        before = dict(x)
        for name in layers.moving:
            x[name] = layers.conditionals(name, x).argmin(2)
        if all(torch.equal(x[n], before[n]) for n in layers.moving):
            break
    return Assignment({n: v.reshape(-1).long() for n, v in x.items()})

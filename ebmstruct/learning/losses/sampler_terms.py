"""The two terms that contrastive divergence leaves out: the gradient through the sampler, and the entropy of its draws."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from ebmstruct.graph import FactorGraph, Real
from ebmstruct.inference.sampling.motion import Motion
from ebmstruct.inference.smooth_energy import open_continuous
from ebmstruct.learning.losses.chains import Values, chains_of, flat, open_states, spread

NEAREST = 1e-12
"""Draws that are nearer to each other than this count as this far apart, squared."""


def terms_refusal(graph: FactorGraph) -> str | None:
    """Why a graph's draws cannot be differentiated through the sampler; None where they can."""
    states = open_states(graph)
    if states:
        return f"block {states[0]!r} is discrete, and gradients flow through draws of continuous blocks only"
    for block in open_continuous(graph):
        if not isinstance(block.domain, Real):
            return f"block {block.name!r} is {block.domain}, and gradients flow through draws of Real blocks only"
    return None


def langevin_steps(
    graph: FactorGraph,
    start: Values,
    steps: int,
    *,
    step_size: float,
    noise_scale: float | None,
    temperature: float,
    generator: Generator,
) -> dict[str, Tensor]:
    """Where Langevin steps lead from ``start`` (C, n, d), as a differentiable function of the factors' values.

    The start counts as given. Each step keeps the record of its gradient: memory grows with ``steps``.
    """
    chains = chains_of(graph, start)
    copies = graph if chains == 1 else graph.repeat(chains)
    motion = Motion.of(copies, {n: v.detach() for n, v in flat(start).items()})
    point = tuple(flat(start)[n].detach() for n in motion.energy.names)
    scale = math.sqrt(2.0 * step_size * temperature) if noise_scale is None else noise_scale * math.sqrt(temperature)
    with torch.enable_grad():
        for _ in range(steps):
            z = motion.noise(point, generator, 1)[0]
            here = tuple(x if x.requires_grad else x.requires_grad_() for x in point)
            found = torch.autograd.grad(motion.energy(here).sum(), here, create_graph=True, allow_unused=True)
            moves = []
            for x, g, noise, moving in zip(here, found, z, motion.energy.moving, strict=True):
                step = torch.zeros_like(x) if g is None else -step_size * g
                moves.append((step if moving is None else step * moving) + scale * noise)
            point = motion.moved(here, moves)
    return spread({**motion.energy.fixed, **dict(zip(motion.energy.names, point, strict=True))}, chains)


def energy_of_moving_draws(graph: FactorGraph, draws: Values) -> Tensor:
    """(B,) float64: the mean energy of draws (C, n, d), whose gradient is that by the draws alone.

    The factors' values count as given: the value is a number plus the inner product of the energy's gradient, a number
    too, with how the draws move. So parameters need not be frozen, wherever the energy hides them.
    """
    chains = chains_of(graph, draws)
    copies = graph if chains == 1 else graph.repeat(chains)
    own = flat(draws)
    motion = Motion.of(copies, {n: v.detach() for n, v in own.items()})
    point = tuple(own[n] for n in motion.energy.names)
    energy, gradient = motion.energy.with_gradient(tuple(x.detach() for x in point))
    moved = motion.energy.dot([g.detach() for g in gradient], [x - x.detach() for x in point])
    return (energy.double() + moved.double()).reshape(chains, -1).mean(0)


def entropy_of_draws(graph: FactorGraph, draws: Values, *, together: bool) -> Tensor:
    """(B,) float64: the entropy of the distribution of draws (C, n, d), from each one's distance to its nearest neighbour.

    H = d mean log r + log V_d + digamma(N) - digamma(1), with V_d the volume of the unit ball (Kozachenko and Leonenko
    1987). N is C, and neighbours are draws of the same instance; ``together``: N is C * B, draws of all instances, which
    must be alike. The estimate has no bias for many draws; for few it is too high by what the density bends. Its gradient
    is by the draws. Cost: N * N distances.
    """
    names = [v.name for v in open_continuous(graph)]
    sizes = sum((graph.variables[n].lengths.double() * draws[n].shape[-1] for n in names), torch.zeros(()).double())
    squared = _nearest_together(graph, draws, names) if together else _nearest(graph, draws, names)
    total = squared.shape[0] * (graph.num_instances if together else 1)
    logs = 0.5 * squared.clamp(min=NEAREST).log()
    volume = 0.5 * sizes * math.log(math.pi) - torch.lgamma(0.5 * sizes + 1.0)
    count = torch.tensor(float(total), dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    return sizes * logs.mean(0) + volume + torch.digamma(count) - torch.digamma(one)


def _nearest(graph: FactorGraph, draws: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """(C, B) float64: the squared distance of each draw to the nearest other draw of its instance."""
    chains = chains_of(graph, draws)
    found = []
    for shift in range(1, chains):
        total = torch.zeros(chains, graph.num_instances, dtype=torch.float64)
        for name in names:
            apart = (draws[name] - draws[name].roll(shift, 0)).double().square().sum(-1)
            total = total.index_add(1, graph.variables[name].instance, apart)
        found.append(total)
    return torch.stack(found).amin(0)


def _nearest_together(graph: FactorGraph, draws: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """The same among the draws of all instances."""
    rows = torch.cat([draws[n].reshape(draws[n].shape[0] * graph.num_instances, -1).double() for n in names], 1)
    with torch.no_grad():
        apart = torch.cdist(rows, rows)
        nearest = apart.fill_diagonal_(torch.inf).argmin(1)
    return (rows - rows[nearest]).square().sum(1).reshape(-1, graph.num_instances)

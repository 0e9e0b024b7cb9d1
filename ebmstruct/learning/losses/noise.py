"""Noise for contrastive losses: draws with a known density, or moves from the target that are as likely back as forth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Generator, Tensor

from ebmstruct.graph import SE2, SE3, SO2, SO3, Continuous, Discrete, Real, Variables
from ebmstruct.learning.losses.noise_statistics import Statistics, covariance, spread
from ebmstruct.learning.losses.output_energy import OutputEnergy
from ebmstruct.learning.losses.scores import by_instance

Kind = Literal["fitted", "uniform", "perturbed"]
GROUPS = (SO2, SO3, SE2, SE3)


def noise_refusal(domain: object, block: str, kind: Kind) -> str | None:
    """Why there is no noise of a kind on a block, in one sentence; None where there is."""
    if isinstance(domain, Discrete):
        return None
    found = f"block {block!r} is {domain}"
    if not isinstance(domain, (Real, *GROUPS)):
        return f"{found}, on which no noise is known"
    if kind == "fitted" and (not isinstance(domain, Real) or domain.bounded):
        return f"{found}, to which no Gaussian can be fitted; take noise: perturbed (form: conditional) or uniform"
    if kind == "uniform":
        if isinstance(domain, Real):
            lower, upper = domain.bounds(torch.float64)
            if bool(torch.isfinite(lower).all() & torch.isfinite(upper).all()):
                return None
        if not isinstance(domain, (SO2, SO3)):
            return f"{found}, which has no uniform density: its volume is infinite; take noise: fitted or perturbed"
    return None


@dataclass(frozen=True, eq=False)
class Noise:
    """Noise over the outputs of an energy: the product of one density for each site.

    statistics: what it is fitted to.  kind: ``fitted`` (frequencies of states, a Gaussian) or ``uniform``.
    """

    energy: OutputEnergy
    statistics: Statistics
    kind: Kind

    def draw(self, values: Mapping[str, Tensor], times: int, generator: Generator) -> dict[str, Tensor]:
        """Draws for ``times`` copies of every instance, copy after copy; what is no output keeps its value."""
        out = {n: v.detach().repeat(times, *[1] * (v.dim() - 1)) for n, v in values.items()}
        for name, mask in self.energy.outputs.items():
            block, like = self.energy.graph.variables[name], out[name]
            if isinstance(block.domain, Discrete):
                weights = self._frequencies(block).repeat(times, 1)
                fresh = draw_states(weights, generator).to(like.device)
            elif self.kind == "fitted":
                fresh = self._gaussian(block, times, generator).to(like)
            else:
                fresh = _uniform(block, times, like, generator)
            chosen = mask.repeat(times)
            out[name] = torch.where(chosen.reshape(-1, *[1] * (like.dim() - 1)), fresh, like)
        return out

    def log_density(self, values: Mapping[str, Tensor], times: int) -> Tensor:
        """(times * B,) float64: log of the density at the outputs of ``times`` copies of every instance."""
        graph = self.energy.graph
        total: Tensor | None = None
        for name, mask in self.energy.outputs.items():
            block, value = graph.variables[name], values[name].detach()
            if isinstance(block.domain, Discrete):
                log = self._frequencies(block).to(value.device).log()
                site = log.repeat(times, 1).gather(1, value[:, None])[:, 0]
            elif self.kind == "fitted":
                site = self._gaussian_log_density(block, value)
            else:
                site = torch.full((value.shape[0],), -_log_volume(block.domain), dtype=torch.float64)
            site = torch.where(mask.repeat(times), site.to(value.device), 0.0).reshape(times, -1)
            part = torch.stack([by_instance(row, block) for row in site]).reshape(-1)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _frequencies(self, block: Variables) -> Tensor:
        """(n, K) probabilities of the states of each site, on the CPU."""
        mask = legal_states(self.energy, block).cpu()
        if self.kind == "uniform":
            weight = mask.double()
        else:
            counts = self.statistics[block.name]["counts"] + 1.0  # no state is impossible for never having been seen
            counts = counts[:, : mask.shape[1]]
            counts = torch.nn.functional.pad(counts, (0, mask.shape[1] - counts.shape[1]), value=1.0)
            weight = counts[torch.arange(block.num_sites) % counts.shape[0]] * mask
        return weight / weight.sum(1, keepdim=True)

    @cached_property
    def _factors(self) -> dict[str, Tensor]:
        """Block name to (L, d, d), the Cholesky factors of the covariances."""
        held = {n: s for n, s in self.statistics.items() if "scatter" in s}
        return {n: torch.linalg.cholesky(covariance(s)) for n, s in held.items()}

    def _gaussian(self, block: Variables, times: int, generator: Generator) -> Tensor:
        """(times * n, d) draws."""
        held = self.statistics[block.name]
        places, d = held["mean"].shape
        factor = self._factors[block.name]
        z = torch.randn(
            (times * block.num_sites // places, places, d),
            generator=generator,
            dtype=torch.float64,
            device=generator.device,
        ).cpu()
        moved = z @ factor[0].T if places == 1 else torch.einsum("lij,rlj->rli", factor, z)
        return (held["mean"] + moved).reshape(-1, d)

    def _gaussian_log_density(self, block: Variables, value: Tensor) -> Tensor:
        held = self.statistics[block.name]
        places, d = held["mean"].shape
        factor = self._factors[block.name]
        apart = value.double().cpu().reshape(-1, places, d) - held["mean"]
        white = torch.linalg.solve_triangular(factor, apart.permute(1, 2, 0), upper=False)  # (L, d, rows)
        half = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log = -0.5 * white.square().sum(1) - half[:, None] - 0.5 * d * math.log(2 * math.pi)
        return log.T.reshape(-1)


def perturb(
    energy: OutputEnergy,
    values: Mapping[str, Tensor],
    times: int,
    generator: Generator,
    *,
    flip: float,
    sigma: float,
    statistics: Statistics,
    lazy: bool = False,
) -> dict[str, Tensor]:
    """``times`` neighbours of the outputs, by moves whose density is the same both ways.

    Each draw moves some blocks of an instance, any set of them as likely as another. Of a discrete one some sites take
    another state: from one to what is a share ``flip`` of them in the mean, so that changes are odd as well as even. Where
    ``lazy`` that share, at least one site, takes any state, its own included, so that two moves may be as good as one.
    Points of a continuous block move by normal steps of ``sigma`` standard deviations of the targets so far, reflected at
    bounds, and rotations and poses by ``sigma`` in units of their steps.
    """
    out = {n: v.detach().repeat(times, *[1] * (v.dim() - 1)) for n, v in values.items()}
    moving = _moving(energy, times, generator)
    for number, (name, mask) in enumerate(energy.outputs.items()):
        block, like = energy.graph.variables[name], out[name]
        mine = moving[:, number].reshape(times, -1)[:, block.instance.cpu()].reshape(-1).to(mask.device)
        chosen = mask.repeat(times) & mine
        if isinstance(block.domain, Discrete):
            out[name] = _flipped(energy, block, like, chosen, times, flip, lazy, generator)
            continue
        width = spread(statistics[name]) if name in statistics else None
        moved = _stepped(block.domain, like, sigma, width, generator)
        out[name] = torch.where(chosen[:, None], moved, like)
    return out


def _stepped(domain: Continuous, x: Tensor, sigma: float, width: Tensor | None, generator: Generator) -> Tensor:
    """Points a normal step away: of ``sigma`` times ``width`` (L, d) for vectors."""
    size = (x.shape[0], domain.tangent_dim)
    step = sigma * torch.randn(size, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
    if not isinstance(domain, Real):
        return domain.retract(x, step)
    assert width is not None
    width = width.to(x)
    moved = x + step * (width if width.shape[0] == 1 else width[torch.arange(x.shape[0]) % width.shape[0]])
    return _reflected(domain, moved) if domain.bounded else moved


def _moving(energy: OutputEnergy, times: int, generator: Generator) -> Tensor:
    """(times * B, blocks) bool: which blocks move in each copy of each instance, at least one that can; on the CPU."""
    movable = []
    for name, mask in energy.outputs.items():
        block = energy.graph.variables[name]
        free = mask.cpu()
        if isinstance(block.domain, Discrete):
            free = free & (legal_states(energy, block).cpu().sum(1) > 1)
        movable.append(torch.zeros(block.num_instances).index_add(0, block.instance.cpu(), free.float()) > 0)
    can = torch.stack(movable, 1).repeat(times, 1)
    if can.shape[1] == 1:
        return can
    coin = torch.rand(can.shape, generator=generator, device=generator.device).cpu() < 0.5
    certain = draw_states(torch.where(can.any(1, keepdim=True), can, True).double(), generator)
    some = coin & can
    return torch.where(some.any(1, keepdim=True), some, torch.nn.functional.one_hot(certain, can.shape[1]).bool() & can)


def legal_states(energy: OutputEnergy, block: Variables) -> Tensor:
    """(n, K) bool: the states that each site has and that the evidence leaves to it."""
    legal = torch.arange(block.discrete.largest, device=block.offsets.device) < block.state_counts[:, None]
    for allowed in (energy.graph.allowed(block.name), energy.allowed.get(block.name)):
        legal = legal if allowed is None else legal & allowed
    return legal


def draw_states(weights: Tensor, generator: Generator) -> Tensor:
    """(n,) long: a state of each row, with probabilities in proportion to ``weights`` (n, K), on the CPU."""
    running = weights.cumsum(1)
    uniform = torch.rand(weights.shape[0], 1, generator=generator, dtype=torch.float64, device=generator.device).cpu()
    found = (running <= uniform * running[:, -1:]).sum(1)
    last = weights.shape[1] - 1 - weights.flip(1).gt(0).long().argmax(1)  # rounding must not lead to a weight of 0
    return found.minimum(last)


def _flipped(
    energy: OutputEnergy,
    block: Variables,
    states: Tensor,
    chosen: Tensor,
    times: int,
    flip: float,
    lazy: bool,
    generator: Generator,
) -> Tensor:
    now = states.cpu()
    legal = legal_states(energy, block).repeat(times, 1).cpu()
    other = legal & (torch.arange(legal.shape[1]) != now[:, None])
    free = other.any(1) & chosen.cpu()
    lengths = block.lengths.cpu().repeat(times)
    most = (flip * lengths.double()).round().long().clamp(min=1)
    if not lazy:
        u = torch.rand(most.shape, generator=generator, dtype=torch.float64, device=generator.device).cpu()
        most = 1 + (u * (2 * most - 1)).long()
    fresh = draw_states(torch.where(free[:, None], legal if lazy else other, True).double(), generator)
    return torch.where(_some(free, lengths, most, generator), fresh, now).to(states.device)


def _some(free: Tensor, lengths: Tensor, most: Tensor, generator: Generator) -> Tensor:
    """(n,) bool: in each instance as many free sites as ``most`` says, any as likely, or all where there are fewer."""
    instance = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
    key = torch.rand(free.shape, generator=generator, device=generator.device).cpu() + (~free).float()
    order = key.argsort(stable=True)
    order = order[instance[order].argsort(stable=True)]  # by instance, and by key within each
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel()) - (lengths.cumsum(0) - lengths)[instance[order]]
    return free & (rank < most[instance])


def _reflected(domain: Real, x: Tensor) -> Tensor:
    """Points beyond a bound mirrored in it, as often as needed."""
    lower, upper = (side.to(x) for side in domain.bounds(x.dtype))
    below, above = torch.isfinite(lower), torch.isfinite(upper)
    width = torch.where(below & above, upper - lower, torch.ones_like(lower))
    turned = torch.remainder(x - torch.where(below, lower, torch.zeros_like(lower)), 2 * width)
    both = lower + torch.where(turned > width, 2 * width - turned, turned)
    one = torch.where(below, lower + (x - lower).abs(), torch.where(above, upper - (upper - x).abs(), x))
    return torch.where(below & above, both, one)


def _uniform(block: Variables, times: int, like: Tensor, generator: Generator) -> Tensor:
    """(times * n, d) uniform draws from a box or from all rotations."""
    domain = block.domain
    rows = times * block.num_sites
    if isinstance(domain, Real):
        lower, upper = (side.to(like) for side in domain.bounds(like.dtype))
        u = torch.rand(rows, domain.dim, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
        return lower + (upper - lower) * u
    assert isinstance(domain, Continuous)
    z = torch.randn(rows, domain.dim, generator=generator, dtype=like.dtype, device=generator.device)
    return domain.project(z).to(like.device)


def _log_volume(domain: object) -> float:
    """log of the volume of a bounded domain, in units of its steps."""
    if isinstance(domain, Real):
        lower, upper = domain.bounds(torch.float64)
        return float((upper - lower).log().sum())
    return math.log(2 * math.pi) if isinstance(domain, SO2) else math.log(8 * math.pi**2)

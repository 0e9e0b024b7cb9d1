"""Score matching: a loss of the slopes of an energy at the data, without samples and without a partition function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ebmstruct.graph import SE3, SO3, Assignment, FactorGraph, Real
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting
from ebmstruct.learning.losses.closed_scores import closed_objective
from ebmstruct.learning.losses.output_energy import OutputEnergy, continuous_outputs, copy_refusal
from ebmstruct.learning.losses.probes import probes
from ebmstruct.learning.losses.scores import Scored, normal_like, released, score_refusal, signs_like

WIDEST_TURN = 0.5
"""Noise of rotations, in radians, beyond which the formula of its density, which leaves full turns out, is not exact."""
TOGETHER = 65536
"""Numbers in copies of a batch up to which directions of the Hessian are taken together."""
FEW = 4
"""Directions below which copies, which need energies of their own, save nothing."""


@dataclass(frozen=True)
class ScoreMatching(Loss):
    """The squared distance of the model's score from that of the data, up to a constant (Hyvärinen 2005).

    With s = -dE/dy / T by each coordinate of the continuous outputs, given everything that the graph's evidence clamps:

    - ``exact``: sum_i (s_i^2 / 2 + ds_i/dy_i), one product with the Hessian for each coordinate of an instance, fewer
      where terms look at few sites each; none where every factor offers ``slope_and_laplacian``: then about what the
      energy costs;
    - ``sliced`` (Song et al. 2019): the trace by ``projections`` random directions v with unit variance, v' (ds/dy) v,
      and |s|^2 / 2; without ``variance_reduced`` the latter is (v' s)^2 / 2;
    - ``denoising`` (Vincent 2011): |sigma s(y + sigma e) + e|^2 / 2 with normal e, ``samples`` of them, each beside -e
      where ``antithetic``; sigma is drawn for each instance where there are several. It learns the density of the data
      blurred by that noise.

    Latent sites are summed out where that is exact: discrete ones, and continuous ones in linear residuals. Bounded
    coordinates: by ``exact`` and ``sliced`` weighted to vanish at the bounds (Hyvärinen 2007; Yu, Drton and
    Shojaie 2019). Rotations and poses: derivatives are by steps (Mardia, Kent and Laha 2016). Margin class: positive, but
    what is compared are neighbours of the target only: weights of modes far apart are hardly learned. Discrete outputs are
    refused. Not for energies with a curvature that is 0 almost everywhere, as of networks with ReLU.
    """

    name: ClassVar[str] = "score_matching"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("summed",)

    form: Literal["exact", "sliced", "denoising"] = "sliced"
    temperature: float = 1.0
    projections: int = 1
    direction: Literal["signs", "normal"] = "signs"
    variance_reduced: bool = True
    sigma: float | tuple[float, ...] = 0.1
    samples: int = 1
    antithetic: bool = True

    def __post_init__(self) -> None:
        if self.form not in ("exact", "sliced", "denoising"):
            raise ValueError(f"score_matching: form {self.form!r}; legal are exact, sliced, denoising")
        if self.direction not in ("signs", "normal"):
            raise ValueError(f"score_matching: direction {self.direction!r}; legal are signs, normal")
        if not self.temperature > 0:
            raise ValueError(f"score_matching: temperature must be above 0; found {self.temperature}")
        for key in ("projections", "samples"):
            if getattr(self, key) < 1:
                raise ValueError(f"score_matching: {key} must be at least 1; found {getattr(self, key)}")
        if not self.levels or not all(0 < s < float("inf") for s in self.levels):
            raise ValueError(f"score_matching: sigma must be a positive number or several; found {self.sigma}")

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of noise."""
        return self.sigma if isinstance(self.sigma, tuple) else (self.sigma,)

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        energy = OutputEnergy.of(graph, target, self.temperature)
        reason = score_refusal(energy) or energy.refuse(target)
        if reason is not None or self.form != "denoising":
            return reason
        if self.samples > 1 or self.antithetic:
            reason = copy_refusal(graph)
            if reason is not None:
                return reason
        for name in continuous_outputs(energy):
            domain = graph.variables[name].domain
            if isinstance(domain, Real) and domain.bounded:
                return f"block {name!r} is bounded, and noise leaves its bounds; take form exact or sliced"
            if not isinstance(domain, Real) and max(self.levels) > WIDEST_TURN:
                return (
                    f"sigma is {max(self.levels)} and block {name!r} holds rotations, whose noise may have {WIDEST_TURN} "
                    "radians at most"
                )
        return None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        energy = OutputEnergy.of(graph, target, self.temperature)
        values = energy.values(target)
        if self.form == "denoising":
            return LossValue(self._denoising(energy, values, setting), setting.state)
        if self.form == "exact":
            closed = closed_objective(energy, values)
            if closed is not None:
                return LossValue(closed, setting.state)
        scored = Scored.at(energy, values)
        weights = [_boundary(b.domain, values[b.name]) for b in scored.blocks]
        if self.form == "exact":
            return LossValue(_exact(scored, weights), setting.state)
        return LossValue(released(self._sliced(scored, weights, setting), scored), setting.state)

    def _sliced(self, scored: Scored, weights: list[Weight | None], setting: Setting) -> Tensor:
        draw = signs_like if self.direction == "signs" else normal_like
        value = _first_order(scored, weights, squares=self.variance_reduced)
        for _ in range(self.projections):
            along = []
            for g, w, name in zip(scored.gradient, weights, scored.names, strict=True):
                mask = scored.energy.outputs[name]
                v = draw(g, setting.generator) * mask[:, None]
                along.append(v if w is None else w.value.sqrt() * v)
            bent = scored.product(along)
            part = -scored.sums([v * b for v, b in zip(along, bent, strict=True)])
            if not self.variance_reduced:
                slope = scored.sums([v * g for v, g in zip(along, scored.gradient, strict=True)])
                part = part + 0.5 * slope.square()
            value = value + part / self.projections
        return value

    def _denoising(self, energy: OutputEnergy, values: dict[str, Tensor], setting: Setting) -> Tensor:
        graph, batch = energy.graph, energy.graph.num_instances
        signs = (1.0, -1.0) if self.antithetic else (1.0,)
        times = self.samples * len(signs)
        copies = energy.repeat(times)
        source = setting.generator
        chosen = torch.randint(len(self.levels), (self.samples, batch), generator=source, device=source.device)
        level = torch.tensor(self.levels, dtype=torch.float64)[chosen.cpu()].repeat(len(signs), 1)
        moved = {n: v.repeat(times, *[1] * (v.dim() - 1)) for n, v in values.items()}
        wanted = []
        for name in continuous_outputs(energy):
            block, value = copies.graph.variables[name], moved[name].detach()
            domain = block.domain
            half = value[: value.shape[0] // len(signs)]
            width = graph.variables[name].domain.tangent_dim  # type: ignore[union-attr]
            drawn = normal_like(half.new_empty(half.shape[0], width), source)
            noise = torch.cat([s * drawn for s in signs]) * copies.outputs[name][:, None]
            size = level.reshape(-1).to(value)[block.instance][:, None]
            moved[name] = domain.retract(value, size * noise)  # type: ignore[union-attr]
            wanted.append((noise * _turning(domain, size, noise), size))
        scored = Scored.at(copies, moved)
        apart = [(w - s * g).square() for (w, s), g in zip(wanted, scored.gradient, strict=True)]
        return released(0.5 * scored.sums(apart).reshape(times, batch).mean(0), scored)


@dataclass(frozen=True, eq=False)
class Weight:
    """Weights (n, d) of bounded coordinates, 0 at the bounds, and their derivatives."""

    value: Tensor
    slope: Tensor


def _boundary(domain: object, value: Tensor) -> Weight | None:
    """Weights that vanish at the bounds like the squared distance; None where nothing is bounded."""
    if not isinstance(domain, Real) or not domain.bounded:
        return None
    x = value.detach()
    lower, upper = (side.to(x) for side in domain.bounds(x.dtype))
    below, above = torch.isfinite(lower), torch.isfinite(upper)
    width = torch.where(below & above, upper - lower, torch.ones_like(lower))
    low = torch.where(below, x - lower, torch.ones_like(x))
    high = torch.where(above, upper - x, torch.ones_like(x))
    root = low * high / width
    slope = (below.to(x) * high - above.to(x) * low) / width
    return Weight(root.square(), 2 * root * slope)


def _first_order(scored: Scored, weights: list[Weight | None], *, squares: bool) -> Tensor:
    """(B,) the part without curvature: half the squared scores, and the slopes of the weights."""
    parts = []
    for g, w in zip(scored.gradient, weights, strict=True):
        half = 0.5 * g.square() if squares else torch.zeros_like(g)
        parts.append(half if w is None else w.value * half - w.slope * g)
    return scored.sums(parts)


def _exact(scored: Scored, weights: list[Weight | None]) -> Tensor:
    """(B,) the objective with the diagonal of the Hessian, direction by direction.

    Where instances are small several directions are taken at once, in copies of the graph: calls cost more there than
    numbers do.
    """
    energy = scored.energy
    value = _first_order(scored, weights, squares=True)
    directions = probes(energy, scored.names)
    piece = min(len(directions), TOGETHER // max(1, sum(s.numel() for s in scored.steps)))
    piece = piece if piece >= FEW and copy_refusal(energy.graph) is None else 1
    used = [scored]
    for begin in range(0, len(directions), piece):
        chosen = directions[begin : begin + piece]
        times = len(chosen)
        if times == 1:
            copies = scored
        else:
            moved = {n: v.detach().repeat(times, *[1] * (v.dim() - 1)) for n, v in scored.values.items()}
            copies = Scored.at(energy.repeat(times), moved)
            used.append(copies)
        along = [torch.cat(parts).to(g) for parts, g in zip(zip(*chosen, strict=True), copies.gradient, strict=True)]
        bent = copies.product(along)
        picked = [
            p * b if w is None else w.value.repeat(times, 1) * p * b
            for p, b, w in zip(along, bent, weights, strict=True)
        ]
        value = value - copies.sums(picked).reshape(times, -1).sum(0)
    return released(value, *used)


def _turning(domain: object, size: Tensor, noise: Tensor) -> Tensor | float:
    """(n, t) by what the score of the noise differs from that of flat noise: the volume of steps changes with their angle.

    The density of exp(xi) against Haar's volume is the normal one over (sin(a / 2) / (a / 2))^2, a being the angle; its
    derivative points along xi.
    """
    if not isinstance(domain, (SO3, SE3)):
        return 1.0
    turn = (size * noise)[:, -3:]
    square = turn.square().sum(1, keepdim=True)
    small = square < 1e-4
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    ratio = torch.where(small, -1 / 6 - square / 360, (1 / torch.tan(0.5 * angle) - 2 / angle) / angle)
    out = torch.ones_like(noise)
    out[:, -3:] = 1 + size.square() * ratio
    return out

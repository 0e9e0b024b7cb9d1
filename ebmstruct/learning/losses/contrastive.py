"""Losses that compare the target with where short chains lead: contrastive divergence, and with chains that persist."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ebmstruct.errors import LossRefusal
from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference import Langevin
from ebmstruct.inference.sampling.layers import layers_of
from ebmstruct.inference.sampling.markov import MarkovSampler
from ebmstruct.learning.losses.base import CLIPPED, Latent, Loss, LossValue, Margin, Setting, compared
from ebmstruct.learning.losses.chains import (
    SamplerName,
    Values,
    Walk,
    check_positive,
    completions,
    copied,
    energies_of_both,
    finite_mean,
    summed_blocks,
    walk_refusal,
    walked,
)
from ebmstruct.learning.losses.data_noise import noised, share_beyond
from ebmstruct.learning.losses.replay import Layout, Replay
from ebmstruct.learning.losses.sampler_terms import (
    energy_of_moving_draws,
    entropy_of_draws,
    langevin_steps,
    terms_refusal,
)


@dataclass(frozen=True)
class ChainLoss(Loss):
    """What losses with short chains share: L = (E(target) - mean E(negatives)) / temperature, and further terms.

    steps: of a chain in a call.  chains: negatives of an instance.  sampler, step_size, noise_scale: what walks, and how
    (``Walk``); a sampler given as the loss's solver goes first.  latent_steps: steps of a chain that draws unknown sites
    given the target, where no exact draw is quick.
    clip_gradient, clip_step, clip_sample: of Langevin steps: every coordinate of the gradient, of a step, of a sample is
    cut to this size.  restart_every, restart_scale: every so many steps, and before the first, each chain is offered a
    fresh start by a Metropolis test (``Langevin``): for a few coordinates and several valleys.
    data_noise: standard deviation of normal noise on the target's real numbers, drawn anew each time: data that lie on a
    surface have no density, and energies of them have no least value.
    energy_decay: weight of E^2 of target and negatives, which keeps energies from drifting (Du and Mordatch 2019).
    sampler_gradient, entropy: weights of the mean energy of the negatives as a function of the sampler, and of their
    entropy (taken off); both by the gradient through the last ``sampler_gradient_steps`` Langevin steps (Du, Li,
    Tenenbaum and Mordatch 2021).  neighbours: among which draws the entropy's nearest one is sought, those of the same
    instance, or of the whole batch where all its instances are alike.
    """

    margin: ClassVar[Margin] = "none"
    latent: ClassVar[tuple[Latent, ...]] = ("summed", "sampled")
    begins_at_target: ClassVar[bool] = True
    """Whether chains begin at the target's completions."""
    by_samples: ClassVar[bool] = True

    steps: int = 1
    chains: int = 1
    sampler: SamplerName = "auto"
    step_size: float = 0.01
    noise_scale: float | None = None
    clip_gradient: float | None = None
    clip_step: float | None = None
    clip_sample: float | None = None
    restart_every: int | None = None
    restart_scale: float = 1.0
    data_noise: float = 0.0
    temperature: float = 1.0
    latent_steps: int = 20
    energy_decay: float = 0.0
    sampler_gradient: float = 0.0
    sampler_gradient_steps: int = 1
    entropy: float = 0.0
    neighbours: Literal["instance", "batch"] = "instance"

    def __post_init__(self) -> None:
        check_positive(self, "temperature", "step_size", whole=("steps", "chains", "latent_steps"))
        if not 1 <= self.sampler_gradient_steps <= self.steps:
            raise ValueError(
                f"sampler_gradient_steps is {self.sampler_gradient_steps}; legal is 1 to steps, {self.steps}"
            )
        if min(self.energy_decay, self.entropy, self.data_noise) < 0:
            raise ValueError("energy_decay, entropy and data_noise must be at least 0")

    @property
    def terms(self) -> bool:
        """Whether gradients flow through the sampler."""
        return bool(self.sampler_gradient or self.entropy)

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        if layers_of(graph) is not None and self.sampler in ("auto", "gibbs") and not self.terms:
            return None
        walk = self._walk(None)
        reason = walk_refusal(graph, walk)
        if reason is None and not target.complete(graph.topology.names):
            reason = walk_refusal(graph.condition(target), walk)
        if reason is not None or not self.terms:
            return reason
        if self.sampler not in ("auto", "langevin"):
            return f"sampler_gradient and entropy go through Langevin steps, and the sampler is {self.sampler}"
        if walk.of_langevin:
            return f"sampler_gradient and entropy go through plain steps; leave out {' and '.join(walk.of_langevin)}"
        if self.entropy and self.chains < 2 and self.neighbours == "instance":
            return "entropy needs the distance between draws of an instance: at least 2 chains, or neighbours: batch"
        if self.entropy and self.neighbours == "batch" and not _same_sizes(graph):
            return "instances differ in size, so draws of one have no distance to another's; use neighbours: instance"
        return terms_refusal(graph)

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        summed = summed_blocks(graph, target)
        positive = self._positive(graph, target, summed, setting)
        if self.data_noise:
            positive = noised(graph, positive, self.data_noise, setting.generator)
        start, kept = self._start(graph, positive, setting)
        negative, further = self._negatives(graph, start, setting)
        state = self._remembered(graph, kept, negative, setting)
        correct, incorrect = energies_of_both(graph, positive, negative, summed, self.temperature)
        above, below = finite_mean(correct), finite_mean(incorrect)
        value = torch.where(torch.isposinf(above), torch.inf, above - below) / self.temperature
        if self.energy_decay:
            squares = finite_mean(correct.square()) + finite_mean(incorrect.square())
            value = value + self.energy_decay * squares
        if further is not None:
            value = value + further
        figures = {} if self.clip_sample is None else {CLIPPED: self._clipped(graph, positive, negative)}
        return compared(above, below, value, state, figures)

    def _clipped(self, graph: FactorGraph, positive: Values, negative: Values) -> Tensor:
        """(B,) the share of the negatives' numbers at the clip, less that of the target's."""
        assert self.clip_sample is not None
        return share_beyond(graph, negative, self.clip_sample) - share_beyond(graph, positive, self.clip_sample)

    def _positive(self, graph: FactorGraph, target: Assignment, summed: Sequence[str], setting: Setting) -> Values:
        """The target's completions, (1, n, ...) or (C, n, ...); without blocks to sum out where nobody asks for them."""
        if summed and not self.begins_at_target:
            rest = {n: target[n][None] for n in graph.variables if n not in summed and n in target}
            if len(rest) + len(summed) == len(graph.variables) and not target.known and not target.allowed:
                return rest
        return completions(
            graph, target, self.chains, self._walk(setting), steps=self.latent_steps, temperature=self.temperature,
            generator=setting.generator,
        )  # fmt: skip

    @abstractmethod
    def _start(self, graph: FactorGraph, positive: Values, setting: Setting) -> tuple[Values, Any]:
        """Where the chains begin, (C, n, ...) of every block, and what ``_remembered`` needs."""

    def _remembered(self, graph: FactorGraph, kept: Any, negative: Values, setting: Setting) -> Any:
        """The state for the next call."""
        return None

    def _walk(self, setting: Setting | None) -> Walk:
        return Walk(
            self.sampler, self.step_size, self.noise_scale, self.clip_gradient, self.clip_step, self.clip_sample,
            self.restart_every, self.restart_scale, None if setting is None else setting.solver,
        )  # fmt: skip

    def _negatives(self, graph: FactorGraph, start: Values, setting: Setting) -> tuple[Values, Tensor | None]:
        """Where the chains end, without gradients, and the terms that flow through the sampler."""
        walk, generator = self._walk(setting), setting.generator
        steps = self.steps - (self.sampler_gradient_steps if self.terms else 0)
        values: Values = start
        if steps:
            values = walked(graph, start, steps, walk, temperature=self.temperature, generator=generator)
        if not self.terms:
            return values, None
        size, scale = self._langevin(setting)
        moving = langevin_steps(
            graph, values, self.sampler_gradient_steps, step_size=size, noise_scale=scale,
            temperature=self.temperature, generator=generator,
        )  # fmt: skip
        further = torch.zeros(graph.num_instances, dtype=torch.float64)
        if self.sampler_gradient:
            further = further + self.sampler_gradient * energy_of_moving_draws(graph, moving) / self.temperature
        if self.entropy:
            further = further - self.entropy * entropy_of_draws(graph, moving, together=self.neighbours == "batch")
        return {n: v.detach() for n, v in moving.items()}, further

    def _langevin(self, setting: Setting) -> tuple[float, float | None]:
        """Step size and noise scale of the steps through which gradients flow."""
        named = setting.solver
        if not isinstance(named, MarkovSampler):
            return self.step_size, self.noise_scale
        plain = isinstance(named, Langevin) and not named.clips and named.restarts is None
        if not isinstance(named, Langevin) or not plain or not isinstance(named.step_size, (int, float)):
            raise LossRefusal(
                f"{self.name}: sampler_gradient and entropy go through Langevin steps of one size without clipping, and "
                f"the solver is {named}"
            )
        return float(named.step_size), named.noise_scale


@dataclass(frozen=True)
class ContrastiveDivergence(ChainLoss):
    """(E(target) - mean E(negatives)) / T, the negatives being ``steps`` steps of a chain away from the target.

    CD-k (Hinton 2002). The gradient is that of the energies at target and negatives; negatives count as given. It differs
    from the likelihood's by a bias that falls as the chains grow longer, and vanishes where the model fits the data.
    Sites that the target does not know are drawn given it, once for each chain, and chains begin there: all sites are
    free in the negatives. Unknown layers of units (``BilinearFactor``) are summed out of the energies of both, as far as
    they are not joined to each other: the same gradient in the mean, with less noise.
    The value can be of either sign, and only its gradient means something: it is the descent direction of KL(data | model)
    - KL(chain | model), without the part through the chain that ``sampler_gradient`` has.
    Margin class: none: energies of outputs that no short chain reaches are not looked at.
    Inference: ``steps`` steps of ``chains`` chains. Cost: those, and two evaluations of the energy, at 1 and ``chains``
    draws. Not where chains need long to leave the target: modes of the model far from the data are left standing; then
    ``persistent_contrastive_divergence``; not where the likelihood is exact and quick.
    """

    name: ClassVar[str] = "contrastive_divergence"

    def _start(self, graph: FactorGraph, positive: Values, setting: Setting) -> tuple[Values, Any]:
        return copied(positive, self.chains), None


@dataclass(frozen=True)
class PersistentContrastiveDivergence(ChainLoss):
    """(E(target) - mean E(negatives)) / T, the negatives being ``steps`` steps further on chains that go on for ever.

    Persistent contrastive divergence, or stochastic maximum likelihood (Younes 1999; Tieleman 2008), with a replay buffer
    (Du and Mordatch 2019): each step goes on with chains of the steps before, of which the share ``reinitialise`` begins
    anew at noise. While weights change slowly against the chains, the gradient is the likelihood's.
    buffer: ``shared``, one of ``size`` instances for graphs whose instances all have the same sizes, from which each step
    takes chains at random; ``per_example``, ``chains`` chains of each training example; ``auto``, shared where sizes allow.
    Unknown sites: as in contrastive divergence. Margin class: none in general; as the likelihood where chains mix.
    Cost: as contrastive divergence. State: the buffer (``size`` instances), or the chains of all examples seen; tensors
    that checkpoints hold, so that a resumed training draws the same.
    Not with a large rate of learning: chains that lag behind the weights are no samples, and energies oscillate.
    """

    name: ClassVar[str] = "persistent_contrastive_divergence"
    begins_at_target: ClassVar[bool] = False

    buffer: Layout = "auto"
    size: int = 10000
    reinitialise: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, whole=("size",))
        if not 0 <= self.reinitialise <= 1:
            raise ValueError(f"reinitialise is {self.reinitialise}; legal is 0 to 1")

    def _start(self, graph: FactorGraph, positive: Values, setting: Setting) -> tuple[Values, Any]:
        replay = Replay(self.chains, self.size, self.reinitialise, self.buffer)
        taken = replay.take(graph, setting.state, setting.examples, setting.generator)
        return taken.values, (replay, taken)

    def _remembered(self, graph: FactorGraph, kept: Any, negative: Values, setting: Setting) -> Any:
        replay, taken = kept
        return replay.put(graph, taken, negative, setting.examples, setting.generator)


def _same_sizes(graph: FactorGraph) -> bool:
    return all(bool((v.lengths == v.lengths[:1]).all()) for v in graph.variables.values())

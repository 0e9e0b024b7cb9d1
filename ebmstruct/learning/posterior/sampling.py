"""Draws of the weights of an energy model from their posterior."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ebmstruct.energies import EnergyModel
from ebmstruct.graph import Assignment, BlockFactor, FactorGraph, Real, Variables
from ebmstruct.inference import HMC, MALA, NUTS, SGLD, Langevin, Solver, UnderdampedLangevin, sample
from ebmstruct.inference.result import Budget
from ebmstruct.inference.sampling.markov import ChainState, MarkovSampler, Trace
from ebmstruct.learning.losses import Loss
from ebmstruct.learning.posterior.options import PosteriorOptions
from ebmstruct.learning.posterior.pace import Pace, chosen_pace, quiet_minibatches, steadied
from ebmstruct.learning.posterior.potential import Minibatches, Potential, check_likelihood
from ebmstruct.learning.posterior.units import Gradient, Units, found_centre, found_units
from ebmstruct.learning.posterior.weights import WeightDraws, WeightLayout

log = logging.getLogger(__name__)

BLOCK = "weights"
ROUNDS = 12
"""Rounds of the burn-in after each of which a step size that is not given is looked at again."""
WISHED = {"mala": 0.6, "hmc": 0.8}
"""Acceptance at which step sizes are aimed: Roberts and Rosenthal (1998); Betancourt, Byrne and Girolami (2014)."""

CHANCE = 5.0
"""R-hat less 1, times draws a chain, that independent draws may have by chance in a few weights of a hundred."""

OnDraw = Callable[[str, int, int], None]
"""Called with what is done, and how far it is: stage, done, total (0 where that is not known)."""


class _Looked(torch.autograd.Function):
    """Energies (C,) of z (C, P), with gradients that are known beforehand."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, look: Gradient, units: Units) -> Tensor:
        values, slopes = [], []
        for weights in units.weights(z.detach()):
            value, slope = look(weights)
            values.append(value)
            slopes.append(units.pulled_back(slope))
        ctx.save_for_backward(torch.stack(slopes).to(z.dtype))
        return torch.tensor(values, dtype=torch.float64)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return gradient[:, None].to(slopes.dtype) * slopes, None, None


def weight_graph(look: Gradient, units: Units) -> FactorGraph:
    """The graph of one block ``weights``, of one site of P real numbers z, whose energy is ``look`` at their weights."""

    def energy(z: Tensor, offsets: Any) -> Tensor:
        out: Tensor = _Looked.apply(z, look, units)
        return out

    block = Variables.of_lengths(BLOCK, Real(units.centre.numel()), [1])
    return FactorGraph([block], [BlockFactor((BLOCK,), "posterior", energy)])


def sample_posterior(
    model: EnergyModel,
    task: Any,
    schema: Any,
    train: Sequence[Any],
    loss: Loss,
    options: PosteriorOptions,
    *,
    solver: Solver | None = None,
    on_progress: OnDraw | None = None,
) -> WeightDraws:
    """Draw the weights of a model, which should be trained, from their posterior given examples.

    task: encodes outputs, as for ``fit``.  solver: answers the inference inside the loss.
    The model is left as it was, in evaluation mode. Errors: LossRefusal where the loss is no likelihood; ConfigError
    where ``options.parameters`` means no weights.
    Source: Welling and Teh (2011) for minibatches, with the control variates of Baker, Fearnhead, Fox and Nemeth (2019).
    """
    check_likelihood(loss, options)
    begun = time.process_time()
    tell = on_progress or (lambda stage, done, total: None)
    model.eval()
    layout = WeightLayout.of(model, options.parameters)
    potential = Potential(model, layout, task, schema, train, loss, options, solver)
    tell("finding the centre of the posterior", 0, 0)
    centre = found_centre(potential, layout.vector(model), options.centre_steps)
    tell("measuring the curvature of the posterior", 0, 0)
    units = found_units(potential, centre, options.preconditioner)
    run = _Run(potential, units, options, tell)
    values, facts = run.go()
    facts |= {
        "sampler": options.name,
        "weights": layout.size,
        "examples": len(potential),
        "chains": options.chains,
        "passes": round(potential.gradients, 1),
        "cpu_seconds": round(time.process_time() - begun, 3),
    }
    draws = WeightDraws(values, layout, options.chains, centre, units.scale, facts)
    return _looked_at(draws)


def _looked_at(draws: WeightDraws) -> WeightDraws:
    """The draws with what their diagnostics say in the facts, and warnings where they should not be believed."""
    found = draws.diagnose()
    r_hat, ess = _worst(found.r_hat, torch.max), _worst(found.ess_bulk, torch.min)
    facts = {**draws.facts, "draws": len(draws), "largest_r_hat": r_hat, "least_effective_draws": ess}
    warnings = list(draws.facts.get("warnings", ()))
    if not bool(draws.values.isfinite().all()):
        warnings.append("draws are not finite; take a smaller posterior.step_size")
    limit = 1.0 + max(0.05, CHANCE / (len(draws) // draws.chains or 1))
    high = int((found.r_hat > limit).sum())
    if high > 0.01 * draws.layout.size:
        warnings.append(
            f"the chains disagree: R-hat is up to {r_hat:.3g}, and above {limit:.3g} for {high} of {draws.layout.size} "
            "weights; raise posterior.burn_in or posterior.thinning"
        )
    for sentence in warnings:
        log.warning("posterior: %s", sentence)
    log.info(
        "posterior: %d draws of %d weights by %s; R-hat at most %.4g, effective draws at least %.0f, %.1f CPU s",
        *(len(draws), draws.layout.size, facts["sampler"], r_hat, ess, facts["cpu_seconds"]),
    )
    return replace(draws, facts={**facts, "warnings": tuple(warnings)}, warnings=tuple(warnings))


def _worst(figures: Tensor, pick: Callable[[Tensor], Tensor]) -> float:
    known = figures[~figures.isnan()]
    return float(pick(known)) if known.numel() else float("nan")


@dataclass(eq=False)
class _Run:
    """One call of ``sample_posterior``, once centre and units are known."""

    potential: Potential
    units: Units
    options: PosteriorOptions
    tell: OnDraw

    def go(self) -> tuple[Tensor, dict[str, Any]]:
        """(S, P) float32 weights, draw s of chain s % C, and what the sampler says of itself."""
        o = self.options
        generator = Generator().manual_seed(o.seed + 1)
        look: Gradient = self.potential
        slowest = 1.0
        if o.name == "sgld":
            look = quiet_minibatches(self.potential, self.units, o, generator)
            self.units, slowest = steadied(look, self.units, generator)
        pace = chosen_pace(self.potential, self.units, o, generator, slowest)
        graph = weight_graph(look, self.units)
        rounds = -(-o.draws // o.chains)
        z, facts = self._by_nuts(graph, pace, rounds) if o.name == "nuts" else self._by_steps(graph, pace, rounds)
        facts |= {"burn_in": pace.burn_in, "thinning": pace.thinning}
        if isinstance(look, Minibatches):
            facts["batch_size"] = -(-len(self.potential) // len(look))
        return self.units.weights(z.flatten(0, 1)[: o.draws]).float(), facts

    def _by_nuts(self, graph: FactorGraph, pace: Pace, rounds: int) -> tuple[Tensor, dict[str, Any]]:
        o = self.options
        sampler = NUTS(chains=o.chains, warm_up=pace.burn_in, draws=rounds, step_size=o.step_size)
        calls = 0

        def watched() -> bool:
            nonlocal calls
            calls += 1
            self.tell("sampling the posterior", int(self.potential.gradients), 0)
            return False

        found = sample(
            graph,
            sampler,
            num_samples=rounds * o.chains,
            init=Assignment({BLOCK: torch.zeros(1, self.units.centre.numel(), dtype=torch.float64)}),
            budget=Budget(stopped=watched),
            generator=Generator().manual_seed(o.seed + 2),
            quiet=True,
        )
        divergences = int(torch.as_tensor(found.stats.get("divergences", 0)).sum())
        facts = {"acceptance": float(found.stats["acceptance"].mean()), "divergences": divergences}
        return found.values[BLOCK].reshape(rounds, o.chains, -1), facts

    def _by_steps(self, graph: FactorGraph, pace: Pace, rounds: int) -> tuple[Tensor, dict[str, Any]]:
        """(D, C, P) z, and facts; a step size that is not given is fitted to acceptance in the burn-in."""
        o, size = self.options, self.units.centre.numel()
        copies = graph if o.chains == 1 else graph.repeat(o.chains)
        generator = Generator().manual_seed(o.seed + 2)
        start = Assignment({BLOCK: torch.zeros(o.chains, size, dtype=torch.float64)})
        sampler = _sampler(o, pace, rounds)
        state = sampler.init(copies, start, generator)
        done, total = 0, pace.burn_in + rounds * pace.thinning
        if o.name in WISHED and o.step_size is None and pace.burn_in:
            state, pace = self._fitted(copies, state, pace, generator, total)
            sampler, done = _sampler(o, pace, rounds), pace.burn_in
        burn_in = pace.burn_in - done
        trace = Trace(rounds, burn_in, pace.thinning, frozenset())
        walk = sampler.walk(copies, state, burn_in=burn_in, ahead=total - done, temperature=1.0, generator=generator)
        while trace.rows < rounds:
            state, info = next(walk)
            trace.add(state, info)
            self.tell("sampling the posterior", min(total, done + trace.steps), total)
        facts: dict[str, Any] = {"step_size": pace.step_size}
        if "acceptance" in trace.sums:
            facts["acceptance"] = float(trace.sums["acceptance"].mean()) / max(1, trace.counted)
        if "divergent" in trace.sums:
            facts["divergences"] = int(trace.sums["divergent"].sum())
        return trace.values[BLOCK], facts

    def _fitted(
        self, copies: FactorGraph, state: ChainState, pace: Pace, generator: Generator, total: int
    ) -> tuple[ChainState, Pace]:
        """The state after the burn-in, and the pace with the step size that it ended with."""
        each, done = -(-pace.burn_in // ROUNDS), 0
        for number in range(ROUNDS):
            sampler = _sampler(self.options, pace, 1)
            walk = sampler.walk(copies, state, burn_in=0, ahead=each, temperature=1.0, generator=generator)
            steps, accepted = 0, 0.0
            while steps < each:
                state, info = next(walk)
                steps += info.steps
                accepted += info.steps * float(info.acceptance.mean()) if info.acceptance is not None else info.steps
            done += steps
            self.tell("sampling the posterior", min(done, total), total)
            error = accepted / steps - WISHED[self.options.name]
            pace = replace(pace, step_size=pace.step_size * 2.0 ** (3.0 * error / (1.0 + 0.3 * number)))
        return state, replace(pace, burn_in=done)


def _sampler(options: PosteriorOptions, pace: Pace, rounds: int) -> MarkovSampler:
    """The core's sampler with the pace chosen."""
    shared: dict[str, Any] = {"chains": options.chains, "burn_in": pace.burn_in, "thinning": pace.thinning}
    size, warmth = pace.step_size, pace.temperature
    if options.name == "sgld":
        return SGLD(step_size=size, temperature=warmth, **shared)
    if options.name == "langevin":
        return Langevin(step_size=size, temperature=warmth, **shared)
    if options.name == "underdamped_langevin":
        return UnderdampedLangevin(step_size=size, **shared)
    if options.name == "mala":
        return MALA(step_size=size, **shared)
    return HMC(step_size=size, leapfrog_steps=pace.leapfrog_steps, jitter=0.2, **shared)

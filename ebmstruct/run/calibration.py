"""Whether probabilities are right: those that a predictor's graph gives the correct values of sites, held against them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ebmstruct.errors import SolverRefusal
from ebmstruct.extend.task import Example
from ebmstruct.run.predictor import Predictor

if TYPE_CHECKING:
    from torch import Tensor

BINS = 10
MOST = 2000
"""Examples that are looked at, the first ones: calibration needs no more."""
WITHIN = 1.6449
"""Standard deviations on each side of the mean that hold 90 % of a normal density."""


@dataclass(frozen=True)
class Calibration:
    """How right the probabilities of states of sites are, over all sites whose correct state is known.

    sites: how many.  log_loss: the mean of -log p(correct state).  brier: the mean of the sum over states of the squared
    difference of probability and truth (Brier 1950).  accuracy, confidence: how often the likeliest state is correct, and
    its mean probability.  error: the expected calibration error, |accuracy - confidence| in ten equal bins of confidence,
    weighed by their counts (Naeini, Cooper and Hauskrecht 2015).  bins: those, with count, accuracy and confidence.
    For real values ``log_loss`` is minus the log of a normal density, ``error`` how far the share of values within their
    90 % interval is from 0.9, and ``accuracy`` that share; there are no bins.
    """

    sites: int
    log_loss: float
    brier: float
    accuracy: float
    confidence: float
    error: float
    bins: tuple[dict[str, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def calibrated(predictor: Predictor, examples: Sequence[Example]) -> Calibration | None:
    """The calibration of a predictor's marginals on examples; None where they have none, or nothing known to compare."""
    known = [example for example in examples if example.y is not None][:MOST]
    discrete: list[tuple[Tensor, Tensor]] = []
    real: list[tuple[Tensor, Tensor, Tensor]] = []
    prepared = predictor.model.prepare([example.x for example in known])
    try:
        for start in range(0, len(known), predictor.batch_size):
            part = known[start : start + predictor.batch_size]
            inputs = prepared.select(list(range(start, start + len(part))))
            _look(predictor, part, inputs, discrete, real)
    except SolverRefusal:
        return None
    if discrete:
        return _of_states(discrete)
    return _of_values(real) if real else None


def _look(
    predictor: Predictor,
    part: Sequence[Example],
    inputs: Any,
    discrete: list[tuple[Tensor, Tensor]],
    real: list[tuple[Tensor, Tensor, Tensor]],
) -> None:
    """Add the beliefs and the correct values of the sites of some examples."""
    import torch

    from ebmstruct.inference import marginals

    xs = [example.x for example in part]
    with torch.no_grad():
        graph, _ = predictor.model.conditioned(
            inputs, lambda graph: predictor.task.evidence(xs, graph, predictor.schema)
        )
        target = predictor.task.encode([example.y for example in part], graph, predictor.schema)
        found = marginals(graph)
    for name, value in target.items():
        mask = target.known.get(name)
        sites = torch.ones(len(value), dtype=torch.bool) if mask is None else mask.cpu()
        if name in found.beliefs:
            discrete.append((found.beliefs[name].double().cpu()[sites], value.cpu()[sites]))
        elif name in found.means:
            spread = found.covariances[name].diagonal(dim1=1, dim2=2).sqrt()
            triple = (found.means[name], spread, value)
            real.append(tuple(t.double().cpu()[sites] for t in triple))  # type: ignore[arg-type]


def _of_states(pairs: list[tuple[Tensor, Tensor]]) -> Calibration | None:
    import torch

    total, squares, losses, sure, right = 0, 0.0, 0.0, [], []
    for beliefs, states in pairs:
        own = beliefs.gather(1, states[:, None])[:, 0]
        losses += float(-own.clamp(min=1e-12).log().sum())
        squares += float((beliefs.square().sum(1) - 2 * own + 1).sum())
        top = beliefs.max(1)
        sure.append(top.values)
        right.append(top.indices == states)
        total += len(states)
    if not total:
        return None
    confidence, hit = torch.cat(sure), torch.cat(right).double()
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    bins, error = [], 0.0
    for b in range(BINS):
        here = place == b
        if count := int(here.sum()):
            mean, share = float(confidence[here].mean()), float(hit[here].mean())
            bins.append({"low": b / BINS, "count": count, "confidence": mean, "accuracy": share})
            error += count / total * abs(mean - share)
    return Calibration(
        total, losses / total, squares / total, float(hit.mean()), float(confidence.mean()), error, tuple(bins)
    )


def _of_values(triples: list[tuple[Tensor, Tensor, Tensor]]) -> Calibration | None:
    import torch

    mean, spread, value = (torch.cat([t[i].reshape(-1) for t in triples]) for i in range(3))
    if not len(mean):
        return None
    apart = (value - mean) / spread.clamp(min=1e-9)
    losses = 0.5 * apart.square() + spread.clamp(min=1e-9).log() + 0.5 * math.log(2 * math.pi)
    within = float((apart.abs() <= WITHIN).double().mean())
    return Calibration(len(mean), float(losses.mean()), math.nan, within, 0.9, abs(within - 0.9))

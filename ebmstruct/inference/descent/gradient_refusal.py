"""What every minimiser by gradients refuses, in one sentence, and how its instances end."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Ask, Query, Result, Status
from ebmstruct.inference.smooth_energy import constraint_labels, smooth_refusal


def gradient_refusal(graph: FactorGraph, query: Query, *, constraints: bool = False) -> str | None:
    """Why a gradient method cannot answer; None where it can. constraints: whether it knows what to do with them."""
    if query.ask != Ask.MINIMIZE:
        return f"it only minimises; {query.ask} was asked"
    if query.sum_out:
        return "it cannot sum blocks out"
    if query.k > 1:
        return f"it finds one assignment; {query.k} were asked"
    labels = [] if constraints else constraint_labels(graph)
    if labels:
        return f"factors {labels} are constraints, which a descent does not keep; augmented_lagrangian does"
    return smooth_refusal(graph)


def gradient_status(result: Result, gradient: Tensor, gave_up: Tensor) -> Tensor:
    """(B,) the status of each instance of a descent.

    MAX_STEPS where it ``gave_up`` (B,) by itself, INFEASIBLE where it never left an infinite energy, NONFINITE where the
    ``gradient`` (B,) is not finite although the energy is.
    """
    finished = result.status == int(Status.CONVERGED)
    status = torch.where(finished & gave_up, int(Status.MAX_STEPS), result.status)
    status = torch.where(torch.isposinf(result.energy), int(Status.INFEASIBLE), status)
    return torch.where(~gradient.isfinite() & ~torch.isposinf(result.energy), int(Status.NONFINITE), status)

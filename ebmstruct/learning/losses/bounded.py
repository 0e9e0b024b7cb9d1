"""The likelihood with log partitions replaced by bounds or estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference import log_partition
from ebmstruct.inference.clamping import tables_left
from ebmstruct.inference.views.table_view import table_refusal
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting, compared, finite_difference_of
from ebmstruct.learning.losses.chains import check_positive
from ebmstruct.learning.losses.partition_bounds import (
    annealed_estimate,
    annealed_refusal,
    forest_bound,
    mean_field_bound,
    pairwise_refusal,
)

Bound = Literal["tree_reweighted", "mean_field", "annealed_importance_sampling"]


@dataclass(frozen=True)
class BoundedLikelihood(Loss):
    """B(free) - B(completions of the target), B in place of log Z; with a complete target its second part is -E / T.

    bound, of the free phase:
      - ``tree_reweighted``: an upper bound (Wainwright, Jaakkola and Willsky 2005), so the loss lies above -log p, and what
        falls takes -log p down with it. Tables of at most two sites. updates: rounds of tightening.
      - ``mean_field``: a lower bound (Jordan et al. 1999), so that the loss lies below -log p and may fall without the
        likelihood rising, where sites are strongly coupled.
      - ``annealed_importance_sampling``: an estimate with ``particles`` particles (Neal 2001), of discrete and real sites.
        Unbiased for Z, so below log Z in expectation; its gradient is the mean under the weighted draws.
    latent_bound, of the clamped phase where the target leaves sites unknown: ``mean_field`` (variational EM, Neal and
    Hinton 1998), which puts the loss higher; ``exact``; or ``annealed_importance_sampling``. So ``tree_reweighted`` with
    ``mean_field`` or ``exact`` bounds -log p from above; ``mean_field`` with ``exact`` from below; other pairs do neither.
    Beliefs, shifts and particles count as given: the gradients are those of the bounds.
    Margin class: positive, as the likelihood, as far as the bound is tight. Inference: the bound's, a second time, clamped,
    where sites are unknown. A solver of the same kind in the task replaces the default one. Not where an exact log
    partition is quick, nor to compare models by its value.
    """

    name: ClassVar[str] = "bounded_likelihood"
    margin: ClassVar[Margin] = "positive"
    latent: ClassVar[tuple[Latent, ...]] = ("summed",)
    likelihood: ClassVar[bool] = True

    bound: Bound = "tree_reweighted"
    latent_bound: Literal["mean_field", "exact", "annealed_importance_sampling"] = "mean_field"
    updates: int = 10
    particles: int = 128
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "temperature", whole=("particles",))
        if self.updates < 0:
            raise ValueError(f"updates is {self.updates}; legal is at least 0")
        if self.particles < 2:
            raise ValueError(f"particles is {self.particles}; legal is at least 2")

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        reason = _refusal(graph, self.bound)
        if reason is None and not target.complete(graph.topology.names) and self.latent_bound != "exact":
            reason = _refusal(_tables(graph.condition(target)), self.latent_bound)
        return reason

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        t = self.temperature
        if target.complete(graph.topology.names):
            clamped = -graph.energy(target) / t
        elif self.latent_bound == "exact":
            clamped = log_partition(graph.condition(target), temperature=t)
        else:
            clamped = self._bound(_tables(graph.condition(target)), self.latent_bound, setting)
        free = self._bound(_tables(graph), self.bound, setting)
        return compared(-t * clamped, -t * free, finite_difference_of(free, clamped))

    def _bound(self, graph: FactorGraph, bound: str, setting: Setting) -> Tensor:
        """(B,) what stands for the log partition."""
        t = self.temperature
        if bound == "mean_field":
            return mean_field_bound(graph, t, setting.solver)
        if bound == "tree_reweighted":
            return forest_bound(graph, t, self.updates)
        return annealed_estimate(graph, t, setting.solver, self.particles, setting.generator)


def _tables(graph: FactorGraph) -> FactorGraph:
    """The graph, or the tables that are left of it where all its continuous blocks are clamped."""
    tables = tables_left(graph)
    return graph if tables is None else tables


def _refusal(graph: FactorGraph, bound: str) -> str | None:
    reasons = {"mean_field": table_refusal, "tree_reweighted": pairwise_refusal}
    reason = reasons.get(bound, annealed_refusal)(graph)
    if reason is None or bound == "annealed_importance_sampling":
        return reason
    return f"{bound} does not take the graph: {reason}"

"""Losses of the target's energy and of the most offending incorrect answer's (LeCun et al. 2006, section 2.2.3)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ebmstruct.graph import Assignment, Continuous, FactorGraph
from ebmstruct.learning.losses.base import Latent, Loss, LossValue, Margin, Setting, compared, nan_where_broken
from ebmstruct.learning.losses.latent_sites import completed, known_sites
from ebmstruct.learning.losses.offending import SEARCHES, OffendingSearch, Search


@dataclass(frozen=True)
class IncorrectAnswerLoss(Loss):
    """A function of E(y*), the energy of the target, and E(y'), the least energy of an incorrect answer.

    The incorrect answer is found by ``OffendingSearch``; fields: ``radius`` (continuous outputs are incorrect from this
    distance on), ``search`` ("exact" or "neighbours") and ``starts`` (descents outside the radius). Unknown sites are
    minimised over in both energies. An instance that has no incorrect answer counts as if its energy were infinite.
    Inference: one minimisation, and where its answer is the target's the two best of a graph, or as many minimisations as
    an instance has sites. Where the search is not exact, y' is an incorrect answer of no less energy than the least, the
    loss no more than the true one, and the gradient that of the two answers compared.
    """

    latent: ClassVar[tuple[Latent, ...]] = ("minimised",)

    radius: float = 0.5
    search: Search = "exact"
    starts: int = 2

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"{self.name}: radius must be positive; found {self.radius}")
        if self.search not in SEARCHES:
            raise ValueError(f"{self.name}: search {self.search!r}; legal are {SEARCHES}")
        if self.starts < 1:
            raise ValueError(f"{self.name}: starts must be at least 1; found {self.starts}")
        for field in ("gap", "sharpness", "ratio"):
            if not getattr(self, field, 1.0) > 0:
                raise ValueError(f"{self.name}: {field} must be positive; found {getattr(self, field)}")

    @abstractmethod
    def of(self, correct: Tensor, incorrect: Tensor) -> Tensor:
        """(B,) the loss of the two energies; the second may be infinite."""

    def refuse(self, graph: FactorGraph, target: Assignment) -> str | None:
        blocks = [n for n, v in graph.variables.items() if v.num_sites]
        if blocks and not any(bool(known_sites(graph, target, n).any()) for n in blocks):
            return "the target knows no site, so no answer is incorrect"
        if self.search == "neighbours" and any(
            isinstance(v.domain, Continuous) and not bool(known_sites(graph, target, n).all())
            for n, v in graph.variables.items()
        ):
            return "search: neighbours changes discrete sites, and continuous ones are latent; take search: exact"
        return None

    def evaluate(self, graph: FactorGraph, target: Assignment, setting: Setting) -> LossValue:
        correct, _ = completed(graph, target, setting.solver)
        search = OffendingSearch(
            graph, target, setting.solver, setting.generator, self.radius, self.search, self.starts
        )
        incorrect = search.run().energy(graph)
        value = torch.where(torch.isposinf(correct), torch.inf, self.of(correct, incorrect))
        return compared(correct, incorrect, nan_where_broken(graph, value))


@dataclass(frozen=True)
class GeneralizedHinge(IncorrectAnswerLoss):
    """max(0, gap + E(y*) - E(y')) (LeCun et al. 2006, section 2.2.3).

    Every incorrect answer must lie above the target by ``gap``, however wrong it is; ``structured_hinge`` asks more of
    those that are more wrong, which generalises better where outputs have many sites. Margin class: positive.
    The other fields and the inference are those of ``IncorrectAnswerLoss``.
    """

    name: ClassVar[str] = "generalized_hinge"
    margin: ClassVar[Margin] = "positive"

    gap: float = 1.0

    def of(self, correct: Tensor, incorrect: Tensor) -> Tensor:
        return torch.relu(self.gap + correct - incorrect)


@dataclass(frozen=True)
class LogLoss(IncorrectAnswerLoss):
    """log(1 + exp(E(y*) - E(y'))) (LeCun et al. 2006, section 2.2.3): a hinge without a corner.

    It never rests: the margin grows without end, ever more slowly. The likelihood compares the target with all other
    answers at once, and this with one: take it where nothing can be summed. Margin class: positive.
    Fields and inference: ``IncorrectAnswerLoss``.
    """

    name: ClassVar[str] = "log_loss"
    margin: ClassVar[Margin] = "positive"

    def of(self, correct: Tensor, incorrect: Tensor) -> Tensor:
        return softplus(correct - incorrect)


@dataclass(frozen=True)
class SquareSquare(IncorrectAnswerLoss):
    """E(y*)^2 + max(0, gap - E(y'))^2 (LeCun and Huang 2005; LeCun et al. 2006, section 2.2.3).

    The target's energy is drawn to 0 and the incorrect one pushed above ``gap``: a loss of energies themselves and not of
    their difference, so it is for energies that are 0 at their best (distances, residuals), and wants a model that can
    bring every target there. Not for energies whose zero is arbitrary, as that of linear tables. Margin class: positive.
    Fields and inference: ``IncorrectAnswerLoss``.
    """

    name: ClassVar[str] = "square_square"
    margin: ClassVar[Margin] = "positive"

    gap: float = 1.0

    def of(self, correct: Tensor, incorrect: Tensor) -> Tensor:
        return correct.square() + torch.relu(self.gap - incorrect).square()


@dataclass(frozen=True)
class SquareExponential(IncorrectAnswerLoss):
    """E(y*)^2 + gap * exp(-E(y')) (Osadchy, Miller and LeCun 2005; LeCun et al. 2006).

    As the square-square loss, with a push that never ends. Take it for energies that are 0 at their best.
    Margin class: positive. Fields and inference: ``IncorrectAnswerLoss``.
    """

    name: ClassVar[str] = "square_exponential"
    margin: ClassVar[Margin] = "positive"

    gap: float = 1.0

    def of(self, correct: Tensor, incorrect: Tensor) -> Tensor:
        return correct.square() + self.gap * (-incorrect).exp()


@dataclass(frozen=True)
class MinimumClassificationError(IncorrectAnswerLoss):
    """1 / (1 + exp(-sharpness * (E(y*) - E(y')))): a smooth count of errors (Juang, Hou and Lee 1997).

    Examples that are far off count no more than 1 and give no gradient, so wrong labels do little harm, and a model that
    begins far off learns nothing: begin with another loss. Margin class: positive, since it never rests.
    Fields and inference: ``IncorrectAnswerLoss``.
    """

    name: ClassVar[str] = "minimum_classification_error"
    margin: ClassVar[Margin] = "positive"

    sharpness: float = 1.0

    def of(self, correct: Tensor, incorrect: Tensor) -> Tensor:
        return torch.sigmoid(self.sharpness * (correct - incorrect))


@dataclass(frozen=True)
class LVQ2(IncorrectAnswerLoss):
    """min(1, max(0, (E(y*) - E(y')) / (ratio * |E(y')|))) (Driancourt, Bottou and Gallinari 1991; LeCun et al. 2006).

    Nothing is lost where the target lies no higher than the incorrect answer, and no more than 1 where it lies far above:
    examples that are hopeless do not pull. Written for positive energies, such as the distances of vector quantisation,
    in units of which the difference is taken; their absolute value is taken elsewhere. Margin class: zero: equal energies
    satisfy it, so a model that can make all energies equal does. Take ``generalized_hinge`` unless such a collapse is
    impossible. Fields and inference: ``IncorrectAnswerLoss``.
    """

    name: ClassVar[str] = "lvq2"
    margin: ClassVar[Margin] = "zero"

    ratio: float = 1.0

    def of(self, correct: Tensor, incorrect: Tensor) -> Tensor:
        there = incorrect.isfinite()
        unit = torch.where(there, self.ratio * incorrect.abs(), 1.0).clamp(min=1e-12)
        above = torch.where(there, correct - incorrect, 0.0)
        return (torch.relu(above) / unit).clamp(max=1.0)  # relu: equal energies have no gradient

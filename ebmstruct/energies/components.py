"""Independent components as an energy: as many filters as dimensions, or more (sparse overcomplete representations)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ebmstruct.energies.experts import Spread, vectors
from ebmstruct.energies.filters import FilterExpert, LogCoshExpert, StudentTExpert
from ebmstruct.energies.model import EnergyModel
from ebmstruct.energies.scale_mixtures import ScalePosterior
from ebmstruct.errors import GraphError
from ebmstruct.graph import Assignment, BlockFactor, FactorGraph, Slope

SHAPES = {"log_cosh": LogCoshExpert, "student_t": StudentTExpert}
ANSWER, PRECISION = "answer", "precision"
START_STEPS = 300
"""Of L-BFGS from each of several starts."""
"""The names of the latents: what each filter says, and the precision of the Gaussian that each answer was drawn from."""


class IndependentComponents(EnergyModel):
    """E(x) = sum_j a_j f(n_j w_j^T (x - m)) (+ |x|^2 / (2 spread^2)), over vectors x.

    With as many filters w_j as dimensions it is independent components analysis: the w_j are the rows of the unmixing
    matrix, and E is up to a constant the negative logarithm of |det W| times the product of the sources' densities (Bell
    and Sejnowski 1995; Cardoso 1997). With more it is an overcomplete product of experts, in which every filter is a
    constraint that is mostly met and sometimes badly broken (Teh, Welling, Osindero and Hinton 2003), best learned by
    ``score_matching`` in its exact form (Hyvärinen 2005), whose slopes and curvature are in closed form here.

    dim: d.  count: of the filters, d unless given.  shape: f, ``log_cosh`` or ``student_t`` (heavier tails).  unit_rows,
    tied, power, sharpness, learn_sharpness: of ``FilterExpert``; tied experts have far fewer numbers to learn from the
    tails.  spread: adds a Gaussian, which makes the density one whatever the filters are; None adds nothing.
    normalised: the graph's constant makes the log partition 0, so that the energy is the negative log likelihood and the
    loss ``energy`` is maximum likelihood; square models without a spread only, at the cost of one determinant.
    starts: random directions that are tried before training (``initialise``); 0 begins with the first.
    An input may be anything: only how many there are counts.
    Inference: minimisers and samplers of smooth energies. Latents given x: ``latents``.
    """

    def __init__(
        self,
        dim: int,
        count: int | None = None,
        *,
        shape: Literal["log_cosh", "student_t"] = "log_cosh",
        unit_rows: bool = True,
        tied: bool = False,
        power: float = 1.0,
        sharpness: float = 1.0,
        learn_sharpness: bool = True,
        spread: float | None = None,
        normalised: bool = False,
        starts: int = 0,
        block: str = "x",
    ) -> None:
        super().__init__()
        if shape not in SHAPES:
            raise ValueError(f"IndependentComponents: shape {shape!r}; legal are {', '.join(SHAPES)}")
        count = dim if count is None else count
        if normalised and (count != dim or spread is not None):
            raise ValueError(
                f"IndependentComponents: the log partition is known of {dim} filters in {dim} dimensions without a spread; "
                f"found {count} filters and spread {spread}; leave normalised out and learn by score_matching"
            )
        self.expert: FilterExpert = SHAPES[shape](
            dim,
            count,
            unit_rows=unit_rows,
            tied=tied,
            power=power,
            sharpness=sharpness,
            learn_sharpness=learn_sharpness,
        )
        self.spread = None if spread is None else Spread(spread)
        self.dim, self.count, self.block, self.normalised = dim, count, block, normalised
        self.starts = starts
        self.function = _Answers(self.expert)

    def forward(self, inputs: Any) -> FactorGraph:
        block = vectors(self.block, self.dim, len(inputs), self.device)
        factors = [BlockFactor((self.block,), "components", self.function)]
        if self.spread is not None:
            factors.append(BlockFactor((self.block,), "spread", self.spread))
        constant = self.log_partition().expand(len(inputs)) if self.normalised else None
        return FactorGraph([block], factors, constant=constant)

    @property
    def initialises(self) -> bool:
        return self.starts > 0

    def initialise(self, graph: FactorGraph, target: Assignment, generator: Generator) -> None:
        """The best of several random starts by exact score matching on all the vectors given (Hyvärinen 2005).

        Each takes at most ``START_STEPS`` steps of L-BFGS from directions drawn anew. Score matching of overcomplete
        models has many local minima, whose objectives tell them apart.
        """
        x = target[self.block].detach().to(self.expert.weight)
        first = {k: v.clone() for k, v in self.state_dict().items()}
        best, least = first, math.inf
        for _ in range(self.starts):
            self.load_state_dict(first)
            self.expert.scatter(generator)
            value = self._descended(x)
            if value < least:
                best, least = {k: v.clone() for k, v in self.state_dict().items()}, value
        self.load_state_dict(best)

    def _descended(self, x: Tensor) -> float:
        """The objective of exact score matching where L-BFGS ends, and the parameters with it; infinite where broken."""
        learned = [p for p in self.parameters() if p.requires_grad]
        descent = torch.optim.LBFGS(
            learned, max_iter=START_STEPS, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-9
        )

        def objective() -> float:
            descent.zero_grad()
            slope, curvature = self.expert.slope_and_laplacian(x)
            if self.spread is not None:
                slope = slope + x * self.spread.spread**-2
            value = 0.5 * slope.square().sum(1).mean() - curvature.mean()
            value.backward()
            return float(value.detach())

        with torch.enable_grad():
            try:
                descent.step(objective)
                value = objective()
            except RuntimeError:  # torch's line search overflows where an expert becomes ever sharper
                value = math.inf
        descent.zero_grad()
        return value if math.isfinite(value) else math.inf

    def log_partition(self) -> Tensor:
        """The log partition of the experts of a square model: the integrals of the sources, less log |det| of the filters.

        Errors: GraphError where there are more filters than dimensions, or fewer.
        """
        if self.count != self.dim:
            raise GraphError(
                f"the log partition of {self.count} filters in {self.dim} dimensions has no closed form; ask "
                "es.log_partition with the solver annealed_importance_sampling"
            )
        filters = self.expert.filters()
        return self.expert.log_integral(self.expert.powers()).sum() - torch.linalg.slogdet(filters).logabsdet

    def latents(
        self, graph: FactorGraph, target: Assignment, *, num_samples: int = 0, generator: Generator
    ) -> Mapping[str, ScalePosterior]:
        """The same for the vectors of a target, as ``ebmstruct latents`` asks for it."""
        x = target[self.block].reshape(graph.num_instances, -1)
        return self.latents_of(x.to(self.device), num_samples=num_samples, generator=generator)

    def latents_of(self, x: Tensor, *, num_samples: int = 0, generator: Generator) -> Mapping[str, ScalePosterior]:
        """What is latent in vectors x (B, d), block by block, each (B, count); draws (num_samples, B, count).

        ``answer``: w_j^T (x - m), of filters of length 1, which x decides: its spread is 0. ``precision``: of the Gaussian
        that the answer n_j w_j^T (x - m) comes from, small where a filter's constraint is broken; independent given x, of
        a distribution in closed form (``ScalePosterior``).
        """
        with torch.no_grad():
            scaled = self.expert.answers(x)
            answer = scaled / self.expert.filters().norm(dim=1)
            known = ScalePosterior(answer, answer, torch.zeros_like(answer), answer.expand(num_samples, *answer.shape))
            return {ANSWER: known, PRECISION: self.expert.scales(scaled, num_samples, generator)}

    @torch.no_grad()
    def basis(self) -> Tensor:
        """(count, d): the pseudo-inverse of the filters, column by column: how x changes with each answer alone."""
        filters = self.expert.filters()
        return torch.linalg.pinv(filters / filters.norm(dim=1, keepdim=True)).T

    @torch.no_grad()
    def order(self) -> Tensor:
        """(count,) long: the filters from the strongest expert to the weakest, by a_j n_j."""
        strength = self.expert.powers().log() + self.expert.filters().norm(dim=1).clamp_min(math.exp(-50)).log()
        return strength.argsort(descending=True, stable=True)


@dataclass(frozen=True, eq=False)
class _Answers:
    """The experts as the function of a block of one site an instance."""

    expert: FilterExpert

    def __call__(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of x (B, d)."""
        out: Tensor = self.expert(x)
        return out

    def slope_and_laplacian(self, x: Tensor, offsets: tuple[Tensor, ...]) -> Slope:
        """Those of the experts."""
        return self.expert.slope_and_laplacian(x)
